"""Layers that rearrange: Identity, Flatten, Unflatten, pixel shuffles, Upsample, Fold, Unfold.

nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))       # [N, 3, 2 H, 2 W]
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any, final

from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module

Sizes = int | Sequence[int]


@final
class Identity(Module):
    """Its input; takes any arguments, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return x


@final
class Flatten(Module):
    """The dims from ``start_dim`` to ``end_dim`` as one; by default all but the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


@final
class Unflatten(Module):
    """The dim ``dim`` as several of ``unflattened_size``."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


@final
class PixelShuffle(Module):
    """``[.., C r r, H, W]`` as ``[.., C, H r, W r]``: channels become pixels."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


@final
class PixelUnshuffle(Module):
    """``[.., C, H r, W r]`` as ``[.., C r r, H, W]``: pixels become channels."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


@final
class ChannelShuffle(Module):
    """The channels of ``[N, C, ..]``, those of ``groups`` groups taken in turn."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class _Resized(Module, ABC):
    """A larger (or smaller) picture by ``mode``; see ``F.interpolate``."""

    def __init__(
        self,
        size: Sizes | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        self.size, self.mode, self.align_corners = size, mode, align_corners
        self.scale_factor: Any = (
            tuple(map(float, scale_factor))
            if isinstance(scale_factor, Sequence)
            else (scale_factor and float(scale_factor))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(
            x,
            self.size,
            self.scale_factor,
            self.mode,
            **({} if self.align_corners is None else {"align_corners": self.align_corners}),
        )

    def extra_repr(self) -> str:
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor!r}, mode={self.mode!r}"
        return f"size={self.size!r}, mode={self.mode!r}"


@final
class Upsample(_Resized):
    """A larger (or smaller) picture by ``mode``; see ``F.interpolate``."""


@final
class UpsamplingNearest2d(_Resized):
    """An Upsample of ``[N, C, H, W]`` that repeats the nearest."""

    def __init__(
        self, size: Sizes | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, "nearest")


@final
class UpsamplingBilinear2d(_Resized):
    """An Upsample of ``[N, C, H, W]`` between the four nearest, corners aligned."""

    def __init__(
        self, size: Sizes | None = None, scale_factor: float | Sequence[float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, "bilinear", True)


@final
class Unfold(Module):
    """The windows of ``[N, C, H, W]`` as columns ``[N, C * kernel, windows]``."""

    def __init__(
        self, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
    ) -> None:
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


@final
class Fold(Module):
    """The picture ``[N, C, *output_size]`` that columns of windows add up to."""

    def __init__(
        self,
        output_size: Sizes,
        kernel_size: Sizes,
        dilation: Sizes = 1,
        padding: Sizes = 0,
        stride: Sizes = 1,
    ) -> None:
        self.output_size, self.kernel_size, self.dilation = output_size, kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.fold(
            x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )
