"""Overlapping windows along an axis, and their dual.

    w: f32[N, 30, 3] = window(x, axis=1, size=3, stride=1, dilation=1)
    x: f32[N, 32] = unwindow(w, axis=1, length=32, stride=1, dilation=1)

Convolution and pooling are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.errors import TypeCheckError
from vtc.ir.dims import Size, floordiv, mod
from vtc.ir.op import Needs, Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.mask import all_of, compare
from vtc.ir.ops.strided import Layout, Strided
from vtc.ir.ops.view import at_most, ints
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type, i64


@final
@dataclass(frozen=True)
class Window(Strided):
    """All windows of ``size`` elements along ``axis``; what lies in a window is the last axis."""

    axis: int
    size: int
    stride: int
    dilation: int

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        count = windows(self, x, self.size)
        return x.with_shape((*x.shape[: self.axis], count, *x.shape[self.axis + 1 :], self.size))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def layout(self, x: Array) -> Layout:
        shape, strides = list(x.shape), list(x.strides)
        span = self.dilation * (self.size - 1) + 1
        shape[self.axis] = (shape[self.axis] - span) // self.stride + 1
        step, strides[self.axis] = strides[self.axis], strides[self.axis] * self.stride
        return (*shape, self.size), (*strides, step * self.dilation)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        length = inputs[0].shape[self.axis]
        same = {"axis": self.axis, "stride": self.stride, "dilation": self.dilation}
        return (g.op("unwindow", length=length, **same),)

    @property
    def repeats(self) -> bool:
        return self.stride <= self.dilation * (self.size - 1)

    def write(self, base: Expr, value: Expr) -> Expr:
        """Where windows overlap, the last one stays."""
        at, last = self.axis, value.rank - 1
        order = [*range(at + 1), last, *range(at + 1, last)]
        shape = (value.shape[at], self.size)
        first, inside = (base.iota(shape, a, i64) for a in (0, 1))
        places = first * self.stride + inside * self.dilation
        return base.op("index_put", value.permute(order), places, axes=(at,), accumulate=False)

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        *rest, inside = index
        rest[self.axis] = rest[self.axis] * self.stride + inside * self.dilation
        return tuple(rest)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axis=0, size=1, stride=1, dilation=1), (draw.normal(rng, 1),))
        yield Sample(cls(axis=0, size=3, stride=1, dilation=1), (draw.normal(rng, 7),))
        yield Sample(cls(axis=1, size=2, stride=2, dilation=2), (draw.normal(rng, 2, 8),))
        yield Sample(cls(axis=0, size=2, stride=3, dilation=1), (draw.normal(rng, 8, 2),))
        yield Sample(cls(axis=1, size=4, stride=1, dilation=1), (draw.normal(rng, 0, 4),))


@final
@dataclass(frozen=True)
class Unwindow(Pointwise):
    """The dual of Window: what lies in windows (last axis), summed at its place along ``axis``."""

    axis: int
    length: Size
    stride: int
    dilation: int

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(x.rank >= 2, f"expected windows along an axis and the last one, got {x}")
        self.check(x.dtype.kind in ("int", "float"), f"expected int or float, got {x}")
        *rest, size = x.shape
        if not isinstance(size, int):
            raise TypeCheckError(f"unwindow: expected windows of a known size, got {x}")
        self.check(0 <= self.axis < len(rest), f"expected an axis of {x}, got {self.axis}")
        count, rest[self.axis] = rest[self.axis], self.length
        out = x.with_shape(rest)
        wanted = windows(self, out, size)
        self.check(count == wanted, f"expected {wanted} windows to make {out}, got {x}")
        return out

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, x: Array) -> Array:
        out = np.zeros(ints(self.infer(TensorType.of(x)).shape), x.dtype)
        count = x.shape[self.axis]
        for w in range(x.shape[-1]):
            first = w * self.dilation
            every = slice(first, first + (count - 1) * self.stride + 1, self.stride)
            out[(*[slice(None)] * self.axis, every)] += x[..., w]
        return out

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        size = inputs[0].shape[-1]
        if not isinstance(size, int):
            raise TypeCheckError(f"unwindow: expected windows of a known size, got {size}")
        return (g.apply(Window(self.axis, size, self.stride, self.dilation)),)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        (x,) = inputs
        count, length = x.type.shape[self.axis], out.shape[self.axis]
        total = s.const(0, out.dtype.accumulate)
        for w in range(int(x.type.shape[-1])):  # type: ignore[arg-type]
            first = index[self.axis] - w * self.dilation
            window = floordiv(first, self.stride)
            tests = [compare(s, "ge", window, 0, length), compare(s, "lt", window, count, length)]
            if self.stride != 1:
                tests.append(compare(s, "eq", mod(first, self.stride), 0, length))
            inside = (*index[: self.axis], window, *index[self.axis + 1 :], w)
            total = s.binary("add", total, x.at(inside, all_of(s, tests), 0))
        return total

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axis=0, length=1, stride=1, dilation=1), (draw.normal(rng, 1, 1),))
        yield Sample(cls(axis=0, length=7, stride=1, dilation=1), (draw.normal(rng, 5, 3),))
        yield Sample(cls(axis=1, length=8, stride=2, dilation=2), (draw.normal(rng, 2, 3, 2),))
        yield Sample(cls(axis=0, length=9, stride=3, dilation=1), (draw.normal(rng, 3, 2, 2),))
        yield Sample(cls(axis=0, length=4, stride=2, dilation=1), (np.ones((2, 2), np.int64),))


def windows(op: Window | Unwindow, x: TensorType, size: int) -> Size:
    """How many windows of ``size`` elements there are along the axis of ``x``, the long side."""
    op.check(0 <= op.axis < x.rank, f"expected an axis of {x}, got {op.axis}")
    numbers = (size, op.stride, op.dilation)
    good = all(isinstance(n, int) and n >= 1 for n in numbers)
    op.check(good, f"expected size, stride and dilation >= 1, got {numbers}")
    span = op.dilation * (size - 1) + 1
    fits = at_most(span, x.shape[op.axis])
    op.check(fits, f"expected axis {op.axis} of {x} to hold a window over {span} elements")
    return floordiv(x.shape[op.axis] - span, op.stride) + 1
