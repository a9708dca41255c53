"""Types of values: ``f32[B, 784]`` is a dtype and a shape; ``(f32[4], i64[4])`` is several results.

A dim is an ``int`` or a :class:`~vtc.ir.dims.Sym`. dtypes print short in IR (``f32``) and with
PyTorch's name for users (``vtc.float32``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Never

import ml_dtypes
import numpy as np

from vtc.errors import ArgumentError
from vtc.ir.dims import Size, product

Kind = Literal["bool", "int", "float", "complex"]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type. ``name`` is the IR's, ``torch`` is PyTorch's; instances are unique."""

    name: str
    torch: str
    kind: Kind
    numpy: np.dtype[Any]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy.itemsize

    @property
    def is_floating_point(self) -> bool:
        """Whether this is a real floating-point type."""
        return self.kind == "float"

    @property
    def is_complex(self) -> bool:
        """Whether this is a complex type."""
        return self.kind == "complex"

    @property
    def accumulate(self) -> DType:
        """The type ops compute in: f32 for f16, bf16 and fp8, else the type itself."""
        return f32 if self.kind == "float" and self.itemsize < 4 else self

    @property
    def word(self) -> DType:
        """The integer type that holds the bits of an element; real dtypes only."""
        return {1: u8, 2: i16, 4: i32, 8: i64}[self.itemsize]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"vtc.{self.torch}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_dtype_named, (self.name,))


def _make(name: str, torch: str, kind: Kind, numpy: Any) -> DType:
    return DType(name, torch, kind, np.dtype(numpy))


bool_ = _make("bool", "bool", "bool", np.bool_)
u8 = _make("u8", "uint8", "int", np.uint8)
i8 = _make("i8", "int8", "int", np.int8)
i16 = _make("i16", "int16", "int", np.int16)
i32 = _make("i32", "int32", "int", np.int32)
i64 = _make("i64", "int64", "int", np.int64)
f8e4m3 = _make("f8e4m3", "float8_e4m3fn", "float", ml_dtypes.float8_e4m3fn)
f8e5m2 = _make("f8e5m2", "float8_e5m2", "float", ml_dtypes.float8_e5m2)
f16 = _make("f16", "float16", "float", np.float16)
bf16 = _make("bf16", "bfloat16", "float", ml_dtypes.bfloat16)
f32 = _make("f32", "float32", "float", np.float32)
f64 = _make("f64", "float64", "float", np.float64)
c64 = _make("c64", "complex64", "complex", np.complex64)
c128 = _make("c128", "complex128", "complex", np.complex128)

LARGEST_F8E4M3 = 448.0
_ALL = (bool_, u8, i8, i16, i32, i64, f8e4m3, f8e5m2, f16, bf16, f32, f64, c64, c128)
DTYPES: dict[str, DType] = {d.name: d for d in _ALL}
_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in _ALL}


def _dtype_named(name: str) -> DType:
    return DTYPES[name]


def dtype_of(numpy: Any) -> DType:
    """The dtype of a NumPy dtype. KeyError if vtc has none."""
    return _BY_NUMPY[np.dtype(numpy)]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Printed ``f32[B, 4]``; a scalar is ``f32[()]``."""

    dtype: DType
    shape: tuple[Size, ...]

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> Size:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> Size:
        """Bytes when dense."""
        return self.numel * self.dtype.itemsize

    def with_shape(self, shape: Iterable[Size]) -> TensorType:
        """The same dtype, another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape, another dtype."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape)) or '()'}]"

    def __call__(self, *args: object) -> Never:
        """ArgumentError, for who writes ``x.type(dtype)``."""
        message = f"Tensor.type is what a tensor is, {self}, and no function"
        raise ArgumentError(f"{message}; x.to(dtype) casts, and x.type_as(y) does as y")

    @classmethod
    def of(cls, array: Array) -> TensorType:
        """The type of a NumPy array."""
        return _type_of(array.dtype, array.shape)


def converted(x: Array, dtype: np.dtype[Any]) -> Array:
    """``x`` in another dtype, its axes in the same order; row-major where it was spread out.

    f8e4m3 has no infinity: as in PyTorch, what is too large becomes its largest number.
    """
    order: Literal["C", "K"] = "C" if 0 in x.strides else "K"
    if dtype == f8e4m3.numpy:
        with np.errstate(invalid="ignore"):
            wide = x.astype(np.float64 if x.dtype.kind in "iub" else np.float32)
            x = np.clip(wide, -LARGEST_F8E4M3, LARGEST_F8E4M3)
    return x.astype(dtype, order=order)


@lru_cache(maxsize=4096)
def _type_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorType:
    return TensorType(dtype_of(dtype), shape)


@dataclass(frozen=True, slots=True)
class TupleType:
    """Several results of one op.

    ``item(t, index=0)`` takes one out. Printed ``(f32[4], i64[4])``.
    """

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        inner = ", ".join(map(str, self.items))
        return f"({inner},)" if len(self.items) == 1 else f"({inner})"


Type = TensorType | TupleType


def tensors(type: Type) -> tuple[TensorType, ...]:
    """The results of a type: one, or those of a tuple."""
    return type.items if isinstance(type, TupleType) else (type,)
