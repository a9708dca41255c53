"""Batched matrix products: panels of both operands are packed, tiles of the result kept in
registers.

The loops are those of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
2008). Packing computes elements, so producers of the operands (a transpose, a cast) are inlined
there, and what follows the product is computed where a finished tile is stored. Narrow floats
accumulate in f32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.accumulate import Meeting
from vtc.codegen.loops import Body, raises, simd
from vtc.codegen.parts import divide
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.reduction import ReductionSpec, reduce_along
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER, WRAPPING
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Let, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, product
from vtc.ir.graph import Node
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.reduce import Sum
from vtc.ir.scalar import Index
from vtc.ir.types import DType

ROWS = (12, 6)
"""Rows of a register tile with 32 vector registers, and with 16; a tile is two vectors wide."""

BLOCK_ROWS, BLOCK_COLUMNS, PANEL_BYTES = 96, 192, 1024
"""What is packed at a time, in elements and (along the common axis) in bytes: it stays in the L2
cache.
"""

CHEAP = 8
"""Multiplications that take as long as a load."""

RESULT = "a0"


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the product: its variable and its extent."""

    var: str
    extent: str


@final
@dataclass(frozen=True, slots=True)
class Pack:
    """How an element of an operand is computed; ``along`` is the axis memory is walked along."""

    lets: tuple[Statement, ...]
    value: str
    along: str
    pragma: str


@final
@dataclass(frozen=True, slots=True)
class MatmulSpec:
    """What ``matmul.c.jinja`` may mention. ``rows`` and ``panels`` (of that many rows) are per kind
    of CPU; ``outer`` ends with the tiles, from ``n_first`` and ``m_first``.
    """

    template = "matmul"
    head: Head
    before: tuple[Statement, ...]
    outer: tuple[Level, ...]
    ctype: str
    rows: tuple[int, int]
    panels: tuple[int, int]
    width: int
    depth: int
    m: Axis
    n: Axis
    k: Axis
    left: Pack
    right: Pack
    result: Statement
    after: tuple[Statement, ...]
    pragma: str
    stores: tuple[str, ...]


def matmul(region: Region, root: Node) -> MatmulSpec | ReductionSpec | PointwiseSpec:
    """The spec of a region in which ``root``, a matrix product, is the one op that is not
    pointwise.

    With a vector for an operand there is nothing to reuse: that is a reduction.
    """
    elements, shape = Elements(region), region.output_shape()
    if 0 in shape:
        return empty(elements, shape)
    op = region.op(root)
    if not isinstance(op, Matmul):
        raise CodegenError(f"{op.name}: expected a matrix product, got {root.name}: {root.type}")
    index = elements.loops("i", shape)
    at, stores = elements.around(root, Value(root.tensor.dtype.accumulate, RESULT), index)
    x, y = root.inputs
    depth = region.shape(x)[-2 if op.transpose_x else -1]
    *batch, m, n = at
    (k,) = elements.loops("k", [depth])
    left = (*batch, k, m) if op.transpose_x else (*batch, m, k)
    right = (*batch, n, k) if op.transpose_y else (*batch, k, n)
    pair = [_element(elements, x, left, depth), _element(elements, y, right, depth)]
    rows, columns = region.shape(root)[-2:]
    if 1 in (rows, columns):
        return reduce_along(elements, _sum_of(elements, x, pair), (index, (k,)), stores, root)
    body = Body(elements.trace, [*(Let("", "", (v,)) for v in pair), *stores])
    axes = (_axis(body, m, rows, "m0"), _axis(body, n, columns, "m1"), _axis(body, k, depth, "m2"))
    dtype = root.tensor.dtype.accumulate
    return _write(elements, body, dtype, index, axes, (rows, columns, depth))


def _element(elements: Elements, node: Node, index: Index, depth: Size) -> Value:
    if depth == 0:
        return elements.scalars.const(0, node.tensor.dtype)
    return elements.at(node, index)


