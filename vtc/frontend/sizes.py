"""``SymInt``: a size that is not fixed while tracing. Arithmetic stays symbolic; a comparison is
decided by the range of the dims, or becomes a guard of the compiled entry (an error under
export)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Final

from vtc.errors import CaptureError, TypeCheckError
from vtc.frontend.source import located
from vtc.ir.attribute import attributes, fits
from vtc.ir.dims import Ranges, Size, Sym, bounds, substitute, symbols
from vtc.ir.op import Op
from vtc.ir.ops.view import claims
from vtc.ir.types import Type, tensors

COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
CORNERS: Final = 6
"""Dims up to which every combination of ends of their ranges is looked at."""


@dataclass(frozen=True, slots=True)
class SizeGuard:
    """``left fn 0`` was ``outcome`` when traced; the entry holds only while that stays so."""

    fn: str
    left: Size
    outcome: bool

    def holds(self, sizes: dict[str, Size]) -> bool:
        """Whether the comparison still comes out as traced."""
        return COMPARE[self.fn](substitute(self.left, sizes), 0) is self.outcome

    def __str__(self) -> str:
        return f"{self.left} {self.fn} 0 is {self.outcome}"


class Fixed(BaseException):  # not an error, and user code that catches errors lets it pass
    """A size is asked for as a number: trace again with its symbols fixed."""

    def __init__(self, size: Sym) -> None:
        super().__init__(f"int() of {size}")
        self.size = size
        self.names = frozenset(symbols(size))


@dataclass
class Sizes:
    """The symbols of one trace: their ranges, their values in this call, and the guards taken."""

    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    values: dict[str, Size] = field(default_factory=dict)
    guards: list[SizeGuard] = field(default_factory=list)
    may_guard: bool = True
    ended: bool = False

    def decide(self, fn: str, left: Size) -> bool:
        """``left fn 0``, by range, or else as it is now with a guard."""
        self._refuse_ended(left)
        known = _by_range(fn, left, self.ranges)
        if known is not None:
            return known
        if not self.may_guard:
            raise located(
                CaptureError, f"cannot decide {left} {fn} 0 for every size in range under export"
            )
        outcome = COMPARE[fn](substitute(left, self.values), 0)
        guard = SizeGuard(fn, left, outcome)
        if guard not in self.guards:
            self.guards.append(guard)
        return outcome

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Guards that what type rules take for granted inside stays so: ``x[2:5]`` of 5 or more.

        TypeCheckError where it is not so now, CaptureError under export where it is not so at an
        end of the dims' ranges.
        """
        if not self.ranges:
            yield
            return
        with claims() as found:
            yield
        if not self.may_guard:
            self._refuse_negative(found)
            return
        for size in dict.fromkeys(found):
            if self.decide("<", size):
                now = substitute(size, self.values)
                raise located(TypeCheckError, f"expected a part inside, got {size} = {now} < 0")

    def keep_positive(self, types: Iterable[Type]) -> None:
        """Guards that no size of values becomes 0 or less, as what is left of a small image might.

        TypeCheckError if one is below 0 now, CaptureError under export if one is at an end of the
        dims' ranges.
        """
        sizes = dict.fromkeys(n for t in types for part in tensors(t) for n in part.shape)
        if not self.may_guard:
            self._refuse_negative([n for n in sizes if isinstance(n, Sym)])
            return
        for size in sizes:
            now = substitute(size, self.values)
            if isinstance(size, int) or not isinstance(now, int):
                continue
            if now < 0:
                raise located(TypeCheckError, f"expected sizes of at least 0, got {size} = {now}")
            self.decide("<=", size)

    def settled(self, op: Op) -> Op:
        """``op`` whose attributes hold traced sizes where a size may stand, and else numbers.

        Fixed where a number is asked of a size that varies, CaptureError under export.
        """
        if not self.ranges:
            return op
        changed = {}
        for name, attribute in attributes(type(op)).items():
            value = getattr(op, name)
            found = self._settled(value, attribute.kind)
            if found is not value:
                changed[name] = found
        return replace(op, **changed) if changed else op

    def _settled(self, value: Any, kind: Any) -> Any:
        plain = _plain(value)
        if not _has_symbols(plain) or fits(plain, kind):
            return plain
        return self._numbers(plain)

    def _numbers(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._numbers, value))
        return self.fix(value) if isinstance(value, Sym) else value

    def _refuse_ended(self, size: Size) -> None:
        if self.ended:
            raise located(
                CaptureError,
                f"a traced size, {size}, was used after its trace ended: it has a value at each "
                "call only; return it from the function, or keep int() of it",
            )

    def _refuse_negative(self, sizes: Sequence[Sym]) -> None:
        ends = [(low, low if high is None else high) for low, high in self.ranges.values()]
        most = product(*ends) if len(ends) <= CORNERS else zip(*ends, strict=True)
        for corner in most:
            values = dict(zip(self.ranges, corner, strict=True))
            for size in sizes:
                n = substitute(size, values)
                if isinstance(n, int) and n < 0:
                    at = ", ".join(f"{name} = {values[name]}" for name in sorted(symbols(size)))
                    message = f"expected sizes of at least 0, got {size} = {n} where {at}"
                    raise located(CaptureError, message)

    def fix(self, left: Sym) -> int:
        """The value of ``left`` if it has one only; else Fixed, or CaptureError under export."""
        self._refuse_ended(left)
        low, high = bounds(left, self.ranges)
        if low is not None and low == high:
            return low
        if not self.may_guard:
            raise located(
                CaptureError, f"cannot take int() of {left}, which is not known under export"
            )
        raise Fixed(left)


