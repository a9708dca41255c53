"""Which side of a product is the vector side, what is packed, and in which blocks: a cost model.

Costs are in cycles of one core that multiplies a vector of f32 at a time. They only have to order
the choices; what they say was measured with AVX-512, and holds for narrower vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from vtc.codegen.gemm_side import COLUMNS, PLACE, ROWS, Reading
from vtc.ir.dims import Size

ROWS_OF_TILE = (12, 6)
"""Rows of a register tile with 32 vector registers, and with 16; a tile is two vectors wide."""

LANES = 16
"""Elements of a vector, where it is of 64 bytes and they of 4."""

UNKNOWN = 512
"""What a size that is not known is taken for."""

THREADS = 2
"""Threads that costs are shared by."""

DEPTH_BYTES = 2048
"""Of a row along the common axis that is multiplied at a time."""

PACKED_BYTES = 2 << 20
"""Of the vector side that is packed at a time; it stays in the L3 cache."""

CACHED = 512 << 10
"""Bytes of an operand above which it comes from beyond the L2 cache."""

WHOLE = 4096
"""Of the common axis, what may be packed before anything is multiplied."""

ROWS_OF_BLOCK = 96
"""About the rows that are finished before the next; twice as many where the vector side is packed
again for them."""

COPIED, TURNED, COMPUTED, FETCHED = 0.12, 0.3, 0.6, 0.4
"""To pack an element in the order it lies in, or across; to compute one; to read it from memory."""

COPIED_ROW, MEETING = 0.5, 0.05
"""To copy an element of a row; to read one in place whose neighbours it meets, per vector."""


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """How a product is computed.

    ``turned``: the vector side is the left one, and tiles are stored transposed. ``heights`` of
    register tiles, per kind of CPU, the rest of a block of rows taken by the smaller ones;
    ``panels`` of the first height make a block. ``width`` of a block of the vector side; ``depth``
    of a block of the common axis, of which there are several unless ``single``. ``whole``: the
    vector side is packed along all of the common axis, ``long``, before anything is multiplied.
    """

    turned: bool
    vector: str
    rows: str
    vectors: int
    heights: tuple[tuple[int, int], ...]
    panels: tuple[int, int]
    width: int
    depth: int
    long: int
    single: bool
    whole: bool


@final
@dataclass(frozen=True, slots=True)
class _Choice:
    cost: float
    turned: bool
    vector: str
    rows: str
    width: int
    whole: bool


@final
@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of the vector side, of the row side and along the common axis, where none is symbolic."""

    v: int
    r: int
    k: int
    itemsize: int


def shape_of(sizes: tuple[Size, Size, Size], left: Reading, right: Reading, itemsize: int) -> Shape:
    """The cheapest way to multiply ``[M, K]`` and ``[K, N]``."""
    m, n, k = (max(s, 1) if isinstance(s, int) else UNKNOWN for s in sizes)
    known = isinstance(sizes[2], int)
    choices = [
        *_choices(False, _Sizes(n, m, k, itemsize), right, left, known=known),
        *_choices(True, _Sizes(m, n, k, itemsize), left, right, known=known),
    ]
    best = min(choices, key=lambda c: c.cost)
    r = sizes[1] if best.turned else sizes[0]
    depth = _depth(k, itemsize) if known else DEPTH_BYTES // itemsize
    heights = _heights(r)
    first, second = (_panels(r, high, whole=best.whole) for high in heights[0])
    return Shape(
        turned=best.turned,
        vector=best.vector,
        rows=best.rows,
        vectors=_vectors(r),
        heights=heights,
        panels=(first, second),
        width=best.width,
        depth=depth,
        long=k,
        single=best.whole and depth >= k,
        whole=best.whole,
    )


