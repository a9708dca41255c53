"""Other dtypes for the same values: ``x.float()``, ``x.half()``, ``x.long()`` ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.frontend.functions.promotion import cast
from vtc.ir.types import bf16, bool_, c64, c128, f16, f32, f64, i8, i16, i32, i64, u8

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def to_float32(input: Tensor) -> Tensor:
    """``input`` as float32."""
    return cast(input, f32)


def to_float64(input: Tensor) -> Tensor:
    """``input`` as float64."""
    return cast(input, f64)


def to_float16(input: Tensor) -> Tensor:
    """``input`` as float16."""
    return cast(input, f16)


def to_bfloat16(input: Tensor) -> Tensor:
    """``input`` as bfloat16."""
    return cast(input, bf16)


def to_complex64(input: Tensor) -> Tensor:
    """``input`` as complex64."""
    return cast(input, c64)


def to_complex128(input: Tensor) -> Tensor:
    """``input`` as complex128."""
    return cast(input, c128)


def to_bool(input: Tensor) -> Tensor:
    """``input != 0``."""
    return cast(input, bool_)


def to_uint8(input: Tensor) -> Tensor:
    """``input`` as uint8, truncated towards zero."""
    return cast(input, u8)


def to_int8(input: Tensor) -> Tensor:
    """``input`` as int8, truncated towards zero."""
    return cast(input, i8)


def to_int16(input: Tensor) -> Tensor:
    """``input`` as int16, truncated towards zero."""
    return cast(input, i16)


def to_int32(input: Tensor) -> Tensor:
    """``input`` as int32, truncated towards zero."""
    return cast(input, i32)


def to_int64(input: Tensor) -> Tensor:
    """``input`` as int64, truncated towards zero."""
    return cast(input, i64)


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """``input`` in the dtype of ``other``."""
    return cast(input, other.type.dtype)
