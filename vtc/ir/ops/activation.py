"""Activations, softmax, and dropout.

::

    h: bf16[B, 64] = gelu(x, approximate="tanh")
    p: bf16[B, 64] = softmax(h, axis=1)
    y: bf16[B, 64] = dropout(p, state, p=0.1, offset=0)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Sample, shifted
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, Gradients, Results, floating, narrow, wide
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.random import Bits, check_state
from vtc.ir.types import Array, TensorType

_CUBIC, _SCALE = 0.044715, math.sqrt(2.0 / math.pi)


def sigmoid(x: Expr) -> Expr:
    """``1 / (1 + exp(-x))``; where ``exp`` overflows the result is 0, as it should."""
    return 1.0 / ((-x).exp() + 1.0)


@dataclass(frozen=True)
class Activation(Composite, abstract=True):
    """A function of one floating-point number, with its derivative."""

    def accept(self, x: TensorType) -> None:
        floating(self, x)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    @abc.abstractmethod
    def slope(self, x: Expr, out: Expr) -> Expr:
        """The derivative at ``x``, where the value is ``out``, in the dtype of ``x``."""

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        (x,) = inputs
        return narrow(inputs, wide(g) * self.slope(x, out))

    @classmethod
    def points(cls, rng: np.random.Generator) -> Iterator[Array]:
        """Arrays of several shapes, away from zero."""
        for shape in draw.SHAPES:
            yield draw.away_from_zero(rng, shape)


@final
@dataclass(frozen=True)
class Relu(Composite):
    """``max(x, 0)``, with gradient 0 at 0; a NaN stays."""

    def accept(self, x: TensorType) -> None:
        self.check(x.dtype.kind in ("int", "float"), f"expected real numbers, got {x}")

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def decompose(self, *inputs: Expr) -> Expr:
        return inputs[0].maximum(0)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return ((out <= 0).where(0, g),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for x in Activation.points(rng):
            yield Sample(cls(), (x,))
        yield Sample(cls(), (np.array([-2, 0, 3]),), smooth=False)


@final
@dataclass(frozen=True)
class Sigmoid(Activation):
    """``1 / (1 + exp(-x))``."""

    def decompose(self, *inputs: Expr) -> Expr:
        return sigmoid(inputs[0])

    def slope(self, x: Expr, out: Expr) -> Expr:
        y = wide(out)
        return y * (1.0 - y)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for x in cls.points(rng):
            yield Sample(cls(), (x,))


@final
@dataclass(frozen=True)
class Silu(Activation):
    """``x * sigmoid(x)``."""

    def decompose(self, *inputs: Expr) -> Expr:
        (x,) = inputs
        return x * x.apply(Sigmoid())

    def slope(self, x: Expr, out: Expr) -> Expr:
        x = wide(x)
        y = x.apply(Sigmoid())
        return y * (x * (1.0 - y) + 1.0)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for x in cls.points(rng):
            yield Sample(cls(), (x,))


@final
@dataclass(frozen=True)
class Gelu(Activation):
    """``x`` times the normal distribution's cumulative function, or its tanh approximation."""

    approximate: str = "none"

    def accept(self, x: TensorType) -> None:
        floating(self, x)
        known = self.approximate in ("none", "tanh")
        self.check(known, f"expected approximate='none' or 'tanh', got {self.approximate!r}")

    def decompose(self, *inputs: Expr) -> Expr:
        (x,) = inputs
        return x * self._share(x)

    def slope(self, x: Expr, out: Expr) -> Expr:
        x = wide(x)
        if self.approximate == "none":
            density = (x * x * -0.5).exp() * (1.0 / math.sqrt(2.0 * math.pi))
            return self._share(x) + x * density
        share = self._share(x)
        inner = x * x * (6.0 * _CUBIC * _SCALE) + 2.0 * _SCALE
        return share + x * share * (1.0 - share) * inner

    def _share(self, x: Expr) -> Expr:
        """The factor of ``x``: in ``[0, 1]``."""
        if self.approximate == "none":
            return ((x * math.sqrt(0.5)).op("erf") + 1.0) * 0.5
        # (1 + tanh(z)) / 2, which is cheaper so, and exact where tanh(z) is about -1.
        return (x * (x * x * (2.0 * _CUBIC * _SCALE) + 2.0 * _SCALE)).apply(Sigmoid())

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for approximate in ("none", "tanh"):
            for x in cls.points(rng):
                yield Sample(cls(approximate=approximate), (x,))


