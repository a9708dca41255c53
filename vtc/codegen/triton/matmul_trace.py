"""A matrix product and what is around it, traced for Triton.

Both operands and the result are computed for blocks of the variables ``m``, ``n`` and ``k``, so
whatever the index expressions are is what is loaded: a transposed operand, windows, a cast::

    x: x0[784*i0 + k]        y: x1[784*i1 + k]        y0[256*i0 + i1] = tanh(a0 + x2[i1])

What depends on ``k`` comes before each step of the sum, what does not once before all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from vtc.codegen.gemm_product import after
from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.trace import Let, Value, needed, reads
from vtc.codegen.triton.scalars import NAMES, TritonScalars
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, mod
from vtc.ir.graph import Node
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.view import View
from vtc.ir.types import DType, bool_, f16, f32, f64, i32


@final
@dataclass(eq=False)
class Product:
    """A product of matrices of ``sizes`` M, N and K: roots 0 and 1 of ``body`` are elements of its
    operands, the others the stores. ``axes`` are the variables of m and n, "" along one element.
    ``multiplied`` is the narrowest type that holds the operands.
    """

    elements: Elements
    body: Body
    shape: tuple[Size, ...]
    sizes: tuple[Size, Size, Size]
    dtype: DType
    multiplied: DType
    batch: tuple[Loop, ...]
    axes: tuple[str, str]
    _used: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def before(self) -> tuple[str, ...]:
        """What the operands need that is the same along k."""
        return tuple(n for n in self._names(self.body.roots[:2]) if "k" not in self.used(n))

    def inner(self, side: int) -> tuple[str, ...]:
        """What operand ``side`` needs that varies along k."""
        return tuple(n for n in self._names([self.body.roots[side]]) if "k" in self.used(n))

    @property
    def after(self) -> tuple[str, ...]:
        """What the stores need, and the operands do not."""
        return tuple(n for n in self._names(self.body.roots[2:]) if n not in self.before)

    def spans(self, side: int) -> bool:
        """Whether the elements of operand ``side`` vary along both its axes."""
        root = self.body.roots[side]
        return {self.axes[side], "k"} <= frozenset().union(*map(self.used, reads(root)))

    def used(self, name: str) -> frozenset[str]:
        """The loop variables that scalar ``name`` depends on."""
        if name not in self.body.lets:
            return frozenset({name})
        if name not in self._used:
            inner = map(self.used, reads(self.body.lets[name]))
            self._used[name] = frozenset().union(*inner)
        return self._used[name]

    def _names(self, roots: Iterable[Let]) -> list[str]:
        return [let.name for let in needed(self.body.lets, roots)]


def trace(region: Region, root: Node, *, stored: bool, ragged: bool) -> Product:
    """The product ``root`` of ``region``. Its operands are as ``stored``, or as in registers;
    with ``ragged``, they are 0 behind the end of the common axis.
    """
    op = region.op(root)
    if not isinstance(op, Matmul):
        raise CodegenError(f"{op.name}: expected a matrix product, got {root.name}: {root.type}")
    elements = Elements(region, TritonScalars)
    at, stores = after(elements, root)
    x, y = root.inputs
    depth = region.shape(x)[-2 if op.transpose_x else -1]
    *batch, m, n = at
    k = 0 if depth == 1 else elements.trace.facts.loop("k", depth)
    left = (*batch, k, m) if op.transpose_x else (*batch, m, k)
    right = (*batch, n, k) if op.transpose_y else (*batch, k, n)
    inside = None
    if ragged and depth != 1:
        inside = Value(bool_, elements.trace.let("tl.int1", k, " < ", depth))
    pair, kind = [], _multiplied(root)
    for node, index in ((x, left), (y, right)):
        value = elements.scalars.const(0, node.tensor.dtype)
        if depth != 0:
            value = elements.at(node, index, inside)
        pair.append(_operand(value, kind, stored=stored))
    body = Body(elements.trace, [*pair, *stores])
    shape = region.shape(root)
    return Product(
        elements=elements,
        body=body,
        shape=shape,
        sizes=(shape[-2], shape[-1], depth),
        dtype=x.tensor.dtype,
        multiplied=kind,
        batch=tuple(body.loops(batch)),
        axes=(_axis(body, m), _axis(body, n)),
    )


def summed(dtype: DType) -> DType:
    """The type in which products are added; narrow integers are cut at the end."""
    if dtype.kind == "float":
        return f64 if dtype is f64 else f32
    return dtype if dtype.itemsize >= i32.itemsize else i32


def whole(product: Product, size: Size, block: int) -> bool:
    """Whether ``size`` is certain to be a multiple of ``block``."""
    return product.body.facts.simplify(mod(size, block)) == 0


def _multiplied(root: Node) -> DType:
    """The type of the operands of ``tl.dot``: that of narrow floats that were cast, whose products
    are exact in f32. fp8 fits into f16.
    """
    x, y = map(_narrow, root.inputs)
    kind = x if x is y else root.tensor.dtype
    return f16 if kind.kind == "float" and kind.itemsize == 1 else kind


def _narrow(node: Node) -> DType:
    """The type of ``node``, or of what was widened to give it."""
    dtype = node.tensor.dtype
    while isinstance(node.op, View) and not isinstance(node.op, Bitcast):
        (node,) = node.inputs
    if not isinstance(node.op, Cast) or dtype is not f32:
        return dtype
    before = node.inputs[0].tensor.dtype
    return before if before.accumulate is f32 else dtype


def _operand(value: Value, kind: DType, *, stored: bool) -> Let:
    if not stored or kind is value.dtype:
        return Let("", "", (value,))
    return Let("", "", ("tl.cast(", value, f", {NAMES[kind.name]})"))


def _axis(body: Body, at: Size) -> str:
    """The variable of an axis of the product."""
    if at == 0:
        return ""
    if not (isinstance(at, Sym) and str(at) in body.facts.extents):
        raise CodegenError(
            f"matmul: expected a result that is read in its own order, got index {at}"
        )
    return str(at)
