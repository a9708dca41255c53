"""Scattering that reduces, and writing at flat places and under masks.

scatter_reduce(x, 0, index, src, "amax", include_self=False)
index_reduce(x, 0, rows, source, "mean")
masked_scatter(x, mask, source)  # in a compiled function too: sizes do not depend on the mask
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, index, reduce, subscript, view
from vtc.frontend.functions.arguments import axis, expect_tensor, own_axis
from vtc.frontend.functions.promotion import apply_scatter, cast, expand_to, number
from vtc.frontend.source import located
from vtc.ir.ops.index import Index, IndexPut, Scatter, ScatterAdd
from vtc.ir.ops.reduce import highest, lowest
from vtc.ir.ops.scan import Cumsum
from vtc.ir.ops.scatter import Fn, ScatterReduce
from vtc.ir.types import DType, bool_, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_FN: dict[str, Fn] = {"prod": "mul", "amax": "max", "amin": "min"}
REDUCES = ("sum", "prod", "mean", "amax", "amin")


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``input`` with ``src`` reduced at ``[index[i, j], j]`` for dim 0, and so on.

    ``reduce`` is sum, prod, mean, amax or amin; without ``include_self`` what ``input`` holds at
    places that are written does not count.
    """
    expect_tensor("scatter_reduce", "input", input)
    name = "scatter_reduce"
    at, places = axis(name, dim, input.type.rank), _same_rank(name, input, index)
    _check(name, reduce, REDUCES)
    source = _source(name, input, places, src)
    return _reduced(input, at, places, source, reduce, include_self=include_self)


def _same_rank(name: str, input: Tensor, places: Tensor) -> Tensor:
    return index.same_rank(name, input, places)


def _source(name: str, input: Tensor, places: Tensor, src: Any) -> Tensor:
    expect_tensor(name, "src", src)
    return index.source(name, input, places, src)


def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """``input`` with the slices of ``source`` reduced (prod, mean, amax, amin) along ``dim`` where
    the vector ``index`` says.
    """
    expect_tensor("index_reduce", "input", input)
    name = "index_reduce"
    at, places = own_axis(name, dim, input.type), _vector(name, index)
    _check(name, reduce, REDUCES[1:])
    shape = (*input.type.shape[:at], *places.type.shape, *input.type.shape[at + 1 :])
    want = input.type.with_shape(shape)
    expect_tensor(name, "source", source)
    if source.type != want:
        raise located(TypeCheckError, f"{name}: expected a source {want}, got {source.type}")
    after = want.rank - at - 1
    line = view.reshape(places, (*places.type.shape, *(1,) * after))
    spread = expand_to(name, line, want.shape)
    return _reduced(input, at, spread, source, reduce, include_self=include_self)


def _vector(name: str, places: Tensor) -> Tensor:
    return index.vector(name, places)


def _check(name: str, reduce: str, known: tuple[str, ...]) -> None:
    if reduce not in known:
        message = f"{name}: expected reduce to be one of {', '.join(known)}, got {reduce!r}"
        raise located(ArgumentError, message)


def _reduced(
    x: Tensor, at: int, places: Tensor, src: Tensor, how: str, *, include_self: bool
) -> Tensor:
    dtype = x.type.dtype
    start = x
    if not include_self:
        nothing = number(_identity(how, dtype), dtype, places.type.shape)
        start = dispatch.apply(Scatter(axis=at), x, places, nothing)
    if how in _FN:
        return apply_scatter(ScatterReduce(axis=at, fn=_FN[how]), start, places, src)
    total = apply_scatter(ScatterAdd(axis=at), start, places, src)
    if how == "sum":
        return total
    return _mean(total, at, places, src, include_self=include_self)


def _identity(how: str, dtype: DType) -> Any:
    match how:
        case "prod":
            return 1
        case "amax":
            return lowest(dtype)
        case "amin":
            return highest(dtype)
        case _:
            return 0


def _mean(total: Tensor, at: int, places: Tensor, src: Tensor, *, include_self: bool) -> Tensor:
    counts = number(1 if include_self else 0, i64, total.type.shape)
    ones = number(1, i64, src.type.shape)
    found = dispatch.apply(ScatterAdd(axis=at), counts, places, ones)
    count = elementwise.clamp(found, min=1)
    dtype = total.type.dtype
    rounding = "floor" if dtype.kind == "int" else None
    return elementwise.div(total, cast(count, dtype), rounding_mode=rounding)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with the elements of ``source``, in order, where ``mask`` is true."""
    name = "masked_scatter"
    expect_tensor(name, "mask", mask)
    expect_tensor(name, "source", source)
    if mask.type.dtype is not bool_:
        raise located(TypeCheckError, f"{name}: expected a bool mask, got {mask.type}")
    if source.type.dtype is not input.type.dtype:
        want = f"expected a source of {input.type.dtype}"
        raise located(TypeCheckError, f"{name}: {want}, got {source.type}")
    x, where = view.broadcast_tensors(input, mask)
    if x.type.numel == 0:
        return x.clone()
    count = reduce.sum(where)
    known = not dispatch.is_capturing()
    if known and int(count.item()) > source.numel():
        got = f"got {source.type} for {count.item()} true elements"
        raise located(ArgumentError, f"{name}: expected a source with enough elements, {got}")
    if source.type.numel == 0:
        return x.clone()
    line = view.flatten(where.to(i64))
    number_of = dispatch.apply(Cumsum(axis=0, reverse=False), line) - 1
    at = elementwise.clamp(number_of, 0, source.numel() - 1)
    values = dispatch.apply(Index(axes=(0,)), view.flatten(source), at)
    found: Tensor = comparison.where(where, view.reshape(values, x.type.shape), x)
    return found


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """``input`` with ``source`` set, or added, at ``index`` in row-major order."""
    expect_tensor("put", "input", input)
    expect_tensor("put", "index", index)
    expect_tensor("put", "source", source)
    if source.type.dtype is not input.type.dtype or source.type.numel != index.type.numel:
        want = f"expected a source of {input.type.dtype} with an element for each of {index.type}"
        raise located(TypeCheckError, f"put: {want}, got {source.type}")
    places = subscript.wrapped(_integers("put", index), input.numel())
    op = IndexPut(axes=(0,), accumulate=accumulate)
    values = view.reshape(source, places.type.shape)
    out = apply_scatter(op, view.flatten(input), values, places)
    return view.reshape(out, input.type.shape)


def _integers(name: str, places: Tensor) -> Tensor:
    return index.integers(name, places)


def argwhere(input: Tensor) -> Tensor:
    """Where elements are not zero, ``[count, dims]``; not in a compiled function."""
    found: Tensor = index.nonzero(input)
    return found