@dataclass(frozen=True)
class Distribution(Composite, abstract=True):
    """A function of the numbers along ``axis`` together."""

    axis: int

    def accept(self, x: TensorType) -> None:
        floating(self, x)
        self.check(0 <= self.axis < x.rank, f"expected an axis of {x}, got {self.axis}")

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def shifted(self, x: Expr) -> Expr:
        """``x`` less its maximum, so that ``exp`` cannot overflow."""
        return x - x.max((self.axis,)).expand_like(x, (self.axis,))

    def total(self, x: Expr) -> Expr:
        """The sum along the axis, in the shape of ``x``."""
        return x.sum((self.axis,)).expand_like(x, (self.axis,))

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[tuple[int, Array]]:
        """An axis and numbers to try."""
        for axis, shape in ((0, (1,)), (1, (3, 5)), (0, (3, 5)), (1, (2, 3, 4)), (1, (0, 4))):
            yield axis, draw.normal(rng, *shape)


@final
@dataclass(frozen=True)
class Softmax(Distribution):
    """``exp(x)`` divided by its sum along ``axis``."""

    def decompose(self, *inputs: Expr) -> Expr:
        (x,) = inputs
        if x.shape[self.axis] == 0:
            return x
        e = self.shifted(x).exp()
        return e / self.total(e)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        g, out = wide(g), wide(out)
        weighted = g * out
        return narrow(inputs, weighted - out * self.total(weighted))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for axis, x in cls.cases(rng):
            yield Sample(cls(axis=axis), (x,))


@final
@dataclass(frozen=True)
class LogSoftmax(Distribution):
    """The logarithm of softmax along ``axis``."""

    def decompose(self, *inputs: Expr) -> Expr:
        (x,) = inputs
        if x.shape[self.axis] == 0:
            return x
        y = self.shifted(x)
        return y - y.exp().sum((self.axis,)).log().expand_like(x, (self.axis,))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        g, out = wide(g), wide(out)
        return narrow(inputs, g - out.exp() * self.total(g))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for axis, x in cls.cases(rng):
            yield Sample(cls(axis=axis), (x,))


@final
@dataclass(frozen=True)
class Dropout(Composite):
    """Zero each element of ``(x, state)`` with probability ``p``; divide the others by ``1 - p``.

    An element stays where ``Uniform(f32) >= p``, decided on integers so that every precision
    agrees. The gradient draws the same mask again instead of keeping it.
    """

    p: float
    offset: Size
    arity = (2, 2)
    draws = True

    def accept(self, x: TensorType, state: TensorType) -> None:
        floating(self, x)
        check_state(self, state)
        self.check(0.0 <= self.p <= 1.0, f"expected 0 <= p <= 1, got {self.p}")

    def decompose(self, *inputs: Expr) -> Expr:
        x, state = inputs
        bits = state.apply(Bits(shape=x.shape, offset=self.offset))
        keep = bits >= math.ceil(self.p * 2**24) * 2**8
        return keep.where(x * (1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0), 0.0)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        """Each example draws its own numbers."""
        return Dropout(p=self.p, offset=self.offset * size)

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Results:
        """All examples draw the same numbers, unless the state has them draw others."""
        return self.unfolded(size, inputs, batched)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        return g.apply(self, inputs[1]), None

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        state = np.array([rng.integers(2**40), 5])
        for shape in draw.SHAPES:
            yield Sample(cls(p=0.3, offset=2), (draw.normal(rng, *shape), state))
        for p in (0.0, 1.0):
            yield Sample(cls(p=p, offset=0), (draw.normal(rng, 3, 5), state))
