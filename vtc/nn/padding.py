"""Layers that pad the last one, two or three dims: zeros, a constant, a mirror, the edge, a circle.

nn.ReflectionPad2d((1, 1, 2, 2))          # left, right, top, bottom
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import final

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module

Sides = int | Sequence[int]


class Padding(Module, ABC):
    """Pads ``dims`` dims by ``padding``: one number, or two for each dim from the last."""

    dims: int
    mode: str

    def __init__(self, padding: Sides) -> None:
        many = 2 * self.dims
        self.padding = (padding,) * many if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != many:
            name = type(self).__name__
            raise located(ArgumentError, f"{name}: expected 1 or {many} sizes, got {padding}")

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad(Padding, ABC):
    """Pads with ``value``."""

    mode = "constant"

    def __init__(self, padding: Sides, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


@final
class ConstantPad1d(ConstantPad):
    """Pads the last dim with ``value``."""

    dims = 1


@final
class ConstantPad2d(ConstantPad):
    """Pads the last two dims with ``value``."""

    dims = 2


@final
class ConstantPad3d(ConstantPad):
    """Pads the last three dims with ``value``."""

    dims = 3


@final
class ZeroPad1d(Padding):
    """Pads the last dim with zeros."""

    dims, mode = 1, "constant"


@final
class ZeroPad2d(Padding):
    """Pads the last two dims with zeros."""

    dims, mode = 2, "constant"


@final
class ZeroPad3d(Padding):
    """Pads the last three dims with zeros."""

    dims, mode = 3, "constant"


@final
class ReflectionPad1d(Padding):
    """Pads the last dim with its mirror image, the edge not doubled."""

    dims, mode = 1, "reflect"


@final
class ReflectionPad2d(Padding):
    """Pads the last two dims with its mirror image, the edge not doubled."""

    dims, mode = 2, "reflect"


@final
class ReflectionPad3d(Padding):
    """Pads the last three dims with its mirror image, the edge not doubled."""

    dims, mode = 3, "reflect"


@final
class ReplicationPad1d(Padding):
    """Pads the last dim with its edge."""

    dims, mode = 1, "replicate"


@final
class ReplicationPad2d(Padding):
    """Pads the last two dims with its edge."""

    dims, mode = 2, "replicate"


@final
class ReplicationPad3d(Padding):
    """Pads the last three dims with its edge."""

    dims, mode = 3, "replicate"


@final
class CircularPad1d(Padding):
    """Pads the last dim with its other end."""

    dims, mode = 1, "circular"


@final
class CircularPad2d(Padding):
    """Pads the last two dims with its other end."""

    dims, mode = 2, "circular"


@final
class CircularPad3d(Padding):
    """Pads the last three dims with its other end."""

    dims, mode = 3, "circular"
