"""Where values belong, how many there are of each, and how they vary together.

searchsorted(edges, x)        # also bucketize(x, edges)
bincount(labels, minlength=10)
unique(x)                     # not in a compiled function: its size depends on the data
cov(x)                        # rows are variables, columns observations
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtc.errors import ArgumentError, CaptureError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, contract, elementwise, reduce, strides, view
from vtc.frontend.functions.arguments import Number, Value, expect_tensor, own_axis
from vtc.frontend.functions.promotion import cast, number, result_type, tensor_of, to_float
from vtc.frontend.source import located
from vtc.ir.ops.index import Gather, ScatterAdd
from vtc.ir.ops.sort import Searchsorted
from vtc.ir.types import Array, f32, f64, i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def searchsorted(
    sorted_sequence: Tensor,
    input: Value,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: Literal["left", "right"] | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where ``input`` belongs in ``sorted_sequence``, so that it stays sorted: int64 (or int32).

    The sequence has one dim, or the leading dims of ``input``. With ``right`` (or ``side``) behind
    equal elements. ``sorter`` are the indices that sort the sequence.
    """
    name = "searchsorted"
    expect_tensor(name, "sorted_sequence", sorted_sequence)
    if side not in (None, "left", "right") or (side == "left" and right):
        raise located(ArgumentError, f"{name}: expected side to be left or right, got {side!r}")
    dtype = result_type(sorted_sequence, input)
    row, values = cast(sorted_sequence, dtype), tensor_of(input, dtype)
    if not row.type.rank:
        raise located(TypeCheckError, f"{name}: expected a sequence, got {row.type}")
    if sorter is not None:
        row = dispatch.apply(Gather(axis=row.type.rank - 1), row, sorter)
    shape = values.type.shape
    if row.type.rank == 1:
        values = view.reshape(values, (values.type.numel,))
    elif row.type.shape[:-1] != shape[:-1] or not shape:
        got = f"got {row.type} and {values.type}"
        raise located(TypeCheckError, f"{name}: expected equal leading dims, {got}")
    found = dispatch.apply(Searchsorted(right=right or side == "right"), row, values)
    return cast(view.reshape(found, shape), i32 if out_int32 else i64)


