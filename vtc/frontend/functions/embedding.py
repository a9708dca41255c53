"""Rows of a table by number, alone or in bags.

embedding(tokens, weight, padding_idx=0)
embedding_bag(tokens, weight, offsets, mode="mean")     # bag k begins at offsets[k]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, index, inplace, reduce, subscript, view
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.promotion import expand_to, number
from vtc.frontend.functions.scattering import scatter_reduce
from vtc.frontend.source import located
from vtc.ir.ops.fill import Iota
from vtc.ir.ops.index import Index, IndexPut
from vtc.ir.ops.sort import Searchsorted
from vtc.ir.types import i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of ``weight [N, D]`` that ``input`` names; row ``padding_idx`` gets no gradient.

    With ``max_norm`` rows that are read and longer are first shortened, in ``weight`` itself. With
    ``scale_grad_by_freq`` a row's gradient is divided by how often it is read. Gradients are dense,
    ``sparse`` or not.
    """
    del sparse
    places = _checked("embedding", input, weight)
    if max_norm is not None:
        _shorten(weight, places, max_norm, norm_type)
    rows = dispatch.apply(Index(axes=(0,)), weight, places)
    if scale_grad_by_freq:
        often = _often(weight, places, rows)
        rows = elementwise.add(rows.detach(), elementwise.div(rows - rows.detach(), often))
    if padding_idx is None:
        return rows
    row = _row("embedding", padding_idx, weight)
    still: Tensor = comparison.where(
        view.unsqueeze(comparison.eq(input, row), -1), rows.detach(), rows
    )
    return still


def _checked(name: str, input: Tensor, weight: Tensor) -> Tensor:
    places = index.integers(name, input)
    expect_tensor(name, "weight", weight)
    if weight.type.rank != 2:
        raise located(TypeCheckError, f"{name}: expected a weight [N, D], got {weight.type}")
    return places


def _row(name: str, padding_idx: int, weight: Tensor) -> int:
    n = weight.type.shape[0]
    if isinstance(n, int) and not -n <= padding_idx < n:
        message = f"{name}: expected padding_idx within {weight.type}, got {padding_idx}"
        raise located(ArgumentError, message)
    return padding_idx + int(weight.shape[0]) if padding_idx < 0 else padding_idx


def _shorten(weight: Tensor, places: Tensor, most: float, p: float) -> None:
    """Scale the rows at ``places`` whose norm is above ``most``; all writes to a row are equal."""
    with dispatch.no_grad():
        line = view.flatten(places)
        rows = dispatch.apply(Index(axes=(0,)), weight.detach(), line)
        length = reduce.norm(rows, p, 1, keepdim=True)
        scale = comparison.where(length > most, most / (length + 1e-7), 1.0)
        put = IndexPut(axes=(0,), accumulate=False)
        inplace.copy_(weight, dispatch.apply(put, weight.detach(), rows * scale, line))


def _often(weight: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """How often each of ``rows`` is read."""
    dtype = weight.type.dtype
    line = view.flatten(places)
    none = number(0, dtype, weight.type.shape[:1])
    put = IndexPut(axes=(0,), accumulate=True)
    counts = dispatch.apply(put, none, number(1, dtype, line.type.shape), line)
    each = dispatch.apply(Index(axes=(0,)), counts, places)
    return expand_to("embedding", view.unsqueeze(each, -1), rows.type.shape)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The sum, mean or max of the rows that each bag of ``input`` names; 0 for an empty bag.

    Bags are the rows of ``input [B, L]``, or begin at ``offsets`` in a vector. Entries that are
    ``padding_idx`` do not count. ``per_sample_weights`` scale rows in mode "sum".
    """
    name = "embedding_bag"
    _checked(name, input, weight)
    _check_bags(input, offsets, mode, per_sample_weights)
    rows = embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if per_sample_weights is not None:
        rows = rows * view.unsqueeze(per_sample_weights, -1)
    counted = None
    if padding_idx is not None:
        counted = comparison.ne(input, _row(name, padding_idx, weight))
    if offsets is None:
        return _rows_of(rows, counted, mode)
    ends = offsets[:-1] if include_last_offset else offsets
    return _bags(rows, counted, index.integers(name, ends), mode)


def _check_bags(input: Tensor, offsets: Tensor | None, mode: str, weights: Tensor | None) -> None:
    name = "embedding_bag"
    if mode not in ("sum", "mean", "max"):
        message = f"{name}: expected mode to be sum, mean or max, got {mode!r}"
        raise located(ArgumentError, message)
    want = 2 if offsets is None else 1
    if input.type.rank != want or (offsets is not None and offsets.type.rank != 1):
        message = f"{name}: expected input [B, L], or a vector with a vector of offsets"
        raise located(TypeCheckError, f"{message}, got {input.type}")
    if weights is None:
        return
    if mode != "sum":
        raise located(ArgumentError, f"{name}: per_sample_weights need mode 'sum', got {mode!r}")
    if weights.type.shape != input.type.shape:
        message = f"{name}: expected per_sample_weights like {input.type}, got {weights.type}"
        raise located(TypeCheckError, message)


def _rows_of(rows: Tensor, counted: Tensor | None, mode: str) -> Tensor:
    """Bags that are rows: ``[B, L, D]`` to ``[B, D]``."""
    keep = None if counted is None else view.unsqueeze(counted, -1)
    if mode == "max":
        if rows.type.shape[1] == 0:
            return reduce.sum(rows, 1)
        low = rows if keep is None else comparison.where(keep, rows, -float("inf"))
        best: Tensor = reduce.max(low, 1).values
        return best if keep is None else comparison.masked_fill(best, best == -float("inf"), 0)
    total = reduce.sum(rows if keep is None else comparison.where(keep, rows, 0.0), 1)
    if mode == "sum":
        return total
    if counted is None:
        return total / max(int(rows.shape[1]), 1)
    return total / elementwise.clamp(reduce.sum(counted, 1, keepdim=True), min=1)


def _bags(rows: Tensor, counted: Tensor | None, offsets: Tensor, mode: str) -> Tensor:
    """Bags that begin at ``offsets`` of a vector: ``[N, D]`` to ``[B, D]``."""
    line = dispatch.create(Iota(shape=rows.type.shape[:1], axis=0, dtype=i64), rows.device)
    bag = dispatch.apply(Searchsorted(right=True), offsets.to(i64), line) - 1
    bag = subscript.wrapped(bag, offsets.shape[0])
    shape = (offsets.type.shape[0], rows.type.shape[1])
    none = number(0, rows.type.dtype, shape)
    if mode == "max":
        there = expand_to("embedding_bag", view.unsqueeze(bag, 1), rows.type.shape)
        if counted is None:
            return scatter_reduce(none, 0, there, rows, "amax", include_self=False)
        low = comparison.where(view.unsqueeze(counted, 1), rows, -float("inf"))
        best = scatter_reduce(none, 0, there, low, "amax", include_self=False)
        return comparison.masked_fill(best, best == -float("inf"), 0)
    if counted is not None:
        rows = comparison.where(view.unsqueeze(counted, 1), rows, 0.0)
    put = IndexPut(axes=(0,), accumulate=True)
    total = dispatch.apply(put, none, rows, bag)
    if mode == "sum":
        return total
    ones = number(1, i64, bag.type.shape) if counted is None else counted.to(i64)
    counts = dispatch.apply(put, number(0, i64, shape[:1]), ones, bag)
    return total / view.unsqueeze(elementwise.clamp(counts, min=1), 1)
