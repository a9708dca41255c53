"""What a compiled program moves through memory, kernel by kernel, and why it is not less.

109 launches of 35 kernels move 412.30 MB; fusion saved 1204.11 MB
  launches      MB  kernel
         4   29.40  k6: add, erf, matmul, mul at gpt.py:14 blocks.0.up
taken out of loops
  sum_w: it is added up after the loop; saves 31.04 MB; at lstm.py:20 rnn
in memory because
  2 x    2.10 MB  gelu_1: matmul and matmul are a kernel each; at gpt.py:14 blocks.0
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from vtc.ir.graph import Graph, Node, Program
from vtc.ir.ops.control import Call, Item
from vtc.passes.cost import nbytes, nominal
from vtc.passes.fuse import chosen, fuse
from vtc.passes.hoist import hoist, hoisted
from vtc.passes.pipeline import Context, Pass, Stage
from vtc.passes.regions import Decision
from vtc.passes.space import INDEX_FUNCTIONS

MOST = 20
"""Kernels, and values in memory, that are listed: those that move the most."""


def explain(stages: Mapping[str, Program], pipeline: tuple[Stage, ...], context: Context) -> str:
    """The text for a program whose ``stages`` the pipeline gave."""
    planned = stages["planned"]
    sizes = nominal(planned, context.options.nominal)
    launches: dict[str, list[int]] = defaultdict(list)
    places: dict[str, Node] = {}
    for node in (n for g in planned.graphs for n in g.nodes):  # bodies of loops among them
        if isinstance(node.op, Call):
            moved = sum(nbytes(t.type, sizes) for t in {*node.inputs, node})
            launches[node.op.graph].append(moved)
            places.setdefault(node.op.graph, node)
    decisions = chosen(_before(fuse, stages["lowered"], pipeline, context), context).decisions
    saved = sum(d.bytes for d in decisions if d.taken and d.rule != "inline")
    lines = [
        f"{sum(map(len, launches.values()))} launches of {len(launches)} kernels move "
        f"{_mb(sum(map(sum, launches.values())))} MB; fusion saved {_mb(saved)} MB",
        "  launches      MB  kernel",
    ]
    order = sorted(launches, key=lambda k: -sum(launches[k]))
    for name in order[:MOST]:
        what = f"{name}: {_ops(planned.by_name[name])}{_at(places[name])}"
        lines.append(f"  {len(launches[name]):8} {_mb(sum(launches[name])):>7}  {what}")
    loops = hoisted(_before(hoist, stages["joint"], pipeline, context), context)[1]
    return "\n".join([*lines, *_out_of_loops(loops), *_kept(decisions)])


def _before(last: Pass, program: Program, pipeline: tuple[Stage, ...], context: Context) -> Program:
    """``program``, at the stage before, as the pass ``last`` gets it."""
    stage = next(s for s in pipeline if last in s.passes)
    for one_pass in stage.passes[: stage.passes.index(last)]:
        program = one_pass(program, context)
    return program


def _out_of_loops(decisions: tuple[Decision, ...]) -> Iterator[str]:
    """What is computed for all steps of a loop at once, and what not; and why."""
    for taken, title in ((True, "taken out of loops"), (False, "left in loops")):
        found = [d for d in decisions if d.taken is taken]
        if found:
            yield title
        for d in sorted(found, key=lambda d: -abs(d.bytes))[:MOST]:
            size = f"saves {_mb(d.bytes)}" if taken else f"would move {_mb(-d.bytes)}"
            yield f"  {d.node.name}: {d.why}; {size} MB;{_at(d.node)}"


def _kept(decisions: tuple[Decision, ...]) -> Iterator[str]:
    """What is written to memory although other kernels read it, and why; the same ones together."""
    found: dict[tuple[int, str], list[Decision]] = defaultdict(list)
    for d in decisions:
        if not d.taken and d.why != "it is an output":
            found[d.bytes, d.why].append(d)
    if found:
        yield "in memory because"
    for (size, why), alike in sorted(found.items(), key=lambda item: -item[0][0] * len(item[1]))[
        :MOST
    ]:
        node = alike[0].node
        yield f"  {len(alike):3} x {_mb(size):>7} MB  {node.name}: {why};{_at(node)}"


def _ops(graph: Graph) -> str:
    """The ops of a region but those that only say where to read."""
    names = {
        n.op.name: None
        for n in graph.nodes
        if n.op and not isinstance(n.op, (Item, *INDEX_FUNCTIONS))
    }
    return ", ".join(sorted(names)) or "copy"


def _at(node: Node) -> str:
    return f" at {node.loc}" if node.loc else ""


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"
