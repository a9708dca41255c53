"""Components of a pointwise region: outputs that share loops, and the form they have.

A region of optimizer updates has one component per parameter. Where a component does the same at
every element, whatever its shape, it is written as a graph over one axis of ``n`` elements: updates
of all sizes have one such form, and one function computes them all::

    def f(p: f32[768, 64], g: f32[768, 64], lr: f32[]):          def f(p: f32[n], g: f32[n], ...):
        a: f32[768, 64] = expand(lr, axes=(0, 1), sizes=...)  ==>    a: f32[n] = expand(lr, ...)
        ...                                                          ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir.dims import Size, Sym
from vtc.ir.graph import Graph, GraphBuilder, Node
from vtc.ir.ops.control import StopGradient
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.fill import Full
from vtc.ir.ops.view import Expand, Reshape

FLAT = Sym.var("n")
"""The one axis of a flat form."""


@final
@dataclass(frozen=True, slots=True)
class Component:
    """``graph`` computes some outputs of a region, from some of its params; a flat one has
    ``count`` elements, which its graph calls :data:`FLAT`.
    """

    graph: Graph
    params: tuple[int, ...]
    outputs: tuple[int, ...]
    count: Size
    flat: bool


def components(graph: Graph) -> list[tuple[int, ...]]:
    """Which outputs share loops: those of as many elements that are computed from one value.

    What is made from single elements alone is no such value: every component has its own copy.
    """
    groups = _Groups(_free(graph))
    for k, o in enumerate(graph.outputs):
        groups.add(k, o)
    return groups.found()


def component(graph: Graph, outputs: tuple[int, ...]) -> Component:
    """The component of these outputs of ``graph``, flat where that is possible."""
    needed = _needed(graph.outputs[k] for k in outputs)
    params = tuple(k for k, p in enumerate(graph.params) if p in needed)
    count = graph.outputs[outputs[0]].tensor.numel
    own = Graph(
        "component",
        tuple(graph.params[k] for k in params),
        tuple(n for n in graph.nodes if n in needed),
        tuple(graph.outputs[k] for k in outputs),
    )
    flat = _flattened(own, count)
    return Component(flat or own, params, outputs, count, flat is not None)


@final
@dataclass
class _Groups:
    """Outputs, and by size and value the first output that needs the value."""

    free: set[Node]
    _seen: dict[tuple[Size, Node], int] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=list)
    _single: int | None = None

    def add(self, k: int, output: Node) -> None:
        """Output ``k``, in the group of whatever it shares a value with."""
        self._parent.append(k)
        count = output.tensor.numel
        if count == 1:
            self._single = k if self._single is None else self._single
            self._join(k, self._single)
            return
        stack = [output]
        while stack:
            node = stack.pop()
            if node in self.free:
                continue
            first = self._seen.get((count, node))
            if first is not None:
                self._join(k, first)
                continue
            self._seen[count, node] = k
            stack += node.inputs

    def found(self) -> list[tuple[int, ...]]:
        """The groups, in order of their first outputs."""
        groups: dict[int, list[int]] = {}
        for k in range(len(self._parent)):
            groups.setdefault(self._root(k), []).append(k)
        return sorted(map(tuple, groups.values()))

    def _join(self, a: int, b: int) -> None:
        self._parent[self._root(a)] = self._root(b)

    def _root(self, k: int) -> int:
        while self._parent[k] != k:
            k = self._parent[k]
        return k


def _free(graph: Graph) -> set[Node]:
    """What is made from single elements alone."""
    found = {p for p in graph.params if p.tensor.numel == 1}
    for node in graph.nodes:
        if node.tensor.numel == 1 or found.issuperset(node.inputs):
            found.add(node)
    return found


def _needed(outputs: Iterable[Node]) -> set[Node]:
    found: set[Node] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += node.inputs
    return found


def _flattened(graph: Graph, count: Size) -> Graph | None:
    """``graph`` over one axis; None where its elements depend on their place."""
    b = GraphBuilder()
    flat: dict[Node, Node] = {}
    params = []
    for node in (*graph.params, *graph.nodes):
        if (node.tensor.numel != 1 and node.tensor.numel != count) or count == 1:
            return None
        made = _flat(b, node, count, flat)
        if made is None:
            return None
        flat[node] = made
        if node.op is None:
            params.append(made)
    return b.graph("form", params, [flat[o] for o in graph.outputs])


def _flat(b: GraphBuilder, node: Node, count: Size, flat: Mapping[Node, Node]) -> Node | None:
    shape: tuple[Size, ...] = (FLAT,) if node.tensor.numel == count else ()
    inputs = [flat[i] for i in node.inputs]
    match node.op:
        case None:
            return b.param("x", node.tensor.with_shape(shape))
        case Reshape() | StopGradient():
            return inputs[0]
        case Expand():
            same = inputs[0].tensor.shape == shape
            return inputs[0] if same else b.apply(Expand((0,), shape), inputs[0])
        case Full() as full:
            return b.apply(replace(full, shape=shape))
        case Elementwise() as op:
            return b.apply(op, *inputs)
    return None
