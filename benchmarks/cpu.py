"""How fast compiled programs run on this CPU: vtc beside PyTorch, torch.compile and JAX.

    python -m benchmarks.cpu [--threads 2] [--json FILE] [--readme] [WORKLOAD ...]
    python -m benchmarks.cpu --quick --peers vtc softmax      # does it run at all

Each implementation runs in a process of its own, since thread pools in one process slow each other
down. Processes take turns: one works while the others sleep. The figure of a peer is the median
over its processes of the median over all calls of a process; the spread is the quartiles over all
calls. First calls are in new processes, with empty caches (cold) and with what the cold one left
(warm). An error is the largest deviation from the same computation in float64, relative to its
largest value; of a training step, of its first losses. What is not installed is skipped and said
so. The file is written after each row, and a run of some workloads keeps the others of that day.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import table
from benchmarks.worker import PEERS, environment, missing
from benchmarks.workloads import FIRST_CALLS, WORKLOADS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Effort:
    """How much is measured. ``pause`` lets the pool of the process before fall asleep."""

    processes: int = 3
    turns: int = 5
    seconds: float = 0.3
    pause: float = 0.1
    first_calls: int = 3


QUICK = Effort(processes=1, turns=1, seconds=0.02, pause=0.0, first_calls=1)


class Worker:
    """A process with one implementation of one workload."""

    def __init__(self, peer: str, workload: str, threads: int, caches: str) -> None:
        command = [sys.executable, "-m", "benchmarks.worker"]
        command += ["--peer", peer, "--workload", workload, "--threads", str(threads)]
        self.peer = peer
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115  a full pipe would stop it
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(threads, caches),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
        )
        self.begun = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        self.process.wait()
        self.words.seek(0)
        said = self.words.read().strip().splitlines() or ["nothing was said"]
        raise RuntimeError(f"{self.peer} ended: {said[-1]}")

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()

    def results(self, folder: Path) -> list[np.ndarray[Any, Any]]:
        path = folder / f"{self.peer}.npz"
        self.ask(f"results {path}")
        with np.load(path) as arrays:
            return [arrays[name] for name in sorted(arrays.files)]

    def end(self) -> None:
        self.process.communicate("end\n")


def measure(
    workload: str, peers: Sequence[str], threads: int, effort: Effort, caches: Path
) -> dict[str, dict[str, Any]]:
    """Of each peer: milliseconds (median, quartiles, each process), error; or why it failed."""
    exact = exact_results(workload, threads, caches)
    times: dict[str, list[list[float]]] = {p: [] for p in peers}
    found: dict[str, dict[str, Any]] = {p: {} for p in peers}
    for k in range(effort.processes):
        workers: list[Worker] = []
        for p in peers:
            if "failed" in found[p]:
                continue
            try:
                workers.append(Worker(p, workload, threads, str(caches)))
                if k == 0:
                    found[p]["version"] = workers[-1].begun["version"]
                    found[p]["error"] = error(workers[-1].results(caches), exact)
            except RuntimeError as failure:
                found[p] = {"failed": str(failure)}
        workers = [w for w in workers if "failed" not in found[w.peer]]
        for w, ms in in_turns(workers, effort).items():
            times[w.peer].append(ms)
        for w in workers:
            w.end()
    for p, runs in times.items():
        if runs:
            found[p] |= summary(runs)
    return found


def in_turns(workers: Sequence[Worker], effort: Effort) -> dict[Worker, list[float]]:
    """Milliseconds of every call; one worker works at a time."""
    found: dict[Worker, list[float]] = {w: [] for w in workers}
    for _ in range(effort.turns):
        for w in workers:
            time.sleep(effort.pause)
            found[w] += w.ask(f"turn {effort.seconds}")["ms"]
    return found


def summary(runs: list[list[float]]) -> dict[str, Any]:
    calls = sorted(ms for run in runs for ms in run)
    low, _, high = statistics.quantiles(calls, n=4) if len(calls) > 1 else calls * 3
    medians = [statistics.median(run) for run in runs]
    return {
        "ms": statistics.median(medians),
        "low": low,
        "high": high,
        "least": calls[0],
        "processes": medians,
        "calls": len(calls),
    }


def exact_results(workload: str, threads: int, caches: Path) -> list[np.ndarray[Any, Any]]:
    """In float64: by PyTorch, or by vtc's own evaluator where there is no PyTorch."""
    worker = Worker("vtc64" if missing("torch") else "torch64", workload, threads, str(caches))
    found = worker.results(caches)
    worker.end()
    return found


