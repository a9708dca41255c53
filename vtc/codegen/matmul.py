"""Batched matrix products: register tiles of one operand's vectors and the other's elements.

The loops are those of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
2008), except that what can be read in place is not packed, and that either operand may be the
vector side. Producers of the operands (a transpose, a cast, the windows of a convolution) are
computed where they are packed; what follows the product is computed while a finished tile is in the
cache. Narrow floats accumulate in f32.

The elements of the product are shared by blocks of the vector side, and within one by register
tiles of rows, so any number of threads has equal shares, and sums do not depend on it. Where one
operand has few rows and both lie along the common axis, see :mod:`vtc.codegen.dot`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.dot import DotSpec, dot, few
from vtc.codegen.gemm_product import Finish, Product, trace
from vtc.codegen.gemm_shape import Shape, shape_of
from vtc.codegen.gemm_side import Side, paired, side
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head
from vtc.ir.dims import floordiv, product
from vtc.ir.graph import Node
from vtc.ir.types import bf16

CHEAP = 8
"""Multiplications that take as long as a load."""


@final
@dataclass(frozen=True, slots=True)
class TileSpec:
    """What ``matmul.c.jinja`` may mention.

    ``depth`` is how many units of the common axis there are: elements or, with ``pairs``, pairs of
    bf16, the last of which lacks its second where the axis may be ``odd``.
    """

    template = "matmul"
    head: Head
    depth: str
    pairs: bool
    odd: bool
    shape: Shape
    vector: Side
    rows: Side
    finish: Finish


MatmulSpec = TileSpec | DotSpec


def matmul(region: Region, root: Node) -> MatmulSpec | PointwiseSpec:
    """The spec of a region in which ``root``, a matrix product, is the one op that is not
    pointwise.
    """
    if 0 in region.shape(root):
        return empty(Elements(region), region.shape(root))
    traced = trace(region, root)
    return dot(traced) if few(traced) is not None else _tiles(traced)


def _tiles(p: Product) -> TileSpec:
    m, n, k = p.sizes
    finish, pairs, readings = p.finish, p.dtype is bf16, p.readings
    units = floordiv(k + 1, 2) if pairs else k
    if pairs:
        readings = paired(readings[0], k), paired(readings[1], k)
    shape = shape_of((m, n, units), *readings, finish.itemsize)
    if pairs:  # what is no whole tile of AMX may have any height
        shape = replace(shape, heights=(*shape.heights[:2], (1, 1)))
    order = (0, 1) if shape.turned else (1, 0)
    axes, forms = (finish.m, finish.n), (shape.vector, shape.rows)
    vector, rows = (
        side(p.body, i, (axes[i], finish.k), p.names, readings[i], form)
        for i, form in zip(order, forms, strict=True)
    )
    across = f"(({vector.axis.extent} + NC - 1)/NC)"
    down = f"(({rows.axis.extent} + MR - 1)/MR)"
    return TileSpec(
        head=p.head(
            *(vector.lets, vector.middle, vector.inner, rows.lets, rows.middle, rows.inner),
            count=f"({p.batch})*{across}*{down}",
            work=product((*p.shape, units)) // CHEAP,
        ),
        depth=c_text(units, p.body.facts),
        pairs=pairs,
        odd=not isinstance(k, int) or k % 2 == 1,
        shape=shape,
        vector=vector,
        rows=rows,
        finish=finish,
    )
