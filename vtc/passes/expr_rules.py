"""Rules written over Exprs, and what they ask of operands.

@simplify(Neg)
def neg(op: Neg, out: Expr, x: Expr) -> Expr | None:
    return source(x) if made_by(x, Neg) else None
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from vtc.ir.dims import Sym
from vtc.ir.evaluate import compute
from vtc.ir.graph import Node
from vtc.ir.op import Op
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Full
from vtc.ir.rules import Rewriter, Rule, rule
from vtc.ir.types import Array, DType, TensorType, converted

A = TypeVar("A", bound=Op)
Simplification = Callable[..., Expr | None]


def simplify(*roots: type[Any]) -> Callable[[Simplification], Rule]:
    """Make ``(op, out, *inputs) -> Expr | None`` a rule: what stands for ``out = op(*inputs)``."""

    def decorate(function: Simplification) -> Rule:
        def rewrite(b: Rewriter, node: Node, inputs: tuple[Node, ...]) -> Node | None:
            found = function(node.op, Expr(b, node), *[Expr(b, i) for i in inputs])
            if found is None:
                return None
            new: Node = found.value
            unsure = new.type != node.type and _is_symbolic(node.tensor)
            return None if unsure else new  # the sizes are equal, but cannot be seen to be

        rewrite.__name__ = function.__name__
        return rule(*roots)(rewrite)

    return decorate


def made_by(x: Expr, op: type[A]) -> A | None:
    """The op that made ``x``, if it is of the (final) class ``op``."""
    found = x.value.op
    return found if type(found) is op else None


def source(x: Expr, index: int = 0) -> Expr:
    """An input of the node that made ``x``."""
    return Expr(x.builder, x.value.inputs[index])


def sources(x: Expr) -> tuple[Expr, ...]:
    """What ``x`` was made of."""
    return tuple(Expr(x.builder, i) for i in x.value.inputs)


def constant(x: Expr) -> float | None:
    """The number ``x`` is everywhere, if it is one."""
    full = made_by(x, Full)
    return None if full is None else full.value


def computed(op: Elementwise, out: Expr, *inputs: Expr) -> Expr:
    """``op`` on constants, in its own dtype and rounding."""
    values = [number(constant(x), x.dtype) for x in inputs]
    found = cast("Array", compute(op, values, TensorType(out.dtype, ())))
    return out.like(found.item())


def number(value: float | None, dtype: DType) -> Array:
    """A constant as an array without axes."""
    return converted(np.asarray(value), dtype.numpy)


def _is_symbolic(type: TensorType) -> bool:
    return any(isinstance(s, Sym) for s in type.shape)
