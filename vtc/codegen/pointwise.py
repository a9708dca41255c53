"""Pointwise regions: every element on its own, in one nest of loops over the outputs' shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.loops import Body
from vtc.codegen.parts import divide, work
from vtc.codegen.region import Elements, Region
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Statement
from vtc.ir.dims import Size, product


@final
@dataclass(frozen=True, slots=True)
class PointwiseSpec:
    """What ``pointwise.c.jinja`` may mention: ``lets``, then ``levels``, then ``stores`` inside
    them all.

    Stores come last, so an output may share the memory of an input that is read at the same index.
    """

    template = "pointwise"
    head: Head
    lets: tuple[Statement, ...]
    levels: tuple[Level, ...]
    stores: tuple[str, ...]


def pointwise(region: Region) -> PointwiseSpec:
    """The spec of a region whose ops are all pointwise."""
    elements, shape = Elements(region), region.output_shape()
    if 0 in shape:
        return empty(elements, shape)
    index = elements.loops("i", shape)
    elements.prepare(shape, index)
    outputs = enumerate(region.graph.outputs)
    stores = [elements.store(k, index, elements.at(o, index)) for k, o in outputs]
    body = Body(elements.trace, stores)
    lets, levels = body.nest(body.arrange(body.loops(index)), body.roots)
    texts = tuple(body.text(k) for k in range(len(stores)))
    scalars = (lets, *(v.lets for v in levels))
    parts, levels = divide(levels, work(elements, product(shape)), vector=True)
    return PointwiseSpec(head(elements, shape, *scalars, parts=parts), lets, levels, texts)


def empty(elements: Elements, shape: tuple[Size, ...]) -> PointwiseSpec:
    """The spec of a kernel whose outputs have no elements."""
    return PointwiseSpec(head(elements, shape), (), (), ())
