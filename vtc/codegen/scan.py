"""Scans: the elements of a row one after the other, with the state so far at hand.

Rows along the last axis are a loop each. Where other axes follow, a block of neighbouring rows goes
along together, a state for each, so that memory is walked in order and the rows are computed side
by side::

    for (int64_t i1t = 0; i1t < 768; i1t += 64) {
        float s0[64] = {0};
        for (int64_t r = 0; r < 128; r += 1)
            for (int64_t i1 = i1t; i1 < vtc_minimum(i1t + 64, 768); i1 += 1) ...

What is scanned is computed where it is read, and what follows the result where it is stored. A long
row is cut into blocks: the states of all blocks come first, in a kernel of their own, and then each
block begins with those of all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast, final

from vtc.codegen.loops import TILE, Body, Loop, raises, simd
from vtc.codegen.parts import divide, work
from vtc.codegen.pointwise import PointwiseSpec, empty, place
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER, literal
from vtc.codegen.spec import Argument, Head, Level, Several, head
from vtc.codegen.trace import Cell, Let, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.ops.scan import Scan
from vtc.ir.scalar import Index
from vtc.ir.types import DType

LONG, BLOCK, ROWS = 1 << 18, 1 << 15, 4
"""Rows from this length on are cut into blocks of so many elements, if there are so few rows."""
ALONG = "r"
"""The loop along a row, from its first element to its last as the scan goes."""


@final
@dataclass
class Scanned:
    """A region about ``root``, traced: ``outer`` and ``inner`` are the loops over rows, before and
    after the axis.
    """

    elements: Elements
    root: Node
    op: Scan = field(init=False)
    shape: tuple[Size, ...] = field(init=False)
    outer: Index = field(init=False)
    inner: Index = field(init=False)
    index: Index = field(init=False)
    lifted: tuple[Value, ...] = field(init=False)

    def __post_init__(self) -> None:
        region = self.elements.region
        op = region.op(self.root)
        if not isinstance(op, Scan):
            raise CodegenError(f"{op.name}: expected a scan")
        self.op, self.shape = op, region.shape(self.root)
        loops = self.elements.loops("i", self.shape)
        self.outer, self.inner = loops[: op.axis], loops[op.axis + 1 :]
        r = self.elements.trace.facts.loop(ALONG, self.length)
        along = 0 if self.length == 1 else self.length - 1 - r if op.reverse else r
        self.index = (*self.outer, along, *self.inner)
        self.elements.prepare(self.shape, self.index, before=self.root)
        given = [self.elements.at(i, self.index) for i in self.root.inputs]
        found = op.lift(self.elements.scalars, along, given)
        self.lifted = cast("tuple[Value, ...]", found)

    @property
    def length(self) -> Size:
        """How many elements a row has."""
        return self.shape[self.op.axis]

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The dtypes of a state, in registers."""
        return self.op.states(self.root.inputs[0].tensor.dtype.accumulate)

    @property
    def nothing(self) -> tuple[float, ...]:
        """The state of no elements."""
        return self.op.identity(self.root.inputs[0].tensor.dtype)

    def combined(self, a: Sequence[Value], b: Sequence[Value]) -> tuple[Value, ...]:
        """The state of ``a`` and then ``b``."""
        found = self.op.combine(self.elements.scalars, tuple(a), tuple(b))
        return cast("tuple[Value, ...]", found)

    def stores(self, state: Sequence[Value]) -> list[Let]:
        """The stores of all outputs, where the scan has come to ``state``."""
        result = cast("Value", self.op.result(self.elements.scalars, tuple(state)))
        return stores(self.elements, self.root, self.shape, self.index, result)


def stores(
    elements: Elements, root: Node, shape: tuple[Size, ...], index: Index, result: Value
) -> list[Let]:
    """The stores of all outputs of a region at ``index`` of ``shape``, given ``result`` for
    ``root``.
    """
    facts = elements.trace.facts
    at = tuple(map(facts.simplify, index))

    def read(where: Index) -> Value:
        if tuple(map(facts.simplify, where)) != at:
            want = f"expected {root.name} to be read in its own order, got index {where}"
            raise CodegenError(f"region {elements.region.graph.name}: {want}")
        return result

    elements.fixed[root] = read
    found = []
    for k, output in enumerate(elements.region.graph.outputs):
        own = place(index, shape, elements.region.shape(output))
        found.append(elements.store(k, own, elements.at(output, own)))
    return found


