"""Pointwise regions in Triton: a flat block of elements to a program.

Where what is read walks memory along another loop than what is written, a program computes a
tile of both loops, so that both are read and written in whole lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.pointwise import place, trace_in_order
from vtc.codegen.region import Elements, Region
from vtc.codegen.trace import needed
from vtc.codegen.triton.flat import Change, flattened
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size, product

BLOCK, WARPS = 1024, 4
SMALLEST, PROGRAMS = 128, 264
"""Elements to a program: fewer where there are fewer programs than this, two for each processor of
an H100.
"""

PER_THREAD, MOST_WARPS = 8, 8
TILE, TILE_WARPS = 64, 8
"""Elements of a tile along each of its two loops."""


@final
@dataclass(frozen=True, slots=True)
class PointwiseSpec:
    """What ``pointwise.py.jinja`` may mention: ``axes`` are the indices of the block, then come
    ``lines``. ``grid`` is how many programs there are.
    """

    template = "pointwise"
    head: Head
    axes: tuple[str, ...]
    lines: tuple[str, ...]
    grid: tuple[Size, ...]


def pointwise(
    region: Region, *, block: int | None = None, warps: int | None = None, tile: int = TILE
) -> PointwiseSpec:
    """The spec of a region whose ops are all pointwise, and whose outputs have as many elements.

    ``block`` elements to a program, or a ``tile`` by as many where memory is walked in two orders.
    """
    elements = Elements(region, TritonScalars)
    shape = _shape(region)
    if 0 in shape:
        return empty(elements)
    body, loops = _body(elements, shape)
    across = body.across(loops)
    if across is not None:
        return _written(elements, body, _tiled(elements, loops, across, tile), warps or TILE_WARPS)
    block = block or _block(product(shape))
    return _written(elements, body, _flat(elements, loops, block), warps or _warps(block))


def candidates(region: Region) -> list[dict[str, int]]:
    """What :func:`pointwise` may be told, the best guess first."""
    shape = _shape(region)
    if 0 in shape:
        return [{}]
    body, loops = _body(Elements(region, TritonScalars), shape)
    if body.across(loops) is not None:
        tiles = ((TILE, TILE_WARPS), (TILE, 4), (TILE // 2, 4), (TILE // 2, 8))
        return [{"tile": tile, "warps": warps} for tile, warps in tiles]
    block = _block(product(shape))
    warps = _warps(block)
    more = ((block, warps), (2 * block, 2 * warps), (2 * block, warps), (block // 2, warps))
    return [{"block": b, "warps": w} for b, w in more]


def _shape(region: Region) -> tuple[Size, ...]:
    """The shape that the loops are over: that of the output with the most axes."""
    shapes = (region.shape(o) for o in region.graph.outputs)
    return max(shapes, key=lambda s: sum(n != 1 for n in s))


def _body(elements: Elements, shape: tuple[Size, ...]) -> tuple[Body, list[Loop]]:
    """The scalars and stores of a region, and the loops over them."""
    region = elements.region
    index = elements.loops("i", shape)
    trace_in_order(elements, shape, index)
    stores = []
    for k, o in enumerate(region.graph.outputs):
        at = place(index, shape, region.shape(o))
        stores.append(elements.store(k, at, elements.at(o, at)))
    body = Body(elements.trace, stores)
    return body, body.arrange(body.loops(index))


def _same(size: Size) -> Size:
    return size


def empty(elements: Elements) -> PointwiseSpec:
    """The spec of a kernel whose outputs have no elements: it never runs."""
    return PointwiseSpec(head(elements), (), ("pass",), (0,))


@final
@dataclass(frozen=True, slots=True)
class _Indices:
    """The indices of a block, when they are inside, how many programs there are, and what index
    expressions become.
    """

    axes: tuple[str, ...]
    conditions: dict[str, str]
    programs: Size
    change: Change = _same


def _written(elements: Elements, body: Body, where: _Indices, warps: int) -> PointwiseSpec:
    lets = {name: let.rewrite(where.change) for name, let in body.lets.items()}
    roots = [root.rewrite(where.change) for root in body.roots]
    printer = Block(body.facts, lets, where.conditions)
    names = [let.name for let in needed(lets, roots)]
    lines = (*printer.lines(names), *map(printer.statement, roots))
    return PointwiseSpec(head(elements, warps=warps), where.axes, lines, (where.programs,))


def _block(total: Size) -> int:
    """Elements to a program: fewer where that makes too few of them."""
    block = BLOCK
    while isinstance(total, int) and block > SMALLEST and total < PROGRAMS * block:
        block //= 2
    return block


def _warps(block: int) -> int:
    return max(1, min(MOST_WARPS, block // (32 * PER_THREAD)))


def _flat(elements: Elements, loops: Sequence[Loop], block: int) -> _Indices:
    """One block over all loops."""
    if not loops:
        return _Indices((), {}, 1)
    facts = elements.trace.facts
    one, change = flattened(facts, loops, "e")
    wide = index_type(elements, one.extent)
    axes = (f"e = tl.program_id(0).to({wide})*{block} + tl.arange(0, {block})",)
    inside = {"e": f"e < {Block(facts, {}, {}).size(one.extent)}"}
    if isinstance(one.extent, int) and one.extent % block == 0:
        inside = {}
    return _Indices(axes, inside, ceil_div(one.extent, block), change)


def decomposed(printer: Block, flat: str, loops: Sequence[Loop]) -> list[str]:
    """The variables of ``loops`` from the number ``flat`` of an iteration."""
    lines: list[str] = []
    rest: Size = 1
    for k, loop in reversed(list(enumerate(loops))):
        text = flat if rest == 1 else f"{flat}//({printer.size(rest)})"
        if k:
            text = f"({text})%({printer.size(loop.extent)})"
        lines.append(f"{loop.name} = {text}")
        rest = rest * loop.extent
    return lines


def _tiled(elements: Elements, loops: Sequence[Loop], across: Loop, tile: int) -> _Indices:
    """A tile of the innermost loop and ``across``; the others in turn. Only the first axis of a
    grid may be long, so all programs are along it.
    """
    inner = loops[-1]
    others = [v for v in loops if v is not inner and v is not across]
    printer = Block(elements.trace.facts, {}, {})
    wide = index_type(elements, product(v.extent for v in loops))
    lines, rest = [f"e = tl.program_id(0).to({wide})"], "e"
    conditions, programs = {}, product(v.extent for v in others)
    for loop, at in ((inner, "[None, :]"), (across, "[:, None]")):
        count = ceil_div(loop.extent, tile)
        many = f"({rest})%({printer.size(count)})*{tile} + tl.arange(0, {tile}){at}"
        lines.append(f"{loop.name} = {many}")
        rest = f"{rest}//({printer.size(count)})"
        if not isinstance(loop.extent, int) or loop.extent % tile:
            conditions[loop.name] = f"{loop.name} < {printer.size(loop.extent)}"
        programs = programs * count
    if others:
        lines.append(f"o = {rest}")
        lines += decomposed(printer, "o", others)
    return _Indices(tuple(lines), conditions, programs)
