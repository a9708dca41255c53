"""Special functions: relatives of exp and log that keep small numbers, of erf, and of gamma.

::

    y: f32[B, 4] = log1p(x)
    d: f32[B, 4] = polygamma(x, n=1)          # the derivative of digamma
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from vtc import lazy
from vtc.ir.op import Needs, Sample
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.formula import Formula, Term
from vtc.ir.types import Array

special = lazy.module("scipy.special")

Gradients = Sequence[Expr | None]
_HALF_ROOT_PI = math.sqrt(math.pi) / 2


@dataclass(frozen=True)
class Primitive(Formula, abstract=True):
    """A function that targets have."""

    primitive: ClassVar[str]

    def formula(self, *xs: Term) -> Term:
        return xs[0].unary(self.primitive)


@final
@dataclass(frozen=True)
class Exp2(Primitive):
    """``2 ** x``."""

    primitive = "exp2"

    def reference(self, x: Array) -> Array:
        return np.exp2(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * out * math.log(2.0),)


@final
@dataclass(frozen=True)
class Expm1(Primitive):
    """``exp(x) - 1``, exact near 0."""

    primitive = "expm1"

    def reference(self, x: Array) -> Array:
        return np.expm1(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * (out + 1.0),)


@final
@dataclass(frozen=True)
class Log1p(Primitive):
    """``log(1 + x)``, exact near 0."""

    domain = (-0.7, 3.0)
    primitive = "log1p"

    def reference(self, x: Array) -> Array:
        return np.log1p(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g / (inputs[0] + 1.0),)


@final
@dataclass(frozen=True)
class Erfc(Primitive):
    """``1 - erf(x)``, exact for large ``x``."""

    primitive = "erfc"

    def reference(self, x: Array) -> Array:
        return np.asarray(special.erfc(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g * ((-(x * x)).exp() / -_HALF_ROOT_PI),)


@final
@dataclass(frozen=True)
class Erfinv(Formula):
    """The number whose error function is ``x``; NaN outside ``[-1, 1]``.

    Giles, "Approximating the erfinv function", 2010: polynomials for f32. In f64 they are where
    Newton's method starts.
    """

    domain = (-0.9, 0.9)

    def reference(self, x: Array) -> Array:
        return np.asarray(special.erfinv(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * (out * out).exp() * _HALF_ROOT_PI,)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        a = abs(x)
        w = -((1.0 - a) * (a + 1.0)).unary("log")
        root = w.unary("sqrt") - 3.0
        y = a * (w < 5.0).select(
            (w - 2.5).polynomial(_GILES_NEAR),
            root.polynomial(_FAR_F64 if x.double else _GILES_FAR),
        )
        if x.double:
            y = _nearer(_nearer(y, a), a)
        return x.odd(a.compare("eq", 1.0).select(math.inf, y))


def _nearer(y: Term, a: Term) -> Term:
    """A step of Newton's from ``y`` towards where erf is ``a``; near 1 it looks at 1 - erf."""
    beyond = (a > 0.5).select((1.0 - a) - y.unary("erfc"), y.unary("erf") - a)
    return y - beyond * (y * y).unary("exp") * _HALF_ROOT_PI


_GILES_NEAR = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04),
    *(-1.25372503e-03, -4.17768164e-03, 0.246640727, 1.50140941),
)
_GILES_FAR = (
    *(-2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03),
    *(-7.6224613e-03, 9.43887047e-03, 1.00167406, 2.83297682),
)
_FAR_F64 = (
    *(1.847034406e-05, -2.266330524e-04, 1.155447093e-03, -3.236183095e-03, 5.753558888e-03),
    *(-7.803604462e-03, 9.449107804e-03, 1.001695143, 2.832976661),
)
"""As far as f64 has numbers below 1: an own fit, good to 1e-6."""