def _plain(value: Any) -> Any:
    """``value`` with traced sizes, in tuples too, as those of the IR; itself if there are none."""
    if isinstance(value, tuple):
        parts = tuple(map(_plain, value))
        return value if all(map(operator.is_, parts, value)) else parts
    return value.size_expr if isinstance(value, SymInt) else value


def _has_symbols(value: Any) -> bool:
    return any(map(_has_symbols, value)) if isinstance(value, tuple) else isinstance(value, Sym)


def _by_range(fn: str, left: Size, ranges: Ranges) -> bool | None:
    lo, hi = bounds(left, ranges)
    match fn:
        case "<":
            return (
                True if hi is not None and hi < 0 else False if lo is not None and lo >= 0 else None
            )
        case "<=":
            return (
                True if hi is not None and hi <= 0 else False if lo is not None and lo > 0 else None
            )
        case _:
            if lo == hi == 0:
                return True
            outside = (lo is not None and lo > 0) or (hi is not None and hi < 0)
            return False if outside else None


class SymInt:
    """A size in user code; see the module."""

    __slots__ = ("scope", "size_expr")

    def __init__(self, expr: Sym, scope: Sizes) -> None:
        self.size_expr = expr
        self.scope = scope

    def _wrap(self, value: Size) -> int | SymInt:
        return value if isinstance(value, int) else SymInt(value, self.scope)

    def _with(self, other: Any, fn: Callable[[Any, Any], Any]) -> Any:
        if isinstance(other, SymInt):
            return self._wrap(fn(self.size_expr, other.size_expr))
        if isinstance(other, Sym):
            return self._wrap(fn(self.size_expr, other))
        if isinstance(other, int):
            return self._wrap(fn(self.size_expr, int(other)))
        if isinstance(other, (float, complex)):
            return fn(int(self), other)
        return NotImplemented

    def _fixed(self, other: Any, fn: Callable[[Any, Any], Any]) -> Any:
        """``fn`` where no symbolic form exists: the size is fixed."""
        return fn(int(self), int(other)) if isinstance(other, (int, SymInt)) else NotImplemented

    def _reflected(self, other: Any, fn: Callable[[Any, Any], Any]) -> Any:
        return self._fixed(other, lambda a, b: fn(b, a))

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    def __floordiv__(self, other: Any) -> Any:
        return self._with(divisor(other), operator.floordiv)

    def __mod__(self, other: Any) -> Any:
        return self._with(divisor(other), operator.mod)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b - a)

    def __rfloordiv__(self, other: Any) -> Any:
        by = divisor(self)
        return other // by if isinstance(by, int) else self._with(other, lambda a, b: b // a)

    def __rmod__(self, other: Any) -> Any:
        by = divisor(self)
        return other % by if isinstance(by, int) else self._with(other, lambda a, b: b % a)

    def __truediv__(self, other: Any) -> Any:
        return int(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / int(self)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(int(self), other, modulus)

    def __rpow__(self, other: Any) -> Any:
        return other ** int(self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self, other: Any) -> Any:
        return self._fixed(other, operator.lshift)

    def __rshift__(self, other: Any) -> Any:
        return self._fixed(other, operator.rshift)

    def __and__(self, other: Any) -> Any:
        return self._fixed(other, operator.and_)

    def __or__(self, other: Any) -> Any:
        return self._fixed(other, operator.or_)

    def __xor__(self, other: Any) -> Any:
        return self._fixed(other, operator.xor)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __rlshift__(self, other: Any) -> Any:
        return self._reflected(other, operator.lshift)

    def __rrshift__(self, other: Any) -> Any:
        return self._reflected(other, operator.rshift)

    def __invert__(self) -> Any:
        return -self - 1

    def __neg__(self) -> Any:
        return self._wrap(-self.size_expr)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if self >= 0 else -self

    def __round__(self, ndigits: Any = None) -> Any:
        return self if ndigits is None else round(int(self), ndigits)

    __trunc__ = __floor__ = __ceil__ = __pos__

    def __getattr__(self, name: str) -> Any:
        """What else an int has: ``bit_length()``, ``real``."""
        if name.startswith("_") or not hasattr(int, name):
            raise AttributeError(f"a traced size has no attribute {name!r}")
        return getattr(int(self), name)

    def _difference(self, other: Any) -> Size:
        difference: Size = self.size_expr - (
            other.size_expr if isinstance(other, SymInt) else other
        )
        return difference

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (float, complex)):
            return int(self) == other
        if not isinstance(other, (int, SymInt, Sym)):
            return NotImplemented
        return self.scope.decide("==", self._difference(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, (int, SymInt, Sym)):
            return bool(int(self) < other)
        return self.scope.decide("<", self._difference(other))

    def __le__(self, other: Any) -> bool:
        if not isinstance(other, (int, SymInt, Sym)):
            return bool(int(self) <= other)
        return self.scope.decide("<=", self._difference(other))

    def __gt__(self, other: Any) -> bool:
        return not self <= other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        return self != 0

    def __int__(self) -> int:
        return self.scope.fix(self.size_expr)

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __hash__(self) -> int:
        return hash(int(self))  # equal sizes are found in dicts, so this fixes the size

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)

    def __str__(self) -> str:
        return str(int(self))  # what the program makes of it may be a key

    def __repr__(self) -> str:
        return str(self.size_expr)


def divisor(size: Any) -> Any:
    """``size``, as a number if it might be 0 in another call: then dividing is Python's to refuse.

    CaptureError under export.
    """
    if not isinstance(size, SymInt):
        return size
    return size if _by_range("==", size.size_expr, size.scope.ranges) is False else int(size)
