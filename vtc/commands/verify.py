"""``vtc verify FILE``: all hashes, all plans, and the example against what it gave at export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from vtc.commands.arrays import call, example, example_leaves
from vtc.errors import PackageError
from vtc.ir.types import Array, dtype_of
from vtc.runtime.archive import Archive
from vtc.runtime.held import weights_inside
from vtc.runtime.package import Package, load

TOLERANCE = {"f64": 1e-9, "f32": 2e-4, "f16": 1e-2, "bf16": 5e-2, "f8e4m3": 0.2, "f8e5m2": 0.4}
"""Of the largest element: other machines add in another order."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a package")
    parser.add_argument("--device", help="cpu or cuda; by default what the package has code for")
    parser.add_argument("--weights", help="a safetensors file or index, for a package without")


def run(given: argparse.Namespace) -> int:
    """Print what was checked; 1 if an example gave something else."""
    with Archive(given.file, "full") as archive:
        manifest = archive.manifest
        total = sum(m.bytes for m in manifest.members.values())
        print(f"{len(manifest.members)} members, {total:,} bytes: hashes are right")
        missing = given.weights is None and set(manifest.weights) - set(weights_inside(archive))
        wrong = 0
        try:
            package = load(given.file, device=given.device, check="full", weights=given.weights)
        except PackageError:
            if not missing:
                raise
            print("weights are given at load: pass --weights to compare the examples")
            return 0
        print(f"plans of {', '.join(manifest.targets)} are sound")
        for name in manifest.entries:
            wrong += _compare(archive, package, name)
    return 1 if wrong else 0


def _compare(archive: Archive, package: Package, name: str) -> int:
    tensors = example(archive, name)
    if not tensors:
        print(f"{name}: no example")
        return 0
    package.reset()
    results = call(package, name, example_leaves(package.signature(name), tensors))
    compared, wrong = 0, 0
    for k, got in enumerate(results):
        if (want := tensors.get(f"out{k}")) is None:
            continue
        compared += 1
        if why := difference(got, want):
            wrong += 1
            print(f"{name}: result {k} on {package.target}: {why}")
    if not wrong:
        print(f"{name}: {compared} results on {package.target} are those of the export")
    return wrong


def difference(got: Any, want: Array) -> str:
    """How ``got`` differs from ``want``; empty if it does not."""
    found = np.asarray(got)
    if (found.dtype, found.shape) != (want.dtype, want.shape):
        return f"expected {want.dtype}{list(want.shape)}, got {found.dtype}{list(found.shape)}"
    dtype = dtype_of(want.dtype)
    if dtype.kind not in ("float", "complex"):
        count = int((found != want).sum())
        return f"expected equal elements, got {count} others" if count else ""
    a, b = (
        x.astype(np.complex128 if dtype.kind == "complex" else np.float64) for x in (found, want)
    )
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "expected infinities and NaNs in the same places, got others"
    at = np.isfinite(b)
    most = float(np.abs(b[at]).max(initial=0.0))
    error = float(np.abs(a[at] - b[at]).max(initial=0.0))
    bound = TOLERANCE.get(dtype.name, 2e-4) * max(most, 1e-30)
    return f"expected a difference of at most {bound:.2g}, got {error:.2g}" if error > bound else ""
