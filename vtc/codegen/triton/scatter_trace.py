"""A scattering op in the scalars of Triton: where its elements go, and the loops over them.

In ``index_put(x, v, i, axes=(1,), accumulate=True)`` with ``v: f32[A, T, D]`` the loops are
``v0, v1, v2``; the element goes to ``[v0, j, v2]``. So ``v0`` and ``v2`` are *kept*: each walks
along an axis of the result. ``v1`` is *free*: elements that go to one place differ in it alone.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.trace import INSIDE, Cell, Let, Part, Value, needed, reads
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type
from vtc.codegen.triton.pointwise import decomposed
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size, Sym, product
from vtc.ir.graph import Node
from vtc.ir.ops.index import Scattering
from vtc.ir.scalar import Index
from vtc.ir.types import bool_

WIDEST, NARROWEST = 1024, 32
"""Elements of a row that a program has."""
ROW = 16
"""The length from which on rows that are written in order have a program each."""
UNKNOWN = 128
"""Elements that a program has of a row whose length is not known."""


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """The statements that give a program the loop variables of its ``rows``, a vector, and of its
    ``columns``, across them; when each is inside; and the grid.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    conditions: dict[str, str]
    grid: tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class ScatterSpec:
    """What ``scatter.py.jinja`` may mention."""

    template = "scatter"
    head: Head
    lines: tuple[str, ...]
    grid: tuple[Size, ...]


