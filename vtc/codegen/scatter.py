"""Scattering ops: copy the first input, then write or add elements at computed places, one after
the other.

The order is row-major, so the last of several writes to one place stays. Narrow floats are added up
in f32 and rounded once, in memory of the kernel's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.loops import Body
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER, WRAPPING
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Let, Part, Statement
from vtc.errors import CodegenError
from vtc.ir.dims import product
from vtc.ir.graph import Node
from vtc.ir.ops.index import Scattering


@final
@dataclass(frozen=True, slots=True)
class Nest:
    """``lets``, then loops, and inside them all ``store``."""

    lets: tuple[Statement, ...]
    levels: tuple[Level, ...]
    store: str


@final
@dataclass(frozen=True, slots=True)
class ScatterSpec:
    """What ``scatter.c.jinja`` may mention.

    ``unless`` is the input that needs no copy where it is the output; ``wide`` says that sums are
    kept in ``sums``, of ``count`` elements, until ``finish``.
    """

    template = "scatter"
    head: Head
    unless: str
    wide: bool
    count: str
    copy: Nest
    write: Nest
    finish: str


def scatter(region: Region, root: Node) -> ScatterSpec:
    """The spec of a region about ``root``, a scattering op, which is its output."""
    elements, op, dtype = Elements(region), region.op(root), root.tensor.dtype
    if not isinstance(op, Scattering) or region.graph.outputs != (root,):
        got = f"got outputs {', '.join(o.name for o in region.graph.outputs)}"
        raise CodegenError(f"{op.name}: expected a region that gives {root.name} alone, {got}")
    wide = op.accumulate and dtype.accumulate is not dtype
    buffer, count = "sums" if wide else "y0", product(region.shape(root))
    copy, write = _copy(elements, root, buffer, wide=wide), _write(elements, op, root, buffer)
    lets = [level.lets for nest in (copy, write) for level in nest.levels]
    x, params = root.inputs[0], region.graph.params
    return ScatterSpec(
        head=head(elements, region.shape(root.inputs[op.values]), copy.lets, write.lets, *lets),
        unless=f"x{params.index(x)}" if x in params and not wide else "",
        wide=wide,
        count=c_text(count, elements.trace.facts),
        copy=copy,
        write=write,
        finish=f"y0[i] = vtc_to_{dtype}(sums[i])" if wide else "",
    )


def _copy(elements: Elements, root: Node, buffer: str, *, wide: bool) -> Nest:
    """The first input, element by element."""
    shape, dtype = elements.region.shape(root), root.tensor.dtype
    index = elements.loops("i", shape)
    cell = elements.cell(buffer, shape, index)
    if 0 in shape:
        return Nest((), (), "")
    x = elements.at(root.inputs[0], index)
    stored = (x,) if wide else elements.scalars.stored(x, dtype)
    body = Body(elements.trace, [Let("", "", (cell, " = ", *stored))])
    before, levels = body.nest(body.arrange(body.loops(index)), body.roots)
    return Nest(before, levels, body.text(0))


def _write(elements: Elements, op: Scattering, root: Node, buffer: str) -> Nest:
    """The elements that are written: in order, so no iteration runs beside another."""
    values, dtype = root.inputs[op.values], root.tensor.dtype
    shape = elements.region.shape(values)
    if 0 in shape:
        return Nest((), (), "")
    index = elements.loops("v", shape)
    value = elements.at(values, index)
    inputs = [elements.operand(i) for i in root.inputs]
    place = op.target(elements.scalars, index, inputs)
    cell = elements.cell(buffer, elements.region.shape(root), place)
    parts: tuple[Part, ...] = elements.scalars.stored(value, dtype)
    if op.accumulate:
        parts = (cell, " + ", value)
        if dtype.kind == "int":
            unsigned = WRAPPING.get(dtype.name, "int")
            parts = (f"({REGISTER[dtype.name]})(({unsigned})", cell, f" + ({unsigned})", value, ")")
    body = Body(elements.trace, [Let("", "", (cell, " = ", *parts))])
    loops = body.merge(body.loops(index))
    before, *inside = body.place([v.name for v in loops], body.roots)
    levels = (body.level(v, lets) for v, lets in zip(loops, inside, strict=True))
    return Nest(before, tuple(levels), body.text(0))