def bucketize(
    input: Value, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """The number of the bucket between ascending ``boundaries`` that each value belongs to."""
    expect_tensor("bucketize", "boundaries", boundaries)
    if boundaries.type.rank != 1:
        want = "bucketize: expected boundaries of 1 dim"
        raise located(TypeCheckError, f"{want}, got {boundaries.type}")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# counts


def histc(input: Tensor, bins: int = 100, min: Number = 0, max: Number = 0) -> Tensor:
    """How many elements are in each of ``bins`` equal bins from ``min`` to ``max``, as a vector.

    Where both are equal, from the least element to the greatest. What is outside counts nowhere.
    """
    expect_tensor("histc", "input", input)
    dtype = input.type.dtype
    if dtype.kind != "float":
        raise located(TypeCheckError, f"histc: expected a floating-point input, got {input.type}")
    if bins < 1:
        raise located(ArgumentError, f"histc: expected bins >= 1, got {bins}")
    x = cast(view.reshape(input, (input.type.numel,)), dtype.accumulate)
    low, high = _limits(x, min, max)
    place = elementwise.floor((x - low) * float(bins) / (high - low))
    inside = comparison.logical_and(comparison.ge(x, low), comparison.le(x, high))
    place = cast(comparison.where(inside, elementwise.clamp(place, 0, bins - 1), 0.0), i64)
    empty = number(0, dtype.accumulate, (bins,))
    ones = cast(inside, dtype.accumulate)
    return cast(dispatch.apply(ScatterAdd(axis=0), empty, place, ones), dtype)


def _limits(x: Tensor, low: Number, high: Number) -> tuple[Tensor, Tensor]:
    """The ends of the bins, as 0-d tensors that differ."""
    dtype = x.type.dtype
    if low != high or x.type.numel == 0:
        ends = (low, high) if low != high else (0, 1)
        return number(ends[0], dtype), number(ends[1], dtype)
    first, last = reduce.amin(x), reduce.amax(x)
    if low != 0:
        first = last = number(low, dtype)
    same = cast(comparison.eq(first, last), dtype)
    return first - same, last + same


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of the integers from 0 on is in the vector ``input``, or their ``weights``.

    The result has ``minlength`` elements, or one more than the greatest. In a compiled function it
    has ``minlength`` elements, and a greater integer is an IndexRangeError.
    """
    expect_tensor("bincount", "input", input)
    if input.type.rank != 1 or input.type.dtype.kind != "int":
        raise located(TypeCheckError, f"bincount: expected a vector of integers, got {input.type}")
    if minlength < 0:
        raise located(ArgumentError, f"bincount: expected minlength >= 0, got {minlength}")
    if weights is not None and weights.type.shape != input.type.shape:
        want = f"bincount: expected a weight for each of {input.type}"
        raise located(TypeCheckError, f"{want}, got {weights.type}")
    count = _bins(input, minlength)
    dtype = i64 if weights is None else f32 if weights.type.dtype is f32 else f64
    added = number(1, i64, input.type.shape) if weights is None else cast(weights, dtype)
    empty = dispatch.constant(0, dtype, (count,), input.device)
    if input.type.numel == 0:
        return empty
    return dispatch.apply(ScatterAdd(axis=0), empty, cast(input, i64), added)


def _bins(input: Tensor, minlength: int) -> int:
    if dispatch.is_capturing():
        if not minlength:
            message = "bincount: minlength has to be given in a compiled function: it is the size"
            raise located(CaptureError, message)
        return minlength
    if input.type.numel == 0:
        return minlength
    if int(reduce.amin(input).item()) < 0:
        raise located(IndexRangeError, "bincount: expected integers from 0 on")
    return reduce.max_of(int(reduce.amax(input).item()) + 1, minlength)  # type: ignore[return-value]


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements (or slices along ``dim``) in ascending order.

    With ``return_inverse`` also where each element is among them, with ``return_counts`` how often.
    Not in a compiled function: sort there, or count with ``bincount(x, minlength=n)``.
    """
    del sorted
    x = _known("unique", input)
    at = None if dim is None else own_axis("unique", dim, input.type)
    values, inverse, counts = np.unique(
        x, return_inverse=True, return_counts=True, axis=at, equal_nan=False
    )
    inverse = inverse.reshape(x.shape if at is None else (-1,))
    return _chosen(input, values, (return_inverse, inverse), (return_counts, counts))


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The elements (or slices along ``dim``) that differ from the one before.

    What else it gives is as in :func:`unique`.
    """
    x = _known("unique_consecutive", input)
    at = 0 if dim is None else own_axis("unique_consecutive", dim, input.type)
    rows = x.reshape(-1) if dim is None else np.moveaxis(x, at, 0)
    flat = rows.reshape(len(rows), -1)
    starts = np.ones(len(rows), bool)
    starts[1:] = (flat[1:] != flat[:-1]).any(1)
    inverse = np.cumsum(starts) - 1
    counts = np.bincount(inverse, minlength=int(starts.sum())) if len(rows) else inverse
    values = rows[starts] if dim is None else np.moveaxis(rows[starts], 0, at)
    inverse = inverse.reshape(x.shape) if dim is None else inverse
    return _chosen(input, values, (return_inverse, inverse), (return_counts, counts))


def _known(name: str, input: Tensor) -> Array:
    expect_tensor(name, "input", input)
    if dispatch.is_capturing():
        instead = "sort it, or count with vtc.bincount(x, minlength=n)"
        raise located(CaptureError, f"{name} has no fixed size; {instead}")
    found: Array = input.detach().cpu().numpy()
    return found


def _chosen(input: Tensor, values: Array, *others: tuple[bool, Array]) -> Any:
    found = [values, *(a.astype(np.int64) for wanted, a in others if wanted)]
    tensors = [dispatch.from_array(np.ascontiguousarray(a), device=input.device) for a in found]
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


# statistics of several variables


def cov(
    input: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """The covariances ``[V, V]`` of the rows of ``input [V, N]``; of one row a number.

    ``fweights`` say how often each column is observed and ``aweights`` how much it counts.
    """
    expect_tensor("cov", "input", input)
    if input.type.rank > 2:
        raise located(TypeCheckError, f"cov: expected 2 dims or fewer, got {input.type}")
    n = input.type.shape[-1] if input.type.rank else 1
    x = to_float(view.reshape(input, (-1, n) if input.type.rank < 2 else input.type.shape))
    weights = _weights(x, fweights, aweights)
    if weights is None:
        centred = x - reduce.mean(x, 1, True)
        total: Any = number(n, x.type.dtype)
        norm, weighted = total - correction, centred
    else:
        total = reduce.sum(weights)
        centred = x - reduce.sum(x * weights, 1, True) / total
        weighted, norm = centred * weights, total - correction
        if aweights is not None:
            squared = reduce.sum(weights * cast(aweights, x.type.dtype))
            norm = total - correction * squared / total
    found = contract.matmul(weighted, view.transpose(centred, 0, 1))
    found = found / elementwise.clamp(norm, 0)
    return found if found.type.numel != 1 else view.reshape(found, ())


def _weights(x: Tensor, fweights: Tensor | None, aweights: Tensor | None) -> Tensor | None:
    given = [w for w in (fweights, aweights) if w is not None]
    for w in given:
        if w.type.shape != x.type.shape[-1:]:
            want = f"cov: expected a weight for each of {x.type.shape[-1]} columns"
            raise located(TypeCheckError, f"{want}, got {w.type}")
    parts = [cast(w, x.type.dtype) for w in given]
    if len(parts) == 2:
        return parts[0] * parts[1]
    return parts[0] if parts else None


def corrcoef(input: Tensor) -> Tensor:
    """The correlations ``[V, V]`` of the rows of ``input [V, N]``, from -1 to 1; of one row 1."""
    c = cov(input)
    if not c.type.rank:
        return c / c
    spread = elementwise.sqrt(strides.diagonal(c))
    scaled = c / view.unsqueeze(spread, 1) / view.unsqueeze(spread, 0)
    return elementwise.clamp(scaled, -1.0, 1.0)
