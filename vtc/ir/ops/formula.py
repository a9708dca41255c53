"""Functions that are formulas of a few scalar primitives, and the scalars formulas read well on.

A ``Term`` is a scalar with the target it is spelled for; a number stands for a constant of its
dtype, which is f32 or f64::

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        return x.unary("sin") / x.unary("cos")
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from vtc.ir.op import Sample
from vtc.ir.ops import draw
from vtc.ir.ops.elementwise import FLOATS, Elementwise
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import f64


@dataclass(frozen=True)
class Formula(Elementwise, abstract=True):
    """A function of floats, which integers are promoted to; says ``reference`` and ``formula``."""

    promotion = "float"
    kinds = FLOATS
    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((1,), (3, 5))

    @abc.abstractmethod
    def formula(self, *xs: Term) -> Term:
        """The result on one element of each operand, all of one dtype: f32 or f64."""

    def lower(self, s: Scalars, *xs: Any) -> Scalar:
        return self.formula(*(Term(s, x) for x in xs)).x

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in cls.shapes:
            yield Sample(cls(), tuple(np.asarray(x, np.float32) for x in cls.draw(rng, shape)))
        yield Sample(cls(), draw.every_pair(draw.SPECIAL, cls.arity), smooth=False)


@final
@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """See the module."""

    s: Scalars
    x: Scalar

    @property
    def double(self) -> bool:
        """Whether this is an f64."""
        return self.x.dtype is f64

    def like(self, value: Term | float) -> Term:
        """A constant of this dtype; a term as it is."""
        return value if isinstance(value, Term) else Term(self.s, self.s.const(value, self.x.dtype))

    def unary(self, fn: str) -> Term:
        """A primitive of one operand."""
        return Term(self.s, self.s.unary(fn, self.x))

    def binary(self, fn: str, other: Term | float) -> Term:
        """A primitive of two operands."""
        return Term(self.s, self.s.binary(fn, self.x, self.like(other).x))

    def compare(self, fn: str, other: Term | float) -> Term:
        """A comparison, whose result is bool."""
        return Term(self.s, self.s.compare(fn, self.x, self.like(other).x))

    def select(self, x: Term | float, y: Term | float) -> Term:
        """``x`` where this (bool) holds, else ``y``; one of them at least is a term."""
        if not isinstance(x, Term):
            if not isinstance(y, Term):
                raise TypeError("select of two numbers has no dtype")
            x = y.like(x)
        return Term(self.s, self.s.select(self.x, x.x, x.like(y).x))

    def __add__(self, other: Term | float) -> Term:
        return self.binary("add", other)

    def __radd__(self, other: float) -> Term:
        return self.like(other) + self

    def __sub__(self, other: Term | float) -> Term:
        return self.binary("sub", other)

    def __rsub__(self, other: float) -> Term:
        return self.like(other) - self

    def __mul__(self, other: Term | float) -> Term:
        return self.binary("mul", other)

    def __rmul__(self, other: float) -> Term:
        return self.like(other) * self

    def __truediv__(self, other: Term | float) -> Term:
        return self.binary("div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self.like(other) / self

    def __neg__(self) -> Term:
        return self.unary("neg")

    def __abs__(self) -> Term:
        return self.unary("abs")

    def __lt__(self, other: Term | float) -> Term:
        return self.compare("lt", other)

    def __le__(self, other: Term | float) -> Term:
        return self.compare("le", other)

    def __gt__(self, other: Term | float) -> Term:
        return self.compare("gt", other)

    def __ge__(self, other: Term | float) -> Term:
        return self.compare("ge", other)

    def __and__(self, other: Term) -> Term:
        return self.binary("and_", other)

    def __or__(self, other: Term) -> Term:
        return self.binary("or_", other)

    def polynomial(self, coefficients: Iterable[float]) -> Term:
        """The polynomial whose coefficients are given from the highest on."""
        first, *others = coefficients
        found = self.like(first)
        for c in others:
            found = found * self + c
        return found

    def odd(self, of_magnitude: Term) -> Term:
        """``of_magnitude``, which is f(|x|) of an odd f, as f(x): 0 stays as it is."""
        signed = (self < 0.0).select(-of_magnitude, of_magnitude)
        return self.compare("eq", 0.0).select(self, signed)
