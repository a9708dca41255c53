"""Indices as coordinates, and of what is not 0, so many as are asked for.

unravel_index(i, (3, 4))             # rows, columns
nonzero_static(x, size=5)            # its size is known, so a compiled function may have it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, rearrange, reduce, scan, view
from vtc.frontend.functions.arguments import expect_tensor, shape
from vtc.frontend.functions.histogram import searchsorted
from vtc.frontend.functions.promotion import cast
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.ops.fill import Iota
from vtc.ir.types import i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The coordinates, one tensor a dim, of row-major ``indices`` into a tensor of ``shape``.

    Negative indices count from the end. IndexRangeError (eager) for those outside.
    """
    expect_tensor("unravel_index", "indices", indices)
    if indices.type.dtype.kind != "int":
        message = f"unravel_index: expected integers, got {indices.type}"
        raise located(TypeCheckError, message)
    sizes = _sizes(shape)
    count: Any = product(sizes)
    if not dispatch.is_capturing() and indices.type.numel:
        low, high = (int(f(indices).item()) for f in (reduce.amin, reduce.amax))
        if low < -count or high >= count:
            message = f"expected indices into {count} elements, got {low} to {high}"
            raise located(IndexRangeError, f"unravel_index: {message}")
    rest = comparison.where(comparison.lt(indices, 0), elementwise.add(indices, count), indices)
    found: list[Tensor] = []
    for n in reversed(sizes):
        found.insert(0, elementwise.remainder(rest, n))
        rest = elementwise.floor_divide(rest, n)
    return tuple(found)


def _sizes(given: Any) -> tuple[Any, ...]:
    each: Sequence[Any] = given if isinstance(given, Sequence) else (given,)
    if hasattr(given, "tolist"):
        each = given.tolist()
    return shape("unravel_index", (tuple(each),))


def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first ``size`` indices ``[size, rank]`` of :func:`nonzero`; what is missing is
    ``fill_value``.
    """
    expect_tensor("nonzero_static", "input", input)
    if size < 0:
        raise located(ArgumentError, f"nonzero_static: expected size >= 0, got {size}")
    type, count = input.type, dispatch.size(size)
    if type.numel == 0 or not type.rank:
        shape = (count, type.rank)
        return dispatch.constant(fill_value, i64, shape, input.device)
    there = cast(comparison.ne(view.reshape(input, (type.numel,)), 0), i64)
    sofar = scan.cumsum(there, 0)
    number = elementwise.add(dispatch.create(Iota((count,), 0, i64), input.device), 1)
    last: Any = type.numel
    flat = elementwise.clamp(searchsorted(sofar, number), max=last - 1)
    coordinates: list[Tensor] = []
    for n in reversed(type.shape):
        coordinates.insert(0, elementwise.remainder(flat, n))  # type: ignore[arg-type]
        flat = elementwise.floor_divide(flat, n)  # type: ignore[arg-type]
    found = comparison.le(number, reduce.sum(there))
    chosen: Tensor = comparison.where(
        view.unsqueeze(found, 1), rearrange.stack(coordinates, 1), fill_value
    )
    return chosen
