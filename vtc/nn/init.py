"""``nn.init``: fill a tensor in place with PyTorch's distributions. Each returns the tensor.

A weight is ``[out, in, *window]``: fan-in is ``in`` times the window, fan-out ``out`` times it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np

from vtc import lazy
from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.creation import zeros_like
from vtc.frontend.functions.random import Generator, rand, randn
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor

if TYPE_CHECKING:
    import scipy.special as special
else:
    special = lazy.module("scipy.special")

Mode = Literal["fan_in", "fan_out"]


class _Thread(threading.local):
    off = False


_thread = _Thread()


@contextmanager
def skipped() -> Iterator[None]:
    """Inside, functions of this file leave tensors as they are, and draw nothing."""
    before, _thread.off = _thread.off, True
    try:
        yield
    finally:
        _thread.off = before


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform in ``[a, b)``."""
    with dispatch.no_grad():
        return _fill(tensor, _uniform(tensor, generator) * (b - a) + a)


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normal with ``mean`` and ``std``."""
    with dispatch.no_grad():
        return _fill(tensor, _normal(tensor, generator) * std + mean)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal, cut off outside ``[a, b]``: the inverse distribution function of uniform numbers."""
    low, high = (_normal_cdf((x - mean) / std) for x in (a, b))
    with dispatch.no_grad():
        u = _uniform(tensor, generator).cpu().numpy().astype(np.float64)
        x = np.clip(special.ndtri(low + (high - low) * u) * std + mean, a, b)
        return _fill(tensor, dispatch.from_array(x, device=tensor.device))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """``val`` everywhere."""
    with dispatch.no_grad():
        value = dispatch.constant(val, tensor.dtype, tensor.type.shape, tensor.device)
        return _fill(tensor, value)


def zeros_(tensor: Tensor) -> Tensor:
    """Zero everywhere."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """One everywhere."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """Ones on the diagonal of a matrix."""
    rows, columns = _matrix(tensor, "eye_").shape
    with dispatch.no_grad():
        return _fill(tensor, dispatch.from_array(np.eye(rows, columns), device=tensor.device))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The weight of a convolution that gives its input back, as many channels as there are."""
    if not 3 <= tensor.ndim <= 5:
        raise located(ArgumentError, f"dirac_: expected 3 to 5 dims, got {tensor.type}")
    shape = tuple(int(n) for n in tensor.shape)
    if groups < 1 or shape[0] % groups:
        raise located(
            ArgumentError, f"dirac_: expected dim 0 divisible by groups={groups}, got {tensor.type}"
        )
    weight = np.zeros(shape)
    each = shape[0] // groups
    for group in range(groups):
        for channel in range(min(each, shape[1])):
            weight[(group * each + channel, channel, *(n // 2 for n in shape[2:]))] = 1.0
    with dispatch.no_grad():
        return _fill(tensor, dispatch.from_array(weight, device=tensor.device))


def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None
) -> Tensor:
    """Normal, with the share ``sparsity`` of each column set to zero (Martens 2010)."""
    rows = int(_matrix(tensor, "sparse_").shape[0])
    with dispatch.no_grad():
        order = np.argsort(_uniform(tensor, generator).cpu().float().numpy(), axis=0)
        normal = _normal(tensor, generator).cpu().float().numpy() * std
        weight = np.where(order < math.ceil(sparsity * rows), 0.0, normal)
        return _fill(tensor, dispatch.from_array(weight, device=tensor.device))


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform, with variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio 2010)."""
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal, with variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio 2010)."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform, with variance ``gain**2 / fan`` (He et al. 2015); ``a`` is leaky_relu's slope."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal, with variance ``gain**2 / fan`` (He et al. 2015); ``a`` is leaky_relu's slope."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Rows (or columns, if fewer) orthogonal and of length ``gain`` (Saxe et al. 2013)."""
    rows = _matrix(tensor, "orthogonal_", exactly=False).shape[0]
    with dispatch.no_grad():
        normal = _normal(tensor, generator).cpu().numpy().astype(np.float64).reshape(rows, -1)
        q, r = np.linalg.qr(normal if normal.shape[0] >= normal.shape[1] else normal.T)
        q *= np.sign(np.diag(r))  # without it the distribution is not uniform
        square = (q if normal.shape[0] >= normal.shape[1] else q.T).reshape(tensor.shape)
        return _fill(tensor, dispatch.from_array(gain * square, device=tensor.device))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By how much weights must grow to keep the variance through ``nonlinearity``."""
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose1d": 1.0,
        "conv_transpose2d": 1.0, "conv_transpose3d": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0,
        "selu": 0.75,
        "relu": math.sqrt(2.0), "leaky_relu": math.sqrt(2.0 / (1.0 + slope**2)),
    }  # fmt: skip
    if nonlinearity not in gains:
        expected = ", ".join(gains)
        raise located(
            ArgumentError, f"calculate_gain: expected one of {expected}, got {nonlinearity!r}"
        )
    return gains[nonlinearity]


def fan_in(tensor: Tensor) -> int:
    """How many values one output of a layer with this weight adds up."""
    return _fans(tensor)[0]


def _kaiming_std(tensor: Tensor, a: float, mode: Mode, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise located(ArgumentError, f"kaiming: expected mode fan_in or fan_out, got {mode!r}")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def _fans(tensor: Tensor) -> tuple[int, int]:
    shape = _matrix(tensor, "fan-in and fan-out", exactly=False).shape
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _matrix(tensor: Tensor, what: str, *, exactly: bool = True) -> Tensor:
    if tensor.ndim < 2 or (exactly and tensor.ndim > 2):
        expected = "a matrix" if exactly else "at least two dims"
        raise located(ArgumentError, f"{what}: expected {expected}, got {tensor.type}")
    return tensor


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _uniform(tensor: Tensor, generator: Generator | None) -> Tensor:
    if _thread.off:
        return zeros_like(tensor)
    return rand(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)


def _normal(tensor: Tensor, generator: Generator | None) -> Tensor:
    if _thread.off:
        return zeros_like(tensor)
    return randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)


def _fill(tensor: Tensor, value: Tensor) -> Tensor:
    return tensor if _thread.off else dispatch.write(tensor, value.to(tensor.dtype))
