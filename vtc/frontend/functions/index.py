"""Reading and writing at computed places, by function; ``x[...]`` is in ``subscript``.

gather(x, 1, index)              # out[i, j] = x[i, index[i, j]]
dynamic_slice(x, [pos, 0], [1, 64])     # pos a 0-d tensor: works in a compiled function
cache.index_copy_(2, pos, k)     # a KV cache
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, CaptureError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, subscript, view
from vtc.frontend.functions.arguments import Value, axis, expect_tensor, is_tensor, own_axis
from vtc.frontend.functions.promotion import (
    apply_scatter,
    cast,
    checked,
    expand_to,
    number,
)
from vtc.frontend.source import located
from vtc.ir.dims import Size
from vtc.ir.ops.block import DynamicSlice, DynamicUpdate
from vtc.ir.ops.fill import Iota
from vtc.ir.ops.index import Gather, Index, IndexPut, Scatter, ScatterAdd, Scattering
from vtc.ir.ops.scatter import ScatterReduce
from vtc.ir.types import bool_, i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# along a dim


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of ``input`` along ``dim`` that the vector ``index`` names."""
    expect_tensor("index_select", "input", input)
    at = own_axis("index_select", dim, input.type)
    return dispatch.apply(Index(axes=(at,)), input, vector("index_select", index))


def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Value = 1
) -> Tensor:
    """``input`` with ``alpha * source`` added to the slices along ``dim`` that ``index`` names."""
    expect_tensor("index_add", "input", input)
    values = elementwise.scaled(source, alpha)
    return _put_along("index_add", input, dim, index, values, accumulate=True)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``input`` with the slices along ``dim`` that ``index`` names set to those of ``source``."""
    expect_tensor("index_copy", "input", input)
    return _put_along("index_copy", input, dim, index, source, accumulate=False)


def index_fill(input: Tensor, dim: int, index: Tensor, value: Value) -> Tensor:
    """``input`` with ``value`` in the slices along ``dim`` that ``index`` names."""
    expect_tensor("index_fill", "input", input)
    return _put_along("index_fill", input, dim, index, value, accumulate=False)


def _put_along(
    name: str, input: Tensor, dim: int, index: Tensor, source: Value, *, accumulate: bool
) -> Tensor:
    at, places = own_axis(name, dim, input.type), vector(name, index)
    shape = input.type.shape
    want = input.type.with_shape((*shape[:at], *places.type.shape, *shape[at + 1 :]))
    if not is_tensor(source):
        source = number(source, want.dtype, want.shape)
    elif source.type.rank == 0 and want.rank:
        source = expand_to(name, cast(source, want.dtype), want.shape)
    if source.type != want:
        raise located(TypeCheckError, f"{name}: expected a source {want}, got {source.type}")
    op = IndexPut(axes=(at,), accumulate=accumulate)
    return apply_scatter(op, input, source, places)


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """``out[i, j] = input[index[i, j], j]`` for dim 0, and so on for others."""
    expect_tensor("gather", "input", input)
    at = axis("gather", dim, input.type.rank)
    return dispatch.apply(Gather(axis=at), input, same_rank("gather", input, index))


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """:func:`gather`, where the other dims broadcast and negative indices count from the end."""
    if dim is None:
        return take_along_dim(view.flatten(input), view.flatten(indices), 0)
    at = axis("take_along_dim", dim, input.type.rank)
    places = subscript.wrapped(same_rank("take_along_dim", input, indices), input.shape[at])
    shape = [
        n if n == m or a == at or m == 1 else m
        for a, (n, m) in enumerate(zip(places.type.shape, input.type.shape, strict=True))
    ]
    full = [
        n if a == at else m for a, (n, m) in enumerate(zip(input.type.shape, shape, strict=True))
    ]
    x = expand_to("take_along_dim", input, full)
    return dispatch.apply(Gather(axis=at), x, expand_to("take_along_dim", places, shape))


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Value, *, reduce: str | None = None
) -> Tensor:
    """``input`` with ``src`` (or one number) at ``[index[i, j], j]`` for dim 0, and so on.

    ``reduce`` "add" or "multiply" joins it to what is there.
    """
    expect_tensor("scatter", "input", input)
    at, places = axis("scatter", dim, input.type.rank), same_rank("scatter", input, index)
    op = _SCATTERS.get(reduce)
    if op is None:
        got = f"got {reduce!r}"
        raise located(ArgumentError, f"scatter: expected reduce to be 'add' or 'multiply', {got}")
    return apply_scatter(op(at), input, places, source("scatter", input, places, src))


_SCATTERS: dict[str | None, Callable[[int], Scattering]] = {
    None: lambda at: Scatter(axis=at),
    "add": lambda at: ScatterAdd(axis=at),
    "multiply": lambda at: ScatterReduce(axis=at, fn="mul"),
}


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``input`` with ``src`` added at ``[index[i, j], j]`` for dim 0, and so on."""
    expect_tensor("scatter_add", "input", input)
    at, places = axis("scatter_add", dim, input.type.rank), same_rank("scatter_add", input, index)
    values = source("scatter_add", input, places, src)
    return apply_scatter(ScatterAdd(axis=at), input, places, values)


def source(name: str, input: Tensor, index: Tensor, src: Value) -> Tensor:
    """What is scattered: the part of ``src`` that ``index`` covers."""
    type, shape = input.type, index.type.shape
    if not is_tensor(src):
        return number(checked(name, src, type.dtype), type.dtype, shape)
    if src.type.dtype is not type.dtype or src.type.rank != len(shape):
        want = f"expected a source of {type.dtype} and {len(shape)} dims"
        raise located(TypeCheckError, f"{name}: {want}, got {src.type}")
    if src.type.shape == shape:
        return src
    return view.cut(src, {a: (0, n) for a, n in enumerate(shape)})


