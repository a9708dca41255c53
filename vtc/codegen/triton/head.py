"""What every Triton kernel has: arguments, helpers, and the scalars of a trace as blocks.

A kernel computes a block of elements at a time. Loop variables are blocks of indices, broadcast
against each other; a scalar that depends on some of them is a block of their joint shape, and
what it loads and stores is masked by the conditions under which these variables are inside::

    e = tl.program_id(0).to(tl.int64) * 1024 + tl.arange(0, 1024)
    i0, i1 = e // 784, e % 784                        # under ``e < total``
    t0 = tl.load(x0 + e, e < total)
    t1 = tl.load(x1 + i1, e < total)

:class:`Block` knows the conditions; ``Block.lines`` are the scalars as statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from vtc.codegen.region import Elements
from vtc.codegen.sizes import PYTHON, Facts, c_factor, c_text
from vtc.codegen.trace import Cell, Inside, Let, Part, Value, reads
from vtc.codegen.triton.scalars import POINTERS, TritonScalars
from vtc.ir.dims import Size, Sym, bounds, floordiv, product, substitute, symbols
from vtc.ir.graph import Node
from vtc.ir.plan import Build

NARROW = 2**31
"""Elements of a buffer from which on indices take 64 bits."""
BEYOND = 2**16
"""Elements that the last block may have beyond a buffer: their indices must not turn negative."""


@final
@dataclass(frozen=True, slots=True)
class Head:
    """The signature of a kernel: its arguments and the helpers it needs.

    ``checks``: its last argument is ``err``, a pointer to the cell of an index out of its range.
    ``table``: its first is ``table``, a pointer to the pointers.
    """

    args: tuple[str, ...]
    signature: tuple[str, ...]
    helpers: tuple[str, ...]
    checks: bool
    warps: int
    stages: int
    table: bool = False

    @property
    def build(self) -> Build:
        """How it is compiled."""
        return Build(self.signature, self.warps, self.stages, self.checks, self.table)


def head(elements: Elements, *, warps: int = 4, stages: int = 3) -> Head:
    """The head of the kernel of a region whose scalars have all been traced."""
    region, trace = elements.region, elements.trace
    params, outputs = region.graph.params, region.graph.outputs
    checks = any(let.raises for let in trace.lets.values())
    sizes = [f"n{k}" for k in range(len(region.symbols))]
    names = [f"x{k}" for k in range(len(params))] + [f"y{k}" for k in range(len(outputs))]
    types = [*map(_pointer, (*params, *outputs)), *("i64" for _ in sizes)]
    return Head(
        args=(*names, *sizes, *(["err"] if checks else [])),
        signature=(*types, *(["*i32"] if checks else [])),
        helpers=tuple(sorted(trace.needs)),
        checks=checks,
        warps=warps,
        stages=stages,
    )


def triton(region_elements: Elements) -> TritonScalars:
    """The scalars of ``region_elements``, which are Triton's."""
    scalars = region_elements.scalars
    if not isinstance(scalars, TritonScalars):
        raise TypeError(f"expected Triton's scalars, got {type(scalars).__name__}")
    return scalars


def index_type(elements: Elements, *counts: Size) -> str:
    """The type of indices into all buffers of a region, and of ``counts``."""
    region = elements.region
    shapes = (region.shape(n) for n in (*region.graph.params, *region.graph.outputs))
    most = [bounds(n, region.ranges)[1] for n in (*counts, *map(product, shapes))]
    narrow = all(n is not None and n < NARROW - BEYOND for n in most)
    return "tl.int32" if narrow else "tl.int64"


