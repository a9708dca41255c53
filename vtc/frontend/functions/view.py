"""Views: other shapes of the same elements. They share memory, and writes go through them.

view(x, (-1, 8))            # like reshape, but never a copy
x.transpose(0, 1).add_(1)   # changes x
expand(x, (4, -1))          # repeats without memory; not writable
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch, layout
from vtc.frontend.functions.arguments import (
    Dims,
    axes,
    axis,
    expect_tensor,
    flat,
    is_tensor,
    own_axis,
    show,
    sizes,
)
from vtc.frontend.functions.bitcast import view_as_dtype
from vtc.frontend.functions.promotion import common_shape, expand_to
from vtc.frontend.source import located
from vtc.ir.dims import Size, floordiv, product
from vtc.ir.ops.view import Permute, Reshape, Slice
from vtc.ir.types import DType

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# shapes


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """``input`` in row-major order under ``shape``; one size may be -1. A view if it can be."""
    expect_tensor("reshape", "input", input)
    op = Reshape(shape=_inferred("reshape", input, sizes(shape)))
    if dispatch.is_capturing() and layout.moves(input, op.shape):
        return dispatch.apply(op, input)
    return dispatch.view(op, input)


def view(input: Tensor, *shape: Any, dtype: DType | None = None) -> Tensor:
    """Like :func:`reshape`. TypeCheckError where the layout in memory would need a copy.

    Of a dtype (``x.view(vtc.int32)``): the same bytes as elements of it. Smaller ones make the last
    dim longer, larger ones shorter; no gradient goes through.
    """
    if dtype is not None or (shape and isinstance(shape[0], DType)):
        given = shape if dtype is None else (*shape, dtype)
        if len(given) != 1:
            got = ", ".join(map(repr, given))
            raise located(ArgumentError, f"view: expected a shape or a dtype, got {got}")
        return view_as_dtype(input, given[0])
    op = Reshape(shape=_inferred("view", input, sizes(shape)))
    tracing = dispatch.is_capturing()
    out = None if tracing and layout.moves(input, op.shape) else dispatch.view(op, input)
    if out is None or not (tracing or out._storage is input._storage):
        want = input.type.with_shape(op.shape)
        message = f"view: {input.type} is not laid out as {want} needs; use reshape"
        raise located(TypeCheckError, message)
    return out


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """:func:`view` in the shape of ``other``."""
    return view(input, other.type.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """:func:`reshape` to the shape of ``other``."""
    return reshape(input, other.type.shape)


def _inferred(name: str, input: Tensor, shape: tuple[Size, ...]) -> tuple[Size, ...]:
    type = input.type
    known = product(s for s in shape if s != -1)
    if shape.count(-1) > 1:
        raise located(ArgumentError, f"{name}: expected at most one -1, got {show(shape)}")
    if -1 in shape:
        if known == 0:
            raise located(
                ArgumentError, f"{name}: -1 is ambiguous beside a size of 0: {show(shape)}"
            )
        shape = tuple(floordiv(type.numel, known) if s == -1 else s for s in shape)
    if any(isinstance(s, int) and s < 0 for s in shape) or product(shape) != type.numel:
        message = f"{name}: shape {show(shape)} is invalid for {type} of {type.numel} elements"
        raise located(TypeCheckError, message)
    return shape


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dims ``start_dim`` to ``end_dim`` as one; a 0-d tensor becomes one element."""
    expect_tensor("flatten", "input", input)
    shape = input.type.shape or (1,)
    first = axis("flatten", start_dim, len(shape))
    last = axis("flatten", end_dim, len(shape))
    if first > last:
        raise located(ArgumentError, f"flatten: start_dim {first} comes after end_dim {last}")
    merged = product(shape[first : last + 1])
    return reshape(input, (*shape[:first], merged, *shape[last + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dim ``dim`` split into ``sizes``, one of which may be -1."""
    expect_tensor("unflatten", "input", input)
    at = own_axis("unflatten", dim, input.type)
    shape = input.type.shape
    parts = list(dispatch.sizes(sizes))
    if parts.count(-1) == 1:
        known = product(s for s in parts if s != -1)
        if known == 0:
            raise located(
                ArgumentError, f"unflatten: -1 is ambiguous beside a size of 0: {show(parts)}"
            )
        parts[parts.index(-1)] = floordiv(shape[at], known)
    if product(parts) != shape[at]:
        message = f"unflatten: {show(parts)} does not multiply up to dim {at} of {input.type}"
        raise located(TypeCheckError, message)
    return reshape(input, (*shape[:at], *parts, *shape[at + 1 :]))


def squeeze(input: Tensor, dim: Dims | None = None) -> Tensor:
    """Without the dims of size 1, or without those of ``dim`` that are of size 1."""
    expect_tensor("squeeze", "input", input)
    type = input.type
    over = range(type.rank) if dim is None or dim == () else axes("squeeze", dim, type.rank)
    gone = [a for a in over if type.shape[a] == 1]
    kept = tuple(n for a, n in enumerate(type.shape) if a not in gone)
    return dispatch.view(Reshape(shape=kept), input)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dim of size 1 at ``dim`` of the result."""
    expect_tensor("unsqueeze", "input", input)
    at = axis("unsqueeze", dim, input.type.rank + 1)
    shape = input.type.shape
    return dispatch.view(Reshape(shape=(*shape[:at], 1, *shape[at:])), input)


def expand(input: Tensor, *size: Any) -> Tensor:
    """Dims of size 1 repeated to ``size``, which may have more dims in front; -1 keeps a size."""
    expect_tensor("expand", "input", input)
    want = sizes(size)
    type = input.type
    extra = len(want) - type.rank
    if extra < 0:
        raise located(
            TypeCheckError,
            f"expand: expected at least {type.rank} sizes for {type}, got {show(want)}",
        )
    if any(s == -1 for s in want[:extra]):
        raise located(ArgumentError, f"expand: -1 stands for no size of {type} in {show(want)}")
    full = [
        *want[:extra],
        *(n if s == -1 else s for s, n in zip(want[extra:], type.shape, strict=True)),
    ]
    return expand_to("expand", input, full)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """:func:`expand` to the shape of ``other``."""
    return expand_to("expand_as", input, other.type.shape)


def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """:func:`expand` by another name."""
    return expand(input, size)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All of ``tensors`` expanded to the shape they have together."""
    shape = common_shape("broadcast_tensors", [t.type for t in tensors])
    return tuple(expand_to("broadcast_tensors", t, shape) for t in tensors)


# order of dims


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dim ``i`` of the result is dim ``dims[i]`` of ``input``."""
    expect_tensor("permute", "input", input)
    rank = input.type.rank
    order = tuple(axis("permute", d, rank) for d in flat(dims))
    if sorted(order) != list(range(rank)):
        raise located(
            ArgumentError, f"permute: expected each dim of {input.type} once, got {order}"
        )
    return dispatch.view(Permute(axes=order), input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """With dims ``dim0`` and ``dim1`` swapped."""
    expect_tensor("transpose", "input", input)
    rank = input.type.rank
    a, b = axis("transpose", dim0, rank), axis("transpose", dim1, rank)
    order = list(range(rank))
    if rank:
        order[a], order[b] = b, a
    return dispatch.view(Permute(axes=tuple(order)), input)


def t(input: Tensor) -> Tensor:
    """A matrix with its dims swapped; a vector as it is."""
    expect_tensor("t", "input", input)
    if input.type.rank > 2:
        raise located(TypeCheckError, f"t: expected 2 dims or fewer, got {input.type}")
    return reverse_dims(input)


def reverse_dims(input: Tensor) -> Tensor:
    """All dims in reverse order: ``x.T``."""
    return dispatch.view(Permute(axes=tuple(reversed(range(input.type.rank)))), input)


def matrix_transpose(input: Tensor) -> Tensor:
    """The last two dims swapped: ``x.mT``."""
    expect_tensor("matrix_transpose", "input", input)
    if input.type.rank < 2:
        raise located(TypeCheckError, f"mT: expected 2 dims or more, got {input.type}")
    return transpose(input, -2, -1)


def adjoint(input: Tensor) -> Tensor:
    """The last two dims swapped; ``x.mH`` of real numbers."""
    return matrix_transpose(input)


def ravel(input: Tensor) -> Tensor:
    """All dims as one."""
    expect_tensor("ravel", "input", input)
    dense = contiguous(input)
    return reshape(dense, (-1,)) if input.type.numel != 0 else reshape(dense, (0,))


def movedim(input: Tensor, source: Dims, destination: Dims) -> Tensor:
    """Dims ``source`` moved to ``destination``; the others keep their order."""
    expect_tensor("movedim", "input", input)
    rank = input.type.rank
    froms, tos = (
        [axis("movedim", d, rank) for d in (x if isinstance(x, Sequence) else [x])]
        for x in (source, destination)
    )
    good = len(froms) == len(tos) == len(set(froms)) == len(set(tos))
    if not good:
        raise located(ArgumentError, f"movedim: expected as many distinct dims, got {froms}, {tos}")
    if not rank:
        return dispatch.view(Permute(axes=()), input)
    order = [a for a in range(rank) if a not in froms]
    for to, start in sorted(zip(tos, froms, strict=True)):
        order.insert(to, start)
    return dispatch.view(Permute(axes=tuple(order)), input)


swapaxes = swapdims = transpose
moveaxis = movedim


# parts


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """``length`` elements along ``dim`` from ``start`` on; ``start`` may be a 0-d tensor."""
    expect_tensor("narrow", "input", input)
    at = own_axis("narrow", dim, input.type)
    n, count = input.type.shape[at], dispatch.size(length)
    if is_tensor(start) and dispatch.is_capturing():
        shape = list(input.type.shape)
        shape[at] = count
        starts: list[Any] = [0] * len(shape)
        starts[at] = start
        return input.dynamic_slice(starts, shape)
    first = dispatch.size(start)
    if isinstance(first, int) and first < 0:
        first = first + n
    if _surely_less(first, 0) or _surely_less(count, 0) or _surely_less(n, first + count):
        got = f"got {first} and {count}"
        raise located(
            IndexRangeError,
            f"narrow: expected start and length inside dim {at} of {input.type}, {got}",
        )
    return cut(input, {at: (first, first + count)})


def narrow_copy(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """A copy of what :func:`narrow` shows."""
    return narrow(input, dim, start, length).clone()


def _surely_less(a: Size, b: Size) -> bool:
    return isinstance(a, int) and isinstance(b, int) and a < b


def cut(input: Tensor, ranges: dict[int, tuple[Size, Size]]) -> Tensor:
    """The part of ``input`` between a start and a stop along some axes."""
    bounds = [ranges.get(a, (0, n)) for a, n in enumerate(input.type.shape)]
    starts, stops = tuple(i for i, _ in bounds), tuple(j for _, j in bounds)
    return dispatch.view(Slice(starts=starts, stops=stops, steps=(1,) * len(bounds)), input)


def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """The slice at ``index`` along ``dim``, which is dropped; ``index`` may be a 0-d tensor."""
    expect_tensor("select", "input", input)
    at = own_axis("select", dim, input.type)
    key: list[Any] = [slice(None)] * at
    return input[(*key, index)]


def split(input: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of ``split_size`` along ``dim``, the last maybe smaller, or of the sizes in a list."""
    expect_tensor("split", "input", input)
    at = own_axis("split", dim, input.type)
    n = input.type.shape[at]
    if isinstance(split_size, Sequence):
        parts = list(dispatch.sizes(split_size))
        if total(parts) != n:
            got = f"got {show(parts)}"
            raise located(
                ArgumentError, f"split: expected sizes that sum to dim {at} of {input.type}, {got}"
            )
        return _parts(input, at, parts)
    whole, size = int(input.shape[at]), int(split_size)
    if size < 1 and (size < 0 or whole):
        raise located(ArgumentError, f"split: expected a size >= 1, got {size}")
    count = max(1, -(-whole // size)) if size else 1
    return _parts(input, at, [min(size, whole - i * size) for i in range(count)])


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of ``split_sizes`` along ``dim``."""
    expect_tensor("split_with_sizes", "input", input)
    return split(input, list(split_sizes), dim)


def total(sizes: Sequence[Size]) -> Size:
    """The sum of ``sizes``, which may be symbolic."""
    return sum(sizes, start=_ZERO)


_ZERO: Size = 0


def _parts(input: Tensor, at: int, lengths: Sequence[Size]) -> tuple[Tensor, ...]:
    found = []
    start: Size = 0
    for length in lengths:
        found.append(cut(input, {at: (start, start + length)}))
        start = start + length
    return tuple(found)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` parts of one size along ``dim``; the last may be smaller."""
    expect_tensor("chunk", "input", input)
    at = own_axis("chunk", dim, input.type)
    if chunks < 1:
        raise located(ArgumentError, f"chunk: expected chunks >= 1, got {chunks}")
    n = input.type.shape[at]
    if not isinstance(n, int):
        return _parts(input, at, _even(input, at, n, chunks))
    return split(input, max(1, -(-n // chunks)), at) if n else split(input, [0] * chunks, at)


def _even(input: Tensor, at: int, n: Size, chunks: int) -> list[Size]:
    """Of a symbolic size: parts of one size, if it is known to divide."""
    part = floordiv(n, chunks)
    if part * chunks != n:
        message = f"chunk: dim {at} of {input.type} is not known to be a multiple of {chunks}"
        raise located(TypeCheckError, message)
    return [part] * chunks


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along ``dim``, which is dropped."""
    expect_tensor("unbind", "input", input)
    at = own_axis("unbind", dim, input.type)
    return tuple(select(input, at, i) for i in range(int(input.shape[at])))


def contiguous(input: Tensor) -> Tensor:
    """``input`` itself if its elements lie in row-major order, else a copy that does."""
    return input if is_contiguous(input) else input.clone()


def is_contiguous(input: Tensor) -> bool:
    """Whether the elements lie in row-major order; what a trace computed is taken to."""
    expect_tensor("is_contiguous", "input", input)
    if dispatch.is_capturing():
        return layout.is_dense(input)
    return input._array is None or input._array.flags.c_contiguous
