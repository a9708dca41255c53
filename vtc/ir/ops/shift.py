"""Shifts of integers, bit by bit.

A count that is negative, or not less than the width, moves every bit out: to the left 0 is left, to
the right the sign::

    y: i32[4] = left_shift(x, n)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from vtc.ir.ops.elementwise import Binary
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import Array


@dataclass(frozen=True)
class Shift(Binary, abstract=True):
    """Two integers of one dtype, the second a count."""

    kinds = ("int",)

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        zero, width = (s.const(c, y.dtype) for c in (0, 8 * y.dtype.itemsize))
        inside = s.binary("and_", s.compare("ge", y, zero), s.compare("lt", y, width))
        found = s.binary(self.primitive, x, s.select(inside, y, zero))
        if self.primitive == "shl":
            return s.select(inside, found, zero)
        sign = s.select(s.compare("lt", x, zero), s.const(-1, x.dtype), zero)
        return s.select(inside, found, sign)


def _inside(y: Array) -> Array:
    found: Array = (y >= 0) & (y < 8 * y.itemsize)
    return found


@final
@dataclass(frozen=True)
class LeftShift(Shift):
    """``x << y``: the bits that fit."""

    primitive = "shl"

    def reference(self, x: Array, y: Array) -> Array:
        inside = _inside(y)
        return np.where(inside, np.left_shift(x, np.where(inside, y, 0)), 0).astype(x.dtype)


@final
@dataclass(frozen=True)
class RightShift(Shift):
    """``x >> y``, rounded down."""

    primitive = "shr"

    def reference(self, x: Array, y: Array) -> Array:
        inside = _inside(y)
        moved = np.right_shift(x, np.where(inside, y, 0))
        return np.where(inside, moved, np.where(x < 0, -1, 0)).astype(x.dtype)
