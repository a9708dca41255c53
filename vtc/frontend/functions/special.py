"""Functions of one number or two beyond arithmetic: angles, hyperbolas, and special functions.

atan2(y, x)
log1p(x)                 # log(1 + x), exact near 0
nan_to_num(x, posinf=1e4)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, reduce
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.info import finfo
from vtc.frontend.functions.once import once
from vtc.frontend.functions.promotion import (
    cast,
    floating,
    meet,
    plain,
    pointwise,
    result_type,
    to_float,
)
from vtc.frontend.source import located
from vtc.ir.ops import special, trigonometric
from vtc.ir.ops.logic import Signbit
from vtc.ir.types import c128, f64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# angles


def tan(input: Tensor) -> Tensor:
    """The tangent of an angle in radians."""
    return pointwise(trigonometric.Tan(), input)


def asin(input: Tensor) -> Tensor:
    """The angle in ``[-pi/2, pi/2]`` whose sine is ``input``; NaN outside ``[-1, 1]``."""
    return pointwise(trigonometric.Asin(), input)


def acos(input: Tensor) -> Tensor:
    """The angle in ``[0, pi]`` whose cosine is ``input``; NaN outside ``[-1, 1]``."""
    return pointwise(trigonometric.Acos(), input)


def atan(input: Tensor) -> Tensor:
    """The angle in ``[-pi/2, pi/2]`` whose tangent is ``input``."""
    return pointwise(trigonometric.Atan(), input)


def atan2(input: Value, other: Value) -> Tensor:
    """The angle in ``[-pi, pi]`` of the point at ``other`` to the right and ``input`` up."""
    return pointwise(trigonometric.Atan2(), input, other)


def hypot(input: Value, other: Value) -> Tensor:
    """``sqrt(input**2 + other**2)`` without overflow."""
    return pointwise(trigonometric.Hypot(), input, other)


@once("deg2rad")
def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    return elementwise.mul(input, math.pi / 180)


@once("rad2deg")
def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    return elementwise.mul(input, 180 / math.pi)


@once("sinc")
def sinc(input: Tensor) -> Tensor:
    """``sin(pi * x) / (pi * x)``, 1 at 0."""
    x = elementwise.mul(input, math.pi)
    zero = comparison.eq(x, 0)
    safe: Tensor = comparison.where(zero, 1.0, x)
    found: Tensor = comparison.where(zero, 1.0, elementwise.div(elementwise.sin(safe), safe))
    return found


# hyperbolas


def sinh(input: Tensor) -> Tensor:
    """The hyperbolic sine."""
    return pointwise(trigonometric.Sinh(), input)


def cosh(input: Tensor) -> Tensor:
    """The hyperbolic cosine."""
    return pointwise(trigonometric.Cosh(), input)


def asinh(input: Tensor) -> Tensor:
    """The number whose hyperbolic sine is ``input``."""
    return pointwise(trigonometric.Asinh(), input)


def acosh(input: Tensor) -> Tensor:
    """The number, at least 0, whose hyperbolic cosine is ``input``; NaN below 1."""
    return pointwise(trigonometric.Acosh(), input)


def atanh(input: Tensor) -> Tensor:
    """The number whose hyperbolic tangent is ``input``; NaN outside ``[-1, 1]``."""
    return pointwise(trigonometric.Atanh(), input)


# powers and logarithms


def exp2(input: Tensor) -> Tensor:
    """``2 ** input``."""
    return pointwise(special.Exp2(), input)


def expm1(input: Tensor) -> Tensor:
    """``exp(input) - 1``, exact near 0."""
    return pointwise(special.Expm1(), input)


def log1p(input: Tensor) -> Tensor:
    """``log(1 + input)``, exact near 0; NaN below -1."""
    return pointwise(special.Log1p(), input)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """``log(p / (1 - p))``; with ``eps``, of ``input`` brought into ``[eps, 1 - eps]``."""
    expect_tensor("logit", "input", input)
    p = to_float(input)
    p = p if eps is None else elementwise.clamp(p, eps, 1 - eps)
    return elementwise.log(elementwise.div(p, elementwise.sub(1, p)))


def logaddexp(input: Value, other: Value) -> Tensor:
    """``log(exp(input) + exp(other))`` without overflow."""
    return pointwise(special.Logaddexp(), input, other)


@once("logaddexp2")
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """``log2(2 ** input + 2 ** other)`` without overflow."""
    expect_tensor("logaddexp2", "input", input)
    expect_tensor("logaddexp2", "other", other)
    dtype = floating(result_type(input, other))
    x, y = (elementwise.mul(cast(v, dtype), math.log(2.0)) for v in (input, other))
    return elementwise.mul(logaddexp(x, y), 1 / math.log(2.0))


def xlogy(input: Value, other: Value) -> Tensor:
    """``input * log(other)``; 0 where ``input`` is, unless ``other`` is NaN."""
    return pointwise(special.Xlogy(), input, other)


def float_power(input: Value, exponent: Value) -> Tensor:
    """``input ** exponent`` in float64."""
    wide = c128 if result_type(input, exponent).kind == "complex" else f64
    base, power = (cast(v, wide) if is_tensor(v) else v for v in (input, exponent))
    return elementwise.pow(base, power)


# relatives of erf and of gamma


def erfc(input: Tensor) -> Tensor:
    """``1 - erf(input)``, exact where that is small."""
    return pointwise(special.Erfc(), input)


def erfinv(input: Tensor) -> Tensor:
    """The number whose error function is ``input``; NaN outside ``[-1, 1]``."""
    return pointwise(special.Erfinv(), input)


def lgamma(input: Tensor) -> Tensor:
    """The logarithm of the magnitude of the gamma function."""
    return pointwise(special.Lgamma(), input)


def digamma(input: Tensor) -> Tensor:
    """The derivative of :func:`lgamma`."""
    return pointwise(special.Digamma(), input)


def polygamma(n: int, input: Tensor) -> Tensor:
    """The derivative of order ``n`` of :func:`digamma`."""
    if not isinstance(n, int) or n < 0:
        raise located(ArgumentError, f"polygamma: expected an integer n >= 0, got {n!r}")
    if n == 0:
        return digamma(input)
    expect_tensor("polygamma", "input", input)
    return dispatch.apply(special.Polygamma(n=n), to_float(input))


# signs and what is no number


def sgn(input: Tensor) -> Tensor:
    """-1, 0 or 1, as the sign is; of NaN 0."""
    return elementwise.sign(input)


def positive(input: Tensor) -> Tensor:
    """``input`` itself. TypeCheckError for bool."""
    expect_tensor("positive", "input", input)
    if input.type.dtype.kind == "bool":
        raise located(TypeCheckError, f"positive: expected numbers, got {input.type}")
    return input


def signbit(input: Tensor) -> Tensor:
    """Where the sign is minus, as that of -0.0 and of some NaNs is."""
    expect_tensor("signbit", "input", input)
    if input.type.dtype.kind != "float":
        return comparison.lt(input, 0)
    return pointwise(Signbit(), input)


def copysign(input: Tensor, other: Value) -> Tensor:
    """``input`` with the sign of ``other``."""
    x, y = meet("copysign", result_type(input, other), input, other)
    size = elementwise.abs(to_float(x))
    found: Tensor = comparison.where(signbit(y), elementwise.neg(size), size)
    return found


def isposinf(input: Tensor) -> Tensor:
    """Where ``input`` is infinity."""
    return _is(input, math.inf)


def isneginf(input: Tensor) -> Tensor:
    """Where ``input`` is minus infinity."""
    return _is(input, -math.inf)


def _is(input: Tensor, value: float) -> Tensor:
    expect_tensor("isposinf", "input", input)
    floating = input.type.dtype.kind == "float"
    return comparison.eq(input, value) if floating else comparison.ne(input, input)


def nan_to_num(
    input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """``input`` with numbers instead of NaN and infinities, which become the largest by default."""
    expect_tensor("nan_to_num", "input", input)
    dtype = input.type.dtype
    if dtype.kind != "float":
        return input.clone()
    limits = finfo(dtype)
    x: Tensor = comparison.where(comparison.isnan(input), nan, input)
    x = comparison.where(isposinf(x), limits.max if posinf is None else posinf, x)
    found: Tensor = comparison.where(
        comparison.eq(input, -math.inf), limits.min if neginf is None else neginf, x
    )
    return found


def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two; a number wins over NaN. The gradient of a tie goes to ``input``."""
    return _extreme("fmax", input, other, larger=True)


