"""Pooling layers over the last one, two or three dims of ``[N, C, *sizes]``.

nn.MaxPool2d(2)                   # half as high and wide
nn.AdaptiveAvgPool2d(1)           # [N, C, 1, 1]
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any, final

from vtc.errors import ArgumentError
from vtc.frontend.functions.arguments import several
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer

Sizes = int | tuple[int, ...]


class MaxPool(Module, ABC):
    """The largest value of each window; ``stride`` is the window's size unless given.

    ``ceil_mode`` keeps a last window that is not full; ``return_indices`` gives where in the input
    each value stood, too.
    """

    dims: int

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.stride = kernel_size if stride is None else stride
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, x: Tensor) -> Any:
        options = {"dilation": (self.dilation, 1), "ceil_mode": (self.ceil_mode, False)}
        options["return_indices"] = (self.return_indices, False)
        given = {name: value for name, (value, usual) in options.items() if value != usual}
        pool = _function("max_pool", self.dims)
        return pool(x, self.kernel_size, self.stride, self.padding, **given)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


@final
class MaxPool1d(MaxPool):
    """Max pooling of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class MaxPool2d(MaxPool):
    """Max pooling of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class MaxPool3d(MaxPool):
    """Max pooling of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class MaxUnpool(Module, ABC):
    """Zeros, with values where a max pooling found them; ``indices`` say where that was."""

    dims: int

    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        name = type(self).__name__
        given = (kernel_size, kernel_size if stride is None else stride, padding)
        self.kernel_size, self.stride, self.padding = (
            several(name, what, value, self.dims)
            for what, value in zip(("kernel_size", "stride", "padding"), given, strict=True)
        )

    def forward(
        self, x: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        how = (self.kernel_size, self.stride, self.padding, output_size)
        y: Tensor = _function("max_unpool", self.dims)(x, indices, *how)
        return y

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


@final
class MaxUnpool1d(MaxUnpool):
    """What undoes ``MaxPool1d`` of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class MaxUnpool2d(MaxUnpool):
    """What undoes ``MaxPool2d`` of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class MaxUnpool3d(MaxUnpool):
    """What undoes ``MaxPool3d`` of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class FractionalMaxPool(Module, ABC):
    """The largest of windows at random distances: ``output_size`` of them, or a share of the input.

    ``return_indices`` gives where in the input each value stood, too. ``_random_samples`` are drawn
    anew at each call unless given.
    """

    dims: int

    def __init__(
        self,
        kernel_size: Sizes,
        output_size: Sizes | None = None,
        output_ratio: float | tuple[float, ...] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        self.kernel_size, self.output_size = kernel_size, output_size
        self.output_ratio, self.return_indices = output_ratio, return_indices
        self._random_samples = None if _random_samples is None else Buffer(_random_samples)
        if (output_size is None) == (output_ratio is None):
            message = "expected one of output_size and output_ratio"
            raise located(ArgumentError, f"{type(self).__name__}: {message}")

    def forward(self, x: Tensor) -> Any:
        pool = _function("fractional_max_pool", self.dims)
        how = (self.kernel_size, self.output_size, self.output_ratio, self.return_indices)
        return pool(x, *how, self._random_samples)


@final
class FractionalMaxPool2d(FractionalMaxPool):
    """Fractional max pooling of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class FractionalMaxPool3d(FractionalMaxPool):
    """Fractional max pooling of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class AvgPool(Module, ABC):
    """The mean of each window; ``stride`` is the window's size unless given.

    Padding counts as zeros unless ``count_include_pad`` is off; ``divisor_override`` divides by a
    number of its own.
    """

    dims: int

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if self.ceil_mode:
            options["ceil_mode"] = True
        if not self.count_include_pad:
            options["count_include_pad"] = False
        if self.divisor_override is not None:
            options["divisor_override"] = self.divisor_override
        pool = _function("avg_pool", self.dims)
        y: Tensor = pool(x, self.kernel_size, self.stride, self.padding, **options)
        return y

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding")
        values = [getattr(self, name) for name in names]
        if self.dims == 1:
            values = [(v,) if isinstance(v, int) else v for v in values]
        return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


@final
class AvgPool1d(AvgPool):
    """Average pooling of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class AvgPool2d(AvgPool):
    """Average pooling of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class AvgPool3d(AvgPool):
    """Average pooling of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class LPPool(Module, ABC):
    """The ``norm_type``-norm of each window; ``stride`` is the window's size unless given."""

    dims: int

    def __init__(
        self,
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        pool = _function("lp_pool", self.dims)
        sizes = (self.kernel_size, self.stride, self.ceil_mode)
        y: Tensor = pool(x, float(self.norm_type), *sizes)
        return y

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, ceil_mode={self.ceil_mode}"
        )


@final
class LPPool1d(LPPool):
    """Power pooling of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class LPPool2d(LPPool):
    """Power pooling of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class LPPool3d(LPPool):
    """Power pooling of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class AdaptiveAvgPool(Module, ABC):
    """Means over windows that give ``output_size``; None keeps a size."""

    dims: int

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _function("adaptive_avg_pool", self.dims)(x, self.output_size)
        return y

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


@final
class AdaptiveAvgPool1d(AdaptiveAvgPool):
    """Of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class AdaptiveAvgPool2d(AdaptiveAvgPool):
    """Of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class AdaptiveAvgPool3d(AdaptiveAvgPool):
    """Of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


class AdaptiveMaxPool(Module, ABC):
    """The largest values of windows that give ``output_size``; None keeps a size."""

    dims: int

    def __init__(
        self, output_size: int | Sequence[int | None] | None, return_indices: bool = False
    ) -> None:
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Tensor) -> Any:
        options = {"return_indices": True} if self.return_indices else {}
        return _function("adaptive_max_pool", self.dims)(x, self.output_size, **options)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


@final
class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """Of ``[N, C, L]`` or ``[C, L]``."""

    dims = 1


@final
class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """Of ``[N, C, H, W]`` or ``[C, H, W]``."""

    dims = 2


@final
class AdaptiveMaxPool3d(AdaptiveMaxPool):
    """Of ``[N, C, D, H, W]`` or ``[C, D, H, W]``."""

    dims = 3


def _function(name: str, dims: int) -> Callable[..., Any]:
    """``F.max_pool2d`` and its like."""
    found: Callable[..., Any] = getattr(F, f"{name}{dims}d")
    return found
