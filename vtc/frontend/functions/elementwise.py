"""Arithmetic and functions of one number: operands promote and broadcast as in PyTorch.

add(x, y)                # also x + y
add(x, 1)                # a number does not promote a float tensor
div(i, j)                # true division: integers become the default dtype
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.once import inexact, once
from vtc.frontend.functions.promotion import (
    cast,
    meet,
    number,
    plain,
    pointwise,
    promoted,
    result_type,
)
from vtc.frontend.source import located
from vtc.ir.ops.elementwise import (
    Abs,
    Add,
    Ceil,
    Cos,
    Div,
    Elementwise,
    Erf,
    Exp,
    Floor,
    FloorDivide,
    Log,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Pow,
    Remainder,
    Round,
    Rsqrt,
    Sign,
    Sin,
    Sqrt,
    Sub,
    Tanh,
    Trunc,
)
from vtc.ir.ops.logic import Ge, Gt, Le, LogicalAnd, LogicalOr, LogicalXor, Lt, Ne, Where
from vtc.ir.types import DType, bool_

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_ADD, _SUB, _MUL, _DIV, _NEG = Add(), Sub(), Mul(), Div(), Neg()


# arithmetic


def add(input: Value, other: Value, *, alpha: Value = 1) -> Tensor:
    """``input + alpha * other``; two bool tensors give their logical or."""
    if type(alpha) is not int or alpha != 1:
        return _plus(input, other, alpha=alpha)
    found = dispatch.shortcut(_ADD, input, other)
    if found is not None:
        return found
    return promoted(LogicalOr() if result_type(input, other) is bool_ else _ADD, input, other)


@once("add")
def _plus(input: Value, other: Value, *, alpha: Value) -> Tensor:
    return add(input, _times(input, other, alpha))


def sub(input: Value, other: Value, *, alpha: Value = 1) -> Tensor:
    """``input - alpha * other``. TypeCheckError for two bools: use ``^``."""
    one = type(alpha) is int and alpha == 1
    found = dispatch.shortcut(_SUB, input, other) if one else None
    if found is not None:
        return found
    _no_bools("sub", "`-` of two bools is not supported, use `^` or logical_xor", input, other)
    return promoted(_SUB, input, other) if one else _minus(input, other, alpha=alpha)


@once("sub")
def _minus(input: Value, other: Value, *, alpha: Value) -> Tensor:
    return promoted(_SUB, input, _times(input, other, alpha))


def _times(input: Value, other: Value, alpha: Value) -> Value:
    """``alpha * other``, to be added to ``input``: what of it is a float is so in the sum."""
    if is_tensor(alpha) or not isinstance(alpha, float):
        return scaled(other, alpha)
    dtype = result_type(input, other)
    if dtype.kind in ("bool", "int"):
        raise located(ArgumentError, f"expected an integer factor for integers, got {alpha}")
    if not is_tensor(other):
        product: Value = plain(other) * alpha
        return product
    return scaled(cast(other, dtype) if other.type.dtype.kind in ("bool", "int") else other, alpha)


def mul(input: Value, other: Value) -> Tensor:
    """``input * other``; two bool tensors give their logical and."""
    if inexact(input, other) or inexact(other, input):
        return _product(input, other)
    found = dispatch.shortcut(_MUL, input, other)
    if found is not None:
        return found
    return promoted(LogicalAnd() if result_type(input, other) is bool_ else _MUL, input, other)


@once("mul")
def _product(input: Value, other: Value) -> Tensor:
    return pointwise(_MUL, input, other)


def div(input: Value, other: Value, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; ``rounding_mode`` "floor" or "trunc" rounds, and keeps integers."""
    match rounding_mode:
        case None:
            numbers = inexact(input, other) or inexact(other, input)
            return _quotient(input, other) if numbers else pointwise(_DIV, input, other)
        case "floor":
            return floor_divide(input, other)
        case "trunc":
            return _divide_trunc(input, other)
    want = "expected rounding_mode None, 'trunc' or 'floor'"
    raise located(ArgumentError, f"div: {want}, got {rounding_mode!r}")


@once("div")
def _quotient(input: Value, other: Value) -> Tensor:
    return pointwise(_DIV, input, other)


def true_divide(input: Value, other: Value) -> Tensor:
    """``input / other``."""
    return div(input, other)


def _divide_trunc(input: Value, other: Value) -> Tensor:
    dtype = result_type(input, other)
    if dtype.kind != "int":
        return trunc(div(input, other))
    x, y = meet("div", dtype, input, other)
    down = dispatch.apply(FloorDivide(), x, y)
    return _where(_rounds_down(x, y), add(down, 1), down)