def _choices(
    turned: bool, sizes: _Sizes, vector: Reading, other: Reading, *, known: bool
) -> Iterator[_Choice]:
    """Ways to have ``vector`` on the vector side."""
    v, r, k, itemsize = sizes.v, sizes.r, sizes.k, sizes.itemsize
    lanes = LANES * 4 // itemsize
    depth = _depth(k, itemsize)
    panels = -(-v // (2 * lanes))
    for whole in {known, False} if depth < k else {known}:
        most = max(1, PACKED_BYTES // ((k if whole else depth) * itemsize * 2 * lanes))
        least = -(-panels // most)
        for blocks in range(least, min(max(2 * least + 2, 16), panels) + 1):
            each = -(-panels // blocks)
            rows, row_cost = _row_form(r, 2 * each, other, itemsize)
            uneven = blocks * each / panels * _idle(blocks * -(-r // ROWS_OF_TILE[0]))
            padded = -(-v // lanes) * lanes
            cost = padded * r * k / lanes * uneven + r * k * blocks * (
                row_cost + _fetched(r * k * itemsize)
            )
            cost = (cost + (TURNED * v * r if turned else 0)) / THREADS
            width = each * 2 * lanes
            if _in_place(sizes, lanes, vector):
                yield _Choice(cost, turned, PLACE, rows, width, whole)
            form, packed = _vector_form(vector)
            packed = (packed + _fetched(v * k * itemsize)) * max(1 / THREADS, 1 / blocks)
            packed *= 1 if whole else -(-r // (ROWS_OF_BLOCK * 2))
            if k <= WHOLE or not whole:
                yield _Choice(cost + packed * v * k, turned, form, rows, width, whole)


def _idle(items: int) -> float:
    """How much longer it takes because some threads wait; with many threads, a few more do."""
    return -(-items // THREADS) * THREADS / items + max(0, 1 - items / 32) / 16


def _fetched(nbytes: int) -> float:
    """What it costs to read an element of an operand of ``nbytes``."""
    return FETCHED if nbytes > CACHED else 0


def _in_place(sizes: _Sizes, lanes: int, how: Reading) -> bool:
    """Whether rows of the vector side are read too seldom, or too short, to be worth packing."""
    aligned = isinstance(how.step, int) and how.step % lanes == 0 and sizes.v % lanes == 0
    worth = sizes.r <= 4 * ROWS_OF_TILE[0] or sizes.v <= 4 * lanes
    return how.loaded and how.columns and aligned and worth


def _vector_form(how: Reading) -> tuple[str, float]:
    if how.loaded:
        return (ROWS, TURNED) if how.rows else (COLUMNS, COPIED)
    return (ROWS, COMPUTED + TURNED) if how.along else (COLUMNS, COMPUTED)


def _row_form(r: int, vectors: int, how: Reading, itemsize: int) -> tuple[str, float]:
    """How rows are read that are multiplied by ``vectors`` at a time.

    A few suffer if too many of them meet in one set of the L1 cache; many, and it pays to copy.
    """
    if how.loaded and how.rows and isinstance(how.own, int):
        meeting = r > 1 and how.own * itemsize % 4096 == 0
        if not meeting or MEETING * vectors < COPIED_ROW:
            return PLACE, MEETING * vectors if meeting else 0
    return ROWS if how.along else COLUMNS, COPIED_ROW if how.loaded else COMPUTED


def _depth(k: int, itemsize: int) -> int:
    """Of a block of the common axis: equal blocks, of whole vectors where there are several."""
    count = -(-k // (DEPTH_BYTES // itemsize))
    each = -(-k // count)
    return each if count == 1 else -(-each // LANES) * LANES


def _vectors(r: Size) -> int:
    """Vectors in a row of a register tile: more where there are few rows."""
    return {1: 8, 2: 4, 3: 4}.get(r, 2) if isinstance(r, int) else 2


def _heights(r: Size) -> tuple[tuple[int, int], ...]:
    """Heights of register tiles that make up ``r`` rows, by kind of CPU."""
    if not isinstance(r, int):
        return tuple((most, least) for most, least in zip((12, 4, 1), (6, 3, 1), strict=True))
    each = [-(-r // -(-r // most)) for most in ROWS_OF_TILE]
    rest = [r % high or high for high in each]
    return (each[0], each[1]), (rest[0], rest[1])


def _panels(r: Size, high: int, *, whole: bool) -> int:
    most = max(1, (ROWS_OF_BLOCK if whole else 2 * ROWS_OF_BLOCK) // high)
    return min(most, -(-r // high)) if isinstance(r, int) else most
