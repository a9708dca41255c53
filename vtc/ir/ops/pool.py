"""Pooling over the last one to three axes of ``[N, C, ...]``: windows of the padded input, reduced.

    z: f32[N, 8, 7, 7] = max_pool2d(y, kernel=(2, 2), stride=(2, 2), padding=(0, 0), extra=(),
                                    dilation=())
    m: f32[N, 8, 7, 7] = avg_pool2d(y, kernel=(2, 2), stride=(2, 2), padding=(0, 0), extra=(),
                                    include_pad=True, divisor=0)

``extra`` is what windows reach beyond the padding at the end (none if empty); it counts as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Needs, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, Gradients, floating, narrow, pullback, wide
from vtc.ir.ops.conv import Ints, check_windows, merged, windows
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.types import TensorType, i64


@dataclass(frozen=True)
class Pool(Composite, abstract=True):
    """A reduction of each window of ``x``, which has ``spatial`` axes after N and C."""

    kernel: Ints
    stride: Ints
    padding: Ints
    extra: Ints = ()
    spatial: ClassVar[int]

    def accept(self, x: TensorType) -> None:
        floating(self, x)
        image = ", ".join("DHW"[-self.spatial :])
        self.check(x.rank == 2 + self.spatial, f"expected [N, C, {image}], got {x}")
        counts = {len(self.kernel), len(self.stride), len(self.padding), len(self.spread)}
        self.check(counts == {self.spatial}, f"expected {self.spatial} ints for {x}, got {self}")
        check_windows(self, x, self.kernel, self.stride, self.padding, self.spread)
        extra = len(self.extra) in (0, self.spatial) and min(self.extra, default=0) >= 0
        self.check(extra, f"expected {self.spatial} ints >= 0 as extra, got {self.extra}")
        half = all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True))
        limit = f"expected padding of at most half of {self.kernel}, got {self.padding}"
        self.check(half, limit)

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        """Examples are more images."""
        (x,) = inputs
        y = merged(x).apply(self)
        return y.reshape((size, x.shape[1], *y.shape[1:]))

    @property
    def spread(self) -> Ints:
        """The step between neighbours in a window."""
        return (1,) * len(self.kernel)

    @property
    def inside(self) -> int:
        """The axis of :meth:`parts` along which a window lies."""
        return 2 + self.spatial

    def parts(self, x: Expr, fill: float) -> Expr:
        """Windows, each one axis: ``[N, C, *places, size of a window]``."""
        ends = self.extra or (0,) * self.spatial
        pads = [(p, p + e) for p, e in zip(self.padding, ends, strict=True)]
        found = windows(x, self.kernel, self.stride, pads, self.spread, fill=fill)
        return found.reshape((*found.shape[: self.inside], math.prod(self.kernel)))


@dataclass(frozen=True)
class MaxPool(Pool, abstract=True):
    """The largest of each window; the first of equals gets the gradient."""

    dilation: Ints = ()

    @property
    def spread(self) -> Ints:
        return self.dilation or (1,) * len(self.kernel)

    def decompose(self, *inputs: Expr) -> Expr:
        return self.parts(inputs[0], -math.inf).max((self.inside,))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, g = wide(inputs[0]), wide(g)
        parts, at = self.parts(x, -math.inf), self.inside
        first = parts.op("argmax", axis=at).expand_like(parts, (at,))
        hit = parts.iota(parts.shape, at, i64).eq(first)
        back = hit.where(g.expand_like(parts, (at,)), 0.0)
        found = pullback(lambda x: self.parts(x, -math.inf), (x,), (back,), (True,))
        return narrow(inputs, *found)


@final
@dataclass(frozen=True)
class MaxPool1d(MaxPool):
    """Over ``[N, C, L]``."""

    spatial = 1

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((3,), (2,), (1,), (1,), (2,)), (draw.spaced(rng, 2, 2, 8),))


@final
@dataclass(frozen=True)
class MaxPool2d(MaxPool):
    """Over ``[N, C, H, W]``."""

    spatial = 2

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from (Sample(cls(*how), (x,)) for how, x in _images(rng))
        yield Sample(cls((2, 2), (2, 2), (0, 0), (1, 0), (1, 2)), (draw.spaced(rng, 1, 2, 3, 4),))


@final
@dataclass(frozen=True)
class MaxPool3d(MaxPool):
    """Over ``[N, C, D, H, W]``."""

    spatial = 3

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        op = cls((2, 1, 2), (1, 2, 2), (1, 0, 0))
        yield Sample(op, (draw.spaced(rng, 1, 2, 3, 3, 4),))


@dataclass(frozen=True)
class AvgPool(Pool, abstract=True):
    """The mean of each window.

    Padding counts as zeros if ``include_pad``, else not at all; a ``divisor`` other than 0 stands
    for the count.
    """

    include_pad: bool = True
    divisor: int = 0

    def decompose(self, *inputs: Expr) -> Expr:
        x = inputs[0]
        parts = self.parts(x, 0.0)
        total = parts.sum((self.inside,))
        if self.divisor:
            return total / self.divisor
        if self.include_pad and not any(self.extra):
            return total / math.prod(self.kernel)
        for a in range(self.spatial):
            count = self._count(total, x, a)
            others = [o for o in range(total.rank) if o != 2 + a]
            total = total / count.expand_like(total, others)
        return total

    def _count(self, total: Expr, x: Expr, a: int) -> Expr:
        """How many elements windows have along spatial axis ``a``."""
        n, pad = x.shape[2 + a], self.padding[a]
        line = total.iota((total.shape[2 + a],), 0, total.dtype)
        start = line * self.stride[a] - pad
        stop = start + self.kernel[a]
        if self.include_pad:
            return stop.minimum(line.count(n + pad)) - start
        return stop.minimum(line.count(n)) - start.maximum(0)


@final
@dataclass(frozen=True)
class AvgPool1d(AvgPool):
    """Over ``[N, C, L]``."""

    spatial = 1

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.normal(rng, 2, 2, 7)
        yield Sample(cls((3,), (2,), (1,)), (x,))
        yield Sample(cls((2,), (2,), (1,), (1,)), (x,))
        yield Sample(cls((3,), (2,), (1,), (), False), (x,))


@final
@dataclass(frozen=True)
class AvgPool2d(AvgPool):
    """Over ``[N, C, H, W]``."""

    spatial = 2

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from (Sample(cls(*how), (x,)) for how, x in _images(rng))
        x = draw.normal(rng, 1, 2, 4, 5)
        yield Sample(cls((3, 2), (2, 2), (1, 1), (1, 0), False), (x,))
        yield Sample(cls((2, 2), (1, 2), (1, 0), (), True, 3), (x,))


@final
@dataclass(frozen=True)
class AvgPool3d(AvgPool):
    """Over ``[N, C, D, H, W]``."""

    spatial = 3

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((2, 1, 2), (1, 2, 2), (1, 0, 0)), (draw.normal(rng, 1, 2, 3, 3, 4),))


def _images(rng: np.random.Generator) -> Iterator[tuple[tuple[Ints, Ints, Ints], np.ndarray]]:
    """Windows that overlap, that leave gaps, and that reach over the edge."""
    one = (2, 2), (2, 2), (0, 0)
    yield one, draw.normal(rng, 2, 1, 4, 5)
    yield one, draw.normal(rng, 0, 1, 2, 2)
    yield ((3, 2), (2, 1), (1, 1)), draw.normal(rng, 1, 2, 5, 4)
    yield ((1, 1), (2, 3), (0, 0)), draw.normal(rng, 1, 1, 3, 4)