def error(got: Iterable[Any], exact: Iterable[Any]) -> float:
    pairs = zip(got, exact, strict=True)
    return max(float(np.abs(g - e).max() / np.abs(e).max()) for g, e in pairs)


def first_calls(
    workload: str, peers: Sequence[str], threads: int, effort: Effort
) -> dict[str, dict[str, Any]]:
    """Seconds from the first call to its result, in a new process: cold, then warm."""
    seconds: dict[str, dict[str, list[float]]] = {p: {"cold": [], "warm": []} for p in peers}
    for _ in range(effort.first_calls):
        for p, kinds in seconds.items():
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:
                for found in kinds.values():
                    worker = Worker(p, workload, threads, caches)
                    found.append(worker.begun["first"])
                    worker.end()
    return {
        p: {kind: {"s": statistics.median(s), "each": s} for kind, s in kinds.items()}
        for p, kinds in seconds.items()
    }


Save = Callable[[dict[str, Any]], None]


def report(
    args: argparse.Namespace,
    effort: Effort,
    peers: Sequence[str],
    before: dict[str, Any],
    save: Save,
) -> dict[str, Any]:
    """Everything, as it goes into the JSON file; ``save`` is called whenever there is more.

    What an earlier run measured ``before``, under the same conditions, is kept where this one
    measures nothing new.
    """
    names = args.names or list(WORKLOADS)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    found: dict[str, Any] = {
        "benchmark": "cpu",
        "date": datetime.now(UTC).date().isoformat(),
        "device": device(),
        "threads": args.threads,
        "load": os.getloadavg()[0],
        "versions": versions,
        "skipped": {p: why for p in PEERS if (why := missing(p))},
        "workloads": {},
        "results": {},
        "first_calls": {},
    }
    same = all(before.get(key) == found[key] for key in ("date", "device", "threads", "skipped"))
    for key in ("workloads", "results", "first_calls") if same else ():
        found[key].update(before[key])
    rows, firsts = found["results"], found["first_calls"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:
        for name in names:
            rows[name] = measure(name, peers, args.threads, effort, Path(caches))
            found["workloads"][name] = WORKLOADS[name].__doc__
            versions.update({p: r["version"] for p, r in rows[name].items() if "version" in r})
            print(table.lines(name, rows[name]), flush=True)
            save(found)
    for name in names if not args.no_first_calls else ():
        if name in FIRST_CALLS:
            compiled = [p for p in peers if p != "torch" and "ms" in rows[name][p]]
            firsts[name] = first_calls(name, compiled, args.threads, effort)
            print(table.first_lines(name, firsts[name]), flush=True)
            save(found)
    return found


def device() -> str:
    """The processor, as the system names it."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{os.cpu_count()} cores, {model}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas")
    parser.add_argument("--quick", action="store_true", help="one short turn: no figures to quote")
    parser.add_argument("--no-first-calls", action="store_true")
    parser.add_argument("--json", type=Path, help="default: results/cpu-<date>.json; - for none")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    args = parser.parse_args()
    if unknown := [n for n in args.names if n not in WORKLOADS]:
        parser.error(f"expected workloads among {', '.join(WORKLOADS)}, got {', '.join(unknown)}")
    peers = []
    for p in args.peers.split(","):
        if why := missing(p):
            print(f"{p}: skipped, {why}")
        else:
            peers.append(p)
    today = datetime.now(UTC).date().isoformat()
    path = args.json or ROOT / "benchmarks" / "results" / f"cpu-{today}.json"
    kept = str(path) != "-"

    def save(found: dict[str, Any]) -> None:
        if kept:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=2) + "\n")

    before = json.loads(path.read_text()) if kept and path.exists() and not args.quick else {}
    result = report(args, QUICK if args.quick else Effort(), peers, before, save)
    if args.readme:
        table.write(ROOT / "README.md", result)


if __name__ == "__main__":
    main()
