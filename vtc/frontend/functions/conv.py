"""Convolution and pooling of ``[N, C, H, W]``, or ``[C, H, W]`` for one image.

conv2d(x, weight, bias, stride=2, padding="same")
max_pool2d(x, 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import rearrange, reduce, view
from vtc.frontend.functions.arguments import Dims, expect_tensor, pair
from vtc.frontend.source import located
from vtc.ir.op import Op
from vtc.ir.ops.conv import AvgPool2d, Conv2d, MaxPool2d

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims | str = 0,
    dilation: Dims = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation with ``weight [O, C / groups, KH, KW]`` and ``bias [O]``.

    ``padding`` is zeros on both sides: one or two ints, "valid" (none), or "same" (stride 1 only).
    """
    steps, spread = pair("conv2d", "stride", stride), pair("conv2d", "dilation", dilation)
    if min(*steps, *spread) < 1:
        got = f"got {steps} and {spread}"
        raise located(ArgumentError, f"conv2d: expected stride and dilation >= 1, {got}")
    expect_tensor("conv2d", "weight", weight)
    if weight.type.rank != 4:
        message = f"conv2d: expected a weight [O, C / groups, KH, KW], got {weight.type}"
        raise located(TypeCheckError, message)
    x, single = _batched("conv2d", input)
    if isinstance(padding, str):
        x, around = _named_padding(x, weight, padding, steps, spread)
    else:
        around = pair("conv2d", "padding", padding)
    op = Conv2d(stride=steps, padding=around, dilation=spread, groups=groups)
    out = dispatch.apply(op, x, weight, *([bias] if bias is not None else []))
    return view.squeeze(out, 0) if single else out


def _named_padding(
    x: Tensor, weight: Tensor, padding: str, stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    if padding == "valid":
        return x, (0, 0)
    if padding != "same":
        message = f"conv2d: expected padding 'same' or 'valid', got {padding!r}"
        raise located(ArgumentError, message)
    if stride != (1, 1):
        raise located(ArgumentError, f"conv2d: padding 'same' needs stride 1, got {stride}")
    kernel = [int(n) for n in weight.shape[2:]]
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(t % 2 == 0 for t in totals):
        return x, (totals[0] // 2, totals[1] // 2)
    sides = [s for t in reversed(totals) for s in (t // 2, t - t // 2)]
    return rearrange.pad(x, sides), (0, 0)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`conv2d` of ``[N, C, L]`` with ``weight [O, C / groups, K]``."""
    expect_tensor("conv1d", "input", input)
    expect_tensor("conv1d", "weight", weight)
    if input.type.rank not in (2, 3) or weight.type.rank != 3:
        got = f"got {input.type} and {weight.type}"
        raise located(TypeCheckError, f"conv1d: expected [N, C, L] and [O, C / groups, K], {got}")
    x, w = view.unsqueeze(input, -2), view.unsqueeze(weight, -2)
    around = padding if isinstance(padding, str) else (0, _one("padding", padding))
    steps, spread = (1, _one("stride", stride)), (1, _one("dilation", dilation))
    return view.squeeze(conv2d(x, w, bias, steps, around, spread, groups), -2)


def _one(argument: str, value: Dims) -> int:
    found = tuple(value) if not isinstance(value, int) else (value,)
    if len(found) != 1:
        raise located(ArgumentError, f"conv1d: expected {argument} to be one int, got {value!r}")
    return int(found[0])


def max_pool2d(
    input: Tensor, kernel_size: Dims, stride: Dims | None = None, padding: Dims = 0
) -> Tensor:
    """The largest of each window; ``stride`` None is ``kernel_size``, padding never wins."""
    kernel, steps, around = _pool("max_pool2d", kernel_size, stride, padding)
    return _pooled("max_pool2d", MaxPool2d(kernel=kernel, stride=steps, padding=around), input)


def avg_pool2d(
    input: Tensor, kernel_size: Dims, stride: Dims | None = None, padding: Dims = 0
) -> Tensor:
    """The mean of each window, padding included; ``stride`` None is ``kernel_size``."""
    kernel, steps, around = _pool("avg_pool2d", kernel_size, stride, padding)
    return _pooled("avg_pool2d", AvgPool2d(kernel=kernel, stride=steps, padding=around), input)


def adaptive_avg_pool2d(input: Tensor, output_size: Dims) -> Tensor:
    """Means over ``output_size`` equal windows, which has to divide the size."""
    rows, columns = pair("adaptive_avg_pool2d", "output_size", output_size)
    if (rows, columns) == (1, 1):
        return reduce.mean(input, (-2, -1), keepdim=True)
    x, single = _batched("adaptive_avg_pool2d", input)
    height, width = (int(n) for n in x.shape[2:])
    if rows < 1 or columns < 1 or height % rows or width % columns:
        message = f"expected output_size to divide {input.type}, got {(rows, columns)}"
        raise located(ArgumentError, f"adaptive_avg_pool2d: {message}")
    out = avg_pool2d(x, (height // rows, width // columns))
    return view.squeeze(out, 0) if single else out


Pair = tuple[int, int]


def _pool(
    name: str, kernel_size: Dims, stride: Dims | None, padding: Dims
) -> tuple[Pair, Pair, Pair]:
    kernel = pair(name, "kernel_size", kernel_size)
    steps = kernel if stride is None or stride == () else pair(name, "stride", stride)
    around = pair(name, "padding", padding)
    if min(*kernel, *steps) < 1 or min(around) < 0:
        got = f"got {kernel}, {steps} and {around}"
        raise located(
            ArgumentError, f"{name}: expected kernel and stride >= 1 and padding >= 0, {got}"
        )
    return kernel, steps, around


def _pooled(name: str, op: Op, input: Tensor) -> Tensor:
    x, single = _batched(name, input)
    out = dispatch.apply(op, x)
    return view.squeeze(out, 0) if single else out


def _batched(name: str, input: Tensor) -> tuple[Tensor, bool]:
    expect_tensor(name, "input", input)
    if input.type.rank not in (3, 4):
        raise located(
            TypeCheckError, f"{name}: expected [N, C, H, W] or [C, H, W], got {input.type}"
        )
    single = input.type.rank == 3
    return (view.unsqueeze(input, 0), True) if single else (input, False)
