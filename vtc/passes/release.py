"""Drop ``after``: what it asked for, the order of calls now says.

h1: f32[8] = after(h, d_y)                       a: f32[8] = call(h, graph="k7", ...)
a: f32[8] = call(h1, graph="k7", ...)    ==>
"""

from __future__ import annotations

from vtc.ir.graph import GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.control import After
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context


@nested
def release(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    if not any(isinstance(n.op, After) for n in program.entry.nodes):
        return program
    return program.with_entry(rebuild(program.entry, _visit))


def _visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
    return inputs[0] if isinstance(node.op, After) else b.copy(node, inputs)
