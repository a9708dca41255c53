"""Pointwise regions: every output element on its own, in one nest of loops over the outputs' shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.loops import Body, Loop, raises, simd
from vtc.codegen.region import Elements, Region
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Let, Statement
from vtc.ir.dims import Size


@final
@dataclass(frozen=True, slots=True)
class PointwiseSpec:
    """What ``pointwise.c.jinja`` may mention: ``lets``, then ``levels``, then ``stores`` inside them all.

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
    lets, levels = nest(body, body.arrange(body.loops(index)), body.roots)
    texts = tuple(body.text(k) for k in range(len(stores)))
    return PointwiseSpec(head(elements, shape, lets, *(v.lets for v in levels)), lets, levels, texts)


def empty(elements: Elements, shape: tuple[Size, ...]) -> PointwiseSpec:
    """The spec of a kernel whose outputs have no elements."""
    return PointwiseSpec(head(elements, shape), (), (), ())


def nest(
    body: Body, loops: list[Loop], roots: list[Let]
) -> tuple[tuple[Statement, ...], tuple[Level, ...]]:
    """What comes before ``loops``, and the loops: what ``roots`` need, each as far out as it can be."""
    before, *inside = body.place([v.name for v in loops], roots)
    levels = []
    for k, (loop, lets) in enumerate(zip(loops, inside, strict=True)):
        innermost = k == len(loops) - 1
        levels.append(body.level(loop, lets, simd(raises(lets)) if innermost else ""))
    return before, tuple(levels)
