"""Sorted rows: orders, the best few, and what lies in the middle. All work in compiled functions.

sort(x, dim=-1, descending=True).values
topk(x, 5).indices
quantile(x, 0.9, dim=1)

Equal elements stay in order, whatever ``stable`` says; NaN is greater than any number. Values are
read at the indices, so gradients go there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, rearrange, reduce, view
from vtc.frontend.functions.arguments import axis, expect_tensor, is_number, is_tensor
from vtc.frontend.functions.promotion import cast, expand_to, number
from vtc.frontend.functions.reduce import ValuesIndices
from vtc.frontend.source import located
from vtc.ir.dims import Size, floordiv
from vtc.ir.ops.fill import Iota
from vtc.ir.ops.index import Gather
from vtc.ir.ops.reduce import Argmax
from vtc.ir.ops.scan import Cumargmax
from vtc.ir.ops.sort import Argsort, Topk
from vtc.ir.ops.view import Reshape
from vtc.ir.types import bool_, f32, f64, i64, u8

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Interpolation = Literal["linear", "lower", "higher", "midpoint", "nearest"]
TURNS = {"lower": elementwise.floor, "higher": elementwise.ceil, "nearest": elementwise.round}
"""Which of two places a quantile takes that lies between them."""


def sort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> ValuesIndices:
    """The elements along ``dim`` in order, and where they were (int64); in a stable order."""
    del stable
    at = _axis("sort", input, dim)
    if not input.type.rank:
        return ValuesIndices(input.clone(), _zero(input))
    indices = dispatch.apply(Argsort(axis=at, descending=descending), input)
    return ValuesIndices(dispatch.apply(Gather(axis=at), input, indices), indices)


def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Tensor:
    """The int64 indices that sort ``input`` along ``dim``; equal elements stay in order."""
    del stable
    at = _axis("argsort", input, dim)
    if not input.type.rank:
        return _zero(input)
    return dispatch.apply(Argsort(axis=at, descending=descending), input)


def msort(input: Tensor) -> Tensor:
    """``input`` sorted along its first dim."""
    return sort(input, 0).values


def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> ValuesIndices:
    """The ``k`` largest (or smallest) elements along ``dim``, and where they are (int64).

    The most extreme comes first, whatever ``sorted`` says. Of equal elements the first ones are
    taken. IndexRangeError unless ``0 <= k <= size``.
    """
    del sorted
    at = _axis("topk", input, dim)
    count = input.type.shape[at] if input.type.rank else 1
    if k < 0 or (isinstance(count, int) and k > count):
        raise located(IndexRangeError, f"topk: expected 0 <= k <= {count}, got {k}")
    x = input if input.type.rank else view.reshape(input, (1,))
    indices = dispatch.apply(Topk(axis=at, k=int(k), largest=largest), x)
    found = ValuesIndices(dispatch.apply(Gather(axis=at), x, indices), indices)
    if input.type.rank or not k:
        return found
    return ValuesIndices(*(view.reshape(v, ()) for v in found))


def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The ``k``-th smallest element along ``dim`` (from 1), and where it is (int64).

    Of equal elements it is the first that is ``k``-th in order. IndexRangeError for another k.
    """
    at = _axis("kthvalue", input, dim)
    n = input.type.shape[at] if input.type.rank else 1
    if k < 1 or (isinstance(n, int) and k > n):
        raise located(IndexRangeError, f"kthvalue: expected 1 <= k <= {n}, got {k}")
    x = input if input.type.rank else view.reshape(input, (1,))
    order = dispatch.apply(Topk(axis=at, k=int(k), largest=False), x)
    return _read(input, x, at, view.cut(order, {at: (k - 1, k)}), keepdim)


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> ValuesIndices | Tensor:
    """The middle element along ``dim`` (the lower of two) and where it is; of all as one number.

    NaN where there is a NaN. Of equal elements any may be named.
    """
    expect_tensor("median", "input", input)
    if dim is None:
        flat = view.reshape(input, (input.type.numel,))
        return _of_all(flat) if flat.type.shape == (0,) else _median("median", flat, 0).values
    return _median("median", input, dim, keepdim)


