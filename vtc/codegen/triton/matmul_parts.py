"""What comes after a product, computed for parts of a tile: its values stay in registers.

    a00, a01 = a0.reshape(128, 2, 128).permute(0, 2, 1).split()
    a0 = a00
    i1 = (column*256 + tl.arange(0, 128))[None, :]
    tl.store(y0 + (i0*768 + i1), tl.load(x2 + (i0*768 + i1)) + a0)
    a0 = a01
    i1 = (column*256 + 128 + tl.arange(0, 128))[None, :]
    tl.store(y0 + (i0*768 + i1), tl.load(x2 + (i0*768 + i1)) + a0)

Halves of a tile's columns lie in other registers of the same threads, so nothing is moved. Each
part goes through shared memory once, to where loads and stores are 16 bytes wide.
"""

from __future__ import annotations

from collections.abc import Sequence

from vtc.codegen.gemm_product import RESULT
from vtc.codegen.trace import Let, needed, reads
from vtc.codegen.triton.head import Block
from vtc.codegen.triton.matmul_blocks import Blocks, room
from vtc.codegen.triton.matmul_trace import Product
from vtc.ir.target import Target

MOST, NARROWEST = 8, 16
"""Parts of a tile, and columns of one."""
BESIDE = 28
"""Registers of a thread for all but elements of the tile."""


def parts_of(p: Product, b: Blocks, target: Target) -> int:
    """The least number of parts whose values all stay in registers."""
    held = b.m * b.n // (32 * b.warps)
    values, most = alive(p), room(b, p.multiplied, target)
    parts = 1
    while parts < MOST and b.n // parts >= 2 * NARROWEST:
        if held * (parts - 1 + values) // parts + BESIDE <= most:
            break
        parts *= 2
    return parts


def alive(p: Product) -> int:
    """How many registers the values of one element of the tile take at most at one time."""
    lets = [let for let in _needed(p) if _spread(p, let.name)]
    order = [*lets, *p.body.roots[2:]]
    last = {name: at for at, let in enumerate(order) for name in reads(let)}
    born = {let.name: at for at, let in enumerate(lets)}
    born[RESULT] = -1
    most = 0
    for at in range(-1, len(order)):
        there = [n for n, begin in born.items() if begin <= at < last.get(n, -1)]
        most = max(most, sum(2 if _is_wide(p, n) else 1 for n in there))
    return most


def epilogue(p: Product, printer: Block, b: Blocks, kind: str, parts: int) -> tuple[str, ...]:
    """The statements that compute and store what is to become of the tile ``a0``."""
    stores = [printer.statement(root) for root in p.body.roots[2:]]
    if parts == 1:
        return (*printer.lines(p.after), *stores)
    varies = {p.axes[1], RESULT}
    each = [let.name for let in _needed(p) if varies & p.used(let.name)]
    once = [name for name in p.after if name not in each]
    names, split = _halves(b, parts)
    lines = [*printer.lines(once), *split]
    for at, name in enumerate(names):
        columns = span(p.axes[1], "column", kind, b.n, at, parts)
        lines += [f"{RESULT} = {name}", f"{columns}[None, :]", *printer.lines(each), *stores]
    return tuple(lines)


def span(name: str, tile: str, kind: str, block: int, part: int = 0, parts: int = 1) -> str:
    """Variable ``name`` along a tile of ``block`` elements, or a part of it."""
    length = block // parts
    first = f" + {part * length}" if part else ""
    return f"{name} = ({tile}.to({kind})*{block}{first} + tl.arange(0, {length}))"


def _halves(b: Blocks, parts: int) -> tuple[Sequence[str], Sequence[str]]:
    """The names of parts in the order of their columns, and the statements that give them."""
    names, lines, width = [RESULT], [], b.n
    while len(names) < parts:
        width //= 2
        pairs = [(f"{name}0", f"{name}1") for name in names]
        turned = f".reshape({b.m}, 2, {width}).permute(0, 2, 1).split()"
        lines += [f"{x}, {y} = {name}{turned}" for name, (x, y) in zip(names, pairs, strict=True)]
        names = [name for pair in pairs for name in pair]
    return names, lines


def _needed(p: Product) -> list[Let]:
    """All that the stores are computed from, in order."""
    return needed(p.body.lets, p.body.roots[2:])


def _spread(p: Product, name: str) -> bool:
    """Whether scalar ``name`` is another one at each element of the tile."""
    used = p.used(name)
    return RESULT in used or used >= set(p.axes)


def _is_wide(p: Product, name: str) -> bool:
    """Whether scalar ``name`` takes two registers."""
    return name in p.body.lets and p.body.lets[name].ctype.endswith("64")
