"""Let scatters add up narrow numbers in wide ones, where the target adds them in memory.

    y: bf16[V, 64] = index_put(x, v, i, axes=(0,), accumulate=True)
        ==>
    x_wide: f32[V, 64] = cast(x, dtype=f32)
    v_wide: f32[T, 64] = cast(v, dtype=f32)
    y_sum: f32[V, 64] = index_put(x_wide, v_wide, i, axes=(0,), accumulate=True)
    y: bf16[V, 64] = cast(y_sum, dtype=bf16)

A GPU adds to memory atomically: floats would be rounded at each addition instead of once, and
integers of 8 or 16 bits cannot be added at all. A CPU keeps sums of its own.
"""

from __future__ import annotations

from vtc.ir.graph import Graph, GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.index import Scattering
from vtc.ir.types import DType, i32
from vtc.passes.pipeline import Context
from vtc.passes.splice import each_graph


def widen(program: Program, context: Context) -> Program:
    """See the module."""
    return each_graph(program, _widened) if context.target.kind == "cuda" else program


def _widened(graph: Graph) -> Graph:
    if not any(_wide(n) for n in graph.nodes):
        return graph

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        wide = _wide(node)
        if wide is None or not isinstance(node.op, Scattering):
            return b.copy(node, inputs)
        taken = list(inputs)
        for k in (0, node.op.values):
            taken[k] = b.apply(Cast(dtype=wide), inputs[k], hint=f"{inputs[k].name}_wide")
        total = b.apply(node.op, *taken, hint=f"{node.name}_sum")
        return b.apply(Cast(dtype=node.tensor.dtype), total, hint=node.name)

    return rebuild(graph, visit)


def _wide(node: Node) -> DType | None:
    """What the sums of ``node`` are to be kept in; None if it is no scatter, or that is its own."""
    if not isinstance(node.op, Scattering) or not node.op.accumulate:
        return None
    dtype = node.tensor.dtype
    wide = i32 if dtype.kind == "int" and dtype.itemsize < i32.itemsize else dtype.accumulate
    return None if wide is dtype else wide
