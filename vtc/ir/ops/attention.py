"""Scaled dot product attention, its gradient, and rotary position embedding.

::

    q: bf16[B, H, T, 64] = rotary(x, cos, sin)
    t: (bf16[B, H, T, 64], f32[B, H, T]) = scaled_dot_product_attention(q, k, v, is_causal=True,
                                                                        scale=0.125)
    o: bf16[B, H, T, 64] = item(t, index=0)

The second result is the logarithm of the sum of exponentials of each row of scores. With it the
gradient computes the probabilities again, tile by tile, instead of keeping them (Dao et al.,
"FlashAttention", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size, floordiv
from vtc.ir.op import Needs, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import (
    Composite,
    Gradients,
    as_precise,
    at_least,
    narrow,
    pullback,
    wide,
)
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.index import lined_up
from vtc.ir.types import Array, TensorType, bool_, i64

WIDEST = 256
"""Columns of queries, keys and values up to which attention stays whole."""


@dataclass(frozen=True)
class Attention(Composite, abstract=True):
    """What attention and its gradient share: the scores.

    Queries ``[.., T, D]``, keys ``[.., S, D]``, values ``[.., S, E]``; a mask broadcasts to
    ``[.., T, S]`` and says where to attend (bool) or is added to the scores. ``is_causal`` lets row
    ``t`` attend to columns up to ``t``; whether it sees a NaN or infinity beyond them is not said,
    as kernels do not read what they can leave out. The axis before these are heads, of which
    queries may have a multiple of what keys and values have: head ``h`` reads keys and values
    ``h // group``.
    """

    is_causal: bool
    scale: float

    def whole(self, *inputs: TensorType) -> bool:
        """Rows of known size, and not too long for a block of them to stay in the cache."""
        sizes = [x.shape[-1] for x in inputs[1:3]]
        return all(isinstance(n, int) and n <= WIDEST for n in sizes)

    def check_operands(
        self, q: TensorType, k: TensorType, v: TensorType, masks: Sequence[TensorType]
    ) -> None:
        """TypeCheckError unless queries, keys, values and mask fit each other."""
        at_least(self, q, 2)
        one = q.dtype is k.dtype is v.dtype and q.rank == k.rank == v.rank
        batch = one and q.shape[:-3] == k.shape[:-3] and k.shape[:-2] == v.shape[:-2]
        fits = batch and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
        self.check(fits, f"expected [.., T, D], [.., S, D] and [.., S, E], got {q}, {k} and {v}")
        grouped = q.shape[:-2] == k.shape[:-2] or (k.shape[-3] != 0 and group(q, k) is not None)
        self.check(grouped, f"expected a multiple of the heads of keys in {q}, got {k} and {v}")
        for mask in masks:
            scores = q.with_shape((*q.shape[:-1], k.shape[-2]))
            kind = mask.dtype is bool_ or mask.dtype in as_precise(q.dtype)
            broadcasts = kind and _broadcasts(mask.shape, scores.shape)
            self.check(broadcasts, f"expected a mask, bool or added, for {scores}, got {mask}")

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Any:
        """Examples are one more axis in front; masks that differ get it there too."""
        to_mask = isinstance(self, AttentionGradient) and self.to_mask
        if to_mask:  # a sum over what the mask is broadcast along
            return self.unfolded(size, inputs, batched)
        tensors = 3 if isinstance(self, ScaledDotProductAttention) else 6
        whole = lined_up(size, inputs[:tensors], batched[:tensors])
        pairs = zip(inputs[tensors:], batched[tensors:], strict=True)
        masks = [aligned(m, whole[0].rank) if b else m for m, b in pairs]
        return whole[0].apply(self, *whole[1:], *masks)

    def scores(self, q: Expr, k: Expr, masks: Sequence[Expr]) -> Expr:
        """Scaled and masked scores ``[.., T, S]`` of keys that are repeated; ``-inf`` where not
        attended.
        """
        s = q.matmul(k, transpose_y=True) * self.scale
        rank = s.rank
        for mask in masks:
            if mask.dtype is bool_:
                s = mask.broadcast_to(s.shape).where(s, -math.inf)
            else:
                s = s + mask.cast(s.dtype).broadcast_to(s.shape)
        if self.is_causal:
            row, column = (s.iota(s.shape, a, i64) for a in (rank - 2, rank - 1))
            s = (row >= column).where(s, -math.inf)
        return s


@final
@dataclass(frozen=True)
class ScaledDotProductAttention(Attention):
    """``softmax(q @ k.T * scale) @ v`` and the logsumexp of the scores, of ``(q, k, v[, mask])``.

    A row that attends to nothing gives zeros, and a logsumexp of ``-inf``.
    """

    arity = (3, 4)

    def accept(self, q: TensorType, k: TensorType, v: TensorType, *masks: TensorType) -> None:
        self.check_operands(q, k, v, masks)

    def decompose(self, *inputs: Expr) -> tuple[Expr, Expr]:
        q, k, v, *masks = inputs
        rows = (*q.shape[:-1],)
        if k.shape[-2] == 0:
            empty = q.full(rows, -math.inf, q.dtype.accumulate)
            return q.full((*rows, v.shape[-1]), 0.0), empty
        k, v = (_repeated(x, q) for x in (k, v))
        s = self.scores(q, k, masks)
        last = (s.rank - 1,)
        top = s.max(last)
        if masks:
            top = top.eq(-math.inf).where(0.0, top)
        e = (s - top.expand_like(s, last)).exp()
        total = e.sum(last)
        divisor = total.eq(0.0).where(1.0, total) if masks else total
        mixed = e.matmul(v)
        lse = top + total.log()
        return mixed / divisor.expand_like(mixed, last), wide(lse)

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        q, k, v, *masks = inputs
        y, lse = out.item(0), out.item(1)
        dy = y.zeros() if g[0] is None else g[0]
        delta = (wide(dy) * wide(y)).sum((y.rank - 1,))
        if g[1] is not None:
            delta = delta - g[1]
        sweep = AttentionGradient(
            is_causal=self.is_causal, scale=self.scale, to_mask=len(inputs) == 4 and needs[3]
        )
        found = q.apply(sweep, k, v, dy, lse, delta, *masks)
        wanted = zip(needs, (*range(3), *((3,) if sweep.to_mask else ())), strict=False)
        gradients = [found.item(i) if needed else None for needed, i in wanted]
        return narrow(inputs, *gradients)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for causal, q, k, v, *masks in _cases(rng):
            yield Sample(cls(is_causal=causal, scale=0.5), (q, k, v, *masks))
        # Where a row attends to nothing, lse is -inf.
        none, op = np.array([[True, False], [False, False]]), cls(is_causal=False, scale=0.5)
        yield Sample(
            op,
            (draw.normal(rng, 2, 3), draw.normal(rng, 2, 3), draw.normal(rng, 2, 4), none),
            smooth=False,
        )
        empty = (draw.normal(rng, 2, 3), draw.normal(rng, 0, 3), draw.normal(rng, 0, 4))
        yield Sample(op, empty, smooth=False)


@final
@dataclass(frozen=True)
class AttentionGradient(Attention):
    """The cotangents of ``q``, ``k``, ``v`` and, with ``to_mask``, of a mask that is added.

    Takes ``(q, k, v, g, lse, delta[, mask])``: ``g`` is the cotangent of the output,
    ``delta [.., T]`` the sum over the last axis of ``g * out``, less the cotangent of ``lse``.
    """

    to_mask: bool = False
    arity = (6, 7)

    def whole(self, *inputs: TensorType) -> bool:
        """Not with the cotangent of a mask: it is a sum over what the mask is broadcast along."""
        return not self.to_mask and super().whole(*inputs)

    def accept(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        g: TensorType,
        *others: TensorType,
    ) -> None:
        *rows, masks = others[0], others[1], others[2:]
        self.check_operands(q, k, v, masks)
        out = q.with_shape((*q.shape[:-1], v.shape[-1]))
        self.check(g == out, f"expected a cotangent of type {out}, got {g}")
        want = TensorType(q.dtype.accumulate, q.shape[:-1])
        for row in rows:
            fits = row.shape == want.shape and row.dtype in as_precise(q.dtype)
            self.check(fits, f"expected lse and delta of type {want}, got {row}")
        added = len(masks) == 1 and masks[0].dtype is not bool_
        self.check(added or not self.to_mask, "expected a mask that is added, to differentiate it")

    def decompose(self, *inputs: Expr) -> tuple[Expr, ...]:
        q, *pair, g, lse, delta = inputs[:6]
        masks = inputs[6:]
        k, v = (_repeated(x, q) for x in pair)
        s = self.scores(q, k, masks)
        last = (s.rank - 1,)
        lse, delta = lse.cast(q.dtype), delta.cast(q.dtype)
        if masks:  # a row that attends to nothing has lse = -inf and p = 0
            lse = lse.eq(-math.inf).where(math.inf, lse)
        p = (s - lse.expand_like(s, last)).exp()
        ds = p * (g.matmul(v, transpose_y=True) - delta.expand_like(s, last))
        dq = ds.matmul(k) * self.scale
        dk = _summed(ds.matmul(q, transpose_x=True) * self.scale, pair[0])
        dv = _summed(p.matmul(g, transpose_x=True), pair[1])
        to_mask = [_sum_to(ds, masks[0].shape).cast(masks[0].dtype)] if self.to_mask else []
        return dq, dk, dv, *to_mask

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for causal, q, k, v, *masks in _cases(rng):
            g = draw.normal(rng, *q.shape[:-1], v.shape[-1])
            # Larger than any score, so that no exponential is large.
            lse, delta = 3.0 + draw.normal(rng, *q.shape[:-1]) ** 2, draw.normal(rng, *q.shape[:-1])
            to_mask = bool(masks) and masks[0].dtype != np.bool_
            op = cls(is_causal=causal, scale=0.5, to_mask=to_mask)
            yield Sample(op, (q, k, v, g, lse, delta, *masks))


@final
@dataclass(frozen=True)
class Rotary(Composite):
    """Turn ``x [.., D]`` of ``(x, cos, sin)``: elements of its first half with those of its second.

    ``cos`` and ``sin`` broadcast to ``[.., D / 2]``; they may be f32 where ``x`` is narrower.
    """

    arity = (3, 3)

    def accept(self, x: TensorType, cos: TensorType, sin: TensorType) -> None:
        at_least(self, x, 1)
        even = cos.rank >= 1 and cos.shape[-1] * 2 == x.shape[-1] and cos == sin
        fits = even and _broadcasts(cos.shape, (*x.shape[:-1], cos.shape[-1]))
        known = fits and cos.dtype in as_precise(x.dtype)
        self.check(known, f"expected cos and sin for the half of {x}, got {cos} and {sin}")

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        (x,) = lined_up(size, inputs[:1], batched[:1])
        angles = inputs[1:]
        if any(batched[1:]):
            angles = tuple(aligned(t, x.rank) for t in lined_up(size, angles, batched[1:]))
        return x.apply(self, *angles)

    def decompose(self, *inputs: Expr) -> Expr:
        x, cos, sin = inputs
        half = cos.shape[-1]
        a, b = _part(x, 0, half), _part(x, half, x.shape[-1])
        cos, sin = (t.cast(x.dtype).broadcast_to(a.shape) for t in (cos, sin))
        return (a * cos - b * sin).op("concat", b * cos + a * sin, axis=x.rank - 1)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        _, cos, sin = inputs
        dx = g.apply(self, cos, -sin) if needs[0] else None  # turn back
        if not (needs[1] or needs[2]):
            return dx, None, None
        return dx, *pullback(self.expand, inputs, (g,), (False, *needs[1:]))[1:]

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((4, 6), (2, 3, 4, 2), (1, 2), (0, 4)):
            angle = draw.normal(rng, shape[-2], shape[-1] // 2)
            yield Sample(cls(), (draw.normal(rng, *shape), np.cos(angle), np.sin(angle)))
        angle = draw.normal(rng, 2, 1, 3, 2)
        yield Sample(cls(), (draw.normal(rng, 2, 5, 3, 4), np.cos(angle), np.sin(angle)))


def group(q: TensorType, k: TensorType) -> Size | None:
    """How many heads of ``q`` share one of ``k``; None unless they all share one evenly."""
    if q.rank < 3:
        return 1
    many, few = q.shape[-3], k.shape[-3]
    count = floordiv(many, few)
    return count if count * few == many else None


def aligned(x: Expr, rank: int) -> Expr:
    """``x``, which has an axis of examples in front, with axes of size 1 after it up to ``rank``,
    so that it broadcasts as each example does.
    """
    return x.reshape((x.shape[0], *(1,) * (rank - x.rank), *x.shape[1:]))


def _repeated(x: Expr, q: Expr) -> Expr:
    """Keys or values ``x``, each head as often as it is shared."""
    if x.shape[:-2] == q.shape[:-2]:
        return x
    count = group(q.tensor, x.tensor)
    assert count is not None
    heads = x.rank - 3
    wide = x.expand((heads + 1,), (count,))
    return wide.reshape((*q.shape[:-2], *x.shape[-2:]))


def _summed(x: Expr, like: Expr) -> Expr:
    """Undo :func:`_repeated`."""
    if x.shape == like.shape:
        return x
    heads = x.rank - 3
    count = floordiv(x.shape[heads], like.shape[heads])
    return x.reshape((*like.shape[:-2], count, *like.shape[-2:])).sum((heads + 1,))


def _broadcasts(shape: Sequence[Size], to: Sequence[Size]) -> bool:
    if len(shape) > len(to):
        return False
    return all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))


def _sum_to(x: Expr, shape: Sequence[Size]) -> Expr:
    """Undo broadcasting from ``shape``."""
    extra = x.rank - len(shape)
    ones = [extra + a for a, n in enumerate(shape) if n == 1 and x.shape[extra + a] != 1]
    return x.sum((*range(extra), *ones)).reshape(shape)


def _part(x: Expr, start: Size, stop: Size) -> Expr:
    """A range of the last axis."""
    before: tuple[Size, ...] = (0,) * (x.rank - 1)
    return x.op("slice", starts=(*before, start), stops=(*x.shape[:-1], stop), steps=(1,) * x.rank)


def _cases(rng: np.random.Generator) -> Iterator[Any]:
    """Whether causal, then queries, keys, values and perhaps a mask."""

    def operands(*batch: int, t: int, s: int, shared: int = 1) -> tuple[Array, Array, Array]:
        few = (*batch[:-1], batch[-1] // shared) if batch else ()
        return (
            draw.normal(rng, *batch, t, 3),
            draw.normal(rng, *few, s, 3),
            draw.normal(rng, *few, s, 2),
        )

    yield False, *operands(t=3, s=4)
    yield True, *operands(2, t=4, s=3)
    yield True, *operands(1, 2, t=1, s=3)
    yield False, *operands(2, t=0, s=3)
    attend = rng.random((2, 3, 4)) < 0.6
    attend[..., 1] = True
    yield False, *operands(2, t=3, s=4), attend
    yield True, *operands(2, t=3, s=4), draw.normal(rng, 3, 1)
    yield False, *operands(2, t=3, s=4), draw.normal(rng, 2, 1, 4)
    yield True, *operands(2, 4, t=3, s=2, shared=2)
    yield False, *operands(3, t=2, s=3, shared=3), draw.normal(rng, 3, 1, 3)
