"""Replace each gradient marker by the reverse sweep it stands for, in program order.

    h: f32[4] = mul(x, w)
    loss: f32[()] = sum(h, axes=(0,))         ==>     ...
    g: (f32[4],) = gradient(loss, w)                  d_loss: f32[()] = full(...)
    dw: f32[4] = item(g, index=0)                     d_h: f32[4] = expand(d_loss, ...)
                                                      d_w: f32[4] = mul(d_h, x)

A later marker sees the nodes of earlier ones, so gradients of gradients work. Made nodes carry the
place of the node whose gradient they belong to, and the cotangent of ``h`` is called ``d_h``. What
a gradient reads of a checkpointed segment it computes again: :mod:`vtc.passes.again`. The gradient
of a loop or a branch names graphs that are made for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.ops.control import Checkpoint, Gradient, Item, Library
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import Entry
from vtc.passes.again import Again, Segments
from vtc.passes.pipeline import Context
from vtc.passes.splice import Splice


def differentiate(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    library = Library(program.graphs)
    graphs: list[Graph] = []
    for graph in program.graphs:
        expanded = _expand(graph, library)
        library.replace(expanded)
        graphs += [*library.take(), expanded]
    same = len(graphs) == len(program.graphs)
    same = same and all(a is b for a, b in zip(graphs, program.graphs, strict=True))
    return program if same else replace(program, graphs=tuple(graphs))


def _expand(graph: Graph, library: Library) -> Graph:
    if not any(isinstance(n.op, Gradient | Checkpoint) for n in graph.nodes):
        return graph
    splice = Splice(graph)
    segments = Segments()
    found: dict[Node, Sequence[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Gradient):
            found[node] = _sweep(splice, segments, library, node.op, splice.inputs(node))
        elif isinstance(node.op, Item) and node.inputs[0] in found:
            splice.env[node] = found[node.inputs[0]][node.op.index]
        elif isinstance(node.op, Checkpoint):
            (splice.env[node],) = splice.inputs(node)
            segments.cross(node, node.op)
        else:
            splice.keep(node)
            segments.place(node, splice.nodes[-1])
    return splice.result()


def _sweep(
    splice: Splice,
    segments: Segments,
    library: Library,
    marker: Gradient,
    inputs: Sequence[Node],
) -> list[Node]:
    """The cotangents that ``marker`` stands for, recorded at the end of ``splice``."""
    b = GraphBuilder(loc=inputs[0].loc)
    hints: dict[Node, str] = {}
    again = Again(segments, b, hints)

    def enter(entry: Entry[Node], g: Any) -> None:
        b.loc = entry.output.loc
        if isinstance(g, Expr):
            hints.setdefault(g.value, f"d_{entry.output.name}")
        first = g if isinstance(g, Expr) else next(p for p in g if p is not None)
        again.enter(entry.output, first.value)

    out = marker.expand(
        splice.nodes, inputs, lambda n: Expr(b, again.value(n)), enter, library=library
    )
    for w, g in zip(marker.wrt(inputs), out, strict=True):
        hints.setdefault(g.value, f"d_{w.name}")
    copies = splice.insert(b.nodes, hints, {})
    return [copies.get(g.value, g.value) for g in out]
