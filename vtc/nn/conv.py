"""Layers over images ``[N, C, H, W]``: Conv2d, MaxPool2d, AvgPool2d."""

from __future__ import annotations

from typing import final

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

Pair = int | tuple[int, int]


@final
class Conv2d(Module):
    """Cross-correlation with ``weight`` ``[out_channels, in_channels / groups, *kernel_size]``.

    ``padding`` is a size, "valid" (none) or "same" (as many outputs as inputs).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        device: Device | str | None = None,
        dtype: DType | None = None,
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise located(
                ArgumentError,
                f"Conv2d: expected channels divisible by groups={groups}, "
                f"got in_channels={in_channels}, out_channels={out_channels}",
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.dilation = pair(dilation)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        self.bias: Tensor | None = None
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as PyTorch does: uniform within ``1 / sqrt(fan_in)``."""
        reset_fan_in(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        shown = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )
        shown += f", padding={self.padding}" if self.padding != (0, 0) else ""
        shown += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        shown += f", groups={self.groups}" if self.groups != 1 else ""
        return shown if self.bias is not None else f"{shown}, bias=False"


@final
class MaxPool2d(Module):
    """The largest value of each window; ``stride`` is the window's size unless given."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            "dilation=1, ceil_mode=False"
        )


@final
class AvgPool2d(Module):
    """The mean of each window, padding counted; ``stride`` is the window's size unless given."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


def pair(value: Pair) -> tuple[int, int]:
    """``(value, value)`` for an int."""
    return (value, value) if isinstance(value, int) else value