@final
@dataclass
class Block:
    """Prints scalars for a block of elements. ``conditions`` says of loop variables when they are
    inside; one without a condition always is.
    """

    facts: Facts
    lets: Mapping[str, Let]
    conditions: Mapping[str, str]
    _known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _along: dict[str, frozenset[str]] = field(default_factory=dict)

    def lines(self, names: Iterable[str]) -> tuple[str, ...]:
        """The scalars called ``names``, in that order, as statements."""
        return tuple(line for name in names for line in self._scalar(self.lets[name]))

    def statement(self, root: Let) -> str:
        """A root (a store) as a statement; an element as an expression."""
        return self.text(root.parts, self.condition(root))

    def store(self, root: Let) -> str:
        """A store whose place may depend on fewer loops than what is stored."""
        return self.text(self._spread(root), self.condition(root))

    def size(self, size: Size) -> str:
        """An index expression."""
        return c_text(size, self.facts, PYTHON)

    def condition(self, *roots: Let) -> str:
        """When all of what ``roots`` depend on is inside; "" if always."""
        found = dict.fromkeys(c for root in roots for n in sorted(reads(root)) for c in self._of(n))
        return " & ".join(f"({c})" for c in found)

    def text(self, parts: Sequence[Part], condition: str = "") -> str:
        """Parts of a scalar, which is inside under ``condition``."""
        return "".join(self._part(p, condition) for p in parts)

    def _scalar(self, let: Let) -> tuple[str, ...]:
        line = f"{let.name} = {self.text(self._spread(let), self.condition(let))}"
        if not let.raises:
            return (line,)
        return line, f"tl.store(err + tl.cast({let.name}, tl.int32)*0, 1, {let.name})"

    def _spread(self, let: Let) -> tuple[Part, ...]:
        """The parts of ``let``; addresses are blocks as large as the masks beside them."""
        if not any(isinstance(part, Cell) for part in let.parts):
            return let.parts
        values = [p for p in let.parts if isinstance(p, Value) and p.text in self.lets]
        found: list[Part] = []
        for part in let.parts:
            found.append(part)
            if isinstance(part, Cell):
                own = self._loops(*symbols(part.offset))
                more = [v for v in values if not self._loops(v.text) <= own]
                found += [f" + tl.cast({v.text}, tl.int32)*0" for v in more]
        return tuple(found)

    def _loops(self, *names: str) -> frozenset[str]:
        """The loop variables that ``names`` depend on."""
        return frozenset().union(*map(self._varies, names))

    def _varies(self, name: str) -> frozenset[str]:
        if name not in self._along:
            inner = reads(self.lets[name]) if name in self.lets else ()
            own = frozenset({name} & self.facts.extents.keys())
            self._along[name] = self._loops(*inner) if inner else own
        return self._along[name]

    def _of(self, name: str) -> tuple[str, ...]:
        """The conditions of a scalar or loop variable."""
        if name in self.conditions:
            return (self.conditions[name],)
        if name not in self._known:
            self._known[name] = ()
            inner = reads(self.lets[name]) if name in self.lets else ()
            self._known[name] = tuple(dict.fromkeys(c for n in sorted(inner) for c in self._of(n)))
        return self._known[name]

    def _number(self, size: Size) -> str:
        """An index expression as a number; indices may be too narrow for it."""
        least, most = bounds(size, self.facts.ranges)
        if least is not None and most is not None and -NARROW <= least <= most < NARROW:
            return self.size(size)
        wide = {name: Sym.var(f"{name}.to(tl.int64)") for name in symbols(size)}
        return c_text(substitute(size, wide), self.facts, PYTHON)

    def _part(self, part: Part, condition: str) -> str:
        match part:
            case Inside():
                return condition or "True"
            case Cell(buffer, offset):
                return f"{buffer} + ({self.size(offset)})"
            case Value(text="", size=size) if size is not None:
                return f"tl.cast({self._number(size)}, tl.int64)"
            case Value(text=text):
                return text
            case str():
                return part
        return c_factor(part, self.facts, PYTHON)


def ceil_div(a: Size, b: int) -> Size:
    """How many blocks of ``b`` cover ``a`` elements."""
    return floordiv(a + (b - 1), b)


def power(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


def _pointer(node: Node) -> str:
    return POINTERS[node.tensor.dtype.name]
