"""Regions of pointwise ops: a kernel for each component, or one for many.

A region of optimizer updates has a component per parameter, and most do the same to every element,
whatever its place. One kernel computes all of these. It takes its pointers from a *table*, a row
for each component. A program finds by its number the components of its size, which of them is its
own, and which block of that one::

    if i < 1728: ...                    # the parameters of one size: the first row, how many
    else: ...                           # programs each has, its number of elements
    row = base + (i - first)//each*4
    x0 = tl.multiple_of(tl.load(table + row).to(tl.pointer_type(tl.float32)), 16)

Components of which an element depends on its place run by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from vtc.codegen.components import Component, component, components
from vtc.codegen.pointwise import trace_in_order
from vtc.codegen.region import Elements, Region
from vtc.codegen.sizes import PYTHON, Facts, c_text, rename
from vtc.codegen.trace import needed
from vtc.codegen.triton.head import NARROW, Block, Head, ceil_div
from vtc.codegen.triton.phases import Phase, ranges
from vtc.codegen.triton.pointwise import BLOCK, WARPS, pointwise
from vtc.codegen.triton.scalars import NAMES, TritonScalars
from vtc.ir.dims import Size, Sym, substitute
from vtc.ir.graph import Form, Node
from vtc.ir.types import bool_

ALIGNED = 16
"""What the size of a component is a multiple of, if its memory is walked in whole vectors."""


@final
@dataclass(frozen=True, slots=True)
class Turns:
    """The programs before number ``end`` are those of the components of one size: ``each`` have a
    component of ``count`` elements. ``first`` is their first, ``base`` where their rows begin.
    """

    end: Size
    first: Size
    each: Size
    count: Size
    base: int


@final
@dataclass(frozen=True, slots=True)
class Function:
    """What the programs of one form do. ``turns`` sets ``first``, ``each``, ``count`` and ``base``;
    ``width`` is the length of a row, ``pointers`` are names in it with the type they point to.
    """

    name: str
    end: str
    turns: tuple[str, ...]
    width: int
    pointers: tuple[tuple[str, str], ...]
    aligned: bool
    lines: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class HorizontalSpec:
    """What ``horizontal.py.jinja`` may mention; indices are of type ``wide``."""

    template = "horizontal"
    head: Head
    wide: str
    block: int
    functions: tuple[Function, ...]
    grid: tuple[Size, ...]


def horizontal(region: Region, *, block: int = BLOCK, warps: int = WARPS) -> tuple[Phase, ...]:
    """The launches of a region of several components whose ops are all pointwise."""
    found = [component(region.graph, g) for g in components(region.graph)]
    found = [c for c in found if c.count != 0]
    flat = [c for c in found if c.flat]
    together = [_Together(region, flat, block, warps).phase()] if flat else []
    return (*together, *(_apart(region, c) for c in found if not c.flat))


def _apart(region: Region, part: Component) -> Phase:
    """A launch of ``part`` alone."""
    own = Region.of(part.graph, ranges(region))
    return Phase(pointwise(own), _pointers(region, part), own.symbols)


def _pointers(region: Region, part: Component) -> tuple[int, ...]:
    """Which pointers of ``region`` are those of ``part``."""
    return (*part.params, *(len(region.graph.params) + k for k in part.outputs))


@final
@dataclass
class _Together:
    """Numbers the programs of flat components and the rows of their table. In its expressions the
    sizes of the region are ``m0, m1``: ``n0`` is the number of elements of a component.
    """

    region: Region
    parts: Sequence[Component]
    block: int
    warps: int
    programs: Size = 0
    rows: list[int] = field(default_factory=list)
    facts: Facts = field(init=False)
    wide: str = field(init=False)
    helpers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        counts = [c.count for c in self.parts]
        narrow = all(isinstance(n, int) and n < NARROW - self.block for n in counts)
        self.wide = "tl.int32" if narrow else "tl.int64"
        self.facts = Facts({f"m{n[1:]}": r for n, r in self.region.ranges.items()})

    def phase(self) -> Phase:
        """The launch of all."""
        forms: dict[tuple[Form, bool], list[Component]] = {}
        for part in self.parts:
            forms.setdefault((part.graph.form, _aligned(part.count)), []).append(part)
        functions = [
            self._function(f"vtc_part{k}", parts, aligned)
            for k, ((_, aligned), parts) in enumerate(forms.items())
        ]
        sizes = [f"m{k}" for k in range(len(self.region.symbols))]
        head = Head(
            args=("table", *sizes),
            signature=("*i64", *("i64" for _ in sizes)),
            helpers=tuple(sorted(self.helpers)),
            checks=False,
            warps=self.warps,
            stages=1,
            table=True,
        )
        grid = substitute(self.programs, {m: Sym.var(f"n{m[1:]}") for m in sizes})
        spec = HorizontalSpec(head, self.wide, self.block, tuple(functions), (grid,))
        return Phase(spec, tuple(self.rows))

    def _function(self, name: str, parts: Sequence[Component], aligned: bool) -> Function:
        """The function of components of one form."""
        graph = parts[0].graph
        own = Region.of(graph, {"n": (1, None)})
        elements = Elements(own, TritonScalars)
        shape = own.shape(graph.outputs[0])
        index = elements.loops("i", shape)
        trace_in_order(elements, shape, index)
        stores = [
            elements.store(k, index, elements.at(o, index)) for k, o in enumerate(graph.outputs)
        ]
        lets = elements.trace.lets
        printer = Block(elements.trace.facts, lets, {str(index[0]): f"{index[0]} < n0"})
        lines = (
            *printer.lines(let.name for let in needed(lets, stores)),
            *map(printer.statement, stores),
        )
        self.helpers |= elements.trace.needs
        turns = self._turns(parts)
        names = [f"x{k}" for k in range(len(graph.params))]
        names += [f"y{k}" for k in range(len(graph.outputs))]
        nodes = (*graph.params, *graph.outputs)
        pointers = tuple((n, _pointee(node)) for n, node in zip(names, nodes, strict=True))
        end = self._text(self.programs)
        return Function(name, end, tuple(self._tree(turns)), len(names), pointers, aligned, lines)

    def _turns(self, parts: Iterable[Component]) -> list[Turns]:
        """The programs of ``parts``, those of one size together."""
        sizes: dict[Size, list[Component]] = {}
        for part in parts:
            sizes.setdefault(part.count, []).append(part)
        found = []
        for size, same in sizes.items():
            count = rename(substitute(size, self.region.names), _own(self.region))
            first, base, each = self.programs, len(self.rows), ceil_div(count, self.block)
            self.programs = first + each * len(same)
            found.append(Turns(self.programs, first, each, count, base))
            for part in same:
                self.rows += _pointers(self.region, part)
        return found

    def _tree(self, turns: Sequence[Turns]) -> Iterable[str]:
        """A search for the turn of program ``i``."""
        if len(turns) == 1:
            (one,) = turns
            named = {"first": one.first, "each": one.each, "count": one.count, "base": one.base}
            yield from (f"{name} = {self._number(size)}" for name, size in named.items())
            return
        half = len(turns) // 2
        yield f"if i < {self._text(turns[half - 1].end)}:"
        yield from (f"    {line}" for line in self._tree(turns[:half]))
        yield "else:"
        yield from (f"    {line}" for line in self._tree(turns[half:]))

    def _number(self, size: Size) -> str:
        if isinstance(size, int):
            return f"tl.full((), {size}, {self.wide})"
        return f"tl.cast({self._text(size)}, {self.wide})"

    def _text(self, size: Size) -> str:
        return c_text(size, self.facts, PYTHON)


def _own(region: Region) -> dict[str, str]:
    return {f"n{k}": f"m{k}" for k in range(len(region.symbols))}


def _aligned(count: Size) -> bool:
    """Whether ``count`` is known to be a multiple of :data:`ALIGNED`."""
    if isinstance(count, int):
        return count % ALIGNED == 0
    return all(c % ALIGNED == 0 for _, c in count.terms)


def _pointee(node: Node) -> str:
    dtype = node.tensor.dtype
    return "tl.uint8" if dtype is bool_ else NAMES[dtype.name]
