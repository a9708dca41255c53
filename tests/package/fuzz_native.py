"""Damaged and hostile packages for the C runtime, under the address sanitizer.

    python tests/package/fuzz_native.py --count 5000 --seed 0

The mutations are those of ``fuzz_package.py``, and more changes of single bytes and of lengths, of
a package without loops and branches, of one with them, and of one with them for the GPU of
``native/stub_cuda.c``. Every change outside the weights must be refused, and a full check must find
those inside too.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import flow_models
import fuzz_package
import handmade
import native_cuda_flow_packages
import numpy as np
from native_build import SANITIZED, build

OK = 0


def harness(folder):
    """The program that opens mutations."""
    return build(folder / "fuzz_native", ["fuzz_native.c", "npy.c", "vtc_runtime.c"])


def simple(rng, base):
    """A change of a byte, or a length: what is asked, and whether it must be refused."""
    if rng.random() < 0.15:
        n = rng.randrange(len(base.data))
        return [(f"cut 0 1 {n}\n".encode(), True, f"cut at {n}")]
    at, mask = rng.randrange(len(base.data)), rng.randrange(1, 256)
    inside = base.start <= at < base.end
    asked = [(f"flip 0 1 {at} {mask}\n".encode(), not inside, f"flip {mask} at {at}")]
    return [*asked, (f"flip 1 0 {at} {mask}\n".encode(), True, f"flip {mask} at {at}, full check")]


def forged(rng, base):
    """A mutation that was hashed again. What may load is not run: it may say anything."""
    mutant = rng.choice(fuzz_package.MUTATORS)(rng, base)
    refused = mutant.verdict == "refused"
    asked = f"take 0 0 {len(mutant.data)}\n".encode() + mutant.data
    return [(asked, refused if refused else None, mutant.about)]


def run(program, asks, count, seed):
    """The failures, as text; ``asks`` is one of ``prepared``."""
    package, *_ = asks
    base = fuzz_package.Base.of(package)
    asked = []
    for k in range(count):
        rng = random.Random(f"{seed}.{k}")
        made = (simple if rng.random() < 0.7 else forged)(rng, base)
        asked += [
            (line, refused, f"seed {seed}, number {k}: {what}") for line, refused, what in made
        ]
    done = told(program, asks, b"".join(line for line, _, _ in asked))
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or len(lines) != len(asked):
        about = asked[min(len(lines), len(asked) - 1)][2]
        return [f"{about}: {done.stderr.decode(errors='replace')[:2000]}"]
    failures = []
    for line, (_, refused, about) in zip(lines, asked, strict=True):
        status = int(line.split()[0])
        if refused is not None and refused != (status != OK):
            failures.append(f"{about}: {line}")
    return failures


def told(program, asks, lines):
    """The harness with these lines; the driver is in the folder of the packages."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(asks[0].parent)}
    command = [str(program), *map(str, asks)]
    return subprocess.run(command, input=lines, capture_output=True, env=environment, check=False)


def prepared(folder):
    """Packages, each with an entry, an input and the target."""
    np.save(folder / "x.npy", np.ones((3, 64), "f4"))
    np.save(folder / "v.npy", np.ones((3, 5), "f4"))
    np.save(folder / "w.npy", np.ones(5, "f4"))
    native_cuda_flow_packages.make(folder)
    flags = (*SANITIZED, "-Wl,-soname,libcuda.so.1")
    build(folder / "libcuda.so.1", ["stub_cuda.c"], flags, shared=True)
    return [
        (handmade.mlp(folder / "mlp.vtc"), "forward", folder / "x.npy", "cpu"),
        (flow_models.export_flow(folder / "flow.vtc"), "walk", folder / "v.npy", "cpu"),
        (folder / "gpu_flow.vtc", "worked", folder / "w.npy", "cuda"),
    ]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=5000)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, failures = harness(folder), []
        for asks in prepared(folder):
            failures += run(program, asks, asked.count // 3, asked.seed)
    print("\n".join([*failures, f"{asked.count} mutations, {len(failures)} failures"]))
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main())
