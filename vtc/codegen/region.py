"""A region as code generation sees it: positional names, and elements of nodes at an index.

Symbols become ``n0, n1`` in order of appearance, params ``x0, x1``, outputs ``y0, y1``: equal
computations give equal kernels whatever they are called in the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import cast, final

from vtc.codegen.coarse import coarse
from vtc.codegen.scalar import CScalars, refuse_complex
from vtc.codegen.sizes import Facts, Range
from vtc.codegen.spelling import Spelling
from vtc.codegen.trace import Cell, Let, Trace, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, substitute, symbols
from vtc.ir.graph import Graph, Node
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.attention import Attention
from vtc.ir.ops.elementwise import Add, Mul, Sub
from vtc.ir.ops.reduce import ArgReduction, Extremum
from vtc.ir.scalar import Index, Operand, Scalar
from vtc.ir.types import TensorType, tensors

LONG = 40
"""Nodes in a region above which elements are traced in order first, so that nothing recurses
deeply.
"""


@final
@dataclass(frozen=True, eq=False)
class Region:
    """A region graph. ``symbols`` are the sizes its kernel takes, as the program calls them."""

    graph: Graph
    symbols: tuple[str, ...]
    names: Mapping[str, Size]
    ranges: Mapping[str, Range]

    @staticmethod
    def of(graph: Graph, ranges: Mapping[str, Range]) -> Region:
        """``graph``, whose symbols have ``ranges``."""
        for node in (*graph.nodes, *graph.params):
            what = node.op.name if node.op else node.name
            if not isinstance(node.type, TensorType) and not isinstance(node.op, Attention):
                raise CodegenError(f"{what}: expected one tensor in a region, got {node.type}")
            for type in tensors(node.type):
                refuse_complex(what, type.dtype)
        found = tuple(dict.fromkeys(s for size in _sizes(graph) for s in sorted(symbols(size))))
        names = {s: Sym.var(f"n{k}") for k, s in enumerate(found)}
        known = {f"n{k}": ranges.get(s, (0, None)) for k, s in enumerate(found)}
        return Region(graph, found, dict(names), known)

    def shape(self, node: Node) -> tuple[Size, ...]:
        """The shape of ``node``."""
        return tuple(substitute(n, self.names) for n in node.tensor.shape)

    def type(self, node: Node) -> TensorType:
        """The type of ``node``."""
        return node.tensor.with_shape(self.shape(node))

    def op(self, node: Node) -> Op:
        """The op of ``node``, which is not a parameter."""
        if node.op is None:
            raise CodegenError(
                f"{node.name}: expected a node of region {self.graph.name}, got a param"
            )
        return node.op.substitute(dict(self.names))

    def output_shape(self) -> tuple[Size, ...]:
        """The one shape of all outputs."""
        shape, *others = (self.shape(o) for o in self.graph.outputs)
        for other in others:
            if other != shape:
                got = f"expected outputs of one shape, got {shape} and {other}"
                raise CodegenError(f"region {self.graph.name}: {got}")
        return shape


@final
@dataclass
class Elements:
    """Traces elements of the nodes of a region.

    ``fixed`` gives the element of a node that is not computed by inlining: a reduction's
    accumulator. ``spelling`` makes the scalars of the target.
    """

    region: Region
    spelling: Callable[[Trace], Spelling] = CScalars
    trace: Trace = field(init=False)
    scalars: Spelling = field(init=False)
    fixed: dict[Node, Callable[[Index], Value]] = field(default_factory=dict)
    _buffers: dict[Node, str] = field(init=False)
    _products: frozenset[Node] = field(init=False)
    _coarse: frozenset[Node] = field(init=False)
    _known: dict[tuple[Node, Index, Value | None], Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trace = Trace(Facts(dict(self.region.ranges)))
        self.scalars = self.spelling(self.trace)
        self._products = _rounded(self.region.graph)
        self._coarse = coarse(self.region.graph)
        self._buffers = {p: f"x{k}" for k, p in enumerate(self.region.graph.params)}

    def loops(self, prefix: str, shape: Sequence[Size]) -> tuple[Size, ...]:
        """An index made of loop variables; 0 along axes of size 1."""
        facts = self.trace.facts
        return tuple(0 if n == 1 else facts.loop(f"{prefix}{k}", n) for k, n in enumerate(shape))

    def at(self, node: Node, index: Index, mask: Scalar | None = None, other: float = 0) -> Value:
        """The element of ``node`` at ``index``."""
        index = tuple(map(self.trace.facts.simplify, index))
        outer, own = self.scalars.mask, self.scalars.both(mask, None)
        if own is not None and own.text == "1":
            own = None
        if own is not None and own.text == "0":
            return self.scalars.const(other, node.tensor.dtype)
        self.scalars.mask = self.scalars.both(outer, own)
        try:
            return self._masked(node, index, own, other)
        finally:
            self.scalars.mask = outer

    def prepare(self, shape: tuple[Size, ...], index: Index, before: Node | None = None) -> None:
        """In a long region, trace the nodes of ``shape`` in order, up to ``before``."""
        nodes = self.region.graph.nodes
        if len(nodes) < LONG:
            return
        for node in nodes:
            if node is before:
                return
            inlines = isinstance(node.op, Pointwise) and self.region.shape(node) == shape
            if inlines and node not in self.fixed:
                self.at(node, index)

    def around(self, root: Node, result: Value, index: Index) -> tuple[Index, list[Let]]:
        """The stores of all outputs at ``index``, given ``result`` for ``root``, and where they
        read it.
        """
        found: dict[Index, None] = {}

        def read(at: Index) -> Value:
            found[at] = None
            return result

        self.fixed[root] = read
        self.prepare(self.region.output_shape(), index)
        outputs = enumerate(self.region.graph.outputs)
        stores = [self.store(k, index, self.at(o, index)) for k, o in outputs]
        if len(found) != 1:
            want = f"expected one place where {root.name} is read, got {len(found)}"
            raise CodegenError(f"region {self.region.graph.name}: {want}")
        (at,) = found
        return at, stores

    def store(self, k: int, index: Index, value: Value) -> Let:
        """Assign to output ``k``."""
        node = self.region.graph.outputs[k]
        cell = self.cell(f"y{k}", self.region.shape(node), index)
        return Let("", "", self.scalars.assigned(cell, value, node.tensor.dtype))

    def cell(self, buffer: str, shape: Sequence[Size], index: Index) -> Cell:
        """The element of a dense row-major buffer at ``index``."""
        offset: Size = 0
        for i, n in zip(index, shape, strict=True):
            offset = offset * n + i
        return Cell(buffer, self.trace.facts.simplify(offset))

    def operand(self, node: Node) -> Operand:
        """``node`` as an op sees it."""
        return _Element(self, node)

    def _masked(self, node: Node, index: Index, own: Value | None, other: float) -> Value:
        if node in self._buffers:
            cell = self.cell(self._buffers[node], self.region.shape(node), index)
            return self.scalars.load(cell, node.tensor.dtype, other)
        key = node, index, self.scalars.mask
        if key not in self._known:
            self._known[key] = self._inline(node, index)
        value = self._known[key]
        if own is None:
            return value
        return self.scalars.select(own, value, self.scalars.const(other, node.tensor.dtype))

    def _inline(self, node: Node, index: Index) -> Value:
        if node in self.fixed:
            return self.fixed[node](index)
        op = self.region.op(node)
        if op.name == "stop_gradient":
            return self.at(node.inputs[0], index)
        if not isinstance(op, Pointwise):
            raise CodegenError(
                f"{op.name}: expected a pointwise op inside region {self.region.graph.name}, "
                f"got {node.name}: {node.type}"
            )
        inputs = [_Element(self, i) for i in node.inputs]
        outer, self.scalars.coarse = self.scalars.coarse, node in self._coarse
        try:
            value = cast(Value, op.element(self.scalars, index, self.region.type(node), inputs))
        finally:
            self.scalars.coarse = outer
        return self.scalars.rounded(value) if node in self._products else value


def _rounded(graph: Graph) -> frozenset[Node]:
    """Products that are rounded before something is added to them, as they are one op at a time:
    else ``x * y - max(x * y)`` would not be zero where it has to be.
    """
    readers = [n for n in graph.nodes if isinstance(n.op, Add | Sub | Extremum | ArgReduction)]
    return frozenset(
        i
        for n in readers
        for i in n.inputs
        if isinstance(i.op, Mul) and i.tensor.dtype.accumulate.kind == "float"
    )


@final
@dataclass(frozen=True, slots=True)
class _Element:
    """An input of an inlined op."""

    elements: Elements
    node: Node

    @property
    def type(self) -> TensorType:
        return self.elements.region.type(self.node)

    def at(self, index: Index, mask: Scalar | None = None, other: float = 0) -> Scalar:
        return self.elements.at(self.node, index, mask, other)


def _sizes(graph: Graph) -> Iterator[Size]:
    for node in (*graph.params, *graph.nodes):
        for type in tensors(node.type):
            yield from type.shape
        if node.op is not None:
            yield from _inside(tuple(getattr(node.op, f.name) for f in fields(node.op)))


def _inside(value: object) -> Iterator[Size]:
    if isinstance(value, Sym):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _inside(item)
    elif isinstance(value, TensorType):
        yield from value.shape
