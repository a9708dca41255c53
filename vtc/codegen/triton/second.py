"""The second meeting of a pair in Triton: see :mod:`vtc.codegen.pairs`.

Every element of the tile has accumulators of its own, and they meet after the walk: nothing is
exchanged between threads before. Sums of exponentials are relative to the largest so far; a new
one scales what is there. Where a tile is a piece of a row, the elements that a thread loads at
once have them in common::

    s0, d1 = vtc_exponentials_of(s0, d1, tl.reshape(v0, [512, 8]))

Squares are those of Welford ("Note on a
method for calculating corrected sums of squares and products", 1962).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from vtc.codegen.pairs import Pair
from vtc.codegen.trace import Let, Value
from vtc.ir.types import f32

Lines = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Walk:
    """A walk along rows of ``length``: the ``shape`` of a tile, its numbers ``along`` the row, of
    which there are ``block``, the condition under which an element is ``inside`` and what reduces
    tiles by a function. In a flat tile ``common`` elements are loaded at once, else 1.
    """

    shape: str
    common: int
    along: str
    block: int
    length: str
    inside: str | None
    reduced: Callable[[str, str], str]


@final
@dataclass(frozen=True, slots=True)
class Second:
    """``states``, their ``updates`` before those of the first meeting, and when the first result
    is known ``joins`` and the ``result``, which mentions ``about``. With ``both``, states and
    updates are those of the first meeting, too.
    """

    both: bool
    states: Lines
    updates: Lines
    joins: Lines
    about: Let
    result: str


def second(pair: Pair, name: str, total: str, walk: Walk) -> Second:
    """How the second meeting of ``pair``, whose result is ``name``, is accumulated; function
    ``total`` adds.
    """
    if pair.kind == "squares":
        return _squares(pair, name, walk)
    d, m, v = f"d{pair.second}", f"s{pair.first}", f"v{pair.first}"
    scaled = f"{d}*libdevice.exp({m} - a{pair.first})"
    shape, update = walk.shape, f"vtc_exponentials({m}, {d}, {v})"
    if walk.common > 1:
        groups = walk.block // walk.common
        shape, values = f"[{groups}]", f"tl.reshape({v}, [{groups}, {walk.common}])"
        update = f"vtc_exponentials_of({m}, {d}, {values})"
    return Second(
        both=True,
        states=(f'{m} = tl.full({shape}, float("-inf"), tl.float32)', _zeros(d, shape)),
        updates=(f"{m}, {d} = {update}",),
        joins=(),
        about=Let("", "", (Value(f32, f"a{pair.first}"),)),
        result=f"{name} = {walk.reduced(scaled, total)}",
    )


def _squares(pair: Pair, name: str, walk: Walk) -> Second:
    k, block = pair.second, walk.block
    m, d, p, q, w = (f"{letter}{k}" for letter in "mdpqw")
    updates = [f"{p}, {q} = vtc_square({m}, {d}, v{pair.first}, 1.0/(u//{block} + 1))"]
    for old, new in ((m, p), (d, q)):
        updates.append(f"{old} = tl.where({walk.inside or 'True'}, {new}, {old})")
    count = f"(({walk.length} - {walk.along} + {block - 1})//{block}).to(tl.float32)"
    parts = f"({m}, {d}, tl.broadcast_to({count}, {walk.shape}))"
    off = f"({p} - {pair.about})"
    return Second(
        both=False,
        states=(_zeros(m, walk.shape), _zeros(d, walk.shape)),
        updates=tuple(updates),
        joins=(f"{p}, {q}, {w} = {walk.reduced(parts, 'vtc_squares')}",),
        about=Let("", "", (Value(f32, pair.about),)),
        result=f"{name} = {q} + {w}*{off}*{off}",
    )


def _zeros(name: str, shape: str) -> str:
    return f"{name} = tl.full({shape}, 0.0, tl.float32)"
