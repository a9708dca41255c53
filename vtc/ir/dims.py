"""Sizes that may be symbolic, and the small algebra that index expressions use too.

A :data:`Size` is an ``int`` or a :class:`Sym`: a canonical sum of products of atoms with integer
coefficients. An atom is a name, or ``//``, ``%``, ``min``, ``max`` of two sizes. Equality is
structural::

    B, T = Sym.var("B"), Sym.var("T")
    str(2 * B * T + 4)            # '2*B*T + 4'
    (B * 4) // 4 == B             # True
    bounds(B + 1, {"B": (1, 64)}) # (2, 65)
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vtc.errors import ArgumentError, ParseError

Fn = Literal["floordiv", "mod", "min", "max"]
Ranges = Mapping[str, tuple[int, int | None]]


@dataclass(frozen=True, slots=True)
class Var:
    """A named symbol."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Apply:
    """``//``, ``%``, ``min`` or ``max`` of two sizes that could not be simplified."""

    fn: Fn
    a: Size
    b: Size

    def __str__(self) -> str:
        match self.fn:
            case "floordiv":
                return f"({_group(self.a)}//{_group(self.b)})"
            case "mod":
                return f"({_group(self.a)}%{_group(self.b)})"
            case fn:
                return f"{fn}({self.a}, {self.b})"


Atom = Var | Apply
Term = tuple[tuple[Atom, ...], int]


@dataclass(frozen=True, slots=True)
class Sym:
    """A canonical polynomial.

    Never constant (constants are ints). Made by arithmetic, not by hand.
    """

    terms: tuple[Term, ...]
    _hash: int = field(default=0, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.terms))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the hash: strings hash differently in another process."""
        return Sym, (self.terms,)

    @staticmethod
    def var(name: str) -> Sym:
        """The symbol ``name``."""
        return Sym((((Var(name),), 1),))

    def __add__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return _collect([*_terms(self), *_terms(other)])

    def __mul__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return _collect([(_join(m, n), c * d) for m, c in _terms(self) for n, d in _terms(other)])

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: Size) -> Size:
        return -self + other

    def __floordiv__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return floordiv(self, other)

    def __rfloordiv__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return floordiv(other, self)

    def __mod__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return mod(self, other)

    def __rmod__(self, other: Size) -> Size:
        if not isinstance(other, (int, Sym)):
            return NotImplemented
        return mod(other, self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = " + ".join(_show_term(m, c) for m, c in self.terms)
        return text.replace("+ -", "- ")

    __repr__ = __str__


Size = int | Sym


@dataclass(frozen=True, slots=True)
class Dim:
    """A declared symbolic size.

    Its name, its inclusive range, and a divisor it is known to have. Arithmetic gives sizes that
    follow from it: ``2 * batch``, ``length + 1``.
    """

    name: str
    min: int = 1
    max: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ArgumentError(f"Dim: a name must be an identifier, got {self.name!r}")
        if self.min < 0 or (self.max is not None and self.max < self.min) or self.multiple < 1:
            raise ArgumentError(
                f"Dim {self.name}: expected 0 <= min <= max and multiple >= 1, "
                f"got min={self.min}, max={self.max}, multiple={self.multiple}"
            )

    @property
    def sym(self) -> Sym:
        """The size this declares."""
        return Sym.var(self.name)

    def __add__(self, other: Dim | Size) -> Size:
        return self.sym + _plain(other)

    def __radd__(self, other: Size) -> Size:
        return self.sym + other

    def __sub__(self, other: Dim | Size) -> Size:
        return self.sym - _plain(other)

    def __rsub__(self, other: Size) -> Size:
        return other - self.sym

    def __mul__(self, other: Dim | Size) -> Size:
        return self.sym * _plain(other)

    def __rmul__(self, other: Size) -> Size:
        return self.sym * other

    def __floordiv__(self, other: Dim | Size) -> Size:
        return self.sym // _plain(other)

    def __str__(self) -> str:
        args = f"{self.min}, {self.max}" + (f", {self.multiple}" if self.multiple != 1 else "")
        return f"{self.name}: Dim({args})"


def _plain(size: Dim | Size) -> Size:
    return size.sym if isinstance(size, Dim) else size


def product(sizes: Iterable[Size]) -> Size:
    """The product; 1 for none."""
    total: Size = 1
    for s in sizes:
        total = total * s
    return total


def parted(size: Size) -> tuple[Size, Size]:
    """``(a, b)`` with ``size == a - b``: what is added in it, and what is taken away."""
    terms = _terms(size)
    return _collect(t for t in terms if t[1] > 0), -_collect(t for t in terms if t[1] < 0)


def floordiv(a: Size, b: Size) -> Size:
    """``a // b`` as Python rounds; exact multiples divide out."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    _check_divisor(a, b)
    if b == 1 or a == 0:
        return a
    if a == b:
        return 1
    if (whole := _split(a, b)) is not None:
        quotient, rest = whole
        return quotient if rest == 0 else quotient + _atom("floordiv", rest, b)
    return _atom("floordiv", a, b)


