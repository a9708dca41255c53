"""Comparisons, logic, and choosing between values.

where(x > 0, x, 0)       # the way to branch on data inside a compiled function
masked_fill(x, mask, -inf)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.elementwise import abs, add, mul, sub
from vtc.frontend.functions.promotion import (
    cast,
    common_shape,
    expand_to,
    fit,
    pointwise,
    result_type,
    tensor_of,
)
from vtc.frontend.source import located
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.logic import (
    Eq,
    Ge,
    Gt,
    Isnan,
    Le,
    LogicalAnd,
    LogicalNot,
    LogicalOr,
    LogicalXor,
    Lt,
    Ne,
    Where,
)
from vtc.ir.ops.shift import LeftShift, RightShift
from vtc.ir.types import bool_

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def eq(input: Value, other: Value) -> Tensor:
    """Where the two are equal."""
    return pointwise(Eq(), input, other)


def ne(input: Value, other: Value) -> Tensor:
    """Where the two differ; NaN differs from itself."""
    return pointwise(Ne(), input, other)


def lt(input: Value, other: Value) -> Tensor:
    """Where ``input < other``."""
    return pointwise(Lt(), input, other)


def le(input: Value, other: Value) -> Tensor:
    """Where ``input <= other``."""
    return pointwise(Le(), input, other)


def gt(input: Value, other: Value) -> Tensor:
    """Where ``input > other``."""
    return pointwise(Gt(), input, other)


def ge(input: Value, other: Value) -> Tensor:
    """Where ``input >= other``."""
    return pointwise(Ge(), input, other)


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have one shape and equal elements; not inside a compiled function."""
    expect_tensor("equal", "input", input)
    expect_tensor("equal", "other", other)
    same = input.type.shape == other.type.shape
    return same and _all(eq(input, other))


def isnan(input: Tensor) -> Tensor:
    """Where ``input`` is NaN."""
    return pointwise(Isnan(), input) if _is_float(input) else ne(input, input)


def isinf(input: Tensor) -> Tensor:
    """Where ``input`` is plus or minus infinity."""
    return eq(abs(input), math.inf) if _is_float(input) else ne(input, input)


def isfinite(input: Tensor) -> Tensor:
    """Where ``input`` is neither infinite nor NaN."""
    return lt(abs(input), math.inf) if _is_float(input) else eq(input, input)


def isclose(
    input: Tensor,
    other: Tensor,
    rtol: float = 1e-05,
    atol: float = 1e-08,
    equal_nan: bool = False,
) -> Tensor:
    """Where ``|input - other| <= atol + rtol * |other|``; equal infinities are close."""
    expect_tensor("isclose", "input", input)
    if input.type.dtype is bool_ and other.type.dtype is bool_:
        return eq(input, other)
    near = le(abs(sub(input, other)), add(mul(abs(other), rtol), atol))
    close = logical_or(eq(input, other), logical_and(near, isfinite(other)))
    return logical_or(close, logical_and(isnan(input), isnan(other))) if equal_nan else close


def allclose(
    input: Tensor,
    other: Tensor,
    rtol: float = 1e-05,
    atol: float = 1e-08,
    equal_nan: bool = False,
) -> bool:
    """Whether :func:`isclose` everywhere; not inside a compiled function."""
    return _all(isclose(input, other, rtol, atol, equal_nan))


# logic: what is not zero is true


def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """Where both are true."""
    return pointwise(LogicalAnd(), truth(input), truth(other))


def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """Where either is true."""
    return pointwise(LogicalOr(), truth(input), truth(other))


def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """Where exactly one is true."""
    return pointwise(LogicalXor(), truth(input), truth(other))


def logical_not(input: Tensor) -> Tensor:
    """Where ``input`` is false."""
    return pointwise(LogicalNot(), truth(input))


def truth(input: Tensor) -> Tensor:
    """``input != 0``."""
    expect_tensor("logical", "operands", input)
    return cast(input, bool_)


def bitwise_and(input: Value, other: Value) -> Tensor:
    """``input & other`` of integers, or of bools."""
    return _bitwise(LogicalAnd(), "bitwise_and", input, other)


def bitwise_or(input: Value, other: Value) -> Tensor:
    """``input | other`` of integers, or of bools."""
    return _bitwise(LogicalOr(), "bitwise_or", input, other)


def bitwise_xor(input: Value, other: Value) -> Tensor:
    """``input ^ other`` of integers, or of bools."""
    return _bitwise(LogicalXor(), "bitwise_xor", input, other)


def bitwise_not(input: Tensor) -> Tensor:
    """``~input`` of integers, or of bools."""
    return _bitwise(LogicalNot(), "bitwise_not", input)


def bitwise_left_shift(input: Value, other: Value) -> Tensor:
    """``input << other`` of integers: the bits that fit."""
    return _shifted(LeftShift(), "bitwise_left_shift", input, other)


def bitwise_right_shift(input: Value, other: Value) -> Tensor:
    """``input >> other`` of integers, rounded down."""
    return _shifted(RightShift(), "bitwise_right_shift", input, other)


def _shifted(op: Elementwise, name: str, input: Value, other: Value) -> Tensor:
    dtype = result_type(input, other)
    if dtype.kind != "int":
        raise located(TypeCheckError, f"{name}: expected integers, got {dtype}")
    return pointwise(op, input, other)


def _bitwise(op: Elementwise, name: str, *values: Value) -> Tensor:
    dtype = result_type(*values)
    if dtype.kind not in ("bool", "int"):
        raise located(TypeCheckError, f"{name}: expected integers or bools, got {dtype}")
    return pointwise(op, *values)


# choosing


@overload
def where(condition: Tensor) -> tuple[Tensor, ...]: ...
@overload
def where(condition: Tensor, input: Value, other: Value) -> Tensor: ...
def where(condition: Tensor, input: Value | None = None, other: Value | None = None) -> Any:
    """``input`` where ``condition`` (bool) is true, else ``other``.

    Without both, the places where ``condition``, of any dtype, is not zero: one index per axis.
    """
    expect_tensor("where", "condition", condition)
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if condition.type.dtype is not bool_:
        raise located(TypeCheckError, f"where: expected a bool condition, got {condition.type}")
    if input is None or other is None:
        raise located(ArgumentError, "where: expected both input and other, got one")
    dtype = result_type(input, other)
    types = [v.type for v in (condition, input, other) if is_tensor(v)]
    shape = common_shape("where", types)
    x, y = (fit("where", v, dtype, shape) for v in (input, other))
    return dispatch.apply(Where(), expand_to("where", condition, shape), x, y)


def masked_fill(input: Tensor, mask: Tensor, value: Value) -> Tensor:
    """``input`` with the number ``value`` where ``mask`` (bool) is true."""
    expect_tensor("masked_fill", "mask", mask)
    if mask.type.dtype is not bool_:
        raise located(TypeCheckError, f"masked_fill: expected a bool mask, got {mask.type}")
    if is_tensor(value) and value.type.rank:
        raise located(TypeCheckError, f"masked_fill: expected a 0-d value, got {value.type}")
    dtype = input.type.dtype
    shape = common_shape("masked_fill", [input.type, mask.type])
    filler = tensor_of(value, dtype)
    x, fill = (expand_to("masked_fill", v, shape) for v in (input, filler))
    return dispatch.apply(Where(), expand_to("masked_fill", mask, shape), fill, x)


def _is_float(input: Tensor) -> bool:
    expect_tensor("isnan", "input", input)
    return input.type.dtype.kind == "float"


def _all(mask: Tensor) -> bool:
    return bool(mask.all())
