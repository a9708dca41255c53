"""Scattering ops: copy the first input, then write or add elements at computed places, one after
the other.

The order is row-major, so the last of several writes to one place stays. A part of the kernel owns
a share of one axis of the result: it copies that share, visits the elements that go there, and so
computes what the kernel does alone, bit for bit. Best is an axis that elements keep, like the width
of a row in the gradient of an embedding: each part visits its columns of every row. Where rows are
short, each part visits all of them, and leaves those that go elsewhere.

Narrow floats are added up in f32 and rounded once, in memory of the kernel's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.loops import SHORTEST, Body, Loop, raises, simd
from vtc.codegen.parts import BEGIN, END, work
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import REGISTER, WRAPPING
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.spec import Head, Level, Parts, head
from vtc.codegen.trace import Cell, Let, Part, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, minimum, product, symbols
from vtc.ir.graph import Node
from vtc.ir.ops.index import Scattering
from vtc.ir.scalar import Index

SHARED = 32
"""The size of an axis from which on it is shared."""

UNIT = 16
"""Elements of a row that stay together: a cache line of f32."""

WIDTH = "width"

_SIGN = {"add": "+", "mul": "*"}
_BEYOND = {"max": ">", "min": "<"}
"""How what is there compares with an element that does not take its place; NaN stays."""


@final
@dataclass(frozen=True, slots=True)
class Nest:
    """``lets``, then loops, and inside them all ``store``."""

    lets: tuple[Statement, ...] = ()
    levels: tuple[Level, ...] = ()
    store: str = ""


@final
@dataclass(frozen=True, slots=True)
class ScatterSpec:
    """What ``scatter.c.jinja`` may mention.

    ``unless`` is the input that needs no copy where it is the output; ``wide`` says that sums are
    kept in ``sums``, of ``count`` elements, until ``finish``: a part keeps its own.
    """

    template = "scatter"
    head: Head
    unless: str
    wide: bool
    count: str
    copy: Nest
    write: Nest
    finish: Nest


def scatter(region: Region, root: Node) -> ScatterSpec:
    """The spec of a region about ``root``, a scattering op, which is its output."""
    op, dtype = region.op(root), root.tensor.dtype
    if not isinstance(op, Scattering) or region.graph.outputs != (root,):
        got = f"got outputs {', '.join(o.name for o in region.graph.outputs)}"
        raise CodegenError(f"{op.name}: expected a region that gives {root.name} alone, {got}")
    wide = op.accumulate and dtype.accumulate is not dtype
    scattering = _Scattering(Elements(region), root, op, wide)
    elements, params = scattering.elements, region.graph.params
    nests = scattering.copy(), scattering.write(), scattering.finish() if wide else Nest()
    lets = [s for nest in nests for s in (nest.lets, *(v.lets for v in nest.levels))]
    x = root.inputs[0]
    return ScatterSpec(
        head(elements, scattering.values, *lets, parts=scattering.parts()),
        f"x{params.index(x)}" if x in params and not wide else "",
        wide,
        c_text(product(scattering.local), elements.trace.facts),
        *nests,
    )


@final
@dataclass
class _Scattering:
    """``at`` is where the element at ``index`` goes, ``kept`` the loops over the elements that walk
    along an axis of the result, ``axis`` what parts share.
    """

    elements: Elements
    root: Node
    op: Scattering
    wide: bool
    shape: tuple[Size, ...] = field(init=False)
    index: Index = field(init=False)
    at: Index = field(init=False)
    kept: dict[str, int] = field(init=False)
    axis: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.elements.region.shape(self.root)
        self.index = self.elements.loops("v", self.values)
        inputs = [self.elements.operand(i) for i in self.root.inputs]
        self.at = self.op.target(self.elements.scalars, self.index, inputs)
        loops = {str(i) for i in self.index if isinstance(i, Sym)}
        self.kept = {str(p): a for a, p in enumerate(self.at) if str(p) in loops}
        self.axis = None if 0 in self.shape else self._axis()
        self.elements.trace.facts.ranges |= {BEGIN: (0, None), END: (0, None), WIDTH: (0, None)}

    @property
    def values(self) -> tuple[Size, ...]:
        """The shape of the elements."""
        return self.elements.region.shape(self.root.inputs[self.op.values])

    @property
    def local(self) -> tuple[Size, ...]:
        """The shape of the sums of one part."""
        return tuple(Sym.var(WIDTH) if a == self.axis else n for a, n in enumerate(self.shape))

    def parts(self) -> Parts | None:
        """How the kernel is divided."""
        if self.axis is None:
            return None
        cost = work(self.elements, product(self.shape) + product(self.values))
        count = c_text(self.shape[self.axis], self.elements.trace.facts)
        return Parts(count, UNIT if self.axis == len(self.shape) - 1 else 1, cost)

    def copy(self) -> Nest:
        """The first input, element by element."""
        index = self.elements.loops("i", self.shape)
        if 0 in self.shape:
            return Nest()
        x = self.elements.at(self.root.inputs[0], index)
        stored = (x,) if self.wide else self.elements.scalars.stored(x, self.root.tensor.dtype)
        return self._each(index, Let("", "", (self._cell(index), " = ", *stored)))

    def write(self) -> Nest:
        """The elements that are written: in order, so no iteration of a loop runs beside another
        but where the loop walks along the result.
        """
        if 0 in self.values:
            return Nest()
        cell = self._cell(self.at)
        stored = self._stored(cell, self.elements.at(self.root.inputs[self.op.values], self.index))
        body = Body(self.elements.trace, [Let("", "", (*self._mine(), cell, " = ", *stored))])
        loops = body.loops(self.index)
        along = {a: name for name, a in self.kept.items()}
        own = None if self.axis is None else along.get(self.axis)
        free = len(loops)
        while free and loops[free - 1].name in self.kept:
            free -= 1
        done = [*_cut(body.merge, loops[:free], own), *_cut(body.merge, loops[free:], own)]
        done = [self._share(v) if v.name == own else v for v in done]
        before, *inside = body.place([v.name for v in done], body.roots)
        levels = [body.level(v, lets) for v, lets in zip(done, inside, strict=True)]
        if free < len(loops) and _in_order(body.roots[0], done[-1].name, inside[-1]):
            levels[-1] = replace(levels[-1], pragma=simd(raises(inside[-1])))
        return Nest(before, _begun(levels, own), body.text(0))

    def finish(self) -> Nest:
        """The sums, rounded."""
        index = self.elements.loops("o", self.shape)
        if 0 in self.shape:
            return Nest()
        y = self.elements.cell("y0", self.shape, index)
        self.elements.trace.needs.add("half")
        rounded = f"vtc_to_{self.root.tensor.dtype}("
        return self._each(index, Let("", "", (y, " = ", rounded, self._cell(index), ")")))

    def _axis(self) -> int | None:
        """The first axis that is kept and long; else one that is indexed and long, where rows are
        not so short that looking where each goes costs more than adding it.
        """
        kept = list(self.kept.values())
        last = len(self.shape) - 1
        row = self.shape[-1] if last in kept else 1
        wide = isinstance(row, int) and row >= SHORTEST
        others = [a for a in range(last) if a not in kept] if wide else []
        long = (a for a in (*kept, *others) if _least(self.shape[a]) >= SHARED)
        return next(long, None)

    def _each(self, index: Index, root: Let) -> Nest:
        """``root`` for all elements of a part's share of the result."""
        body = Body(self.elements.trace, [root])
        own = None if self.axis is None else str(index[self.axis])
        loops = _cut(body.arrange, body.loops(index), own)
        loops = [self._share(v) if v.name == own else v for v in loops]
        before, levels = body.nest(loops, body.roots)
        return Nest(before, _begun(levels, own), body.text(0))

    def _share(self, loop: Loop) -> Loop:
        """The iterations of ``loop``, along the shared axis, that are a part's."""
        whole = self.axis is not None and loop.extent == self.shape[self.axis]
        end = Sym.var(END)
        return Loop(loop.name, end if whole else minimum(end, loop.extent))

    def _cell(self, at: Index) -> Cell:
        """The element of the result, or of the sums, at ``at``."""
        if not self.wide:
            return self.elements.cell("y0", self.shape, at)
        inside = tuple(i - Sym.var(BEGIN) if a == self.axis else i for a, i in enumerate(at))
        return self.elements.cell("sums", self.local, inside)

    def _mine(self) -> tuple[Part, ...]:
        """The condition that an element goes to a part's share, where not all it visits do."""
        if self.axis is None or self.axis in self.kept.values():
            return ()
        place = self.at[self.axis]
        return (f"if ({BEGIN} <= ", place, " && ", place, f" < {END}) ")

    def _stored(self, cell: Cell, value: Value) -> tuple[Part, ...]:
        """What is in ``cell`` once ``value`` has been written or has met it."""
        dtype = self.root.tensor.dtype
        if not self.op.accumulate:
            return self.elements.scalars.stored(value, dtype)
        if self.op.joined in _BEYOND:
            beyond: tuple[Part, ...] = (cell, f" {_BEYOND[self.op.joined]} ", value)
            nan = (" || ", cell, " != ", cell) if dtype.kind == "float" else ()
            return (*beyond, *nan, " ? ", cell, " : ", value)
        sign = _SIGN[self.op.joined]
        if dtype.kind != "int":
            return cell, f" {sign} ", value
        unsigned = WRAPPING.get(dtype.name, "int")
        joined = (f"({unsigned})", cell, f" {sign} ({unsigned})", value)
        return (f"({REGISTER[dtype.name]})(", *joined, ")")


def _least(size: Size) -> int:
    """A size that is not known is taken for a long one."""
    return size if isinstance(size, int) else SHARED


def _in_order(root: Let, name: str, inside: tuple[Statement, ...]) -> bool:
    """Whether loop ``name`` writes one element after the other."""
    offset = root.cells[0]
    return linear(offset, name) == 1 and symbols(offset).isdisjoint(s.name for s in inside)


Join = Callable[[list[Loop]], list[Loop]]


def _cut(join: Join, loops: list[Loop], own: str | None) -> list[Loop]:
    """``join`` of what comes before and after loop ``own``, which stays as it is."""
    at = next((k for k, v in enumerate(loops) if v.name == own), None)
    if at is None:
        return join(loops)
    return [*join(loops[:at]), loops[at], *join(loops[at + 1 :])]


def _begun(levels: Iterable[Level], own: str | None) -> tuple[Level, ...]:
    """``levels`` of which those along the shared axis begin where the part does."""
    shared = (own, f"{own}t") if own else ()
    return tuple(
        replace(v, start=BEGIN) if v.var in shared and v.start == "0" else v for v in levels
    )
