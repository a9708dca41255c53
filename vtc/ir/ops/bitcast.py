"""The bytes of a tensor as elements of another dtype.

    w: f8e4m3[64, 64] = bitcast(q, dtype=f8e4m3)        # of q: u8[64, 64]
    b: u8[64, 256] = bitcast(x, dtype=u8)               # of x: f32[64, 64]

Smaller elements lie along the last axis, that of the lowest bits first: x86, ARM and GPUs keep
numbers so. In memory it is a view; in a kernel, shifts of what is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size, floordiv, mod
from vtc.ir.evaluate import Run, Value, bound_type, compute
from vtc.ir.graph import Node
from vtc.ir.op import Op, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import View
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import (
    Array,
    DType,
    TensorType,
    Type,
    bf16,
    bool_,
    converted,
    f16,
    f32,
    f64,
    i16,
    i32,
    i64,
    u8,
)


@final
@dataclass(frozen=True)
class Bitcast(View):
    """Another dtype for the same bytes; no gradient goes through it.

    Where its elements are of another size, so is the last axis: of f32[2, 3], i16[2, 6]. A bool is
    true where its byte is not 0.
    """

    dtype: DType

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        was, now = x.dtype.itemsize, self.dtype.itemsize
        if was == now:
            return x.with_dtype(self.dtype)
        self.check(x.rank >= 1, f"expected 1 axis or more to view as {self.dtype}, got {x}")
        *front, last = x.shape
        if was > now:
            return TensorType(self.dtype, (*front, last * (was // now)))
        count = now // was
        rest = mod(last, count)  # of symbols it may be 0
        fits = rest == 0 or not isinstance(rest, int)
        want = f"expected a multiple of {count} elements in the last axis"
        self.check(fits, f"{want} to view as {self.dtype}, got {x}")
        return TensorType(self.dtype, (*front, floordiv(last, count)))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def reference(self, x: Array) -> Array:
        """A view if it can be."""
        return (x if self.shows(x) else np.ascontiguousarray(x)).view(self.dtype.numpy)

    def shows(self, x: Array) -> bool:
        """Whether the bytes that become an element, or come from one, lie side by side."""
        same = x.itemsize == self.dtype.itemsize
        return same or x.shape[-1] == 1 or x.strides[-1] == x.itemsize

    def evaluate(self, run: Run, node: Node) -> Value:
        """In f64, too, the bytes are those of the operand's own dtype."""
        own, x = node.inputs[0].tensor.dtype, run.env[node.inputs[0]]
        assert isinstance(x, np.ndarray)
        x = x if x.dtype == own.numpy else converted(x, own.numpy)
        return compute(self, [x], bound_type(node.type, run.sizes), run.precision)

    def write(self, base: Expr, value: Expr) -> Expr:
        return value.apply(Bitcast(base.dtype))

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        """The element that has the first byte."""
        was, now = x.dtype.itemsize, out.dtype.itemsize
        if was == now:
            return index
        *front, last = index
        return (*front, floordiv(last * now, was))

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        (x,) = inputs
        was, now = x.type.dtype, out.dtype
        if was.itemsize < now.itemsize:
            bits = self._joined(s, self.source(index, x.type, out), x)
        else:
            bits = s.to_bits(x.at(self.source(index, x.type, out)), was)
            if was.itemsize > now.itemsize:
                place = mod(index[-1], was.itemsize // now.itemsize) * (8 * now.itemsize)
                shifted = s.binary("shr", bits, s.from_index(place, was.word))
                bits = s.cast(shifted, now.word)
        return s.from_bits(bits, now)

    def _joined(self, s: Scalars, first: Index, x: Operand) -> Scalar:
        """The bits of the elements from ``first`` on that have the bytes of one of the result."""
        was, word = x.type.dtype, self.dtype.word
        width = 8 * was.itemsize
        *front, start = first
        whole = self._wide(s, x.at(first), was)
        for k in range(1, self.dtype.itemsize // was.itemsize):
            part = self._wide(s, x.at((*front, start + k)), was)
            whole = s.binary("or_", whole, s.binary("shl", part, s.const(k * width, word)))
        return whole

    def _wide(self, s: Scalars, x: Scalar, dtype: DType) -> Scalar:
        """The bits of one element, and zeros above them."""
        word = self.dtype.word
        wide = s.cast(s.to_bits(x, dtype), word)
        if dtype.word is u8:
            return wide
        return s.binary("and_", wide, s.const((1 << 8 * dtype.itemsize) - 1, word))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        floats = draw.normal(rng, 2, 4)
        yield Sample(cls(i32), (draw.normal(rng),), smooth=False)
        yield Sample(cls(u8), (floats,), smooth=False)
        yield Sample(cls(i64), (floats,), smooth=False)
        yield Sample(cls(f32), (floats.view(np.int32),))
        yield Sample(cls(i16), (draw.normal(rng, 0, 3),), smooth=False)
        yield Sample(cls(f16), (rng.normal(size=3).astype(np.float16).view(np.int16),))
        yield Sample(cls(bf16), (floats.view(np.uint8)[:, 2:4].copy(),))
        yield Sample(cls(f64), (rng.normal(size=(3, 1)).view(np.int16),))
        yield Sample(cls(bool_), (np.arange(3, dtype=np.uint8),))
        yield Sample(cls(i32), (rng.random((2, 4)) < 0.5,))
