"""Views that are another walk through memory: diagonals, and any strides at all.

    d: f32[B, 4] = diagonal(x, axis1=1, axis2=2, offset=0)
    e: f32[B, 4, 4] = undiagonal(d, axis1=1, axis2=2, offset=0, sizes=(4, 4))
    s: f32[3, 2] = as_strided(x, shape=(3, 2), strides=(1, 2), offset=0)

In memory each is the input's with other sizes and strides; in a kernel it is an index map.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size, bounds, maximum, minimum, symbols
from vtc.ir.op import Needs, Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.mask import compare
from vtc.ir.ops.view import View, at_most, ints, unravel
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type, i64

Layout = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Strided(View, abstract=True):
    """A view that strides show: ``layout`` of what ``cut`` leaves."""

    def cut(self, x: Array) -> Array:
        """The part of ``x`` at whose first element the view begins."""
        return x

    @abc.abstractmethod
    def layout(self, x: Array) -> Layout:
        """The sizes of the view of ``x``, which is cut already, and its strides in bytes."""

    def reference(self, x: Array) -> Array:
        cut = self.cut(x)
        shape, strides = self.layout(cut)
        return np.lib.stride_tricks.as_strided(cut, shape, strides)


@final
@dataclass(frozen=True)
class Diagonal(Strided):
    """The elements at ``[.., i, .., i + offset, ..]`` of two axes, as the last axis."""

    axis1: int
    axis2: int
    offset: int

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        _check_axes(self, x, self.axis1, self.axis2)
        length = _length(x.shape[self.axis1], x.shape[self.axis2], self.offset)
        return x.with_shape((*_rest(x.shape, self.axis1, self.axis2), length))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def cut(self, x: Array) -> Array:
        every = [slice(None)] * x.ndim
        every[self.axis1] = slice(max(-self.offset, 0), None)
        every[self.axis2] = slice(max(self.offset, 0), None)
        return x[tuple(every)]

    def layout(self, x: Array) -> Layout:
        pair = self.axis1, self.axis2
        length = min(x.shape[a] for a in pair)
        step = sum(x.strides[a] for a in pair)
        return (*_rest(x.shape, *pair), length), (*_rest(x.strides, *pair), step)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (self._spread(g, inputs[0].shape),)

    def write(self, base: Expr, value: Expr) -> Expr:
        row = base.iota(base.shape, self.axis1, i64)
        hit = (row + self.offset).eq(base.iota(base.shape, self.axis2, i64))
        return hit.where(self._spread(value, base.shape), base)

    def _spread(self, value: Expr, shape: Sequence[Size]) -> Expr:
        sizes = shape[self.axis1], shape[self.axis2]
        return value.apply(Undiagonal(self.axis1, self.axis2, self.offset, sizes))

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        *rest, at = index
        found = {self.axis1: at + max(-self.offset, 0), self.axis2: at + max(self.offset, 0)}
        others = iter(rest)
        return tuple(found[a] if a in found else next(others) for a in range(x.rank))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(0, 1, 0), (draw.normal(rng, 3, 3),))
        yield Sample(cls(2, 0, 1), (draw.normal(rng, 4, 2, 3),))
        yield Sample(cls(0, 2, -2), (draw.normal(rng, 3, 2, 5),))
        yield Sample(cls(0, 1, 5), (draw.normal(rng, 2, 3),))
        yield Sample(cls(0, 1, 0), (np.arange(6).reshape(2, 3),))


@final
@dataclass(frozen=True)
class Undiagonal(Pointwise):
    """The dual of Diagonal: zeros, and the last axis of ``x`` on a diagonal of two new axes."""

    axis1: int
    axis2: int
    offset: int
    sizes: tuple[Size, Size]
    moves = True

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(x.rank >= 1, f"expected 1 axis or more, got {x}")
        sizes = len(self.sizes) == 2 and all(at_most(0, n) for n in self.sizes)
        self.check(sizes, f"expected two sizes, got {self.sizes}")
        rows, columns = self.sizes
        length = _length(rows, columns, self.offset)
        self.check(x.shape[-1] == length, f"expected {length} elements for a diagonal, got {x}")
        rank = x.rank + 1
        good = 0 <= self.axis1 < rank and 0 <= self.axis2 < rank and self.axis1 != self.axis2
        self.check(good, f"expected two axes of {rank}, got {self.axis1} and {self.axis2}")
        found = {self.axis1: rows, self.axis2: columns}
        others = iter(x.shape[:-1])
        return x.with_shape(found[a] if a in found else next(others) for a in range(rank))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, x: Array) -> Array:
        out = np.zeros(ints(self.infer(TensorType.of(x)).shape), x.dtype)
        Diagonal(self.axis1, self.axis2, self.offset).reference(out)[...] = x
        return out

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.apply(Diagonal(self.axis1, self.axis2, self.offset)),)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        row, column = index[self.axis1], index[self.axis2]
        sizes = out.shape[self.axis1] + out.shape[self.axis2]
        hit = compare(s, "eq", row + self.offset, column, sizes)
        at = row - max(-self.offset, 0)
        return inputs[0].at((*_rest(index, self.axis1, self.axis2), at), hit, 0)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(0, 1, 0, (3, 3)), (draw.normal(rng, 3),))
        yield Sample(cls(2, 0, 1, (3, 4)), (draw.normal(rng, 2, 3),))
        yield Sample(cls(0, 2, -2, (4, 5)), (draw.normal(rng, 3, 2),))
        yield Sample(cls(0, 1, 0, (3, 0)), (draw.normal(rng, 0),))
        yield Sample(cls(0, 1, 1, (3, 3)), (np.arange(2),))


@final
@dataclass(frozen=True)
class AsStrided(Strided):
    """Element ``[i, j, ..]`` is number ``offset + i * strides[0] + j * strides[1] + ..`` of the
    input in row-major order.

    Where elements are shown more than once, a write leaves the last in row-major order.
    """

    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        good = len(self.shape) == len(self.strides)
        self.check(good, f"expected a stride per size, got {self.shape} and {self.strides}")
        numbers = (*self.shape, *self.strides, self.offset)
        self.check(all(at_most(0, n) for n in numbers), f"expected numbers >= 0, got {numbers}")
        last = self.offset
        for n, step in zip(self.shape, self.strides, strict=True):
            last = last + (n - 1) * step
        inside = 0 in self.shape or at_most(last + 1, x.numel)
        self.check(inside, f"expected element {last} to be inside {x}")
        return x.with_shape(self.shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        (x,) = inputs
        return AsStrided((size, *self.shape), (x.numel, *self.strides), self.offset)

    def cut(self, x: Array) -> Array:
        flat = (x if x.flags.c_contiguous else np.array(x, order="C")).reshape(-1)
        return flat[min(int(self.offset), flat.size) :]  # type: ignore[arg-type]

    def layout(self, x: Array) -> Layout:
        return ints(self.shape), tuple(x.itemsize * s for s in ints(self.strides))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (self._put(inputs[0].zeros(), g, accumulate=True),)

    @property
    def repeats(self) -> bool:
        return True

    def write(self, base: Expr, value: Expr) -> Expr:
        return self._put(base, value, accumulate=False)

    def _put(self, base: Expr, value: Expr, *, accumulate: bool) -> Expr:
        flat = base.reshape((base.tensor.numel,))
        places = base.full((), 0, i64).count(self.offset).expand(range(value.rank), value.shape)
        for axis, step in enumerate(self.strides):
            line = base.iota(value.shape, axis, i64)
            places = places + line * line.count(step)
        put = flat.op("index_put", value, places, axes=(0,), accumulate=accumulate)
        return put.reshape(base.shape)

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        at = self.offset
        for i, step in zip(index, self.strides, strict=True):
            at = at + i * step
        return tuple(unravel(at, x.shape))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((), (), 2), (draw.normal(rng, 3),))
        yield Sample(cls((3, 2), (1, 2), 0), (draw.normal(rng, 5),))
        yield Sample(cls((2, 2, 2), (3, 0, 5), 1), (draw.normal(rng, 3, 4),))
        yield Sample(cls((0, 2), (1, 1), 0), (draw.normal(rng, 3),))
        yield Sample(cls((2, 2), (1, 2), 1), (np.arange(6).reshape(2, 3),))


def _rest(values: Sequence[Any], axis1: int, axis2: int) -> tuple[Any, ...]:
    """``values`` without those of two axes."""
    return tuple(v for a, v in enumerate(values) if a not in (axis1, axis2))


def _length(rows: Size, columns: Size, offset: int) -> Size:
    """How many elements a diagonal has."""
    length = minimum(rows - max(-offset, 0), columns - max(offset, 0))
    least, _ = bounds(length, {name: (0, None) for name in symbols(length)})
    return length if least is not None and least >= 0 else maximum(length, 0)


def _check_axes(op: Op, x: TensorType, axis1: int, axis2: int) -> None:
    good = axis1 != axis2 and all(0 <= a < x.rank for a in (axis1, axis2))
    op.check(good, f"expected two axes of {x}, got {axis1} and {axis2}")
