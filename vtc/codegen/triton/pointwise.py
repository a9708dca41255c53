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
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size, product

BLOCK, WARPS = 1024, 4
TILE = 64
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


def pointwise(region: Region, *, block: int = BLOCK, warps: int = WARPS) -> PointwiseSpec:
    """The spec of a region whose ops are all pointwise, and whose outputs have as many elements."""
    elements = Elements(region, TritonScalars)
    shapes = [region.shape(o) for o in region.graph.outputs]
    shape = max(shapes, key=lambda s: sum(n != 1 for n in s))
    if 0 in shape:
        return empty(elements)
    index = elements.loops("i", shape)
    trace_in_order(elements, shape, index)
    stores = []
    for k, o in enumerate(region.graph.outputs):
        at = place(index, shape, shapes[k])
        stores.append(elements.store(k, at, elements.at(o, at)))
    body = Body(elements.trace, stores)
    loops = body.arrange(body.loops(index))
    across = body.across(loops)
    if across is None:
        axes, conditions, grid = _flat(elements, loops, block)
    else:
        axes, conditions, grid = _tiled(elements, loops, across)
    printer = Block(body.facts, body.lets, conditions)
    names = [let.name for let in needed(body.lets, body.roots)]
    lines = (*printer.lines(names), *(printer.statement(root) for root in body.roots))
    return PointwiseSpec(head(elements, warps=warps), axes, lines, grid)


def empty(elements: Elements) -> PointwiseSpec:
    """The spec of a kernel whose outputs have no elements: it never runs."""
    return PointwiseSpec(head(elements), (), ("pass",), (0,))


Indices = tuple[tuple[str, ...], dict[str, str], tuple[Size, ...]]


def _flat(elements: Elements, loops: Sequence[Loop], block: int) -> Indices:
    """One block over all loops."""
    facts, total = elements.trace.facts, product(v.extent for v in loops)
    if not loops:
        return (), {}, (1,)
    printer = Block(facts, {}, {})
    wide = index_type(elements, total)
    axes = [f"e = tl.program_id(0).to({wide})*{block} + tl.arange(0, {block})"]
    inside = f"e < {printer.size(total)}"
    axes += decomposed(printer, "e", loops)
    return tuple(axes), {v.name: inside for v in loops}, (ceil_div(total, block),)


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


def _tiled(elements: Elements, loops: Sequence[Loop], across: Loop) -> Indices:
    """A tile of the innermost loop and ``across``; the others in turn."""
    facts, inner = elements.trace.facts, loops[-1]
    others = [v for v in loops if v is not inner and v is not across]
    printer = Block(facts, {}, {})
    wide = index_type(elements, product(v.extent for v in loops))
    lines = []
    for loop, dim, at in ((across, 1, "[:, None]"), (inner, 0, "[None, :]")):
        first = f"tl.program_id({dim}).to({wide})*{TILE}"
        lines.append(f"{loop.name} = ({first} + tl.arange(0, {TILE})){at}")
    if others:
        lines.append(f"e = tl.program_id(2).to({wide})")
        lines += decomposed(printer, "e", others)
    conditions = {v.name: f"{v.name} < {printer.size(v.extent)}" for v in (inner, across)}
    grid = ceil_div(inner.extent, TILE), ceil_div(across.extent, TILE)
    return tuple(lines), conditions, (*grid, product(v.extent for v in others))
