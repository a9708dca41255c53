"""New tensors from the elements of others: joined, padded, repeated, turned.

cat([x, y], dim=1)           # dtypes promote
pad(x, (1, 1))               # one element on both sides of the last dim
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from vtc.errors import ArgumentError, CaptureError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, view
from vtc.frontend.functions.arguments import (
    Dims,
    Number,
    axes,
    axis,
    expect_tensor,
    flat,
    is_tensor,
    own_axis,
    show,
    sizes,
    type_name,
)
from vtc.frontend.functions.promotion import cast, checked, expand_to, promote_types, result_type
from vtc.frontend.source import located
from vtc.ir.dims import Size, bounds, maximum, mod
from vtc.ir.ops.fill import Concat, Iota, Pad, Tril, Triu
from vtc.ir.ops.index import Index
from vtc.ir.ops.scan import Cumsum
from vtc.ir.ops.sort import Searchsorted
from vtc.ir.ops.view import Flip, Reshape
from vtc.ir.types import DType, i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# joining


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``tensors`` one after another along ``dim``; their other sizes must be equal."""
    parts = _tensors("cat", tensors)
    first = parts[0].type
    if first.rank == 0:
        raise located(TypeCheckError, f"cat: expected 1 dim or more, got {first}; use stack")
    at = axis("cat", dim, first.rank)
    for p in parts:
        rest = [
            (m, n)
            for a, (m, n) in enumerate(zip(first.shape, p.type.shape, strict=False))
            if a != at
        ]
        if p.type.rank != first.rank or any(m != n for m, n in rest):
            message = f"cat: sizes must match except in dim {at}, got {first} and {p.type}"
            raise located(TypeCheckError, message)
    return dispatch.apply(Concat(axis=at), *_one_dtype(parts))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``tensors``, of one shape, along a new dim."""
    parts = _tensors("stack", tensors)
    for p in parts:
        if p.type.shape != parts[0].type.shape:
            message = f"stack: expected tensors of one shape, got {parts[0].type} and {p.type}"
            raise located(TypeCheckError, message)
    at = axis("stack", dim, parts[0].type.rank + 1)
    return dispatch.apply(Concat(axis=at), *_one_dtype([view.unsqueeze(p, at) for p in parts]))


def _tensors(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    parts = [] if is_tensor(tensors) else list(tensors)
    if not parts or not all(map(is_tensor, parts)):
        kind = type(tensors).__name__
        got = f"[{', '.join(map(type_name, parts))}]" if parts else f"an empty {kind}"
        got = f"one {kind}" if is_tensor(tensors) else got
        raise located(ArgumentError, f"{name}: expected a non-empty sequence of Tensors, got {got}")
    return parts


def _one_dtype(parts: Sequence[Tensor]) -> list[Tensor]:
    dtype: DType = result_type(*parts)
    for p in parts:  # unlike in arithmetic, 0-d and weak tensors count in full
        dtype = promote_types(dtype, p.type.dtype) if p._weak else dtype
    return [cast(p, dtype) for p in parts]


# padding and repeating

S = TypeVar("S")
_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: Number | None = None
) -> Tensor:
    """``input`` with ``pad`` = (before, after) of the last dim, then of the one before, and so on.

    ``mode`` is constant (``value``, default 0; negative pads cut), reflect, replicate or circular.
    """
    expect_tensor("pad", "input", input)
    rank, amounts = input.type.rank, dispatch.sizes(pad)
    if len(amounts) % 2 or len(amounts) > 2 * rank:
        got = f"got {show(amounts)}"
        raise located(
            ArgumentError, f"pad: expected two sizes for each of up to {rank} dims, {got}"
        )
    if mode in _MODES:
        return _pad_by_index(input, _by_axis(rank, [int(p) for p in pad]), mode)
    if mode != "constant":
        modes = ", ".join(["constant", *_MODES])
        raise located(ArgumentError, f"pad: expected mode to be one of {modes}, got {mode!r}")
    fill = checked("pad", 0 if value is None else value, input.type.dtype)
    return _pad_constant(input, _by_axis(rank, amounts), fill)


def _by_axis(rank: int, amounts: Sequence[S]) -> dict[int, tuple[S, S]]:
    pairs = zip(amounts[::2], amounts[1::2], strict=True)
    return {rank - 1 - i: pair for i, pair in enumerate(pairs)}


def _pad_constant(input: Tensor, pairs: dict[int, tuple[Size, Size]], fill: Any) -> Tensor:
    less = {a: pair for a, pair in pairs.items() if any(isinstance(p, int) and p < 0 for p in pair)}
    if less:
        shape = input.type.shape
        bounds = {a: (_cut(lo), shape[a] - _cut(hi)) for a, (lo, hi) in less.items()}
        if any(isinstance(n := j - i, int) and n < 0 for i, j in bounds.values()):
            raise located(ArgumentError, f"pad: {less} cuts more than {input.type} has")
        input = view.cut(input, bounds)
    grown = (pairs.get(a, (0, 0)) for a in range(input.type.rank))
    pads = tuple((_grow(lo), _grow(hi), 0) for lo, hi in grown)
    if all(p == (0, 0, 0) for p in pads):
        return input.clone()
    return dispatch.apply(Pad(pads=pads, value=fill), input)


def _cut(amount: Size) -> Size:
    return -amount if isinstance(amount, int) and amount < 0 else 0


def _grow(amount: Size) -> Size:
    return 0 if isinstance(amount, int) and amount < 0 else amount


def _pad_by_index(input: Tensor, pairs: dict[int, tuple[int, int]], mode: str) -> Tensor:
    for a, (lo, hi) in pairs.items():
        if lo == hi == 0:
            continue
        n = int(input.shape[a])
        limit = {"reflect": n - 1, "circular": n}.get(mode, max(lo, hi))
        if min(lo, hi) < 0 or max(lo, hi) > limit or n == 0:
            got = f"got {(lo, hi)} for dim {a} of {input.type}"
            raise located(
                ArgumentError, f"pad: expected 0 <= pad <= {limit} with mode {mode!r}, {got}"
            )
        places = np.pad(np.arange(n), (lo, hi), mode=_MODES[mode])
        at = dispatch.from_array(places, device=input.device)
        input = dispatch.apply(Index(axes=(a,)), input, at)
    return input


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """``input`` copied ``repeats`` times along each dim; more numbers add dims in front."""
    times, shape = sizes(repeats), input.type.shape
    extra = len(times) - len(shape)
    if extra < 0:
        message = (
            f"repeat: expected at least {len(shape)} numbers for {input.type}, got {len(times)}"
        )
        raise located(ArgumentError, message)
    shape = (*(1,) * extra, *shape)
    if all(t == 1 for t in times):
        return view.reshape(input, shape).clone()
    spread = [s for n in shape for s in (1, n)]
    filled = [s for t, n in zip(times, shape, strict=True) for s in (t, n)]
    x = expand_to("repeat", view.reshape(input, spread), filled)
    whole = tuple([t * n for t, n in zip(times, shape, strict=True)])
    return dispatch.apply(Reshape(whole), x)  # no view: it can be written


def tile(input: Tensor, *dims: Any) -> Tensor:
    """:func:`repeat`, where missing numbers in front are 1."""
    expect_tensor("tile", "input", input)
    times = sizes(dims)
    return repeat(input, (*(1,) * (input.type.rank - len(times)), *times))


def repeat_interleave(
    input: Tensor,
    repeats: int | Tensor | None = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor:
    """Each element ``repeats`` times in a row along ``dim``, or of all in row-major order.

    ``repeats`` may be a vector of i64 or i32, a number for each element; then a compiled function
    needs ``output_size``, their sum. Alone, ``input`` is such a vector: the result says where.
    """
    expect_tensor("repeat_interleave", "input", input)
    if repeats is None:
        count = input.type.shape[0] if input.type.rank == 1 else 1
        line = dispatch.create(Iota(shape=(count,), axis=0, dtype=i64), input.device)
        return repeat_interleave(line, input, 0, output_size=output_size)
    x = view.flatten(input) if dim is None else input
    at = own_axis("repeat_interleave", dim or 0, x.type)
    if is_tensor(repeats):
        return _repeated(x, repeats, at, output_size)
    count, shape = dispatch.size(repeats), x.type.shape
    if isinstance(count, int) and count < 0:
        raise located(ArgumentError, f"repeat_interleave: expected repeats >= 0, got {count}")
    x = expand_to(
        "repeat_interleave", view.unsqueeze(x, at + 1), (*shape[: at + 1], count, *shape[at + 1 :])
    )
    whole = (*shape[:at], shape[at] * count, *shape[at + 1 :])
    return dispatch.apply(Reshape(whole), x)  # no view: it can be written


def _repeated(x: Tensor, repeats: Tensor, at: int, size: int | None) -> Tensor:
    """The element ``i`` of the result comes from as many places as end before it, or with it."""
    type, n = repeats.type, x.type.shape[at]
    if type.dtype not in (i32, i64) or type.rank > 1 or (type.rank and type.shape[0] not in (1, n)):
        want = f"repeat_interleave: expected {n} repeats of i64 or i32"
        raise located(TypeCheckError, f"{want}, got {type}")
    counts = expand_to("repeat_interleave", cast(repeats, i64), (n,))
    size = _checked_sum(counts, size)
    ends = dispatch.apply(Cumsum(axis=0, reverse=False), counts)
    line = dispatch.create(Iota(shape=(dispatch.size(size),), axis=0, dtype=i64), x.device)
    return dispatch.apply(Index(axes=(at,)), x, dispatch.apply(Searchsorted(True), ends, line))


def _checked_sum(counts: Tensor, size: int | None) -> int:
    """The sum of ``counts``, which must be ``size`` where both are known."""
    if dispatch.is_capturing():
        if size is None:
            message = "repeat_interleave of a tensor has no fixed size; give output_size"
            raise located(CaptureError, message)
        return size
    known = counts.detach().cpu().numpy()
    if (known < 0).any():
        raise located(ArgumentError, f"repeat_interleave: expected repeats >= 0, got {known}")
    if size not in (None, known.sum()):
        want = f"repeat_interleave: expected output_size to be the sum {known.sum()}"
        raise located(ArgumentError, f"{want}, got {size}")
    return int(known.sum())


# turning


def flip(input: Tensor, *dims: Any) -> Tensor:
    """``input`` with the order of elements along ``dims`` reversed."""
    expect_tensor("flip", "input", input)
    over = flat(dims)
    found = axes("flip", over, input.type.rank) if over else ()
    return dispatch.apply(Flip(axes=found), input)


def roll(input: Tensor, shifts: Dims, dims: Dims | None = None) -> Tensor:
    """Elements moved ``shifts`` places along ``dims``, around the end; without dims, when flat."""
    if dims is None:
        rolled = roll(view.flatten(input), shifts, 0)
        return view.reshape(rolled, input.type.shape)
    pairs = list(zip(_ints(shifts), _ints(dims), strict=False))
    if len(_ints(shifts)) != len(_ints(dims)):
        raise located(ArgumentError, f"roll: expected as many shifts as dims, got {shifts}, {dims}")
    for shift, dim in pairs:
        at = own_axis("roll", dim, input.type)
        n = input.type.shape[at]
        start = mod(n - dispatch.size(shift), _at_least_1(n))
        if start != 0:
            parts = view.cut(input, {at: (start, n)}), view.cut(input, {at: (0, start)})
            input = dispatch.apply(Concat(axis=at), *parts)
    return input.clone()


def _at_least_1(n: Size) -> Size:
    ranges = dispatch.state.capture.sizes.ranges if dispatch.is_capturing() else {}
    low, _ = bounds(n, ranges)
    return n if low is not None and low >= 1 else maximum(n, 1)


def _ints(value: Dims) -> Sequence[int]:
    return value if isinstance(value, Sequence) else (value,)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The last two dims' matrices with zeros above ``diagonal`` (1 is right of the main one)."""
    expect_tensor("tril", "input", input)
    return _triangle(Tril, comparison.le, input, diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The last two dims' matrices with zeros below ``diagonal`` (1 is right of the main one)."""
    expect_tensor("triu", "input", input)
    return _triangle(Triu, comparison.ge, input, diagonal)


def _triangle(
    op: type[Tril] | type[Triu], inside: Callable[..., Tensor], input: Tensor, diagonal: int
) -> Tensor:
    """What is ``inside``, seen from ``diagonal``, which may follow from sizes that vary."""
    at = dispatch.size(diagonal)
    if isinstance(at, int) or input.type.rank < 2:
        return dispatch.apply(op(diagonal=at if isinstance(at, int) else 0), input)
    n, m = input.type.shape[-2:]
    rows, columns = (dispatch.create(Iota((k,), 0, i64), input.device) for k in (n, m))
    right = elementwise.sub(columns, view.unsqueeze(rows, 1))
    nothing = dispatch.constant(0, input.type.dtype, (), input.device)
    return comparison.where(inside(right, at), input, nothing)
