"""Drop nodes no output needs, what loops keep for no gradient, and graphs nothing names.

a: f32[4] = exp(x)
b: f32[4] = neg(x)      ==>     a: f32[4] = exp(x)
return a                        return a
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

from vtc.ir.graph import Graph, GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.control import Control, Item
from vtc.ir.ops.flow import ForLoop
from vtc.passes.pipeline import Context


def dce(program: Program, context: Context) -> Program:
    """See the module. Params stay."""
    del context
    graphs = {g.name: trimmed(g) for g in program.graphs}
    named = {program.entry.name}
    waiting = [program.entry.name]
    while waiting:
        for name in _callees(graphs[waiting.pop()]):
            if name in graphs and name not in named:
                named.add(name)
                waiting.append(name)
    kept = tuple(g for g in graphs.values() if g.name in named)
    same = len(kept) == len(program.graphs) and all(map(_is, kept, program.graphs))
    return program if same else replace(program, graphs=kept)


def trimmed(graph: Graph) -> Graph:
    """``graph`` without nodes no output needs; itself where all are needed."""
    return _forgetful(_live(graph))


def _live(graph: Graph) -> Graph:
    """``graph`` without nodes no output needs."""
    live: set[Node] = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node in live:
            live.update(node.inputs)
    nodes = tuple([n for n in graph.nodes if n in live])
    return graph if len(nodes) == len(graph.nodes) else replace(graph, nodes=nodes)


def _forgetful(graph: Graph) -> Graph:
    """``graph`` whose loops do not save what nobody reads; all other nodes are needed."""
    saving = {n: n.op for n in graph.nodes if isinstance(n.op, ForLoop) and n.op.saves}
    for n in graph.nodes if saving else ():
        loop = saving.get(n.inputs[0]) if isinstance(n.op, Item) else None
        index = n.op.index if isinstance(n.op, Item) else 0
        if loop is not None and index >= loop.carried + len(loop.stacked):
            del saving[n.inputs[0]]
    if not saving:
        return graph

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if node not in saving:
            return b.copy(node, inputs)
        return b.apply(replace(saving[node], saves=False), *inputs, hint=node.name, loc=node.loc)

    return rebuild(graph, visit)


def _callees(graph: Graph) -> Iterator[str]:
    """Every string among the attributes of control ops: those that name graphs are among them."""
    for n in graph.nodes:
        if isinstance(n.op, Control):
            for f in fields(n.op):
                value = getattr(n.op, f.name)
                yield from (
                    v
                    for v in (value if isinstance(value, tuple) else (value,))
                    if isinstance(v, str)
                )


def _is(a: object, b: object) -> bool:
    return a is b
