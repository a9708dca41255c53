"""Sums without NaN, histograms, and what else is told about many numbers.

nansum(x, 0), nanmean(x, 0)            # NaN counts as missing
hist, edges = histogram(x, 10)
isin(x, y)                             # which elements of x are among those of y
renorm(x, 2, 0, 1.0)                   # rows no longer than 1
gradient(y, spacing=0.1)               # differences in the middle
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, rearrange, reduce, view
from vtc.frontend.functions.arguments import (
    Dims,
    Number,
    Value,
    axes,
    axis,
    expect_tensor,
    is_tensor,
)
from vtc.frontend.functions.creation import linspace
from vtc.frontend.functions.histogram import searchsorted
from vtc.frontend.functions.promotion import cast, number, result_type, tensor_of, to_float
from vtc.frontend.source import located
from vtc.ir.ops.index import ScatterAdd
from vtc.ir.types import DType, bool_, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# numbers among NaN


def nansum(
    input: Tensor, dim: Dims | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """:func:`sum` in which NaN counts as 0."""
    return reduce.sum(_known(input), dim, keepdim, dtype=dtype)


def nanmean(
    input: Tensor, dim: Dims | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """:func:`mean` of what is not NaN; NaN of nothing. TypeCheckError for integers."""
    expect_tensor("nanmean", "input", input)
    if input.type.dtype.kind != "float":
        message = f"nanmean: expected a floating-point input, got {input.type}"
        raise located(TypeCheckError, message)
    want = dtype or input.type.dtype
    there = cast(comparison.logical_not(comparison.isnan(input)), want.accumulate)
    total = nansum(cast(input, want.accumulate), dim, keepdim)
    return cast(elementwise.div(total, reduce.sum(there, dim, keepdim)), want)


def _known(input: Tensor) -> Tensor:
    expect_tensor("nansum", "input", input)
    if input.type.dtype.kind != "float":
        return input
    found: Tensor = comparison.where(comparison.isnan(input), 0.0, input)
    return found


def std_mean(
    input: Tensor,
    dim: Dims | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`std` and :func:`mean` together."""
    spread = reduce.std(input, dim, unbiased, keepdim, correction=correction)
    return spread, reduce.mean(input, dim, keepdim)


# norms


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Slices along ``dim`` whose ``p``-norm is above ``maxnorm``, scaled down to it."""
    expect_tensor("renorm", "input", input)
    at = axis("renorm", dim, input.type.rank)
    if input.type.rank < 2:
        raise located(TypeCheckError, f"renorm: expected 2 dims or more, got {input.type}")
    if p <= 0 or maxnorm < 0:
        got = f"got p={p} and maxnorm={maxnorm}"
        raise located(ArgumentError, f"renorm: expected p > 0 and maxnorm >= 0, {got}")
    wide = cast(input, input.type.dtype.accumulate)
    others = [a for a in range(input.type.rank) if a != at]
    size = reduce.norm(wide, p, others, keepdim=True)
    shrink = elementwise.div(maxnorm, elementwise.add(size, 1e-7))
    factor = comparison.where(comparison.gt(size, maxnorm), shrink, 1.0)
    return cast(elementwise.mul(wide, factor), input.type.dtype)


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The ``pow``-norm of each slice along ``dim``, with sizes of 1; of all for ``dim=-1``."""
    expect_tensor("norm_except_dim", "v", v)
    if dim == -1:
        return reduce.norm(v, pow)
    others = [a for a in range(v.type.rank) if a != axis("norm_except_dim", dim, v.type.rank)]
    return reduce.norm(v, pow, others, keepdim=True) if others else elementwise.abs(v)


