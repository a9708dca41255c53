"""How fast compiled programs run on a GPU: vtc beside PyTorch, eager and compiled in three ways.

    python -m benchmarks.gpu [--json FILE] [--peers vtc,eager] [WORKLOAD ...]

A row is measured in one process. Its peers take turns; a turn is some hundred milliseconds of calls
between two synchronisations, and the figure is the median over turns of milliseconds per call,
with quartiles. The peers of a training step:

``eager``            forward, backward, ``optimizer.step()``, gradients cleared
``compile``          the loss and the optimizer's step compiled, the backward between them
``reduce-overhead``  the same with CUDA graphs by ``torch.compile``
``graph``            compiled, and the whole step captured in one CUDA graph by hand

An error is the largest deviation of the first losses (or of the result) from the same in float64,
relative to the largest value. The first call and the peak memory of each peer are noted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_gpu import Peer, Workload
from benchmarks.workloads import array
from benchmarks.workloads_gpu import WORKLOADS

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("vtc", "eager", "compile", "reduce-overhead", "graph")
TURNS, SECONDS = 9, 0.15
LOSSES = 3
"""Steps of training whose losses are compared."""

Run = Callable[[], Any]


def step_of(work: Workload, model: Any, optimizer: Any) -> Run:
    """One call, eager."""

    def forward() -> Any:
        return work.loss(model, *work.data)

    def step() -> Any:
        loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return forward if optimizer is None else step


def vtc_run(work: Workload) -> Run:
    """Forward, backward and update as one compiled function."""
    vtc: Any = import_module("vtc")
    model, optimizer = work.make()
    loss_of, given = work.loss, work.data  # not ``work``: arguments met by closure are pinned

    @vtc.compile
    def run(*data: Any) -> Any:
        loss = loss_of(model, *data)
        if optimizer is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return lambda: run(*given)


def torch_run(work: Workload, how: str) -> Run:
    """PyTorch's step, ``how`` it is compiled."""
    torch: Any = import_module("torch")
    model, optimizer = work.make()
    if how == "eager":
        return step_of(work, model, optimizer)
    mode = "reduce-overhead" if how == "reduce-overhead" else "default"
    loss_of = torch.compile(lambda *data: work.loss(model, *data), mode=mode)
    if optimizer is None:
        forward = lambda: loss_of(*work.data)  # noqa: E731
        return captured(torch, forward) if how == "graph" else forward
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    update = torch.compile(optimizer.step, mode=mode)

    def step() -> Any:
        if how == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        loss = loss_of(*work.data)
        loss.backward()
        update()
        optimizer.zero_grad(set_to_none=how != "graph")
        return loss

    return captured(torch, step) if how == "graph" else step


def captured(torch: Any, step: Run) -> Run:
    """``step`` as one CUDA graph; made at the first call."""
    found: list[Any] = []

    def run() -> Any:
        if not found:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = step()
            found.extend((graph, loss))
        found[0].replay()
        return found[1]

    return run


def library(peer: str) -> Any:
    found = import_module("vtc" if peer == "vtc" else "torch")
    if peer == "vtc":
        import_module("vtc.nn"), import_module("vtc.optim")
    return found


def make(peer: str, name: str) -> Run:
    """The call of ``peer``, not called yet."""
    work = WORKLOADS[name](Peer(library(peer)))
    return vtc_run(work) if peer == "vtc" else torch_run(work, peer)


def exact(name: str) -> list[np.ndarray[Any, Any]]:
    """The first results in float64, by PyTorch on the GPU."""
    torch: Any = import_module("torch")
    work = WORKLOADS[name](Peer(torch, floats="float64"))
    run = step_of(work, *work.make())
    return [array(run().cpu()) for _ in range(LOSSES)]


def error(got: list[Any], wanted: list[Any]) -> float:
    pairs = list(zip(got, wanted, strict=True))
    scale = max(float(np.abs(w).max()) for _, w in pairs)
    return max(float(np.abs(g - w).max()) for g, w in pairs) / scale


