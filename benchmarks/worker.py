"""One implementation of one workload in a process of its own, told over stdin when to work.

    python -m benchmarks.worker --peer vtc --workload softmax --threads 2

It answers with a line of JSON: first ``{"first": seconds of the first call}``, then to ``turn 0.2``
the milliseconds of each call during 0.2 s, to ``results PATH`` nothing but a file of arrays, to
``end`` nothing. Between lines it sleeps: thread pools of one library slow another down.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS, Peer, Run, Workload

PEERS = ("vtc", "torch", "torch.compile", "jax")
BATCHED = 5e-5
"""Calls shorter than this many seconds are timed a hundred at a time."""


def missing(peer: str) -> str:
    """Why ``peer`` cannot run here; empty if it can."""
    package = peer.split(".")[0].removesuffix("64")
    if find_spec(package) is None:
        return f"{package} is not installed"
    return ""


def environment(threads: int, caches: str) -> dict[str, str]:
    """What the process of a worker needs: as many threads, and caches of its own in ``caches``."""
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "VTC_NUM_THREADS": count,
        "VTC_CACHE_DIR": f"{caches}/vtc",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
        "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }


def prepare(peer: str, workload: str, threads: int) -> Workload:
    """The workload, not called yet."""
    pin(threads)
    if peer == "jax":
        found: Workload = import_module("benchmarks.workloads_jax").WORKLOADS[workload]()
        return found
    return WORKLOADS[workload](like_torch(peer, threads))


def pin(threads: int) -> None:
    """To as many cores as there are threads: JAX takes one thread per core it may use."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


def like_torch(peer: str, threads: int) -> Peer:
    """A peer whose names are PyTorch's."""
    library: Any = import_module(peer.split(".")[0].removesuffix("64"))
    library.set_num_threads(threads)
    if peer.startswith("vtc"):
        vtc_compile = (lambda fn: fn) if peer == "vtc64" else library.compile
        import_module("vtc.nn"), import_module("vtc.optim")
        return Peer(peer, library, vtc_compile, floats="float64" if peer == "vtc64" else "float32")
    if peer == "torch.compile":
        warnings.filterwarnings("ignore")
        return Peer(peer, library, library.compile, whole_step=False, fused=True)
    floats = "float64" if peer == "torch64" else "float32"
    return Peer(peer, library, lambda fn: fn, floats=floats, fused=peer == "torch")


def turn(run: Run, seconds: float) -> list[float]:
    """Milliseconds per call, after one that is not counted."""
    run()
    start = time.perf_counter()
    run()
    many = 100 if time.perf_counter() - start < BATCHED else 1
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(many):
            run()
        found.append(1e3 * (time.perf_counter() - start) / many)
    return found


def version(peer: str) -> str:
    found: str = import_module(peer.split(".")[0].removesuffix("64")).__version__
    return found


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Answer until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    work = prepare(args.peer, args.workload, args.threads)
    start = time.perf_counter()
    work.run()
    say({"first": time.perf_counter() - start, "version": version(args.peer)})
    for line in sys.stdin:
        match line.split(maxsplit=1):
            case ["turn", seconds]:
                say({"ms": turn(work.run, float(seconds))})
            case ["results", path]:
                np.savez(path.strip(), *work.results())
                say({})
            case _:
                return


if __name__ == "__main__":
    main()