@final
@dataclass(frozen=True, slots=True)
class Held:
    """A part ``name`` of the state, which begins as ``identity`` and becomes ``update``."""

    ctype: str
    name: str
    identity: str
    update: str


@final
@dataclass(frozen=True, slots=True)
class ScanSpec:
    """What ``scan.c.jinja`` may mention.

    ``outer`` loops over rows, and over blocks of ``width`` of ``lanes`` if rows lie side by side;
    ``along`` is the loop through a row, with ``lets`` and ``stores`` innermost. Of a row in blocks
    the states ``earlier`` come first, or its ``totals`` are stored at last.
    """

    template = "scan"
    head: Head
    before: tuple[Statement, ...]
    outer: tuple[Level, ...]
    along: Level
    lanes: Level | None
    first: str
    width: int
    states: tuple[Held, ...]
    lets: tuple[Statement, ...]
    stores: tuple[str, ...]
    earlier: Earlier | None = None
    totals: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Earlier:
    """The loop over the blocks before one, and what they make of the states."""

    level: Level
    updates: tuple[str, ...]


def scan(region: Region, root: Node) -> ScanSpec | PointwiseSpec | Several:
    """The spec of a region about ``root``, a scan."""
    elements = Elements(region)
    if 0 in region.shape(root):
        return empty(elements, region.shape(root))
    if _is_cut(region, root):
        return _in_blocks(region, root)
    work_ = Scanned(elements, root)
    old = tuple(Value(d, f"s{k}") for k, d in enumerate(work_.dtypes))
    new = work_.combined(old, work_.lifted)
    roots = [*(Let("", "", (v,)) for v in new), *work_.stores(new)]
    return _spec(work_, Body(elements.trace, roots), old)


def _spec(work_: Scanned, body: Body, old: Sequence[Value]) -> ScanSpec:
    elements, count = work_.elements, len(old)
    outer, inner = (body.merge(body.loops(part)) for part in (work_.outer, work_.inner))
    *more, lanes = [*outer, *inner] if inner else [*outer, None]
    assert all(v is not None for v in more)
    rows = [v for v in more if v is not None]
    row = Loop(ALONG, work_.length)
    order = [*(v.name for v in rows), ALONG, *([lanes.name] if lanes else [])]
    before, *inside = body.place([*order, *(v.text for v in old)], body.roots)
    levels = [body.level(v, lets) for v, lets in zip(rows, inside, strict=False)]
    along, *rest = inside[len(rows) :]
    innermost = tuple(s for part in rest for s in part)
    lane, first = None, "0"
    if lanes:
        first = f"{lanes.name}t"
        levels.append(Level(first, body.level(lanes, ()).extent, (), step=str(TILE)))
        end = f"vtc_minimum({first} + {TILE}, {levels[-1].extent})"
        pragma = simd(raises(innermost))
        lane = Level(lanes.name, end, (), pragma, start=first)
    cost = work(elements, product(work_.shape))
    parts, levels_ = divide(levels, cost, vector=False)
    lets = [s.lets for s in levels]
    return ScanSpec(
        head=head(elements, work_.shape, before, *lets, along, innermost, parts=parts),
        before=before,
        outer=levels_,
        along=body.level(row, along),
        lanes=lane,
        first=first,
        width=TILE,
        states=tuple(
            Held(REGISTER[v.dtype.name], v.text, literal(nothing, v.dtype), body.text(k))
            for k, (v, nothing) in enumerate(zip(old, work_.nothing, strict=True))
        ),
        lets=innermost,
        stores=tuple(body.text(k) for k in range(count, len(body.roots))),
    )


def _is_cut(region: Region, root: Node) -> bool:
    """Whether there are few rows, and so long ones that they are worth two walks."""
    shape, op = region.shape(root), root.op
    assert isinstance(op, Scan)
    length, rest = shape[op.axis], product((*shape[: op.axis], *shape[op.axis + 1 :]))
    alone = product(shape[op.axis + 1 :]) == 1 and isinstance(rest, int) and rest < ROWS
    return alone and isinstance(length, int) and length >= LONG


