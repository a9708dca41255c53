"""Row regions in C: the stages of :mod:`vtc.codegen.tiles`, inside loops over the kept axes.

Where memory is walked in order along a reduced axis, its loop is innermost and vectorises. Where it
is walked along a kept axis, a block of that axis is a row of accumulators, side by side: the lanes,
whose loop is innermost; results and other values of a row are then arrays, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast, final

from vtc.codegen.accumulate import LANE_BLOCK, ROW_BLOCK, Accumulation, Meeting
from vtc.codegen.chan import CACHED, Second, second
from vtc.codegen.keep import cost, keep, wanted
from vtc.codegen.loops import Loop, raises, simd
from vtc.codegen.parts import divide, work
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.rows import (
    Again,
    Array,
    Block,
    Lanes,
    Pass,
    ReductionSpec,
    Statements,
    Stream,
)
from vtc.codegen.scalar import STORAGE
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.spec import Level, head
from vtc.codegen.tiles import Space, Stage, Tiles, tiles
from vtc.codegen.trace import Cell, Let, Statement, Value, reads, statement
from vtc.ir.dims import Size, Sym, product, substitute
from vtc.ir.graph import Node
from vtc.ir.types import TensorType, i64

WIDTH, NARROWEST = 512, 128
"""Accumulators side by side: two blocks of them or more where none gets narrower than that."""

WAYS, CHEAP = 4, 12
"""Elements a lane visits at a time where one takes no more than so many operations."""

STREAM, SHORTEST_STREAM = 16 << 20, 256
"""Bytes of an output that is written around the cache, and elements that are written at a time."""


def reduction(region: Region, root: Node) -> ReductionSpec | PointwiseSpec:
    """The spec of a row region; ``root`` is one of its reductions."""
    del root
    space = Space.of(region)
    if 0 in space.kept_sizes:
        return empty(Elements(region), space.kept_sizes)
    elements, program = tiles(region)
    order = _order(program)
    if order.lane is None and _long(order):
        program = program.paired()
    return _Writer(elements, program, order, space.sizes).spec()


@final
@dataclass(frozen=True, slots=True)
class _Order:
    """Which loops are where: ``lane`` is the kept one of the lanes, ``reduced`` has the innermost
    last.
    """

    outer: tuple[Loop, ...]
    lane: Loop | None
    reduced: tuple[Loop, ...]


def _order(program: Tiles) -> _Order:
    """The reduced loop that walks memory in order goes innermost; else a kept one that does."""
    kept, reduced = program.kept, program.reduced
    roots = [root for stage in program.stages for root in stage.roots]
    along = {v.name: program.body.walked(v.name, roots) for v in (*kept, *reduced)}
    inner = max(reversed(reduced), key=lambda v: along[v.name], default=None)
    lane = max(reversed(kept), key=lambda v: along[v.name], default=None)
    if lane and inner and along[lane.name] > along[inner.name]:
        return _Order(tuple(v for v in kept if v is not lane), lane, reduced)
    others = tuple(v for v in reduced if v is not inner)
    return _Order(kept, None, (*others, inner) if inner else ())


def _width(extent: Size) -> int:
    if not isinstance(extent, int):
        return WIDTH
    half = -(-extent // 128) * 64
    return min(extent, max(NARROWEST, min(WIDTH, half)))


def _long(order: _Order) -> bool:
    """Whether a row may be longer than a cache, and its inner loop is long enough for blocks."""
    count = product(v.extent for v in order.reduced)
    inner = order.reduced[-1].extent if order.reduced else 1
    blocks = not isinstance(inner, int) or inner >= SHORTEST_STREAM
    return blocks and (not isinstance(count, int) or count > CACHED)


@final
@dataclass
class _Writer:
    """Writes the spec of a kernel that visits ``shape``.

    Scalars have a depth: that of the innermost loop they depend on. Those of the row are at depth
    ``row``, and the innermost ones at ``inmost``, which in lanes is the same.
    """

    elements: Elements
    program: Tiles
    order: _Order
    shape: tuple[Size, ...]
    _depth: dict[str, int] = field(default_factory=dict)
    _varying: set[str] = field(default_factory=set)
    _done: set[str] = field(default_factory=set)
    _arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order, program = self.order, self.program
        self.body, self.facts = program.body, program.body.facts
        outer, count = len(order.outer), len(order.reduced)
        self.row = outer + 1 + (count if order.lane else 0)
        self.inmost = self.row if order.lane else self.row + max(1, count)
        self.width = _width(order.lane.extent) if order.lane else 0
        self._rank()
        inside = {n for n in self._varying if self._depth[n] == self.inmost}
        stages = [stage.roots for stage in program.stages]
        across = [Loop("l", self.width)] if order.lane else []
        self.kept = keep(self.body.lets, stages, inside, [*order.reduced, *across])

    def spec(self) -> ReductionSpec:
        """See the module."""
        order, body, program = self.order, self.body, self.program
        passes = tuple(self.one(k, stage) for k, stage in enumerate(program.stages))
        after = self.of_row(wanted(body.lets, program.stores, ()), program.stores)
        shared = self.shared()
        kept = [body.level(v, s) for v, s in zip(order.outer, shared[1:], strict=True)]
        if order.lane:
            extent = c_text(order.lane.extent, self.facts)
            kept.append(Level("first", extent, (), step=str(self.width)))
        parts, levels = divide(kept, work(self.elements, product(self.shape)), vector=False)
        rows = (*shared, after, *(p.before for p in passes), *(p.lane for p in passes))
        inside = [_within(p) for p in passes]
        visited = self.shape
        if any(raises(part) for part in rows):
            visited = tuple(v.extent for v in program.kept)
        found = head(self.elements, visited, *rows, *inside, parts=parts)
        return ReductionSpec(
            head=found,
            before=shared[0],
            arrays=tuple(self._arrays.values()),
            outer=levels,
            lanes=self.lanes(checks=found.checks),
            passes=passes,
            after=after,
            stores=tuple(self.text(s) for s in program.stores),
            streams=any(p.block and p.block.streams for p in passes),
        )

    def one(self, k: int, stage: Stage) -> Pass:
        """Stage number ``k``."""
        later = {p.second for p in stage.pairs}
        how = [self.accumulation(m) for m in stage.meetings if m.number not in later]
        roots = [*(root for h in how for root in h.roots), *stage.stores]
        known, new = self.kept.known(k), self.kept.new(k)
        names = wanted(self.body.lets, roots, known)
        before, saves = self.before(names, roots)
        around, inner = self.levels(names)
        own = [n for n in names if n in self._varying and self._depth[n] == self.inmost]
        lets = (*self.loads(own, known, roots), *self.statements(own))
        for name in new:
            self.array(f"k_{name}", self.body.lets[name].ctype, self.kept.count)
        seconds = [second(p, stage.meetings, self.facts) for p in stage.pairs]
        offset = c_text(self.kept.offset, self.facts)
        updates = (
            *(u for h in how for u in h.updates),
            *(f"k_{name}[{offset}] = {name}" for name in new),
            *(self.text(self.aside(s) if self.streams(s) else s) for s in stage.stores),
        )
        parts = [*(h.states for h in how), *(s.states for s in seconds)]
        return Pass(
            before=before,
            saves=saves,
            states=tuple(s for part in parts for s in part),
            block=self.block(how, self.again(seconds), stage.stores),
            around=around,
            inner=inner,
            lane=self.of_lane(own, roots) if self.order.lane else (),
            loads=tuple(t for h in how for t in self.taken(h)),
            lets=lets,
            updates=updates,
            puts=tuple(t for h in how for t in self.put(h)),
            results=(*(self.result(h.result) for h in how), *self.ends(seconds)),
            pragma=simd(raises(lets), *(c for h in how for c in h.clauses)),
            ways=self.ways(own, lets, inner),
        )

    def ways(self, own: list[str], lets: Statements, inner: Level | None) -> int:
        """How many elements lanes visit before they put their accumulators back."""
        if not self.order.lane or inner is None or inner.lets or raises(lets):
            return 1
        return WAYS if cost(self.body.lets, own) <= CHEAP else 1

    def taken(self, how: Accumulation) -> tuple[str, ...]:
        """The accumulators of a lane, from their arrays."""
        if not self.order.lane:
            return ()
        return tuple(f"{s.ctype} s{s.name[1:]} = {s.name}[l]" for s in how.running)

    def put(self, how: Accumulation) -> tuple[str, ...]:
        """The accumulators of a lane, into their arrays."""
        if not self.order.lane:
            return ()
        return tuple(f"{s.name}[l] = s{s.name[1:]}" for s in how.running)

    def again(self, seconds: list[Second]) -> Again | None:
        """The second walk through each block."""
        if not seconds:
            return None
        about = {s.about for s in seconds}
        names = wanted(self.body.lets, [root for s in seconds for root in s.roots], about)
        lets = self.statements(n for n in names if self._depth[n] == self.inmost)
        return Again(
            before=tuple(t for s in seconds for t in s.before),
            states=tuple(state for s in seconds for state in s.inner),
            lets=lets,
            updates=tuple(u for s in seconds for u in s.updates),
            joins=tuple(j for s in seconds for j in s.joins),
            pragma=simd(raises(lets), *(c for s in seconds for c in s.clauses)),
        )

    def ends(self, seconds: list[Second]) -> tuple[str, ...]:
        """The results of second meetings, and before them what their elements are relative to."""
        lets = self.body.lets
        about = [s.about for s in seconds if s.about in lets]
        names = [*wanted(lets, [lets[n] for n in about], ()), *about]
        row = self.of_row([n for n in lets if n in names], ())
        texts = (f"const {s.ctype} {s.name} = {s.value}" for s in row)
        return (*texts, *(self.result(s.result) for s in seconds))

    def accumulation(self, meeting: Meeting) -> Accumulation:
        """How elements meet in the order that was chosen."""
        count = product(v.extent for v in self.order.reduced)
        limit = LANE_BLOCK if self.order.lane else ROW_BLOCK
        meet = meeting.in_lanes if self.order.lane else meeting.in_row
        return meet(self.facts, long=not isinstance(count, int) or count > limit)

    def block(
        self, how: list[Accumulation], again: Again | None, stores: Sequence[Let]
    ) -> Block | None:
        """The blocks of the inner loop, if anything begins or ends with one."""
        states = tuple(s for h in how for s in h.inner)
        joins = tuple(j for h in how for j in h.joins)
        streams = tuple(self.stream(s) for s in stores if self.streams(s))
        if not states and not streams and not again:
            return None
        return Block(LANE_BLOCK if self.order.lane else ROW_BLOCK, states, joins, again, streams)

    def streams(self, store: Let) -> bool:
        """Whether ``store`` goes around the cache: what is large and walked in order."""
        cell = store.parts[0]
        if self.order.lane or not self.order.reduced or not isinstance(cell, Cell):
            return False
        inner = self.order.reduced[-1]
        long = isinstance(inner.extent, int) and inner.extent >= SHORTEST_STREAM
        nbytes = self.output(cell).nbytes
        large = isinstance(nbytes, int) and nbytes >= STREAM
        return large and long and linear(cell.offset, inner.name) == 1

    def stream(self, store: Let) -> Stream:
        """What ``store`` has put aside, written when the block ends."""
        cell, inner = cast(Cell, store.parts[0]), self.order.reduced[-1]
        self.elements.trace.needs.add("stream")
        tensor = self.output(cell)
        self.array(f"o_{cell.buffer}", STORAGE[tensor.dtype.name], ROW_BLOCK)
        start = c_text(substitute(cell.offset, {inner.name: Sym.var("b")}), self.facts)
        nbytes = f"(e - b)*{tensor.dtype.itemsize}"
        return Stream(f"{cell.buffer} + {start}", f"o_{cell.buffer}", nbytes)

    def aside(self, store: Let) -> Let:
        """``store``, but to the array of its block."""
        cell, inner = cast(Cell, store.parts[0]), self.order.reduced[-1]
        here = Cell(f"o_{cell.buffer}", Sym.var(inner.name) - Sym.var("b"))
        return Let("", "", (here, *store.parts[1:]))

    def output(self, cell: Cell) -> TensorType:
        """The type of the output that ``cell`` belongs to."""
        return self.elements.region.graph.outputs[int(cell.buffer[1:])].tensor

    def levels(self, names: Collection[str]) -> tuple[tuple[Level, ...], Level | None]:
        """The loops over reduced axes, the innermost by itself; what rows compute in that comes
        innermost.
        """
        loops, depth = self.order.reduced, self._depth
        varying = [n for n in names if n in self._varying and depth[n] < self.inmost]
        levels = [
            self.body.level(v, self.statements(n for n in varying if depth[n] == depth[v.name]))
            for v in loops
        ]
        return tuple(levels[:-1]), levels[-1] if levels else None

    def loads(self, own: list[str], known: Sequence[str], roots: list[Let]) -> Statements:
        """The kept scalars that ``own`` ones and ``roots`` read."""
        offset = c_text(self.kept.offset, self.facts)
        read = {n for let in (*(self.body.lets[o] for o in own), *roots) for n in reads(let)}
        return tuple(self.load(n, f"k_{n}[{offset}]") for n in known if n in read)

    def before(
        self, names: Collection[str], roots: list[Let]
    ) -> tuple[Statements, tuple[str, ...]]:
        """The scalars of the row that a stage needs and that are not there yet."""
        if not self.order.lane:
            return self.of_row(names, ()), ()
        lets = self.body.lets
        inside = [lets[n] for n in names if n in self._varying]
        read = {n for let in (*inside, *roots) for n in reads(let)}
        new = [n for n in names if n in read and self._heavy(n) and f"l_{n}" not in self._arrays]
        found = self.of_lane((), [Let("", "", (Value(i64, n),)) for n in new])
        for name in new:
            self.array(f"l_{name}", lets[name].ctype, self.width)
        return found, tuple(f"l_{name}[l] = {name}" for name in new)

    def of_row(self, names: Iterable[str], roots: Sequence[Let]) -> Statements:
        """The scalars of the row among ``names`` that are not there yet."""
        if self.order.lane:
            return self.of_lane((), roots)
        new = [n for n in names if self._depth[n] == self.row and n not in self._done]
        self._done.update(new)
        return self.statements(new)

    def of_lane(self, own: Iterable[str], roots: Sequence[Let]) -> Statements:
        """The scalars of the lane that ``own`` ones and ``roots`` need, from arrays where they are
        kept.
        """
        lets = self.body.lets
        targets = [*(lets[n] for n in own), *roots]
        arrays = [name[2:] for name in self._arrays if name.startswith("l_")]
        names = wanted(lets, targets, {*arrays, *self._varying})
        mine = [n for n in names if self._depth[n] == self.row]
        read = {n for let in (*targets, *(lets[n] for n in mine)) for n in reads(let)}
        loads = [self.load(n, f"l_{n}[l]") for n in arrays if n in read]
        return (*loads, *self.statements(mine))

    def load(self, name: str, text: str) -> Statement:
        """Scalar ``name`` from where it is kept."""
        array = self._arrays.get(f"k_{name}") or self._arrays[f"l_{name}"]
        return Statement(array.ctype, name, text, raises=False)

    def result(self, result: Statement) -> str:
        """What keeps the result of a meeting."""
        if not self.order.lane:
            return f"const {result.ctype} {result.name} = {result.value}"
        self.array(f"l_{result.name}", result.ctype, self.width)
        return f"l_{result.name}[l] = {result.value}"

    def array(self, name: str, ctype: str, count: int) -> None:
        """Declare an array."""
        self._arrays[name] = Array(ctype, name, count)

    def lanes(self, *, checks: bool) -> Lanes | None:
        """The loops over the lanes."""
        if self.order.lane is None:
            return None
        return Lanes(self.body.level(self.order.lane, (), simd(checks)), self.width)

    def shared(self) -> list[Statements]:
        """What is computed outside the row, by loop; first: before all loops."""
        program = self.program
        meetings = [m for stage in program.stages for m in stage.meetings]
        roots = [root for m in meetings for root in self.accumulation(m).roots]
        roots += [store for stage in program.stages for store in stage.stores]
        names = wanted(self.body.lets, [*roots, *program.stores], ())
        depths = range(len(self.order.outer) + 1)
        return [self.statements(n for n in names if self._depth[n] == d) for d in depths]

    def statements(self, names: Iterable[str]) -> Statements:
        """These scalars in C."""
        return tuple(statement(self.body.lets[n], self.facts) for n in names)

    def text(self, root: Let) -> str:
        """A root in C."""
        return statement(root, self.facts).value

    def _rank(self) -> None:
        """The depth of every scalar, and which ones differ along the reduced axes."""
        order, lane = self.order, self.order.lane
        depth = {v.name: k + 1 for k, v in enumerate(order.outer)}
        first = len(order.outer) + 1 + (not lane)
        depth |= {v.name: first + k for k, v in enumerate(order.reduced)}
        varying = {v.name for v in order.reduced}
        for m in (m for stage in self.program.stages for m in stage.meetings):
            depth |= {m.name: self.row, f"s{m.number}": self.inmost}
            varying.add(f"s{m.number}")
        if lane:
            depth[lane.name] = self.row
        for name, let in self.body.lets.items():
            read = reads(let)
            depth[name] = max((depth.get(n, 0) for n in read), default=0)
            if read & varying:
                varying.add(name)
        self._depth, self._varying = depth, varying & self.body.lets.keys()

    def _heavy(self, name: str) -> bool:
        """Whether a scalar of the lane is more than a load."""
        let = self.body.lets[name]
        same = name not in self._varying and self._depth[name] == self.row
        return same and not isinstance(let.parts[0], Cell)


def _within(p: Pass) -> Statements:
    """What a pass computes inside the loops over reduced axes."""
    loops = (*p.around, *([p.inner] if p.inner else []))
    return (*(s for level in loops for s in level.lets), *p.lets)