def nanmedian(
    input: Tensor, dim: int | None = None, keepdim: bool = False
) -> ValuesIndices | Tensor:
    """:func:`median` of the elements that are not NaN; NaN where there are none."""
    expect_tensor("nanmedian", "input", input)
    if dim is None:
        flat = view.reshape(input, (input.type.numel,))
        return _of_all(flat) if flat.type.shape == (0,) else _median("nanmedian", flat, 0).values
    return _median("nanmedian", input, dim, keepdim)


def _of_all(input: Tensor) -> Tensor:
    if input.type.dtype.kind != "float":
        raise located(IndexRangeError, f"median: expected elements, got {input.type}")
    return number(float("nan"), input.type.dtype)


def _median(name: str, input: Tensor, dim: int, keepdim: bool = False) -> ValuesIndices:
    at = _axis(name, input, dim)
    x = input if input.type.rank else view.reshape(input, (1,))
    n = x.type.shape[at]
    if n == 0:
        raise located(IndexRangeError, f"{name}: expected dim {at} of {x.type} not to be empty")
    order = dispatch.apply(Argsort(axis=at, descending=False), x)
    middle = floordiv(n - 1, 2)
    place = view.cut(order, {at: (middle, middle + 1)})
    if x.type.dtype.kind == "float":
        wrong = comparison.isnan(x)
        if name == "nanmedian":
            count = reduce.sum(comparison.logical_not(wrong), at, True)
            middle_of = elementwise.clamp(elementwise.floor_divide(count - 1, 2), 0)
            place = dispatch.apply(Gather(axis=at), order, middle_of)
        else:
            first = reduce.argmax(cast(wrong, u8), at, True)
            place = comparison.where(reduce.any(wrong, at, True), first, place)
    return _read(input, x, at, place, keepdim)


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The most frequent element along ``dim`` (the smallest of several), and where it is last."""
    at = _axis("mode", input, dim)
    x = input if input.type.rank else view.reshape(input, (1,))
    n = x.type.shape[at]
    if n == 0:
        raise located(IndexRangeError, f"mode: expected dim {at} of {x.type} not to be empty")
    values, order = sort(x, at)
    place = dispatch.create(Iota(shape=x.type.shape, axis=at, dtype=i64), x.device)
    same = comparison.eq(view.cut(values, {at: (1, n)}), view.cut(values, {at: (0, n - 1)}))
    one = tuple(1 if a == at else m for a, m in enumerate(x.type.shape))
    alone = dispatch.constant(False, bool_, one, x.device)
    goes_on = rearrange.cat([alone, same], at)
    begins = comparison.where(goes_on, -1, place)
    start = dispatch.apply(Cumargmax(axis=at, reverse=False), begins)
    longest = dispatch.apply(Argmax(axis=at), place - start)
    longest = view.unsqueeze(longest, at)
    return _read(input, x, at, dispatch.apply(Gather(axis=at), order, longest), keepdim)


# quantiles


def quantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: Interpolation = "linear",
) -> Tensor:
    """The values below which a share ``q`` of the elements lies, along ``dim`` or of all.

    ``q`` is a number or a vector (a new first dim then) of the dtype of ``input``, float32 or
    float64. NaN where there is a NaN.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation)


