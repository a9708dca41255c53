"""Reading and writing at computed places.

Indices are i64 or i32 and must lie in ``[0, n)``: the reference raises IndexRangeError, a kernel
reports it. Readers are Pointwise; :class:`Scattering` ops copy their first input and then visit the
elements they write::

    rows: f32[T, 64] = index(table, tokens, axes=(0,))
    table_1: f32[V, 64] = index_put(table, rows, tokens, axes=(0,), accumulate=True)
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from vtc.errors import IndexRangeError
from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Pointwise, Sample, shifted, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.view import at_most
from vtc.ir.scalar import Index as Place
from vtc.ir.scalar import Operand, Scalar, Scalars
from vtc.ir.types import Array, TensorType, Type


@final
@dataclass(frozen=True)
class Index(Pointwise):
    """``x`` at ``indices``, one per axis of ``axes`` (sorted) and all of one shape S.

    The result has the other axes of ``x`` in order, with S where ``axes[0]`` was.
    """

    axes: tuple[int, ...]
    moves = True

    def infer(self, x: Type, *indices: Type) -> Type:
        x, parts = tensor_type(self, x), [tensor_type(self, i) for i in indices]
        check_indices(self, x, self.axes, parts)
        return x.with_shape(read_shape(x, self.axes, parts[0]))

    def reference(self, x: Array, *indices: Array) -> Array:
        for axis, i in zip(self.axes, indices, strict=True):
            check_range(self, i, axis, x.shape[axis])
        front = x.transpose(*self.axes, *_others(self.axes, x.ndim))
        rank, at = indices[0].ndim, self.axes[0]
        return np.moveaxis(front[tuple(indices)], range(rank), range(at, at + rank))

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        x, *indices = inputs
        if not any(batched[1:]):
            return x.apply(shifted(self), *indices)
        rank = inputs[1 + batched[1:].index(True)].rank - 1
        at = self.axes[0]
        if not batched[0]:  # the examples are a part of the index: they come where it does
            out = x.apply(self, *lined_up(size, indices, batched[1:]))
            return out.permute(_order(out.rank, at, 1, 0))
        axes = (0, *(a + 1 for a in self.axes))
        out = x.apply(Index(axes=axes), *by_example(size, indices, batched[1:]))
        return out.permute(_order(out.rank, 1, rank, at + 1))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, *indices = inputs
        put = IndexPut(axes=self.axes, accumulate=True)
        return (x.zeros().apply(put, g, *indices), *(None for _ in indices))

    def element(
        self, s: Scalars, index: Place, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        x, *indices = inputs
        return x.at(read_place(s, self.axes, index, x.type, indices))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.normal(rng, 4, 3, 5)
        yield Sample(cls(axes=(0,)), (x, rng.integers(0, 4, (2, 3))))
        yield Sample(cls(axes=(1,)), (x, np.array(2)))
        yield Sample(cls(axes=(0, 2)), (x, rng.integers(0, 4, 6), rng.integers(0, 5, 6)))
        yield Sample(cls(axes=(1, 2)), (x, np.array([1, 1]), np.array([4, 4], np.int32)))
        yield Sample(cls(axes=(0,)), (x, np.zeros((0,), np.int64)))
        yield Sample(cls(axes=(0,)), (draw.normal(rng, 1), np.zeros((1, 2), np.int64)))


@final
@dataclass(frozen=True)
class Gather(Pointwise):
    """``out[a, i, b] = x[a, index[a, i, b], b]``; off ``axis`` ``index`` may be the smaller."""

    axis: int
    moves = True

    def infer(self, x: Type, index: Type) -> Type:
        x, index = tensor_type(self, x), tensor_type(self, index)
        check_along(self, x, self.axis, index)
        return x.with_shape(index.shape)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def reference(self, x: Array, index: Array) -> Array:
        check_range(self, index, self.axis, x.shape[self.axis])
        return np.take_along_axis(x[_corner(self.axis, index.shape)], index, self.axis)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, index = inputs
        return x.zeros().apply(ScatterAdd(axis=self.axis), index, g), None

    def element(
        self, s: Scalars, index: Place, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        x, along = inputs
        return x.at(moved(s, self.axis, index, x.type, along))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(axis=1), (draw.normal(rng, 3, 5), rng.integers(0, 5, (3, 2))))
        yield Sample(cls(axis=0), (draw.normal(rng, 3, 5), rng.integers(0, 3, (7, 4))))
        yield Sample(cls(axis=2), (draw.normal(rng, 2, 3, 4), rng.integers(0, 4, (2, 3, 1))))
        yield Sample(cls(axis=0), (draw.normal(rng, 1), np.zeros(3, np.int32)))
        yield Sample(cls(axis=1), (draw.normal(rng, 3, 5), np.zeros((0, 4), np.int64)))


@dataclass(frozen=True)
class Scattering(Op, abstract=True):
    """A copy of input 0 into which the elements of another input are written, or added.

    Kernels copy first, then loop over the elements of input ``values`` and ask ``target`` where
    each goes; without ``accumulate`` the last one in row-major order stays.
    """

    values: ClassVar[int]
    if TYPE_CHECKING:  # at run time a property would become the default of IndexPut's field

        @property
        def accumulate(self) -> bool:
            """Whether elements are added to what is there."""

    @property
    def joined(self) -> str:
        """The primitive (``add``, ``mul``, ``max``, ``min``) by which elements accumulate."""
        return "add"

    @abc.abstractmethod
    def target(self, s: Scalars, index: Place, inputs: Sequence[Operand]) -> Place:
        """Where in the result the element of ``values`` at ``index`` goes."""

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return shifted(self)

    def check_sum(self, x: TensorType) -> None:
        """TypeCheckError where the elements of ``x`` cannot be added."""
        self.check(x.dtype.kind != "bool", f"expected numbers to accumulate, got {x}")


@final
@dataclass(frozen=True)
class IndexPut(Scattering):
    """``x`` with ``values`` at ``indices`` (see :class:`Index`), set or added.

    The gradient of values that were overwritten by later ones is not masked out, as in PyTorch.
    """

    axes: tuple[int, ...]
    accumulate: bool
    values = 1

    def infer(self, x: Type, values: Type, *indices: Type) -> Type:
        x, parts = tensor_type(self, x), [tensor_type(self, i) for i in indices]
        check_indices(self, x, self.axes, parts)
        want = x.with_shape(read_shape(x, self.axes, parts[0]))
        self.check(values == want, f"expected values of type {want}, got {values}")
        if self.accumulate:
            self.check_sum(x)
        return x

    def reference(self, x: Array, values: Array, *indices: Array) -> Array:
        for axis, i in zip(self.axes, indices, strict=True):
            check_range(self, i, axis, x.shape[axis])
        out, rank = x.copy(), indices[0].ndim
        front = out.transpose(*self.axes, *_others(self.axes, x.ndim))
        values = np.moveaxis(values, range(self.axes[0], self.axes[0] + rank), range(rank))
        # One flat index axis: NumPy then writes in order, so the last write wins.
        flat = values.reshape(indices[0].size, *values.shape[rank:])
        _put(front, tuple(i.reshape(-1) for i in indices), flat, accumulate=self.accumulate)
        return out

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Expr:
        x, values, *indices = inputs
        x, values = lined_up(size, (x, values), batched[:2])
        if not any(batched[2:]):
            return x.apply(shifted(self), values, *indices)
        places = by_example(size, indices, batched[2:])
        axes = (0, *(a + 1 for a in self.axes))
        order = _order(values.rank, self.axes[0] + 1, places[0].rank - 1, 1)
        put = IndexPut(axes=axes, accumulate=self.accumulate)
        return x.apply(put, values.permute(order), *places)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        _, values, *indices = inputs
        dx = g if self.accumulate else g.apply(self, values.zeros(), *indices) if needs[0] else None
        dvalues = g.apply(Index(axes=self.axes), *indices) if needs[1] else None
        return (dx, dvalues, *(None for _ in indices))

    def target(self, s: Scalars, index: Place, inputs: Sequence[Operand]) -> Place:
        x, _, *indices = inputs
        return read_place(s, self.axes, index, x.type, indices)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x, some = draw.normal(rng, 4, 3, 5), np.array([[3, 0], [2, 1]])
        for accumulate in (True, False):
            op = cls(axes=(0,), accumulate=accumulate)
            yield Sample(op, (x, draw.normal(rng, 2, 2, 3, 5), some))
            yield Sample(op, (x, draw.normal(rng, 0, 3, 5), np.zeros(0, np.int64)))
            two = cls(axes=(0, 2), accumulate=accumulate)
            yield Sample(two, (x, draw.normal(rng, 2, 3), np.array([1, 3]), np.array([4, 0])))
        again = np.array([1, 1, 0], np.int32)
        yield Sample(cls(axes=(1,), accumulate=True), (x, draw.normal(rng, 4, 3, 5), again))
        # With an element written twice, the gradient is not that of finite differences.
        twice = cls(axes=(1,), accumulate=False)
        yield Sample(twice, (x, draw.normal(rng, 4, 3, 5), again), smooth=False)


@final
@dataclass(frozen=True)
class ScatterAdd(Scattering):
    """``x`` with ``src[a, i, b]`` added at ``[a, index[a, i, b], b]`` along ``axis``."""

    axis: int
    accumulate: ClassVar[bool] = True
    values = 2

    def infer(self, x: Type, index: Type, src: Type) -> Type:
        out = scattered(self, self.axis, x, index, src)
        self.check_sum(out)
        return out

    def reference(self, x: Array, index: Array, src: Array) -> Array:
        return scatter(self, self.axis, x, index, src)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        index = inputs[1]
        return g, None, g.apply(Gather(axis=self.axis), index) if needs[2] else None

    def target(self, s: Scalars, index: Place, inputs: Sequence[Operand]) -> Place:
        return moved(s, self.axis, index, inputs[0].type, inputs[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x = draw.normal(rng, 3, 5)
        yield Sample(cls(axis=1), (x, rng.integers(0, 5, (3, 7)), draw.normal(rng, 3, 7)))
        yield Sample(cls(axis=0), (x, rng.integers(0, 3, (2, 4)), draw.normal(rng, 2, 4)))
        yield Sample(cls(axis=0), (draw.normal(rng, 1), np.zeros(3, np.int32), draw.normal(rng, 3)))
        yield Sample(cls(axis=0), (x, np.zeros((0, 5), np.int64), draw.normal(rng, 0, 5)))


@final
@dataclass(frozen=True)
class Scatter(Scattering):
    """``x`` with ``src[a, i, b]`` set at ``[a, index[a, i, b], b]`` along ``axis``.

    The gradient of elements that were overwritten by later ones is not masked out, as in PyTorch.
    """

    axis: int
    accumulate: ClassVar[bool] = False
    values = 2

    def infer(self, x: Type, index: Type, src: Type) -> Type:
        return scattered(self, self.axis, x, index, src)

    def reference(self, x: Array, index: Array, src: Array) -> Array:
        return scatter(self, self.axis, x, index, src)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        _, index, src = inputs
        dx = g.apply(self, index, src.zeros()) if needs[0] else None
        return dx, None, g.apply(Gather(axis=self.axis), index) if needs[2] else None

    def target(self, s: Scalars, index: Place, inputs: Sequence[Operand]) -> Place:
        return moved(s, self.axis, index, inputs[0].type, inputs[1])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x, unique = draw.normal(rng, 3, 5), np.array([[4, 0], [1, 2], [3, 1]])
        yield Sample(cls(axis=1), (x, unique, draw.normal(rng, 3, 2)))
        yield Sample(cls(axis=0), (x, np.zeros((1, 4), np.int32), draw.normal(rng, 1, 4)))
        yield Sample(cls(axis=0), (x, np.zeros((0, 5), np.int64), draw.normal(rng, 0, 5)))
        twice = np.array([[1, 1]] * 3)
        yield Sample(cls(axis=1), (x, twice, draw.normal(rng, 3, 2)), smooth=False)


def lined_up(size: Size, inputs: Sequence[Expr], batched: Needs) -> list[Expr]:
    """``inputs``, all with an axis of the examples in front."""
    pairs = zip(inputs, batched, strict=True)
    return [x if b else x.expand((0,), (size,)) for x, b in pairs]


def by_example(size: Size, indices: Sequence[Expr], batched: Needs) -> list[Expr]:
    """``indices`` for all examples, the first of them the number of the example."""
    rest = lined_up(size, indices, batched)
    return [rest[0].iota(rest[0].shape, 0, rest[0].dtype), *rest]


def _order(rank: int, start: int, count: int, to: int) -> list[int]:
    """The permutation that moves ``count`` axes from ``start`` to ``to``."""
    order = [a for a in range(rank) if not start <= a < start + count]
    order[to:to] = range(start, start + count)
    return order


def check_indices(
    op: Op, x: TensorType, axes: tuple[int, ...], indices: Sequence[TensorType]
) -> None:
    """TypeCheckError unless ``axes`` are sorted axes of ``x``, each with an index of one shape."""
    ordered = list(axes) == sorted(set(axes)) and all(0 <= a < x.rank for a in axes)
    op.check(bool(axes) and ordered, f"expected sorted axes of {x}, got {axes}")
    count = f"expected {len(axes)} indices, got {len(indices)}"
    op.check(len(indices) == len(axes), count)
    for i in indices:
        check_integer(op, i)
        same = f"expected indices of one shape, got {indices[0]} and {i}"
        op.check(i.shape == indices[0].shape, same)


def check_along(op: Op, x: TensorType, axis: int, index: TensorType) -> None:
    """TypeCheckError unless ``index`` may index ``x`` along ``axis``."""
    check_integer(op, index)
    op.check(0 <= axis < x.rank, f"expected an axis of {x}, got {axis}")
    fits = index.rank == x.rank and all(
        a == axis or at_most(n, m)
        for a, (n, m) in enumerate(zip(index.shape, x.shape, strict=True))
    )
    op.check(fits, f"expected an index no larger than {x} off axis {axis}, got {index}")


def check_range(op: Op, index: Array, axis: int, size: int) -> None:
    """IndexRangeError unless all of ``index`` lies in ``[0, size)``."""
    bad = (index < 0) | (index >= size)
    if bad.any():
        value = index[bad].reshape(-1)[0]
        want = f"expected 0 <= index < {size} along axis {axis}"
        raise IndexRangeError(f"{op.name}: {want}, got {value}")


def read_shape(x: TensorType, axes: tuple[int, ...], index: TensorType) -> tuple[Size, ...]:
    """The shape of :class:`Index`'s result."""
    kept = [x.shape[a] for a in _others(axes, x.rank)]
    return (*kept[: axes[0]], *index.shape, *kept[axes[0] :])


