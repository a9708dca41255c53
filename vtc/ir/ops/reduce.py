"""Reductions: many elements to one along axes, which are dropped from the shape.

    s: f32[B] = sum(x, axes=(1,))
    i: i64[B] = argmax(x, axis=1)

Half types accumulate in f32; integers wrap. ``identity`` and ``combine`` say how partial results
meet, in any order and grouping.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from vtc.ir.dims import Size, product
from vtc.ir.op import Needs, Op, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs, Number
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import Array, DType, Kind, TensorType, Type, bool_, i64

Pair = tuple[Scalar, Scalar]
LAST_INDEX = 2**63 - 1


@dataclass(frozen=True)
class Reduction(Op, abstract=True):
    """One value from all elements along ``axes`` (sorted), in the dtype of the input."""

    axes: tuple[int, ...]
    kinds: ClassVar[tuple[Kind, ...]] = ("int", "float")
    """The kinds of dtype it takes."""
    of_nothing: ClassVar[bool] = True
    """Whether an empty axis may be reduced."""

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        check_axes(self, self.axes, x)
        self.check(x.dtype.kind in self.kinds, f"expected {' or '.join(self.kinds)}, got {x}")
        nothing = not self.of_nothing and any(x.shape[a] == 0 for a in self.axes)
        self.check(not nothing, f"expected axes {self.axes} of {x} not to be empty")
        return x.with_shape(kept(x.shape, self.axes))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    @abc.abstractmethod
    def identity(self, dtype: DType) -> Number:
        """What combines with anything to that thing: the value of no elements."""

    @abc.abstractmethod
    def combine(self, s: Scalars, a: Scalar, b: Scalar) -> Scalar:
        """Two partial results, or a partial result and an element, as one."""


def check_axes(op: Op, axes: Sequence[int], x: TensorType) -> None:
    """TypeCheckError unless ``axes`` are distinct axes of ``x`` in ascending order."""
    if not all(0 <= a < x.rank for a in axes) or list(axes) != sorted(set(axes)):
        op.check(False, f"expected ascending axes of {x}, got {tuple(axes)}")


def kept(shape: Sequence[Size], axes: Sequence[int]) -> tuple[Size, ...]:
    """``shape`` without ``axes``."""
    return tuple(s for a, s in enumerate(shape) if a not in axes)


@final
@dataclass(frozen=True)
class Sum(Reduction):
    """The sum."""

    def reference(self, x: Array) -> Array:
        return np.sum(x, axis=self.axes, dtype=x.dtype)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.expand_like(inputs[0], self.axes),)

    def identity(self, dtype: DType) -> Number:
        return 0

    def combine(self, s: Scalars, a: Scalar, b: Scalar) -> Scalar:
        return s.binary("add", a, b)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axes=()), (draw.normal(rng),))
        yield Sample(cls(axes=()), (draw.normal(rng, 3),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 1),))
        yield Sample(cls(axes=(1,)), (draw.normal(rng, 3, 7),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 7, 3),))
        yield Sample(cls(axes=(0, 2)), (draw.normal(rng, 3, 2, 5),))
        yield Sample(cls(axes=(1,)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(0,)), (rng.integers(-9, 9, (5, 2)),))
        yield Sample(cls(axes=(0,)), (np.full((3, 2), 100, np.uint8),))


@final
@dataclass(frozen=True)
class Prod(Reduction):
    """The product."""

    def reference(self, x: Array) -> Array:
        return np.asarray(np.prod(x, axis=self.axes, dtype=x.dtype))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        (x,) = inputs
        if not self.axes:
            return (g,)
        rest = [a for a in range(x.rank) if a not in self.axes]
        order = [*rest, *self.axes]
        flat = [x.shape[a] for a in rest] + [product(x.shape[a] for a in self.axes)]
        others = products_of_others(x.permute(order).reshape(flat))
        others = others.reshape([x.shape[a] for a in order])
        others = others.permute([order.index(a) for a in range(x.rank)])
        return (g.expand_like(x, self.axes) * others,)

    def identity(self, dtype: DType) -> Number:
        return 1

    def combine(self, s: Scalars, a: Scalar, b: Scalar) -> Scalar:
        return s.binary("mul", a, b)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.normal(rng, 3, 5)
        x[0, 2] = x[1, 1] = x[1, 3] = 0  # one zero, two zeros: where out / x would not do
        yield Sample(cls(axes=(1,)), (x,))
        yield Sample(cls(axes=()), (draw.normal(rng),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 1),))
        yield Sample(cls(axes=(0, 2)), (draw.normal(rng, 2, 2, 3),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 2, 0),))
        yield Sample(cls(axes=(0,)), (rng.integers(-4, 5, (5, 2)),))


def products_of_others(x: Expr) -> Expr:
    """For each element the product of the others along the last axis; right at zeros too."""
    *batch, n = x.shape
    last = len(batch)
    if not isinstance(n, int):  # quadratic work, but fuses into one reduction
        square = (*batch, n, n)
        others = x.expand([last], [n])
        diagonal = x.iota(square, last, i64).eq(x.iota(square, last + 1, i64))
        return diagonal.where(1, others).op("prod", axes=(last + 1,))
    return _products_before(x) * _products_before(x.op("flip", axes=(last,))).op(
        "flip", axes=(last,)
    )


def _products_before(x: Expr) -> Expr:
    """The exclusive running product along the last axis, by doubling steps."""
    n = x.shape[-1]
    if not isinstance(n, int) or n == 0:
        return x
    x, step = _shift(x, 1), 1
    while step < n:
        x, step = x * _shift(x, step), 2 * step
    return x


def _shift(x: Expr, by: int) -> Expr:
    """``by`` ones, then ``x``, as long as before."""
    n, rest = x.shape[-1], x.rank - 1
    padded = x.op("pad", pads=(*((0, 0, 0),) * rest, (by, 0, 0)), value=1.0)
    stops = (*x.shape[:-1], n)
    return padded.op("slice", starts=(0,) * x.rank, stops=stops, steps=(1,) * x.rank)


@dataclass(frozen=True)
class Extremum(Reduction, abstract=True):
    """Max or Min. NaN wins; on bools any or all. Ties share the gradient evenly."""

    kinds = ("bool", "int", "float")
    of_nothing = False
    primitive: ClassVar[str]
    logic: ClassVar[str]

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        (x,) = inputs
        wide = x.dtype.accumulate  # f16 cannot count far
        winner = x.eq(out.expand_like(x, self.axes)) | x.ne(x)  # NaN equals nothing
        share = g.cast(wide) / winner.cast(wide).sum(self.axes)
        return (winner.where(share.cast(x.dtype).expand_like(x, self.axes), 0),)

    def combine(self, s: Scalars, a: Scalar, b: Scalar) -> Scalar:
        return s.binary(self.logic if a.dtype is bool_ else self.primitive, a, b)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axes=()), (draw.normal(rng),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 1),))
        yield Sample(cls(axes=(1,)), (draw.spaced(rng, 3, 7),))
        yield Sample(cls(axes=(0, 2)), (draw.spaced(rng, 3, 2, 5),))
        yield Sample(cls(axes=(1,)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(0,)), (np.array([[1, 3], [2, 3]], np.float32),), smooth=False)
        nan = np.array([[math.nan, 1], [2, -math.inf]], np.float32)
        yield Sample(cls(axes=(1,)), (nan,), smooth=False)
        yield Sample(cls(axes=(0,)), (rng.integers(-9, 9, (5, 2)),))
        yield Sample(cls(axes=(1,)), (np.array([[False, True], [False, False], [True, True]]),))


@final
@dataclass(frozen=True)
class Max(Extremum):
    """The largest; for bools whether any holds."""

    primitive = "max"
    logic = "or_"

    def reference(self, x: Array) -> Array:
        return np.asarray(np.max(x, axis=self.axes))

    def identity(self, dtype: DType) -> Number:
        return lowest(dtype)


@final
@dataclass(frozen=True)
class Min(Extremum):
    """The smallest; for bools whether all hold."""

    primitive = "min"
    logic = "and_"

    def reference(self, x: Array) -> Array:
        return np.asarray(np.min(x, axis=self.axes))

    def identity(self, dtype: DType) -> Number:
        return highest(dtype)


def lowest(dtype: DType) -> Number:
    """The least value of ``dtype``."""
    match dtype.kind:
        case "bool":
            return False
        case "int":
            return int(np.iinfo(dtype.numpy).min)
    return -math.inf


def highest(dtype: DType) -> Number:
    """The greatest value of ``dtype``."""
    match dtype.kind:
        case "bool":
            return True
        case "int":
            return int(np.iinfo(dtype.numpy).max)
    return math.inf


@dataclass(frozen=True)
class ArgReduction(Op, abstract=True):
    """Where along ``axis`` the first extreme element is, as i64; NaN wins."""

    axis: int
    wins: ClassVar[str]
    """The comparison by which an element beats another."""

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(0 <= self.axis < x.rank, f"expected an axis of {x}, got {self.axis}")
        self.check(x.dtype.kind in ("int", "float"), f"expected int or float, got {x}")
        self.check(x.shape[self.axis] != 0, f"expected axis {self.axis} of {x} not to be empty")
        return TensorType(i64, kept(x.shape, (self.axis,)))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    @abc.abstractmethod
    def identity(self, dtype: DType) -> tuple[Number, int]:
        """The value and index that lose to every element."""

    def combine(self, s: Scalars, a: Pair, b: Pair) -> Pair:
        """The winner of two (value, index) pairs; the lower index of two equal values."""
        (x, i), (y, j) = a, b
        first = s.compare("lt", i, j)
        x_wins, tie = s.compare(self.wins, x, y), s.compare("eq", x, y)
        if x.dtype.kind == "float":
            x_nan, y_nan = s.unary("isnan", x), s.unary("isnan", y)
            x_wins = s.binary("or_", x_wins, s.binary("and_", x_nan, s.unary("not_", y_nan)))
            tie = s.binary("or_", tie, s.binary("and_", x_nan, y_nan))
        keep = s.binary("or_", x_wins, s.binary("and_", tie, first))
        return s.select(keep, x, y), s.select(keep, i, j)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axis=0), (draw.normal(rng, 1),))
        yield Sample(cls(axis=1), (draw.normal(rng, 3, 7),))
        yield Sample(cls(axis=0), (draw.normal(rng, 5, 3),))
        yield Sample(cls(axis=1), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axis=1), (np.array([[1, 3, 3], [2, 2, 1]], np.float32),))
        nan = np.array([[1, math.nan, 3, math.nan], [-math.inf] * 4, [math.inf] * 4], np.float32)
        yield Sample(cls(axis=1), (nan,))
        yield Sample(cls(axis=0), (rng.integers(-3, 3, (5, 2)),))


@final
@dataclass(frozen=True)
class Argmax(ArgReduction):
    """The index of the first largest element."""

    wins = "gt"

    def reference(self, x: Array) -> Array:
        return np.asarray(np.argmax(x, axis=self.axis))

    def identity(self, dtype: DType) -> tuple[Number, int]:
        return lowest(dtype), LAST_INDEX


@final
@dataclass(frozen=True)
class Argmin(ArgReduction):
    """The index of the first smallest element."""

    wins = "lt"

    def reference(self, x: Array) -> Array:
        return np.asarray(np.argmin(x, axis=self.axis))

    def identity(self, dtype: DType) -> tuple[Number, int]:
        return highest(dtype), LAST_INDEX
