"""Scans in Triton: a program has some rows, or neighbouring rows side by side, and goes along them.

A block is scanned at once, and what came before it is combined with all of it::

    for u in range(0, 5000, 1024):
        r = tl.arange(0, 1024)[None, :] + u
        v0 = tl.load(x0 + (i*5000 + r), ...)
        p0 = vtc_scan(s0, tl.associative_scan(v0, 1, vtc_scan))
        s0 = tl.sum(tl.where(last, p0, 0.0), 1, keep_dims=True)

Where there are few rows, and long ones, each is cut into spans of a program each. A first launch
leaves their totals in memory, and in a second one each span begins with those of all before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.scan import ALONG, Scanned
from vtc.codegen.sizes import Facts
from vtc.codegen.trace import Let, Trace, Value, needed
from vtc.codegen.triton.flat import flattened
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type, power
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.pointwise import PointwiseSpec, empty
from vtc.codegen.triton.scalars import NAMES, POINTERS, TritonScalars, literal, typed
from vtc.ir.dims import Size, Sym, product
from vtc.ir.graph import Node
from vtc.ir.target import Target
from vtc.ir.types import DType

TILE, LANES = 2048, 32
"""Elements of a tile, and how many rows it has where they lie side by side."""
SPANS, LONG = 256, 8
"""The most spans of a row, and the tiles from which on a row may have some."""

Lines = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Combine:
    """The function by which states meet."""

    args: Lines
    lines: Lines
    results: Lines


@final
@dataclass(frozen=True, slots=True)
class ScanSpec:
    """What ``scan.py.jinja`` may mention: lines ``before`` the ``loop`` (if there is one),
    ``inside`` and ``after`` it.
    """

    template = "scan"
    head: Head
    combine: Combine
    before: Lines
    loop: str
    inside: Lines
    after: Lines
    grid: tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """``rows`` (or lanes) by ``block`` elements to a tile; ``spans`` to a row."""

    rows: int
    block: int
    warps: int
    spans: int = 1


def scan(
    region: Region, root: Node, target: Target, choice: Choice | None = None
) -> ScanSpec | PointwiseSpec | tuple[Phase, ...]:
    """The spec of a region about ``root``, a scan."""
    if 0 in region.shape(root):
        return empty(Elements(region, TritonScalars))
    choice = choice or candidates(region, root, target)[0]
    if choice.spans == 1:
        return _writer(region, root, choice).whole()
    totals, apply = (_writer(region, root, choice) for _ in range(2))
    scratch = totals.scratch()
    specs = totals.totals(), apply.applied()
    return tuple(Phase(spec, scratch=scratch) for spec in specs)


def candidates(region: Region, root: Node, target: Target) -> list[Choice]:
    """Tiles worth measuring, the one to take without first."""
    if 0 in region.shape(root):
        return [Choice(1, 1, 4)]
    work = Scanned(Elements(region, TritonScalars), root)
    first, *others = (_choice(work, target, tile) for tile in (TILE, 2 * TILE, TILE // 2))
    found = [first, *(o for o in others if o != first)]
    return [*found, replace(first, warps=max(1, first.warps // 2))]


def _choice(work: Scanned, target: Target, tile: int) -> Choice:
    length, axis = work.length, work.op.axis
    outer, inner = product(work.shape[:axis]), product(work.shape[axis + 1 :])
    most = power(length) if isinstance(length, int) else tile
    if inner == 1:
        block = min(most, tile)
        rows = max(1, tile // block)
        rows = min(rows, power(outer)) if isinstance(outer, int) else rows
        programs = ceil_div(outer, rows)
    else:
        rows = min(LANES, power(inner)) if isinstance(inner, int) else LANES
        block = min(most, tile // rows)
        programs = outer * ceil_div(inner, rows)
    choice = Choice(rows, block, max(1, min(8, rows * block // 256)))
    if not isinstance(programs, int) or not isinstance(length, int):
        return choice
    if 2 * programs <= target.processors and length >= LONG * block:
        rows = 1 if inner == 1 else rows
        spans = min(SPANS, length // (2 * block), 2 * target.processors // programs)
        return replace(choice, rows=rows, spans=max(2, spans))
    return choice


def _writer(region: Region, root: Node, choice: Choice) -> _Writer:
    return _Writer(Scanned(Elements(region, TritonScalars), root), choice)


@final
@dataclass
class _Writer:
    """Writes specs. Rows are along the first axis of a tile and ``r`` along the second, or lanes
    along the second and ``r`` along the first.
    """

    work: Scanned
    choice: Choice
    lifted: list[Let] = field(init=False)
    stores: list[Let] = field(init=False)
    lets: Mapping[str, Let] = field(init=False)
    results: dict[str, Let] = field(init=False)
    """The state at each element, which depends on all loops."""
    kept: Loop | None = field(init=False)
    lanes: Loop | None = field(init=False)

    def __post_init__(self) -> None:
        work = self.work
        values = tuple(Value(d, f"p{k}") for k, d in enumerate(work.dtypes))
        stores = work.stores(values)
        body = Body(work.elements.trace, [*(Let("", "", (v,)) for v in work.lifted), *stores])
        roots, lets = body.roots, body.lets
        found: list[Loop | None] = []
        for index, name in ((work.outer, "i"), (work.inner, "c")):
            loops = body.loops(index)
            if not loops:
                found.append(None)
                continue
            one, change = flattened(self.facts, loops, name)
            roots = [r.rewrite(change) for r in roots]
            lets = {n: let.rewrite(change) for n, let in lets.items()}
            found.append(one)
        self.kept, self.lanes = found
        names = [ALONG, *(v.name for v in found if v)]
        self.results = {v.text: Let(v.text, "", tuple(map(Sym.var, names))) for v in values}
        self.lets, count = {**self.results, **lets}, len(work.lifted)
        self.lifted, self.stores = roots[:count], roots[count:]

    @property
    def facts(self) -> Facts:
        """What is known of indices."""
        return self.work.elements.trace.facts

    @property
    def axis(self) -> int:
        """The axis of a tile along which it is scanned."""
        return 0 if self.lanes else 1

    @property
    def span(self) -> int:
        """The elements of a span."""
        length, block = self.work.length, self.choice.block
        assert isinstance(length, int)
        return -(-length // (self.choice.spans * block)) * block

    @property
    def spans(self) -> int:
        """How many spans a row has."""
        length = self.work.length
        assert isinstance(length, int)
        return -(-length // self.span)

    # the kernels

    def whole(self) -> ScanSpec:
        """A program goes along whole rows."""
        length = self.work.length
        if isinstance(length, int) and length <= self.choice.block:
            lines = (f"{ALONG} = {self.numbers(self.choice.block)}", *self.lines(loop=False))
            return self.spec(self.axes(), "", lines, ())
        loop = f"for u in range(0, {self.size(length)}, {self.choice.block}):"
        return self.spec((*self.axes(), *self.nothing()), loop, self.turn(), ())

    def totals(self) -> ScanSpec:
        """What each span comes to."""
        stored = tuple(
            f"tl.store(z{k} + {self.place('b')}, s{k}{self.inside(self.own())})"
            for k in range(len(self.work.dtypes))
        )
        before = (*self.axes(), *self.bounds(), *self.nothing())
        return self.spec(before, self.along(), self.turn(with_stores=False), stored, spans=True)

    def applied(self) -> ScanSpec:
        """Each span once more, after those before it."""
        before = (*self.axes(), *self.bounds(), *self.earlier())
        return self.spec(before, self.along(), self.turn(), (), spans=True)

    def spec(
        self, before: Lines, loop: str, inside: Lines, after: Lines, *, spans: bool = False
    ) -> ScanSpec:
        """The spec of a kernel; its grid has a second axis for spans."""
        rows: Size = self.kept.extent if self.kept else 1
        if self.lanes:
            programs = rows * ceil_div(self.lanes.extent, self.choice.rows)
        else:
            programs = ceil_div(rows, self.choice.rows)
        combine = self.combine()
        own = head(self.work.elements, warps=self.choice.warps)
        if spans:
            own = self.beside(own)
        grid = (programs, self.spans) if spans else (programs,)
        return ScanSpec(own, combine, before, loop, inside, after, grid)

    def scratch(self) -> tuple[Size, ...]:
        """The bytes of the totals."""
        work = self.work
        rows = product((*work.shape[: work.op.axis], *work.shape[work.op.axis + 1 :]))
        return tuple(rows * self.spans * d.itemsize for d in work.dtypes)

    def beside(self, plain: Head) -> Head:
        """``plain`` with pointers to the totals after all others."""
        graph = self.work.elements.region.graph
        end = len(graph.params) + len(graph.outputs)
        names = [f"z{k}" for k in range(len(self.work.dtypes))]
        types = [POINTERS[d.name] for d in self.work.dtypes]
        return replace(
            plain,
            args=(*plain.args[:end], *names, *plain.args[end:]),
            signature=(*plain.signature[:end], *types, *plain.signature[end:]),
        )

    # indices

    def axes(self) -> Lines:
        """The rows or lanes of the program."""
        wide, count, lines = self.wide, self.choice.rows, []
        number = f"tl.program_id(0).to({wide})"
        if self.lanes:
            blocks = self.size(ceil_div(self.lanes.extent, count))
            lines.append(f"c = {number}%({blocks})*{count} + tl.arange(0, {count})[None, :]")
            number = f"{number}//({blocks})"
        if self.kept:
            many = "" if self.lanes else f"*{count} + tl.arange(0, {count})[:, None]"
            lines.append(f"i = {number}{many}")
        return tuple(lines)

    def bounds(self) -> Lines:
        """The span of the program, a row of spans of which has its own."""
        return (f"b = tl.program_id(1).to({self.wide})", f"begin = b*{self.span}")

    def along(self) -> str:
        """The loop along a span."""
        end = f"tl.minimum(begin + {self.span}, {self.size(self.work.length)})"
        return f"for u in range(begin, {end}, {self.choice.block}):"

    def numbers(self, count: int) -> str:
        """``0 ... count - 1`` along the scanned axis of a tile."""
        return f"tl.arange(0, {count}){'[:, None]' if self.lanes else '[None, :]'}"

    def shape(self, count: int) -> str:
        """A tile with ``count`` elements along the scanned axis."""
        rows = self.choice.rows
        return f"[{count}, {rows}]" if self.lanes else f"[{rows}, {count}]"

    def place(self, span: str) -> str:
        """Where the total of ``span`` is, of the rows or lanes of the program."""
        at = f"(i*{self.spans} + {span})" if self.kept else f"({span})"
        if self.lanes:
            return f"({at}*({self.size(self.lanes.extent)}) + c)"
        return f"({at} + tl.zeros([{self.choice.rows}, 1], tl.int32))"

    def own(self) -> tuple[str, ...]:
        """When rows or lanes are inside."""
        return tuple(c for name, c in self.conditions().items() if name in ("i", "c"))

    def inside(self, conditions: Sequence[str]) -> str:
        """A mask as an argument, where there is one."""
        found = " & ".join(f"({c})" for c in conditions)
        return f", {found}" if found else ""

    def conditions(self) -> dict[str, str]:
        """When indices are inside, where they may not be."""
        found: dict[str, str] = {}
        tiled = self.lanes or self.kept
        pairs = [(Loop(ALONG, self.work.length), self.choice.block)]
        pairs += [(tiled, self.choice.rows)] if tiled else []
        for loop, count in pairs:
            if not (isinstance(loop.extent, int) and loop.extent % count == 0):
                found[loop.name] = f"{loop.name} < {self.size(loop.extent)}"
        return found

    @property
    def wide(self) -> str:
        """The type of indices."""
        return index_type(self.work.elements, product(self.work.shape))

    def size(self, size: Size) -> str:
        """An index expression."""
        return Block(self.facts, {}, {}).size(size)

    # what is computed

    def nothing(self) -> Lines:
        """The states that a walk begins with."""
        pairs = zip(self.work.nothing, self.work.dtypes, strict=True)
        return tuple(f"s{k} = {literal(v, d, self.shape(1))}" for k, (v, d) in enumerate(pairs))

    def turn(self, *, with_stores: bool = True) -> Lines:
        """A block of a walk, and the state after it."""
        block = self.choice.block
        lines = [f"{ALONG} = {self.numbers(block)}.to({self.wide}) + u"]
        lines += self.lines(loop=True, with_stores=with_stores)
        lines.append(f"last = {self.numbers(block)} == {block - 1}")
        for k, d in enumerate(self.work.dtypes):
            lines.append(f"s{k} = {self.picked(f'p{k}', d)}")
        return tuple(lines)

    def picked(self, tile: str, dtype: DType, which: str = "last") -> str:
        """The element of ``tile`` for which ``which`` holds along the scanned axis."""
        one = f"tl.where({which}, {tile}, {literal(0, dtype)})"
        return f"tl.cast(tl.sum({one}, {self.axis}, keep_dims=True), {NAMES[dtype.name]})"

    def earlier(self) -> Lines:
        """The state after all spans before that of the program."""
        count, dtypes = power(self.spans), self.work.dtypes
        inside = self.inside((*self.own(), "f < b"))
        lines = [f"f = {self.numbers(count)}", f"newest = f == {count - 1}"]
        for k, (v, d) in enumerate(zip(self.work.nothing, dtypes, strict=True)):
            lines.append(f"m{k} = tl.load(z{k} + {self.place('f')}{inside}, {literal(v, d)})")
            lines.append(f"m{k} = tl.broadcast_to(m{k}, {self.shape(count)})")
        names = [f"m{k}" for k in range(len(dtypes))]
        lines.append(self.scanned(names, names))
        lines += [f"s{k} = {self.picked(f'm{k}', d, 'newest')}" for k, d in enumerate(dtypes)]
        return tuple(lines)

    def lines(self, *, loop: bool, with_stores: bool = True) -> Lines:
        """The elements of a block, scanned, and what is stored."""
        block = Block(self.facts, self.lets, self.conditions())
        count, names = len(self.lifted), [let.name for let in needed(dict(self.lets), self.lifted)]
        lines = [*block.lines(names)]
        for k, root in enumerate(self.lifted):
            (value,) = root.parts
            assert isinstance(value, Value)
            text = block.text((typed(value),))
            lines.append(f"v{k} = tl.broadcast_to({text}, {self.shape(self.choice.block)})")
        parts = range(count)
        lines.append(self.scanned([f"p{k}" for k in parts], [f"v{k}" for k in parts]))
        if loop:
            args = [*(f"s{k}" for k in parts), *(f"p{k}" for k in parts)]
            lines.append(f"{', '.join(f'p{k}' for k in parts)} = vtc_scan({', '.join(args)})")
        if with_stores:
            done = {*names, *self.results}
            later = [n.name for n in needed(dict(self.lets), self.stores) if n.name not in done]
            lines += [*block.lines(later), *map(block.store, self.stores)]
        return tuple(lines)

    def scanned(self, names: Sequence[str], tiles: Sequence[str]) -> str:
        """The tiles scanned."""
        given = tiles[0] if len(tiles) == 1 else f"({', '.join(tiles)})"
        return f"{', '.join(names)} = tl.associative_scan({given}, {self.axis}, vtc_scan)"

    def combine(self) -> Combine:
        """The function by which states meet."""
        dtypes, trace = self.work.dtypes, Trace(Facts())
        scalars = TritonScalars(trace)
        a, b = (tuple(Value(d, f"{n}{k}") for k, d in enumerate(dtypes)) for n in "ab")
        found = self.work.op.combine(scalars, a, b)
        lines = Block(trace.facts, trace.lets, {}).lines(trace.lets)
        results = tuple(v.text for v in found if isinstance(v, Value))
        self.work.elements.trace.needs |= trace.needs
        return Combine(tuple(v.text for v in (*a, *b)), lines, results)
