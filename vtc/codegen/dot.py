"""Products with few rows: every element is a dot product of two rows that memory holds as they are.

    y: f32[1, 3072] = matmul(x, w, transpose_y=True)     # x: f32[1, 768], w: f32[3072, 768]

Nothing would be used often enough to be packed: with one row such a product is as fast as memory.
Vectors lie along the common axis; a tile is a few rows of one operand times some of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.gemm_product import Finish, Product
from vtc.codegen.gemm_side import PLACE, ROWS, Side, side
from vtc.codegen.spec import Head
from vtc.ir.dims import product

MOST = 16
"""Rows above which packing pays."""

HELD = 1 << 14
"""Elements of the few rows that may be kept, where they are not read in place."""

TALL = 4
"""Of the few rows, in a tile."""

BLOCKS = (16, 64)
"""Of the many rows, what is finished at once: few where they are not many."""

SUMMING, PACKING = 6, 0.3
"""What it costs to sum a vector, and to pack an element instead; see ``gemm_shape``."""


@final
@dataclass(frozen=True, slots=True)
class DotSpec:
    """What ``dot.c.jinja`` may mention: a tile is ``tall`` of the ``few`` rows by some of the
    ``many``, of which ``block`` are finished at once. ``turned``: the few are columns of the
    result. ``narrow``: the many are bf16.
    """

    template = "dot"
    head: Head
    few: Side
    many: Side
    count: int
    tall: int
    block: int
    depth: str
    held: int
    turned: bool
    narrow: bool
    finish: Finish


def few(p: Product) -> int | None:
    """Which operand (0 or 1) is the one with few rows; None where tiles are better."""
    for i, rows in enumerate(p.sizes[:2]):
        if isinstance(rows, int) and rows <= MOST and _fits(p, i, rows) and _pays(p, i, rows):
            return i
    return None


def _fits(p: Product, i: int, rows: int) -> bool:
    k = p.sizes[2]
    held = isinstance(k, int) and rows * k <= HELD
    mine, other = p.readings[i], p.readings[1 - i]
    along = (mine.loaded and mine.rows) or (held and (mine.along or rows == 1))
    return p.dtype.kind == "float" and along and other.rows and k != 0


def _pays(p: Product, i: int, rows: int) -> bool:
    """Whether it takes longer to pack rows than to sum vectors."""
    other, k = p.sizes[1 - i], p.sizes[2]
    if rows == 1 or not isinstance(other, int) or not isinstance(k, int):
        return rows == 1
    return rows * other * SUMMING < min(-(-other // 16) * rows, other) * k * PACKING or rows <= 4


def dot(p: Product) -> DotSpec:
    """The spec of a product of which :func:`few` finds one operand to have few rows."""
    i = few(p) or 0
    finish, k = p.finish, p.sizes[2]
    mine, other = p.readings[i], p.readings[1 - i]
    axes = finish.m, finish.n
    form = PLACE if mine.loaded and mine.rows else ROWS
    one = side(p.body, i, (axes[i], finish.k), p.names, mine, form)
    many = side(p.body, 1 - i, (axes[1 - i], finish.k), p.names, other, PLACE)
    rows, count = p.sizes[i], p.sizes[1 - i]
    assert isinstance(rows, int)
    block = BLOCKS[not isinstance(count, int) or count >= 8 * BLOCKS[1]]
    held = rows * k if isinstance(k, int) and form == ROWS else 0
    top = p.head(
        *(one.lets, one.inner),
        count=f"({p.batch})*(({many.axis.extent} + {block - 1})/{block})",
        work=product((*p.shape, k)) // 4,
    )
    return DotSpec(
        head=top,
        few=one,
        many=many,
        count=rows,
        tall=-(-rows // -(-rows // TALL)),
        block=block,
        depth=finish.k.extent,
        held=held,
        turned=i == 1,
        narrow=other.narrow,
        finish=finish,
    )
