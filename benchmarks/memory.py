"""What a GPT training step keeps in memory: as it is, with cheap values computed again, and with
``vtc.checkpoint`` around each block.

    python benchmarks/memory.py [--layers 12] [--width 256] [--batch 4] [--time 128] [--json FILE]

Of the planned program, nothing is run: bytes of the arena, of the outputs that are not the memory
of an input, and bytes moved, which are those of what each call reads and writes. The step is
forward, backward and AdamW as one graph.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from benchmarks.compile_time import Gpt
from vtc.frontend.trace import Request, trace
from vtc.frontend.tree import flatten
from vtc.ir.graph import Program
from vtc.ir.ops.control import Call
from vtc.ir.ops.view import Reshape
from vtc.passes import PIPELINE
from vtc.passes.cost import nbytes, tensors
from vtc.passes.pipeline import Context, Options, run

VOCABULARY, HEADS = 1000, 8
MIB = 1 << 20
REPEAT = 3
"""How often each is planned; times are those of the quickest."""


class Checkpointed(nn.Module):
    """A block of which backward keeps the input."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        return vtc.checkpoint(self.block, x)


def step_program(args: argparse.Namespace, *, checkpointed: bool) -> Program:
    """The captured program of a step."""
    model = Gpt(args.layers, args.width, HEADS, VOCABULARY)
    if checkpointed:
        model.blocks = nn.ModuleList([Checkpointed(b) for b in model.blocks])
    optimizer = vtc.optim.AdamW(model.parameters(), lr=1e-3)

    def step(ids: vtc.Tensor) -> vtc.Tensor:
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    ids = np.random.default_rng(0).integers(0, VOCABULARY, (args.batch, args.time + 1))
    leaves, form = flatten(((vtc.from_numpy(ids),), {}))
    return trace(Request("step", step, leaves, ["ids"], form, {0: leaves[0].type})).program


def measure(program: Program, recompute: int | None) -> dict[str, float]:
    """Of the planned program: memory and traffic in MiB, calls, and how long planning took."""
    seconds: dict[str, float] = {}
    context = Context(options=Options(recompute=recompute))
    planned = run(program, PIPELINE, context, observe=lambda s: seconds.update({s.name: s.seconds}))
    arena = moved = calls = 0
    for n in planned.entry.nodes:
        if not isinstance(n.op, Call):
            continue
        made = tensors(n.type)
        placed = zip(made, n.op.at, strict=True)
        arena = max([arena, *(at + t.nbytes for t, at in placed if at >= 0)])
        if all(isinstance(m.op, Reshape) for m in planned.by_name[n.op.graph].nodes):
            continue  # the same bytes under another shape
        calls += 1
        moved += sum(t.nbytes for t in made) + sum(nbytes(i.type, {}) for i in n.inputs)
    over = {f.overwritten for f in planned.facts}
    fresh = [o for k, o in enumerate(planned.entry.outputs) if k not in over]
    return {
        "arena_mib": round(arena / MIB, 2),
        "outputs_mib": round(sum(nbytes(o.type, {}) for o in fresh) / MIB, 4),
        "moved_mib": round(moved / MIB, 1),
        "calls": calls,
        "recompute_s": round(seconds["recompute"], 4),
        "passes_s": round(sum(seconds.values()), 3),
    }


def compare(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The three ways."""
    plain, checkpointed = (step_program(args, checkpointed=c) for c in (False, True))
    ways = {
        "kept": (plain, None),
        "recomputed": (plain, Options().recompute),
        "checkpointed": (checkpointed, Options().recompute),
    }
    found = {name: [measure(*way) for _ in range(REPEAT)] for name, way in ways.items()}
    return {name: min(rows, key=lambda r: r["passes_s"]) for name, rows in found.items()}


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"layers": 12, "width": 256, "batch": 4, "time": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    start = time.perf_counter()
    rows = compare(args)
    for name, row in rows.items():
        print(f"{name:14}", "  ".join(f"{k} {v}" for k, v in row.items()))
    if args.json:
        result: dict[str, Any] = {
            "benchmark": "memory",
            "date": datetime.now(UTC).date().isoformat(),
            "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": {"python": platform.python_version(), "vtc": vtc.__version__},
            "step": {k: getattr(args, k) for k in ("layers", "width", "batch", "time")},
            "seconds": round(time.perf_counter() - start, 1),
            "results": rows,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
