"""Forward derivatives of a graph: what its outputs change by, where its params change.

The reverse sweep of a graph is linear in the cotangents it starts from. Sweeping that sweep, with
respect to them, transposes it once more: what is left is the derivative itself, and reads nothing
of the first sweep but values that both need::

    y: f32[4] = tanh(x)     ==>     y: f32[4] = tanh(x)
                                    d: f32[4] = mul(t, 1 - y * y)         # t: the tangent of x
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from vtc.ir.graph import Graph, GraphBuilder, Node
from vtc.ir.ops.control import Library, entry_of
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Full
from vtc.ir.reverse import reverse
from vtc.ir.types import TensorType


@final
@dataclass(frozen=True)
class Pushed:
    """A graph that also takes tangents, and those of its outputs: None where one does not move."""

    graph: Graph
    tangents: dict[Node, Node | None]


def push_forward(graph: Graph, count: int, library: Library | None = None) -> Pushed:
    """``graph``, which has no gradient markers, with tangents of its first ``count`` params.

    They are params after those; the tangents of outputs are outputs after its own. ``library`` has
    the graphs that it names, and gets those of their derivatives.
    """
    wrt, others = graph.params[:count], graph.params[count:]
    back, forth = GraphBuilder(), GraphBuilder()
    starts = {o: _zeros(back, o.tensor) for o in dict.fromkeys(graph.outputs) if _is_float(o)}
    found = reverse(
        [entry_of(n, library) for n in graph.nodes],
        {o: Expr(back, c) for o, c in starts.items()},
        wrt,
        lambda n: Expr(back, n),
    )
    given = [forth.param("t", p.type) for p in wrt]
    seeds: dict[Node, Expr] = {}
    for p, t in zip(wrt, given, strict=True):
        if p in found:
            at, e = found[p].value, Expr(forth, t)
            seeds[at] = seeds[at] + e if at in seeds else e
    tape = [entry_of(n, library) for n in back.nodes]
    moved = reverse(tape, seeds, list(starts.values()), lambda n: Expr(forth, n))
    tangents = {o: moved[c].value if c in moved else None for o, c in starts.items()}
    nodes = (*graph.nodes, *back.nodes, *forth.nodes)
    outputs = (*graph.outputs, *(t for t in tangents.values() if t is not None))
    whole = Graph(graph.name, (*wrt, *given, *others), nodes, outputs)
    return Pushed(_needed(whole), tangents)


def _needed(graph: Graph) -> Graph:
    """``graph`` without nodes that no output needs; the others are the nodes they were."""
    live = set(graph.outputs)
    for n in reversed(graph.nodes):
        if n in live:
            live.update(n.inputs)
    return replace(graph, nodes=tuple(n for n in graph.nodes if n in live))


def _zeros(b: GraphBuilder, type: TensorType) -> Node:
    """A cotangent to sweep from. Its value is not read: what is linear does not depend on it."""
    return b.apply(Full(type.shape, 0, type.dtype))


def _is_float(node: Node) -> bool:
    return isinstance(node.type, TensorType) and node.type.dtype.is_floating_point
