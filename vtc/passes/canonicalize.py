"""Bring what can be said in several ways into one form, and drop what does nothing.

    a: f32[4, 2] = permute(x, axes=(1, 0))
    b: f32[4, 8] = matmul(a, y)             ==>     b: f32[4, 8] = matmul(x, y, transpose_x=True)

Views of views are one view, constants absorb views, operands that are constant come last, ``x + 0``
is ``x``. The rules are exact, or as exact as PyTorch is. Gradient stops go once no gradient is
asked for.
"""

from __future__ import annotations

from vtc.ir.graph import Program
from vtc.ir.ops.control import Gradient
from vtc.ir.rules import rewrite
from vtc.passes import arithmetic_rules, view_rules
from vtc.passes.pipeline import Context
from vtc.passes.splice import each_graph

RULES = (*view_rules.RULES, *arithmetic_rules.RULES)
LATE = (*RULES, arithmetic_rules.marks)


def canonicalize(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    marked = any(isinstance(n.op, Gradient) for g in program.graphs for n in g.nodes)
    rules = RULES if marked else LATE
    return each_graph(program, lambda g: rewrite(g, rules))