def mod(a: Size, b: Size) -> Size:
    """``a % b`` with the sign of ``b``, as in Python."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    _check_divisor(a, b)
    if b == 1 or a == b or a == 0:
        return 0
    if (whole := _split(a, b)) is not None:
        return 0 if whole[1] == 0 else _atom("mod", whole[1], b)
    return _atom("mod", a, b)


def _check_divisor(a: Size, b: Size) -> None:
    if b == 0:
        raise ZeroDivisionError(f"the size {a} divided by zero")


def minimum(a: Size, b: Size) -> Size:
    """The smaller."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return a if a == b else _atom("min", *sorted((a, b), key=_order))


def maximum(a: Size, b: Size) -> Size:
    """The larger."""
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return a if a == b else _atom("max", *sorted((a, b), key=_order))


def symbols(size: Size) -> frozenset[str]:
    """The names in ``size``."""
    if isinstance(size, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in size.terms:
        for atom in monomial:
            found |= {atom.name} if isinstance(atom, Var) else symbols(atom.a) | symbols(atom.b)
    return frozenset(found)


def substitute(size: Size, values: Mapping[str, Size]) -> Size:
    """``size`` with names replaced."""
    if isinstance(size, int):
        return size

    def leaf(name: str) -> Size:
        return values[name] if name in values else Sym.var(name)

    return fold(size, leaf)


def fold(size: Size, leaf: Callable[[str], Size]) -> Size:
    """Rebuild ``size`` with ``leaf(name)`` for every name."""
    if isinstance(size, int):
        return size
    total: Size = 0
    for monomial, coefficient in size.terms:
        term: Size = coefficient
        for atom in monomial:
            term = term * _fold_atom(atom, leaf)
        total = total + term
    return total


def _fold_atom(atom: Atom, leaf: Callable[[str], Size]) -> Size:
    if isinstance(atom, Var):
        return leaf(atom.name)
    return FUNCTIONS[atom.fn](fold(atom.a, leaf), fold(atom.b, leaf))


FUNCTIONS: dict[str, Callable[[Size, Size], Size]] = {
    "floordiv": floordiv,
    "mod": mod,
    "min": minimum,
    "max": maximum,
}


def replace_in(value: Any, values: Mapping[str, Size]) -> Any:
    """An op attribute with every size inside it (tuples included) substituted."""
    if isinstance(value, Sym):
        return substitute(value, values)
    if isinstance(value, tuple):
        return tuple(replace_in(v, values) for v in value)
    return value


def bounds(size: Size, ranges: Ranges) -> tuple[int | None, int | None]:
    """The least and the greatest value (None: unbounded) when each name lies in its range."""
    if isinstance(size, int):
        return size, size
    lo: int | None = 0
    hi: int | None = 0
    for monomial, coefficient in size.terms:
        term: Interval = (coefficient, coefficient)
        for atom in monomial:
            term = _times(term, _atom_bounds(atom, ranges))
        lo = None if lo is None or term[0] is None else lo + term[0]
        hi = None if hi is None or term[1] is None else hi + term[1]
    return lo, hi


Interval = tuple[int | None, int | None]


def _atom_bounds(atom: Atom, ranges: Ranges) -> Interval:
    if isinstance(atom, Var):
        return ranges.get(atom.name, (None, None))
    (alo, ahi), (blo, bhi) = bounds(atom.a, ranges), bounds(atom.b, ranges)
    match atom.fn:
        case "mod":
            if blo is None or blo <= 0:
                return None, None
            fits = alo is not None and alo >= 0 and ahi is not None and ahi < blo
            return (alo, ahi) if fits else (0, None if bhi is None else bhi - 1)
        case "floordiv":
            if blo is None or blo <= 0:
                return None, None
            return _div_bounds(alo, blo, bhi, lower=True), _div_bounds(ahi, blo, bhi, lower=False)
        case "min":
            lo = None if alo is None or blo is None else min(alo, blo)
            return lo, min((x for x in (ahi, bhi) if x is not None), default=None)
        case _:
            hi = None if ahi is None or bhi is None else max(ahi, bhi)
            return max((x for x in (alo, blo) if x is not None), default=None), hi


def _div_bounds(a: int | None, blo: int, bhi: int | None, *, lower: bool) -> int | None:
    if a is None:
        return None
    small = (a >= 0) == lower  # divide by the largest divisor
    if not small:
        return a // blo
    return a // bhi if bhi is not None else (0 if a >= 0 else -1)


def _times(x: Interval, y: Interval) -> Interval:
    known = [a * b for a in x for b in y if a is not None and b is not None]
    if len(known) == 4:
        return min(known), max(known)
    if x == (0, 0) or y == (0, 0):
        return 0, 0
    if x[0] is not None and x[0] >= 0 and y[0] is not None and y[0] >= 0:
        return x[0] * y[0], None
    if x[1] is not None and x[1] < 0 and y[0] is not None and y[0] >= 0:
        return None, x[1] * y[0]
    return None, None


def _terms(size: Size) -> tuple[Term, ...]:
    if isinstance(size, int):
        return (((), size),) if size else ()
    return size.terms


def _collect(terms: Iterable[Term]) -> Size:
    total: dict[tuple[Atom, ...], int] = {}
    for monomial, c in terms:
        total[monomial] = total.get(monomial, 0) + c
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Sym(tuple(sorted(kept, key=_term_order)))


def _term_order(term: Term) -> tuple[int, list[str]]:
    return -len(term[0]), [str(a) for a in term[0]]


def _order(size: Size) -> tuple[bool, str]:
    return isinstance(size, int), str(size)


def _join(m: tuple[Atom, ...], n: tuple[Atom, ...]) -> tuple[Atom, ...]:
    return tuple(sorted((*m, *n), key=str)) if m and n else m or n


def _atom(fn: Fn, a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return FUNCTIONS[fn](a, b)
    return Sym((((Apply(fn, a, b),), 1),))


def _split(a: Size, b: Size) -> tuple[Size, Size] | None:
    """``a == q * b + r`` with every term of ``a`` that ``b`` divides in ``q``.

    None if none does.
    """
    divisor = _terms(b)
    if len(divisor) != 1:
        return None
    ((by, k),) = divisor
    quotient: list[Term] = []
    rest: list[Term] = []
    for monomial, c in _terms(a):
        left = _without(monomial, by)
        if left is not None and c % k == 0:
            quotient.append((left, c // k))
        else:
            rest.append((monomial, c))
    if not quotient:
        return None
    remainder = _collect(rest)
    return _collect(quotient), remainder


def _without(monomial: tuple[Atom, ...], by: tuple[Atom, ...]) -> tuple[Atom, ...] | None:
    left = list(monomial)
    for atom in by:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def _group(size: Size) -> str:
    text = str(size)
    simple = isinstance(size, int) or (len(size.terms) == 1 and size.terms[0][1] == 1)
    return text if simple and "*" not in text else f"({text})"


def _show_term(monomial: tuple[Atom, ...], c: int) -> str:
    names = "*".join(map(str, monomial))
    if not names:
        return str(c)
    return names if c == 1 else f"-{names}" if c == -1 else f"{c}*{names}"


def parse_size(text: str) -> Size:
    """The size that prints as ``text``; ParseError if none does. ``parse_size(str(s)) == s``."""
    try:
        return size_of(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError) as error:
        raise ParseError(f"expected a size, got {text!r}: {error}") from None


_OPERATORS: dict[type[ast.operator], Callable[[Size, Size], Size]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: floordiv,
    ast.Mod: mod,
}


def size_of(node: ast.expr) -> Size:
    """The size a syntax tree spells; ParseError where it spells none."""
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return Sym.var(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -size_of(operand)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](size_of(left), size_of(right))
        case ast.Call(func=ast.Name(id="min" | "max" as fn), args=[a, b], keywords=[]):
            return FUNCTIONS[fn](size_of(a), size_of(b))
    raise ParseError(f"expected a size, got {ast.unparse(node)!r}")


def is_size(value: Any) -> bool:
    """Whether ``value`` may stand in a shape."""
    return isinstance(value, Sym) or (isinstance(value, int) and not isinstance(value, bool))
