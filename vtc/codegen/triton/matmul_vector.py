"""Products of a matrix with a vector in Triton: as fast as the matrix comes from memory.

    for k0 in range(0, 2048, 1024):
        k = (k0 + tl.arange(0, 1024))[None, :]
        acc += tl.load(x0 + k)*tl.load(x1 + (2048*i1 + k))       # (8, 1024)
    a0 = tl.sum(acc, 1, keep_dims=True)

Where memory runs along the other axis than k, a block has a few columns and many rows.
"""

from __future__ import annotations

from vtc.codegen.region import Region
from vtc.codegen.triton.head import Block, ceil_div, power
from vtc.codegen.triton.matmul_blocks import Blocks, typical
from vtc.codegen.triton.matmul_tiles import MatmulSpec, Sum, batch, inside, spec, times, wide
from vtc.codegen.triton.matmul_trace import Product, trace, whole
from vtc.ir.dims import product
from vtc.ir.graph import Node
from vtc.ir.target import Target

SUMS = 4096
"""Elements that a program adds to at a time: four loads of 16 bytes to a thread, or eight."""
ROW = 2048
"""Bytes of a row that are read at a time."""
LINE, SECTOR = 128, 32
"""Bytes that memory is best read in, and those below which it is wasted."""
WIDEST = 128
"""Most results of a program."""


def vector(region: Region, root: Node, b: Blocks) -> MatmulSpec:
    """A row or a column, ``b.n`` of its elements to a program."""
    p = trace(region, root, stored=False, ragged=False)
    side, rows = _matrix(p), _by_rows(p)
    if not whole(p, p.sizes[2], b.k):
        p = trace(region, root, stored=False, ragged=True)
    free, count = p.axes[side], p.sizes[side]
    conditions = {free: inside(p, free, count)} if free and not whole(p, count, b.n) else {}
    printer, tiles = Block(p.body.facts, p.body.lets, conditions), ceil_div(count, b.n)
    shape: tuple[int, ...] = (b.n, b.k) if rows else (b.k, b.n)
    at = ("[:, None]", "[None, :]") if rows else ("[None, :]", "[:, None]")
    result = f"tl.sum(acc, {int(rows)}, keep_dims=True)"
    if not free:
        at, shape, result = ("", ""), (b.k,), "tl.sum(acc, 0)"
    axes = ["tile = tl.program_id(0)", *batch(p, printer, tiles)]
    if free:
        axes.append(f"{free} = (tile.to({wide(p)})*{b.n} + tl.arange(0, {b.n})){at[0]}")
    names = dict.fromkeys((*p.inner(0), *p.inner(1)))
    body = [f"k = (k0 + tl.arange(0, {b.k}).to({wide(p)})){at[1]}", *printer.lines(names)]
    made = Sum(shape, b.k, body, times(p, printer), result)
    return spec(p, printer, b, axes, made, tiles=tiles)


def vector_blocks(p: Product, target: Target) -> list[Blocks]:
    """Blocks for enough programs to fill all processors, each with many loads at once; the best
    guess first.
    """
    side = _matrix(p)
    count, k, itemsize = typical(p.sizes[side]), typical(p.sizes[2]), p.dtype.itemsize
    if not p.axes[side]:
        return [Blocks(m=1, n=1, k=power(min(k, SUMS)), warps=4, stages=1)]
    rows = _by_rows(p)
    found: dict[Blocks, None] = {}
    for sums in (SUMS, 2 * SUMS, SUMS // 2):
        long = power(min(k, ROW // itemsize)) if rows else SUMS // WIDEST
        n = min(max(sums // long, 1) if rows else LINE // itemsize, power(count), WIDEST)
        least = 2 if rows else SECTOR // itemsize
        matrices = typical(product(v.extent for v in p.batch))
        while n > least and matrices * -(-count // n) < 2 * max(target.processors, 1):
            n //= 2
        if not rows:
            long = power(min(k, max(sums // n, 1)))
        found[Blocks(m=1, n=n, k=long, warps=4, stages=1)] = None
        found[Blocks(m=1, n=n, k=long, warps=8, stages=1)] = None
    return list(found)


def _matrix(p: Product) -> int:
    """Which operand is the matrix."""
    return 1 if p.sizes[0] == 1 else 0


def _by_rows(p: Product) -> bool:
    """Whether the matrix is read along k."""
    side = _matrix(p)
    free = p.axes[side]
    return p.body.contiguous("k", side) >= (p.body.contiguous(free, side) if free else 0)
