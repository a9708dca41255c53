"""Ops that show the elements of one tensor in another arrangement: index maps.

    h: f32[B, 8, 64] = reshape(x, shape=(B, 8, 64))
    t: f32[8, B, 64] = permute(h, axes=(1, 0, 2))
    r: f32[8, 4, B, 64] = expand(t, axes=(1,), sizes=(4,))

A :class:`View` can also be written through: an in-place write to it is a write to its base. Nothing
here computes, so nothing here rounds, and a kernel reads through any chain of index maps.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.errors import TypeCheckError
from vtc.ir.dims import Size, Sym, bounds, floordiv, mod, product, symbols
from vtc.ir.op import Needs, Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type


@dataclass(frozen=True)
class IndexMap(Pointwise, abstract=True):
    """An op each of whose elements is one element of its input."""

    moves = True

    @abc.abstractmethod
    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        """Where in ``x`` the element of ``out`` at ``index`` is; always inside."""

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        (x,) = inputs
        return x.at(self.source(index, x.type, out))


@dataclass(frozen=True)
class View(IndexMap, abstract=True):
    """An index map that an in-place write can go through."""

    @property
    def repeats(self) -> bool:
        """Whether it may show an element more than once."""
        return False

    @abc.abstractmethod
    def write(self, base: Expr, value: Expr) -> Expr:
        """``base`` with what this shows of it replaced by ``value``."""


def ints(sizes: Sequence[Size]) -> tuple[int, ...]:
    """``sizes``, in which no symbols are left: evaluate has replaced them."""
    return tuple(map(int, sizes))  # type: ignore[arg-type]


def at_most(a: Size, b: Size) -> bool:
    """Whether ``a <= b`` is possible for some sizes; symbols are not negative.

    Where it is not true for all of them, :func:`claims` hears of it.
    """
    difference = b - a
    if isinstance(difference, int):
        return difference >= 0
    lower, upper = bounds(difference, {name: (0, None) for name in symbols(difference)})
    possible = upper is None or upper >= 0
    if possible and _heard.claims is not None and (lower is None or lower < 0):
        _heard.claims.append(difference)
    return possible


class _Heard(threading.local):
    claims: list[Sym] | None = None


_heard = _Heard()


@contextmanager
def claims() -> Iterator[list[Sym]]:
    """What type rules take for granted inside: sizes that must not be negative, but might be."""
    before, _heard.claims = _heard.claims, []
    try:
        yield _heard.claims
    finally:
        _heard.claims = before


@final
@dataclass(frozen=True)
class Reshape(View):
    """The same elements in row-major order under another shape."""

    shape: tuple[Size, ...]

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        out = x.with_shape(self.shape)
        self.check(all(at_most(0, s) for s in self.shape), f"expected sizes, got {self.shape}")
        if x.numel != out.numel:
            got = f"got {out} ({out.numel})"
            self.check(False, f"expected as many elements as {x} has ({x.numel}), {got}")
        return out

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return Reshape((size, *self.shape))

    def reference(self, x: Array) -> Array:
        return x.reshape(ints(self.shape))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.reshape(inputs[0].shape),)

    def write(self, base: Expr, value: Expr) -> Expr:
        return value.reshape(base.shape)

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        """Only within groups of axes that are really merged or split does it divide."""
        found: list[Size] = []
        for mine, theirs in _groups(out.shape, x.shape):
            at = _linear([index[a] for a in mine], [out.shape[a] for a in mine])
            found += unravel(at, [x.shape[a] for a in theirs])
        return tuple(found)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(shape=()), (draw.normal(rng, 1),))
        yield Sample(cls(shape=(1, 1)), (draw.normal(rng),))
        yield Sample(cls(shape=(15,)), (draw.normal(rng, 3, 5),))
        yield Sample(cls(shape=(3, 4, 1, 2)), (draw.normal(rng, 3, 8),))
        yield Sample(cls(shape=(3, 8)), (draw.normal(rng, 3, 1, 4, 2),))
        yield Sample(cls(shape=(6, 2)), (draw.normal(rng, 3, 4),))
        yield Sample(cls(shape=(2, 0)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(shape=(2, 3)), (np.arange(6),))


def _groups(a: Sequence[Size], b: Sequence[Size]) -> Iterator[tuple[range, range]]:
    """The shortest runs of axes of ``a`` and ``b`` that hold equally many elements."""
    i = j = 0
    while i < len(a) or j < len(b):
        first, second = i, j
        i, j = min(i + 1, len(a)), min(j + 1, len(b))
        p, q = product(a[first:i]), product(b[second:j])
        while p != q and (i < len(a) or j < len(b)):
            if j == len(b) or (i < len(a) and not _smaller(q, p)):
                p, i = p * a[i], i + 1
            else:
                q, j = q * b[j], j + 1
        yield range(first, i), range(second, j)


def _smaller(a: Size, b: Size) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return mod(b, a) == 0 if a != 0 else True


def _linear(index: Sequence[Size], shape: Sequence[Size]) -> Size:
    at: Size = 0
    for i, n in zip(index, shape, strict=True):
        at = at if n == 1 else at * n + i
    return at


def unravel(at: Size, shape: Sequence[Size]) -> list[Size]:
    """The index of element number ``at`` in row-major order."""
    found: list[Size] = []
    outer = next((a for a, n in enumerate(shape) if n != 1), 0)
    for axis in reversed(range(len(shape))):
        n = shape[axis]
        found.append(0 if n in (0, 1) else at if axis == outer else mod(at, n))
        at = at if n == 1 else floordiv(at, n) if n != 0 else 0
    return found[::-1]


@final
@dataclass(frozen=True)
class Permute(View):
    """Axis ``i`` of the result is axis ``axes[i]`` of the input."""

    axes: tuple[int, ...]

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        good = sorted(self.axes) == list(range(x.rank))
        self.check(good, f"expected each axis of {x} once, got {self.axes}")
        return x.with_shape(x.shape[a] for a in self.axes)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return Permute((0, *(a + 1 for a in self.axes)))

    def reference(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.permute(self._inverse()),)

    def write(self, base: Expr, value: Expr) -> Expr:
        return value.permute(self._inverse())

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        return tuple(index[i] for i in self._inverse())

    def _inverse(self) -> tuple[int, ...]:
        return tuple(self.axes.index(a) for a in range(len(self.axes)))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axes=()), (draw.normal(rng),))
        yield Sample(cls(axes=(1, 0)), (draw.normal(rng, 3, 5),))
        yield Sample(cls(axes=(2, 0, 1)), (draw.normal(rng, 2, 3, 5),))
        yield Sample(cls(axes=(1, 0)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(0, 2, 1)), (rng.integers(0, 9, (1, 2, 3)),))


@final
@dataclass(frozen=True)
class Expand(View):
    """New axes of ``sizes`` at ``axes`` of the result, along which the input repeats."""

    axes: tuple[int, ...]
    sizes: tuple[Size, ...]

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        rank = x.rank + len(self.axes)
        good = all(0 <= a < rank for a in self.axes) and [*self.axes] == sorted({*self.axes})
        self.check(good, f"expected ascending axes of a result of rank {rank}, got {self.axes}")
        good = len(self.sizes) == len(self.axes) and all(at_most(0, s) for s in self.sizes)
        self.check(good, f"expected a size for each of axes {self.axes}, got {self.sizes}")
        shape = list(x.shape)
        for a, size in zip(self.axes, self.sizes, strict=True):
            shape.insert(a, size)
        return x.with_shape(shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, x: Array) -> Array:
        shape = list(x.shape)
        for a, size in zip(self.axes, ints(self.sizes), strict=True):
            shape.insert(a, size)
        front = range(len(self.axes))  # where NumPy has new axes anyway
        one = x if self.axes == tuple(front) else np.expand_dims(x, self.axes)
        return np.broadcast_to(one, tuple(shape))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.sum(self.axes),)

    @property
    def repeats(self) -> bool:
        return True

    def write(self, base: Expr, value: Expr) -> Expr:
        raise TypeCheckError(
            "expand: expected a tensor each of whose elements has its own memory to write to, got "
            f"{base.type} expanded to {value.type}; clone() it first"
        )

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        return tuple(i for a, i in enumerate(index) if a not in self.axes)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axes=(0,), sizes=(3,)), (draw.normal(rng),))
        yield Sample(cls(axes=(0,), sizes=(4,)), (draw.normal(rng, 3),))
        yield Sample(cls(axes=(1, 3), sizes=(2, 5)), (draw.normal(rng, 3, 1),))
        yield Sample(cls(axes=(1,), sizes=(0,)), (draw.normal(rng, 3),))
        yield Sample(cls(axes=(0,), sizes=(2,)), (draw.normal(rng, 0, 4),))
        yield Sample(cls(axes=(1,), sizes=(2,)), (np.array([True, False]),))


@final
@dataclass(frozen=True)
class Slice(View):
    """``x[start:stop:step, ...]``: one triple per axis, 0 <= start <= stop <= size, step >= 1."""

    starts: tuple[Size, ...]
    stops: tuple[Size, ...]
    steps: tuple[int, ...]

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        cut = (self.starts, self.stops, self.steps)
        if not all([len(part) == x.rank for part in cut]):
            self.check(False, f"expected a start, stop and step per axis of {x}, got {cut}")
        if not all([k >= 1 for k in self.steps]):
            self.check(False, f"expected steps >= 1, got {self.steps}")
        for a, (i, j, n) in enumerate(zip(self.starts, self.stops, x.shape, strict=True)):
            if not (at_most(0, i) and at_most(i, j) and at_most(j, n)):
                self.check(False, f"expected a slice inside axis {a} of {x}, got [{i}:{j}]")
        return x.with_shape(floordiv(j - i + k - 1, k) for i, j, k in zip(*cut, strict=True))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return Slice((0, *self.starts), (size, *self.stops), (1, *self.steps))

    def reference(self, x: Array) -> Array:
        cuts = zip(self.starts, self.stops, self.steps, strict=True)
        every: tuple[Any, ...] = tuple(slice(i, j, k) for i, j, k in cuts)
        return x[(*every, ...)]  # a view for rank 0 too

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        cuts = zip(self.starts, self.steps, g.shape, inputs[0].shape, strict=True)
        pads = tuple((i, n - i - (m * k - k + 1), k - 1) for i, k, m, n in cuts)
        return (g.op("pad", pads=pads, value=0.0),)

    def write(self, base: Expr, value: Expr) -> Expr:
        return base.op("slice_update", value, starts=self.starts, steps=self.steps)

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        return tuple(a + i * k for i, a, k in zip(index, self.starts, self.steps, strict=True))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls((), (), ()), (draw.normal(rng),))
        yield Sample(cls((1,), (4,), (1,)), (draw.normal(rng, 5),))
        yield Sample(cls((0, 2), (3, 5), (1, 1)), (draw.normal(rng, 3, 5),))
        yield Sample(cls((1, 0), (5, 7), (2, 3)), (draw.normal(rng, 5, 7),))
        yield Sample(cls((2,), (2,), (1,)), (draw.normal(rng, 5),))
        yield Sample(cls((2,), (2,), (3,)), (draw.normal(rng, 5),))
        yield Sample(cls((0, 1), (0, 3), (1, 2)), (draw.normal(rng, 0, 4),))
        yield Sample(cls((1,), (6,), (2,)), (np.arange(7),))


@final
@dataclass(frozen=True)
class Flip(IndexMap):
    """``axes`` the other way round."""

    axes: tuple[int, ...]

    def infer(self, x: Type) -> TensorType:
        x = tensor_type(self, x)
        good = all(0 <= a < x.rank for a in self.axes) and len({*self.axes}) == len(self.axes)
        self.check(good, f"expected distinct axes of {x}, got {self.axes}")
        return x

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, x: Array) -> Array:
        return np.flip(x, self.axes)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g.apply(self),)

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        return tuple(x.shape[a] - 1 - i if a in self.axes else i for a, i in enumerate(index))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axes=()), (draw.normal(rng),))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 5),))
        yield Sample(cls(axes=(0, 2)), (draw.normal(rng, 2, 1, 3),))
        yield Sample(cls(axes=(1,)), (draw.normal(rng, 0, 4),))
