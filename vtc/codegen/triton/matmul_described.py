"""Operands of a product that are matrices in memory, loaded through tensor descriptors: Hopper's
copy engine fetches whole blocks, with zeros beyond the ends.

    d0 = tl.make_tensor_descriptor(x0, [8192, 768], [768, 1], [128, 64])
    a = d0.load([row*128, k0])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.sizes import PYTHON, c_text, linear
from vtc.codegen.trace import Cell, needed
from vtc.codegen.triton.matmul_blocks import Blocks
from vtc.codegen.triton.matmul_trace import Product
from vtc.ir.dims import Size, Sym
from vtc.ir.target import Target

ALIGNED = 16
"""Bytes of which every row of a matrix must be a multiple."""
HOPPER = 90
WIDEST = 256
"""Elements of a block along an axis."""


@final
@dataclass(frozen=True, slots=True)
class Described:
    """The statements that make the descriptors of both operands, and the blocks at ``k0``."""

    setup: tuple[str, ...]
    blocks: tuple[str, str]


def described(p: Product, b: Blocks, target: Target) -> Described | None:
    """How both operands of ``p``, which is as stored, are described; None if one cannot be."""
    if target.arch < HOPPER or p.batch or max(b.m, b.n, b.k) > WIDEST:
        return None
    found = []
    for side, (name, block) in enumerate((("row", b.m), ("column", b.n))):
        one = _operand(p, side, block, b.k, f"tl.cast({name}*{block}, tl.int32)")
        if one is None:
            return None
        found.append(one)
    (first, a), (second, c) = found
    return Described((first, second), (a, c))


def _operand(p: Product, side: int, block: int, deep: int, at: str) -> tuple[str, str] | None:
    """The descriptor ``d<side>``, and a block of it in the order that ``tl.dot`` wants."""
    cell = _cell(p, side)
    if cell is None:
        return None
    free, extents = p.axes[side], (p.sizes[side], p.sizes[2])
    factors = linear(cell.offset, free), linear(cell.offset, "k")
    by_free, by_k = factors
    if by_free is None or by_k is None or 1 not in factors:
        return None
    if cell.offset != by_free * Sym.var(free) + by_k * Sym.var("k"):
        return None
    along_k = by_k == 1
    stride = by_free if along_k else by_k
    if not isinstance(stride, int) or stride * p.multiplied.itemsize % ALIGNED:
        return None
    rows, columns = extents if along_k else extents[::-1]
    shape = ", ".join(f"tl.cast({_text(p, n)}, tl.int32)" for n in (rows, columns))
    lengths = (block, deep) if along_k else (deep, block)
    made = f"tl.make_tensor_descriptor({cell.buffer}, [{shape}], [{stride}, 1], {list(lengths)})"
    k0 = "tl.cast(k0, tl.int32)"
    where = f"{at}, {k0}" if along_k else f"{k0}, {at}"
    load = f"d{side}.load([{where}])"
    turned = along_k == (side == 1)  # a is rows of m, b is rows of k
    return f"d{side} = {made}", f"tl.trans({load})" if turned else load


def _cell(p: Product, side: int) -> Cell | None:
    """Where an operand is loaded from memory that holds it as it is multiplied."""
    lets = needed(p.body.lets, [p.body.roots[side]])
    cells = [part for let in lets for part in let.parts if isinstance(part, Cell)]
    if len(lets) != 1 or len(cells) != 1 or lets[0].parts[0] != "tl.load(":
        return None
    param = p.elements.region.graph.params[int(cells[0].buffer[1:])]
    return cells[0] if param.tensor.dtype is p.multiplied else None


def _text(p: Product, size: Size) -> str:
    return c_text(size, p.body.facts, PYTHON)
