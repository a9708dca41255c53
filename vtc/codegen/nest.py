"""The loops of a pointwise kernel: what is read and written out of order, and around the cache.

Where the innermost loop jumps through an operand that an outer loop walks in order, both run in
tiles, and the operand's tile is transposed into a small buffer first. What is too large to stay in
the cache is computed a block at a time into a buffer, which is then streamed::

    for (int64_t first = begin; first < end; first += 128) {
        const int64_t last = vtc_minimum(first + 128, end);
        float *const o0 = apart_y0 ? z0 : y0 + first;
        for (int64_t i0i1 = first; i0i1 < last; i0i1 += 1) o0[i0i1 - first] = ...;
        if (apart_y0) vtc_stream(y0 + first, z0, (last - first)*4);
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.draws import Draw, draws
from vtc.codegen.loops import TILE, Body, Loop
from vtc.codegen.parts import COST, divide
from vtc.codegen.region import Region
from vtc.codegen.scalar import STORAGE
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.spec import Level, Parts
from vtc.codegen.trace import Cell, Let, Statement
from vtc.ir.dims import Size, Sym, substitute, symbols
from vtc.ir.graph import Node

LARGE = 1 << 24
"""Bytes of an output that will not be found in the cache again."""

BLOCK = 128
"""Elements computed before they are streamed: few, so that stores go out while others are computed.
"""

SHORTEST = 256
"""Elements in a row below which streaming does not pay."""

FIRST, LAST = "first", "last"


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """The buffer ``name`` of a tile of an operand, filled by ``load``."""

    ctype: str
    name: str
    size: int
    load: str


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """A block of ``nbytes`` of output ``whole``, which goes to ``target``: by way of the buffer
    ``name``, unless ``whole`` is one of ``inputs``, whose lines are in the cache already.
    """

    ctype: str
    name: str
    size: int
    place: str
    target: str
    nbytes: str
    whole: str
    inputs: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Nest:
    """``lets``, then ``levels``; in them ``tiles`` are loaded, then come ``rows``; in them words
    are drawn (``draws``), then come ``inner`` and, inside, ``stores``, and then ``streams``.

    Stores come last, so an output may share the memory of an input that is read at the same index.
    """

    lets: tuple[Statement, ...] = ()
    levels: tuple[Level, ...] = ()
    tiles: tuple[Tile, ...] = ()
    rows: tuple[Level, ...] = ()
    draws: tuple[Draw, ...] = ()
    inner: tuple[Level, ...] = ()
    stores: tuple[str, ...] = ()
    streams: tuple[Stream, ...] = ()

    @property
    def scalars(self) -> tuple[tuple[Statement, ...], ...]:
        """Everything it computes."""
        return self.lets, *(v.lets for v in (*self.levels, *self.rows, *self.inner))


def nest(region: Region, body: Body, loops: list[Loop], cost: Size) -> tuple[Nest, Parts | None]:
    """The loops that compute the stores of ``body``, and how they are shared."""
    across = body.across(loops)
    tiles = _tiles(region, body, loops, across) if across else ()
    drawn = draws(body, loops[-1].name, BLOCK, (FIRST, LAST)) if loops and not across else []
    roots = [*body.roots, *(sources for _, sources in drawn)]
    lets, levels = body.nest(loops, roots, across)
    streams = _streams(region, body, loops, levels)
    stores = tuple(body.text(k) for k in range(len(body.roots)))
    parts, levels = divide(levels, cost, vector=True)
    if streams:
        body.trace.needs.add("stream")
    if streams or drawn:
        levels = _blocked(levels, tiled=across is not None)
    inside = 2 if across else 1
    outer, inner = levels[: len(levels) - inside], levels[len(levels) - inside :]
    found = tuple(draw for draw, _ in drawn)
    return Nest(lets, outer, tiles, inner[:-1], found, inner[-1:], stores, streams), parts


def _tiles(region: Region, body: Body, loops: Sequence[Loop], across: Loop) -> tuple[Tile, ...]:
    """Tiles of the operands that are walked in order along ``across`` only; reads go there."""
    inner, names = loops[-1], {v.name for v in loops} | region.ranges.keys()
    found: dict[Cell, Tile] = {}
    for name, let in body.lets.items():
        match let.parts:
            case (Cell() as cell,) if symbols(cell.offset) <= names:
                stride = linear(cell.offset, inner.name)
                if stride in (None, 0, 1) or linear(cell.offset, across.name) != 1:
                    continue
                if cell not in found:
                    tile = _tile(region, body, cell, (across, inner), f"w{len(found)}")
                    found[cell] = tile
                row, column = (Sym.var(v.name) - _start(v) for v in (across, inner))
                at = body.facts.simplify(row * TILE + column)
                body.lets[name] = replace(let, parts=(Cell(found[cell].name, at),))
    if found:
        body.trace.needs.add("transpose")
    return tuple(found.values())


def _tile(region: Region, body: Body, cell: Cell, loops: tuple[Loop, Loop], name: str) -> Tile:
    dtype = region.graph.params[int(cell.buffer[1:])].tensor.dtype
    across, inner = loops
    start = substitute(cell.offset, {v.name: _start(v) for v in loops})
    stride = linear(cell.offset, inner.name) or 0
    left = [f"{c_text(v.extent, body.facts)} - {_start(v)}" for v in (inner, across)]
    counts = ", ".join(f"vtc_minimum({TILE}, {n})" for n in left)
    at, step = c_text(start, body.facts), c_text(stride, body.facts)
    read = f"{cell.buffer} + {at}, {step}, {counts}"
    load = f"vtc_transpose_{dtype.itemsize}({name}, {TILE}, {read})"
    return Tile(STORAGE[dtype.name], name, TILE * TILE, load)


def _start(loop: Loop) -> Size:
    return Sym.var(f"{loop.name}t")


def _streams(
    region: Region, body: Body, loops: Sequence[Loop], levels: Sequence[Level]
) -> tuple[Stream, ...]:
    """The outputs that are streamed; stores go to their buffers.

    Loops that compute long hide what their stores cost, and would wait for streams instead.
    """
    if not levels or body.trace.needs & COST.keys():
        return ()
    name = levels[-1].var
    extent = next(v.extent for v in loops if v.name == name)
    if isinstance(extent, int) and extent < SHORTEST:
        return ()
    found = []
    for k, output in enumerate(region.graph.outputs):
        match body.roots[k].parts:
            case (Cell(offset=at), *rest) if _large(output) and linear(at, name) == 1:
                start = c_text(substitute(at, {name: Sym.var(FIRST)}), body.facts)
                place = Cell(f"o{k}", Sym.var(name) - Sym.var(FIRST))
                body.roots[k] = Let("", "", (place, *rest))
                found.append(_stream(region, k, f"y{k} + {start}"))
    return tuple(found)


def _stream(region: Region, k: int, target: str) -> Stream:
    type = region.graph.outputs[k].tensor
    params = enumerate(region.graph.params)
    return Stream(
        ctype=STORAGE[type.dtype.name],
        name=f"z{k}",
        size=BLOCK,
        place=f"o{k}",
        target=target,
        nbytes=f"({LAST} - {FIRST})*{type.dtype.itemsize}",
        whole=f"y{k}",
        inputs=tuple(f"x{j}" for j, p in params if p.tensor.nbytes == type.nbytes),
    )


def _large(output: Node) -> bool:
    size = output.tensor.nbytes
    return isinstance(size, int) and size >= LARGE


def _blocked(levels: tuple[Level, ...], *, tiled: bool) -> tuple[Level, ...]:
    """With the innermost loop in blocks; in a tile it is one already."""
    *outer, inner = levels
    last = f"vtc_minimum({FIRST} + {BLOCK}, {inner.extent})"
    ends = [Statement("int64_t", LAST, last, raises=False)]
    if tiled:
        ends = [
            Statement("int64_t", FIRST, inner.start, raises=False),
            Statement("int64_t", LAST, inner.extent, raises=False),
        ]
        outer[-1] = replace(outer[-1], lets=(*outer[-1].lets, *ends))
        return (*outer, replace(inner, start=FIRST, extent=LAST))
    block = Level(FIRST, inner.extent, tuple(ends), start=inner.start, step=str(BLOCK))
    return (*outer, block, replace(inner, start=FIRST, extent=LAST))
