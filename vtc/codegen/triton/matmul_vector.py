"""Products of a matrix with a vector in Triton: as fast as the matrix comes from memory.

    for k0 in tl.range(0, 2048, 1024, loop_unroll_factor=2):
        k = (k0 + tl.arange(0, 1024))[None, :]
        acc += tl.load(x0 + k)*tl.load(x1 + (2048*i1 + k))       # (8, 1024)
    a0 = tl.sum(acc, 1, keep_dims=True)

Warps lie side by side along k, as they do when the vector is loaded: then nothing goes through
shared memory before the end, and no barrier keeps the loads of the next steps back. Where memory
runs along the other axis than k, a block has a few columns and many rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from vtc.codegen.region import Region
from vtc.codegen.triton.head import Block, Head, ceil_div, power
from vtc.codegen.triton.matmul_blocks import Blocks, typical
from vtc.codegen.triton.matmul_tiles import Sum, batch, inside, spec, times, wide
from vtc.codegen.triton.matmul_trace import Product, trace, whole
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.target import Target

SUMS = 32
"""Elements that a thread adds to at a time: four loads of 16 bytes, or eight."""
LOADED = 512
"""Bytes that a warp loads at once: 16 to a thread."""
STEPS = 4
"""Most steps whose loads are under way together."""
LINE, SECTOR = 128, 32
"""Bytes that memory is best read in, and those below which it is wasted."""
WIDEST = 128
"""Most results of a program."""


@final
@dataclass(frozen=True, slots=True)
class VectorSpec:
    """What ``matmul_vector.py.jinja`` may mention: as :class:`MatmulSpec` does; loads of
    ``together`` steps are under way at once.
    """

    template = "matmul_vector"
    head: Head
    grid: tuple[Size, ...]
    before: tuple[str, ...]
    block: tuple[int, ...]
    accumulator: str
    depth: str
    step: int
    together: int
    body: tuple[str, ...]
    update: str
    result: str
    after: tuple[str, ...]


def vector(region: Region, root: Node, b: Blocks) -> VectorSpec:
    """A row or a column, ``b.n`` of its elements to a program; ``b.stages`` steps together."""
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
    both = spec(p, printer, b, axes, made, tiles=tiles)
    return VectorSpec(
        head=both.head,
        grid=both.grid,
        before=both.before,
        block=both.block,
        accumulator=both.accumulator,
        depth=both.depth,
        step=both.step,
        together=b.stages,
        body=both.body,
        update=both.update,
        result=both.result,
        after=both.after,
    )


def vector_blocks(p: Product, target: Target) -> list[Blocks]:
    """Blocks for enough programs to fill all processors, each with many loads at once; the best
    guess first.
    """
    side = _matrix(p)
    if not p.axes[side]:
        k = power(min(typical(p.sizes[2]), SUMS * 128))
        return [Blocks(m=1, n=1, k=k, warps=4, stages=1)]
    blocks = _rows if _by_rows(p) else _columns
    return list(dict.fromkeys(blocks(p, target)))


def _rows(p: Product, target: Target) -> Iterator[Blocks]:
    """Blocks of a matrix that is read along k: a few rows."""
    k, itemsize = typical(p.sizes[2]), p.dtype.itemsize
    for sums, warps in ((1, 4), (2, 4), (1, 8), (1, 2), (2, 8), (0.5, 4)):
        long = power(min(k, warps * LOADED // itemsize))
        n = _fewer(p, max(int(sums * SUMS) * 32 * warps // long, 1), 2, target)
        yield Blocks(m=1, n=n, k=long, warps=warps, stages=_together(p, long))


def _columns(p: Product, target: Target) -> Iterator[Blocks]:
    """Blocks of a matrix that is read across k: whole lines."""
    k, itemsize = typical(p.sizes[2]), p.dtype.itemsize
    for sums in (SUMS, 2 * SUMS, SUMS // 2):
        n = _fewer(p, LINE // itemsize, SECTOR // itemsize, target)
        long = power(min(k, max(sums * 128 // n, 1)))
        for warps in (4, 8):
            yield Blocks(m=1, n=n, k=long, warps=warps, stages=1)


def _fewer(p: Product, n: int, least: int, target: Target) -> int:
    """``n`` results for a program, or fewer: so many that all processors have some."""
    count = typical(p.sizes[_matrix(p)])
    matrices = typical(product(v.extent for v in p.batch))
    n = min(n, power(count), WIDEST)
    while n > least and matrices * -(-count // n) < 2 * max(target.processors, 1):
        n //= 2
    return n


def _together(p: Product, long: int) -> int:
    """Steps whose loads are under way at once: all, if there are few; else equally many."""
    k = p.sizes[2]
    if not isinstance(k, int):
        return 1
    steps = max(1, -(-k // long))
    return next(n for n in range(STEPS, 0, -1) if n == 1 or steps % n == 0)


def _matrix(p: Product) -> int:
    """Which operand is the matrix."""
    return 1 if p.sizes[0] == 1 else 0


def _by_rows(p: Product) -> bool:
    """Whether the matrix is read along k."""
    side = _matrix(p)
    free = p.axes[side]
    return p.body.contiguous("k", side) >= (p.body.contiguous(free, side) if free else 0)
