"""A region around a matrix product, traced: elements of the operands, and what becomes of one of
the result.

    y[i0, i1] = tanh(a0 + x2[i1])        # a0: the sum of x0[784*i0 + k] * x1[784*i1 + k] over k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.gemm_side import Axis, Reading, reading
from vtc.codegen.loops import Body, raises, simd
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER, WRAPPING
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.spec import Head, Parts, head
from vtc.codegen.trace import Cell, Let, Statement, Value, needed
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, product
from vtc.ir.graph import Node
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.view import Reshape
from vtc.ir.scalar import Index
from vtc.ir.types import DType, bf16

RESULT = "a0"


@final
@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of an element of the product, at ``m`` and ``n``: ``result`` is made of
    ``product``, then ``lets`` (which need only ``m``), ``after`` and ``stores``. ``batch`` has the
    variables of a matrix from its number, ``batch``.

    Products are added as ``ctype``, of ``itemsize`` bytes. ``fetched`` are the addresses of what is
    read in the order of the product.
    """

    ctype: str
    itemsize: int
    batch: tuple[Statement, ...]
    m: Axis
    n: Axis
    k: Axis
    result: Statement
    lets: tuple[Statement, ...]
    after: tuple[Statement, ...]
    pragma: str
    stores: tuple[str, ...]
    fetched: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Product:
    """A product of matrices of ``sizes`` M, N and K. The first two roots of ``body`` are elements
    of its operands (as stored, if they are bf16, which registers multiply), ``readings`` says how
    they are read; ``names`` are the variables of the batch.
    """

    elements: Elements
    body: Body
    shape: tuple[Size, ...]
    sizes: tuple[Size, Size, Size]
    dtype: DType
    names: tuple[str, ...]
    readings: tuple[Reading, Reading]
    finish: Finish

    def head(self, *parts: tuple[Statement, ...], count: str, work: Size) -> Head:
        """The head of a kernel that runs ``count`` iterations, in which ``parts`` are computed."""
        f = self.finish
        inside = (f.batch, f.lets, f.after, *parts)
        return head(self.elements, self.shape, *inside, parts=Parts(count, 1, work))

    @property
    def batch(self) -> str:
        """The number of matrices."""
        return c_text(product(self.shape[:-2]), self.body.facts)


def trace(region: Region, root: Node) -> Product:
    """The product ``root`` of ``region``, whose result has elements."""
    op = region.op(root)
    if not isinstance(op, Matmul):
        raise CodegenError(f"{op.name}: expected a matrix product, got {root.name}: {root.type}")
    elements = Elements(region)
    at, stores = after(elements, root)
    x, y = root.inputs
    depth = region.shape(x)[-2 if op.transpose_x else -1]
    *batch, m, n = at
    k = elements.trace.facts.loop("k", depth)
    left = (*batch, k, m) if op.transpose_x else (*batch, m, k)
    right = (*batch, n, k) if op.transpose_y else (*batch, k, n)
    pair = [_element(elements, x, left, depth), _element(elements, y, right, depth)]
    stored = [Let("", "", elements.scalars.stored(v, x.tensor.dtype)) for v in pair]
    if x.tensor.dtype is not bf16:
        stored = [Let("", "", (v,)) for v in pair]
    body = Body(elements.trace, [*stored, *stores])
    shape = region.shape(root)
    sizes = shape[-2], shape[-1], depth
    finish = _finish(body, at, sizes, root.tensor.dtype.accumulate)
    axes = finish.m, finish.n
    first, second = (reading(body, i, x.tensor.dtype, axes[i].var, "k") for i in range(2))
    return Product(
        elements=elements,
        body=body,
        shape=shape,
        sizes=sizes,
        dtype=x.tensor.dtype,
        names=tuple(v.name for v in body.loops(at[:-2])),
        readings=(first, second),
        finish=finish,
    )


