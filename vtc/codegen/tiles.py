"""Row regions as loops: kept axes outside, then stages in order, then what is stored once per row.

The *space* of a region is what its reductions run over: axes that are kept and axes that are
reduced. A full value has an element for every point of it, a row value one per kept index. In a
stage the reduced axes are walked once: reductions that do not depend on each other meet together,
and full outputs are stored. Softmax over ``f32[B, 1024]``::

    for i0 < B
        stage 1, for r0 < 1024:    a0 = max of x0[1024*i0 + r0]
        stage 2, for r0 < 1024:    a1 = sum of exp(x0[1024*i0 + r0] - a0)
        stage 3, for r0 < 1024:    y0[1024*i0 + r0] = exp(x0[1024*i0 + r0] - a0) / a1

All stages share the loop variables, so a scalar that two of them need is one scalar of the trace.
Full outputs are all stored in one stage, and row outputs last: an output may have the memory of an
input that is read only where it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast, final

from vtc.codegen.accumulate import Meeting
from vtc.codegen.loops import Body, Loop
from vtc.codegen.pairs import Pair, chain
from vtc.codegen.region import LONG, Elements, Region
from vtc.codegen.trace import Cell, Let, Value, needed, reads
from vtc.errors import CodegenError
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.reduce import ArgReduction, Max, Min, Reduction, Sum, highest
from vtc.ir.ops.view import Reshape
from vtc.ir.scalar import Index
from vtc.ir.types import DType, TensorType, bool_, i32, i64


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One walk along the reduced axes: reductions, which are known after it, and full stores.

    The second meeting of each of ``pairs`` is accumulated after the first one, block by block.
    """

    meetings: tuple[Meeting, ...]
    stores: tuple[Let, ...]
    pairs: tuple[Pair, ...] = ()

    @property
    def roots(self) -> tuple[Let, ...]:
        """What is computed for every element."""
        return (*(m.element for m in self.meetings), *self.stores)


@final
@dataclass(frozen=True, slots=True)
class Tiles:
    """A row region as loops over ``body``'s scalars; ``stores`` come after the stages, once per
    kept index.
    """

    body: Body
    kept: tuple[Loop, ...]
    reduced: tuple[Loop, ...]
    stages: tuple[Stage, ...]
    stores: tuple[Let, ...]
    pairs: tuple[Pair, ...]

    def paired(self) -> Tiles:
        """With as few walks as there can be, which pays where a row is longer than a cache."""
        meetings = sorted(
            (m for stage in self.stages for m in stage.meetings), key=lambda m: m.number
        )
        full = [store for stage in self.stages for store in stage.stores]
        return replace(self, stages=_stages(self.body, meetings, full, self.pairs))


@final
@dataclass(frozen=True, slots=True)
class Space:
    """The axes that the reductions of a region run over, in row-major order, without those of size
    1.
    """

    sizes: tuple[Size, ...]
    reduced: tuple[bool, ...]

    @staticmethod
    def of(region: Region) -> Space:
        """The space of the reduction with the most axes; CodegenError where another one has an
        axis that is not in it.
        """
        found = [_space(region, n) for n in reductions(region)]
        most = max(found, key=lambda s: len(s.sizes))
        for other in found:
            if other.merged != most.merged:
                raise CodegenError(
                    f"region {region.graph.name}: expected reductions over one space, got "
                    f"{most} and {other}"
                )
        return most

    @property
    def kept_sizes(self) -> tuple[Size, ...]:
        """The sizes of the kept axes."""
        return tuple(n for n, r in zip(self.sizes, self.reduced, strict=True) if not r)

    @property
    def reduced_sizes(self) -> tuple[Size, ...]:
        """The sizes of the reduced axes."""
        return tuple(n for n, r in zip(self.sizes, self.reduced, strict=True) if r)

    @property
    def merged(self) -> tuple[tuple[bool, Size], ...]:
        """Neighbours of one kind as one axis."""
        found: list[tuple[bool, Size]] = []
        for n, r in zip(self.sizes, self.reduced, strict=True):
            if found and found[-1][0] == r:
                found[-1] = r, found[-1][1] * n
            else:
                found.append((r, n))
        return tuple(found)

    def __str__(self) -> str:
        names = ("kept", "reduced")
        return f"({', '.join(f'{names[r]} {n}' for r, n in self.merged)})"


def tiles(region: Region, elements: Elements | None = None) -> tuple[Elements, Tiles]:
    """The loops of a region in which all ops that are not pointwise are reductions; ``elements``
    (in C if there are none) are traced.
    """
    tracer = _Tracer(elements or Elements(region), Space.of(region))
    for node in reductions(region):
        tracer.reduction(node)
    stores = [tracer.output(k) for k in range(len(region.graph.outputs))]
    full = [s for s, is_full in stores if is_full]
    row = [s for s, is_full in stores if not is_full]
    return tracer.elements, _arranged(tracer, full, row)


def reductions(region: Region) -> list[Node]:
    """The reductions of a region, in order."""
    return [n for n in region.graph.nodes if isinstance(n.op, Reduction | ArgReduction)]


