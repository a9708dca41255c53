"""Normalisation over the last axes.

::

    y: bf16[B, T, 64] = layer_norm(x, weight, bias, count=1, eps=1e-05)
    z: bf16[B, T, 64] = rms_norm(x, weight, count=1, eps=1e-06)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Needs, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, Gradients, as_precise, floating, narrow, wide
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.types import TensorType


@dataclass(frozen=True)
class Norm(Composite, abstract=True):
    """Normalises over the ``count`` last axes; a weight and a bias have the shape of those axes.

    They may be f32 where ``x`` is narrower.
    """

    count: int
    eps: float

    def accept(self, x: TensorType, *others: TensorType) -> None:
        floating(self, x)
        some = 1 <= self.count <= x.rank
        self.check(some, f"expected 1 <= count <= {x.rank} for {x}, got {self.count}")
        want = x.with_shape(x.shape[x.rank - self.count :])
        for other in others:
            fits = other.shape == want.shape and other.dtype in as_precise(x.dtype)
            self.check(fits, f"expected a weight or bias of type {want}, got {other}")

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Any:
        """As it is where only rows differ."""
        if batched[0] and not any(batched[1:]):
            return inputs[0].apply(self, *inputs[1:])
        return self.unfolded(size, inputs, batched)

    def over(self, x: Expr) -> tuple[int, ...]:
        """The axes that are normalised."""
        return tuple(range(x.rank - self.count, x.rank))

    def rows(self, x: Expr) -> tuple[int, ...]:
        """The axes before them."""
        return tuple(range(x.rank - self.count))

    def mean(self, x: Expr) -> Expr:
        """The mean over the normalised axes, in the shape of ``x``."""
        return x.mean(self.over(x)).expand_like(x, self.over(x))

    def inverse(self, x: Expr) -> Expr:
        """``1 / sqrt(mean(x * x) + eps)``, in the shape of ``x``."""
        square = (x * x).mean(self.over(x))
        return (square + self.eps).rsqrt().expand_like(x, self.over(x))

    def across(self, x: Expr, like: Expr) -> Expr:
        """A weight or bias, repeated to the shape of ``like``."""
        return x.cast(like.dtype).expand_like(like, self.rows(like))


@final
@dataclass(frozen=True)
class LayerNorm(Norm):
    """``(x - mean) / sqrt(var + eps)`` of ``(x[, weight[, bias]])``, times weight, plus bias."""

    arity = (1, 3)

    def decompose(self, *inputs: Expr) -> Expr:
        x, *affine = inputs
        centred = x - self.mean(x)
        y = centred * self.inverse(centred)
        if affine:
            y = y * self.across(affine[0], y)
        return y + self.across(affine[1], y) if len(affine) == 2 else y

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, g = wide(inputs[0]), wide(g)
        centred = x - self.mean(x)
        scale = self.inverse(centred)
        y = centred * scale
        h = g * self.across(inputs[1], g) if len(inputs) > 1 else g
        dx = scale * (h - self.mean(h) - y * self.mean(h * y)) if needs[0] else None
        rows = self.rows(x)
        dweight = (g * y).sum(rows) if len(inputs) > 1 and needs[1] else None
        dbias = g.sum(rows) if len(inputs) > 2 and needs[2] else None
        return narrow(inputs, *(dx, dweight, dbias)[: len(inputs)])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for count, shape in ((1, (3, 5)), (2, (2, 3, 4)), (1, (7,)), (1, (0, 4)), (3, (2, 1, 3))):
            op, inner = cls(count=count, eps=1e-5), shape[len(shape) - count :]
            x, weight, bias = (
                draw.normal(rng, *shape),
                draw.normal(rng, *inner),
                draw.normal(rng, *inner),
            )
            yield Sample(op, (x,))
            yield Sample(op, (x, weight))
            yield Sample(op, (x, weight, bias))


@final
@dataclass(frozen=True)
class RmsNorm(Norm):
    """``x / sqrt(mean(x * x) + eps)`` of ``(x[, weight])``, times weight."""

    arity = (1, 2)

    def decompose(self, *inputs: Expr) -> Expr:
        x, *affine = inputs
        y = x * self.inverse(x)
        return y * self.across(affine[0], y) if affine else y

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, g = wide(inputs[0]), wide(g)
        scale = self.inverse(x)
        y = x * scale
        h = g * self.across(inputs[1], g) if len(inputs) > 1 else g
        dx = scale * (h - y * self.mean(h * y)) if needs[0] else None
        dweight = (g * y).sum(self.rows(x)) if len(inputs) > 1 and needs[1] else None
        return narrow(inputs, *(dx, dweight)[: len(inputs)])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for count, shape in ((1, (3, 5)), (2, (2, 3, 4)), (1, (7,)), (1, (0, 4))):
            op, x = cls(count=count, eps=1e-6), draw.normal(rng, *shape)
            yield Sample(op, (x,))
            yield Sample(op, (x, draw.normal(rng, *shape[len(shape) - count :])))
