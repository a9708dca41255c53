"""What numbers are made of: exponents, angles, real parts; and arithmetic by other names.

mantissa, exponent = frexp(x)        # x == mantissa * 2 ** exponent, exactly
ldexp(mantissa, exponent)
angle(x)                             # 0, or pi below 0
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, special
from vtc.frontend.functions.arguments import Value, expect_tensor, is_tensor
from vtc.frontend.functions.info import finfo
from vtc.frontend.functions.promotion import cast, checked, number, to_float
from vtc.frontend.source import located
from vtc.ir.types import bool_, i32

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class FrexpResult(NamedTuple):
    """What :func:`frexp` returns."""

    mantissa: Tensor
    exponent: Tensor


def frexp(input: Tensor) -> FrexpResult:
    """``input`` as ``mantissa * 2 ** exponent`` (int32) with a mantissa from 1/2 up to 1.

    Zeros, infinities and NaN are their own mantissa; their exponent is 0. The gradient of the
    mantissa is that of a division by a constant. TypeCheckError for integers.
    """
    _expect_float("frexp", input)
    dtype = input.type.dtype
    x = cast(input, dtype.accumulate)
    size = elementwise.abs(x).detach()
    plain = comparison.logical_and(comparison.ne(size, 0), comparison.isfinite(size))
    # Subnormal numbers first become normal ones; the logarithm may be off by one at powers of 2.
    lift = -math.log2(finfo(x.type.dtype).eps) + 2
    low = comparison.lt(size, finfo(x.type.dtype).smallest_normal)
    raised: Tensor = comparison.where(low, elementwise.mul(size, 2.0**lift), size)
    safe: Tensor = comparison.where(plain, raised, 1.0)
    guess = elementwise.add(elementwise.floor(elementwise.log2(safe)), 1.0)
    rest = _scaled(safe, elementwise.neg(guess))
    more = cast(comparison.ge(rest, 1.0), guess.type.dtype)
    less = cast(comparison.lt(rest, 0.5), guess.type.dtype)
    power = elementwise.sub(elementwise.add(guess, more), less)
    power = elementwise.sub(power, elementwise.mul(cast(low, power.type.dtype), lift))
    exponent: Tensor = comparison.where(plain, power, 0.0)
    return FrexpResult(cast(_scaled(x, elementwise.neg(exponent)), dtype), cast(exponent, i32))


def _scaled(x: Tensor, power: Tensor) -> Tensor:
    """``x * 2 ** power`` in two steps, of which none overflows where the result does not."""
    half = elementwise.floor(elementwise.mul(power, 0.5))
    first = elementwise.mul(x, special.exp2(half))
    return elementwise.mul(first, special.exp2(elementwise.sub(power, half)))


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2 ** other``."""
    return elementwise.mul(input, elementwise.pow(2.0, other))


def angle(input: Tensor) -> Tensor:
    """The angle of each number in the complex plane: 0, or pi below 0; NaN of NaN."""
    expect_tensor("angle", "input", input)
    _expect_real("angle", input)
    x = to_float(input).detach()
    turned: Tensor = comparison.where(comparison.lt(x, 0), math.pi, number(0, x.type.dtype))
    found: Tensor = comparison.where(comparison.isnan(x), x, turned)
    return found


def real(input: Tensor) -> Tensor:
    """The real part: ``input`` itself. TypeCheckError for complex numbers."""
    expect_tensor("real", "input", input)
    _expect_real("real", input)
    return input


def conj(input: Tensor) -> Tensor:
    """The conjugate: ``input`` itself. TypeCheckError for complex numbers."""
    expect_tensor("conj", "input", input)
    _expect_real("conj", input)
    return input


def isreal(input: Tensor) -> Tensor:
    """Where the imaginary part is 0: everywhere. TypeCheckError for complex numbers."""
    expect_tensor("isreal", "input", input)
    _expect_real("isreal", input)
    return dispatch.constant(True, bool_, input.type.shape, input.device)


def _expect_real(name: str, x: Tensor) -> None:
    if x.type.dtype.is_complex:
        raise located(TypeCheckError, f"{name}: vtc computes with real numbers only, got {x.type}")


def _expect_float(name: str, x: Tensor) -> None:
    expect_tensor(name, "input", x)
    if x.type.dtype.kind != "float":
        message = f"{name}: expected a floating-point input, got {x.type}"
        raise located(TypeCheckError, message)


def rsub(input: Tensor, other: Value, *, alpha: Value = 1) -> Tensor:
    """``other - alpha * input``."""
    return elementwise.sub(other, input, alpha=alpha)


def fill(input: Tensor, value: Value) -> Tensor:
    """``value``, a number or a 0-d tensor, everywhere, in the shape and dtype of ``input``."""
    expect_tensor("fill", "input", input)
    type = input.type
    if not is_tensor(value):
        return number(checked("fill", value, type.dtype), type.dtype, type.shape).clone()
    if value.type.rank:
        raise located(TypeCheckError, f"fill: expected a 0-d value, got {value.type}")
    return cast(value, type.dtype).expand(type.shape).clone()
