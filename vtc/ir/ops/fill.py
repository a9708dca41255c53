"""Ops with elements that are no element of an input: constants, padding, triangles, joined tensors.

    z: f32[B, 4] = full(shape=(B, 4), value=0.0, dtype=f32)
    i: i64[B, 4] = iota(shape=(B, 4), axis=1, dtype=i64)
    p: f32[B, 6] = pad(x, pads=((0, 0, 0), (1, 1, 0)), value=0.0)
    c: f32[B, 8] = concat(x, y, axis=1)

In a kernel a mask decides which elements are read; what it hides is never touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from vtc.errors import CodegenError
from vtc.ir.dims import Size, floordiv, mod
from vtc.ir.op import Needs, Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs, Number
from vtc.ir.ops.mask import all_of, compare
from vtc.ir.ops.view import at_most, ints
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, DType, TensorType, Type, bf16, bool_, f16, f32, f64, i32, i64, u8

Padding = tuple[Size, Size, int]


@final
@dataclass(frozen=True)
class Full(Pointwise):
    """``value`` everywhere."""

    shape: tuple[Size, ...]
    value: Number
    dtype: DType

    def __post_init__(self) -> None:
        """One spelling per value: 1 as f32 is 1.0."""
        if is_number(self.value, self.dtype):
            object.__setattr__(self, "value", _PYTHON[self.dtype.kind](self.value))

    def infer(self) -> TensorType:
        self.check(all(at_most(0, n) for n in self.shape), f"expected sizes, got {self.shape}")
        good = is_number(self.value, self.dtype)
        self.check(good, f"expected a value of {self.dtype}, got {self.value!r}")
        return TensorType(self.dtype, self.shape)

    def reference(self) -> Array:
        """What rounds is in f64: evaluate rounds it. What does not is one element, repeated."""
        own = np.asarray(self.value, self.dtype.numpy)
        rounds = self.dtype.kind == "float" and self.value == self.value != float(own)
        value = np.asarray(self.value, np.float64) if rounds else own
        return np.broadcast_to(value, ints(self.shape))

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        return s.const(self.value, out.dtype.accumulate)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in ((), (1,), (0, 4), (3, 5)):
            yield Sample(cls(shape, 0.1, f32), ())
        for value, dtype in ((-3, i64), (255, u8), (True, bool_), (0.1, bf16), (math.nan, f32)):
            yield Sample(cls((2,), value, dtype), ())
        for value, dtype in ((-math.inf, f16), (-0.0, f32), (0.1, f64), (2**62 + 1, i64)):
            yield Sample(cls((2,), value, dtype), ())


_PYTHON = {"bool": bool, "int": int, "float": float, "complex": complex}


def is_number(value: Number, dtype: DType) -> bool:
    """Whether ``dtype`` can hold ``value``; floats hold any that is real, rounded."""
    if isinstance(value, complex):
        return dtype.kind == "complex"
    match dtype.kind:
        case "bool":
            return value in (0, 1)
        case "int":
            limits = np.iinfo(dtype.numpy)
            return bool(limits.min <= value <= limits.max) and value == int(value)
    return True


@final
@dataclass(frozen=True)
class Iota(Pointwise):
    """Each element is its own index along ``axis``."""

    shape: tuple[Size, ...]
    axis: int
    dtype: DType

    def infer(self) -> TensorType:
        out = TensorType(self.dtype, self.shape)
        self.check(all(at_most(0, n) for n in self.shape), f"expected sizes, got {self.shape}")
        self.check(0 <= self.axis < out.rank, f"expected an axis of {out}, got {self.axis}")
        self.check(self.dtype.kind in ("int", "float"), f"expected int or float, got {self.dtype}")
        return out

    def reference(self) -> Array:
        shape = ints(self.shape)
        dtype = f64 if self.dtype.kind == "float" else self.dtype
        line = np.arange(shape[self.axis]).astype(dtype.numpy)
        others = [a for a in range(len(shape)) if a != self.axis]
        return np.broadcast_to(np.expand_dims(line, others), shape)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        return s.from_index(index[self.axis], out.dtype.accumulate)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((1,), 0, i64), ())
        yield Sample(cls((3, 5), 1, i64), ())
        yield Sample(cls((3, 5), 0, i32), ())
        yield Sample(cls((0, 4), 1, f32), ())
        yield Sample(cls((7,), 0, f32), ())
        yield Sample(cls((300,), 0, bf16), ())


@final
@dataclass(frozen=True)
class Pad(Pointwise):
    """``value`` around and between elements: per axis (before, after, between neighbours).

    An axis of n elements gets ``before + n + (n - 1) * between + after``, for n = 0 too: so Pad is
    the exact dual of a strided Slice, even of one that shows nothing.
    """

    pads: tuple[Padding, ...]
    value: float
    moves = True

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(len(self.pads) == x.rank, f"expected pads per axis of {x}, got {self.pads}")
        good = all(at_most(0, p) for axis in self.pads for p in axis)
        self.check(good, f"expected pads >= 0, got {self.pads}")
        good = is_number(self.value, x.dtype)
        self.check(good, f"expected a value of {x.dtype}, got {self.value!r}")
        shape = [a + s + b for (a, b, _), s in zip(self.pads, self._spans(x), strict=True)]
        good = all(at_most(0, n) for n in shape)
        self.check(good, f"expected elements to pad between, got {x}")
        return x.with_shape(shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return Pad(((0, 0, 0), *self.pads), self.value)

    def _spans(self, x: TensorType) -> list[Size]:
        """How many places the elements themselves span along each axis."""
        return [n * (k + 1) - k for (_, _, k), n in zip(self.pads, x.shape, strict=True)]

    def reference(self, x: Array) -> Array:
        t = TensorType.of(x)
        out = np.full(ints(self.infer(t).shape), self.value, x.dtype)
        spans = zip(self.pads, self._spans(t), strict=True)
        if x.size:
            out[tuple(slice(a, a + s, k + 1) for (a, _, k), s in spans)] = x
        return out

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x = inputs[0].tensor
        starts = tuple(a for a, _, _ in self.pads)
        spans = zip(starts, self._spans(x), x.shape, strict=True)
        stops = tuple(a if n == 0 else a + s for a, s, n in spans)
        return (
            g.op("slice", starts=starts, stops=stops, steps=tuple(k + 1 for *_, k in self.pads)),
        )

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        (x,) = inputs
        tests: list[Scalar] = []
        source: list[Size] = []
        for i, (low, high, k), n, m in zip(index, self.pads, x.type.shape, out.shape, strict=True):
            at = floordiv(i - low, k + 1)
            if low != 0:
                tests.append(compare(s, "ge", i, low, m))
            if k != 0:
                tests.append(compare(s, "eq", mod(i - low, k + 1), 0, m))
            if high != 0:
                tests.append(compare(s, "lt", at, n, m))
            source.append(at)
        return x.at(tuple(source), all_of(s, tests), self.value)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((), 0.0), (draw.normal(rng),))
        yield Sample(cls(((1, 2, 0),), 0.0), (draw.normal(rng, 3),))
        yield Sample(cls(((0, 0, 0), (2, 0, 1)), 1.5), (draw.normal(rng, 3, 4),))
        yield Sample(
            cls(((1, 0, 2), (0, 3, 0)), -math.inf), (draw.normal(rng, 3, 1),), smooth=False
        )
        yield Sample(cls(((1, 1, 0), (0, 0, 0)), 0.0), (draw.normal(rng, 0, 4),))
        yield Sample(cls(((2, 4, 2),), 0.0), (draw.normal(rng, 0),))
        yield Sample(cls(((1, 1, 0),), 7.0), (np.arange(3),))
        yield Sample(cls(((1, 1, 0),), True), (np.array([False]),))


@dataclass(frozen=True)
class Triangle(Pointwise, abstract=True):
    """Matrices (the last two axes) with zeros beyond a diagonal: 0 the main one, 1 right of it."""

    diagonal: int
    moves = True
    test: ClassVar[str]
    """How the column of a kept element compares with that of the diagonal."""

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(x.rank >= 2, f"expected matrices, got {x}")
        return x

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.apply(self),)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        *_, row, column = index
        *_, rows, columns = out.shape
        kept = compare(s, self.test, column, row + self.diagonal, rows + columns)
        return inputs[0].at(index, kept, 0)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(diagonal=0), (draw.normal(rng, 1, 1),))
        yield Sample(cls(diagonal=0), (draw.normal(rng, 3, 5),))
        yield Sample(cls(diagonal=1), (draw.normal(rng, 2, 5, 3),))
        yield Sample(cls(diagonal=-2), (draw.normal(rng, 4, 4),))
        yield Sample(cls(diagonal=0), (draw.normal(rng, 0, 4),))
        yield Sample(
            cls(diagonal=0), (np.array([[1, math.nan], [math.inf, 1]], np.float32),), False
        )
        yield Sample(cls(diagonal=0), (np.ones((3, 3), bool),))


@final
@dataclass(frozen=True)
class Tril(Triangle):
    """The part on and below the diagonal."""

    test = "le"

    def reference(self, x: Array) -> Array:
        return np.tril(x, self.diagonal)


@final
@dataclass(frozen=True)
class Triu(Triangle):
    """The part on and above the diagonal."""

    test = "ge"

    def reference(self, x: Array) -> Array:
        return np.triu(x, self.diagonal)


@final
@dataclass(frozen=True)
class Concat(Pointwise):
    """The inputs one after another along ``axis``."""

    axis: int
    moves = True

    def infer(self, *inputs: Type) -> TensorType:
        self.check(len(inputs) > 0, "expected at least one tensor, got none")
        x, *others = parts = [tensor_type(self, i) for i in inputs]
        self.check(0 <= self.axis < x.rank, f"expected an axis of {x}, got {self.axis}")
        for y in others:
            same = y.rank == x.rank and self._joined(y, [x]) == x
            self.check(same, f"expected equal types but for axis {self.axis}, got {x} and {y}")
        return self._joined(x, parts)

    def _joined(self, x: TensorType, parts: Sequence[TensorType]) -> TensorType:
        size: Size = 0
        for p in parts:
            size = size + p.shape[self.axis]
        return x.with_shape((*x.shape[: self.axis], size, *x.shape[self.axis + 1 :]))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, *inputs: Array) -> Array:
        return np.concatenate(inputs, self.axis)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        found: list[Expr | None] = []
        at: Size = 0
        for x, needed in zip(inputs, needs, strict=True):
            starts: list[Size] = [0] * x.rank
            stops = list(x.shape)
            starts[self.axis], stops[self.axis] = at, at + x.shape[self.axis]
            found.append(_cut(g, starts, stops) if needed else None)
            at = stops[self.axis]
        return found

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        i, size = index[self.axis], out.shape[self.axis]
        at: Size = 0
        value: Scalar | None = None
        for k, x in enumerate(inputs):
            end = at + x.type.shape[self.axis]
            reached = compare(s, "ge", i, at, size)
            tests = [reached] if k > 0 else []
            tests += [compare(s, "lt", i, end, size)] if k < len(inputs) - 1 else []
            inside = (*index[: self.axis], i - at, *index[self.axis + 1 :])
            here = x.at(inside, all_of(s, tests))
            value = here if value is None else s.select(reached, here, value)
            at = end
        if value is None:
            raise CodegenError("concat: expected at least one tensor, got none")
        return value

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axis=0), (draw.normal(rng, 1),))
        yield Sample(cls(axis=0), (draw.normal(rng, 2), draw.normal(rng, 3)))
        yield Sample(
            cls(axis=1), (draw.normal(rng, 3, 2), draw.normal(rng, 3, 0), draw.normal(rng, 3, 5))
        )
        yield Sample(cls(axis=0), (draw.normal(rng, 0, 4), draw.normal(rng, 2, 4)))
        yield Sample(cls(axis=1), (np.ones((2, 1), np.int64), np.zeros((2, 2), np.int64)))


def _cut(g: Expr, starts: Sequence[Size], stops: Sequence[Size]) -> Expr:
    return g.op("slice", starts=tuple(starts), stops=tuple(stops), steps=(1,) * g.rank)