class Timed:
    """A peer that is being measured."""

    def __init__(self, peer: str, name: str, wanted: list[Any]) -> None:
        self.peer = peer
        self.synchronize = library(peer).cuda.synchronize
        memory = library(peer).cuda
        memory.reset_peak_memory_stats()
        before = memory.max_memory_allocated()
        start = time.perf_counter()
        self.run = make(peer, name)
        results = [array(self.run().detach().cpu())]  # at once: graphs overwrite their outputs
        self.facts: dict[str, Any] = {"first_s": time.perf_counter() - start}
        if peer in ("graph",):  # its first call has made three steps before
            self.facts["error"] = None
        else:
            results += [array(self.run().detach().cpu()) for _ in range(LOSSES - 1)]
            self.facts["error"] = error(results, wanted)
        self.synchronize()
        self.facts["peak_mib"] = (memory.max_memory_allocated() - before) / 2**20
        self.turns: list[float] = []
        self.host: list[float] = []
        self.calls = self.enough()

    def enough(self) -> int:
        """Calls that take about ``SECONDS``."""
        for _ in range(3):
            self.run()
        self.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            self.run()
        self.synchronize()
        return max(3, min(5000, int(SECONDS * 5 / (time.perf_counter() - start))))

    def turn(self) -> None:
        self.run()
        self.synchronize()
        start = time.perf_counter()
        for _ in range(self.calls):
            self.run()
        handed = time.perf_counter()
        self.synchronize()
        self.turns.append(1e3 * (time.perf_counter() - start) / self.calls)
        self.host.append(1e3 * (handed - start) / self.calls)

    def summary(self) -> dict[str, Any]:
        low, middle, high = statistics.quantiles(self.turns, n=4)
        host = statistics.median(self.host)
        more = {"ms": middle, "low": low, "high": high, "host_ms": host, "calls": self.calls}
        return {**self.facts, **more}


def measure(name: str, peers: list[str]) -> dict[str, dict[str, Any]]:
    """Of each peer: milliseconds and what else there is to know; or why it failed."""
    wanted = exact(name)
    found: dict[str, dict[str, Any]] = {}
    timed: list[Timed] = []
    for peer in peers:
        try:
            timed.append(Timed(peer, name, wanted))
        except Exception as failure:  # the others still count
            traceback.print_exc()
            found[peer] = {"failed": f"{type(failure).__name__}: {failure}".splitlines()[0]}
    for _ in range(TURNS):
        for t in timed:
            t.turn()
    found |= {t.peer: t.summary() for t in timed}
    return {p: found[p] for p in peers}


def lines(name: str, row: dict[str, dict[str, Any]]) -> str:
    """One line per peer."""
    found = []
    for peer, r in row.items():
        if "failed" in r:
            found.append(f"{name:14} {peer:16} {r['failed'][:90]}")
            continue
        spread = f"({r['low']:.4f} .. {r['high']:.4f})"
        wrong = "" if r["error"] is None else f"error {r['error']:.1e}"
        found.append(
            f"{name:14} {peer:16} {r['ms']:9.4f} ms {spread:22} host {r['host_ms']:.4f}, first "
            f"{r['first_s']:.1f} s, peak {r['peak_mib']:.0f} MiB {wrong}"
        )
    return "\n".join(found)


def one(name: str, peers: list[str]) -> dict[str, Any]:
    """A row, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--row", name, "--peers", ",".join(peers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stderr[-3000:], file=sys.stderr, flush=True)
    if done.returncode:
        return {p: {"failed": f"the process ended with {done.returncode}"} for p in peers}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas")
    parser.add_argument("--json", type=Path, help="default: results/gpu-<date>.json; - for none")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    peers = args.peers.split(",")
    if args.row:
        print(json.dumps(measure(args.row, peers)))
        return
    if unknown := [n for n in args.names if n not in WORKLOADS]:
        parser.error(f"expected workloads among {', '.join(WORKLOADS)}, got {', '.join(unknown)}")
    torch: Any = import_module("torch")
    found: dict[str, Any] = {
        "benchmark": "gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(0),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "workloads": {},
        "results": {},
    }
    path = args.json or ROOT / "benchmarks" / "results" / f"gpu-{found['date']}.json"
    for name in args.names or list(WORKLOADS):
        found["workloads"][name] = WORKLOADS[name].__doc__
        found["results"][name] = one(name, peers)
        print(lines(name, found["results"][name]), flush=True)
        if str(path) != "-":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
