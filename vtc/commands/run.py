"""``vtc run FILE --input x.npy --output y.npy``: an entry of a package, once."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vtc.commands.arrays import call, chosen, given_leaves, save_npy
from vtc.errors import ArgumentError
from vtc.runtime.package import load


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file, an entry, inputs, outputs."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a package")
    parser.add_argument("--entry", help="what to run, where there is a choice")
    parser.add_argument(
        "--input", "-i", action="append", default=[], metavar="X",
        help="an .npy file or a number, in order, or NAME=X; once for each",
    )  # fmt: skip
    parser.add_argument(
        "--output", "-o", action="append", default=[], type=Path, metavar="FILE",
        help="an .npy file for each array and number; without, results are printed",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu or cuda; by default what the package has code for")
    parser.add_argument("--weights", help="a safetensors file or index, for a package without")


def run(given: argparse.Namespace) -> int:
    """Run it; print or write the results."""
    package = load(given.file, device=given.device, weights=given.weights)
    name = chosen(package, given.entry)
    leaves = given_leaves(package.signature(name), given.input, name)
    results = call(package, name, leaves)
    if not given.output:
        for k, result in enumerate(results):
            what = f"{result.dtype}{list(result.shape)}\n" if hasattr(result, "dtype") else ""
            print(f"{name}.{k}: {what}{result}")
        return 0
    kept = [r for r in results if r is not None and not isinstance(r, str)]
    if len(given.output) != len(kept):
        raise ArgumentError(f"run: expected {len(kept)} outputs, got {len(given.output)}")
    for path, result in zip(given.output, kept, strict=True):
        save_npy(path, np.asarray(result))
    return 0
