"""The scalars a kernel computes, named and in order: what is known before there are loops.

A trace of ``tanh(x[i0, i1] + y[i1])`` over ``f32[B, 4]``::

    t0 = x0[4*i0 + i1]
    t1 = x1[i1]
    t2 = t0 + t1
    t3 = vtc_tanhf(t2)

Index expressions stay :data:`~vtc.ir.dims.Size` until a kernel is printed, so loops can still be
split, merged and reordered. Equal scalars are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.sizes import Facts, c_factor, c_text
from vtc.ir.dims import Size, Sym, symbols
from vtc.ir.types import DType


@final
@dataclass(frozen=True, slots=True)
class Value:
    """A scalar: a name or a literal. ``size`` is what it is as an index expression, where that is
    known.
    """

    dtype: DType
    text: str
    size: Size | None = None


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """An element of a buffer."""

    buffer: str
    offset: Size


@final
@dataclass(frozen=True, slots=True)
class Inside:
    """The condition that a block's element is one that there is; see :mod:`vtc.codegen.triton`."""


INSIDE = Inside()
Part = str | int | Sym | Value | Cell | Inside


@final
@dataclass(frozen=True, slots=True)
class Let:
    """``const ctype name = parts``. With ``raises``, the kernel reports an error if it is true."""

    name: str
    ctype: str
    parts: tuple[Part, ...]
    raises: bool = False

    def rewrite(self, change: Callable[[Size], Size]) -> Let:
        """With every index expression changed."""
        return replace(self, parts=tuple(_rewrite(p, change) for p in self.parts))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The index expressions inside."""
        found: list[Size] = []
        for part in self.parts:
            match part:
                case Cell(offset=size) | Value(text="", size=int() | Sym() as size):
                    found.append(size)
                case int() | Sym():
                    found.append(part)
        return tuple(found)

    @property
    def cells(self) -> tuple[Size, ...]:
        """Where it reads or writes."""
        return tuple(p.offset for p in self.parts if isinstance(p, Cell))


@final
@dataclass(frozen=True, slots=True)
class Statement:
    """A :class:`Let` in C, or (without a name) an assignment."""

    ctype: str
    name: str
    value: str
    raises: bool


@final
@dataclass
class Trace:
    """Collects scalars; ``needs`` and ``guards`` are those of :class:`~vtc.codegen.spec.Head`."""

    facts: Facts
    lets: dict[str, Let] = field(default_factory=dict)
    needs: set[str] = field(default_factory=set)
    guards: list[Size] = field(default_factory=list)
    _known: dict[tuple[str, tuple[Part, ...]], str] = field(default_factory=dict)

    def let(self, ctype: str, *parts: Part, prefix: str = "t", raises: bool = False) -> str:
        """The name of a scalar."""
        parts = tuple(self._settle(p) for p in parts)
        name = self._known.get((ctype, parts))
        if name is None:
            name = self._known[ctype, parts] = f"{prefix}{len(self.lets)}"
            self.lets[name] = Let(name, ctype, parts, raises)
        return name

    def value(self, dtype: DType, *parts: Part, ctype: str, size: Size | None = None) -> Value:
        """A new scalar."""
        return Value(dtype, self.let(ctype, *parts), size)

    def _settle(self, part: Part) -> Part:
        if isinstance(part, Cell):
            return Cell(part.buffer, self.facts.simplify(part.offset))
        return self.facts.simplify(part) if isinstance(part, Sym) else part


def reads(let: Let) -> frozenset[str]:
    """The names ``let`` mentions: scalars and loop variables."""
    found: set[str] = set()
    for part in let.parts:
        match part:
            case Value(text=text, size=size):
                found |= {text} if text else symbols(size if size is not None else 0)
            case Cell(offset=offset):
                found |= symbols(offset)
            case int() | Sym():
                found |= symbols(part)
    return frozenset(found)


def needed(lets: dict[str, Let], roots: Iterable[Let]) -> list[Let]:
    """The scalars ``roots`` are computed from, in order."""
    wanted: set[str] = set()
    stack = list(roots)
    while stack:
        for name in reads(stack.pop()):
            if name in lets and name not in wanted:
                wanted.add(name)
                stack.append(lets[name])
    return [let for name, let in lets.items() if name in wanted]


def statement(let: Let, facts: Facts) -> Statement:
    """``let`` in C."""
    return Statement(let.ctype, let.name, "".join(_print(p, facts) for p in let.parts), let.raises)


def _rewrite(part: Part, change: Callable[[Size], Size]) -> Part:
    match part:
        case Cell(buffer, offset):
            return Cell(buffer, change(offset))
        case Value(text="", size=size) if size is not None:
            return replace(part, size=change(size))
        case Sym():
            return change(part)
    return part


def _print(part: Part, facts: Facts) -> str:
    match part:
        case Inside():
            return "1"  # C computes one element at a time
        case Cell(buffer, offset):
            return f"{buffer}[{c_text(offset, facts)}]"
        case Value(text="", size=size) if size is not None:
            return f"(int64_t){c_factor(size, facts)}"
        case Value(text=text):
            return text
        case str():
            return part
    return c_factor(part, facts)
