"""Angles and hyperbolas: tan, the inverses of sin, cos and tan, the hyperbolic functions, hypot.

All inverse ones are the angle of a point, ``atan2``; all hyperbolic ones are made of ``expm1`` and
``log1p``, which lose nothing near 0::

    a: f32[B, 4] = atan2(y, x)
    h: f32[B, 4] = sinh(a)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from vtc.ir.op import Needs
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.formula import Formula, Term
from vtc.ir.types import Array

Gradients = Sequence[Expr | None]


@final
@dataclass(frozen=True)
class Tan(Formula):
    """Tangent of radians."""

    domain = (-1.2, 1.2)

    def reference(self, x: Array) -> Array:
        return np.tan(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * (out * out + 1.0),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        return x.unary("sin") / x.unary("cos")


@final
@dataclass(frozen=True)
class Asin(Formula):
    """The angle in ``[-pi/2, pi/2]`` whose sine is ``x``; NaN outside ``[-1, 1]``."""

    domain = (-0.9, 0.9)

    def reference(self, x: Array) -> Array:
        return np.arcsin(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g * (1.0 - x * x).rsqrt(),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        return x.binary("atan2", _other_leg(x))


@final
@dataclass(frozen=True)
class Acos(Formula):
    """The angle in ``[0, pi]`` whose cosine is ``x``; NaN outside ``[-1, 1]``."""

    domain = (-0.9, 0.9)

    def reference(self, x: Array) -> Array:
        return np.arccos(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (-(g * (1.0 - x * x).rsqrt()),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        return _other_leg(x).binary("atan2", x)


@final
@dataclass(frozen=True)
class Atan(Formula):
    """The angle in ``[-pi/2, pi/2]`` whose tangent is ``x``."""

    def reference(self, x: Array) -> Array:
        return np.arctan(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g / (x * x + 1.0),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        return x.binary("atan2", 1.0)


@final
@dataclass(frozen=True)
class Atan2(Formula):
    """The angle in ``[-pi, pi]`` of the point ``(x, y)``; takes ``(y, x)``."""

    arity = 2
    domain = (0.5, 2.0)

    def reference(self, y: Array, x: Array) -> Array:
        return np.arctan2(y, x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        y, x = inputs
        square = x * x + y * y
        scaled = g / square.eq(0).where(1, square)  # no direction, and 0, where both are 0
        return scaled * x if needs[0] else None, -(scaled * y) if needs[1] else None

    def formula(self, *xs: Term) -> Term:
        y, x = xs
        return y.binary("atan2", x)


@final
@dataclass(frozen=True)
class Hypot(Formula):
    """``sqrt(x * x + y * y)`` without overflow; infinite where one of them is."""

    arity = 2
    domain = (0.5, 2.0)

    def reference(self, x: Array, y: Array) -> Array:
        return np.hypot(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, y = inputs
        scaled = g / out
        return scaled * x if needs[0] else None, scaled * y if needs[1] else None

    def formula(self, *xs: Term) -> Term:
        a, b = (abs(x) for x in xs)
        long, short = a.binary("max", b), a.binary("min", b)
        ratio = long.compare("eq", 0.0).select(0.0, short / long)
        found = long * (ratio * ratio + 1.0).unary("sqrt")
        infinite = a.compare("eq", math.inf) | b.compare("eq", math.inf)
        return infinite.select(math.inf, found)


@final
@dataclass(frozen=True)
class Sinh(Formula):
    """Hyperbolic sine."""

    def reference(self, x: Array) -> Array:
        return np.sinh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * inputs[0].op("cosh"),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        a = abs(x)
        m = a.unary("expm1")
        return x.odd((a < _FAR).select((m + m / (m + 1.0)) * 0.5, _half_power(a)))


@final
@dataclass(frozen=True)
class Cosh(Formula):
    """Hyperbolic cosine."""

    def reference(self, x: Array) -> Array:
        return np.cosh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return (g * inputs[0].op("sinh"),)

    def formula(self, *xs: Term) -> Term:
        a = abs(xs[0])
        e = a.unary("exp")
        return (a < _FAR).select((e + 1.0 / e) * 0.5, _half_power(a))


@final
@dataclass(frozen=True)
class Asinh(Formula):
    """The number whose hyperbolic sine is ``x``."""

    def reference(self, x: Array) -> Array:
        return np.arcsinh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g * (x * x + 1.0).rsqrt(),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        a = abs(x)
        square = a * a
        near = (a + square / ((square + 1.0).unary("sqrt") + 1.0)).unary("log1p")
        return x.odd(_far(a).select(_log_twice(a), near))


@final
@dataclass(frozen=True)
class Acosh(Formula):
    """The number, at least 0, whose hyperbolic cosine is ``x``; NaN below 1."""

    domain = (1.25, 4.0)

    def reference(self, x: Array) -> Array:
        return np.arccosh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g * (x * x - 1.0).rsqrt(),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        t = x - 1.0
        near = (t + (t * (t + 2.0)).unary("sqrt")).unary("log1p")
        return (x < 1.0).select(math.nan, _far(x).select(_log_twice(x), near))


@final
@dataclass(frozen=True)
class Atanh(Formula):
    """The number whose hyperbolic tangent is ``x``; NaN outside ``[-1, 1]``."""

    domain = (-0.9, 0.9)

    def reference(self, x: Array) -> Array:
        return np.arctanh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return (g / (1.0 - x * x),)

    def formula(self, *xs: Term) -> Term:
        (x,) = xs
        a = abs(x)
        return x.odd((a * 2.0 / (1.0 - a)).unary("log1p") * 0.5)


_FAR = 20.0
"""From here on e**-x is nothing beside e**x, even in f64."""


def _other_leg(x: Term) -> Term:
    """``sqrt(1 - x * x)``, exact near 1."""
    return ((1.0 - x) * (x + 1.0)).unary("sqrt")


def _half_power(x: Term) -> Term:
    """``exp(x) / 2``, which overflows only where it should."""
    root = (x * 0.5).unary("exp")
    return root * 0.5 * root


def _far(x: Term) -> Term:
    """Whether 1 is nothing beside ``x * x``."""
    return x > (2.0**28 if x.double else 2.0**13)


def _log_twice(x: Term) -> Term:
    return x.unary("log") + math.log(2.0)