def floor_divide(input: Value, other: Value) -> Tensor:
    """``input // other``, rounded down; integers stay integers, and divided by zero give 0."""
    return pointwise(FloorDivide(), input, other)


def remainder(input: Value, other: Value) -> Tensor:
    """``input % other``, with the sign of ``other`` as in Python."""
    return pointwise(Remainder(), input, other)


def fmod(input: Value, other: Value) -> Tensor:
    """The remainder with the sign of ``input``, exact as in C; of integers by zero 0."""
    x, y = meet("fmod", result_type(input, other), input, other)
    if x.type.dtype.kind == "int":
        rest = dispatch.apply(Remainder(), x, y)
        return _where(_rounds_down(x, y), sub(rest, y), rest)
    rest = dispatch.apply(Remainder(), _magnitude(x), _magnitude(y))
    return _where(_negative(x), neg(rest), rest)


def _rounds_down(x: Tensor, y: Tensor) -> Tensor:
    """Where integers' floored quotient is not the truncated one, but 1 less."""
    inexact = dispatch.apply(Ne(), dispatch.apply(Remainder(), x, y), _full(0, x))
    opposed = dispatch.apply(LogicalXor(), _negative(x), _negative(y))
    return dispatch.apply(LogicalAnd(), inexact, opposed)


def _magnitude(x: Tensor) -> Tensor:
    """:func:`abs` whose gradient at 0 is 1."""
    return _where(_negative(x), neg(x), x)


def _negative(x: Tensor) -> Tensor:
    return dispatch.apply(Lt(), x, _full(0, x))


def _where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return dispatch.apply(Where(), condition, x, y)


def pow(input: Value, exponent: Value) -> Tensor:
    """``input ** exponent``. TypeCheckError for an integer to a negative integer number."""
    dtype = result_type(input, exponent)
    if is_tensor(input) and not is_tensor(exponent):
        power, x = plain(exponent), cast(input, dtype)
        if dtype.kind == "int" and isinstance(power, int) and power < 0:
            got = f"got {x.type} ** {power}"
            raise located(TypeCheckError, f"pow: integers take no negative integer powers, {got}")
        if isinstance(power, (int, float)) and (short := _known_power(x, power)) is not None:
            return short
    return pointwise(Pow(), input, exponent)


def _known_power(x: Tensor, power: float) -> Tensor | None:
    """The powers that multiplication and square roots give faster and more exactly."""
    if power == 2:
        return mul(x, x)
    if power == 3:
        return mul(mul(x, x), x)
    if x.type.dtype.kind != "float":
        return None
    match power:
        case 0.5:
            return sqrt(x)
        case -0.5:
            return rsqrt(x)
        case -1:
            return reciprocal(x)
        case -2:
            return reciprocal(mul(x, x))
    return None


def neg(input: Tensor) -> Tensor:
    """``-input``. TypeCheckError for bool: use ``~``."""
    found = dispatch.shortcut(_NEG, input)
    if found is not None:
        return found
    _no_bools("neg", "`-` of a bool is not supported, use `~` or logical_not", input)
    return promoted(_NEG, input)


def abs(input: Tensor) -> Tensor:
    """The absolute value."""
    return pointwise(Abs(), input)


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1, as the sign is; of NaN 0."""
    expect_tensor("sign", "input", input)
    return input.clone() if input.type.dtype is bool_ else pointwise(Sign(), input)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Value = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    dtype = result_type(input, tensor1, tensor2)
    x, y, z = (_exact(t, dtype) for t in (input, tensor1, tensor2))
    return cast(add(x, mul(scaled(y, value), z)), dtype)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Value = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``. TypeCheckError for integers."""
    if result_type(tensor1, tensor2).kind in ("bool", "int"):
        got = f"got {tensor1.type} and {tensor2.type}"
        raise located(TypeCheckError, f"addcdiv: expected floating-point operands, {got}")
    dtype = result_type(input, tensor1, tensor2)
    x, y, z = (_exact(t, dtype) for t in (input, tensor1, tensor2))
    return cast(add(x, div(scaled(y, value), z)), dtype)


def _exact(x: Tensor, dtype: DType) -> Tensor:
    """``x`` as numbers of ``dtype`` are computed with, so that a formula is rounded once."""
    return x if dtype.accumulate is dtype else cast(x, dtype.accumulate)


def lerp(input: Tensor, end: Tensor, weight: Value) -> Tensor:
    """``input + weight * (end - input)``, exact at weights 0 and 1 given as numbers."""
    return _between(input, end, weight)


@once("lerp")
def _between(input: Tensor, end: Tensor, weight: Value) -> Tensor:
    if not is_tensor(weight):
        number = plain(weight)
        twice: Any = weight * 2
        if twice >= 1:  # a traced size is compared with whole numbers
            return sub(end, mul(sub(end, input), 1 - number))
    return add(input, mul(sub(end, input), weight))


