"""Convolution and pooling over the last two axes of ``[N, C, H, W]``.

Each is a view of the padded input as windows, then a product or a reduction over them::

    y: f32[N, 8, 14, 14] = conv2d(x, w, b, stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
    z: f32[N, 8, 7, 7] = max_pool2d(y, kernel=(2, 2), stride=(2, 2), padding=(0, 0))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from vtc.ir.dims import Size, product
from vtc.ir.op import Needs, Op, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, Gradients, floating, narrow, pullback, wide
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.types import TensorType, i64

Pair = tuple[int, int]


@final
@dataclass(frozen=True)
class Conv2d(Composite):
    """Cross-correlation of ``(x [N, C, H, W], w [O, C / groups, KH, KW][, bias [O]])``."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    arity = (2, 3)

    def accept(self, x: TensorType, w: TensorType, *biases: TensorType) -> None:
        floating(self, x)
        ranks = x.rank == w.rank == 4 and x.dtype is w.dtype
        self.check(ranks, f"expected [N, C, H, W] and [O, C, KH, KW], got {x} and {w}")
        split = self.groups >= 1 and w.shape[0] % self.groups == 0
        channels = split and w.shape[1] * self.groups == x.shape[1]
        self.check(channels, f"expected channels for {self.groups} groups, got {x} and {w}")
        fixed = all(isinstance(n, int) for n in w.shape[2:])
        self.check(fixed, f"expected a kernel of known size, got {w}")
        check_windows(self, x, _kernel(w), self.stride, self.padding, self.dilation)
        want = x.with_shape(w.shape[:1])
        for bias in biases:
            self.check(bias == want, f"expected a bias of type {want}, got {bias}")

    def decompose(self, *inputs: Expr) -> Expr:
        x, w, *biases = inputs
        parts = self._windows(x, _kernel(w.tensor))
        n, _, height, width, *_ = parts.shape
        y = self._filters(w).matmul(self._columns(parts))
        y = y.reshape((w.shape[0], n, height, width)).permute((1, 0, 2, 3))
        for bias in biases:
            y = y + bias.expand_like(y, (0, 2, 3))
        return y

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, w, g = wide(inputs[0]), wide(inputs[1]), wide(g)
        kernel = _kernel(w.tensor)
        rows = g.permute((1, 0, 2, 3)).reshape(
            (self.groups, w.shape[0] // self.groups, product(g.shape) // w.shape[0])
        )
        dx = dw = dbias = None
        if needs[0]:
            back = self._filters(w).matmul(rows, transpose_x=True)
            (dx,) = pullback(
                lambda x: self._columns(self._windows(x, kernel)), (x,), (back,), (True,)
            )
        if needs[1]:
            columns = self._columns(self._windows(x, kernel))
            dw = rows.matmul(columns, transpose_y=True).reshape(w.shape)
        if needs[2:] == (True,):
            dbias = g.sum((0, 2, 3))
        return narrow(inputs, *(dx, dw, dbias)[: len(inputs)])

    def _windows(self, x: Expr, kernel: Pair) -> Expr:
        return windows(x, kernel, self.stride, self.padding, self.dilation)

    def _filters(self, w: Expr) -> Expr:
        """Weights as one matrix per group: ``[groups, O / groups, C / groups * KH * KW]``."""
        o, *rest = w.shape
        return w.reshape((self.groups, o // self.groups, product(rest)))

    def _columns(self, parts: Expr) -> Expr:
        """Windows as one matrix per group: ``[groups, C / groups * KH * KW, N * OH * OW]``."""
        n, c, height, width, *kernel = parts.shape
        inner = c // self.groups * product(kernel)
        shape = (self.groups, inner, n * height * width)
        return parts.permute((1, 4, 5, 0, 2, 3)).reshape(shape)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        plain = cls(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        yield Sample(plain, (draw.normal(rng, 1, 1, 3, 3), draw.normal(rng, 1, 1, 3, 3)))
        yield Sample(
            plain, (draw.normal(rng, 2, 3, 4, 5), draw.normal(rng, 2, 3, 2, 3), draw.normal(rng, 2))
        )
        yield Sample(
            plain, (draw.normal(rng, 0, 1, 4, 4), draw.normal(rng, 2, 1, 3, 3), draw.normal(rng, 2))
        )
        odd = cls(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
        yield Sample(
            odd, (draw.normal(rng, 2, 4, 5, 4), draw.normal(rng, 6, 2, 3, 2), draw.normal(rng, 6))
        )


@dataclass(frozen=True)
class Pool(Composite, abstract=True):
    """A reduction of each window of ``x [N, C, H, W]``."""

    kernel: Pair
    stride: Pair
    padding: Pair

    def accept(self, x: TensorType) -> None:
        floating(self, x)
        self.check(x.rank == 4, f"expected [N, C, H, W], got {x}")
        check_windows(self, x, self.kernel, self.stride, self.padding, (1, 1))
        half = all(2 * p <= k for p, k in zip(self.padding, self.kernel, strict=True))
        limit = f"expected padding of at most half of {self.kernel}, got {self.padding}"
        self.check(half, limit)

    def parts(self, x: Expr, fill: float) -> Expr:
        """Windows, each one axis: ``[N, C, OH, OW, KH * KW]``."""
        found = windows(x, self.kernel, self.stride, self.padding, fill=fill)
        return found.reshape((*found.shape[:4], math.prod(self.kernel)))

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """Windows that overlap, that leave gaps, and that reach over the edge."""
        one = cls(kernel=(2, 2), stride=(2, 2), padding=(0, 0))
        yield Sample(one, (draw.normal(rng, 2, 1, 4, 5),))
        yield Sample(one, (draw.normal(rng, 0, 1, 2, 2),))
        yield Sample(
            cls(kernel=(3, 2), stride=(2, 1), padding=(1, 1)), (draw.normal(rng, 1, 2, 5, 4),)
        )
        yield Sample(
            cls(kernel=(1, 1), stride=(2, 3), padding=(0, 0)), (draw.normal(rng, 1, 1, 3, 4),)
        )


@final
@dataclass(frozen=True)
class MaxPool2d(Pool):
    """The largest of each window; the first of equals gets the gradient."""

    def decompose(self, *inputs: Expr) -> Expr:
        return self.parts(inputs[0], -math.inf).max((4,))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, g = wide(inputs[0]), wide(g)
        parts = self.parts(x, -math.inf)
        first = parts.op("argmax", axis=4).expand_like(parts, (4,))
        hit = parts.iota(parts.shape, 4, i64).eq(first)
        back = hit.where(g.expand_like(parts, (4,)), 0.0)
        found = pullback(lambda x: self.parts(x, -math.inf), (x,), (back,), (True,))
        return narrow(inputs, *found)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from cls.cases(rng)


@final
@dataclass(frozen=True)
class AvgPool2d(Pool):
    """The mean of each window; padding counts as zeros."""

    def decompose(self, *inputs: Expr) -> Expr:
        return self.parts(inputs[0], 0.0).mean((4,))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from cls.cases(rng)


def windows(
    x: Expr,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    *,
    fill: float = 0.0,
) -> Expr:
    """The windows of ``x`` padded by ``fill``: ``[N, C, OH, OW, KH, KW]``."""
    if any(padding):
        pads = ((0, 0, 0), (0, 0, 0), *((p, p, 0) for p in padding))
        x = x.op("pad", pads=pads, value=fill)
    for axis, size, step, spread in zip((2, 3), kernel, stride, dilation, strict=True):
        x = x.op("window", axis=axis, size=size, stride=step, dilation=spread)
    return x


def check_windows(
    op: Op, x: TensorType, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    """TypeCheckError unless such windows fit into ``x``."""
    positive = min(*kernel, *stride, *dilation) >= 1 and min(padding) >= 0
    got = f"kernel={kernel}, stride={stride}, padding={padding}, dilation={dilation}"
    op.check(positive, f"expected sizes and steps >= 1 and padding >= 0, got {got}")
    for n, k, p, d in zip(x.shape[2:], kernel, padding, dilation, strict=True):
        fits = not isinstance(n, int) or n + 2 * p >= d * (k - 1) + 1
        op.check(fits, f"expected {x} to hold a window, got {got}")


def _kernel(w: TensorType) -> Pair:
    sizes: tuple[Size, ...] = w.shape[2:]
    return cast("Pair", sizes)
