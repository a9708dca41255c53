"""Row regions in Triton: the stages of :mod:`vtc.codegen.tiles` over tiles of rows.

A program has a tile of some kept indices by some reduced ones. Where memory is walked in order
along the reduced axes, a tile is whole rows, which are read once and stay in registers::

    i = tl.program_id(0)*4 + tl.arange(0, 4)[:, None]
    r = tl.arange(0, 1024)[None, :]
    t0 = tl.load(x0 + (i*1000 + r), (i < 50) & (r < 1000))
    a0 = tl.reduce(tl.where(r < 1000, t0, -inf), 1, vtc_max_f32, keep_dims=True)
    ...

Rows that are too long for that are walked in blocks, once per stage, with a tile of accumulators.
Where so many are under way that they push each other out of the cache before they are read again,
programs are large, and tell the cache what to keep: see :mod:`vtc.codegen.triton.hints`.
Where memory is walked in order along a kept axis, the *lane*, a tile has that axis last. One row
to a program is a tile of one dimension, and its results are single elements.
"""

from __future__ import annotations

from dataclasses import replace

from vtc.codegen.region import Elements, Region
from vtc.codegen.tiles import Space, tiles
from vtc.codegen.trace import Cell, reads
from vtc.codegen.triton.head import ceil_div, power
from vtc.codegen.triton.hints import read_again
from vtc.codegen.triton.pointwise import PointwiseSpec, empty
from vtc.codegen.triton.rows import Choice, Order, ReductionSpec, write
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size
from vtc.ir.graph import Node
from vtc.ir.target import Target

LONGEST, HEAVIEST = 16384, 32768
"""Elements of a row that stays in registers, and of all that a program reads of its rows."""

TILE, STEP = 2048, 4096
"""Elements of a tile of whole rows, and of one that is walked along."""

LONG = 16384
"""Elements of a row above which twice as many threads walk along it."""

ALL_WARPS, EACH = 32, 16
"""The warps of a program whose rows are to stay in the cache, and the bytes that each thread asks
for at once.
"""

CROWD = 4
"""Programs on each multiprocessor, by about which memory is kept busy without all that."""

PER_THREAD, MOST_WARPS = 16, 16
LANES, FEWEST_LANES = 64, 16
"""Kept indices side by side: fewer where there are not enough programs."""

SHORT = 64
"""Reduced indices that a tile of lanes has at least, if there are so many."""


def reduction(
    region: Region, root: Node, target: Target, choice: Choice | None = None
) -> ReductionSpec | PointwiseSpec:
    """The spec of a row region; ``root`` is one of its reductions."""
    del root
    if 0 in Space.of(region).kept_sizes:
        return empty(Elements(region, TritonScalars))
    order = _order(region)
    chosen = choice or _choices(order, target)[0]
    return write(order, chosen)


def candidates(region: Region, root: Node, target: Target) -> list[dict[str, Choice]]:
    """What :func:`reduction` may be told, the best guess first; nothing if it never runs."""
    del root
    if 0 in Space.of(region).kept_sizes:
        return []
    return [{"choice": choice} for choice in _choices(_order(region), target)]


def _order(region: Region) -> Order:
    """The loop that walks memory in order goes innermost."""
    elements, program = tiles(region, Elements(region, TritonScalars))
    kept, reduced = program.kept, program.reduced
    roots = [*(root for stage in program.stages for root in stage.roots)]
    along = {v.name: program.body.walked(v.name, roots) for v in (*kept, *reduced)}
    inner = max(reversed(reduced), key=lambda v: along[v.name], default=None)
    lane = max(reversed(kept), key=lambda v: along[v.name], default=None)
    if lane and inner and along[lane.name] > along[inner.name]:
        return Order(elements, program, tuple(v for v in kept if v is not lane), lane, reduced)
    others = tuple(v for v in reduced if v is not inner)
    return Order(elements, program, kept, None, (*others, inner) if inner else ())


# choices


