"""``vtc bench FILE``: how long a package takes to load, to its first result, and for a call."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from vtc.commands.arrays import call, example, example_leaves, made_leaves
from vtc.runtime.archive import Archive
from vtc.runtime.package import Package, load


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file, and for how long."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a package")
    parser.add_argument("--entry", help="all, if not given")
    parser.add_argument("--device", help="cpu or cuda; by default what the package has code for")
    parser.add_argument("--weights", help="a safetensors file or index, for a package without")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each entry; default 1")


def run(given: argparse.Namespace) -> int:
    """Print the times."""
    start = time.perf_counter()
    package = load(given.file, device=given.device, weights=given.weights)
    print(f"load: {1e3 * (time.perf_counter() - start):.1f} ms, {package.target}")
    with Archive(given.file) as archive:
        for name in package.entries if given.entry is None else (given.entry,):
            _bench(archive, package, name, given.seconds)
    if sys.platform == "linux":
        print(f"resident memory: {_resident() / 2**20:.0f} MiB")
    return 0


def _bench(archive: Archive, package: Package, name: str, seconds: float) -> None:
    entry, tensors = package.signature(name), example(archive, name)
    leaves = example_leaves(entry, tensors) if tensors else made_leaves(entry)
    start = time.perf_counter()
    call(package, name, leaves)
    print(f"{name}: first call {1e3 * (time.perf_counter() - start):.2f} ms")
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call(package, name, leaves)  # results on a GPU are copied to the host
        times.append(time.perf_counter() - start)
    times.sort()
    middle, least = statistics.median(times), times[0]
    what = "its example" if tensors else "zeros of the smallest sizes"
    print(
        f"{name}: {1e3 * middle:.4g} ms (least {1e3 * least:.4g}) in {len(times)} calls on {what}"
    )


def _resident() -> int:
    """Bytes of memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
