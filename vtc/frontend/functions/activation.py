"""Activations, softmax, and what is like them: functions of a float tensor.

gelu(x, approximate="tanh")
softmax(x, dim=-1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, random, special, view
from vtc.frontend.functions.arguments import axis, expect_tensor, own_axis
from vtc.frontend.functions.once import once
from vtc.frontend.functions.promotion import cast, to_float
from vtc.frontend.source import located
from vtc.ir.ops.activation import Gelu, LogSoftmax, Relu, Sigmoid, Silu, Softmax
from vtc.ir.types import DType, bool_

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(input, 0)``; its gradient at 0 is 0."""
    expect_tensor("relu", "input", input)
    if input.type.dtype is bool_:
        raise located(TypeCheckError, f"relu: expected numbers, got {input.type}")
    return _into(input, dispatch.apply(Relu(), input), inplace)


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + exp(-input))``; integers become floats."""
    expect_tensor("sigmoid", "input", input)
    return dispatch.apply(Sigmoid(), to_float(input))


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * sigmoid(input)``."""
    expect_tensor("silu", "input", input)
    return _into(input, dispatch.apply(Silu(), _kept(input, inplace)), inplace)


def _kept(input: Tensor, inplace: bool) -> Tensor:
    """``input``, or a copy for the backward if it is to be overwritten."""
    recorded = inplace and not dispatch.is_capturing() and dispatch.grad_enabled()
    return input.clone() if recorded and input.requires_grad else input