def frobenius_norm(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """The square root of the sum of squares over ``dim``."""
    return reduce.norm(input, 2, dim, keepdim)


# histograms


class HistogramResult(NamedTuple):
    """What :func:`histogram` returns."""

    hist: Tensor
    bin_edges: Tensor


class HistogramddResult(NamedTuple):
    """What :func:`histogramdd` returns."""

    hist: Tensor
    bin_edges: tuple[Tensor, ...]


def histogram(
    input: Tensor,
    bins: int | Tensor,
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> HistogramResult:
    """How many elements, or what ``weight`` of them, lie in each bin, and the edges of the bins.

    ``bins`` is how many of one width there are, from the least element to the greatest or over
    ``range``; or their edges, ascending. A bin has its left edge, the last one its right edge too.
    With ``density`` the area under the result is 1. TypeCheckError for integers.
    """
    expect_tensor("histogram", "input", input)
    flat = view.reshape(input, (input.type.numel, 1))
    weights = None if weight is None else view.reshape(weight, (weight.type.numel,))
    limits = None if range is None else tuple(range)
    found = histogramdd(flat, (bins,), range=limits, weight=weights, density=density)
    return HistogramResult(found.hist, found.bin_edges[0])


def histogramdd(
    input: Tensor,
    bins: int | Sequence[int] | Sequence[Tensor] | Sequence[int | Tensor],
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> HistogramddResult:
    """:func:`histogram` of points, the rows of ``input [..., D]``; ``bins`` of each of D dims.

    ``range`` has the least and the greatest number of each dim, one after the other.
    """
    expect_tensor("histogramdd", "input", input)
    if input.type.dtype.kind != "float" or not input.type.rank:
        want = "expected floating-point points [.., D]"
        raise located(TypeCheckError, f"histogram: {want}, got {input.type}")
    count = int(input.shape[-1])
    each = list(bins) if isinstance(bins, Sequence) else [bins] * count
    if len(each) != count:
        message = f"histogramdd: expected bins for {count} dims, got {len(each)}"
        raise located(ArgumentError, message)
    points = view.reshape(input.detach(), (input.type.numel // max(count, 1), count))
    columns = view.unbind(points, 1)
    ends = [None if range is None else (range[2 * k], range[2 * k + 1]) for k in _count(count)]
    edges = [_edges(c, b, e) for c, b, e in zip(columns, each, ends, strict=True)]
    hist = _counted(columns, edges, weight, input.type.dtype)
    return HistogramddResult(_dense(hist, edges) if density else hist, tuple(edges))


_count = range
"""Python's, whose name is an argument here."""


def _edges(x: Tensor, bins: Any, ends: tuple[float, float] | None) -> Tensor:
    if is_tensor(bins):
        if bins.type.rank != 1:
            raise located(TypeCheckError, f"histogram: expected a vector of edges, got {bins.type}")
        return cast(bins, x.type.dtype)
    n = int(bins)
    if n < 1:
        raise located(ArgumentError, f"histogram: expected bins >= 1, got {n}")
    if ends is not None:
        low, high = ends
        if low > high:
            raise located(ArgumentError, f"histogram: expected min <= max in range, got {ends}")
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
        return linspace(low, high, n + 1, dtype=x.type.dtype, device=x.device)
    if x.type.numel == 0:
        return linspace(0, 1, n + 1, dtype=x.type.dtype, device=x.device)
    first, last = reduce.amin(x), reduce.amax(x)
    flat = comparison.eq(first, last)
    low_end: Tensor = comparison.where(flat, first - 0.5, first)
    high_end: Tensor = comparison.where(flat, last + 0.5, last)
    share = linspace(0, 1, n + 1, dtype=x.type.dtype, device=x.device)
    line = elementwise.add(low_end, elementwise.mul(share, elementwise.sub(high_end, low_end)))
    found: Tensor = comparison.where(comparison.eq(share, 1.0), high_end, line)
    return found


def _counted(
    columns: Sequence[Tensor], edges: Sequence[Tensor], weight: Tensor | None, dtype: DType
) -> Tensor:
    """The sum of the weights in each cell."""
    sizes = [int(e.shape[0]) - 1 for e in edges]
    place: Any = number(0, i64, columns[0].type.shape)
    inside: Any = number(True, bool_, columns[0].type.shape)
    for column, edge, n in zip(columns, edges, sizes, strict=True):
        k = elementwise.sub(searchsorted(edge, column, right=True), 1)
        last = comparison.eq(column, edge[n])
        k = comparison.where(last, n - 1, k)
        within = comparison.logical_and(comparison.ge(k, 0), comparison.lt(k, n))
        inside = comparison.logical_and(inside, within)
        place = elementwise.add(elementwise.mul(place, n), elementwise.clamp(k, 0, n - 1))
    one = cast(inside, dtype)
    if weight is not None:
        if weight.type.numel != place.type.numel:
            want = f"histogram: expected a weight for each of {place.type.numel}"
            raise located(TypeCheckError, f"{want}, got {weight.type}")
        given = view.reshape(cast(weight.detach(), dtype), place.type.shape)
        one = comparison.where(inside, given, 0.0)
    empty = dispatch.constant(0, dtype, (int(np.prod(sizes)),), columns[0].device)
    return view.reshape(dispatch.apply(ScatterAdd(axis=0), empty, place, one), sizes)


def _dense(hist: Tensor, edges: Sequence[Tensor]) -> Tensor:
    found = elementwise.div(hist, reduce.sum(hist))
    for at, edge in enumerate(edges):
        n = int(edge.shape[0]) - 1
        width = elementwise.sub(edge[1:], edge[:-1])
        shape = [n if a == at else 1 for a in _count(len(edges))]
        found = elementwise.div(found, view.reshape(width, shape))
    return found


# sets


def isin(
    elements: Value, test_elements: Value, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Where ``elements`` are among ``test_elements`` (with ``invert``: are not); one is a tensor.

    It compares each with each, or looks up sorted ones where there are many.
    """
    del assume_unique
    dtype = result_type(elements, test_elements)
    x, others = (tensor_of(v, dtype) for v in (elements, test_elements))
    among = view.reshape(others, (others.type.numel,))
    n = among.type.numel
    if isinstance(n, int) and n <= _FEW:
        pairs = comparison.eq(view.unsqueeze(x, -1), among)
        there = reduce.any(pairs, -1) if x.type.rank else reduce.any(pairs)
    else:
        line = among.sort().values
        last: Any = n - 1
        place = elementwise.clamp(searchsorted(line, x), max=last)
        there = comparison.eq(line.take(place), x)
    return comparison.logical_not(there) if invert else there


_FEW = 16


# differences


def gradient(
    input: Tensor,
    *,
    spacing: Number | Tensor | Sequence[Any] = 1,
    dim: Dims | None = None,
    edge_order: int = 1,
) -> tuple[Tensor, ...]:
    """The slope of ``input`` along each of ``dim``, by differences of second order.

    ``spacing`` is the distance of neighbours, one for all dims or one for each, or the places along
    each dim. At the edges the differences are of order ``edge_order``, 1 or 2. ArgumentError for
    fewer than ``edge_order + 1`` elements.
    """
    expect_tensor("gradient", "input", input)
    if edge_order not in (1, 2):
        raise located(ArgumentError, f"gradient: expected edge_order 1 or 2, got {edge_order}")
    over = axes("gradient", dim, input.type.rank)
    if isinstance(dim, Sequence):
        over = tuple(axis("gradient", d, input.type.rank) for d in dim)
    steps = list(spacing) if isinstance(spacing, (list, tuple)) else [spacing] * len(over)
    if len(steps) != len(over):
        message = f"gradient: expected spacing for {len(over)} dims, got {len(steps)}"
        raise located(ArgumentError, message)
    x = to_float(input)
    return tuple(_slope(x, a, s, edge_order) for a, s in zip(over, steps, strict=True))


def _slope(x: Tensor, at: int, spacing: Any, order: int) -> Tensor:
    n = int(x.shape[at])
    if n <= order:
        message = f"gradient: expected {order + 1} elements or more along dim {at}, got {x.type}"
        raise located(ArgumentError, message)
    gaps = _gaps(x, at, n, spacing)
    rise = elementwise.div(elementwise.sub(_part(x, at, 1, n), _part(x, at, 0, n - 1)), gaps)
    before, after = _part(gaps, at, 0, n - 2), _part(gaps, at, 1, n - 1)
    left, right = _part(rise, at, 0, n - 2), _part(rise, at, 1, n - 1)
    both = elementwise.add(before, after)
    middle = elementwise.div(
        elementwise.add(elementwise.mul(left, after), elementwise.mul(right, before)), both
    )
    first, last = _part(rise, at, 0, 1), _part(rise, at, n - 2, n - 1)
    if order == 2:
        first = _bent(rise, gaps, at, 0, 1)
        last = _bent(rise, gaps, at, n - 2, n - 3)
    return rearrange.cat([first, middle, last], at)


def _bent(rise: Tensor, gaps: Tensor, at: int, edge: int, inner: int) -> Tensor:
    """The slope at an edge of the parabola through three points."""
    near, far = (_part(rise, at, k, k + 1) for k in (edge, inner))
    a, b = (_part(gaps, at, k, k + 1) for k in (edge, inner))
    bend = elementwise.div(elementwise.sub(near, far), elementwise.add(a, b))
    return elementwise.add(near, elementwise.mul(bend, a))


def _gaps(x: Tensor, at: int, n: int, spacing: Any) -> Tensor:
    """The distances of neighbours along ``at``, in as many dims as ``x`` has."""
    shape = [n - 1 if a == at else 1 for a in _count(x.type.rank)]
    if not is_tensor(spacing) or not spacing.type.rank:
        return elementwise.mul(number(1, x.type.dtype, shape), spacing)
    places = cast(spacing, x.type.dtype)
    if places.type.shape != (n,):
        message = f"gradient: expected {n} places along dim {at}, got {spacing.type}"
        raise located(ArgumentError, message)
    return view.reshape(elementwise.sub(places[1:], places[:-1]), shape)


def _part(x: Tensor, at: int, start: int, stop: int) -> Tensor:
    return view.cut(x, {at: (start, stop)})
