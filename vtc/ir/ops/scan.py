"""Scans: each element of the result is all elements up to its own, combined along an axis.

    y: f32[B, T] = cumsum(x, axis=1, reverse=False)
    h: f32[B, T] = linear_scan(a, b, axis=1, reverse=False)     # h[t] = a[t]*h[t-1] + b[t]
    i: i64[B, T] = cumargmax(x, axis=1, reverse=False)          # the last largest one so far

With ``reverse`` they go from the end. Half types combine in f32 and each element is rounded once;
integers wrap. ``lift``, ``combine`` and ``identity`` say how states meet, in any grouping but in
order. The family is closed: gradients of scans are scans.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.composite import wide
from vtc.ir.ops.expr import Expr, Exprs, Number
from vtc.ir.ops.reduce import highest, lowest
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import Array, DType, Kind, TensorType, Type, i64

State = tuple[Scalar, ...]


@dataclass(frozen=True)
class Scan(Op, abstract=True):
    """All elements of a row up to each one, combined."""

    axis: int
    reverse: bool
    kinds: ClassVar[tuple[Kind, ...]] = ("float",)
    """The kinds of dtype it takes."""
    arity: ClassVar[int] = 1
    """The number of inputs, which are of one type."""

    def infer(self, *inputs: Type) -> TensorType:
        self.check(len(inputs) == self.arity, f"expected {self.arity} inputs, got {len(inputs)}")
        x, *others = (tensor_type(self, i) for i in inputs)
        self.check(0 <= self.axis < x.rank, f"expected an axis of {x}, got {self.axis}")
        self.check(x.dtype.kind in self.kinds, f"expected {' or '.join(self.kinds)}, got {x}")
        for other in others:
            self.check(other == x, f"expected inputs of one type, got {x} and {other}")
        return x

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, *inputs: Array) -> Array:
        rows = [self._forward(x) for x in inputs]
        return self._forward(np.asarray(self.along(*rows)))

    @abc.abstractmethod
    def along(self, *inputs: Array) -> Array:
        """The meaning, from the first element of ``axis`` to the last."""

    def states(self, dtype: DType) -> tuple[DType, ...]:
        """The dtypes of a state, where elements are of ``dtype`` in registers."""
        return (dtype,) * self.arity

    @abc.abstractmethod
    def identity(self, dtype: DType) -> tuple[Number, ...]:
        """The state of no elements: with any that comes after, it combines to that one."""

    def lift(self, s: Scalars, at: Size, elements: Sequence[Scalar]) -> State:
        """The state of the elements at index ``at`` along the axis."""
        return tuple(elements)

    @abc.abstractmethod
    def combine(self, s: Scalars, a: State, b: State) -> State:
        """The state of the elements of ``a``, and of those of ``b`` that follow them."""

    def result(self, s: Scalars, state: State) -> Scalar:
        """The element that a state stands for: its last part."""
        return state[-1]

    def _forward(self, x: Array) -> Array:
        return np.flip(x, self.axis) if self.reverse else x

    def _back(self) -> Any:
        """This scan in the other direction."""
        return replace(self, reverse=not self.reverse)


@final
@dataclass(frozen=True)
class Cumsum(Scan):
    """Running sums."""

    kinds = ("int", "float")

    def along(self, *inputs: Array) -> Array:
        return np.cumsum(inputs[0], axis=self.axis, dtype=inputs[0].dtype)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.apply(self._back()),)

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return (0,)

    def combine(self, s: Scalars, a: State, b: State) -> State:
        return (s.binary("add", a[0], b[0]),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from _samples(cls, rng)
        yield Sample(cls(axis=0, reverse=False), (rng.integers(-9, 9, (5, 2)),))
        yield Sample(cls(axis=0, reverse=True), (np.full((3, 2), 100, np.uint8),))


@final
@dataclass(frozen=True)
class Cumprod(Scan):
    """Running products. The gradient divides by nothing, so it is right at zeros too."""

    kinds = ("int", "float")

    def along(self, *inputs: Array) -> Array:
        return np.cumprod(inputs[0], axis=self.axis, dtype=inputs[0].dtype)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x = wide(inputs[0])
        before = _neighbours(x, self, 1, 1.0).apply(self)
        back = LinearScan(axis=self.axis, reverse=not self.reverse)
        after = _neighbours(x, self, -1, 0.0).apply(back, wide(g))
        return ((before * after).cast(g.dtype),)

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return (1,)

    def combine(self, s: Scalars, a: State, b: State) -> State:
        return (s.binary("mul", a[0], b[0]),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from _samples(cls, rng)
        x = draw.normal(rng, 3, 5)
        x[0, 2] = x[1, 1] = x[1, 3] = 0
        yield Sample(cls(axis=1, reverse=False), (x,))
        yield Sample(cls(axis=0, reverse=False), (rng.integers(-4, 5, (5, 2)),))


@final
@dataclass(frozen=True)
class LinearScan(Scan):
    """``h[i] = a[i]*h[i-1] + b[i]`` along the axis, with 0 before the first element."""

    arity = 2

    def along(self, *inputs: Array) -> Array:
        a, b = (np.moveaxis(x, self.axis, 0) for x in inputs)
        out = b.copy()
        for i in range(1, len(b)):
            out[i] = a[i] * out[i - 1] + b[i]
        return np.moveaxis(out, 0, self.axis)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        a, g, h = wide(inputs[0]), wide(g), wide(out)
        db = _neighbours(a, self, -1, 0.0).apply(self._back(), g)
        da = db * _neighbours(h, self, 1, 0.0) if needs[0] else None
        return None if da is None else da.cast(out.dtype), db.cast(out.dtype)

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return 1, 0

    def combine(self, s: Scalars, a: State, b: State) -> State:
        decayed = s.binary("mul", b[0], a[1])
        return s.binary("mul", a[0], b[0]), s.binary("add", decayed, b[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for sample in _samples(cls, rng):
            (b,) = sample.inputs
            yield replace(sample, inputs=(draw.normal(rng, *b.shape), b))


@final
@dataclass(frozen=True)
class Logcumsumexp(Scan):
    """``log(cumsum(exp(x)))`` without overflow. The gradient decays from element to element by
    factors of at most 1.

    A state is the largest element so far, and the sum of exponentials relative to it.
    """

    def along(self, *inputs: Array) -> Array:
        (x,) = inputs
        return np.logaddexp.accumulate(x, axis=self.axis) if x.size else x.copy()

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y, g = wide(inputs[0]), wide(out), wide(g)
        decay = _ratio(y, _neighbours(y, self, -1, 0.0))
        later = decay.apply(LinearScan(axis=self.axis, reverse=not self.reverse), g)
        return ((_ratio(x, y) * later).cast(out.dtype),)

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return -math.inf, 0

    def states(self, dtype: DType) -> tuple[DType, ...]:
        return dtype, dtype

    def lift(self, s: Scalars, at: Size, elements: Sequence[Scalar]) -> State:
        return elements[0], s.const(1, elements[0].dtype)

    def combine(self, s: Scalars, a: State, b: State) -> State:
        (m, x), (n, y) = a, b
        none, apart = s.const(0, m.dtype), s.unary("abs", s.binary("sub", m, n))
        apart = s.select(s.compare("eq", m, n), none, apart)  # infinities are not apart
        share = s.unary("exp", s.unary("neg", apart))
        first = s.compare("ge", m, n)
        x = s.select(first, x, s.binary("mul", x, share))
        y = s.select(first, s.binary("mul", y, share), y)
        return s.binary("max", m, n), s.binary("add", x, y)

    def result(self, s: Scalars, state: State) -> Scalar:
        return s.binary("add", state[0], s.unary("log", state[1]))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from _samples(cls, rng)
        x = np.array([[-math.inf, -math.inf, 1, math.nan], [2, math.inf, math.inf, -math.inf]])
        yield Sample(cls(axis=1, reverse=False), (x.astype(np.float32),), smooth=False)


@dataclass(frozen=True)
class ArgScan(Scan, abstract=True):
    """Where the extreme of the elements so far is, as i64: the last of equals; NaN wins."""

    kinds = ("int", "float")
    wins: ClassVar[str]
    """The comparison by which a later element takes the place of an earlier one."""

    def infer(self, *inputs: Type) -> TensorType:
        return super().infer(*inputs).with_dtype(i64)

    def along(self, *inputs: Array) -> Array:
        x = np.moveaxis(inputs[0], self.axis, 0)
        best = np.zeros(x.shape[1:], np.int64)
        out = np.empty(x.shape, np.int64)
        for i, row in enumerate(x):
            held = np.take_along_axis(x, best[None], 0)[0]
            with np.errstate(invalid="ignore"):
                better = row >= held if self.wins == "ge" else row <= held
            best = np.where(better | (row != row), i, best)
            out[i] = len(x) - 1 - best if self.reverse else best
        return np.moveaxis(out, 0, self.axis)

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        return (None,)

    def states(self, dtype: DType) -> tuple[DType, ...]:
        return dtype, i64

    def lift(self, s: Scalars, at: Size, elements: Sequence[Scalar]) -> State:
        return elements[0], s.from_index(at, i64)

    def combine(self, s: Scalars, a: State, b: State) -> State:
        (x, i), (y, j) = a, b
        later = s.compare(self.wins, y, x)
        if x.dtype.kind == "float":
            later = s.binary("or_", later, s.unary("isnan", y))
        return s.select(later, y, x), s.select(later, j, i)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from _samples(cls, rng)
        nan = np.array([[1, math.nan, 3, math.nan], [3, 1, 3, 2], [-math.inf] * 4], np.float32)
        yield Sample(cls(axis=1, reverse=False), (nan,))
        yield Sample(cls(axis=0, reverse=True), (rng.integers(-3, 3, (5, 2)),))


@final
@dataclass(frozen=True)
class Cumargmax(ArgScan):
    """The index of the last largest element so far."""

    wins = "ge"

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return lowest(dtype), 0


@final
@dataclass(frozen=True)
class Cumargmin(ArgScan):
    """The index of the last smallest element so far."""

    wins = "le"

    def identity(self, dtype: DType) -> tuple[Number, ...]:
        return highest(dtype), 0


def _neighbours(x: Expr, op: Scan, by: int, fill: float) -> Expr:
    """For each element the one that ``op`` visits ``by`` before it (1 or -1); ``fill`` at the
    end where there is none.
    """
    earlier = (by > 0) != op.reverse
    pads = tuple(((1, 0, 0) if earlier else (0, 1, 0)) if a == op.axis else (0, 0, 0)
                 for a in range(x.rank))  # fmt: skip
    first = [0 if a != op.axis or earlier else 1 for a in range(x.rank)]
    stops = tuple(n + f for n, f in zip(x.shape, first, strict=True))
    padded = x.op("pad", pads=pads, value=fill)
    return padded.op("slice", starts=tuple(first), stops=stops, steps=(1,) * x.rank)


def _ratio(x: Expr, y: Expr) -> Expr:
    """``exp(x - y)``; 1 where they are equal, be they infinite."""
    return x.eq(y).where(0.0, x - y).exp()


def _samples(cls: Any, rng: np.random.Generator) -> Iterator[Sample]:
    yield Sample(cls(axis=0, reverse=False), (draw.spaced(rng, 1),))
    yield Sample(cls(axis=0, reverse=True), (draw.spaced(rng, 5),))
    yield Sample(cls(axis=1, reverse=False), (draw.spaced(rng, 3, 7),))
    yield Sample(cls(axis=1, reverse=True), (draw.spaced(rng, 2, 5, 3),))
    yield Sample(cls(axis=0, reverse=False), (draw.spaced(rng, 4, 1, 3),))
    yield Sample(cls(axis=1, reverse=False), (draw.normal(rng, 3, 0),))
