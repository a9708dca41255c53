"""Run both branches and choose, where that is quicker than to wait for a value.

    t: (f32[4],) = cond(p, x, then="double", otherwise="halve", type=(f32[4],))
        ==>
    mul_1: f32[4] = mul(x, two)
    div_1: f32[4] = div(x, two)
    p_1: bool[4] = expand(p, axes=(0,), sizes=(4,))
    where_1: f32[4] = where(p_1, mul_1, div_1)

That is so on a GPU for branches of elementwise ops and index functions alone, which fuse with what
is around them: a kernel computes both as quickly as one. Branches have no effects. A branch with
anything else (a product, a sum, an index that may be out of its range, a loop that may not end) is
taken or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.flow import Cond
from vtc.ir.ops.view import Reshape
from vtc.passes.pipeline import Context
from vtc.passes.space import INDEX_FUNCTIONS
from vtc.passes.splice import Splice

CHEAP = (Elementwise, Reshape, *INDEX_FUNCTIONS)
"""What may run in vain."""


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
    if not any(_cheap(n, known) for n in graph.nodes):
        return graph
    splice = Splice(graph)
    results: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if isinstance(node.op, Cond) and _cheap(node, known):
            results[node] = _both(splice, node, node.op, known)
        elif isinstance(node.op, Item) and node.inputs[0] in results:
            splice.env[node] = results[node.inputs[0]][node.op.index]
        else:
            splice.keep(node)
    return splice.result()


def _cheap(node: Node, known: Mapping[str, Graph]) -> bool:
    """Whether ``node`` is a branch of which both sides may run."""
    if not isinstance(node.op, Cond):
        return False
    inner = (n for name in node.op.graphs for n in known[name].nodes)
    return all(isinstance(n.op, CHEAP) for n in inner)


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
