"""What comes after a product, computed for parts of a tile: its values stay in registers.

    a0_0, a0_1 = a0.reshape(128, 2, 128).permute(0, 2, 1).split()
    i1_0 = (column*256 + tl.arange(0, 128))[None, :]
    t0_0 = tl.load(x2 + (i0*768 + i1_0))
    i1_1 = (column*256 + 128 + tl.arange(0, 128))[None, :]
    t0_1 = tl.load(x2 + (i0*768 + i1_1))
    tl.store(y0 + (i0*768 + i1_0), t0_0 + a0_0)
    tl.store(y0 + (i0*768 + i1_1), t0_1 + a0_1)

Halves of a tile's columns lie in other registers of the same threads, so nothing is moved. Each
part goes through shared memory once, to where loads and stores are 16 bytes wide. What the next
part loads is on its way while one is computed, if there are registers for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.gemm_product import RESULT
from vtc.codegen.trace import Cell, Let, needed, reads
from vtc.codegen.triton.head import Block
from vtc.codegen.triton.matmul_blocks import Blocks, room
from vtc.codegen.triton.matmul_trace import Product
from vtc.ir.target import Target

MOST, NARROWEST = 8, 16
"""Parts of a tile, and columns of one."""
BESIDE = 28
"""Registers of a thread for all but elements of the tile."""

CALL, OWN = 13, 2
"""Operations that a function or a division counts for, and that any element takes."""
WARP_STAGE = 4096
"""Bytes of shared memory that a warp stores at a time."""
_SLOW = ("libdevice.", "tl.exp", "tl.log", "tl.sqrt", "tl.rsqrt", "/")


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """In how many parts a tile is finished; ``ahead``: loads come one part before they are used."""

    count: int = 1
    ahead: bool = False


def parts_of(p: Product, b: Blocks, precision: str, target: Target) -> Parts:
    """The least number of parts whose values all stay in registers."""
    held = b.m * b.n // (32 * b.warps)
    most = room(b, p.multiplied, precision, target) - BESIDE
    loaded = sum(_registers(p, let.name) for let in _needed(p) if _loads(let) and _spread(p, let))
    values = max(alive(p), loaded + 2 if loaded else 0)  # loads are moved to the front
    parts = 1
    while parts < MOST and b.n // parts >= 2 * NARROWEST:
        if held * (parts - 1 + values) // parts <= most:
            break
        parts *= 2
    ahead = parts > 1 and held * (parts - 1 + values + loaded) // parts <= most
    return Parts(parts, ahead and loaded > 0)


def alive(p: Product) -> int:
    """How many registers the values of one element of the tile take at most at one time."""
    lets = [let for let in _needed(p) if _spread(p, let)]
    order = [*lets, *p.body.roots[2:]]
    last = {name: at for at, let in enumerate(order) for name in reads(let)}
    born = {RESULT: -1} | {let.name: at for at, let in enumerate(lets)}
    most = 0
    for at in range(-1, len(order)):
        there = [n for n, begin in born.items() if begin <= at < last.get(n, -1)]
        most = max(most, sum(_registers(p, n) for n in there))
    return most


def moved(p: Product) -> int:
    """Bytes read and written for an element of the tile."""
    graph = p.elements.region.graph
    buffers = {f"x{i}": n for i, n in enumerate(graph.params)}
    buffers |= {f"y{i}": n for i, n in enumerate(graph.outputs)}
    lets = [*(let for let in _needed(p) if _loads(let) and _spread(p, let)), *p.body.roots[2:]]
    cells = [part for let in lets for part in let.parts if isinstance(part, Cell)]
    return sum(buffers[cell.buffer].tensor.dtype.itemsize for cell in cells)


def work(p: Product) -> int:
    """Operations on an element of the tile after the sum, its conversion and store among them."""
    lets = [let for let in _needed(p) if _spread(p, let)]
    text = "".join(part for let in lets for part in let.parts if isinstance(part, str))
    return len(lets) + CALL * sum(map(text.count, _SLOW)) + OWN


def staged(p: Product, b: Blocks, parts: Parts) -> int:
    """Bytes of shared memory that a part of the tile goes through on its way to be stored."""
    width = max(n.tensor.dtype.itemsize for n in p.elements.region.graph.outputs)
    return min(b.m * b.n // parts.count * width, WARP_STAGE * b.warps)


def epilogue(p: Product, printer: Block, b: Blocks, kind: str, parts: Parts) -> tuple[str, ...]:
    """The statements that compute and store what is to become of the tile ``a0``."""
    stores = [printer.statement(root) for root in p.body.roots[2:]]
    if parts.count == 1:
        return (*printer.lines(p.after), *stores)
    varies = {p.axes[1], RESULT}
    each = [let.name for let in _needed(p) if varies & p.used(let.name)]
    first = _early(p, each) if parts.ahead else []
    rest = [*printer.lines(name for name in each if name not in first), *stores]
    names = {*each, *varies}
    loads, others = [], []
    for at in range(parts.count):
        columns = f"{span(p.axes[1], 'column', kind, b.n, at, parts.count)}[None, :]"
        loads.append(_renamed([columns, *printer.lines(first)], names, at))
        others.append(_renamed(rest, names, at))
    once = [name for name in p.after if name not in each]
    lines = [*printer.lines(once), *_halves(b, parts.count), *loads[0]]
    for load, other in zip([*loads[1:], []], others, strict=True):
        lines += [*load, *other]
    return tuple(lines)


def span(name: str, tile: str, kind: str, block: int, part: int = 0, parts: int = 1) -> str:
    """Variable ``name`` along a tile of ``block`` elements, or a part of it."""
    length = block // parts
    first = f" + {part * length}" if part else ""
    return f"{name} = ({tile}.to({kind})*{block}{first} + tl.arange(0, {length}))"


def _halves(b: Blocks, parts: int) -> list[str]:
    """The statements that give the parts of the tile, in the order of their columns."""
    lines, width = [], b.n
    names = [(RESULT, range(parts))]
    while width > b.n // parts:
        width //= 2
        turned = f".reshape({b.m}, 2, {width}).permute(0, 2, 1).split()"
        below = []
        for name, own in names:
            middle = len(own) // 2
            pair = [(_called(half), half) for half in (own[:middle], own[middle:])]
            lines.append(f"{', '.join(n for n, _ in pair)} = {name}{turned}")
            below += pair
        names = below
    return lines


def _called(parts: Sequence[int]) -> str:
    """What the columns of ``parts`` are called."""
    return "_".join([RESULT, *(str(at) for at in dict.fromkeys((parts[0], parts[-1])))])


def _renamed(lines: Sequence[str], names: Collection[str], part: int) -> list[str]:
    """``lines`` with the ``names`` of one part."""
    own = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    return [own.sub(rf"\1_{part}", line) for line in lines]


def _early(p: Product, each: Sequence[str]) -> list[str]:
    """Those of ``each`` that are loaded before the product is there, and what that needs."""
    lets = p.body.lets
    loads = [lets[n] for n in each if _loads(lets[n]) and RESULT not in p.used(n)]
    wanted = {let.name for let in (*loads, *needed(lets, loads))}
    return [name for name in each if name in wanted]


def _needed(p: Product) -> list[Let]:
    """All that the stores are computed from, in order."""
    return needed(p.body.lets, p.body.roots[2:])


def _spread(p: Product, let: Let) -> bool:
    """Whether a scalar is another one at each element of the tile."""
    used = p.used(let.name)
    return RESULT in used or used >= set(p.axes)


def _loads(let: Let) -> bool:
    return let.parts[:1] == ("tl.load(",)


def _registers(p: Product, name: str) -> int:
    """Registers that an element of scalar ``name`` takes."""
    return 2 if name in p.body.lets and p.body.lets[name].ctype.endswith("64") else 1