def in_bounds(elements: Elements, let: Let) -> bool:
    """Whether what ``let`` reads and writes is certain to be inside its buffer.

    So is an index that is checked; under a mask anything may be read.
    """
    facts, graph = elements.trace.facts, elements.region.graph
    buffers = {f"x{k}": p for k, p in enumerate(graph.params)}
    buffers |= {f"y{k}": o for k, o in enumerate(graph.outputs)}
    first = let.parts[0]
    if isinstance(first, Value) and first.dtype is bool_:
        return True
    cells = [part for part in let.parts if isinstance(part, Cell)]
    sizes = [product(elements.region.shape(buffers[c.buffer])) for c in cells]
    return all(facts.inside(c.offset, n) for c, n in zip(cells, sizes, strict=True))


@final
@dataclass
class _Tracer:
    """Traces the reductions and outputs of a region over ``space``."""

    elements: Elements
    space: Space
    meetings: list[Meeting] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    kept: Index = field(init=False)
    along: Index = field(init=False)
    _extremes: dict[tuple[Node, str], Value] = field(default_factory=dict)
    _numbers: dict[Node, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = self.elements.loops("i", self.space.kept_sizes)
        self.along = self.elements.loops("r", self.space.reduced_sizes)
        region = self.elements.region
        self._rows = product(self.space.kept_sizes)
        self._all = self._rows * product(self.space.reduced_sizes)
        self._empty = 0 in self.space.reduced_sizes
        self._long = len(region.graph.nodes) >= LONG
        self._traced = 0

    def reduction(self, node: Node) -> None:
        """Trace what ``node`` reduces; from now on its elements are the result."""
        self.prepare(node)
        op, source = self.elements.region.op(node), node.inputs[0]
        if isinstance(op, ArgReduction):
            result = self.first(op, source)
        else:
            assert isinstance(op, Reduction)
            result = self.meet(op, source.tensor.dtype, source)
            self.pair(node, result)
        shape = self.elements.region.shape(node)

        def read(at: Index) -> Value:
            if self.flat(at, shape) != self.flat(self.kept, self.space.kept_sizes):
                want = f"expected {node.name} to be read in its own order, got index {at}"
                raise CodegenError(f"region {self.elements.region.graph.name}: {want}")
            return result

        self.elements.fixed[node] = read

    def output(self, k: int) -> tuple[Let, bool]:
        """The store of output ``k``, and whether it is a full one."""
        node = self.elements.region.graph.outputs[k]
        self.prepare(None)
        index, is_full = self.index(node)
        return self.elements.store(k, index, self.elements.at(node, index)), is_full

    def prepare(self, before: Node | None) -> None:
        """In a long region, trace in order what comes ``before``: nothing recurses deeply then."""
        nodes = self.elements.region.graph.nodes
        while self._long and self._traced < len(nodes) and nodes[self._traced] is not before:
            node = nodes[self._traced]
            self._traced += 1
            if isinstance(node.op, Pointwise) and self.fits(node):
                self.elements.at(node, self.index(node)[0])

    def fits(self, node: Node) -> bool:
        """Whether ``node`` is a row value or a full one of this space."""
        count = product(self.elements.region.shape(node))
        return count == self._rows or (count == self._all and not self._empty)

    def index(self, node: Node) -> tuple[Index, bool]:
        """Where ``node`` is read in the loops, and whether it is full."""
        shape = self.elements.region.shape(node)
        if product(shape) == self._rows:
            return _through(self.kept, self.space.kept_sizes, shape), False
        if product(shape) == self._all:
            loops = iter(self.kept), iter(self.along)
            index = tuple(next(loops[r]) for r in self.space.reduced)
            return _through(index, self.space.sizes, shape), True
        raise CodegenError(
            f"region {self.elements.region.graph.name}: expected a value over {self.space} or its "
            f"rows, got {node.name}: {node.type}"
        )

    def meet(self, op: Reduction, dtype: DType, source: Node) -> Value:
        """The result of reducing ``source`` by ``op``."""
        known = self._extremes.get((source, op.name))
        if known is not None:
            return known
        result = self.join(op, dtype, self.element(source))
        if op.name in ("max", "min"):
            self._extremes[source, op.name] = result
        return result

    def pair(self, node: Node, result: Value) -> None:
        """Note if ``node``, whose result is known, can share a walk with what it depends on."""
        found = chain(node)
        self._numbers[node] = second = -1 if self._empty else int(result.text[1:])
        if found is None or self._empty:
            return
        kind = Max if found.kind == "exponentials" else Sum
        for other, first in self._numbers.items():
            same = isinstance(other.op, kind) and other.inputs[0] is found.x
            if same and (other is found.row or kind is Sum):
                about, centred = (self.whole(n).text for n in (found.about, found.centred))
                self.pairs.append(Pair(found.kind, first, second, about, centred))

    def whole(self, node: Node) -> Value:
        """The element of a full value."""
        return self.elements.at(node, self.index(node)[0])

    def first(self, op: ArgReduction, source: Node) -> Value:
        """Where the extreme of ``source`` is: the extreme first, then the first that equals it."""
        s, dtype = self.elements.scalars, source.tensor.dtype
        axes = tuple(a for a, r in enumerate(self.space.reduced) if r)
        best = self.meet((Max if op.wins == "gt" else Min)(axes), dtype, source)
        count = product(self.space.reduced_sizes)
        kind = i32 if isinstance(count, int) and count < 2**31 else i64
        last = s.const(highest(kind), kind)
        element = self.element(source)
        if element is None:
            return s.const(0, i64)
        hit = s.compare("eq", element, best)
        if dtype.kind == "float":
            hit = s.binary("or_", hit, s.unary("isnan", element))
        here = s.from_index(self.flat(self.along, self.space.reduced_sizes), kind)
        return s.cast(self.join(Min(axes), kind, s.select(hit, here, last)), i64)

    def join(self, op: Reduction, dtype: DType, element: Value | None) -> Value:
        """The result of a new meeting of ``element``."""
        s, k = self.elements.scalars, len(self.meetings)
        if element is None:
            return s.const(cast(float, op.identity(dtype)), dtype)
        old = Value(dtype.accumulate, f"s{k}")
        new = cast(Value, op.combine(s, old, element))
        self.meetings.append(Meeting(op, dtype, Let("", "", (element,)), (Let("", "", (new,)),), k))
        return Value(dtype.accumulate, f"a{k}")

    def element(self, source: Node) -> Value | None:
        """The element of what is reduced; None where there is none."""
        if self._empty:
            return None
        shape = self.elements.region.shape(source)
        if product(shape) == self._all:
            loops = iter(self.kept), iter(self.along)
            index = tuple(next(loops[r]) for r in self.space.reduced)
            return self.elements.at(source, _through(index, self.space.sizes, shape))
        return self.elements.at(source, self.index(source)[0])

    def flat(self, index: Index, shape: Sequence[Size]) -> Size:
        """The row-major position of ``index``."""
        return self.elements.cell("", shape, index).offset


def _arranged(tracer: _Tracer, full: list[Let], row: list[Let]) -> Tiles:
    """The loops over what was traced, in stages."""
    spread = [root for m in tracer.meetings for root in (m.element, *m.combined)]
    body = Body(tracer.elements.trace, [*spread, *full, *row])
    kept, reduced = (
        tuple(body.arrange(body.loops(index))) for index in (tracer.kept, tracer.along)
    )
    roots = iter(body.roots)
    met = [
        replace(m, element=next(roots), combined=tuple(next(roots) for _ in m.combined))
        for m in tracer.meetings
    ]
    full, row = [next(roots) for _ in full], list(roots)
    stages = _stages(body, met, full, ())
    return Tiles(body, kept, reduced, stages, tuple(row), tuple(tracer.pairs))


def _space(region: Region, node: Node) -> Space:
    op, shape = region.op(node), region.shape(node.inputs[0])
    axes = op.axes if isinstance(op, Reduction) else (_axis(op),)
    found = [(n, a in axes) for a, n in enumerate(shape) if n != 1]
    return Space(tuple(n for n, _ in found), tuple(r for _, r in found))


def _axis(op: Op) -> int:
    if not isinstance(op, ArgReduction):
        raise CodegenError(f"{op.name}: expected a reduction")
    return op.axis


def _through(index: Index, sizes: tuple[Size, ...], shape: tuple[Size, ...]) -> Index:
    """The index in ``shape`` of what is at ``index`` of ``sizes`` in row-major order."""
    if shape == sizes:
        return index
    if 0 in shape:
        return (0,) * len(shape)  # there is none
    own, other = TensorType(bool_, sizes), TensorType(bool_, shape)
    return Reshape(shape=sizes).source(index, other, own)


def _stages(
    body: Body, meetings: Sequence[Meeting], full: Sequence[Let], pairs: Sequence[Pair]
) -> tuple[Stage, ...]:
    """What depends on no reduction comes first; a store as early as the latest of them can."""
    known: dict[str, int] = {}
    stage_of: dict[int, int] = {}
    joined: list[Pair] = []

    def ready(roots: Iterable[Let], beside: str = "") -> int:
        roots = list(roots)
        names = {n for let in (*needed(body.lets, roots), *roots) for n in reads(let)}
        return max((known[n] for n in names if n in known and n != beside), default=0)

    for m in meetings:
        at = ready([m.element])
        taken = {n for p in joined for n in (p.first, p.second)}
        for p in (p for p in pairs if p.second == m.number and p.first not in taken):
            first = stage_of[p.first]
            if ready([m.element], beside=f"a{p.first}") <= first < at:
                at = first
                joined.append(p)
        known[m.name] = at + 1
        stage_of[m.number] = at
    last = ready(full)
    count = max((*(at + 1 for at in stage_of.values()), last + 1 if full else 0))
    return tuple(
        Stage(
            tuple(m for m in meetings if stage_of[m.number] == at),
            tuple(full) if at == last else (),
            tuple(p for p in joined if stage_of[p.first] == at),
        )
        for at in range(count)
    )