def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two; a number wins over NaN. The gradient of a tie goes to ``input``."""
    return _extreme("fmin", input, other, larger=False)


def _extreme(name: str, input: Tensor, other: Tensor, *, larger: bool) -> Tensor:
    x, y = meet(name, result_type(input, other), input, other)
    first = comparison.ge(x, y) if larger else comparison.le(x, y)
    if x.type.dtype.kind == "float":
        first = comparison.logical_or(first, comparison.isnan(y))
    found: Tensor = comparison.where(first, x, y)
    return found


def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, and ``values`` at 0. TypeCheckError for two dtypes."""
    for argument, value in (("input", input), ("values", values)):
        expect_tensor("heaviside", argument, value)
    if input.type.dtype is not values.type.dtype:
        got = f"got {input.type} and {values.type}"
        raise located(TypeCheckError, f"heaviside: expected tensors of one dtype, {got}")
    x, y = meet("heaviside", input.type.dtype, input.detach(), values.detach())
    step = cast(comparison.gt(x, 0), x.type.dtype)
    found: Tensor = comparison.where(comparison.eq(x, 0), y, step)
    return found


def clamp_min(input: Tensor, min: Value) -> Tensor:
    """``input``, at least ``min``."""
    return elementwise.clamp(input, min=min)


def clamp_max(input: Tensor, max: Value) -> Tensor:
    """``input``, at most ``max``."""
    return elementwise.clamp(input, max=max)


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The ``p``-norm of ``input - other``."""
    return reduce.norm(elementwise.sub(input, other), plain(p))
