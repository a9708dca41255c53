"""Convolution over the last one to three axes of ``[N, C, ...]``, and its transpose.

A convolution is a view of the padded input as windows, then one product per group; its transpose is
the product first, whose columns are then added where their windows lie::

    y: f32[N, 8, 14, 14] = conv2d(x, w, b, stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
    z: f32[N, 3, 28, 28] = conv_transpose2d(y, w, stride=(2, 2), padding=(1, 1), dilation=(1, 1),
                                            groups=1, output_padding=(1, 1))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast, final

import numpy as np

from vtc.ir.dims import Size, product
from vtc.ir.op import Needs, Op, Sample
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, Gradients, floating, narrow, pullback, wide
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.index import lined_up
from vtc.ir.types import TensorType

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Convolving(Composite, abstract=True):
    """What convolutions and their transposes share: one int for each of ``spatial`` axes."""

    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int
    arity = (2, 3)
    spatial: ClassVar[int]

    def accept_kernel(self, x: TensorType, w: TensorType, filters: str) -> None:
        """TypeCheckError unless ``w`` is a kernel for images like ``x``, and attributes fit."""
        floating(self, x)
        rank = 2 + self.spatial
        ranks = x.rank == w.rank == rank and x.dtype is w.dtype
        image, kernel = ", ".join("DHW"[-self.spatial :]), ", K".join("DHW"[-self.spatial :])
        want = f"expected [N, C, {image}] and [{filters}, K{kernel}]"
        self.check(ranks, f"{want}, got {x} and {w}")
        counts = {len(self.stride), len(self.padding), len(self.dilation)}
        self.check(counts == {self.spatial}, f"expected {self.spatial} ints for {x}, got {self}")
        fixed = all(isinstance(n, int) for n in w.shape[2:])
        self.check(fixed, f"expected a kernel of known size, got {w}")
        self.check(self.groups >= 1, f"expected 1 group or more, got {self.groups}")

    def accept_bias(self, w: TensorType, channels: Size, biases: Sequence[TensorType]) -> None:
        """TypeCheckError unless a bias has one number for each channel of the result."""
        want = w.with_shape((channels,))
        for bias in biases:
            self.check(bias == want, f"expected a bias of type {want}, got {bias}")

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Any:
        """Examples are more images, or, where kernels differ, more groups."""
        if not any(batched[1:]):
            x = inputs[0]
            y = merged(x).apply(self, *inputs[1:])
            return y.reshape((size, x.shape[1], *y.shape[1:]))
        if not isinstance(size, int):
            return self.unfolded(size, inputs, batched)
        many: Any = replace(self, groups=self.groups * size)
        x, *kernels = lined_up(size, inputs, batched)
        x = x.permute((1, 0, *range(2, x.rank)))
        x = x.reshape((x.shape[0], size * x.shape[2], *x.shape[3:]))
        y = x.apply(many, *map(merged, kernels))
        y = y.reshape((y.shape[0], size, y.shape[1] // size, *y.shape[2:]))
        return y.permute((1, 0, *range(2, y.rank)))

    @property
    def places(self) -> range:
        """The spatial axes."""
        return range(2, 2 + self.spatial)

    def biased(self, y: Expr, biases: Sequence[Expr]) -> Expr:
        """``y`` plus the bias, if there is one."""
        for bias in biases:
            y = y + bias.expand_like(y, (0, *self.places))
        return y


@dataclass(frozen=True)
class Convolution(Convolving, abstract=True):
    """Cross-correlation of ``(x [N, C, ...], w [O, C / groups, *kernel][, bias [O]])``."""

    def accept(self, x: TensorType, w: TensorType, *biases: TensorType) -> None:
        self.accept_kernel(x, w, "O, C")
        split = w.shape[0] % self.groups == 0
        self.check(split, f"expected outputs for {self.groups} groups, got {x} and {w}")
        channels = w.shape[1] * self.groups
        self.check(channels == x.shape[1], f"expected {channels} channels, got {x} and {w}")
        check_windows(self, x, _kernel(w), self.stride, self.padding, self.dilation)
        self.accept_bias(w, w.shape[0], biases)

    def decompose(self, *inputs: Expr) -> Expr:
        x, w, *biases = inputs
        parts = self._windows(x, _kernel(w.tensor))
        n, _, *sizes = parts.shape
        y = self._filters(w).matmul(self._columns(parts))
        y = y.reshape((w.shape[0], n, *sizes[: self.spatial])).permute((1, 0, *self.places))
        return self.biased(y, biases)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        x, w, g = wide(inputs[0]), wide(inputs[1]), wide(g)
        kernel = _kernel(w.tensor)
        rows = g.permute((1, 0, *self.places)).reshape(
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
            dbias = g.sum((0, *self.places))
        return narrow(inputs, *(dx, dw, dbias)[: len(inputs)])

    def _windows(self, x: Expr, kernel: Ints) -> Expr:
        pads = tuple((p, p) for p in self.padding)
        return windows(x, kernel, self.stride, pads, self.dilation)

    def _filters(self, w: Expr) -> Expr:
        """Weights as one matrix per group: ``[groups, O / groups, C / groups * kernel]``."""
        o, *rest = w.shape
        return w.reshape((self.groups, o // self.groups, product(rest)))

    def _columns(self, parts: Expr) -> Expr:
        """Windows as one matrix per group: ``[groups, C / groups * kernel, N * places]``."""
        n, c, *sizes = parts.shape
        inner = c // self.groups * product(sizes[self.spatial :])
        shape = (self.groups, inner, n * product(sizes[: self.spatial]))
        inside = range(2 + self.spatial, parts.rank)
        return parts.permute((1, *inside, 0, *self.places)).reshape(shape)

    @classmethod
    def plain(cls, groups: int = 1) -> Convolution:
        """Stride 1, no padding."""
        one = (1,) * cls.spatial
        return cls(stride=one, padding=(0,) * cls.spatial, dilation=one, groups=groups)


@final
@dataclass(frozen=True)
class Conv1d(Convolution):
    """Over ``[N, C, L]``."""

    spatial = 1

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x, w = draw.normal(rng, 2, 4, 7), draw.normal(rng, 2, 4, 3)
        yield Sample(cls.plain(), (x, w, draw.normal(rng, 2)))
        odd = cls(stride=(2,), padding=(2,), dilation=(2,), groups=2)
        yield Sample(odd, (x, draw.normal(rng, 6, 2, 3)))


@final
@dataclass(frozen=True)
class Conv2d(Convolution):
    """Over ``[N, C, H, W]``."""

    spatial = 2

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        plain = cls.plain()
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


@final
@dataclass(frozen=True)
class Conv3d(Convolution):
    """Over ``[N, C, D, H, W]``."""

    spatial = 3

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        odd = cls(stride=(1, 2, 1), padding=(1, 0, 1), dilation=(1, 1, 2), groups=2)
        yield Sample(odd, (draw.normal(rng, 1, 2, 3, 4, 3), draw.normal(rng, 2, 1, 2, 2, 2)))


@dataclass(frozen=True)
class TransposedConvolution(Convolving, abstract=True):
    """The gradient of a convolution: ``(x [N, C, ...], w [C, O / groups, *kernel][, bias [O]])``.

    ``output_padding`` grows the result at its end, where strides left its size open.
    """

    output_padding: Ints

    def accept(self, x: TensorType, w: TensorType, *biases: TensorType) -> None:
        self.accept_kernel(x, w, "C, O")
        split = w.shape[0] % self.groups == 0
        self.check(split, f"expected channels for {self.groups} groups, got {x} and {w}")
        self.check(w.shape[0] == x.shape[1], f"expected {w.shape[0]} channels, got {x} and {w}")
        positive = min(*self.stride, *self.dilation, 1) >= 1 and min(self.padding) >= 0
        got = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        self.check(positive, f"expected steps >= 1 and padding >= 0, got {got}")
        grown = len(self.output_padding) == len(self.stride)
        self.check(grown, f"expected {len(self.stride)} ints, got {self.output_padding}")
        steps = zip(self.output_padding, self.stride, self.dilation, strict=True)
        less = all(0 <= o < max(s, d) for o, s, d in steps)
        self.check(less, f"expected {self.output_padding} below stride or dilation, got {got}")
        sizes = self._lengths(x.shape, _kernel(w))
        cuts = zip(sizes, self.padding, self.output_padding, strict=True)
        left = all(not isinstance(n, int) or n - 2 * p + o >= 1 for n, p, o in cuts)
        self.check(left, f"expected padding that leaves something of {sizes}, got {got}")
        self.accept_bias(w, w.shape[1] * self.groups, biases)

    def _lengths(self, shape: Sequence[Size], kernel: Ints) -> tuple[Size, ...]:
        """The sizes that all windows span together."""
        steps = zip(shape[2:], self.stride, self.dilation, kernel, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in steps)

    def decompose(self, *inputs: Expr) -> Expr:
        x, w, *biases = inputs
        n, c, *sizes = x.shape
        kernel, groups = _kernel(w.tensor), self.groups
        rows = x.permute((1, 0, *self.places)).reshape((groups, c // groups, n * product(sizes)))
        filters = w.reshape((groups, c // groups, product(w.shape[1:])))
        columns = filters.matmul(rows, transpose_x=True)
        parts = columns.reshape((groups * w.shape[1], *kernel, n, *sizes))
        at = 1 + self.spatial
        parts = parts.permute((at, 0, *range(at + 1, parts.rank), *range(1, at)))
        lengths = self._lengths(x.shape, kernel)
        for a in reversed(range(self.spatial)):
            same = {"stride": self.stride[a], "dilation": self.dilation[a]}
            parts = parts.op("unwindow", axis=2 + a, length=lengths[a], **same)
        return self.biased(self._trimmed(parts), biases)

    def _trimmed(self, y: Expr) -> Expr:
        """Without ``padding`` on both sides, with ``output_padding`` at the end."""
        if not any((*self.padding, *self.output_padding)):
            return y
        pairs = list(zip(self.padding, self.output_padding, strict=True))
        starts = (0, 0, *self.padding)
        less = (0, 0, *(max(p - o, 0) for p, o in pairs))
        stops = tuple(n - m for n, m in zip(y.shape, less, strict=True))
        y = y.op("slice", starts=starts, stops=stops, steps=(1,) * y.rank)
        pads = ((0, 0, 0), (0, 0, 0), *((0, max(o - p, 0), 0) for p, o in pairs))
        return y.op("pad", pads=pads, value=0.0) if any(p[1] for p in pads) else y


@final
@dataclass(frozen=True)
class ConvTranspose1d(TransposedConvolution):
    """Over ``[N, C, L]``."""

    spatial = 1

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        op = cls(stride=(3,), padding=(1,), dilation=(2,), groups=2, output_padding=(2,))
        yield Sample(
            op, (draw.normal(rng, 2, 4, 5), draw.normal(rng, 4, 3, 2), draw.normal(rng, 6))
        )


@final
@dataclass(frozen=True)
class ConvTranspose2d(TransposedConvolution):
    """Over ``[N, C, H, W]``."""

    spatial = 2

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        plain = cls((1, 1), (0, 0), (1, 1), 1, (0, 0))
        yield Sample(plain, (draw.normal(rng, 1, 2, 5, 2), draw.normal(rng, 2, 1, 2, 3)))
        odd = cls((2, 1), (1, 2), (1, 2), 2, (1, 0))
        yield Sample(
            odd, (draw.normal(rng, 2, 4, 3, 4), draw.normal(rng, 4, 1, 3, 2), draw.normal(rng, 2))
        )


@final
@dataclass(frozen=True)
class ConvTranspose3d(TransposedConvolution):
    """Over ``[N, C, D, H, W]``."""

    spatial = 3

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        op = cls((1, 2, 1), (0, 1, 0), (1, 1, 1), 1, (0, 1, 0))
        yield Sample(op, (draw.normal(rng, 1, 2, 2, 3, 2), draw.normal(rng, 2, 1, 2, 2, 1)))


def merged(x: Expr) -> Expr:
    """The first two axes of ``x`` as one."""
    return x.reshape((x.shape[0] * x.shape[1], *x.shape[2:]))


def windows(
    x: Expr,
    kernel: Ints,
    stride: Ints,
    padding: Sequence[tuple[int, int]],
    dilation: Ints,
    *,
    fill: float = 0.0,
) -> Expr:
    """The windows of ``x`` padded by ``fill``: ``[N, C, *places, *kernel]``."""
    if any(map(any, padding)):
        pads = ((0, 0, 0), (0, 0, 0), *((a, b, 0) for a, b in padding))
        x = x.op("pad", pads=pads, value=fill)
    places = range(2, 2 + len(kernel))
    for axis, size, step, spread in zip(places, kernel, stride, dilation, strict=True):
        x = x.op("window", axis=axis, size=size, stride=step, dilation=spread)
    return x


def check_windows(
    op: Op, x: TensorType, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> None:
    """TypeCheckError unless such windows fit into ``x``."""
    positive = min(*kernel, *stride, *dilation) >= 1 and min(padding) >= 0
    got = f"kernel={kernel}, stride={stride}, padding={padding}, dilation={dilation}"
    op.check(positive, f"expected sizes and steps >= 1 and padding >= 0, got {got}")
    for n, k, p, d in zip(x.shape[2:], kernel, padding, dilation, strict=True):
        fits = not isinstance(n, int) or n + 2 * p >= d * (k - 1) + 1
        op.check(fits, f"expected {x} to hold a window, got {got}")


def _kernel(w: TensorType) -> Ints:
    sizes: tuple[Size, ...] = w.shape[2:]
    return cast("Ints", sizes)
