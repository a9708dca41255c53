"""Convolutions as layers: Conv1d to Conv3d over ``[N, C, *sizes]``, and their transposes.

nn.Conv2d(3, 16, 3, padding="same", padding_mode="reflect")
nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)               # twice as high and wide
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import ArgumentError
from vtc.frontend.functions.creation import empty
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType
from vtc.nn import functional as F
from vtc.nn.linear import reset_fan_in
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter
from vtc.runtime.device import Device

Sizes = int | tuple[int, ...]
MODES = ("zeros", "reflect", "replicate", "circular")


class Convolution(Module, ABC):
    """What convolutions over ``dims`` dims share: sizes, weight, bias."""

    dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        sizes: tuple[Sizes, Sizes, Sizes],
        padding: Sizes | str,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Device | str | None,
        dtype: DType | None,
    ) -> None:
        name = type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise located(
                ArgumentError,
                f"{name}: expected channels divisible by groups={groups}, "
                f"got in_channels={in_channels}, out_channels={out_channels}",
            )
        if padding_mode not in MODES:
            want = f"expected padding_mode one of {', '.join(MODES)}"
            raise located(ArgumentError, f"{name}: {want}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        kernel_size, stride, dilation = (_each(s, self.dims) for s in sizes)
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding = padding if isinstance(padding, str) else _each(padding, self.dims)
        self.padding_mode = padding_mode
        self.weight = Parameter(empty(self._shape(), device=device, dtype=dtype))
        self.bias: Tensor | None = None
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    @abstractmethod
    def _shape(self) -> tuple[int, ...]:
        """The shape of the weight."""

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as PyTorch does: uniform within ``1 / sqrt(fan_in)``."""
        reset_fan_in(self.weight, self.bias)

    def extra_repr(self) -> str:
        shown = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )
        one, none = (1,) * self.dims, (0,) * self.dims
        shown += f", padding={self.padding}" if self.padding != none else ""
        shown += f", dilation={self.dilation}" if self.dilation != one else ""
        extra = getattr(self, "output_padding", none)
        shown += f", output_padding={extra}" if extra != none else ""
        shown += f", groups={self.groups}" if self.groups != 1 else ""
        shown += ", bias=False" if self.bias is None else ""
        mode = self.padding_mode
        return shown if mode == "zeros" else f"{shown}, padding_mode={mode}"


class Straight(Convolution, ABC):
    """Cross-correlation with ``weight`` ``[out_channels, in_channels / groups, *kernel_size]``.

    ``padding`` is a size, "valid" (none) or "same" (as many outputs as inputs); ``padding_mode``
    says with what.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, (kernel_size, stride, dilation), padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def _shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        padding: Any = self.padding if len(self.padding) != 1 else self.padding[0]
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._sides(), self.padding_mode), 0
        options = (_one(self.stride), padding, _one(self.dilation), self.groups)
        return _function("conv", self.dims)(x, self.weight, self.bias, *options)

    def _sides(self) -> list[int]:
        """How much to pad before and after each dim, the last one first."""
        if not isinstance(self.padding, str):
            return [n for size in reversed(self.padding) for n in (size, size)]
        if self.padding == "valid":
            return [0] * (2 * self.dims)
        sizes = zip(self.dilation, self.kernel_size, strict=True)
        totals = [d * (k - 1) for d, k in sizes]
        return [n for t in reversed(totals) for n in (t // 2, t - t // 2)]


class Conv1d(Straight):
    """Cross-correlation of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


class Conv2d(Straight):
    """Cross-correlation of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


class Conv3d(Straight):
    """Cross-correlation of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class Transposed(Convolution, ABC):
    """The gradient of a convolution by its input, as a layer.

    ``weight`` is ``[in_channels, out_channels / groups, *kernel_size]``; ``output_padding`` adds to
    one side of the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        if padding_mode != "zeros":
            name = type(self).__name__
            got = f"got {padding_mode!r}"
            raise located(ArgumentError, f"{name}: expected padding_mode 'zeros', {got}")
        self.output_padding = _each(output_padding, self.dims)
        super().__init__(
            in_channels, out_channels, (kernel_size, stride, dilation), padding, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def _shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._extra(x, output_size)
        sizes = (self.stride, self.padding, extra)
        return _function("conv_transpose", self.dims)(
            x, self.weight, self.bias, *sizes, self.groups, self.dilation
        )

    def _extra(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives ``output_size``, of which the last dims count."""
        wanted, inner = tuple(output_size)[-self.dims :], x.shape[-self.dims :]
        found = []
        for i, (want, n) in enumerate(zip(wanted, inner, strict=True)):
            covered = self.dilation[i] * (self.kernel_size[i] - 1) + 1
            least = (int(n) - 1) * self.stride[i] - 2 * int(self.padding[i]) + covered
            if not least <= want < least + self.stride[i]:
                name = type(self).__name__
                most = least + self.stride[i] - 1
                raise located(
                    ArgumentError,
                    f"{name}: expected output_size from {least} to {most} in dim {i}, got {want}",
                )
            found.append(want - least)
        return tuple(found)


class ConvTranspose1d(Transposed):
    """The transpose of a convolution of ``[N, C, L]``."""

    dims = 1


class ConvTranspose2d(Transposed):
    """The transpose of a convolution of ``[N, C, H, W]``."""

    dims = 2


class ConvTranspose3d(Transposed):
    """The transpose of a convolution of ``[N, C, D, H, W]``."""

    dims = 3


def _function(name: str, dims: int) -> Callable[..., Tensor]:
    """``F.conv2d`` and its like."""
    found: Callable[..., Tensor] = getattr(F, f"{name}{dims}d")
    return found


def _each(value: Sizes, dims: int) -> tuple[int, ...]:
    """``dims`` sizes, all alike for an int."""
    found = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(found) != dims:
        raise located(ArgumentError, f"convolution: expected 1 or {dims} sizes, got {value}")
    return found


def _one(value: tuple[int, ...]) -> Sizes:
    return value[0] if len(value) == 1 else value