def maximum(input: Value, other: Value) -> Tensor:
    """The larger of two; NaN wins."""
    return pointwise(LogicalOr() if result_type(input, other) is bool_ else Maximum(), input, other)


def minimum(input: Value, other: Value) -> Tensor:
    """The smaller of two; NaN wins."""
    return pointwise(
        LogicalAnd() if result_type(input, other) is bool_ else Minimum(), input, other
    )


def clamp(input: Tensor, min: Value | None = None, max: Value | None = None) -> Tensor:
    """``input`` brought into ``[min, max]``, of which one may be None; NaN if one is NaN.

    The gradient at the bounds is 1, and where the result is NaN 0.
    """
    bounds = [b for b in (min, max) if b is not None]
    if not bounds:
        raise located(ArgumentError, "clamp: expected min, max or both, got neither")
    dtype = result_type(input, *bounds)
    x, *limits = meet("clamp", dtype, input, *bounds)
    if min is not None:
        x = _limited(Lt(), Ge(), x, limits[0])
    return x if max is None else _limited(Gt(), Le(), x, limits[-1])


def _limited(beyond: Elementwise, within: Elementwise, x: Tensor, limit: Tensor) -> Tensor:
    if x.type.dtype.kind != "float":
        return _where(dispatch.apply(beyond, x, limit), limit, x)
    edge = _where(dispatch.apply(beyond, x, limit), limit, _full(math.nan, x))
    return _where(dispatch.apply(within, x, limit), x, edge)


def _full(value: float, like: Tensor) -> Tensor:
    return number(value, like.type.dtype, like.type.shape)


def scaled(x: Value, factor: Value) -> Value:
    """``factor * x``; ``x`` itself for 1."""
    if not is_tensor(factor) and plain(factor) == 1:
        return x
    if not is_tensor(factor) and isinstance(factor, float) and result_type(x).kind == "int":
        raise located(ArgumentError, f"expected an integer factor for integers, got {factor}")
    return mul(x, factor) if is_tensor(x) or is_tensor(factor) else plain(x) * plain(factor)


def _no_bools(name: str, message: str, *values: Value) -> None:
    dtypes = [v.type.dtype if is_tensor(v) else None for v in values]
    if all(d is bool_ for d in dtypes):
        raise located(TypeCheckError, f"{name}: {message}")


# functions of one number; integers become floats


def exp(input: Tensor) -> Tensor:
    """``e ** input``."""
    return pointwise(Exp(), input)


def log(input: Tensor) -> Tensor:
    """The natural logarithm; NaN below zero."""
    return pointwise(Log(), input)


@once("log2")
def log2(input: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return mul(log(input), 1.0 / math.log(2.0))


@once("log10")
def log10(input: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return mul(log(input), 1.0 / math.log(10.0))


def sqrt(input: Tensor) -> Tensor:
    """The square root; NaN below zero."""
    return pointwise(Sqrt(), input)


def rsqrt(input: Tensor) -> Tensor:
    """``1 / sqrt(input)``."""
    return pointwise(Rsqrt(), input)


def reciprocal(input: Tensor) -> Tensor:
    """``1 / input``."""
    return div(1, input)


def square(input: Tensor) -> Tensor:
    """``input * input``."""
    return pow(input, 2)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return pointwise(Tanh(), input)


def erf(input: Tensor) -> Tensor:
    """The error function."""
    return pointwise(Erf(), input)


def sin(input: Tensor) -> Tensor:
    """The sine of an angle in radians."""
    return pointwise(Sin(), input)


def cos(input: Tensor) -> Tensor:
    """The cosine of an angle in radians."""
    return pointwise(Cos(), input)


# rounding; integers stay as they are


def floor(input: Tensor) -> Tensor:
    """The largest integer not above."""
    return _rounded(Floor(), input)


def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below."""
    return _rounded(Ceil(), input)


def trunc(input: Tensor) -> Tensor:
    """The integer part."""
    return _rounded(Trunc(), input)


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; ``decimals`` digits after the point."""
    if decimals == 0:
        return _rounded(Round(), input)
    return _at_digit(input, 10.0**decimals)


@once("round")
def _at_digit(input: Tensor, scale: float) -> Tensor:
    return div(_rounded(Round(), mul(input, scale)), scale)


def frac(input: Tensor) -> Tensor:
    """What :func:`trunc` takes away."""
    return sub(input, trunc(input))


def _rounded(op: Elementwise, input: Tensor) -> Tensor:
    expect_tensor(op.name, "input", input)
    return input.clone() if input.type.dtype.kind == "int" else pointwise(op, input)