def same_rank(name: str, input: Tensor, index: Tensor) -> Tensor:
    """``index``, which must be of integers and of as many dims as ``input``: at least one."""
    places = integers(name, index)
    if places.type.rank != input.type.rank:
        message = f"{name}: expected an index of as many dims as {input.type}, got {index.type}"
        raise located(TypeCheckError, message)
    if not input.type.rank:
        raise located(TypeCheckError, f"{name}: expected 1 dim or more, got {input.type}")
    return places


def vector(name: str, index: Tensor) -> Tensor:
    """``index``, which must be of integers and a vector; a number is one of one element."""
    places = integers(name, index)
    if places.type.rank > 1:
        raise located(TypeCheckError, f"{name}: expected a vector of indices, got {index.type}")
    return places if places.type.rank else view.reshape(places, (1,))


def integers(name: str, index: Tensor) -> Tensor:
    """``index``, which must be of i64 or i32."""
    expect_tensor(name, "index", index)
    if index.type.dtype not in (i32, i64):
        raise located(TypeCheckError, f"{name}: expected an index of i64 or i32, got {index.type}")
    return index


# classes


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Zeros with a one at ``tensor`` along a new last dim of ``num_classes`` (-1: as needed)."""
    places = integers("one_hot", tensor)
    if num_classes == -1 and dispatch.is_capturing():
        raise located(CaptureError, "one_hot: num_classes has to be given in a compiled function")
    if not dispatch.is_capturing() and places.type.numel != 0:
        _check_classes(places, num_classes)
    count = num_classes if num_classes != -1 else _greatest(places) + 1
    line = Iota(shape=(dispatch.size(count),), axis=0, dtype=i64)
    classes = dispatch.create(line, tensor.device)
    return cast(comparison.eq(view.unsqueeze(places, -1), classes), i64)


def _check_classes(places: Tensor, num_classes: int) -> None:
    low, high = int(places.amin().item()), _greatest(places)
    if low < 0 or (num_classes != -1 and high >= num_classes):
        limit = "" if num_classes == -1 else f" < {num_classes}"
        raise located(IndexRangeError, f"one_hot: expected 0 <= class{limit}, got {low} to {high}")


def _greatest(places: Tensor) -> int:
    if places.type.numel == 0:
        raise located(ArgumentError, "one_hot: expected num_classes for a tensor without elements")
    return int(places.amax().item())


# at several dims


def index_put(
    input: Tensor, indices: Sequence[Tensor | None], values: Value, accumulate: bool = False
) -> Tensor:
    """``input`` with ``values`` set, or added, at ``input[indices]``; None keeps a dim whole."""
    return subscript.index_put(input, indices, values, accumulate=accumulate)


def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at ``index`` in row-major order; negative ones count from the end."""
    places = subscript.wrapped(integers("take", index), input.numel())
    return dispatch.apply(Index(axes=(0,)), view.flatten(input), places)


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Where elements are not zero, ``[count, dims]`` or a tuple; not in a compiled function."""
    expect_tensor("nonzero", "input", input)
    if dispatch.is_capturing():
        raise located(CaptureError, "nonzero has no fixed size; use vtc.where(mask, x, y)")
    array = input.detach().cpu().numpy()
    found = [np.ascontiguousarray(i) for i in np.atleast_1d(array).nonzero()]
    if as_tuple:
        return tuple(dispatch.from_array(i, device=input.device) for i in found)
    both = np.stack(found, axis=1)[:, : array.ndim]
    return dispatch.from_array(both, device=input.device)


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of ``input`` where ``mask`` is true, as a vector; not in a compiled function."""
    expect_tensor("masked_select", "mask", mask)
    if mask.type.dtype is not bool_:
        raise located(TypeCheckError, f"masked_select: expected a bool mask, got {mask.type}")
    x, where = view.broadcast_tensors(input, mask)
    return subscript.getitem(x, where)


# blocks


def dynamic_slice(input: Tensor, starts: Sequence[Any], sizes: Sequence[Size]) -> Tensor:
    """The block of ``sizes`` at ``starts`` (ints or 0-d tensors), moved so that it fits."""
    expect_tensor("dynamic_slice", "input", input)
    block = dispatch.sizes(sizes)
    places = _starts("dynamic_slice", input, starts)
    return dispatch.apply(DynamicSlice(sizes=block), input, *places)


def dynamic_update(input: Tensor, value: Tensor, starts: Sequence[Any]) -> Tensor:
    """``input`` with ``value`` at ``starts`` (ints or 0-d tensors), moved so that it fits."""
    expect_tensor("dynamic_update", "input", input)
    expect_tensor("dynamic_update", "value", value)
    places = _starts("dynamic_update", input, starts)
    return dispatch.apply(DynamicUpdate(), input, cast(value, input.type.dtype), *places)


def _starts(name: str, input: Tensor, starts: Sequence[Any]) -> list[Tensor]:
    if len(starts) != input.type.rank:
        want = f"expected {input.type.rank} starts for {input.type}"
        raise located(ArgumentError, f"{name}: {want}, got {len(starts)}")
    return [_start(name, s) for s in starts]


def _start(name: str, start: Any) -> Tensor:
    if not is_tensor(start):
        return number(dispatch.size(start), i64)
    if start.type.rank or start.type.dtype not in (i32, i64):
        raise located(
            TypeCheckError, f"{name}: expected 0-d starts of i64 or i32, got {start.type}"
        )
    return start
