"""Numbers for decisions: what sizes and bytes come to when a symbol stands for a typical value."""

from __future__ import annotations

from collections.abc import Mapping

from vtc.ir.dims import Dim, Size, substitute, symbols
from vtc.ir.graph import Program
from vtc.ir.types import Type, tensors


def nominal(program: Program, around: int) -> dict[str, int]:
    """A size within the range of each declared dim, near ``around``."""
    return {d.name: _near(d, around) for d in program.dims}


def value(size: Size, sizes: Mapping[str, int], unknown: int = 1) -> int:
    """``size`` as a number; symbols that ``sizes`` does not give count as ``unknown``."""
    if isinstance(size, int):
        return size
    known = substitute(size, {s: sizes.get(s, unknown) for s in symbols(size)})
    return known if isinstance(known, int) else unknown


def elements(type: Type, sizes: Mapping[str, int]) -> int:
    """How many elements a value has."""
    return sum(value(t.numel, sizes) for t in tensors(type))


def nbytes(type: Type, sizes: Mapping[str, int]) -> int:
    """How many bytes a dense value takes."""
    return sum(value(t.nbytes, sizes) for t in tensors(type))


def _near(dim: Dim, around: int) -> int:
    size = max(dim.min, around if dim.max is None else min(around, dim.max))
    return -(-size // dim.multiple) * dim.multiple
