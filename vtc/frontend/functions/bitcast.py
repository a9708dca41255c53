"""The same bytes as elements of another dtype: ``x.view(dtype)``.

bits = x.view(vtc.int32)                # of float32: the bits of each number
q.view(vtc.float8_e4m3fn)               # bytes, as a file has them, as what they mean
x.view(vtc.uint8)                       # four bytes of each: the last dim is four times as long
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch, layout
from vtc.frontend.functions.facts import storage_offset
from vtc.frontend.source import located
from vtc.ir.ops.bitcast import Bitcast

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor
    from vtc.ir.types import DType


def view_as_dtype(input: Tensor, dtype: DType) -> Tensor:
    """The bytes of ``input`` as ``dtype``; a view, which does not require grad.

    TypeCheckError where elements are of another size, and those of the last dim do not lie side by
    side, or are no whole number of new ones.
    """
    if input.type.dtype.itemsize != dtype.itemsize:
        _check(input, dtype)
    return dispatch.view(Bitcast(dtype), input.detach() if input.requires_grad else input)


def _check(input: Tensor, dtype: DType) -> None:
    """PyTorch's conditions on sizes and strides."""
    type = input.type
    shown = f"to view {type} as {dtype}, whose elements are of another size"
    if not type.rank:
        raise located(TypeCheckError, f"view: expected 1 dim or more {shown}")
    steps = layout.steps(input)
    if steps[-1] != 1 and (steps[-1] or type.shape[-1] != 1):
        message = f"expected steps of 1 along the last dim {shown}, got {steps[-1]}"
        raise located(TypeCheckError, f"view: {message}; use contiguous()")
    count = dtype.itemsize // type.dtype.itemsize
    if count < 2:
        return
    if input.shape[-1] % count != 0:
        message = f"expected a last dim whose size is divisible by {count} {shown}"
        raise located(TypeCheckError, f"view: {message}")
    if any(s % count for s, n in zip(steps[:-1], type.shape[:-1], strict=True) if n != 1):
        message = f"expected steps that are divisible by {count} {shown}, got {steps}"
        raise located(TypeCheckError, f"view: {message}; use contiguous()")
    start = 0 if dispatch.is_capturing() else storage_offset(input)
    if start % count:
        message = f"expected a storage_offset() that is divisible by {count} {shown}, got {start}"
        raise located(TypeCheckError, f"view: {message}; use clone()")