def read_place(
    s: Scalars, axes: tuple[int, ...], index: Place, x: TensorType, indices: Sequence[Operand]
) -> Place:
    """Where in ``x`` the element of :class:`Index`'s result at ``index`` is."""
    at, rank = axes[0], indices[0].type.rank
    inner = index[at : at + rank]
    found = {a: s.to_index(i.at(inner), x.shape[a]) for a, i in zip(axes, indices, strict=True)}
    rest = iter((*index[:at], *index[at + rank :]))
    return tuple(found[a] if a in found else next(rest) for a in range(x.rank))


def check_integer(op: Op, index: TensorType) -> None:
    """TypeCheckError unless ``index`` is of i64 or i32."""
    good = index.dtype.name in ("i64", "i32")
    op.check(good, f"expected indices of i64 or i32, got {index}")


def _others(axes: tuple[int, ...], rank: int) -> list[int]:
    return [a for a in range(rank) if a not in axes]


def _corner(axis: int, shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(shape))


def moved(s: Scalars, axis: int, index: Place, x: TensorType, along: Operand) -> Place:
    """``index`` with what ``along`` says in place of ``axis``."""
    found = s.to_index(along.at(index), x.shape[axis])
    return (*index[:axis], found, *index[axis + 1 :])


def scattered(op: Op, axis: int, x: Type, index: Type, src: Type) -> TensorType:
    """The type of ``x``; TypeCheckError unless ``src`` may be scattered into it."""
    x, index = tensor_type(op, x), tensor_type(op, index)
    check_along(op, x, axis, index)
    want = x.with_shape(index.shape)
    op.check(src == want, f"expected a source of type {want}, got {src}")
    return x


def scatter(
    op: Scattering,
    axis: int,
    x: Array,
    index: Array,
    src: Array,
    add: Callable[[Array, tuple[Array, ...], Array], None] = np.add.at,
) -> Array:
    """``x`` with the elements of ``src`` set, or joined by ``add`` where ``op`` accumulates."""
    check_range(op, index, axis, x.shape[axis])
    out = x.copy()
    places = list(np.indices(index.shape, sparse=False).reshape(index.ndim, -1))
    places[axis] = index.reshape(-1)
    if op.accumulate:
        add(out, tuple(places), src.reshape(-1))
    else:
        out[tuple(places)] = src.reshape(-1)
    return out


def _put(out: Array, places: tuple[Array, ...], values: Array, *, accumulate: bool) -> None:
    if accumulate:
        np.add.at(out, places, values)
    else:
        out[places] = values