def _in_blocks(region: Region, root: Node) -> Several:
    """A kernel that stores the states of blocks, and one that begins with those before."""
    specs, scratch = [], []
    for with_stores in (False, True):
        work_ = Scanned(Elements(region), root)
        specs.append(_Blocks(work_, with_stores).spec())
        rows = product(work_.shape[: work_.op.axis])
        count = -(-_int(work_.length) // BLOCK)
        scratch = [rows * count * d.itemsize for d in work_.dtypes]
    return Several(tuple(specs), tuple(scratch))


def _int(size: Size) -> int:
    assert isinstance(size, int)
    return size


@final
@dataclass
class _Blocks:
    """Loops over rows, and over the blocks ``b`` of each; ``j`` are those before one."""

    work: Scanned
    with_stores: bool

    def spec(self) -> ScanSpec:
        """The spec of a kernel."""
        work_, elements, trace = self.work, self.work.elements, self.work.elements.trace
        length = _int(work_.length)
        count = -(-length // BLOCK)
        old = tuple(Value(d, f"s{k}") for k, d in enumerate(work_.dtypes))
        b, j = (trace.facts.loop(name, count) for name in "bj")
        new = work_.combined(old, work_.lifted)
        roots, states = [Let("", "", (v,)) for v in new], len(new)
        if self.with_stores:
            held = [self._cell(k, count, j) for k in range(states)]
            types = [REGISTER[v.dtype.name] for v in old]
            known = [
                Value(v.dtype, trace.let(t, cell))
                for v, t, cell in zip(old, types, held, strict=True)
            ]
            roots += [Let("", "", (v,)) for v in work_.combined(old, known)]
            roots += work_.stores(new)
        else:
            cells = [self._cell(k, count, b) for k in range(states)]
            roots += [Let("", "", (c, " = ", v)) for c, v in zip(cells, old, strict=True)]
        body = Body(trace, roots)
        rows = body.merge(body.loops(work_.outer))
        names, states_of = [v.name for v in rows], [v.text for v in old]
        main = [*body.roots[:states], *(body.roots[2 * states :] if self.with_stores else ())]
        before, *inside = body.place([*names, "b", ALONG, *states_of], main)
        levels = [body.level(v, lets) for v, lets in zip(rows, inside, strict=False)]
        innermost = tuple(s for part in inside[len(rows) + 1 :] for s in part)
        outer_lets = inside[len(rows)]
        levels.append(Level("b", str(count), outer_lets))
        cost = work(elements, product(work_.shape))
        parts, outer = divide(levels, cost, vector=False)
        end = f"vtc_minimum(b*{BLOCK} + {BLOCK}, {length})"
        own = head(elements, work_.shape, before, outer_lets, innermost, parts=parts)
        scratch = (Argument(REGISTER[v.dtype.name], f"z{k}") for k, v in enumerate(old))
        texts = [body.text(k) for k in range(len(body.roots))]
        return ScanSpec(
            head=replace(own, args=(*own.args, *scratch)),
            before=before,
            outer=outer,
            along=Level(ALONG, end, (), start=f"b*{BLOCK}"),
            lanes=None,
            first="0",
            width=TILE,
            states=tuple(
                Held(REGISTER[v.dtype.name], v.text, literal(nothing, v.dtype), texts[k])
                for k, (v, nothing) in enumerate(zip(old, work_.nothing, strict=True))
            ),
            lets=innermost,
            stores=tuple(texts[2 * states :]) if self.with_stores else (),
            earlier=self._earlier(body, names, states_of) if self.with_stores else None,
            totals=() if self.with_stores else tuple(texts[states:]),
        )

    def _cell(self, k: int, count: int, block: Size) -> Cell:
        """The total of ``block``."""
        sizes = (*self.work.shape[: self.work.op.axis], count)
        return self.work.elements.cell(f"z{k}", sizes, (*self.work.outer, block))

    def _earlier(self, body: Body, names: list[str], states: list[str]) -> Earlier:
        """The blocks before one."""
        count = len(states)
        roots = body.roots[count : 2 * count]
        _, *inside = body.place([*names, "b", "j", *states], roots)
        lets = tuple(s for part in inside[len(names) + 1 :] for s in part)
        updates = tuple(body.text(k) for k in range(count, 2 * count))
        return Earlier(Level("j", "b", lets), updates)