def after(elements: Elements, root: Node) -> tuple[Index, list[Let]]:
    """Where ``root`` is computed, in loops over its own elements, and the stores of all outputs.

    Where outputs are in another order than the product, they and the product are computed in the
    order of the outputs.
    """
    region, found = elements.region, dict[Index, None]()
    outputs, own = region.graph.outputs, region.type(root)
    result = Value(root.tensor.dtype.accumulate, RESULT)

    def read(at: Index) -> Value:
        found[at] = None
        return result

    elements.fixed[root] = read
    at = elements.loops("i", own.shape)
    elements.prepare(own.shape, at)
    stores = [_store(elements, i, o, at, own.shape) for i, o in enumerate(outputs)]
    if list(found) == [at]:
        return at, stores
    found.clear()
    again = elements.loops("o", region.output_shape())
    stores = [elements.store(i, again, elements.at(o, again)) for i, o in enumerate(outputs)]
    if len(found) != 1:
        want = f"expected one place where {root.name} is read, got {len(found)}"
        raise CodegenError(f"region {region.graph.name}: {want}")
    return next(iter(found)), stores


def _store(elements: Elements, i: int, node: Node, at: Index, shape: tuple[Size, ...]) -> Let:
    """The store of output ``i``, whose elements are those of ``shape`` in their order."""
    type = elements.region.type(node)
    if type.shape != shape:
        at = Reshape(shape=shape).source(at, type, type.with_shape(shape))
    return elements.store(i, at, elements.at(node, at))


def _element(elements: Elements, node: Node, index: Index, depth: Size) -> Value:
    if depth == 0:
        return elements.scalars.const(0, node.tensor.dtype)
    return elements.at(node, index)


def _finish(body: Body, at: Index, sizes: tuple[Size, Size, Size], dtype: DType) -> Finish:
    facts, register = body.facts, REGISTER[dtype.name]
    m, n = (_axis(body, at[i - 2], f"m{i}", sizes[i]) for i in range(2))
    k = Axis("k", c_text(sizes[2], facts))
    names = [v.name for v in body.loops(at[:-2])]
    *_, lets, after, last = body.place([*names, m.var, n.var, RESULT], body.roots[2:])
    return Finish(
        ctype=_ctype(dtype),
        itemsize=max(4, dtype.itemsize),
        batch=_batch(body, at[:-2], [*names, m.var, n.var, k.var, RESULT]),
        m=m,
        n=n,
        k=k,
        result=Statement(register, RESULT, f"({register})product", raises=False),
        lets=lets,
        after=(*after, *last),
        pragma=simd(raises((*after, *last))),
        stores=tuple(body.text(s) for s in range(2, len(body.roots))),
        fetched=_fetched(body, m.var, n.var),
    )


def _fetched(body: Body, m: str, n: str) -> tuple[str, ...]:
    """Where loads are that walk memory along rows of the product, one row after the other."""
    lets = needed(body.lets, body.roots[2:])
    cells = [p for let in lets for p in let.parts if isinstance(p, Cell)]
    own = [c for c in cells if linear(c.offset, n) == 1 and linear(c.offset, m) not in (0, None)]
    return tuple(dict.fromkeys(f"{c.buffer} + {c_text(c.offset, body.facts)}" for c in own))


def _axis(body: Body, at: Size, unused: str, extent: Size) -> Axis:
    """An axis of the product, whose variable is unused where it has one element."""
    if at != 0 and not (isinstance(at, Sym) and str(at) in body.facts.extents):
        raise CodegenError(
            f"matmul: expected a result that is read in its own order, got index {at}"
        )
    return Axis(unused if at == 0 else str(at), c_text(extent, body.facts))


def _batch(body: Body, at: Index, order: list[str]) -> tuple[Statement, ...]:
    """The variables of a matrix from its number, and all that depends on nothing else."""
    before, *inside = body.place(order, body.roots)
    found, loops = [*before], body.loops(at)
    for i, loop in enumerate(loops):
        inner = c_text(product(v.extent for v in loops[i + 1 :]), body.facts)
        text = f"batch/({inner})%({c_text(loop.extent, body.facts)})"
        found += [Statement("int64_t", loop.name, text, raises=False), *inside[i]]
    return tuple(found)


def _ctype(dtype: DType) -> str:
    """The type products are added in; integers wrap, so unsigned, and a narrow one is cut at the
    end.
    """
    if dtype.kind == "float":
        return REGISTER[dtype.name]
    return WRAPPING.get(dtype.name, "uint32_t")