def _sum_of(elements: Elements, x: Node, pair: list[Value]) -> Meeting:
    """The sum of the products of ``pair``, elements of ``x`` and of the other operand."""
    s, dtype = elements.scalars, x.tensor.dtype
    product = s.binary("mul", *pair)
    total = s.binary("add", Value(dtype.accumulate, "s0"), product)
    return Meeting(Sum(axes=()), dtype, Let("", "", (product,)), (Let("", "", (total,)),))


def _axis(body: Body, at: Size, extent: Size, unused: str) -> Axis:
    """The axis along which a product is read ``at``: a loop variable, or 0 where it has one
    element.
    """
    if at != 0 and not (isinstance(at, Sym) and str(at) in body.facts.extents):
        raise CodegenError(
            f"matmul: expected a result that is read in its own order, got index {at}"
        )
    return Axis(unused if at == 0 else str(at), c_text(extent, body.facts))


def _write(
    elements: Elements,
    body: Body,
    dtype: DType,
    index: Index,
    axes: tuple[Axis, Axis, Axis],
    sizes: tuple[Size, Size, Size],
) -> MatmulSpec:
    m, n, k = axes
    own = {a.var for a in axes}
    outer = [v for v in body.loops(index) if v.name not in own]
    names = [v.name for v in outer]
    before, *shared = body.place([*names, m.var, n.var, k.var, RESULT], body.roots)[
        : len(names) + 1
    ]
    left, right = _pack(body, names, (m, k), 0), _pack(body, names, (n, k), 1)
    after = _within(body, [*names, m.var, n.var, RESULT], body.roots[2:], len(names))
    rows, panels = zip(*(_tiles(sizes[0], most) for most in ROWS), strict=True)
    columns, depth = sizes[1:]
    longest = PANEL_BYTES // dtype.itemsize
    ctype = _ctype(dtype)
    found = f"({REGISTER[dtype.name]})tile[i * NC + j]"
    tiles = [body.level(v, s) for v, s in zip(outer, shared, strict=True)]
    tiles.append(Level("n_first", n.extent, (), step="NC"))
    tiles.append(Level("m_first", m.extent, (), step="MC"))
    cost = product((*elements.region.output_shape(), depth)) // CHEAP
    parts, levels = divide(tiles, cost, vector=False)
    return MatmulSpec(
        head=head(
            elements,
            elements.region.output_shape(),
            *(before, *shared, left.lets, right.lets, after),
            parts=parts,
        ),
        before=before,
        outer=levels,
        ctype=ctype,
        rows=rows,
        panels=panels,
        width=min(columns, BLOCK_COLUMNS) if isinstance(columns, int) else BLOCK_COLUMNS,
        depth=max(1, min(depth, longest)) if isinstance(depth, int) else longest,
        m=m,
        n=n,
        k=k,
        left=left,
        right=right,
        result=Statement(REGISTER[dtype.name], RESULT, found, raises=False),
        after=after,
        pragma=simd(raises(after)),
        stores=tuple(body.text(s) for s in range(2, len(body.roots))),
    )


def _pack(body: Body, outer: list[str], axes: tuple[Axis, Axis], root: int) -> Pack:
    lets = _within(body, [*outer, *(a.var for a in axes)], [body.roots[root]], len(outer))
    own, common = axes
    along = "k" if body.contiguous(common.var, root) > body.contiguous(own.var, root) else "panel"
    return Pack(lets, body.text(root), along, simd(raises(lets)))


def _within(body: Body, order: list[str], roots: list[Let], outside: int) -> tuple[Statement, ...]:
    return tuple(s for part in body.place(order, roots)[outside + 1 :] for s in part)


def _tiles(rows: Size, most: int) -> tuple[int, int]:
    """Rows of a register tile, and how many of them make a block."""
    if not isinstance(rows, int):
        return most, BLOCK_ROWS // most
    count = -(-rows // most)
    each = -(-rows // count)
    return each, min(count, BLOCK_ROWS // each)


def _ctype(dtype: DType) -> str:
    """The type products are added in; integers wrap, so unsigned, and a narrow one is cut at the
    end.
    """
    if dtype.kind == "float":
        return REGISTER[dtype.name]
    return WRAPPING.get(dtype.name, "uint32_t")
