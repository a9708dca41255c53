"""Functions of ``torch.special`` that belong to distributions.

ndtr(x), ndtri(p), log_ndtr(x)       # of the normal distribution
entr(p)                              # -p * log(p)
erfcx(x)                             # exp(x**2) * erfc(x), which does not underflow
multigammaln(x, 3)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vtc.errors import ArgumentError
from vtc.frontend.functions import comparison, elementwise, special
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.promotion import cast, pointwise, to_float
from vtc.frontend.source import located
from vtc.ir.ops.special import Xlogy
from vtc.ir.types import f64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def entr(input: Tensor) -> Tensor:
    """``-input * log(input)``: 0 at 0, and -inf below."""
    expect_tensor("entr", "input", input)
    x = to_float(input)
    inside: Tensor = comparison.where(comparison.lt(x, 0), 1.0, x)
    found = elementwise.neg(pointwise(Xlogy(), inside, inside))
    out: Tensor = comparison.where(comparison.lt(x, 0), -math.inf, found)
    return out


def xlog1py(input: Value, other: Value) -> Tensor:
    """``input * log(1 + other)``; 0 where ``input`` is, unless ``other`` is NaN."""
    more = special.log1p(other) if is_tensor(other) else math.log1p(_real(other))
    product = elementwise.mul(input, more)
    zero = comparison.eq(input, 0) if is_tensor(input) else _real(input) == 0
    if not is_tensor(zero):
        zero = comparison.ne(product, product) if zero else comparison.isnan(product) & False
    nan = comparison.isnan(other) if is_tensor(other) else math.isnan(_real(other))
    calm = comparison.logical_and(zero, comparison.logical_not(nan)) if is_tensor(nan) else zero
    found: Tensor = comparison.where(calm, 0.0, product)
    return cast(found, product.type.dtype)


def _real(value: Value) -> float:
    return float(value.real) if isinstance(value, complex) else float(value)


def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of ``p`` dims, above ``(p - 1) / 2``."""
    expect_tensor("mvlgamma", "input", input)
    if p < 1:
        raise located(ArgumentError, f"mvlgamma: expected p >= 1, got {p}")
    x = to_float(input)
    found = elementwise.add(special.lgamma(x), p * (p - 1) / 4 * math.log(math.pi))
    for k in range(1, p):
        found = elementwise.add(found, special.lgamma(elementwise.sub(x, k / 2)))
    return found


# the normal distribution


def ndtr(input: Tensor) -> Tensor:
    """How likely a standard normal number is at most ``input``."""
    x = to_float(input)
    return elementwise.mul(special.erfc(elementwise.mul(x, -math.sqrt(0.5))), 0.5)


def ndtri(input: Tensor) -> Tensor:
    """The number that :func:`ndtr` gives ``input`` of; NaN outside ``[0, 1]``."""
    p = to_float(input)
    dtype = p.type.dtype
    return cast(_quantile(cast(p, f64)), dtype)


def _quantile(p: Tensor) -> Tensor:
    """Newton's steps from :func:`erfinv`, which is exact but in the tails.

    Above 1/2 the tail is that of ``1 - p``, which is exact there.
    """
    above = comparison.gt(p, 0.5)
    tail: Tensor = comparison.where(above, elementwise.sub(1.0, p), p)
    good = comparison.logical_and(comparison.gt(tail, 0), comparison.lt(tail, 1))
    safe: Tensor = comparison.where(good, tail, 0.25)
    x = _first_guess(safe.detach())
    for _ in range(_STEPS):
        # Of log(ndtr), which is almost a parabola, so that far tails need few steps.
        low = log_ndtr(x)
        slope = elementwise.exp(x * x * -0.5 - _HALF - low)
        x = x - (low - elementwise.log(safe)) / slope
    edge: Tensor = comparison.where(comparison.eq(tail, 0), -math.inf, math.nan)
    found: Tensor = comparison.where(good, x, edge)
    out: Tensor = comparison.where(above, elementwise.neg(found), found)
    return out


_HALF = 0.5 * math.log(2 * math.pi)
_STEPS = 4


def _first_guess(p: Tensor) -> Tensor:
    """The quantile of small ``p`` to three digits (Abramowitz and Stegun 26.2.23)."""
    t = elementwise.sqrt(elementwise.mul(elementwise.log(p), -2.0))
    top = ((0.010328 * t + 0.802853) * t) + 2.515517
    bottom = ((0.001308 * t + 0.189269) * t + 1.432788) * t + 1.0
    return elementwise.sub(elementwise.div(top, bottom), t)


def log_ndtr(input: Tensor) -> Tensor:
    """``log(ndtr(input))``, exact in both tails."""
    x = to_float(input)
    z = elementwise.mul(x, math.sqrt(0.5))
    low = comparison.lt(x, -1)
    down: Tensor = comparison.where(low, elementwise.neg(z), 1.0)
    below = elementwise.sub(
        elementwise.log(elementwise.mul(erfcx(down), 0.5)), elementwise.mul(down, down)
    )
    up: Tensor = comparison.where(low, 0.0, z)
    above = special.log1p(elementwise.mul(special.erfc(up), -0.5))
    found: Tensor = comparison.where(low, below, above)
    return found


# exp(x**2) * erfc(x)


def erfcx(input: Tensor) -> Tensor:
    """``exp(input**2) * erfc(input)``, computed in float64; it does not underflow."""
    x = to_float(input)
    wide = cast(x, f64)
    far = comparison.gt(wide, _FAR)
    near: Tensor = comparison.where(far, 1.0, wide)
    product = elementwise.mul(elementwise.exp(elementwise.mul(near, near)), special.erfc(near))
    beyond: Tensor = comparison.where(far, wide, _FAR)
    found: Tensor = comparison.where(far, _tail(beyond), product)
    return cast(found, x.type.dtype)


_FAR = 8.0
"""From there on 20 terms of the asymptotic series are exact in float64."""


def _tail(x: Tensor) -> Tensor:
    """The asymptotic series ``1/(x sqrt(pi)) * sum (-1)**n (2n-1)!! / (2 x**2)**n``, nested."""
    share = elementwise.div(0.5, elementwise.mul(x, x))
    total = elementwise.mul(share, 0.0)
    for n in range(20, 0, -1):
        total = elementwise.mul(
            elementwise.mul(share, -(2.0 * n - 1.0)), elementwise.add(total, 1.0)
        )
    return elementwise.div(elementwise.add(total, 1.0), elementwise.mul(x, math.sqrt(math.pi)))
