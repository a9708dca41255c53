"""Reading and writing a block, at places that are computed or fixed.

Starts that are computed are clamped so that the block fits, as in JAX::

    page: f32[1, 64] = dynamic_slice(cache, row, zero, sizes=(1, 64))
    cache_1: f32[T, 64] = dynamic_update(cache, page, row, zero)
    cache_2: f32[T, 64] = slice_update(cache, page, starts=(0, 0), steps=(1, 1))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np

from vtc.ir.dims import Size, floordiv, mod
from vtc.ir.op import Needs, Op, Pointwise, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.index import Index as Picked
from vtc.ir.ops.index import IndexPut, check_integer, lined_up
from vtc.ir.ops.mask import all_of, compare
from vtc.ir.ops.view import at_most
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type, i64


@final
@dataclass(frozen=True)
class DynamicSlice(Pointwise):
    """The block of ``sizes`` of ``x`` at ``starts``, a 0-d integer per axis, clamped to fit."""

    sizes: tuple[Size, ...]
    moves = True

    def infer(self, x: Type, *starts: Type) -> Type:
        x = tensor_type(self, x)
        _check_block(self, x, self.sizes, starts)
        return x.with_shape(self.sizes)

    def reference(self, x: Array, *starts: Array) -> Array:
        sizes = cast("tuple[int, ...]", self.sizes)  # symbols are replaced by now
        found: Array = x[_block(x.shape, sizes, starts)]
        return found

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        x, *starts = inputs
        if not any(batched[1:]):
            first = starts[0].zeros() if starts else x.full((), 0, i64)
            return x.apply(DynamicSlice((size, *self.sizes)), first, *starts)
        (whole,) = lined_up(size, (x,), batched[:1])
        places = _every(size, whole.shape[1:], self.sizes, starts, batched[1:])
        return whole.apply(Picked(axes=tuple(range(whole.rank))), *places)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, *starts = inputs
        return (x.zeros().apply(DynamicUpdate(), g, *starts), *(None for _ in starts))

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        x, *starts = inputs
        first = _first(s, x.type.shape, self.sizes, starts)
        return x.at(tuple(a + i for a, i in zip(first, index, strict=True)))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        at = [np.array(i) for i in (-1, 1, 9)]
        yield Sample(cls(sizes=(2, 3)), (draw.normal(rng, 4, 5), at[1], at[1]))
        yield Sample(cls(sizes=(2, 5)), (draw.normal(rng, 4, 5), at[2], at[0].astype(np.int32)))
        yield Sample(cls(sizes=(0,)), (draw.normal(rng, 3), at[1]))
        yield Sample(cls(sizes=()), (draw.normal(rng),))


@final
@dataclass(frozen=True)
class DynamicUpdate(Pointwise):
    """``x`` with ``value`` written at ``starts``, a 0-d integer per axis, clamped to fit."""

    moves = True

    def infer(self, x: Type, value: Type, *starts: Type) -> Type:
        x, value = tensor_type(self, x), tensor_type(self, value)
        self.check(value.dtype is x.dtype, f"expected a value of {x.dtype}, got {value}")
        _check_block(self, x, value.shape, starts)
        return x

    def reference(self, x: Array, value: Array, *starts: Array) -> Array:
        out = x.copy()
        out[_block(x.shape, value.shape, starts)] = value
        return out

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        x, value, *starts = inputs
        x, value = lined_up(size, (x, value), batched[:2])
        if not any(batched[2:]):
            first = starts[0].zeros() if starts else x.full((), 0, i64)
            return x.apply(self, value, first, *starts)
        places = _every(size, x.shape[1:], value.shape[1:], starts, batched[2:])
        put = IndexPut(axes=tuple(range(x.rank)), accumulate=False)
        return x.apply(put, value, *places)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        _, value, *starts = inputs
        dx = g.apply(self, value.zeros(), *starts) if needs[0] else None
        cut = DynamicSlice(sizes=value.shape)
        dvalue = g.apply(cut, *starts) if needs[1] else None
        return (dx, dvalue, *(None for _ in starts))

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        x, value, *starts = inputs
        sizes = value.type.shape
        first = _first(s, x.type.shape, sizes, starts)
        inside = tuple(i - a for i, a in zip(index, first, strict=True))
        tests: list[Scalar] = []
        for i, n, whole in zip(inside, sizes, x.type.shape, strict=True):
            if n != whole:
                tests += [compare(s, "ge", i, 0, whole), compare(s, "lt", i, n, whole)]
        return _choose(s, all_of(s, tests), value, inside, x, index)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        at = [np.array(i) for i in (-1, 1, 9)]
        x = draw.normal(rng, 4, 5)
        yield Sample(cls(), (x, draw.normal(rng, 2, 3), at[1], at[1]))
        yield Sample(cls(), (x, draw.normal(rng, 1, 5), at[2], at[0].astype(np.int32)))
        yield Sample(cls(), (draw.normal(rng, 3), draw.normal(rng, 0), at[1]))
        yield Sample(cls(), (draw.normal(rng), draw.normal(rng)))


@final
@dataclass(frozen=True)
class SliceUpdate(Pointwise):
    """``x`` with ``value`` written from ``starts`` on, every ``steps``-th element of each axis."""

    starts: tuple[Size, ...]
    steps: tuple[int, ...]
    moves = True

    def infer(self, x: Type, value: Type) -> Type:
        x, value = tensor_type(self, x), tensor_type(self, value)
        same = x.rank == value.rank == len(self.starts) == len(self.steps)
        self.check(same, f"expected a start and a step per axis of {x} and value, got {value}")
        self.check(value.dtype is x.dtype, f"expected a value of {x.dtype}, got {value}")
        self.check(all(k >= 1 for k in self.steps), f"expected steps >= 1, got {self.steps}")
        for a, (start, stop) in enumerate(zip(self.starts, self._stops(value), strict=True)):
            fits = at_most(0, start) and at_most(start, stop) and at_most(stop, x.shape[a])
            self.check(fits, f"expected a slice inside {x}, got [{start}:{stop}] along axis {a}")
        return x

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return SliceUpdate((0, *self.starts), (1, *self.steps))

    def reference(self, x: Array, value: Array) -> Array:
        out = x.copy()
        stops = self._stops(TensorType.of(value))
        cut = zip(self.starts, stops, self.steps, strict=True)
        out[tuple(slice(a, b, k) for a, b, k in cut)] = value
        return out

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        value = inputs[1]
        dx = g.apply(self, value.zeros()) if needs[0] else None
        cut = {"starts": self.starts, "stops": self._stops(value.tensor), "steps": self.steps}
        return dx, g.op("slice", **cut) if needs[1] else None

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        x, value = inputs
        tests: list[Scalar] = []
        inside: list[Size] = []
        sizes = zip(index, self.starts, self.steps, value.type.shape, x.type.shape, strict=True)
        for i, start, step, n, whole in sizes:
            inside.append(floordiv(i - start, step))
            if start != 0:
                tests.append(compare(s, "ge", i, start, whole))
            if step != 1:
                tests.append(compare(s, "eq", mod(i - start, step), 0, whole))
            if (start, step, n) != (0, 1, whole):
                tests.append(compare(s, "lt", inside[-1], n, whole))
        return _choose(s, all_of(s, tests), value, tuple(inside), x, index)

    def _stops(self, value: TensorType) -> tuple[Size, ...]:
        parts = zip(self.starts, self.steps, value.shape, strict=True)
        return tuple(a if n == 0 else a + (n - 1) * k + 1 for a, k, n in parts)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.normal(rng, 5, 7)
        yield Sample(cls(starts=(1, 0), steps=(1, 1)), (x, draw.normal(rng, 3, 7)))
        yield Sample(cls(starts=(0, 2), steps=(2, 3)), (x, draw.normal(rng, 3, 2)))
        yield Sample(cls(starts=(5, 0), steps=(2, 1)), (x, draw.normal(rng, 0, 7)))
        yield Sample(cls(starts=(), steps=()), (draw.normal(rng), draw.normal(rng)))


def _check_block(op: Op, x: TensorType, sizes: Sequence[Size], starts: Sequence[Any]) -> None:
    inside = all(at_most(0, n) and at_most(n, m) for n, m in zip(sizes, x.shape, strict=False))
    fits = len(sizes) == x.rank and inside
    op.check(fits, f"expected a block inside {x}, got sizes {tuple(sizes)}")
    op.check(len(starts) == x.rank, f"expected {x.rank} starts for {x}, got {len(starts)}")
    for start in starts:
        check_integer(op, tensor_type(op, start))
        op.check(start.shape == (), f"expected 0-d starts, got {start}")


def _block(
    shape: Sequence[int], sizes: Sequence[int], starts: Sequence[Array]
) -> tuple[slice, ...]:
    limits = [n - k for n, k in zip(shape, sizes, strict=True)]
    first = [min(max(int(a), 0), hi) for a, hi in zip(starts, limits, strict=True)]
    return tuple(slice(a, a + k) for a, k in zip(first, sizes, strict=True))


def _every(
    size: Size,
    shape: Sequence[Size],
    sizes: Sequence[Size],
    starts: Sequence[Expr],
    batched: Needs,
) -> list[Expr]:
    """The place of every element of blocks, one block for each example: an index per axis."""
    whole = (size, *sizes)
    found = [starts[0].iota(whole, 0, i64)]
    parts = zip(lined_up(size, starts, batched), shape, sizes, strict=True)
    for axis, (start, n, k) in enumerate(parts):
        start = start.cast(i64)
        first = start.maximum(0).minimum(start.count(n - k))
        first = first.expand(range(1, len(whole)), sizes)
        found.append(first + first.iota(whole, axis + 1, i64))
    return found


def _first(
    s: Scalars, shape: Sequence[Size], sizes: Sequence[Size], starts: Sequence[Operand]
) -> Index:
    parts = zip(starts, shape, sizes, strict=True)
    return tuple(0 if n == k else s.clamp_index(a.at(()), n - k) for a, n, k in parts)


def _choose(
    s: Scalars, mask: Scalar | None, value: Operand, inside: Index, x: Operand, index: Index
) -> Scalar:
    if mask is None:
        return value.at(inside)
    return s.select(mask, value.at(inside, mask=mask), x.at(index))
