"""What is known of index expressions: simplifying, comparing and printing them in C.

Views compose by substitution, so reading through a reshape gives ``(f//12)*12 + (f//4)%3*4 + f%4``;
knowing that ``0 <= f`` this is ``f``, and a loop over it is a plain loop over memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import final

from vtc.ir.dims import (
    FUNCTIONS,
    Apply,
    Atom,
    Size,
    Sym,
    Var,
    bounds,
    floordiv,
    mod,
    product,
    substitute,
    symbols,
)

Range = tuple[int, int | None]


@final
@dataclass(frozen=True, slots=True)
class Language:
    """How index expressions are spelled: ``//`` and ``%`` of what is not negative, functions that
    floor, and integers beyond 32 bits.
    """

    quotient: str
    function: str
    extreme: str
    big: str


C = Language("/", "vtc_{}({}, {})", "vtc_{}imum({}, {})", "INT64_C({})")
PYTHON = Language("//", "vtc_{}({}, {})", "tl.{}imum({}, {})", "{}")


@final
@dataclass
class Facts:
    """Ranges of names; ``extents`` says more of loop variables: ``0 <= v < extents[v]``."""

    ranges: dict[str, Range] = field(default_factory=dict)
    extents: dict[str, Size] = field(default_factory=dict)
    _simple: dict[Sym, Size] = field(default_factory=dict)

    def loop(self, name: str, extent: Size) -> Sym:
        """A new loop variable."""
        high = bounds(extent, self.ranges)[1]
        self.ranges[name] = (0, None if high is None else max(high - 1, 0))
        self.extents[name] = extent
        return Sym.var(name)

    def at_least(self, size: Size, least: int) -> bool:
        """Whether ``size >= least`` is certain."""
        low = bounds(self._least(size), self.ranges)[0]
        return low is not None and low >= least

    def less(self, a: Size, b: Size) -> bool:
        """Whether ``a < b`` is certain."""
        return self.at_least(b - a, 1)

    def inside(self, index: Size, size: Size) -> bool:
        """Whether ``0 <= index < size`` is certain."""
        return self.at_least(index, 0) and self.less(index, size)

    def decide(self, fn: str, x: Size, y: Size) -> bool | None:
        """Whether the comparison ``fn`` (``eq ne lt le gt ge``) holds; None if that varies."""
        x, y = self.simplify(x), self.simplify(y)
        below, above = self.less(x, y), self.less(y, x)
        at_most, at_least = self.at_least(y - x, 0), self.at_least(x - y, 0)
        equal = x == y
        true = {"lt": below, "le": at_most, "gt": above, "ge": at_least}
        true |= {"eq": equal, "ne": below or above}
        false = {"lt": at_least, "le": above, "gt": at_most, "ge": below}
        false |= {"eq": below or above, "ne": equal}
        return True if true[fn] else False if false[fn] else None

    def simplify(self, size: Size) -> Size:
        """An equal, simpler expression."""
        if isinstance(size, int):
            return size
        if size not in self._simple:
            total: Size = 0
            for monomial, coefficient in size.terms:
                total = total + product(self._atom(a) for a in monomial) * coefficient
            self._simple[size] = self._join(total)
        return self._simple[size]

    def _least(self, size: Size) -> Size:
        """A lower bound of ``size`` in which loop variables of symbolic extent are replaced."""
        for name in sorted(symbols(size)):
            extent = self.extents.get(name, 0)
            factor = linear(size, name) if isinstance(extent, Sym) else None
            if factor is None:
                continue
            low, high = bounds(factor, self.ranges)
            if low is not None and low >= 0:
                size = substitute(size, {name: 0})
            elif high is not None and high <= 0:
                size = substitute(size, {name: extent - 1})
        return size

    def _atom(self, atom: Atom) -> Size:
        if isinstance(atom, Var):
            return _sym(atom)
        a, b = self.simplify(atom.a), self.simplify(atom.b)
        match atom.fn:
            case "floordiv":
                return self._quotient(a, b)
            case "mod":
                return self._remainder(a, b)
            case "min" if self.at_least(b - a, 0) or self.at_least(a - b, 0):
                return a if self.at_least(b - a, 0) else b
            case "max" if self.at_least(b - a, 0) or self.at_least(a - b, 0):
                return b if self.at_least(b - a, 0) else a
        return FUNCTIONS[atom.fn](a, b)

    def _quotient(self, a: Size, b: Size) -> Size:
        if self.inside(a, b):
            return 0
        if (parts := self._common(a, b)) is not None:
            whole, divisor, _ = parts
            return self.simplify(floordiv(whole, divisor))
        match a:
            case Sym(terms=(((Apply(fn="floordiv", a=inner, b=int(c)),), 1),)) if (
                isinstance(b, int) and b > 0 and c > 0
            ):
                return self.simplify(floordiv(inner, c * b))
        return floordiv(a, b)

    def _remainder(self, a: Size, b: Size) -> Size:
        if self.inside(a, b):
            return a
        if (parts := self._common(a, b)) is not None:
            whole, divisor, rest = parts
            factor = floordiv(b, divisor)
            return self.simplify(mod(whole, divisor)) * factor + rest
        return mod(a, b)

    def _common(self, a: Size, b: Size) -> tuple[Size, int, Size] | None:
        """``(q, d, r)`` with ``a == q*g + r``, ``b == d*g`` and ``0 <= r < g``, for the largest
        such g > 1.
        """
        if not isinstance(b, int) or isinstance(a, int) or b < 1:
            return None
        for g in sorted({gcd(c, b) for _, c in a.terms} - {1}, reverse=True):
            rest: Size = 0
            for monomial, c in a.terms:
                if c % g:
                    rest = rest + product(map(_sym, monomial)) * c
            if self.inside(rest, g):
                return floordiv(a - rest, g), b // g, rest
        return None

    def _join(self, total: Size) -> Size:
        """``c*b*(a//b) + c*(a%b)`` is ``c*a``."""
        if isinstance(total, int):
            return total
        for monomial, c in total.terms:
            for k, atom in enumerate(monomial):
                if not isinstance(atom, Apply) or atom.fn != "mod":
                    continue
                others = product(map(_sym, (*monomial[:k], *monomial[k + 1 :])))
                whole = others * c * atom.b * self._quotient(atom.a, atom.b)
                part = others * c * mod(atom.a, atom.b)
                if isinstance(whole, Sym) and set(whole.terms) <= set(total.terms):
                    return self._join(total - whole - part + others * c * atom.a)
        return total


def linear(size: Size, name: str) -> Size | None:
    """The factor of ``name`` in ``size``; None where it is not linear in it."""
    total: Size = 0
    if isinstance(size, int):
        return total
    for monomial, c in size.terms:
        hits = [a for a in monomial if isinstance(a, Var) and a.name == name]
        rest = [a for a in monomial if a not in hits]
        if len(hits) > 1 or any(_mentions(a, name) for a in rest):
            return None
        if hits:
            total = total + product(map(_sym, rest)) * c
    return total


def divisors(size: Size, name: str) -> set[Size]:
    """Every ``b`` of a ``name // b`` or ``name % b`` inside ``size``."""
    found: set[Size] = set()
    if isinstance(size, int):
        return found
    for monomial, _ in size.terms:
        for atom in monomial:
            if isinstance(atom, Apply):
                if atom.fn in ("floordiv", "mod") and atom.a == Sym.var(name):
                    found.add(atom.b)
                found |= divisors(atom.a, name) | divisors(atom.b, name)
    return found


def c_text(size: Size, facts: Facts, language: Language = C) -> str:
    """``size`` as an expression of type int64_t or int, without outer parentheses; in C, or else in
    ``language``.
    """
    if isinstance(size, int):
        return str(size) if abs(size) < 2**31 else language.big.format(size)
    text = " + ".join(_term(monomial, c, facts, language) for monomial, c in size.terms)
    return text.replace("+ -", "- ")


def c_factor(size: Size, facts: Facts, language: Language = C) -> str:
    """``size`` as an expression that binds tightly; see :func:`c_text`."""
    text = c_text(size, facts, language)
    match size:
        case Sym(terms=(((_,), 1),)):
            return text  # one atom brings its parentheses
    return text if text.isalnum() else f"({text})"


def rename(size: Size, names: Mapping[str, str]) -> Size:
    """``size`` with symbols renamed."""
    return substitute(size, {old: Sym.var(new) for old, new in names.items()})


def _sym(atom: Atom) -> Size:
    return Sym((((atom,), 1),))


def _mentions(atom: Atom, name: str) -> bool:
    if isinstance(atom, Var):
        return atom.name == name
    return name in symbols(atom.a) | symbols(atom.b)


def _term(monomial: tuple[Atom, ...], c: int, facts: Facts, language: Language) -> str:
    factors = [_atom_text(a, facts, language) for a in monomial]
    sign = "-" if c < 0 else ""
    if abs(c) != 1 or not factors:
        factors.append(c_text(abs(c), facts, language))
    return sign + "*".join(factors)


def _atom_text(atom: Atom, facts: Facts, language: Language) -> str:
    if isinstance(atom, Var):
        return atom.name
    a, b = c_factor(atom.a, facts, language), c_factor(atom.b, facts, language)
    # Targets truncate where Python floors; they agree on what is not negative.
    plain = facts.at_least(atom.a, 0) and facts.at_least(atom.b, 1)
    match atom.fn:
        case "floordiv" if plain:
            return f"({a}{language.quotient}{b})"
        case "mod" if plain:
            return f"({a}%{b})"
        case "floordiv" | "mod":
            return language.function.format(atom.fn, a, b)
        case fn:
            return language.extreme.format(fn, a, b)
