"""Views that are another walk through memory, and what is made of diagonals.

diagonal(x, 1, -2, -1).fill_(0)  # changes x
unfold(x, 0, 3, 1)               # windows of 3 along dim 0, as the last dim
diag_embed(v, dim1=0, dim2=2)    # v on the diagonals of dims 0 and 2
trace(x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import view
from vtc.frontend.functions.arguments import (
    Value,
    Where,
    axis,
    expect_tensor,
    own_axis,
    place,
)
from vtc.frontend.functions.creation import empty
from vtc.frontend.functions.promotion import cast, result_type
from vtc.frontend.functions.rearrange import cat, flip
from vtc.frontend.functions.reduce import sum
from vtc.frontend.source import located
from vtc.ir.ops.fill import Pad
from vtc.ir.ops.strided import AsStrided, Diagonal, Undiagonal
from vtc.ir.ops.window import Window
from vtc.ir.types import Array, DType, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# views


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of ``size`` elements every ``step`` along ``dimension``, each as the last dim."""
    if not input.type.rank:
        return unfold(view.reshape(input, (1,)), dimension, size, step)[0]
    at = axis("unfold", dimension, input.type.rank)
    n = input.type.shape[at]
    if step < 1 or size < 0 or (isinstance(n, int) and size > n):
        got = f"got size {size} and step {step} for {input.type}"
        message = f"unfold: expected step >= 1 and size within dim {at}, {got}"
        raise located(ArgumentError, message)
    if not size:
        message = f"unfold: expected windows of one element or more, got {size}"
        raise located(ArgumentError, message)
    return dispatch.view(Window(axis=at, size=size, stride=step, dilation=1), input)


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """Element ``[i, j]`` is number ``storage_offset + i * stride[0] + j * stride[1]`` of ``input``.

    TypeCheckError where ``input`` is not contiguous: clone() it first, since what its memory holds
    beside its elements is unknown in a compiled function.
    """
    if not view.is_contiguous(input):
        message = f"as_strided: expected a contiguous tensor, got a view {input.type}; clone() it"
        raise located(TypeCheckError, message)
    shape, steps = dispatch.sizes(size), dispatch.sizes(stride)
    if len(shape) != len(steps):
        got = f"got {shape} and {steps}"
        raise located(ArgumentError, f"as_strided: expected as many strides as sizes, {got}")
    first = dispatch.size(storage_offset or 0)
    return dispatch.view(AsStrided(shape=shape, strides=steps, offset=first), input)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The elements where ``dim2`` is at ``dim1`` plus ``offset``, as the last dim: a view."""
    expect_tensor("diagonal", "input", input)
    first, second = _two("diagonal", input.type.rank, dim1, dim2)
    return dispatch.view(Diagonal(axis1=first, axis2=second, offset=int(offset)), input)


def _two(name: str, rank: int, dim1: int, dim2: int) -> tuple[int, int]:
    first, second = axis(name, dim1, rank), axis(name, dim2, rank)
    if first == second:
        raise located(ArgumentError, f"{name}: expected two dims, got {dim1} and {dim2}")
    return first, second


# diagonals


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or a matrix with the vector ``input`` on its diagonal."""
    expect_tensor("diag", "input", input)
    if input.type.rank == 1:
        return diag_embed(input, diagonal)
    if input.type.rank != 2:
        raise located(TypeCheckError, f"diag: expected 1 or 2 dims, got {input.type}")
    return _diagonal(input, diagonal).clone()


_diagonal = diagonal


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with the elements of ``input`` on its diagonal."""
    return diag_embed(view.flatten(input), offset)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Zeros with the last dim of ``input`` on the diagonals of new dims ``dim1`` and ``dim2``."""
    expect_tensor("diag_embed", "input", input)
    if not input.type.rank:
        message = f"diag_embed: expected 1 dim or more, got {input.type}"
        raise located(TypeCheckError, message)
    first, second = _two("diag_embed", input.type.rank + 1, dim1, dim2)
    n = input.type.shape[-1] + abs(int(offset))
    op = Undiagonal(axis1=first, axis2=second, offset=int(offset), sizes=(n, n))
    return dispatch.apply(op, input)


def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    expect_tensor("trace", "input", input)
    if input.type.rank != 2:
        raise located(TypeCheckError, f"trace: expected a matrix, got {input.type}")
    return sum(_diagonal(input))


