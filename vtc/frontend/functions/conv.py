"""Convolution of ``[N, C, ...]``, or ``[C, ...]`` for one sample, over one to three dims.

conv2d(x, weight, bias, stride=2, padding="same")
conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1)
unfold(x, 3, padding=1)          # windows as columns, [N, C * 9, places]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import rearrange, view
from vtc.frontend.functions.arguments import Dims, expect_tensor, several
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.op import Op
from vtc.ir.ops.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Ints,
)
from vtc.ir.ops.window import Unwindow, Window

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

AXES = ("L", "HW", "DHW")
# Parents of ops are abstract, which mypy does not let be a type[Op].
_CONV: tuple[Any, ...] = (Conv1d, Conv2d, Conv3d)
_TRANSPOSED: tuple[Any, ...] = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims | str = 0,
    dilation: Dims = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of ``[N, C, L]`` with ``weight [O, C / groups, K]``; see :func:`conv2d`."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


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
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims | str = 0,
    dilation: Dims = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`conv2d` of ``[N, C, D, H, W]`` with ``weight [O, C / groups, KD, KH, KW]``."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims = 0,
    output_padding: Dims = 0,
    groups: int = 1,
    dilation: Dims = 1,
) -> Tensor:
    """:func:`conv_transpose2d` of ``[N, C, L]`` with ``weight [C, O / groups, K]``."""
    return _transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims = 0,
    output_padding: Dims = 0,
    groups: int = 1,
    dilation: Dims = 1,
) -> Tensor:
    """The transpose of :func:`conv2d`: ``weight [C, O / groups, KH, KW]``, ``bias [O]``.

    ``padding`` cuts both sides of the result, ``output_padding`` grows its end.
    """
    return _transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Dims = 1,
    padding: Dims = 0,
    output_padding: Dims = 0,
    groups: int = 1,
    dilation: Dims = 1,
) -> Tensor:
    """:func:`conv_transpose2d` of ``[N, C, D, H, W]``."""
    return _transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv(
    spatial: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Dims,
    padding: Dims | str,
    dilation: Dims,
    groups: int,
) -> Tensor:
    name = f"conv{spatial}d"
    steps, spread = _steps(name, spatial, stride, dilation)
    _check_weight(name, weight, f"O, C / groups, {_kernel(spatial)}", spatial)
    x, single = batched(name, input, spatial)
    if isinstance(padding, str):
        x, around = _named_padding(name, x, weight, padding, steps, spread)
    else:
        around = several(name, "padding", padding, spatial)
    op = _CONV[spatial - 1](stride=steps, padding=around, dilation=spread, groups=groups)
    return _applied(op, x, weight, bias, single=single)


def _transposed(
    spatial: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Dims,
    padding: Dims,
    output_padding: Dims,
    groups: int,
    dilation: Dims,
) -> Tensor:
    name = f"conv_transpose{spatial}d"
    steps, spread = _steps(name, spatial, stride, dilation)
    _check_weight(name, weight, f"C, O / groups, {_kernel(spatial)}", spatial)
    x, single = batched(name, input, spatial)
    op = _TRANSPOSED[spatial - 1](
        stride=steps,
        padding=several(name, "padding", padding, spatial),
        dilation=spread,
        groups=groups,
        output_padding=several(name, "output_padding", output_padding, spatial),
    )
    return _applied(op, x, weight, bias, single=single)


def _kernel(spatial: int) -> str:
    return "K" if spatial == 1 else ", ".join(f"K{a}" for a in AXES[spatial - 1])


def _steps(name: str, spatial: int, stride: Dims, dilation: Dims) -> tuple[Ints, Ints]:
    steps = several(name, "stride", stride, spatial)
    spread = several(name, "dilation", dilation, spatial)
    if min(*steps, *spread) < 1:
        got = f"got {steps} and {spread}"
        raise located(ArgumentError, f"{name}: expected stride and dilation >= 1, {got}")
    return steps, spread


def _check_weight(name: str, weight: Tensor, want: str, spatial: int) -> None:
    expect_tensor(name, "weight", weight)
    if weight.type.rank != 2 + spatial:
        message = f"{name}: expected a weight [{want}], got {weight.type}"
        raise located(TypeCheckError, message)


def _applied(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, *, single: bool) -> Tensor:
    out = dispatch.apply(op, x, weight, *([bias] if bias is not None else []))
    return view.squeeze(out, 0) if single else out


def _named_padding(
    name: str, x: Tensor, weight: Tensor, padding: str, stride: Ints, dilation: Ints
) -> tuple[Tensor, Ints]:
    none = (0,) * len(stride)
    if padding == "valid":
        return x, none
    if padding != "same":
        message = f"{name}: expected padding 'same' or 'valid', got {padding!r}"
        raise located(ArgumentError, message)
    if max(stride) != 1:
        raise located(ArgumentError, f"{name}: padding 'same' needs stride 1, got {stride}")
    kernel = [int(n) for n in weight.shape[2:]]
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(t % 2 == 0 for t in totals):
        return x, tuple(t // 2 for t in totals)
    sides = [s for t in reversed(totals) for s in (t // 2, t - t // 2)]
    return rearrange.pad(x, sides), none


def batched(name: str, input: Tensor, spatial: int) -> tuple[Tensor, bool]:
    """``input`` with a batch dim, and whether it had none."""
    expect_tensor(name, "input", input)
    rank = input.type.rank
    if rank not in (spatial + 1, spatial + 2):
        image = ", ".join(AXES[spatial - 1])
        message = f"{name}: expected [N, C, {image}] or [C, {image}], got {input.type}"
        raise located(TypeCheckError, message)
    single = rank == spatial + 1
    return (view.unsqueeze(input, 0), True) if single else (input, False)


# windows as columns


def unfold(
    input: Tensor, kernel_size: Dims, dilation: Dims = 1, padding: Dims = 0, stride: Dims = 1
) -> Tensor:
    """The windows of ``[N, C, H, W]`` as columns: ``[N, C * KH * KW, places]``."""
    name = "unfold"
    kernel = several(name, "kernel_size", kernel_size, 2)
    steps, spread = _steps(name, 2, stride, dilation)
    around = several(name, "padding", padding, 2)
    x, single = batched(name, input, 2)
    x = rearrange.pad(x, [p for p in reversed(around) for _ in "ab"]) if any(around) else x
    _check_fits(name, x, kernel, spread)
    for a in range(2):
        op = Window(axis=2 + a, size=kernel[a], stride=steps[a], dilation=spread[a])
        x = dispatch.view(op, x)
    n, c, rows, columns, *_ = x.type.shape
    x = view.permute(x, 0, 1, 4, 5, 2, 3)
    out = view.reshape(x, (n, c * math.prod(kernel), rows * columns))
    return view.squeeze(out, 0) if single else out


def _check_fits(name: str, x: Tensor, kernel: Ints, spread: Ints) -> None:
    if min(kernel) < 1:
        raise located(ArgumentError, f"{name}: expected a kernel >= 1, got {kernel}")
    for n, k, d in zip(x.type.shape[2:], kernel, spread, strict=True):
        if isinstance(n, int) and n < d * (k - 1) + 1:
            message = f"{name}: expected {x.type} to hold a window of {kernel} with steps {spread}"
            raise located(ArgumentError, message)


def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """:func:`conv1d` of ``[L, N, C]`` with ``weight [K, C, O]``, ``pad`` zeros around."""
    for argument, x in (("input", input), ("weight", weight)):
        expect_tensor("conv_tbc", argument, x)
        if x.type.rank != 3:
            message = f"conv_tbc: expected {argument} to have 3 dims, got {x.type}"
            raise located(TypeCheckError, message)
    turned = view.permute(input, 1, 2, 0), view.permute(weight, 2, 1, 0)
    return view.permute(conv1d(*turned, bias, padding=pad), 2, 0, 1)


def fold(
    input: Tensor,
    output_size: Dims,
    kernel_size: Dims,
    dilation: Dims = 1,
    padding: Dims = 0,
    stride: Dims = 1,
) -> Tensor:
    """The dual of :func:`unfold`: columns added where their windows lie, ``[N, C, H, W]``."""
    name = "fold"
    size = several(name, "output_size", output_size, 2)
    kernel = several(name, "kernel_size", kernel_size, 2)
    steps, spread = _steps(name, 2, stride, dilation)
    around = several(name, "padding", padding, 2)
    expect_tensor(name, "input", input)
    if input.type.rank not in (2, 3):
        message = f"{name}: expected [N, C * KH * KW, places] or one sample, got {input.type}"
        raise located(TypeCheckError, message)
    x = input if input.type.rank == 3 else view.unsqueeze(input, 0)
    n, channels, places = x.type.shape
    whole = [s + 2 * p for s, p in zip(size, around, strict=True)]
    sides = zip(whole, kernel, steps, spread, strict=True)
    counts = [(w - d * (k - 1) - 1) // s + 1 for w, k, s, d in sides]
    if channels % math.prod(kernel) != 0 or places != product(counts):
        want = f"expected [N, C * {math.prod(kernel)}, {math.prod(counts)}]"
        raise located(TypeCheckError, f"{name}: {want}, got {input.type}")
    x = view.reshape(x, (n, channels // math.prod(kernel), *kernel, *counts))
    x = view.permute(x, 0, 1, 4, 5, 2, 3)
    for a in reversed(range(2)):
        op = Unwindow(axis=2 + a, length=whole[a], stride=steps[a], dilation=spread[a])
        x = dispatch.apply(op, x)
    out = view.cut(x, {2 + a: (around[a], around[a] + size[a]) for a in range(2)})
    return out if input.type.rank == 3 else view.squeeze(out, 0)