@final
@dataclass
class Scattered:
    """``at`` is where the element at ``index`` goes, if nothing is ``wrong``. ``columns`` are the
    last kept loops, ``rows`` those before.
    """

    region: Region
    root: Node
    op: Scattering
    elements: Elements = field(init=False)
    index: Index = field(init=False)
    at: Index = field(init=False)
    wrong: tuple[str, ...] = field(init=False)
    rows: list[str] = field(init=False)
    columns: list[str] = field(init=False)
    free: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.elements = Elements(self.region, TritonScalars)
        values = self.region.shape(self.root.inputs[self.op.values])
        self.index = self.elements.loops("v", values)
        self.at, self.wrong = self.target(self.index)
        loops = [str(i) for i in self.index if isinstance(i, Sym)]
        kept = set(map(str, self.at)).intersection(loops)
        self.free = [v for v in loops if v not in kept]
        cut = len(loops)
        while cut and loops[cut - 1] in kept:
            cut -= 1
        self.rows, self.columns = loops[:cut], loops[cut:]

    def extent(self, loop: str) -> Size:
        """How many iterations a loop has."""
        return self.elements.trace.facts.extents[loop]

    def loops(self, body: Body) -> tuple[list[Loop], list[Loop]]:
        """The loops of rows and those of columns."""
        found = {v.name: v for v in body.loops(self.index)}
        return [found[v] for v in self.rows], [found[v] for v in self.columns]

    def index_type(self) -> str:
        """The type of indices."""
        return index_type(self.elements, product(map(self.extent, (*self.rows, *self.columns))))

    def tile(self, rows: Sequence[Loop], columns: Sequence[Loop], block: int) -> Tile:
        """A tile of ``block`` elements; a vector where there are no rows or no columns."""
        printer = Block(self.elements.trace.facts, {}, {})
        height, width = (product(v.extent for v in some) for some in (rows, columns))
        across = wide_enough(width, block) if rows else block
        high = max(1, block // across) if columns else block
        lines: list[tuple[str, ...]] = []
        conditions: dict[str, str] = {}
        numbers = self.numbers(ceil_div(height, high) if rows and columns else None)
        for name, loops, count, size in (("r", rows, height, high), ("c", columns, width, across)):
            at = "[None, :]" if name == "c" and rows else ""
            index = f"{name} = ({numbers[name]}*{size} + tl.arange(0, {size})){at}"
            lines.append((index, *decomposed(printer, name, loops)))
            conditions |= {v.name: f"{name} < {printer.size(count)}" for v in loops}
        return Tile(
            lines[0], lines[1], conditions, (ceil_div(height, high) * ceil_div(width, across),)
        )

    def numbers(self, rows: Size | None) -> dict[str, str]:
        """Which of the ``rows`` of tiles, and which tile of those, is that of a program; None if
        there is but one row, or tiles have one column. Other axes of a grid are short (65,535).
        """
        number = f"tl.program_id(0).to({self.index_type()})"
        if rows is None:
            return {"r": number, "c": number}
        many = Block(self.elements.trace.facts, {}, {}).size(rows)
        return {"r": f"({number}%({many}))", "c": f"({number}//({many}))"}

    def target(self, index: Index) -> tuple[Index, tuple[str, ...]]:
        """Where the element at ``index`` goes, and what says that there is no such place."""
        lets = self.elements.trace.lets
        before = len(lets)
        inputs = [self.elements.operand(i) for i in self.root.inputs]
        at = self.op.target(self.elements.scalars, index, inputs)
        return at, tuple(n for n, let in list(lets.items())[before:] if let.raises)

    def value(self, index: Index) -> Value:
        """The element at ``index``."""
        return self.elements.at(self.root.inputs[self.op.values], index)

    @property
    def cell(self) -> Cell:
        """The place of the element at ``index``."""
        return self.elements.cell("y0", self.region.shape(self.root), self.at)

    @property
    def placed(self) -> tuple[Part, ...]:
        """That the element at ``index`` is there and has a place."""
        return (INSIDE, *right(self.wrong))

    @property
    def whole(self) -> bool:
        """Whether all of a row goes to one place in all axes but those of the columns."""
        places = tuple(i for i in self.at if str(i) not in self.columns)
        root = Let("", "", places)
        lets = needed(self.elements.trace.lets, [root])
        return {n for let in (*lets, root) for n in reads(let)}.isdisjoint(self.columns)

    @property
    def by_row(self) -> bool:
        """Whether rows are whole, and long enough to look for others like them."""
        width = product(map(self.extent, self.columns))
        return self.whole and not (isinstance(width, int) and width < ROW)

    @property
    def number(self) -> Size:
        """The number of the element at ``index`` among those that may go to its place."""
        number: Size = 0
        for v in self.free:
            number = number * self.extent(v) + Sym.var(v)
        return number

    @property
    def count(self) -> Size:
        """How many elements may go to one place."""
        return product(map(self.extent, self.free))

    def store(self, value: Value, *more: Part, atomic: bool = False) -> Let:
        """What puts ``value`` into the place of the element at ``index``, and under what more."""
        stored = self.elements.scalars.stored(value, self.root.tensor.dtype)
        name, end = ("tl.atomic_add(", ', sem="relaxed")') if atomic else ("tl.store(", ")")
        return Let("", "", (name, self.cell, ", ", *stored, ", ", *self.placed, *more, end))

    def spec(self, root: Let, block: int, warps: int, *, flat: bool = False) -> ScatterSpec:
        """The spec of a kernel of ``root`` for all elements; if ``flat``, for all rows."""
        body = Body(self.elements.trace, [root])
        found = self.loops(body)
        rows, columns = body.merge(found[0]), [] if flat else body.merge(found[1])
        tile = self.tile(rows, columns, block)
        printer = Block(body.facts, body.lets, tile.conditions)
        early, late = _by_loops(body, {v.name for v in rows})
        spread = [f"{n} = {n}[:, None]" for n in ("r", *(v.name for v in rows), *early)]
        lines = (
            *(tile.rows if rows else ()),
            *printer.lines(early),
            *(spread if rows and columns else ()),
            *(tile.columns if columns else ()),
            *printer.lines(late),
            printer.statement(body.roots[0]),
        )
        return ScatterSpec(head(self.elements, warps=warps), lines, tile.grid)


def _by_loops(body: Body, rows: Set[str]) -> tuple[list[str], list[str]]:
    """The scalars that depend on ``rows`` alone, and all others.

    The first are computed as vectors and then spread: of a tile of one column Triton would load
    each element as often as a thread has columns.
    """
    early: list[str] = []
    late: list[str] = []
    for let in needed(body.lets, body.roots):
        inner = reads(let) & (body.facts.extents.keys() | body.lets.keys())
        (early if inner and inner <= rows | {*early} else late).append(let.name)
    return early, late


def right(wrong: Sequence[str]) -> tuple[Part, ...]:
    """And none of ``wrong``."""
    return tuple(p for e in wrong for p in (" & ~", Value(bool_, e)))


def wide_enough(width: Size, most: int) -> int:
    """The power of two of whose multiples the least covers ``width`` elements; a large one."""
    if not isinstance(width, int):
        return UNKNOWN
    sizes, size = [], NARROWEST
    while size <= min(WIDEST, most):
        sizes.append(size)
        size *= 2
    return min(sizes, key=lambda s: (-(-width // s) * s, -s), default=most)