def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix of zeros with ``tensors`` (matrices, rows, numbers) along its diagonal."""
    if not tensors:
        raise located(ArgumentError, "block_diag: expected at least one Tensor, got none")
    blocks = [_matrix(t) for t in tensors]
    dtype = result_type(*blocks)
    width = [b.type.shape[1] for b in blocks]
    rows = []
    for k, block in enumerate(blocks):
        before, after = view.total(width[:k]), view.total(width[k + 1 :])
        pads = ((0, 0, 0), (before, after, 0))
        rows.append(dispatch.apply(Pad(pads=pads, value=0), cast(block, dtype)))
    return cat(rows)


def _matrix(x: Tensor) -> Tensor:
    expect_tensor("block_diag", "each block", x)
    if x.type.rank > 2:
        message = f"block_diag: expected 2 dims or fewer, got {x.type}"
        raise located(TypeCheckError, message)
    return view.reshape(x, (*(1,) * (2 - x.type.rank), *x.type.shape))


# turning


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """``input`` turned by ``k`` quarters in the plane of ``dims``, from the first to the second."""
    expect_tensor("rot90", "input", input)
    if len(dims) != 2:
        raise located(ArgumentError, f"rot90: expected two dims, got {tuple(dims)}")
    first, second = _two("rot90", input.type.rank, *dims)
    match k % 4:
        case 1:
            return view.transpose(flip(input, second), first, second).clone()
        case 2:
            return flip(input, first, second)
        case 3:
            return flip(view.transpose(input, first, second), second)
        case _:
            return input.clone()


def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    expect_tensor("fliplr", "input", input)
    if input.type.rank < 2:
        raise located(TypeCheckError, f"fliplr: expected 2 dims or more, got {input.type}")
    return flip(input, 1)


def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    expect_tensor("flipud", "input", input)
    if input.type.rank < 1:
        raise located(TypeCheckError, f"flipud: expected 1 dim or more, got {input.type}")
    return flip(input, 0)


# indices of triangles


def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType = i64, device: Where = None
) -> Tensor:
    """The rows and columns, ``[2, count]``, of a matrix's elements on and below a diagonal."""
    return _indices(np.tril_indices(_size(row), offset, _size(col)), dtype, device)


def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: DType = i64, device: Where = None
) -> Tensor:
    """The rows and columns, ``[2, count]``, of a matrix's elements on and above a diagonal."""
    return _indices(np.triu_indices(_size(row), offset, _size(col)), dtype, device)


def _size(value: Any) -> int:
    n = int(value)
    if n < 0:
        raise located(ArgumentError, f"tril_indices, triu_indices: expected sizes >= 0, got {n}")
    return n


def _indices(pair: tuple[Array, ...], dtype: DType, device: Where) -> Tensor:
    return dispatch.from_array(np.stack(pair).astype(dtype.numpy), device=place(device))


# views written


def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """``input`` with ``src`` on the diagonal that :func:`diagonal` shows."""
    expect_tensor("diagonal_scatter", "input", input)
    return _written(input, src, lambda x: diagonal(x, offset, dim1, dim2))


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """``input`` with ``src`` at ``index`` along ``dim``."""
    expect_tensor("select_scatter", "input", input)
    return _written(input, src, lambda x: view.select(x, dim, index))


def slice_scatter(
    input: Tensor,
    src: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """``input`` with ``src`` at ``start:end:step`` along ``dim``."""
    expect_tensor("slice_scatter", "input", input)
    at = own_axis("slice_scatter", dim, input.type)
    key = (*[slice(None)] * at, slice(start, end, step))
    return _written(input, src, lambda x: x[key])


def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """``input`` with ``src`` where :func:`as_strided` looks."""
    expect_tensor("as_strided_scatter", "input", input)
    expect_tensor("as_strided_scatter", "src", src)
    return _written(input, src, lambda x: as_strided(x, size, stride, storage_offset))


def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor to be written whose elements lie ``stride`` apart in memory; 0 until then."""
    last = 1
    for n, step in zip(size, stride, strict=True):
        last += (int(n) - 1) * int(step)
    memory = empty(last if all(size) else 0, dtype=dtype, device=device)
    found = as_strided(memory, size, stride).detach()
    return found.requires_grad_() if requires_grad else found


def empty_permuted(
    size: Sequence[int],
    physical_layout: Sequence[int],
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor to be written whose dims lie in memory in the order ``physical_layout``."""
    shape = dispatch.sizes(size)
    order = [axis("empty_permuted", d, len(shape)) for d in physical_layout]
    if sorted(order) != list(range(len(shape))):
        message = f"expected each of {len(shape)} dims once, got {tuple(physical_layout)}"
        raise located(ArgumentError, f"empty_permuted: {message}")
    memory = empty([shape[a] for a in order], dtype=dtype, device=device)
    found = view.permute(memory, [order.index(a) for a in range(len(shape))]).detach()
    return found.requires_grad_() if requires_grad else found


def new_empty_strided(
    input: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    dtype: DType | None = None,
    device: Where = None,
) -> Tensor:
    """:func:`empty_strided` in the dtype of ``input``."""
    want, there = dtype or input.type.dtype, device or input.device
    return empty_strided(size, stride, dtype=want, device=there)


def _written(input: Tensor, src: Tensor, shown: Callable[[Tensor], Tensor]) -> Tensor:
    out = input.clone()
    shown(out).copy_(src)
    return out


def fill_diagonal_(input: Tensor, fill_value: Value, wrap: bool = False) -> Tensor:
    """Set the main diagonal of ``input`` to a number; ``wrap`` goes on below it in tall matrices.

    All sizes must be equal where there are more than two dims.
    """
    shape = input.type.shape
    if len(shape) < 2 or (len(shape) > 2 and len(set(shape)) > 1):
        message = f"expected a matrix, or equal sizes, got {input.type}"
        raise located(TypeCheckError, f"fill_diagonal_: {message}")
    lines = [np.arange(int(min(map(int, input.shape))))] * len(shape)
    if wrap and len(shape) == 2:
        rows, columns = map(int, input.shape)
        number = np.arange(0, rows * columns, columns + 1)
        lines = [number // columns, number % columns]
    places = [dispatch.from_array(line, device=input.device) for line in lines]
    input[tuple(places)] = fill_value
    return input
