"""Matrix products in Triton: a tile of the result to a program, with what is around it.

    for k0 in range(0, 784, 64):
        k = (k0 + tl.arange(0, 64))[None, :]
        a = tl.load(x0 + (784*i0 + k), i0 < 100)
        k = (k0 + tl.arange(0, 64))[:, None]
        b = tl.load(x1 + (784*i1 + k))
        acc = tl.dot(a, b, acc)

Operands are blocks of elements, whatever is computed to get them; nothing is masked along an axis
that is a multiple of its block. With descriptors, programs stay and take turns at tiles. What comes
after the sum is computed for parts of a tile where it is much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.region import Region
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type, power
from vtc.codegen.triton.matmul_blocks import Blocks, resident, typical
from vtc.codegen.triton.matmul_described import described
from vtc.codegen.triton.matmul_parts import Parts, epilogue, parts_of, span, staged
from vtc.codegen.triton.matmul_trace import Product, summed, trace, whole
from vtc.codegen.triton.pointwise import decomposed
from vtc.codegen.triton.scalars import NAMES
from vtc.errors import CodegenError
from vtc.ir.dims import Size, minimum, product
from vtc.ir.graph import Node
from vtc.ir.target import Target
from vtc.ir.types import f32, f64

SUMS = 2048
"""Elements of a tile that is a sum of outer products: 16 to a thread."""


@final
@dataclass(frozen=True, slots=True)
class MatmulSpec:
    """What ``matmul.py.jinja`` may mention: after ``before``, for each ``step`` of ``depth`` come
    ``body`` and ``update``; ``block`` is the shape of what is added up. With ``turns`` that is done
    for each of them, after ``setup``.
    """

    template = "matmul"
    head: Head
    grid: tuple[Size, ...]
    before: tuple[str, ...]
    block: tuple[int, ...]
    accumulator: str
    depth: str
    step: int
    body: tuple[str, ...]
    update: str
    result: str
    after: tuple[str, ...]
    setup: tuple[str, ...] = ()
    turns: str = ""


@final
@dataclass(frozen=True, slots=True)
class Sum:
    """How elements of a product are added up; see :class:`MatmulSpec`."""

    block: tuple[int, ...]
    step: int
    body: Sequence[str]
    update: str
    result: str = "acc"


def dots(
    region: Region,
    root: Node,
    b: Blocks,
    precision: str,
    target: Target,
    *,
    descriptors: bool = False,
) -> MatmulSpec:
    """Tiles on tensor cores."""
    p = trace(region, root, stored=True, ragged=False)
    given = f', input_precision="{precision}"' if p.multiplied is f32 else ""
    given += ", out_dtype=tl.float64" if summed(p.dtype) is f64 else ""
    update = f"acc = tl.dot(a, b, acc{given})"
    if descriptors:
        return _turns(p, b, precision, update, target)
    if not whole(p, p.sizes[2], b.k):
        p = trace(region, root, stored=True, ragged=True)
    printer, parts = _printer(p, b), parts_of(p, b, precision, target)
    body = [line for side in range(2) for line in _operand(p, printer, b, side)]
    sum = Sum((b.m, b.n), b.k, body, update)
    return spec(p, printer, b, _tile(p, printer, b), sum, parts=parts)


def outer(p: Product, blocks: Blocks | None = None) -> MatmulSpec:
    """Tiles that are sums of outer products."""
    b = blocks or _outer_blocks(p)
    printer = _printer(p, b)
    names = dict.fromkeys((*p.inner(0), *p.inner(1)))
    body = [f"k = tl.cast(k0, {wide(p)})", *printer.lines(names)]
    return spec(p, printer, b, _tile(p, printer, b), Sum((b.m, b.n), 1, body, times(p, printer)))


def times(p: Product, printer: Block) -> str:
    """The statement that adds a product of elements, or of blocks of them."""
    kind = NAMES[summed(p.dtype).name]
    a, b = (f"tl.cast({printer.statement(p.body.roots[i])}, {kind})" for i in range(2))
    return f"acc += {a}*{b}"


def batch(p: Product, printer: Block, tiles: Size) -> list[str]:
    """The variables of the matrix of number ``tile``, and ``tile`` as one of its own ``tiles``."""
    if not p.batch:
        return []
    count = printer.size(tiles)
    lines = [f"matrix = (tile//({count})).to({wide(p)})"]
    return [*lines, *decomposed(printer, "matrix", p.batch), f"tile = tile%({count})"]


def inside(p: Product, name: str, count: Size) -> str:
    """The condition that a variable is before its end."""
    return f"{name} < {Block(p.body.facts, {}, {}).size(count)}"


def wide(p: Product) -> str:
    """The type of indices."""
    return index_type(p.elements, product((*p.shape[:-2], *p.sizes[:2])))


def spec(
    p: Product,
    printer: Block,
    b: Blocks,
    axes: Sequence[str],
    sum: Sum,
    *,
    tiles: Size | None = None,
    parts: Parts | None = None,
) -> MatmulSpec:
    """The spec of a kernel with one program for each of ``tiles`` of each matrix. What comes after
    is computed in ``parts``.
    """
    total, kept = summed(p.dtype), p.dtype.accumulate
    tiles = _tiles(p, b) if tiles is None else tiles
    exact = kept is total
    return MatmulSpec(
        head=head(p.elements, warps=b.warps, stages=b.stages),
        grid=(product(v.extent for v in p.batch) * tiles,),
        before=(*axes, *printer.lines(p.before)),
        block=sum.block,
        accumulator=NAMES[total.name],
        depth=printer.size(p.sizes[2]),
        step=sum.step,
        body=tuple(sum.body),
        update=sum.update,
        result=sum.result if exact else f"tl.cast({sum.result}, {NAMES[kept.name]})",
        after=epilogue(p, printer, b, wide(p), parts or Parts()),
    )


def _turns(p: Product, b: Blocks, precision: str, update: str, target: Target) -> MatmulSpec:
    """As many programs as run at once, which take turns at tiles: where both loops are one, the
    next tile is loaded while this one is finished.
    """
    found = described(p, b, target)
    if found is None:
        raise CodegenError("matmul: expected operands that are matrices in memory, got others")
    printer, tiles = _printer(p, b), _tiles(p, b)
    body = [f"{name} = {text}" for name, text in zip("ab", found.blocks, strict=True)]
    axes = ["tile = turn", *_tile(p, printer, b)[1:]]
    sum = Sum((b.m, b.n), b.k, body, update)
    parts = parts_of(p, b, precision, target)
    made = spec(p, printer, b, axes, sum, parts=parts)
    one = ", flatten=True" if isinstance(p.sizes[2], int) and p.sizes[2] > 0 else ""
    turns = f"tl.range(tl.program_id(0), {printer.size(tiles)}, tl.num_programs(0){one})"
    at_once = resident(b, p.multiplied, precision, target, staged(p, b, parts))
    programs = max(1, target.processors) * at_once
    grid = (minimum(tiles, programs),)
    return replace(made, grid=grid, setup=found.setup, turns=turns)


def _operand(p: Product, printer: Block, b: Blocks, side: int) -> list[str]:
    """The statements that give ``a`` or ``b``."""
    name, at, shape = (
        ("a", "[None, :]", (b.m, b.k)),
        ("b", "[:, None]", (b.k, b.n)),
    )[side]
    text = printer.statement(p.body.roots[side])
    if not p.spans(side):
        text = f"tl.cast(tl.broadcast_to({text}, {shape}), {NAMES[p.multiplied.name]})"
    return [
        f"k = (k0 + tl.arange(0, {b.k}).to({wide(p)})){at}",
        *printer.lines(p.inner(side)),
        f"{name} = {text}",
    ]


def _outer_blocks(p: Product) -> Blocks:
    """Whole lines of what is stored."""
    m, n = (power(min(typical(size), 64)) for size in p.sizes[:2])
    return Blocks(m=max(min(m, SUMS // n), 1), n=n, k=1, warps=4, stages=1)


def _tiles(p: Product, b: Blocks) -> Size:
    return ceil_div(p.sizes[0], b.m) * ceil_div(p.sizes[1], b.n)


def _tile(p: Product, printer: Block, b: Blocks) -> list[str]:
    """The variables of a tile from the number of a program: ``group`` rows of tiles at a time."""
    down, across = (ceil_div(n, size) for n, size in zip(p.sizes[:2], (b.m, b.n), strict=True))
    rows = printer.size(down)
    lines = ["tile = tl.program_id(0)", *batch(p, printer, down * across)]
    if isinstance(down, int) and down <= b.group:
        lines += [f"row = tile%({rows})", f"column = tile//({rows})"]
    else:
        together = printer.size(across * b.group)
        lines += [
            f"first = tile//({together})*{b.group}",
            f"high = tl.minimum(({rows}) - first, {b.group})",
            f"tile = tile%({together})",
            "row = first + tile%high",
            "column = tile//high",
        ]
    kind, (m, n) = wide(p), p.axes
    lines.append(f"{span(m, 'row', kind, b.m)}[:, None]")
    lines.append(f"{span(n, 'column', kind, b.n)}[None, :]")
    return lines


def _printer(p: Product, b: Blocks) -> Block:
    """Masks only along axes that are no multiples of their block."""
    axes = zip(p.axes, p.sizes[:2], (b.m, b.n), strict=True)
    conditions = {v: inside(p, v, n) for v, n, block in axes if not whole(p, n, block)}
    return Block(p.body.facts, p.body.lets, conditions)
