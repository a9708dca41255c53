"""Tests of index expressions, from which ops build the masks of what they read."""

from __future__ import annotations

from collections.abc import Sequence

from vtc.ir.dims import Size
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import i32, i64


def compare(s: Scalars, fn: str, a: Size, b: Size, size: Size) -> Scalar:
    """A test of two index expressions on an axis of ``size``; 64 bits only where it takes them."""
    dtype = i32 if isinstance(size, int) and size < 2**30 else i64
    return s.compare(fn, s.from_index(a, dtype), s.from_index(b, dtype))


def all_of(s: Scalars, tests: Sequence[Scalar]) -> Scalar | None:
    """Whether all tests hold; None for none."""
    mask: Scalar | None = None
    for test in tests:
        mask = test if mask is None else s.binary("and_", mask, test)
    return mask
