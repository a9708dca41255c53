"""Orders: where along an axis the elements of a sorted row are, as i64 indices.

    i: i64[B, T] = argsort(x, axis=1, descending=False)
    j: i64[B, 8] = topk(x, axis=1, k=8, largest=True)
    p: i64[M] = searchsorted(s, v, right=False)         # where v belongs in the sorted s

Equal elements stay in order. NaN is greater than any number, and -0.0 equals 0.0. The values are
read at the indices (``gather``), which gives them their gradient; a kernel that sorts does so too.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size, bounds
from vtc.ir.op import Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.view import at_most
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type, i64

DEEPEST = 48
"""Steps of a search along an axis whose size has no bound."""


@dataclass(frozen=True)
class Sorting(Op, abstract=True):
    """The indices of the first elements of each row along ``axis``, in order."""

    axis: int

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        self.check(0 <= self.axis < x.rank, f"expected an axis of {x}, got {self.axis}")
        self.check(x.dtype.kind != "complex", f"expected elements with an order, got {x}")
        return TensorType(i64, x.shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    @property
    @abc.abstractmethod
    def downward(self) -> bool:
        """Whether the greatest come first."""


@final
@dataclass(frozen=True)
class Argsort(Sorting):
    """The indices of the elements in ascending, or descending, order."""

    descending: bool

    @property
    def downward(self) -> bool:
        return self.descending

    def reference(self, x: Array) -> Array:
        return _order(x, self.axis, downward=self.descending)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield from (Sample(cls(axis=a, descending=d), (x,)) for a, d, x in _cases(rng))


@final
@dataclass(frozen=True)
class Topk(Sorting):
    """The indices of the ``k`` largest (or smallest) elements, the most extreme first."""

    k: int
    largest: bool

    def infer(self, x: Type) -> TensorType:
        out = super().infer(x)
        n = out.shape[self.axis]
        good = self.k >= 0 and at_most(self.k, n)
        self.check(good, f"expected 0 <= k <= {n}, got {self.k}")
        return out.with_shape(self.k if a == self.axis else m for a, m in enumerate(out.shape))

    @property
    def downward(self) -> bool:
        return self.largest

    def reference(self, x: Array) -> Array:
        order = _order(x, self.axis, downward=self.largest)
        return np.take(order, range(self.k), self.axis)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for axis, largest, x in _cases(rng):
            k = min(x.shape[axis], 3)
            yield Sample(cls(axis=axis, k=k, largest=largest), (x,))
        yield Sample(cls(axis=1, k=3, largest=True), (draw.spaced(rng, 2, 40),))


@final
@dataclass(frozen=True)
class Searchsorted(Pointwise):
    """For each of ``values [..., M]`` how many elements of its row ``[..., N]``, which is sorted,
    are less; with ``right`` not greater. NaN compares as nothing is greater than it.
    """

    right: bool

    def infer(self, row: Type, values: Type) -> TensorType:
        row, values = tensor_type(self, row), tensor_type(self, values)
        self.check(row.rank > 0 and values.rank > 0, f"expected rows, got {row} and {values}")
        same = row.dtype is values.dtype and row.shape[:-1] == values.shape[:-1]
        self.check(same, f"expected rows of one dtype and count, got {row} and {values}")
        self.check(row.dtype.kind in ("int", "float"), f"expected int or float, got {row}")
        return TensorType(i64, values.shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def reference(self, row: Array, values: Array) -> Array:
        n = row.shape[-1]
        found = np.zeros(values.shape, np.int64)
        for step in reversed(range(n.bit_length())):
            after = found + (1 << step)
            one = np.take_along_axis(row, np.minimum(after, n) - 1, -1)
            with np.errstate(invalid="ignore"):
                less = ~(one > values) if self.right else ~(one >= values)
            found = np.where((after <= n) & less, after, found)
        return found

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        row, values = inputs
        n, wanted = row.type.shape[-1], values.at(index)
        found = s.const(0, i64)
        if n == 0:
            return found
        size, most = s.from_index(n, i64), bounds(n, {})[1]
        for step in reversed(range(most.bit_length() if most else DEEPEST)):
            after = s.binary("add", found, s.const(1 << step, i64))
            last = s.binary("sub", after, s.const(1, i64))
            one = row.at((*index[:-1], s.clamp_index(last, n - 1)))
            stays = s.compare("gt" if self.right else "ge", one, wanted)
            good = s.binary("and_", s.compare("le", after, size), s.unary("not_", stays))
            found = s.select(good, after, found)
        return found

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        row = np.sort(draw.normal(rng, 2, 7), -1)
        row[0, 3] = row[0, 4]
        values = np.concatenate([row[:, 2:6], draw.normal(rng, 2, 3)], -1)
        for right in (False, True):
            yield Sample(cls(right=right), (row, values))
            yield Sample(cls(right=right), (np.sort(rng.integers(0, 9, 8)), np.arange(10)))
        yield Sample(cls(right=False), (draw.normal(rng, 0), draw.normal(rng, 3)))
        ends = np.array([[-math.inf, math.nan, math.inf]] * 2, np.float32)
        yield Sample(cls(right=True), (row, ends))


def _order(x: Array, axis: int, *, downward: bool) -> Array:
    """The indices of a stable sort; NumPy too puts NaN last."""
    if not downward:
        return np.asarray(np.argsort(x, axis, kind="stable"))
    back = np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    return np.asarray(x.shape[axis] - 1 - back)


def _cases(rng: np.random.Generator) -> Iterator[tuple[int, bool, Array]]:
    nan = [0.0, math.nan, -0.0, 3.0, math.inf, -math.inf, math.nan, 3.0, 0.0]
    yield 0, False, draw.spaced(rng, 1)
    yield 1, False, draw.spaced(rng, 3, 7)
    yield 1, True, draw.spaced(rng, 2, 5, 3)
    yield 0, True, rng.integers(-3, 3, (9, 2))
    yield 1, False, draw.normal(rng, 3, 0)
    yield 0, False, np.array(nan, np.float32)
    yield 0, True, np.array(nan, np.float64)
    yield 0, False, rng.integers(0, 200, 70).astype(np.uint8)
    yield 0, True, np.array([False, True, False, True])
