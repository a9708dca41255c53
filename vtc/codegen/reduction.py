"""Reductions: the elements of an inlined producer meet in accumulators; what follows reads the
result.

Where memory is walked in order along a reduced axis, its loop is innermost and vectorises. Where it
is walked along a kept axis, a block of that axis is a row of accumulators, side by side: the lanes,
whose loop is innermost. What reads the result is computed at once, inside the loops over kept axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, final

from vtc.codegen.accumulate import LANE_BLOCK, ROW_BLOCK, Accumulation, Block, Meeting, State
from vtc.codegen.loops import Body, Loop, raises, simd
from vtc.codegen.parts import divide, work
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Let, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.scalar import Index, Scalar
from vtc.ir.types import i64

WIDTH = 256
"""Accumulators side by side."""

RESULT = "a0"
Statements = tuple[Statement, ...]


@final
@dataclass(frozen=True, slots=True)
class Lanes:
    """The kept axis whose elements are accumulated side by side, ``width`` at a time from
    ``first``.
    """

    level: Level
    width: int
    pragma_after: str


@final
@dataclass(frozen=True, slots=True)
class ReductionSpec:
    """What ``reduction.c.jinja`` may mention.

    ``outer`` loops over kept axes, and over ``first`` if there are lanes; inside, ``around`` and
    then ``inner`` over reduced axes (no ``inner``: one element), with ``lets`` and ``updates``
    innermost; then ``result``, ``after`` and ``stores``. With ``lanes``, states are arrays, and
    what is innermost runs for each lane.
    """

    template = "reduction"
    head: Head
    before: tuple[Statement, ...]
    outer: tuple[Level, ...]
    lanes: Lanes | None
    states: tuple[State, ...]
    block: Block | None
    around: tuple[Level, ...]
    inner: Level | None
    lets: tuple[Statement, ...]
    updates: tuple[str, ...]
    result: Statement
    after: tuple[Statement, ...]
    stores: tuple[str, ...]


def reduction(region: Region, root: Node) -> ReductionSpec | PointwiseSpec:
    """The spec of a region in which ``root``, a reduction, is the one op that is not pointwise."""
    elements, shape = Elements(region), region.output_shape()
    if 0 in shape:
        return empty(elements, shape)
    index = elements.loops("i", shape)
    at, stores = elements.around(root, Value(root.tensor.dtype.accumulate, RESULT), index)
    meeting, along = _meet(elements, root, at)
    return reduce_along(elements, meeting, (index, along), stores, root)


def reduce_along(
    elements: Elements,
    meeting: Meeting,
    loops: tuple[Index, Index],
    stores: list[Let],
    root: Node,
) -> ReductionSpec:
    """The spec of a kernel that reduces ``meeting`` to ``root``, in kept and reduced ``loops``."""
    body = Body(elements.trace, [meeting.element, *meeting.combined, *stores])
    kept, reduced = (body.arrange(body.loops(index)) for index in loops)
    combined = tuple(body.roots[1 : 1 + len(meeting.combined)])
    meeting = replace(meeting, element=body.roots[0], combined=combined)
    ctype = REGISTER[root.tensor.dtype.accumulate.name]
    order = _order(body, kept, reduced)
    return _Writer(elements, body, meeting, order, ctype).spec(elements.region.output_shape())


def _meet(elements: Elements, root: Node, at: Index) -> tuple[Meeting, Index]:
    """What ``root`` reduces where it is read ``at``, and the loops it reduces along."""
    region, s = elements.region, elements.scalars
    op, source = region.op(root), root.inputs[0]
    if not isinstance(op, Reduction | ArgReduction):
        raise CodegenError(f"{op.name}: expected a reduction, got {root.name}: {root.type}")
    axes = op.axes if isinstance(op, Reduction) else (op.axis,)
    shape, dtype = region.shape(source), source.tensor.dtype
    along = elements.loops("r", [shape[a] for a in axes])
    inside, outside = iter(along), iter(at)
    index = tuple(next(inside if a in axes else outside) for a in range(len(shape)))
    old = Value(dtype.accumulate, "s0")
    if any(shape[a] == 0 for a in axes):
        element = old
    else:
        elements.prepare(shape, index, root)
        element = elements.at(source, index)
    new: tuple[Scalar, ...]
    if isinstance(op, ArgReduction):
        new = op.combine(s, (old, Value(i64, "s1")), (element, s.from_index(along[0], i64)))
    else:
        new = (op.combine(s, old, element),)
    combined = tuple(Let("", "", (cast(Value, v),)) for v in new)
    return Meeting(op, dtype, Let("", "", (element,)), combined), along


@final
@dataclass(frozen=True, slots=True)
class _Order:
    """Which loops are where: ``lane`` is the kept one of the lanes, ``reduced`` has the innermost
    last.
    """

    outer: tuple[Loop, ...]
    lane: Loop | None
    reduced: tuple[Loop, ...]


def _order(body: Body, kept: list[Loop], reduced: list[Loop]) -> _Order:
    """The reduced loop that walks memory in order goes innermost; else a kept one that does."""
    along = {v.name: body.contiguous(v.name, 0) for v in (*kept, *reduced)}
    inner = max(reversed(reduced), key=lambda v: along[v.name], default=None)
    lane = max(reversed(kept), key=lambda v: along[v.name], default=None)
    if lane and inner and along[lane.name] > along[inner.name]:
        return _Order(tuple(v for v in kept if v is not lane), lane, tuple(reduced))
    others = tuple(v for v in reduced if v is not inner)
    return _Order(tuple(kept), None, (*others, inner) if inner else ())


@final
@dataclass
class _Writer:
    """Writes the spec; the result has C type ``ctype``."""

    elements: Elements
    body: Body
    meeting: Meeting
    order: _Order
    ctype: str

    def spec(self, shape: tuple[Size, ...]) -> ReductionSpec:
        """See the module."""
        order, body = self.order, self.body
        first = 1 + len(self.meeting.combined)
        how, stores = self.accumulation(), body.roots[first:]
        outer, count = [v.name for v in order.outer], len(order.outer) + 1
        lane = [order.lane.name] if order.lane else []
        within = [*outer, *(v.name for v in order.reduced), *lane, "s0", "s1", RESULT]
        before, *shared = body.place(within, [*how.roots, *stores])[:count]
        inside = body.place(within, how.roots)[count:]
        after = _flat(body.place([*outer, *lane, RESULT], stores)[count:])
        around, inner, lets = self.levels(inside, how)
        lanes = self.lanes(lets, after)
        kept = [body.level(v, s) for v, s in zip(order.outer, shared, strict=True)]
        if lanes:
            kept.append(Level("first", lanes.level.extent, (), step=str(lanes.width)))
        cost = work(self.elements, product((*shape, *(v.extent for v in order.reduced))))
        parts, kept_levels = divide(kept, cost, vector=False)
        return ReductionSpec(
            head=head(self.elements, shape, before, *shared, *inside, after, parts=parts),
            before=before,
            outer=kept_levels,
            lanes=lanes,
            states=how.states,
            block=how.block,
            around=around,
            inner=inner,
            lets=lets,
            updates=how.updates,
            result=Statement(self.ctype, RESULT, how.result, raises=False),
            after=after,
            stores=tuple(body.text(k) for k in range(first, len(body.roots))),
        )

    def accumulation(self) -> Accumulation:
        """How elements meet in the order that was chosen."""
        count = product(v.extent for v in self.order.reduced)
        limit = LANE_BLOCK if self.order.lane else ROW_BLOCK
        long = not isinstance(count, int) or count > limit
        meet = self.meeting.in_lanes if self.order.lane else self.meeting.in_row
        return meet(self.body.facts, long=long)

    def levels(
        self, inside: list[Statements], how: Accumulation
    ) -> tuple[tuple[Level, ...], Level | None, Statements]:
        """The loops over reduced axes, the innermost by itself, and what is computed innermost."""
        order, body = self.order, self.body
        if not order.reduced:
            return (), None, self.innermost(inside, how)
        *outside, last = order.reduced
        around = tuple(body.level(v, s) for v, s in zip(outside, inside, strict=False))
        rest = inside[len(outside) :]
        if order.lane:
            return around, body.level(last, rest[0]), self.innermost(rest[1:], how)
        lets = self.innermost(rest, how)
        pragma = "" if how.clauses is None else simd(raises(lets), *how.clauses)
        return around, body.level(last, (), pragma), lets

    def innermost(self, parts: list[Statements], how: Accumulation) -> Statements:
        """What is computed innermost; in lanes, from the lane's own accumulators."""
        if not self.order.lane:
            return _flat(parts)
        states = enumerate(how.block.states if how.block else how.states)
        own = tuple(Statement(s.ctype, f"s{k}", f"{s.name}[l]", raises=False) for k, s in states)
        return (*own, *_flat(parts))

    def lanes(self, lets: Statements, after: Statements) -> Lanes | None:
        """The loops over the lanes."""
        loop = self.order.lane
        if loop is None:
            return None
        width = min(WIDTH, loop.extent) if isinstance(loop.extent, int) else WIDTH
        return Lanes(self.body.level(loop, (), simd(raises(lets))), width, simd(raises(after)))


def _flat(parts: list[Statements]) -> Statements:
    return tuple(s for part in parts for s in part)
