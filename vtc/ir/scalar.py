"""The scalar language ops lower to: about forty primitives, spelled per target in
``codegen/scalar.py``.

An elementwise op says ``lower(s, x) = s.mul(x, x)``; an op that reads elsewhere says what its
element at an index is, by reading operands at other indices. Index expressions are
:data:`~vtc.ir.dims.Size`, so views compose by substitution::

    permute.element(s, (i0, i1), (x,))  ==  x.at((i1, i0))
"""

from __future__ import annotations

import abc
from typing import Protocol

from vtc.ir.dims import Size
from vtc.ir.types import DType, TensorType

Index = tuple[Size, ...]


class Scalar(Protocol):
    """One scalar value in generated code."""

    @property
    def dtype(self) -> DType:
        """Its type in registers: f32 for values loaded as f16, bf16 or fp8."""


class Operand(Protocol):
    """A tensor input as ``Pointwise.element`` sees it."""

    @property
    def type(self) -> TensorType:
        """The input's type."""

    def at(self, index: Index, mask: Scalar | None = None, other: float = 0) -> Scalar:
        """The element at ``index``.

        Where ``mask`` is false nothing is read and ``other`` is the value.
        """


class Scalars(abc.ABC):
    """The primitives.

    Operands have equal types unless said otherwise; arithmetic wraps for integers.
    """

    @abc.abstractmethod
    def const(self, value: complex, dtype: DType) -> Scalar:
        """A literal of ``dtype``."""

    @abc.abstractmethod
    def cast(self, x: Scalar, dtype: DType) -> Scalar:
        """C conversion; to bool is ``x != 0``; float to a narrow float rounds to nearest even.

        What is too large becomes infinite, or 448 in f8e4m3, which has no infinity.
        """

    @abc.abstractmethod
    def to_bits(self, x: Scalar, dtype: DType) -> Scalar:
        """The bits of ``x``, a value of ``dtype``, as an integer of type ``dtype.word``."""

    @abc.abstractmethod
    def from_bits(self, x: Scalar, dtype: DType) -> Scalar:
        """The value of ``dtype`` whose bits are those of ``x``, of type ``dtype.word``."""

    @abc.abstractmethod
    def unary(self, fn: str, x: Scalar) -> Scalar:
        """``neg abs exp exp2 expm1 log log1p sqrt rsqrt sin cos tanh erf erfc lgamma floor ceil
        trunc round isnan signbit not_``; the result of isnan and signbit is bool.
        """

    @abc.abstractmethod
    def binary(self, fn: str, x: Scalar, y: Scalar) -> Scalar:
        """``add sub mul div floordiv mod pow atan2 min max and_ or_ xor shl shr``; min and max
        propagate NaN, shifts are by less than the width.
        """

    @abc.abstractmethod
    def compare(self, fn: str, x: Scalar, y: Scalar) -> Scalar:
        """``eq ne lt le gt ge``; the result is bool."""

    @abc.abstractmethod
    def select(self, condition: Scalar, x: Scalar, y: Scalar) -> Scalar:
        """``x`` where ``condition`` (bool), else ``y``."""

    @abc.abstractmethod
    def to_index(self, x: Scalar, size: Size) -> Size:
        """An integer scalar as an index along an axis of ``size``.

        Outside it the kernel reports an error.
        """

    @abc.abstractmethod
    def clamp_index(self, x: Scalar, upper: Size) -> Size:
        """An integer scalar clamped to ``[0, upper]``, as an index."""

    @abc.abstractmethod
    def from_index(self, index: Size, dtype: DType) -> Scalar:
        """An index expression as a scalar."""

    @abc.abstractmethod
    def philox(self, seed: Scalar, counter: Scalar, word: Size) -> Scalar:
        """Word ``word`` (0 to 3) of Philox4x32-10 with a 64-bit key and counter (i64), as i64 in
        [0, 2**32).
        """
