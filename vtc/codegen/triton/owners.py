"""Scattering in row-major order: of elements that go to one place, one owns it.

To write, the last one owns it: the others keep still. To add, the first one does, and adds up the
others in order. Where rows are written a program has one row, and looks for others that go where it
goes among many numbers at a time; else each element looks at all that may go where it goes::

    taken = tl.full((1024,), 0, tl.int1)
    for g in range(0, 64):
        ...                                       # where element g of the others goes: j7
        taken |= (j3 == j7) & (f > own)
    tl.store(y0 + ..., t5, (r < 4096) & ~taken)

No memory but the result is needed, and what is computed does not depend on the order of programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.trace import INSIDE, Let, Value, needed, reads
from vtc.codegen.triton.head import Block, Head, ceil_div, head, power
from vtc.codegen.triton.pointwise import decomposed
from vtc.codegen.triton.scatter_trace import UNKNOWN, WIDEST, Scattered, right
from vtc.ir.dims import Size, Sym, product
from vtc.ir.scalar import Index

SEARCHED = 1024
"""Numbers among which the owner of a row looks at a time."""


@final
@dataclass(frozen=True, slots=True)
class OwnersSpec:
    """What ``owners.py.jinja`` may mention.

    ``axes`` and ``lines`` are the elements of a program and where they go; ``own`` are their
    numbers among the ``count`` that may go there, of type ``wide``. Another of those has the number
    ``f``: ``other`` says where it goes and ``match`` whether that is the same place. One that does
    (number ``m`` where a program has a row) is ``joined`` to the ``total``, which begins with what
    is ``held`` there; that takes ``more``. ``value`` and ``store`` are what is done at last.
    """

    template = "owners"
    head: Head
    grid: tuple[Size, ...]
    rows: bool
    accumulate: bool
    wide: str
    shape: int
    axes: tuple[str, ...]
    lines: tuple[str, ...]
    own: str
    count: str
    other: tuple[str, ...]
    match: str
    more: tuple[str, ...]
    joined: str
    held: str
    value: tuple[str, ...]
    store: str


def owners(work: Scattered, block: int, warps: int) -> OwnersSpec:
    """The spec of the kernel of ``work``, which has free loops."""
    return _Owners(work).spec(block, warps)


@final
@dataclass
class _Owners:
    """Loops ``w`` are those of another element that may go to the same place, loops ``u`` those of
    one that does.
    """

    work: Scattered
    others: dict[str, list[Loop]] = field(default_factory=dict)

    def spec(self, block: int, warps: int) -> OwnersSpec:
        """The spec of the kernel."""
        work, trace = self.work, self.work.elements.trace
        at, wrong = work.target(self._another("w"))
        trace.lets.update({e: replace(trace.lets[e], raises=False) for e in wrong})
        own, match = Let("", "", (work.number,)), self._match(at, wrong)
        rows = work.by_row
        held = Let("", "", ("tl.load(", work.cell, ", ", *work.placed, ")"))
        addend, store = self._sum(rows=rows) if work.op.accumulate else self._write(rows=rows)
        body = Body(trace, [own, match, held, addend, store])
        high, low = work.loops(body)
        if rows:
            axes, conditions, grid, shape = self._row(high, body.merge(low))
        else:
            tile = work.tile([*high, *low], [], block)
            axes, conditions, grid, shape = tile.rows, tile.conditions, tile.grid, block
        own, match, held, addend, store = body.roots
        turns = self._turns(body)
        first = [n.name for n in needed(body.lets, [own, match, held])]
        later = [n.name for n in needed(body.lets, [addend, store]) if n.name not in first]
        lines = [*(n for n in first if n not in turns)]
        if work.op.accumulate:
            lines += [n for n in later if n not in turns]
        printer = Block(body.facts, body.lets, {})
        size = printer.size(work.count)
        if rows:
            conditions |= {v.name: f"f < {size}" for v in self.others["w"]}
        printer = Block(body.facts, body.lets, conditions)
        third = "u" if "u" in self.others else "w"
        return OwnersSpec(
            head=head(work.elements, warps=warps),
            grid=grid,
            rows=rows,
            accumulate=work.op.accumulate,
            wide=work.index_type(),
            shape=shape,
            axes=axes,
            lines=printer.lines(n for n in body.lets if n in lines),
            own=printer.statement(own),
            count=size,
            other=(
                *decomposed(printer, "f", self.others["w"]),
                *printer.lines(n for n in first if n in turns),
            ),
            match=printer.statement(match),
            more=(
                *(decomposed(printer, "m", self.others["u"]) if third == "u" else ()),
                *printer.lines(n for n in later if n in turns),
            ),
            joined=_joined(work, printer.statement(addend)),
            held=printer.statement(held),
            value=printer.lines(n for n in later if n not in (*turns, *lines)),
            store=printer.statement(store),
        )

    def _sum(self, *, rows: bool) -> tuple[Let, Let]:
        """What another element adds, and what stores the total."""
        work = self.work
        index = self._another("u") if rows else self._at("w")
        total = Value(work.root.tensor.dtype, "total")
        return Let("", "", (work.value(index),)), work.store(total, "" if rows else _FREE)

    def _write(self, *, rows: bool) -> tuple[Let, Let]:
        """Nothing, and what stores an element."""
        work = self.work
        return Let("", "", ()), work.store(work.value(work.index), "" if rows else _FREE)

    def _another(self, prefix: str) -> Index:
        """The index of another element that is the same in the kept loops."""
        facts, free = self.work.elements.trace.facts, self.work.free
        new = [facts.loop(f"{prefix}{k}", facts.extents[v]) for k, v in enumerate(free)]
        self.others[prefix] = [
            Loop(str(n), facts.extents[v]) for n, v in zip(new, free, strict=True)
        ]
        return self._at(prefix)

    def _at(self, prefix: str) -> Index:
        """The index of the element that the loops ``prefix`` walk over."""
        names = dict(zip(self.work.free, self.others[prefix], strict=True))
        return tuple(Sym.var(names[str(i)].name) if str(i) in names else i for i in self.work.index)

    def _match(self, at: Index, wrong: Sequence[str]) -> Let:
        """Whether another element, which goes to ``at``, goes to the same place."""
        pairs = zip(self.work.at, at, strict=True)
        same = (p for a, b in pairs if a != b for p in (" & (", a, " == ", b, ")"))
        return Let("", "", (INSIDE, *same, *right(wrong)))

    def _row(
        self, rows: Sequence[Loop], columns: Sequence[Loop]
    ) -> tuple[tuple[str, ...], dict[str, str], tuple[Size, ...], int]:
        """A row of a program, or a part of it."""
        work = self.work
        printer = Block(work.elements.trace.facts, {}, {})
        width = product(v.extent for v in columns)
        size = min(power(width), WIDEST) if isinstance(width, int) else UNKNOWN
        height = product(v.extent for v in rows)
        numbers = work.numbers(height)
        axes = [f"r = {numbers['r']}", *decomposed(printer, "r", rows)]
        axes.append(f"c = {numbers['c']}*{size} + tl.arange(0, {size})")
        axes += decomposed(printer, "c", columns)
        inside = f"c < {printer.size(width)}"
        grid = (height * ceil_div(width, size),)
        return tuple(axes), {v.name: inside for v in columns}, grid, SEARCHED

    def _turns(self, body: Body) -> set[str]:
        """The scalars that depend on another element."""
        found = {v.name for some in self.others.values() for v in some}
        for name, let in body.lets.items():
            if not found.isdisjoint(reads(let)):
                found.add(name)
        return found


def _joined(work: Scattered, element: str) -> str:
    """The total and another element."""
    match work.op.joined:
        case "add":
            return f"total + {element}"
        case "mul":
            return f"total * {element}"
        case fn:
            number = work.root.tensor.dtype.kind == "float"
            nan = ", propagate_nan=tl.PropagateNan.ALL" if number else ""
            return f"tl.{fn}imum(total, {element}{nan})"


_FREE = " & ~taken"
"""That no other element owns a place."""
