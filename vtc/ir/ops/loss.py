"""Losses over class scores.

::

    loss: f32[()] = cross_entropy(logits, target, ignore_index=0)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import (
    Composite,
    Gradients,
    as_precise,
    floating,
    narrow,
    pullback,
    wide,
)
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.index import Gather, Index
from vtc.ir.types import TensorType, i64

REDUCTIONS = ("mean", "sum", "none")


@final
@dataclass(frozen=True)
class CrossEntropy(Composite):
    """The negative logarithm of softmax at the target.

    Takes ``(logits [N, C], target i64[N][, weight [C]])``. Rows whose target is ``ignore_index``
    count for nothing; ``mean`` divides by the weights of the others. With ``label_smoothing`` e,
    the loss is (1 - e) times the target's plus e / C times the weighted sum over all classes.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"
    arity = (2, 3)

    def accept(self, logits: TensorType, target: TensorType, *weights: TensorType) -> None:
        floating(self, logits)
        self.check(logits.rank == 2, f"expected logits [N, C], got {logits}")
        want = TensorType(i64, logits.shape[:1])
        self.check(target == want, f"expected a target of type {want}, got {target}")
        for weight in weights:
            per_class = logits.with_shape(logits.shape[1:])
            fits = weight.shape == per_class.shape and weight.dtype in as_precise(logits.dtype)
            self.check(fits, f"expected a weight of type {per_class}, got {weight}")
        known = self.reduction in REDUCTIONS
        self.check(known, f"expected a reduction among {REDUCTIONS}, got {self.reduction!r}")
        share = 0.0 <= self.label_smoothing <= 1.0
        self.check(share, f"expected 0 <= label_smoothing <= 1, got {self.label_smoothing}")

    def decompose(self, *inputs: Expr) -> Expr:
        logits, target, *weights = inputs
        kept = target.ne(self.ignore_index)
        logp = _log_softmax(logits)
        safe = kept.where(target, 0)
        picked = logp.apply(Gather(axis=1), safe.expand((1,), (1,))).reshape(target.shape)
        share = self._share(logits, kept, safe, weights)
        loss = kept.where(-(share * picked), 0.0)
        if self.label_smoothing:
            every = logp * _per_class(weights[0], logp) if weights else logp
            spread = kept.where(-every.sum((1,)), 0.0)
            part = spread * self.label_smoothing / spread.count(logits.shape[1])
            loss = loss * (1.0 - self.label_smoothing) + part
        if self.reduction == "none":
            return loss
        return loss.sum((0,)) / share.sum((0,)) if self.reduction == "mean" else loss.sum((0,))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        if len(inputs) == 3 and needs[2]:
            return pullback(self.expand, inputs, (g,), needs)
        logits, target, weights = wide(inputs[0]), inputs[1], inputs[2:]
        kept = target.ne(self.ignore_index)
        share = self._share(logits, kept, kept.where(target, 0), weights)
        scale = self._scale(wide(g), kept, share)
        p = _log_softmax(logits).exp()
        hit = logits.iota(logits.shape, 1, i64).eq(target.expand_like(logits, (1,)))
        dx = (p - hit.cast(p.dtype)) * (scale * share).expand_like(p, (1,))
        if self.label_smoothing:
            dx = dx * (1.0 - self.label_smoothing) + self._spread(p, scale, weights)
        return narrow(inputs, dx, *(None for _ in inputs[1:]))

    def _share(self, logits: Expr, kept: Expr, safe: Expr, weights: Sequence[Expr]) -> Expr:
        """What each row counts for: its target's weight, 0 where ignored."""
        if not weights:
            return kept.cast(logits.dtype)
        weight = weights[0].cast(logits.dtype)
        return kept.where(weight.apply(Index(axes=(0,)), safe), 0.0)

    def _scale(self, g: Expr, kept: Expr, share: Expr) -> Expr:
        """The cotangent of each row's loss; 0 for ignored rows, even where all are."""
        if self.reduction != "none":
            g = (g / share.sum((0,)) if self.reduction == "mean" else g).expand_like(share, (0,))
        return kept.where(g, 0.0)

    def _spread(self, p: Expr, scale: Expr, weights: Exprs) -> Expr:
        """The part of the gradient due to label smoothing."""
        if weights:
            weight = _per_class(weights[0], p)
            each = p * weight.sum((1,)).expand_like(p, (1,)) - weight
        else:
            each = p * p.count(p.shape[1]) - 1.0
        part = scale * self.label_smoothing / scale.count(p.shape[1])
        return each * part.expand_like(p, (1,))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for n, c in ((5, 4), (1, 1), (3, 7)):
            logits, target = draw.normal(rng, n, c), rng.integers(0, c, n)
            weight = rng.uniform(0.5, 2.0, c).astype(np.float32)
            for reduction in REDUCTIONS:
                yield Sample(cls(reduction=reduction), (logits, target))
                yield Sample(cls(reduction=reduction), (logits, target, weight))
                some = cls(ignore_index=-1, label_smoothing=0.2, reduction=reduction)
                ignored = np.where(np.arange(n) == 1, -1, target)
                yield Sample(some, (logits, ignored))
                yield Sample(some, (logits, ignored, weight))
        yield Sample(cls(reduction="none"), (draw.normal(rng, 0, 4), np.zeros(0, np.int64)))


@final
@dataclass(frozen=True)
class BinaryCrossEntropy(Composite):
    """``-(t * log(p) + (1 - t) * log(1 - p))`` of probabilities ``(p, t)``, element by element.

    Logarithms count as at least -100, yet the gradient there is as large as 1e-12 in the divisor
    makes it, as PyTorch's is.
    """

    arity = (2, 2)

    def accept(self, p: TensorType, t: TensorType) -> None:
        floating(self, p)
        self.check(p == t, f"expected operands of one type, got {p} and {t}")

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def decompose(self, *inputs: Expr) -> Expr:
        p, t = inputs
        yes, no = self._logs(p)
        return (t - 1.0) * no - t * yes

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        g, p, t = wide(g), *map(wide, inputs)
        dp = g * (p - t) / ((1.0 - p) * p).maximum(1e-12) if needs[0] else None
        yes, no = self._logs(p)
        return narrow(inputs, dp, g * (no - yes) if needs[1] else None)

    @staticmethod
    def _logs(p: Expr) -> tuple[Expr, Expr]:
        return p.log().maximum(-100.0), (-p).op("log1p").maximum(-100.0)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((3, 5), (0, 4)):
            p, t = rng.uniform(0.1, 0.9, (2, *shape)).astype(np.float32)
            yield Sample(cls(), (p, t))
        p, t = draw.every_pair(np.array([0.0, 0.5, 1.0], np.float32), 2)
        yield Sample(cls(), (p, t), smooth=False)


def _log_softmax(x: Expr) -> Expr:
    y = x - x.max((1,)).expand_like(x, (1,))
    return y - y.exp().sum((1,)).log().expand_like(x, (1,))


def _per_class(weight: Expr, like: Expr) -> Expr:
    return weight.cast(like.dtype).expand_like(like, (0,))