def _choices(order: Order, target: Target) -> list[Choice]:
    first = _lanes(order, target) if order.lane else _rows(order, target)
    if first.keep:
        return [first, replace(first, block=first.block // 2, warps=first.warps // 2)]
    others = [
        replace(first, warps=first.warps * 2),
        replace(first, warps=first.warps // 2),
        replace(first, rows=first.rows * 2),
        replace(first, rows=first.rows // 2),
    ]
    if not isinstance(order.length, int) or first.block < order.length:
        others += [replace(first, block=first.block * 2), replace(first, block=first.block // 2)]
    good = [c for c in others if c.rows >= 1 and c.block >= 1 and 1 <= c.warps <= MOST_WARPS]
    return [first, *good]


def _rows(order: Order, target: Target) -> Choice:
    """Whole rows while they fit: several where they are short and there are enough of them."""
    length, count = order.length, order.rows
    if not isinstance(length, int) or power(length) > _longest(order):
        if not isinstance(length, int):
            return Choice(1, TILE // 2, TILE // 2 // (32 * 8))
        again = _read_again(order)
        if again and _room(order, sum(again) * length, target) < CROWD:
            return Choice(1, ALL_WARPS * 32 * EACH // max(again), ALL_WARPS, keep=True)
        block = STEP if length <= LONG else 2 * STEP
        return Choice(1, block, block // (32 * PER_THREAD))
    block, rows = power(length), 1
    while rows * block < TILE and _many(count, rows * 2, 4 * target.processors):
        rows *= 2
    each = PER_THREAD if _many(count, rows, target.processors) else PER_THREAD // 2
    return Choice(rows, block, _warps(rows * block, each))


def _lanes(order: Order, target: Target) -> Choice:
    """Lanes of whole sectors, as many as leave enough programs."""
    assert order.lane is not None
    extent, length = order.lane.extent, order.length
    lanes = min(LANES, power(extent)) if isinstance(extent, int) else LANES
    programs = order.rows * ceil_div(extent, lanes)
    while lanes > FEWEST_LANES and not _many(programs, 1, target.processors):
        lanes //= 2
        programs = order.rows * ceil_div(extent, lanes)
    block = max(SHORT, STEP // lanes)
    if isinstance(length, int):
        block = min(block, power(length))
    return Choice(lanes, block, _warps(lanes * block, PER_THREAD))


def _read_again(order: Order) -> list[int]:
    """The bytes of an element of each buffer that several walks along a row read."""
    program = order.program.paired()
    kept, reduced = ([v.name for v in loops] for loops in (order.kept, order.reduced))
    again = read_again(program.body.lets, program.stages, kept, reduced)
    params = enumerate(order.elements.region.graph.params)
    return [p.tensor.dtype.itemsize for k, p in params if f"x{k}" in again]


def _room(order: Order, row: Size, target: Target) -> int:
    """How many rows of so many bytes each multiprocessor may have under way such that they stay in
    the cache; one of its halves serves half of the multiprocessors, and may hold the same.
    """
    half, everything = target.l2 // 2, order.rows * row
    if not isinstance(row, int) or (isinstance(everything, int) and everything <= half):
        return CROWD
    return half // (target.processors * row)


def _longest(order: Order) -> int:
    """Elements of a row that fit, with all that is read of it."""
    lets = order.program.body.lets.values()
    names = {v.name for v in order.reduced}
    loads = [let for let in lets if any(isinstance(p, Cell) for p in let.parts)]
    full = sum(not names.isdisjoint(reads(let)) for let in loads)
    return min(LONGEST, HEAVIEST // max(1, full))


def _many(count: Size, each: int, programs: int) -> bool:
    """Whether ``count`` things, ``each`` to a program, keep so many programs busy; unknown numbers
    are large.
    """
    return not isinstance(count, int) or count >= each * programs


def _warps(elements: int, each: int) -> int:
    return max(1, min(MOST_WARPS, elements // (32 * each)))
