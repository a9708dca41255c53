"""How a row region is written in Triton: what is computed before, inside and after each walk.

A scalar varies along the reduced axes or belongs to a row. Those of a row are known from then on;
those that vary are computed once where there are no loops, else again in each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.accumulate import Meeting
from vtc.codegen.keep import wanted
from vtc.codegen.loops import Loop
from vtc.codegen.pairs import Pair
from vtc.codegen.region import Elements
from vtc.codegen.sizes import Facts
from vtc.codegen.tiles import Stage, Tiles
from vtc.codegen.trace import Cell, Let, Trace, Value, reads
from vtc.codegen.triton.flat import Change, flattened
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type
from vtc.codegen.triton.hints import hinted
from vtc.codegen.triton.scalars import TritonScalars, literal, typed
from vtc.codegen.triton.second import Second, Walk, second
from vtc.ir.dims import Size, product

Lines = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Combine:
    """The function ``name`` of ``a`` and ``b``, by which partial results meet."""

    name: str
    lines: Lines
    result: str


@final
@dataclass(frozen=True, slots=True)
class Pass:
    """A stage: what comes ``before``, ``inside`` of the ``loop`` (if there is one) and ``after``
    it.
    """

    before: Lines
    loop: str
    inside: Lines
    after: Lines


@final
@dataclass(frozen=True, slots=True)
class ReductionSpec:
    """What ``reduction.py.jinja`` may mention: the indices of the tile, the ``passes`` in order,
    and what comes ``after`` them.
    """

    template = "reduction"
    head: Head
    combines: tuple[Combine, ...]
    axes: Lines
    passes: tuple[Pass, ...]
    after: Lines
    grid: tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """``rows`` kept indices and ``block`` reduced ones to a tile; where these are fewer than there
    are, a program walks along. With ``keep`` rows are to stay in the cache from the first walk to
    the last.
    """

    rows: int
    block: int
    warps: int
    keep: bool = False


@final
@dataclass(frozen=True, slots=True)
class Order:
    """The traced region, and which loops are where: ``lane`` is the kept one of the lanes, ``kept``
    are the others, and ``reduced`` has the innermost last.
    """

    elements: Elements
    program: Tiles
    kept: tuple[Loop, ...]
    lane: Loop | None
    reduced: tuple[Loop, ...]

    @property
    def rows(self) -> Size:
        """How many kept indices there are, without the lanes."""
        return product(v.extent for v in self.kept)

    @property
    def length(self) -> Size:
        """How many reduced indices there are."""
        return product(v.extent for v in self.reduced)


def write(order: Order, choice: Choice) -> ReductionSpec:
    """The spec of the kernel."""
    return _Writer(order, choice).spec()


@final
@dataclass
class _Writer:
    """Writes the spec; ``flat`` tiles have one dimension, and ``i`` is a number then."""

    order: Order
    choice: Choice
    _done: set[str] = field(default_factory=set)
    _varying: set[str] = field(default_factory=set)
    _combines: dict[str, Combine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order, length = self.order, self.order.length
        if not order.kept and not order.lane:
            self.choice = replace(self.choice, rows=1)
        if not order.reduced:
            self.choice = replace(self.choice, block=1)
        choice = self.choice
        self.facts = order.elements.trace.facts
        self.loops = not isinstance(length, int) or length > choice.block
        program = order.program.paired() if self.loops else order.program
        self.flat = choice.rows == 1 and order.lane is None
        changes: list[Change] = []
        self.kept = _joined(self.facts, order.kept, "i", changes)
        self.reduced = _joined(self.facts, order.reduced, "r", changes)
        self.stages, self.stores = _changed(program, changes)
        if length == 0:
            self.stages = ()  # results are known, and there is nothing else
        self.lets = {n: _rewritten(let, changes) for n, let in program.body.lets.items()}
        self.block = Block(self.facts, self.lets, self.conditions())
        for name, let in self.lets.items():
            if any(n == "r" or n in self._varying for n in reads(let)):
                self._varying.add(name)

    def spec(self) -> ReductionSpec:
        """See the module."""
        order, rows = self.order, self.choice.rows
        passes = tuple(self.one(stage) for stage in self.stages)
        stores = tuple(map(self.block.statement, self.stores))
        after = (*self.row(self.stores), *self.barrier(), *stores)
        programs = ceil_div(order.rows, rows)
        if order.lane:
            programs = order.rows * ceil_div(order.lane.extent, rows)
        return ReductionSpec(
            head=head(order.elements, warps=self.choice.warps),
            combines=tuple(self._combines.values()),
            axes=self.axes(),
            passes=passes,
            after=after,
            grid=(programs,),
        )

    def barrier(self) -> Lines:
        """Threads have copies of what belongs to a row: one may not store over what another one
        has still to load.
        """
        row = (let for name, let in self.lets.items() if name not in self._varying)
        loads = any(isinstance(part, Cell) for let in row for part in let.parts)
        several = len(self.stores) > 1 and self.choice.warps > 1
        return ("tl.debug_barrier()",) if loads and several else ()

    # indices

    @property
    def shape(self) -> str:
        """The shape of a tile."""
        rows, block = self.choice.rows, self.choice.block
        if self.flat:
            return f"[{block}]"
        return f"[{block}, {rows}]" if self.order.lane else f"[{rows}, {block}]"

    def at(self, *, reduced: bool) -> str:
        """What puts a block of indices along its axis of the tile."""
        if self.flat:
            return ""
        return "[None, :]" if reduced is (self.order.lane is None) else "[:, None]"

    def conditions(self) -> dict[str, str]:
        """When indices are inside, where they may not be."""
        found = {}
        tiled = self.order.lane or self.kept
        for loop, count in ((tiled, self.choice.rows), (self.reduced, self.choice.block)):
            if loop and not (isinstance(loop.extent, int) and loop.extent % count == 0):
                found[loop.name] = f"{loop.name} < {self.size(loop.extent)}"
        return found

    def axes(self) -> Lines:
        """The indices of the program; those along the row, too, if there is no loop."""
        lane, rows, lines = self.order.lane, self.choice.rows, []
        number = f"tl.program_id(0).to({self.wide})"
        many = f"*{rows} + tl.arange(0, {rows}){self.at(reduced=False)}"
        if lane:
            blocks = self.size(ceil_div(lane.extent, rows))
            lines.append(f"{lane.name} = {number}%({blocks}){many}")
            number = f"{number}//({blocks})"
        if self.kept:
            lines.append(f"i = {number}{'' if lane or self.flat else many}")
        if self.reduced and not self.loops:
            lines.append(f"r = {self.along}")
        return tuple(lines)

    @property
    def wide(self) -> str:
        """The type of indices."""
        return index_type(self.order.elements, self.order.rows, self.order.length)

    @property
    def along(self) -> str:
        """The numbers of a tile along its reduced axis."""
        typed = f".to({self.wide})" if self.loops else ""
        return f"tl.arange(0, {self.choice.block}){self.at(reduced=True)}{typed}"

    # stages

    def one(self, stage: Stage) -> Pass:
        """A stage, with or without a loop."""
        seconds = {p.second for p in stage.pairs}
        own = [m for m in stage.meetings if m.number not in seconds]
        roots = [*(m.element for m in own), *stage.stores]
        before = self.row(roots)
        mine = [n for n in wanted(self.lets, roots, self._done) if n in self._varying]
        block = self.block
        if self.loops and self.choice.keep:
            lets, stage = hinted(self.lets, self.stages, stage)
            block = Block(self.facts, lets, block.conditions)
        lines, stores = block.lines(mine), tuple(map(block.statement, stage.stores))
        if self.loops:
            return self.walk(stage, own, before, lines, stores)
        self._done.update(mine)
        met = tuple(self.meet(m, self.whole(m)) for m in own)
        return Pass(before, "", (*lines, *met, *stores), ())

    def walk(
        self, stage: Stage, own: Sequence[Meeting], before: Lines, lines: Lines, stores: Lines
    ) -> Pass:
        """A stage as a loop."""
        paired = {p.first: self.second(p, stage) for p in stage.pairs}
        starts, inside = list(before), [f"r = {self.along} + u", *lines]
        for m in own:
            name, both = f"s{m.number}", paired.get(m.number)
            starts += both.states if both else ()
            inside += [f"v{m.number} = {self.value(m)}", *(both.updates if both else ())]
            if not both or not both.both:
                starts.append(self.state(m))
                inside.append(f"{name} = {self.combine(m)}({name}, v{m.number})")
        after = [self.meet(m, f"s{m.number}") for m in own]
        for both in paired.values():
            after += [*both.joins, *self.row([both.about]), both.result]
        loop = f"for u in range(0, {self.size(self.order.length)}, {self.choice.block}):"
        return Pass(tuple(starts), loop, (*inside, *stores), tuple(after))

    def row(self, roots: Sequence[Let]) -> Lines:
        """The scalars of the row that ``roots`` need and that are not there yet."""
        new = [n for n in wanted(self.lets, roots, self._done) if n not in self._varying]
        self._done.update(new)
        return self.block.lines(new)

    def value(self, meeting: Meeting) -> str:
        """The elements of a meeting in a tile; outside, what changes nothing."""
        (value,) = meeting.element.parts
        assert isinstance(value, Value)
        text = self.block.text((typed(value),))
        condition = self.block.conditions.get("r")
        if condition is None:
            return text
        return f"tl.where({condition}, {text}, {_nothing(meeting)})"

    def whole(self, meeting: Meeting) -> str:
        """The elements of a meeting in the shape of the tile."""
        text = self.value(meeting)
        if self.flat and "r" in self.block.conditions:
            return text
        return f"tl.broadcast_to({text}, {self.shape})"

    def state(self, meeting: Meeting) -> str:
        """The accumulators of a meeting."""
        return f"s{meeting.number} = {_nothing(meeting, self.shape)}"

    def meet(self, meeting: Meeting, text: str) -> str:
        """The result of a meeting of ``text``, a tile."""
        return f"{meeting.name} = {self.reduced_by(text, self.combine(meeting))}"

    def reduced_by(self, text: str, function: str) -> str:
        """A tile, or several, along its reduced axis."""
        if self.flat:
            return f"tl.reduce({text}, 0, {function})"
        axis = 0 if self.order.lane else 1
        return f"tl.reduce({text}, {axis}, {function}, keep_dims=True)"

    def combine(self, meeting: Meeting) -> str:
        """The function by which partial results meet."""
        dtype = meeting.source.accumulate
        name = f"vtc_{meeting.op.name}_{dtype}"
        if name not in self._combines:
            trace = Trace(Facts())
            parts = Value(dtype, "a"), Value(dtype, "b")
            result = meeting.op.combine(TritonScalars(trace), *parts)
            assert isinstance(result, Value)
            lines = Block(trace.facts, trace.lets, {}).lines(trace.lets)
            self._combines[name] = Combine(name, lines, result.text)
        return name

    def second(self, pair: Pair, stage: Stage) -> Second:
        """The second meeting of a pair."""
        self.order.elements.trace.needs.add(pair.kind)
        (meeting,) = (m for m in stage.meetings if m.number == pair.second)
        walk = Walk(
            shape=self.shape,
            common=self.common,
            along=self.along,
            block=self.choice.block,
            length=self.size(self.order.length),
            inside=self.block.conditions.get("r"),
            reduced=self.reduced_by,
        )
        return second(pair, meeting.name, self.combine(meeting), walk)

    @property
    def common(self) -> int:
        """How many elements of a row a thread loads at once: 16 bytes of the narrowest numbers."""
        params = self.order.elements.region.graph.params
        sizes = [p.tensor.dtype.itemsize for p in params if p.tensor.dtype.is_floating_point]
        common = 16 // min(sizes, default=4)
        return common if self.flat and self.choice.block % common == 0 else 1

    def size(self, size: Size) -> str:
        """An index expression."""
        return Block(self.facts, {}, {}).size(size)


def _nothing(meeting: Meeting, shape: str = "()") -> str:
    """A tile, or one element, of what changes nothing."""
    dtype = meeting.source
    return literal(meeting.op.identity(dtype), dtype.accumulate, shape)


def _joined(facts: Facts, loops: Sequence[Loop], name: str, changes: list[Change]) -> Loop | None:
    """One loop in the place of ``loops``, if there are any; what that changes is added."""
    if not loops or product(v.extent for v in loops) == 0:
        return None
    one, change = flattened(facts, loops, name)
    changes.append(change)
    return one


def _changed(program: Tiles, changes: Sequence[Change]) -> tuple[tuple[Stage, ...], list[Let]]:
    """Stages and stores with all index expressions changed."""
    stages = tuple(
        replace(
            stage,
            meetings=tuple(
                replace(m, element=_rewritten(m.element, changes)) for m in stage.meetings
            ),
            stores=tuple(_rewritten(s, changes) for s in stage.stores),
        )
        for stage in program.stages
    )
    return stages, [_rewritten(s, changes) for s in program.stores]


def _rewritten(let: Let, changes: Sequence[Change]) -> Let:
    for change in changes:
        let = let.rewrite(change)
    return let
