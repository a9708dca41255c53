"""Rules of ``canonicalize`` about elementwise ops and random state.

All are exact but for the sign of zeros (``x + 0`` of ``-0.0``); none takes for granted that a float
is a number.
"""

from __future__ import annotations

import math
from dataclasses import replace

from vtc.ir.op import Op
from vtc.ir.ops.activation import Dropout
from vtc.ir.ops.control import Custom, StopGradient
from vtc.ir.ops.elementwise import Abs, Add, Div, Maximum, Minimum, Mul, Neg, Pow, Sub
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Concat, Full, Pad
from vtc.ir.ops.logic import Eq, LogicalAnd, LogicalNot, LogicalOr, LogicalXor, Ne, Where
from vtc.ir.ops.random import Advance, Bits, Normal, Uniform
from vtc.ir.rules import Rule
from vtc.passes.expr_rules import constant, made_by, simplify, source


@simplify(Add, Mul, Maximum, Minimum, Eq, Ne, LogicalAnd, LogicalOr, LogicalXor)
def constant_last(op: Op, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """Ops whose operands may swap have constants on the right."""
    return y.apply(op, x) if made_by(x, Full) and not made_by(y, Full) else None


@simplify(Add)
def add(op: Add, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """Of zero; of a negative."""
    if constant(y) == 0:
        return x
    if made_by(y, Neg):
        return x - source(y)
    return y - source(x) if made_by(x, Neg) else None


@simplify(Add)
def add_pads(op: Add, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """Of neighbours padded with zeros, as the gradient of slices is: they are put side by side."""
    a, b = made_by(x, Pad), made_by(y, Pad)
    if not a or not b or a.value != 0 or b.value != 0:
        return None
    axes = [i for i, (p, q) in enumerate(zip(a.pads, b.pads, strict=True)) if p != q]
    if len(axes) != 1 or any(interior for _, _, interior in (*a.pads, *b.pads)):
        return None
    (axis,) = axes
    first, second, left, right = a.pads[axis], b.pads[axis], source(x), source(y)
    if first[0] == second[0] + right.shape[axis]:
        first, second, left, right = second, first, right, left
    if second[0] != first[0] + left.shape[axis]:
        return None
    pads = (*a.pads[:axis], (first[0], second[1], 0), *a.pads[axis + 1 :])
    return left.apply(Concat(axis=axis), right).op("pad", pads=pads, value=0.0)


@simplify(Sub)
def sub(op: Sub, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """Of zero; from zero; of a negative."""
    if constant(y) == 0:
        return x
    if constant(x) == 0:
        return -y
    return x + source(y) if made_by(y, Neg) else None


@simplify(Mul)
def mul(op: Mul, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """By 1, by -1; by 0 for integers only; of negatives."""
    c = constant(y)
    if c == 1:
        return x
    if c == -1:
        return -x
    if c == 0 and out.dtype.kind == "int":
        return y
    if made_by(x, Neg) and made_by(y, Neg):
        return source(x) * source(y)
    # The negative of an integer constant may not be a number of its (unsigned) type.
    if c is not None and made_by(x, Neg) and out.dtype.kind == "float":
        return source(x) * -c
    return None


@simplify(Div)
def div(op: Div, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """By 1, by -1; by a power of two, whose reciprocal is exact."""
    c = constant(y)
    if c is None or out.dtype.itemsize < 2:
        return None
    if c == 1:
        return x
    if c == -1:
        return -x
    exact = abs(math.frexp(c)[0]) == 0.5 and 2.0**-14 <= abs(c) <= 2.0**14
    return x * (1.0 / c) if exact else None


@simplify(Neg)
def neg(op: Neg, out: Expr, x: Expr) -> Expr | None:
    """Of a negative, of a difference, of a constant multiple."""
    if made_by(x, Neg):
        return source(x)
    if made_by(x, Sub):
        return source(x, 1) - source(x)
    if made_by(x, Mul) and (c := constant(source(x, 1))) is not None and out.dtype.kind == "float":
        return source(x) * -c
    return None


@simplify(Pow)
def pow_(op: Pow, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """To 1, 2 and -1."""
    if out.dtype.kind != "float":
        return None
    match constant(y):
        case 1:
            return x
        case 2:
            return x * x
        case -1:
            return 1.0 / x
    return None


@simplify(Abs)
def abs_(op: Abs, out: Expr, x: Expr) -> Expr | None:
    """Of a negative, of an absolute value."""
    if made_by(x, Abs):
        return x
    return source(x).op("abs") if made_by(x, Neg) and x.dtype.kind == "float" else None


@simplify(Maximum, Minimum, LogicalAnd, LogicalOr)
def same_operand(
    op: Maximum | Minimum | LogicalAnd | LogicalOr, out: Expr, x: Expr, y: Expr
) -> Expr | None:
    """Of one value twice."""
    return x if x.value is y.value else None


@simplify(LogicalAnd, LogicalOr)
def logical(op: LogicalAnd | LogicalOr, out: Expr, x: Expr, y: Expr) -> Expr | None:
    """With true or false."""
    c = constant(y)
    if c is None or out.dtype.kind != "bool":
        return None
    return y if bool(c) == isinstance(op, LogicalOr) else x


@simplify(LogicalNot)
def logical_not(op: LogicalNot, out: Expr, x: Expr) -> Expr | None:
    """Of a not; of an equality. Other comparisons have no opposite where there are NaNs."""
    if made_by(x, LogicalNot):
        return source(x)
    if made_by(x, Eq) and out.dtype.kind == "bool":
        return source(x).ne(source(x, 1))
    if made_by(x, Ne) and out.dtype.kind == "bool":
        return source(x).eq(source(x, 1))
    return None


@simplify(Where)
def where(op: Where, out: Expr, c: Expr, x: Expr, y: Expr) -> Expr | None:
    """Of one value twice; on what is known; on a not."""
    if x.value is y.value:
        return x
    if (known := constant(c)) is not None:
        return x if known else y
    return source(c).where(y, x) if made_by(c, LogicalNot) else None


@simplify(StopGradient, Custom)
def marks(op: StopGradient | Custom, out: Expr, x: Expr, *rest: Expr) -> Expr | None:
    """Nothing: gradients have been taken by now."""
    return x


@simplify(Advance)
def advance(op: Advance, out: Expr, state: Expr) -> Expr | None:
    """By nothing; twice."""
    if op.count == 0:
        return state
    inner = made_by(state, Advance)
    return source(state).apply(Advance(count=inner.count + op.count)) if inner else None


@simplify(Bits, Uniform, Normal)
def draw(op: Bits | Uniform | Normal, out: Expr, state: Expr) -> Expr | None:
    """From a state that was advanced: further on from the one before."""
    inner = made_by(state, Advance)
    if inner is None:
        return None
    return source(state).apply(replace(op, offset=op.offset + inner.count))


@simplify(Dropout)
def dropout(op: Dropout, out: Expr, x: Expr, state: Expr) -> Expr | None:
    """With a state that was advanced."""
    inner = made_by(state, Advance)
    if inner is None:
        return None
    return x.apply(replace(op, offset=op.offset + inner.count), source(state))


RULES: tuple[Rule, ...] = (
    constant_last,
    add,
    add_pads,
    sub,
    mul,
    div,
    neg,
    pow_,
    abs_,
    same_operand,
    logical,
    logical_not,
    where,
    advance,
    draw,
    dropout,
)