@final
@dataclass(frozen=True)
class Lgamma(Primitive):
    """The logarithm of the magnitude of the gamma function; infinite at 0, -1, -2, ..."""

    domain = (2.5, 6.0)
    primitive = "lgamma"

    def reference(self, x: Array) -> Array:
        return np.where(np.isneginf(x), -x, special.gammaln(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * inputs[0].op("digamma"),)


@final
@dataclass(frozen=True)
class Digamma(Formula):
    """The derivative of ``lgamma``; infinite at 0 and NaN at -1, -2, ..."""

    domain = (2.0, 6.0)

    def reference(self, x: Array) -> Array:
        return np.asarray(special.psi(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * inputs[0].op("polygamma", n=1),)

    def formula(self, *xs: Term) -> Term:
        """digamma(x) = digamma(x + n) - 1/x - ... - 1/(x + n - 1), and a series where x is large;
        below 0, digamma(x) = digamma(1 - x) - pi / tan(pi x).
        """
        (x,) = xs
        below, count = x < 0.0, _LARGE if x.double else _LARGE // 2
        z = below.select(1.0 - x, x)
        near = z < float(count)
        low = near.select(z, 1.0)
        above, under = low.like(0.0), low.like(1.0)  # the sum as one fraction
        for k in range(count):
            step = low + float(k)
            above, under = above * step + under, under * step
        large = near.select(z + float(count), z)
        i = 1.0 / large
        series = (i * i).polynomial(_bernoulli(0)) * i * i
        found = large.unary("log") - i * 0.5 - series - near.select(above / under, 0.0)
        whole = below & x.compare("eq", x.unary("floor"))
        mirrored = whole.select(math.nan, found - _cotangent(x) * math.pi)
        zero = x.compare("eq", 0.0)
        return zero.select(-1.0 / x, below.select(mirrored, found))


_LARGE = 10
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


def _bernoulli(n: int) -> list[float]:
    """What the Euler-Maclaurin series of the ``n``-th derivative of digamma has before powers of
    1/x**2, but for (-1)**(n + 1), the highest first.
    """
    terms = [b * math.factorial(2 * j + n - 1) / math.factorial(2 * j)
             for j, b in enumerate(_BERNOULLI, start=1)]  # fmt: skip
    return terms[::-1]


def _cotangent(x: Term) -> Term:
    """``1 / tan(pi * x)``, exact for large ``x`` and where it is 0."""
    part = x - x.unary("round")
    cosine = ((0.5 - abs(part)) * math.pi).unary("sin")
    return cosine / (part * math.pi).unary("sin")


@final
@dataclass(frozen=True)
class Polygamma(Formula):
    """The derivative of order ``n``, at least 1, of ``digamma``; infinite at 0, -1, -2, ... and
    where ``x`` is -inf, as SciPy has it.
    """

    n: int
    domain = (2.0, 6.0)

    def reference(self, x: Array) -> Array:
        return np.asarray(special.polygamma(self.n, x)).astype(x.dtype)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * inputs[0].op("polygamma", n=self.n + 1),)

    def formula(self, *xs: Term) -> Term:
        """As digamma's, all derived ``n`` times."""
        (x,) = xs
        n, below = self.n, x < 0.0
        z = below.select(1.0 - x, x)
        total = _power(1.0 / z, n + 1)
        for k in range(1, _LARGE):
            total = total + _power(1.0 / (z + float(k)), n + 1)
        i = 1.0 / (z + float(_LARGE))
        first = _power(i, n) * (math.factorial(n - 1) + i * (math.factorial(n) / 2))
        series = (i * i).polynomial(_bernoulli(n)) * _power(i, n + 2)
        found = (total * float(math.factorial(n)) + first + series) * (-1.0) ** (n + 1)
        turn = _cotangent(x).polynomial(_derived_cotangent(n)) * -math.pi
        mirrored = below.select(turn + found * (-1.0) ** n, found)
        pole = x.compare("le", 0.0) & x.compare("eq", x.unary("floor"))
        return pole.select(math.inf * (-1.0) ** (n + 1), mirrored)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for n in (1, 2):
            yield Sample(cls(n=n), (np.asarray(rng.uniform(*cls.domain, (3, 5)), np.float32),))
        poles = [0.0, -0.0, -1.0, -2.0, -np.inf]
        mirrored = np.array([0.5, -0.25, -1.5, -3.7, np.inf, np.nan, *poles], np.float32)
        for n in (1, 2):
            yield Sample(cls(n=n), (mirrored,), smooth=False)


def _power(x: Term, n: int) -> Term:
    found = x
    for _ in range(n - 1):
        found = found * x
    return found


def _derived_cotangent(n: int) -> list[float]:
    """The derivative of order ``n`` of cot(pi x), as a polynomial in cot(pi x)."""
    found = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        found = found.deriv() * np.polynomial.Polynomial([-math.pi, 0.0, -math.pi])
    return [float(c) for c in found.coef[::-1]]


@final
@dataclass(frozen=True)
class Logaddexp(Formula):
    """``log(exp(x) + exp(y))`` without overflow."""

    arity = 2

    def reference(self, x: Array, y: Array) -> Array:
        return np.logaddexp(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, y = inputs
        gx = g / ((y - x).exp() + 1.0) if needs[0] else None
        return gx, g / ((x - y).exp() + 1.0) if needs[1] else None

    def formula(self, *xs: Term) -> Term:
        x, y = xs
        apart = (-abs(x - y)).unary("exp").unary("log1p")
        equal = x.compare("eq", y)  # infinities among them
        return equal.select(x + math.log(2.0), x.binary("max", y) + apart)


@final
@dataclass(frozen=True)
class Xlogy(Formula):
    """``x * log(y)``; 0 where ``x`` is, unless ``y`` is NaN."""

    arity = 2
    domain = (0.5, 2.0)

    def reference(self, x: Array, y: Array) -> Array:
        return np.asarray(special.xlogy(x, y))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, y = inputs
        nothing = x.eq(0) & (y <= 0)
        gx = nothing.where(0.0, g) * nothing.where(1.0, y).log() if needs[0] else None
        return gx, g * x / y if needs[1] else None

    def formula(self, *xs: Term) -> Term:
        x, y = xs
        nothing = x.compare("eq", 0.0) & y.compare("eq", y)
        return nothing.select(0.0, x * y.unary("log"))