def _into(input: Tensor, out: Tensor, inplace: bool) -> Tensor:
    """``out``, written into ``input`` if ``inplace``."""
    return dispatch.write(input, out) if inplace else out


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``input`` times the normal distribution's CDF at it; ``approximate`` is "none" or "tanh"."""
    expect_tensor("gelu", "input", input)
    if approximate not in ("none", "tanh"):
        message = f"gelu: expected approximate='none' or 'tanh', got {approximate!r}"
        raise located(ArgumentError, message)
    return dispatch.apply(Gelu(approximate=approximate), input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``input``, times ``negative_slope`` below 0."""
    return _into(input, _leaky(_kept(input, inplace), negative_slope), inplace)


@once("leaky_relu")
def _leaky(x: Tensor, slope: float) -> Tensor:
    return comparison.where(comparison.gt(x, 0), x, elementwise.mul(x, slope))


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``input`` clamped to ``[0, 6]``; its gradient at the bounds is 0."""
    return hardtanh(input, 0, 6, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``input``, or ``alpha * (exp(input) - 1)`` below 0; its gradient at 0 is ``alpha``."""
    return _into(input, _bent(_kept(input, inplace), 1.0, alpha, 1.0), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """A multiple of :func:`elu` under which a deep network keeps mean 0 and variance 1."""
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return _into(input, _bent(_kept(input, inplace), scale, alpha * scale, 1.0), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``input``, or ``alpha * (exp(input / alpha) - 1)`` below 0."""
    if alpha == 0:
        raise located(ArgumentError, "celu: expected alpha other than 0, got 0")
    return _into(input, _bent(_kept(input, inplace), 1.0, alpha, 1 / alpha), inplace)


@once("elu")
def _bent(input: Tensor, scale: float, factor: float, rate: float) -> Tensor:
    """``scale * input`` where ``input > 0``, else ``factor * (exp(rate * input) - 1)``."""
    above = input if scale == 1 else elementwise.mul(input, scale)
    low = comparison.le(input, 0)
    below = comparison.where(low, input, 0)  # never overflows, so no NaN gradient
    below = below if rate == 1 else elementwise.mul(below, rate)
    return comparison.where(low, elementwise.mul(special.expm1(below), factor), above)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``input``, times ``weight`` below 0: one number, or one for each of dim 1 of ``input``."""
    for argument, value in (("input", input), ("weight", weight)):
        expect_tensor("prelu", argument, value)
    x, w = input.type, weight.type
    channels = x.shape[1] if x.rank > 1 else 1
    if w.rank > 1 or w.numel not in (1, channels):
        got = f"got {w} for {x}"
        raise located(TypeCheckError, f"prelu: expected a weight of 1 or {channels} numbers, {got}")
    shape = (1, w.numel, *(1,) * (x.rank - 2)) if w.numel != 1 else ()
    slope = view.reshape(weight, shape)
    return comparison.where(comparison.gt(input, 0), input, elementwise.mul(input, slope))


def rrelu(
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """``input``, below 0 times a number drawn from ``[lower, upper)``; their mean if not
    ``training``.
    """
    if lower > upper:
        raise located(ArgumentError, f"rrelu: expected lower <= upper, got {lower} and {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    x = _kept(input, inplace)
    slope = elementwise.add(elementwise.mul(random.rand_like(input), upper - lower), lower)
    out = comparison.where(comparison.le(x, 0), elementwise.mul(x, slope), x)
    return _into(input, out, inplace)


@once("softplus")
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta * input)) / beta``; ``input`` where ``beta * input > threshold``."""
    x = elementwise.mul(input, beta)
    small = elementwise.exp(elementwise.neg(elementwise.abs(x)))
    smooth = elementwise.add(elementwise.maximum(x, 0), special.log1p(small))
    return comparison.where(comparison.gt(x, threshold), input, elementwise.div(smooth, beta))


@once("logsigmoid")
def logsigmoid(input: Tensor) -> Tensor:
    """``log(sigmoid(input))`` without overflow."""
    small = elementwise.exp(elementwise.neg(elementwise.abs(input)))
    return elementwise.sub(elementwise.minimum(input, 0), special.log1p(small))


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``input * tanh(softplus(input))``."""
    return _into(input, _mish(_kept(input, inplace)), inplace)


@once("mish")
def _mish(x: Tensor) -> Tensor:
    return elementwise.mul(x, elementwise.tanh(softplus(x)))


def softsign(input: Tensor) -> Tensor:
    """``input / (1 + |input|)``."""
    return elementwise.div(input, elementwise.add(elementwise.abs(input), 1))


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """``input`` clamped to ``[min_val, max_val]``; its gradient at the bounds is 0."""
    x = _kept(input, inplace)
    above = comparison.where(comparison.le(x, min_val), min_val, x)
    return _into(input, comparison.where(comparison.ge(above, max_val), max_val, above), inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``input / 6 + 1 / 2`` clamped to ``[0, 1]``."""
    return _into(input, _share(input), inplace)


@once("hardsigmoid")
def _share(x: Tensor) -> Tensor:
    return elementwise.div(relu6(elementwise.add(x, 3)), 6)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``input`` times :func:`hardsigmoid` of it."""
    return _into(input, _hardswish(_kept(input, inplace)), inplace)


@once("hardswish")
def _hardswish(x: Tensor) -> Tensor:
    return elementwise.div(elementwise.mul(x, relu6(elementwise.add(x, 3))), 6)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``input`` above ``threshold``, else ``value``."""
    x = _kept(input, inplace)
    return _into(input, comparison.where(comparison.le(x, threshold), value, x), inplace)


def tanhshrink(input: Tensor) -> Tensor:
    """``input - tanh(input)``."""
    return elementwise.sub(input, elementwise.tanh(input))


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """``input`` brought ``lambd`` nearer to 0, and 0 within ``lambd``."""
    if lambd < 0:
        raise located(ArgumentError, f"softshrink: expected lambd >= 0, got {lambd}")
    near = elementwise.mul(input, 0)  # NaN stays
    low = comparison.where(comparison.lt(input, -lambd), elementwise.add(input, lambd), near)
    return comparison.where(comparison.gt(input, lambd), elementwise.sub(input, lambd), low)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """``input``, and 0 within ``lambd``."""
    inside = comparison.logical_and(comparison.ge(input, -lambd), comparison.le(input, lambd))
    return comparison.where(inside, 0, input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half of ``dim`` times the sigmoid of the second."""
    expect_tensor("glu", "input", input)
    at = own_axis("glu", dim, input.type)
    n = input.type.shape[at]
    if isinstance(n, int) and n % 2:
        raise located(TypeCheckError, f"glu: expected dim {at} of {input.type} to be even")
    first, second = view.chunk(input, 2, at)
    return elementwise.mul(first, sigmoid(second))


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """``exp(input)`` divided by its sum along ``dim``; ``dtype`` is cast to before."""
    at, x = _along("softmax", input, dim, dtype)
    if not x.type.rank:
        return view.reshape(dispatch.apply(Softmax(axis=0), view.reshape(x, (1,))), ())
    return dispatch.apply(Softmax(axis=at), x)


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """The logarithm of :func:`softmax`, without overflow."""
    at, x = _along("log_softmax", input, dim, dtype)
    if not x.type.rank:
        return view.reshape(dispatch.apply(LogSoftmax(axis=0), view.reshape(x, (1,))), ())
    return dispatch.apply(LogSoftmax(axis=at), x)


def softmin(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """:func:`softmax` of ``-input``."""
    return softmax(elementwise.neg(input), dim, dtype)


def _along(name: str, input: Tensor, dim: int, dtype: DType | None) -> tuple[int, Tensor]:
    expect_tensor(name, "input", input)
    return axis(name, dim, input.type.rank), cast(input, dtype or input.type.dtype)
