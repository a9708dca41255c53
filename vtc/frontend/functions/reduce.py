"""Reductions: ``dim`` is an int, several, or None for all; ``keepdim`` leaves sizes of 1 behind.

sum(x, dim=-1)                   # bool and integers sum to int64
mean(x, (0, 1), keepdim=True)
max(x, dim=1).indices
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise
from vtc.frontend.functions.arguments import (
    Dims,
    Number,
    axes,
    axis,
    expect_tensor,
    is_tensor,
    sizes,
)
from vtc.frontend.functions.promotion import cast, floating, number
from vtc.frontend.source import located
from vtc.ir.dims import Size, product
from vtc.ir.ops.index import Gather
from vtc.ir.ops.reduce import Argmax, Argmin, Max, Min, Prod, Sum
from vtc.ir.ops.view import Reshape
from vtc.ir.types import DType, bool_, i64, u8

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class MinMax(NamedTuple):
    """What :func:`aminmax` returns."""

    min: Tensor
    max: Tensor


class ValuesIndices(NamedTuple):
    """What :func:`max` and :func:`min` along a dim return."""

    values: Tensor
    indices: Tensor


# sums


def sum(
    input: Tensor, dim: Dims | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The sum over ``dim``, in ``dtype``; by default int64 for bool and integers."""
    expect_tensor("sum", "input", input)
    x = cast(input, dtype or _summed(input.type.dtype))
    over = axes("sum", dim, x.type.rank)
    return restore(dispatch.apply(Sum(axes=over), x), input, over, keepdim)


def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The product over ``dim``, in ``dtype``; by default int64 for bool and integers."""
    expect_tensor("prod", "input", input)
    x = cast(input, dtype or _summed(input.type.dtype))
    over = axes("prod", dim, x.type.rank)
    return restore(dispatch.apply(Prod(axes=over), x), input, over, keepdim)


def mean(
    input: Tensor, dim: Dims | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The mean over ``dim``; half types accumulate in float32. TypeCheckError for integers."""
    want = dtype or _floating("mean", input)
    if want.kind not in ("float", "complex"):
        raise located(TypeCheckError, f"mean: expected a floating-point dtype, got {want}")
    return cast(
        _mean(cast(input, want.accumulate), axes("mean", dim, input.type.rank), keepdim), want
    )


