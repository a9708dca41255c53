"""Run both branches and choose, where the target cannot wait for a value.

    t: (f32[4],) = cond(p, x, then="double", otherwise="halve", type=(f32[4],))
        ==>
    mul_1: f32[4] = mul(x, two)
    div_1: f32[4] = div(x, two)
    p_1: bool[4] = expand(p, axes=(0,), sizes=(4,))
    where_1: f32[4] = where(p_1, mul_1, div_1)

A GPU runs a program as one graph of kernels; the host would have to wait to see which branch is
taken. Branches have no effects, so that only time is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.ops.control import Item
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.flow import Cond
from vtc.passes.pipeline import Context
from vtc.passes.splice import Splice


def select(program: Program, context: Context) -> Program:
    """See the module."""
    if context.target.kind == "cpu":
        return program
    known: dict[str, Graph] = {}
    for graph in program.graphs:  # branches come before those who name them
        known[graph.name] = _selected(graph, known)
    same = all(known[g.name] is g for g in program.graphs)
    return program if same else replace(program, graphs=tuple(known.values()))


def _selected(graph: Graph, known: Mapping[str, Graph]) -> Graph:
    if not any(isinstance(n.op, Cond) for n in graph.nodes):
        return graph
    splice = Splice(graph)
    results: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Cond):
            results[node] = _both(splice, node, node.op, known)
        elif isinstance(node.op, Item) and node.inputs[0] in results:
            splice.env[node] = results[node.inputs[0]][node.op.index]
        else:
            splice.keep(node)
    return splice.result()


def _both(splice: Splice, node: Node, op: Cond, known: Mapping[str, Graph]) -> list[Node]:
    """The results of ``node``, recorded at the end of ``splice``."""
    b = GraphBuilder(loc=node.loc)
    pred, *operands = splice.inputs(node)
    then, otherwise = (_inlined(b, known[name], operands) for name in op.graphs)
    made: list[Node] = []
    for x, y in zip(then, otherwise, strict=True):
        where = Expr(b, pred).broadcast_to(x.tensor.shape)
        made.append(where.where(Expr(b, x), Expr(b, y)).value)
    copies = splice.insert(b.nodes, {n: n.name for n in b.nodes}, {})
    return [copies.get(m, m) for m in made]


def _inlined(b: GraphBuilder, graph: Graph, operands: list[Node]) -> list[Node]:
    env = dict(zip(graph.params, operands, strict=True))
    for n in graph.nodes:
        env[n] = b.apply(n.op, *[env[i] for i in n.inputs], hint=n.name) if n.op else n
    return [env[o] for o in graph.outputs]
