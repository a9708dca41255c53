"""The methods of ``vtc.Tensor`` beyond arithmetic, and their in-place forms.

A table like :mod:`~vtc.frontend.functions.methods`, which inherits it::

    log1p = special.log1p
    log1p_ = in_place(special.log1p)
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from vtc.errors import TypeCheckError
from vtc.frontend.functions import comparison, distributions, elementwise, special
from vtc.frontend.functions.arguments import Value
from vtc.frontend.functions.inplace import in_place
from vtc.frontend.source import located
from vtc.ir.types import c128, f64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor
    from vtc.ir.types import TensorType


def _polygamma(input: Tensor, n: int) -> Tensor:
    """The derivative of order ``n`` of :func:`digamma`."""
    return special.polygamma(n, input)


_polygamma.__name__ = "polygamma"


def _float_power_(input: Tensor, exponent: Value) -> Tensor:
    """``float_power``, written into ``input``. TypeCheckError unless that is of float64."""
    if input.type.dtype not in (f64, c128):
        message = f"float_power_: expected a tensor of float64, got {input.type}"
        raise located(TypeCheckError, message)
    return in_place(special.float_power)(input, exponent)


class MathMethods:
    """What :class:`~vtc.frontend.functions.methods.TensorMethods` inherits; see the module."""

    __slots__ = ()

    @property
    @abc.abstractmethod
    def type(self) -> TensorType:
        """The IR type."""

    # angles and hyperbolas

    acos = special.acos
    acos_ = in_place(special.acos)
    acosh = special.acosh
    acosh_ = in_place(special.acosh)
    asin = special.asin
    asin_ = in_place(special.asin)
    asinh = special.asinh
    asinh_ = in_place(special.asinh)
    atan = special.atan
    atan2 = special.atan2
    atan2_ = in_place(special.atan2)
    atan_ = in_place(special.atan)
    atanh = special.atanh
    atanh_ = in_place(special.atanh)
    cosh = special.cosh
    cosh_ = in_place(special.cosh)
    deg2rad = special.deg2rad
    deg2rad_ = in_place(special.deg2rad)
    hypot = special.hypot
    hypot_ = in_place(special.hypot)
    rad2deg = special.rad2deg
    rad2deg_ = in_place(special.rad2deg)
    sinc = special.sinc
    sinc_ = in_place(special.sinc)
    sinh = special.sinh
    sinh_ = in_place(special.sinh)
    tan = special.tan
    tan_ = in_place(special.tan)

    # powers, logarithms, special functions

    digamma = special.digamma
    digamma_ = in_place(special.digamma)
    erfc = special.erfc
    erfc_ = in_place(special.erfc)
    erfinv = special.erfinv
    erfinv_ = in_place(special.erfinv)
    exp2 = special.exp2
    exp2_ = in_place(special.exp2)
    expm1 = special.expm1
    expm1_ = in_place(special.expm1)
    float_power = special.float_power
    float_power_ = _float_power_
    lgamma = special.lgamma
    lgamma_ = in_place(special.lgamma)
    log10_ = in_place(elementwise.log10)
    log1p = special.log1p
    log1p_ = in_place(special.log1p)
    log2_ = in_place(elementwise.log2)
    logaddexp = special.logaddexp
    logaddexp2 = special.logaddexp2
    logit = special.logit
    logit_ = in_place(special.logit)
    polygamma = _polygamma
    polygamma_ = in_place(_polygamma)
    xlogy = special.xlogy
    xlogy_ = in_place(special.xlogy)

    # signs, choices, rounding

    clamp_max = special.clamp_max
    clamp_max_ = in_place(special.clamp_max)
    clamp_min = special.clamp_min
    clamp_min_ = in_place(special.clamp_min)
    clip = elementwise.clamp
    clip_ = in_place(elementwise.clamp)
    copysign = special.copysign
    copysign_ = in_place(special.copysign)
    dist = special.dist
    fmax = special.fmax
    fmin = special.fmin
    fmod_ = in_place(elementwise.fmod)
    frac_ = in_place(elementwise.frac)
    heaviside = special.heaviside
    heaviside_ = in_place(special.heaviside)
    isneginf = special.isneginf
    isposinf = special.isposinf
    nan_to_num = special.nan_to_num
    nan_to_num_ = in_place(special.nan_to_num)
    positive = special.positive
    sgn = special.sgn
    sgn_ = in_place(special.sgn)
    signbit = special.signbit
    true_divide = elementwise.true_divide
    true_divide_ = in_place(elementwise.true_divide)

    # comparisons and bits

    bitwise_left_shift = comparison.bitwise_left_shift
    bitwise_left_shift_ = in_place(comparison.bitwise_left_shift)
    bitwise_not_ = in_place(comparison.bitwise_not)
    bitwise_right_shift = comparison.bitwise_right_shift
    bitwise_right_shift_ = in_place(comparison.bitwise_right_shift)
    eq_ = in_place(comparison.eq)
    ge_ = in_place(comparison.ge)
    gt_ = in_place(comparison.gt)
    le_ = in_place(comparison.le)
    logical_xor_ = in_place(comparison.logical_xor)
    lt_ = in_place(comparison.lt)
    ne_ = in_place(comparison.ne)

    # random numbers

    cauchy_ = distributions.cauchy_
    exponential_ = distributions.exponential_
    geometric_ = distributions.geometric_
    log_normal_ = distributions.log_normal_
    random_ = distributions.random_
