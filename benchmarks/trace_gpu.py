"""Where the time of a step goes on a GPU: kernels by time, and how long it idles within a step.

    python -m benchmarks.trace_gpu WORKLOAD [--peer vtc] [--json FILE] [--top 40]

The workloads and peers are those of ``gpu.py``; the trace is CUPTI's, through PyTorch's profiler.
A step lasts from the start of its first kernel to the start of the next step's, so the time between
two steps counts. Kernels may overlap: ``busy`` is the time in which at least one runs.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu import PEERS, make
from benchmarks.workloads_gpu import WORKLOADS

STEPS = 5


def traced(run: Any) -> list[tuple[str, float, float]]:
    """Name, start and end in us of everything that ran on the GPU during ``STEPS`` calls."""
    torch: Any = import_module("torch")
    profiler: Any = import_module("torch.profiler")
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(STEPS):
            run()
        torch.cuda.synchronize()
    events = [e for e in found.events() if e.device_type.name == "CUDA"]
    return sorted(((e.name, e.time_range.start, e.time_range.end) for e in events), key=starts)


def starts(event: tuple[str, float, float]) -> float:
    return event[1]


def busy(events: list[tuple[str, float, float]]) -> float:
    """Microseconds in which at least one of ``events``, ordered by their starts, ran."""
    total, until = 0.0, float("-inf")
    for _, start, end in events:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def summary(events: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Per step: microseconds in all, busy and idle, launches, and kernels by time."""
    each = len(events) // STEPS
    if len(events) != each * STEPS:
        raise SystemExit(f"expected the same launches in each of {STEPS} steps, got {len(events)}")
    whole = events[: each * (STEPS - 1)]  # the last step has no next one
    span = events[each * (STEPS - 1)][1] - events[0][1]
    kernels: dict[str, list[float]] = defaultdict(list)
    for name, start, end in whole:
        kernels[name].append(end - start)
    n = STEPS - 1
    table = {k: {"us": sum(v) / n, "launches": len(v) / n} for k, v in kernels.items()}
    return {
        "us": span / n,
        "busy_us": busy(whole) / n,
        "idle_us": (span - busy(whole)) / n,
        "launches": each,
        "kernels": dict(sorted(table.items(), key=lambda kv: -kv[1]["us"])),
    }


def main() -> None:
    """Trace, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--peer", default="vtc", choices=PEERS)
    parser.add_argument("--json", type=Path, help="where the result is written; default: nowhere")
    parser.add_argument("--top", type=int, default=40, help="how many kernels are printed")
    args = parser.parse_args()
    found = summary(traced(make(args.peer, args.workload)))
    print(
        f"{args.workload} {args.peer}: {found['us']:.1f} us a step, busy {found['busy_us']:.1f}, "
        f"idle {found['idle_us']:.1f}, {found['launches']} launches"
    )
    for name, k in list(found["kernels"].items())[: args.top]:
        print(f"{k['us']:9.1f} us {k['launches']:6.1f} x  {name[:110]}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