def nanquantile(
    input: Tensor,
    q: float | Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: Interpolation = "linear",
) -> Tensor:
    """:func:`quantile` of the elements that are not NaN; NaN where there are none."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation)


def _quantile(
    name: str, input: Tensor, q: float | Tensor, dim: int | None, keepdim: bool, how: str
) -> Tensor:
    expect_tensor(name, "input", input)
    dtype, rank = input.type.dtype, input.type.rank
    if dtype not in (f32, f64):
        raise located(TypeCheckError, f"{name}: expected float32 or float64, got {input.type}")
    if how not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise located(ArgumentError, f"{name}: expected an interpolation, got {how!r}")
    whole = dim is None or not rank
    x = view.reshape(input, (input.type.numel,)) if whole else input
    at = axis(name, dim or 0, x.type.rank) if not whole else 0
    if x.type.shape[at] == 0:
        raise located(IndexRangeError, f"{name}: expected elements along dim {at} of {x.type}")
    shares = _shares(name, q, input)
    rows = view.movedim(x, at, -1)
    found = _along(name, rows, view.reshape(shares, (-1,)), how)  # [..., Q]
    kept = rows.type.shape[:-1]
    if keepdim:
        kept = tuple(1 if whole or a == at else n for a, n in enumerate(input.type.shape))
    if not shares.type.rank:
        return view.reshape(found, kept)
    return view.reshape(view.movedim(found, -1, 0), (*shares.type.shape, *kept))


def _shares(name: str, q: float | Tensor, input: Tensor) -> Tensor:
    if not is_tensor(q):
        if not is_number(q):
            got = f"got {type(q).__name__}"
            raise located(ArgumentError, f"{name}: expected q to be a number or a Tensor, {got}")
        if not 0 <= q <= 1:
            raise located(ArgumentError, f"{name}: expected 0 <= q <= 1, got {q}")
        return number(q, input.type.dtype)
    if q.type.dtype is not input.type.dtype or q.type.rank > 1:
        want = f"{name}: expected q as {input.type.dtype}, a number or a vector"
        raise located(TypeCheckError, f"{want}, got {q.type}")
    return q


def _along(name: str, rows: Tensor, shares: Tensor, how: str) -> Tensor:
    """Quantiles ``[..., Q]`` of ``rows [..., N]``."""
    last, n = rows.type.rank - 1, rows.type.shape[-1]
    ordered = sort(rows, last).values
    wrong = comparison.isnan(rows)
    if name == "nanquantile":
        count = reduce.sum(comparison.logical_not(wrong), last, True)
        top = cast(elementwise.clamp(count - 1, 0), rows.type.dtype)
    else:
        line = (*rows.type.shape[:-1], 1)
        top = number(n - 1, rows.type.dtype, line)
    shape: tuple[Size, ...] = (*rows.type.shape[:-1], *shares.type.shape)
    rank = elementwise.mul(top, expand_to(name, shares, shape))
    if how in TURNS:
        found = _picked(ordered, TURNS[how](rank))
    else:
        below = elementwise.floor(rank)
        weight = elementwise.sub(rank, below) if how == "linear" else 0.5
        found = elementwise.lerp(
            _picked(ordered, below), _picked(ordered, elementwise.ceil(rank)), weight
        )
    if name == "nanquantile":
        return found
    spoiled = expand_to(name, reduce.any(wrong, last, True), shape)
    result: Tensor = comparison.where(spoiled, float("nan"), found)
    return result


def _picked(ordered: Tensor, place: Tensor) -> Tensor:
    return dispatch.apply(Gather(axis=ordered.type.rank - 1), ordered, cast(place, i64))


# what they share


def _axis(name: str, input: Tensor, dim: int) -> int:
    expect_tensor(name, "input", input)
    if input.type.dtype.kind == "complex":
        raise located(TypeCheckError, f"{name}: expected an order, got {input.type}")
    return axis(name, dim, input.type.rank)


def _zero(input: Tensor) -> Tensor:
    return dispatch.constant(0, i64, (), input.device)


def _read(input: Tensor, x: Tensor, at: int, place: Tensor, keepdim: bool) -> ValuesIndices:
    """The elements of ``x`` at ``place``, whose size along ``at`` is 1."""
    values = dispatch.apply(Gather(axis=at), x, place)
    shape = x.type.shape
    kept = tuple(1 if a == at else n for a, n in enumerate(shape) if keepdim or a != at)
    kept = kept if input.type.rank else ()
    return ValuesIndices(*(dispatch.view(Reshape(shape=kept), v) for v in (values, place)))
