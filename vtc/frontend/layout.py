"""How a traced tensor would lie in memory: eager code copies where elements have to move.

    y = x.t().reshape(-1)
    y.add_(1)                # x stays as it was, in a trace as in eager code

Arguments and what was met lie as they do in this call, which the key of a compiled function holds
(``keys.Kind.order``). What the trace computed is taken to be dense, and so is a view other than a
slice, a reshape, dims in another order or repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from vtc.errors import TypeCheckError
from vtc.frontend.dispatch import state
from vtc.frontend.source import located
from vtc.ir.dims import Size, substitute
from vtc.ir.op import Op, tensor_type
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.view import Expand, Permute, Reshape, Slice, ints
from vtc.ir.types import Array, TensorType, i8

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def is_dense(x: Tensor) -> bool:
    """Whether the elements of ``x`` lie in row-major order."""
    return _shown(x).flags.c_contiguous


def steps(x: Tensor) -> tuple[int, ...]:
    """How many elements apart neighbours along each dim lie."""
    return _shown(x).strides


def moves(x: Tensor, shape: Sequence[Size]) -> bool:
    """Whether elements of ``x`` have to move to be seen as ``shape``, of as many elements."""
    return _reshaped(_shown(x), _now(shape)) is None


def repeats(array: Array) -> bool:
    """Whether steps of 0 show an element more than once."""
    return any(n > 1 and not step for n, step in zip(array.shape, array.strides, strict=True))


def refuse_repeated(x: Tensor) -> None:
    """TypeCheckError for a tensor to be written that shows an element more than once."""
    if repeats(_shown(x)):
        raise located(
            TypeCheckError,
            "in-place write: more than one element of the tensor shares a memory location; "
            "clone() first",
        )


def _shown(x: Tensor) -> Array:
    """An array with the sizes and strides of ``x``, in bytes of one element; it has no memory."""
    cuts: list[tuple[Op, int]] = []
    while x._array is None and x._link is not None:
        x, op = x._link
        cuts.append((op.substitute(state.capture.sizes.values), x.type.dtype.itemsize))
    if x._array is not None:
        strides = [s // x._array.itemsize for s in x._array.strides]
        found = _laid_out(x._array.shape, strides)
    else:
        found = _dense(_now(x.type.shape))
    for op, itemsize in reversed(cuts):
        found = _cut(found, op, itemsize)
    return found


def _cut(array: Array, op: Op, itemsize: int) -> Array:
    match op:
        case Bitcast(dtype):
            return _regrouped(array, itemsize, dtype.itemsize)
        case Permute() | Slice() | Expand():
            found: Array = op.reference(array)
            return found
        case Reshape():
            seen = _reshaped(array, _now(op.shape))
            return _dense(_now(op.shape)) if seen is None else seen
        case _:
            return _dense(tensor_type(op, op.infer(TensorType(i8, array.shape))).shape)


def _regrouped(array: Array, was: int, now: int) -> Array:
    """Elements of ``was`` bytes as those of ``now``."""
    if was == now:
        return array
    steps = [s * was // now for s in array.strides[:-1]]
    return _laid_out((*array.shape[:-1], array.shape[-1] * was // now), (*steps, 1))


def _reshaped(array: Array, shape: tuple[int, ...]) -> Array | None:
    """A view; None where there is none."""
    if not array.size:
        return _dense(shape)
    seen = array.view()
    try:
        if np.lib.NumpyVersion(np.__version__) < "2.1.0":
            seen.shape = shape  # which never copies, but is deprecated since
            return seen
        return seen.reshape(shape, copy=False)
    except (AttributeError, ValueError):
        return None


def _dense(shape: Sequence[Size]) -> Array:
    sizes = ints(shape)
    return _laid_out(sizes, [prod(sizes[a + 1 :]) for a in range(len(sizes))])


def _laid_out(shape: Sequence[int], strides: Sequence[int]) -> Array:
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape, strides)


def _now(shape: Iterable[Size]) -> tuple[int, ...]:
    """Sizes as they are in this call."""
    values = state.capture.sizes.values
    return ints([substitute(n, values) for n in shape])
