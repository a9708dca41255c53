"""Order the calls of the entry so that values live shortly: what is needed late is computed late.

    w1: f32[64, 64] = call(w, graph="k0", ...)        h: ... = call(x, graph="k1", ...)
    h: f32[64, 64] = call(x, graph="k1", ...)   ==>   w1: ... = call(w, graph="k0", ...)
    y: f32[64, 64] = call(h, w1, graph="k2", ...)     y: ... = call(h, w1, graph="k2", ...)

A call sinks to just before its first reader if that keeps less in memory: the bytes it makes,
against those of its inputs that live longer for it. Otherwise the order is the program's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtc.ir.graph import Graph, Node, Program, users
from vtc.ir.ops.control import Item
from vtc.ir.types import TensorType
from vtc.passes.cost import nbytes, nominal
from vtc.passes.pipeline import Context


def schedule(program: Program, context: Context) -> Program:
    """See the module."""
    sizes = nominal(program, context.options.nominal)
    ordered = sunk(program.entry, sizes)
    best = min((program.entry, ordered), key=lambda g: peak(g, sizes))
    return program if best is program.entry else program.with_entry(best)


def sunk(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """``graph`` with calls moved down to their first reader where that saves memory."""
    position = {n: i for i, n in enumerate(graph.nodes)}
    anchor = dict(position)
    readers = users(graph)
    lasting = {*graph.params, *graph.outputs}
    for node in reversed(graph.nodes):
        first = min((anchor[r] for r in readers[node]), default=position[node])
        if isinstance(node.op, Item):
            anchor[node] = anchor[node.inputs[0]]
            continue
        held = sum(
            nbytes(i.type, sizes)
            for i in set(node.inputs)
            if i not in lasting and _last(readers[i], node, anchor) < first
        )
        if first > position[node] + 1 and nbytes(node.type, sizes) > held:
            anchor[node] = first
    order = sorted(graph.nodes, key=lambda n: (anchor[n], position[n]))
    return graph if order == list(graph.nodes) else replace(graph, nodes=tuple(order))


def peak(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The most bytes of computed values alive at once."""
    last: dict[Node, Node] = {i: n for n in graph.nodes for i in n.inputs}
    kept = set(graph.outputs)
    live = most = 0
    for node in graph.nodes:
        live += _own(node, sizes)
        most = max(most, live)
        for i in set(node.inputs):
            if last[i] is node and i.op is not None and i not in kept:
                live -= _own(i, sizes)
    return most


def _own(node: Node, sizes: Mapping[str, int]) -> int:
    """Bytes of a value; those of several results are their projections'."""
    return nbytes(node.type, sizes) if isinstance(node.type, TensorType) else 0


def _last(readers: list[Node], but: Node, anchor: Mapping[Node, int]) -> int:
    """Where the last reader besides ``but`` stands; before everything if there is none."""
    return max((anchor[r] for r in readers if r is not but), default=-1)