def var(
    input: Tensor,
    dim: Dims | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over ``dim``, by the count less ``correction`` (1; 0 if not ``unbiased``)."""
    dtype = _floating("var", input)
    over = axes("var", dim, input.type.rank)
    less = _correction(unbiased, correction)
    return cast(_var(cast(input, dtype.accumulate), over, less, keepdim), dtype)


def std(
    input: Tensor,
    dim: Dims | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The square root of :func:`var`."""
    dtype = _floating("std", input)
    over = axes("std", dim, input.type.rank)
    less = _correction(unbiased, correction)
    spread = _var(cast(input, dtype.accumulate), over, less, keepdim)
    return cast(_root(spread, 0.5, 0.0), dtype)


def var_mean(
    input: Tensor,
    dim: Dims | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`var` and :func:`mean` together."""
    variance = var(input, dim, unbiased, keepdim, correction=correction)
    return variance, mean(input, dim, keepdim)


def _mean(x: Tensor, over: tuple[int, ...], keepdim: bool) -> Tensor:
    total = dispatch.apply(Sum(axes=over), x)
    return restore(elementwise.div(total, _count(x, over, 0)), x, over, keepdim)


def _var(x: Tensor, over: tuple[int, ...], correction: float, keepdim: bool) -> Tensor:
    centred = elementwise.sub(x, _mean(x, over, keepdim=True))
    total = dispatch.apply(Sum(axes=over), elementwise.mul(centred, centred))
    return restore(elementwise.div(total, _count(x, over, correction)), x, over, keepdim)


def _count(x: Tensor, over: tuple[int, ...], correction: float) -> Any:
    n: Any = product(x.type.shape[a] for a in over)
    if isinstance(n, int):
        return float(max_of(n - correction, 0))
    count = number(n, x.type.dtype)
    return elementwise.clamp(elementwise.sub(count, correction), min=0) if correction else count


def _correction(unbiased: bool | None, correction: float | None) -> float:
    if unbiased is not None and correction is not None:
        raise located(ArgumentError, "var: expected unbiased or correction, got both")
    return correction if correction is not None else 0 if unbiased is False else 1


def norm(
    input: Tensor,
    p: Number | str | None = "fro",
    dim: Dims | None = None,
    keepdim: bool = False,
    dtype: DType | None = None,
) -> Tensor:
    """The ``p``-norm of the elements over ``dim``; "fro" and None are 2. Its gradient at 0 is 0."""
    want = dtype or _floating("norm", input)
    over = axes("norm", dim, input.type.rank)
    order = 2.0 if p in ("fro", None) else p
    if isinstance(order, (str, complex)):
        raise located(ArgumentError, f"norm: expected p to be a number or 'fro', got {p!r}")
    x = cast(input, want.accumulate)
    return restore(cast(_norm(x, float(order), over), want), input, over, keepdim)


def _norm(x: Tensor, p: float, over: tuple[int, ...]) -> Tensor:
    size = elementwise.abs(x)
    if p == math.inf:
        return dispatch.apply(Max(axes=over), size)
    if p == -math.inf:
        return dispatch.apply(Min(axes=over), size)
    if p == 0:
        return dispatch.apply(Sum(axes=over), cast(comparison.ne(x, 0), x.type.dtype))
    if p == 1:
        return dispatch.apply(Sum(axes=over), size)
    terms = elementwise.mul(x, x) if p == 2 else elementwise.pow(size, p)
    total = dispatch.apply(Sum(axes=over), terms)
    return _root(total, 1.0 / p, 0.0 if p > 0 else math.inf)


def _root(x: Tensor, power: float, at_zero: float) -> Tensor:
    """``x ** power``, which has no slope at 0: there the gradient is 0, not NaN."""
    zero = comparison.eq(x, 0)
    root = elementwise.pow(comparison.where(zero, 1.0, x), power)
    found: Tensor = comparison.where(zero, at_zero, root)
    return found


def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(input)))`` over ``dim``, without overflow; -inf over nothing."""
    expect_tensor("logsumexp", "input", input)
    dtype = floating(input.type.dtype)
    over = axes("logsumexp", dim, input.type.rank)
    x = cast(input, dtype.accumulate)
    if _is_empty(input, over):
        none = dispatch.apply(Sum(axes=over), x)
        return restore(cast(elementwise.log(none), dtype), input, over, keepdim)
    top = restore(dispatch.apply(Max(axes=over), x), x, over, keepdim=True).detach()
    shift = comparison.where(comparison.isfinite(top), top, 0.0)
    total = dispatch.apply(Sum(axes=over), elementwise.exp(elementwise.sub(x, shift)))
    low = shift.reshape(total.type.shape)
    return restore(cast(elementwise.add(elementwise.log(total), low), dtype), input, over, keepdim)


def count_nonzero(input: Tensor, dim: Dims | None = None) -> Tensor:
    """How many elements are not zero."""
    expect_tensor("count_nonzero", "input", input)
    return sum(cast(input, bool_), dim)


def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The sum over what broadcasting from ``size`` to the shape of ``input`` would repeat."""
    want, type = sizes(size), input.type
    extra = type.rank - len(want)
    same = [extra >= 0 and n in (1, type.shape[extra + a]) for a, n in enumerate(want)]
    if extra < 0 or not all_of(same):
        message = f"expected a size that broadcasts to {type}, got {list(want)}"
        raise located(TypeCheckError, f"sum_to_size: {message}")
    ones = [extra + a for a, n in enumerate(want) if n == 1 and type.shape[extra + a] != 1]
    over = (*range(extra), *ones)
    total = dispatch.apply(Sum(axes=over), cast(input, _summed(type.dtype))) if over else input
    return dispatch.view(Reshape(shape=want), total)


# extremes


@overload
def max(input: Tensor) -> Tensor: ...
@overload
def max(input: Tensor, dim: int, keepdim: bool = False) -> ValuesIndices: ...
@overload
def max(input: Tensor, dim: Tensor) -> Tensor: ...
@overload
def max(input: Tensor, *, other: Tensor) -> Tensor: ...
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest element; along ``dim`` with indices; of two tensors the larger of each pair."""
    pair = dim if is_tensor(dim) else other
    if pair is not None:
        return elementwise.maximum(input, pair)
    return amax(input) if dim is None else _along("max", Argmax, input, dim, keepdim)


@overload
def min(input: Tensor) -> Tensor: ...
@overload
def min(input: Tensor, dim: int, keepdim: bool = False) -> ValuesIndices: ...
@overload
def min(input: Tensor, dim: Tensor) -> Tensor: ...
@overload
def min(input: Tensor, *, other: Tensor) -> Tensor: ...
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest element; along ``dim`` with indices; of two tensors the smaller of each pair."""
    pair = dim if is_tensor(dim) else other
    if pair is not None:
        return elementwise.minimum(input, pair)
    return amin(input) if dim is None else _along("min", Argmin, input, dim, keepdim)


def _along(
    name: str, op: type[Argmax | Argmin], input: Tensor, dim: int, keepdim: bool
) -> ValuesIndices:
    """The values are read at the indices, so the gradient goes to the winner alone."""
    at = axis(name, dim, input.type.rank)
    indices = _arg(name, op, cast(input, u8) if input.type.dtype is bool_ else input, dim, True)
    if not input.type.rank:
        return ValuesIndices(input.clone(), indices)
    values = dispatch.apply(Gather(axis=at), input, indices)
    if keepdim:
        return ValuesIndices(values, indices)
    kept = tuple(n for a, n in enumerate(input.type.shape) if a != at)
    return ValuesIndices(*(dispatch.view(Reshape(shape=kept), v) for v in (values, indices)))


def amax(input: Tensor, dim: Dims | None = None, keepdim: bool = False) -> Tensor:
    """The largest element over ``dim``; the gradient is shared evenly among equals."""
    expect_tensor("amax", "input", input)
    return _extreme("amax", Max, input, dim, keepdim)


def amin(input: Tensor, dim: Dims | None = None, keepdim: bool = False) -> Tensor:
    """The smallest element over ``dim``; the gradient is shared evenly among equals."""
    expect_tensor("amin", "input", input)
    return _extreme("amin", Min, input, dim, keepdim)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """:func:`amin` and :func:`amax` together."""
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _extreme(
    name: str, op: type[Max | Min], input: Tensor, dim: Dims | None, keepdim: bool
) -> Tensor:
    over = axes(name, dim, input.type.rank)
    _expect_some(name, input, over)
    return restore(dispatch.apply(op(axes=over), input), input, over, keepdim)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The int64 index of the first largest element along ``dim``, or in row-major order of all."""
    expect_tensor("argmax", "input", input)
    return _arg("argmax", Argmax, input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The int64 index of the first smallest element along ``dim``, or in row-major order of all."""
    expect_tensor("argmin", "input", input)
    return _arg("argmin", Argmin, input, dim, keepdim)


def _arg(
    name: str, op: type[Argmax | Argmin], input: Tensor, dim: int | None, keepdim: bool
) -> Tensor:
    rank = input.type.rank
    at = axis(name, dim, rank) if dim is not None else 0
    over = (at,) if dim is not None and rank else tuple(range(rank))
    _expect_some(name, input, over)
    flat = dim is None or not rank
    x = dispatch.view(Reshape(shape=(input.type.numel,)), input) if flat else input
    return restore(dispatch.apply(op(axis=at), x), input, over, keepdim)


def any(input: Tensor, dim: Dims | None = None, keepdim: bool = False) -> Tensor:
    """Whether any element over ``dim`` is not zero; uint8 stays uint8."""
    expect_tensor("any", "input", input)
    return _truth("any", Max, input, dim, keepdim, nothing=False)


def all(input: Tensor, dim: Dims | None = None, keepdim: bool = False) -> Tensor:
    """Whether all elements over ``dim`` are not zero; uint8 stays uint8."""
    expect_tensor("all", "input", input)
    return _truth("all", Min, input, dim, keepdim, nothing=True)


def _truth(
    name: str,
    op: type[Max | Min],
    input: Tensor,
    dim: Dims | None,
    keepdim: bool,
    *,
    nothing: bool,
) -> Tensor:
    none = isinstance(dim, Sequence) and not dim  # these two alone leave all dims then
    over = () if none else axes(name, dim, input.type.rank)
    if none:
        found = cast(input, bool_)
    elif _is_empty(input, over):
        kept = tuple(n for a, n in enumerate(input.type.shape) if a not in over)
        found = dispatch.constant(nothing, bool_, kept, input.device)
    else:
        found = dispatch.apply(op(axes=over), cast(input, bool_))
    return restore(cast(found, u8 if input.type.dtype is u8 else bool_), input, over, keepdim)


# what they share


def restore(x: Tensor, input: Tensor, over: Sequence[int], keepdim: bool) -> Tensor:
    """The result ``x`` of reducing ``input``, with sizes of 1 put back if ``keepdim``."""
    if not keepdim or not over:
        return x
    sizes = tuple(1 if a in over else n for a, n in enumerate(input.type.shape))
    return dispatch.view(Reshape(shape=sizes), x)


def all_of(found: Sequence[bool]) -> bool:
    """Python's ``all``, whose name is taken here."""
    return False not in found


def max_of(a: float, b: float) -> float:
    """Python's ``max``, whose name is taken here."""
    return a if a > b else b


def _summed(dtype: DType) -> DType:
    return i64 if dtype.kind in ("bool", "int") else dtype


def _floating(name: str, input: Tensor) -> DType:
    expect_tensor(name, "input", input)
    if input.type.dtype.kind not in ("float", "complex"):
        raise located(TypeCheckError, f"{name}: expected a floating-point input, got {input.type}")
    return input.type.dtype


def _is_empty(input: Tensor, over: Sequence[int]) -> bool:
    found: Size = product(input.type.shape[a] for a in over)
    return found == 0


def _expect_some(name: str, input: Tensor, over: Sequence[int]) -> None:
    expect_tensor(name, "input", input)
    if _is_empty(input, over):
        raise located(
            IndexRangeError, f"{name}: expected dims {tuple(over)} of {input.type} not to be empty"
        )
