"""What the training step of the GPT in ``cpu.py`` costs in kernels, bytes, memory and flops.

    python -m benchmarks.gpt_step [--json FILE]

* ``moved``: over all launches, the bytes of what a kernel reads and writes, each buffer once per
  launch; of a buffer that is only looked up or sliced, the part that is.
* ``floor``: what any plan must move that keeps what the backward needs: each weight and moment read
  once and written once, each other input read once, each other output written once, and each value
  that the min-cut of ``partition`` saves for the backward written once and read once.
* ``arena``: the bytes it takes, beside the sum of all values that calls compute into it, and of all
  values of the program before fusion.
* ``families``: of each kind of kernel the launches, bytes and flops (two per multiply-add of a
  product; one per element of any other op that is not an index function).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vtc
from benchmarks.worker import like_torch
from benchmarks.workloads import BATCH, LAYERS, TIME, VOCABULARY, gpt
from vtc.build import Built
from vtc.ir.graph import Graph, Node, Program, users
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.attention import Attention, AttentionGradient
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.index import Gather, Index, Scattering
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.view import IndexMap, Reshape
from vtc.ir.plan import Copy, Launch
from vtc.ir.types import TensorType, TupleType
from vtc.passes.cost import nbytes, value

PARTS = (IndexMap, Index, Gather)
"""Ops that may read only a part of what they are given first."""


def build() -> tuple[Built, int]:
    """The step, and the bytes that are saved from its forward to its backward."""
    peer = like_torch("vtc", vtc.get_num_threads())
    F = vtc.nn.functional
    ids, targets = (peer.integers(VOCABULARY, BATCH, TIME) for _ in range(2))

    def loss_of(model: Any) -> Any:
        def loss(ids: Any, targets: Any) -> Any:
            return F.cross_entropy(model(ids).reshape(-1, VOCABULARY), targets.reshape(-1))

        return loss

    model = gpt(peer)
    loss, optimizer = loss_of(model), vtc.optim.AdamW(model.parameters(), lr=1e-3)

    def step(ids: Any, targets: Any) -> Any:
        found = loss(ids, targets)
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found

    built = vtc.compile(step).lower(ids, targets).entry.forward
    return built, saved_bytes(vtc.compile(loss_of(gpt(peer))).lower(ids, targets).entry)


def saved_bytes(entry: Any) -> int:
    """Of the values that a forward computes for its backward; its params are there anyway."""
    assert entry.pair is not None
    forward = entry.pair.forward.entry
    params = {p.name for p in forward.params}
    outputs = {o.name: o for o in forward.outputs}
    return sum(nbytes(outputs[n].type, {}) for n in entry.pair.saved if n not in params)


def report(built: Built, saved: int) -> dict[str, Any]:
    """See the module."""
    plan, planned = built.plan, built.stages["planned"]
    assert plan is not None, built.fallback
    calls = list(launched(planned))
    families: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for _, graph in calls:
        into = families[family(graph)]
        into["launches"] += 1
        into["bytes"] += moved(graph)
        into["flops"] += sum(flops(n) for n in graph.nodes)
    total = {k: sum(f[k] for f in families.values()) for k in ("launches", "bytes", "flops")}
    copied = sum(value(s.nbytes, {}) for s in plan.steps if isinstance(s, Copy))
    least = floor(planned, saved)
    computed = sum(nbytes(n.type, {}) for n, _ in calls if in_arena(n))
    lowered = built.stages["lowered"].entry
    before = sum(nbytes(n.type, {}) for n in lowered.nodes if isinstance(n.type, TensorType))
    return {
        "kernels": len(plan.kernels),
        "launches": sum(isinstance(s, Launch) for s in plan.steps),
        "copies": sum(isinstance(s, Copy) for s in plan.steps),
        "moved_bytes": total["bytes"] + 2 * copied,
        "floor_bytes": least,
        "moved_over_floor": round((total["bytes"] + 2 * copied) / least["total"], 3),
        "arena_bytes": value(plan.arena, {}),
        "arena_values_bytes": computed,
        "values_before_fusion_bytes": before,
        "flops": total["flops"],
        "families": {
            name: {**f, "share_of_flops": round(f["flops"] / total["flops"], 4)}
            for name, f in sorted(families.items())
        },
    }


def launched(planned: Program) -> Iterator[tuple[Node, Graph]]:
    """Calls that are steps of the plan, with their graphs: not those that only rename bytes."""
    places = places_of(planned)
    for node in planned.entry.nodes:
        if not isinstance(node.op, Call):
            continue
        graph = planned.by_name[node.op.graph]
        renames = all(isinstance(n.op, Reshape) for n in graph.nodes)
        if not (renames and [places[node.inputs[0]]] == list(node.op.at)):
            yield node, graph


def places_of(planned: Program) -> dict[Node, Any]:
    """Where each tensor lies, as ``Call.at`` says it."""
    entry = planned.entry
    places: dict[Node, Any] = {}
    for p, (param, fact) in enumerate(zip(entry.params, planned.facts, strict=True)):
        over = fact.overwritten
        places[param] = -1 - len(entry.outputs) - p if over is None else -1 - over
    for node in entry.nodes:
        if isinstance(node.op, Call) and not isinstance(node.type, TupleType):
            places[node] = node.op.at[0]
        elif isinstance(node.op, Item):
            call = node.inputs[0].op
            assert isinstance(call, Call)
            places[node] = call.at[node.op.index]
    return places


def in_arena(node: Node) -> bool:
    assert isinstance(node.op, Call)
    return all(not isinstance(at, int) or at >= 0 for at in node.op.at)


def moved(graph: Graph) -> int:
    """Bytes that a kernel of ``graph`` reads and writes."""
    readers = users(graph)
    read = sum(read_of(p, readers[p]) for p in graph.params)
    return read + sum(nbytes(o.type, {}) for o in dict.fromkeys(graph.outputs))


def read_of(param: Node, readers: list[Node]) -> int:
    """Bytes of ``param`` that are read: all of it, or the parts that readers take."""
    whole = nbytes(param.type, {})
    parts = 0
    for r in readers:
        if not (isinstance(r.op, PARTS) and r.inputs[0] is param and param not in r.inputs[1:]):
            return whole
        parts += value(r.tensor.numel, {}) * param.tensor.dtype.itemsize
    return min(whole, parts)


def floor(planned: Program, saved: int) -> dict[str, int]:
    """See the module."""
    entry = planned.entry
    over = {f.overwritten for f in planned.facts if f.overwritten is not None}
    pairs = list(zip(entry.params, planned.facts, strict=True))
    found = {
        "state_read_and_written": 2
        * sum(nbytes(p.type, {}) for p, f in pairs if f.overwritten is not None),
        "inputs_read": sum(nbytes(p.type, {}) for p, f in pairs if f.overwritten is None),
        "outputs_written": sum(
            nbytes(o.type, {}) for k, o in enumerate(entry.outputs) if k not in over
        ),
        "saved_written_and_read": 2 * saved,
    }
    return {**found, "total": sum(found.values())}


def family(graph: Graph) -> str:
    """What kind of kernel a region is, by its heaviest op."""
    ops = [n.op for n in graph.nodes]
    for name, kinds in (
        ("attention", (Attention,)),
        ("matmul", (Matmul,)),
        ("scatter", (Scattering,)),
        ("reduction", (Reduction, ArgReduction)),
    ):
        if any(isinstance(op, kinds) for op in ops):
            return name
    return "pointwise"


def flops(node: Node) -> int:
    """Of one node; what only moves data has none."""
    op: Op | None = node.op
    if isinstance(op, Matmul):
        x = node.inputs[0].tensor.shape
        depth = x[-2 if op.transpose_x else -1]
        return 2 * value(node.tensor.numel, {}) * value(depth, {})
    if isinstance(op, Attention):
        q, k, v = (i.tensor.shape for i in node.inputs[:3])
        rows = math.prod(value(s, {}) for s in q[:-1])
        pairs = rows * value(k[-2], {}) // (2 if op.is_causal else 1)
        # Forward: q k and p v. Backward: q k, g v, p g, d k and d q.
        wide = value(q[-1], {}), value(v[-1], {})
        many = (3, 2) if isinstance(op, AttentionGradient) else (1, 1)
        return 2 * pairs * (many[0] * wide[0] + many[1] * wide[1])
    if isinstance(op, Reduction | ArgReduction):
        return value(node.inputs[0].tensor.numel, {})
    if isinstance(op, Elementwise) or (isinstance(op, Pointwise) and not op.moves):
        return value(node.tensor.numel, {})
    return 0


def main() -> None:
    """Print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = {
        "benchmark": "gpt_step",
        "date": datetime.now(UTC).date().isoformat(),
        "layers": LAYERS,
        "versions": {"vtc": vtc.__version__},
        **report(*build()),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
