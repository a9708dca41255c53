"""Activations, softmax, and what is like them: functions of a float tensor.

gelu(x, approximate="tanh")
softmax(x, dim=-1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, view
from vtc.frontend.functions.arguments import Value, axis, expect_tensor
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
    out = dispatch.apply(Relu(), input)
    return dispatch.write(input, out) if inplace else out


def sigmoid(input: Tensor) -> Tensor:
    """``1 / (1 + exp(-input))``; integers become floats."""
    return dispatch.apply(Sigmoid(), to_float(input))


def silu(input: Tensor) -> Tensor:
    """``input * sigmoid(input)``."""
    return dispatch.apply(Silu(), input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """``input`` times the normal distribution's CDF at it; ``approximate`` is "none" or "tanh"."""
    if approximate not in ("none", "tanh"):
        message = f"gelu: expected approximate='none' or 'tanh', got {approximate!r}"
        raise located(ArgumentError, message)
    return dispatch.apply(Gelu(approximate=approximate), input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``input``, times ``negative_slope`` below 0."""
    return _choose(comparison.gt(input, 0), input, elementwise.mul(input, negative_slope))


def relu6(input: Tensor) -> Tensor:
    """``input`` clamped to ``[0, 6]``; its gradient at the bounds is 0."""
    return hardtanh(input, 0, 6)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``input``, or ``alpha * (exp(input) - 1)`` below 0; its gradient at 0 is ``alpha``."""
    low = comparison.le(input, 0)
    below = elementwise.exp(_choose(low, input, 0))  # never overflows, so no NaN gradient
    curve = elementwise.mul(elementwise.sub(below, 1), alpha)
    return _choose(low, curve, input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(beta * input)) / beta``; ``input`` where ``beta * input > threshold``."""
    x = elementwise.mul(input, beta)
    small = elementwise.exp(elementwise.neg(elementwise.abs(x)))
    smooth = elementwise.add(elementwise.maximum(x, 0), elementwise.log(elementwise.add(small, 1)))
    return _choose(comparison.gt(x, threshold), input, elementwise.div(smooth, beta))


def logsigmoid(input: Tensor) -> Tensor:
    """``log(sigmoid(input))`` without overflow."""
    small = elementwise.exp(elementwise.neg(elementwise.abs(input)))
    below = elementwise.minimum(input, 0)
    return elementwise.sub(below, elementwise.log(elementwise.add(small, 1)))


def mish(input: Tensor) -> Tensor:
    """``input * tanh(softplus(input))``."""
    return elementwise.mul(input, elementwise.tanh(softplus(input)))


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """``input`` clamped to ``[min_val, max_val]``; its gradient at the bounds is 0."""
    above = _choose(comparison.le(input, min_val), min_val, input)
    return _choose(comparison.ge(above, max_val), max_val, above)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half of ``dim`` times the sigmoid of the second."""
    at = axis("glu", dim, input.type.rank)
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


def _choose(condition: Tensor, x: Value, y: Value) -> Tensor:
    chosen: Tensor = comparison.where(condition, x, y)
    return chosen
