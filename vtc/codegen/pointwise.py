"""Pointwise regions: every element on its own.

Outputs of as many elements that have something in common are computed in one nest of loops; their
shapes may differ by a reshape. A region of several such components runs them one after the other,
those of one flat form by one function, and is shared among threads by elements::

    static int part0(void *const *p, const int64_t *n, int64_t from, int64_t to, int64_t of) ...
    int k(...) { for each update: part0(its pointers, its size, its share of begin .. end) }

An output may lie in the memory of an input of its component that is read at the same element only,
if no other component reads it: components run at once and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.components import FLAT, Component, component, components
from vtc.codegen.loops import Body
from vtc.codegen.nest import Nest, nest
from vtc.codegen.parts import LINE, work
from vtc.codegen.region import LONG, Elements, Region
from vtc.codegen.sizes import Facts, c_text
from vtc.codegen.spec import Head, Parts, head
from vtc.ir.dims import Size, product, substitute
from vtc.ir.graph import Form
from vtc.ir.op import Pointwise
from vtc.ir.ops.view import Reshape
from vtc.ir.scalar import Index
from vtc.ir.types import TensorType, bool_

Shape = tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class PointwiseSpec:
    """What ``pointwise.c.jinja`` may mention."""

    template = "pointwise"
    head: Head
    nest: Nest


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """A component's turn: ``first`` elements come before it, and it has ``count``; ``pointers`` and
    ``sizes`` are those of the region that its function takes.
    """

    first: str
    count: str
    pointers: tuple[int, ...]
    sizes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Function:
    """The function ``name`` of all components of one form; without loops it runs as one."""

    name: str
    head: Head
    nest: Nest
    turns: tuple[Turn, ...]


@final
@dataclass(frozen=True, slots=True)
class HorizontalSpec:
    """What ``horizontal.c.jinja`` may mention; the iterations of ``head`` are elements."""

    template = "horizontal"
    head: Head
    functions: tuple[Function, ...]


def pointwise(region: Region) -> PointwiseSpec | HorizontalSpec:
    """The spec of a region whose ops are all pointwise."""
    groups = components(region.graph)
    if len(groups) == 1:
        return _alone(region)[0]
    found = [component(region.graph, g) for g in groups]
    return _horizontal(region, [c for c in found if c.count != 0])


def empty(elements: Elements, shape: Shape) -> PointwiseSpec:
    """The spec of a kernel whose outputs have no elements."""
    return PointwiseSpec(head(elements, shape), Nest())


def _alone(region: Region) -> tuple[PointwiseSpec, Size]:
    """The spec of one component, and what it costs."""
    elements = Elements(region)
    shapes = [region.shape(o) for o in region.graph.outputs]
    shape = max(shapes, key=lambda s: sum(n != 1 for n in s))
    if 0 in shape:
        return empty(elements, shape), 0
    index = elements.loops("i", shape)
    trace_in_order(elements, shape, index)
    stores = []
    for k, o in enumerate(region.graph.outputs):
        at = place(index, shape, shapes[k])
        stores.append(elements.store(k, at, elements.at(o, at)))
    body = Body(elements.trace, stores)
    loops = body.arrange(body.loops(index))
    cost = work(elements, product(shape))
    inside, parts = nest(region, body, loops, cost)
    top = head(elements, shape, *inside.scalars, parts=parts)
    return PointwiseSpec(top, inside), cost


def place(index: Index, shape: Shape, other: Shape) -> Index:
    """Where in ``other`` the element is that ``shape`` has at ``index``."""
    if shape == other:
        return index
    source, out = (TensorType(bool_, s) for s in (other, shape))
    return Reshape(shape).source(index, source, out)


def trace_in_order(elements: Elements, shape: Shape, index: Index) -> None:
    """In a long region, trace the nodes in order, so that nothing recurses deeply."""
    region, count = elements.region, product(shape)
    if len(region.graph.nodes) < LONG:
        return
    for node in region.graph.nodes:
        own = region.shape(node)
        if isinstance(node.op, Pointwise) and product(own) == count:
            elements.at(node, place(index, shape, own))


def _horizontal(region: Region, found: Sequence[Component]) -> HorizontalSpec:
    facts = Facts(dict(region.ranges))
    made: dict[Form, tuple[Region, PointwiseSpec, Size, list[Turn]]] = {}
    first: Size = 0
    total: Size = 0
    for part in found:
        if part.graph.form not in made:
            own = _own(region, part)
            made[part.graph.form] = (own, *_alone(own), [])
        own, _, cost, turns = made[part.graph.form]
        count = substitute(part.count, region.names)
        given = [count] if part.flat else [region.names[s] for s in own.symbols]
        outputs = [len(region.graph.params) + k for k in part.outputs]
        texts = [c_text(n, facts) for n in (first, count, *given)]
        turns.append(Turn(texts[0], texts[1], (*part.params, *outputs), tuple(texts[2:])))
        total = total + substitute(cost, {f"n{k}": n for k, n in enumerate(given)})
        first = first + count
    functions = tuple(
        Function(f"part{k}", spec.head, spec.nest, tuple(turns))
        for k, (_, spec, _, turns) in enumerate(made.values())
    )
    heads = [f.head for f in functions]
    top = Head(
        args=(),
        sizes=tuple(f"n{k}" for k in range(len(region.symbols))),
        needs=tuple(sorted({need for h in heads for need in h.needs})),
        guards=(),
        checks=any(h.checks or h.guards for h in heads),
        parts=Parts(c_text(first, facts), LINE, total) if functions else None,
    )
    return HorizontalSpec(top, functions)


def _own(region: Region, part: Component) -> Region:
    """``part`` as a region by itself."""
    if part.flat:
        return Region.of(part.graph, {str(FLAT): (1, None)})
    names = {s: region.ranges[f"n{k}"] for k, s in enumerate(region.symbols)}
    return Region.of(part.graph, names)
