"""Normalization: over the last dims, over groups of channels, over a batch.

layer_norm(x, (512,), weight, bias)
rms_norm(x, (512,), weight)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import creation, elementwise, rearrange, reduce, view
from vtc.frontend.functions.arguments import Dims, Value, axes, expect_tensor, show
from vtc.frontend.functions.promotion import cast
from vtc.frontend.source import located
from vtc.ir.dims import Size, product
from vtc.ir.ops.norm import LayerNorm, RmsNorm

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[Size],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(input - mean) / sqrt(var + eps) * weight + bias`` over the last dims."""
    count = _last("layer_norm", input, normalized_shape)
    if weight is None and bias is not None:
        weight = creation.ones_like(bias)
    affine = [t for t in (weight, bias) if t is not None]
    return dispatch.apply(LayerNorm(count=count, eps=float(eps)), input, *affine)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``input / sqrt(mean(input ** 2) + eps) * weight`` over the last dims (``eps``: dtype's)."""
    count = _last("rms_norm", input, normalized_shape)
    least = float(np.finfo(input.type.dtype.accumulate.numpy).eps) if eps is None else eps
    affine = [weight] if weight is not None else []
    return dispatch.apply(RmsNorm(count=count, eps=float(least)), input, *affine)


def _last(name: str, input: Tensor, normalized_shape: Sequence[Size]) -> int:
    """How many dims ``normalized_shape`` covers."""
    expect_tensor(name, "input", input)
    sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
    want: tuple[Size, ...] = dispatch.sizes(sizes)
    if not want or input.type.shape[max(0, input.type.rank - len(want)) :] != want:
        raise located(
            TypeCheckError, f"{name}: expected an input that ends in {show(want)}, got {input.type}"
        )
    return len(want)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalizes ``[N, C, ..]`` over each group of channels; weight and bias are ``[C]``."""
    expect_tensor("group_norm", "input", input)
    n, channels, *rest = _channels("group_norm", input)
    if num_groups < 1 or (isinstance(channels, int) and channels % num_groups):
        got = f"got {input.type} and {num_groups}"
        raise located(
            ArgumentError, f"group_norm: expected num_groups to divide the channels, {got}"
        )
    grouped = view.reshape(input, (n, num_groups, channels // num_groups, *rest))
    y = layer_norm(grouped, grouped.type.shape[2:], eps=eps)
    return _affine(view.reshape(y, input.type.shape), weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Value = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalizes channels of ``[N, C, ..]`` by this batch if ``training``, else by running figures.

    In training the running figures, if given, move towards the batch's by ``momentum``, in place.
    """
    expect_tensor("batch_norm", "input", input)
    _channels("batch_norm", input)
    over = tuple(a for a in range(input.type.rank) if a != 1)
    x = cast(input, input.type.dtype.accumulate)
    if training:
        _several("batch_norm", input, over)
        mean = reduce.mean(x, over)
        var = reduce.var(x, over, correction=0)
        _move(running_mean, mean, momentum)
        _move(running_var, _unbiased(var, x, over), momentum)
    else:
        mean, var = _running("batch_norm", running_mean, running_var)
    scale = elementwise.rsqrt(elementwise.add(var, eps))
    y = elementwise.mul(elementwise.sub(x, _per_channel(mean, x)), _per_channel(scale, x))
    return cast(_affine(y, weight, bias), input.type.dtype)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: Value = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalizes each channel of each sample of ``[N, C, ..]`` by its own mean and variance.

    The running figures, if given, move towards their means over the batch; without
    ``use_input_stats`` they are what it normalizes by.
    """
    expect_tensor("instance_norm", "input", input)
    _channels("instance_norm", input)
    if not use_input_stats:
        mean, var = _running("instance_norm", running_mean, running_var)
        return batch_norm(input, mean, var, weight, bias, eps=eps)
    over = tuple(range(2, input.type.rank))
    _several("instance_norm", input, over)
    if running_mean is not None or running_var is not None:
        x = cast(input.detach(), input.type.dtype.accumulate)
        _move(running_mean, reduce.mean(reduce.mean(x, over), 0), momentum)
        spread = _unbiased(reduce.var(x, over, correction=0), x, over)
        _move(running_var, reduce.mean(spread, 0), momentum)
    y = layer_norm(cast(input, input.type.dtype.accumulate), input.type.shape[2:], eps=eps)
    return cast(_affine(y, weight, bias), input.type.dtype)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """``input / (k + alpha * m) ** beta``: ``m`` the mean square of ``size`` channels around."""
    expect_tensor("local_response_norm", "input", input)
    _, _, *rest = _channels("local_response_norm", input)
    channels = int(input.shape[1])
    if size < 1:
        raise located(ArgumentError, f"local_response_norm: expected size >= 1, got {size}")
    sides = [0, 0] * len(rest) + [size // 2, (size - 1) // 2]
    squares = rearrange.pad(elementwise.square(input), sides)
    total = view.narrow(squares, 1, 0, channels)
    for i in range(1, size):
        total = elementwise.add(total, view.narrow(squares, 1, i, channels))
    scale = elementwise.add(elementwise.mul(total, alpha / size), k)
    return elementwise.div(input, elementwise.pow(scale, beta))


def _several(name: str, input: Tensor, over: tuple[int, ...]) -> None:
    """One value has no variance: more likely a mistake than meant."""
    n = product(input.type.shape[a] for a in over)
    if isinstance(n, int) and n == 1:
        want = "expected more than 1 value per channel when training"
        raise located(ArgumentError, f"{name}: {want}, got {input.type}")


def _running(
    name: str, running_mean: Tensor | None, running_var: Tensor | None
) -> tuple[Tensor, Tensor]:
    if running_mean is None or running_var is None:
        raise located(ArgumentError, f"{name}: expected running figures outside of training")
    return running_mean, running_var


def _unbiased(var: Tensor, x: Tensor, over: tuple[int, ...]) -> Tensor:
    """The variance by the count less one, from that by the count."""
    n = product(x.type.shape[a] for a in over)
    if isinstance(n, int):
        return elementwise.mul(var.detach(), n / max(n - 1, 1))
    return reduce.var(x.detach(), over)


def _move(running: Tensor | None, found: Tensor, momentum: Value) -> None:
    if running is None:
        return
    with dispatch.no_grad():
        moved = elementwise.lerp(running, cast(found.detach(), running.type.dtype), momentum)
        dispatch.write(running, moved)


def _channels(name: str, input: Tensor) -> tuple[Size, ...]:
    if input.type.rank < 2:
        raise located(TypeCheckError, f"{name}: expected [N, C, ..], got {input.type}")
    return input.type.shape


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    dtype = y.type.dtype
    if weight is not None:
        y = elementwise.mul(y, _per_channel(cast(weight, dtype), y))
    return y if bias is None else elementwise.add(y, _per_channel(cast(bias, dtype), y))


def _per_channel(x: Tensor, like: Tensor) -> Tensor:
    return view.reshape(x, (*x.type.shape, *(1,) * (like.type.rank - 2)))


def normalize(input: Tensor, p: float = 2.0, dim: Dims = 1, eps: float = 1e-12) -> Tensor:
    """``input`` divided by its ``p``-norm over ``dim``, which counts as at least ``eps``."""
    expect_tensor("normalize", "input", input)
    axes("normalize", dim, input.type.rank)
    size = elementwise.clamp(reduce.norm(input, p, dim, keepdim=True), min=eps)
    return elementwise.div(input, size)
