"""What code generation asks of a target's scalars, beside what ops are lowered to."""

from __future__ import annotations

import abc
from typing import cast

from vtc.codegen.trace import Cell, Part, Trace, Value
from vtc.ir.dims import Size, Sym
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import DType


class Spelling(Scalars):
    """Records scalars in ``trace``. Where ``mask`` is false, nothing is read or checked. What is
    recorded while ``coarse`` may be off by some units in the last place of f32, see
    :mod:`vtc.codegen.coarse`.
    """

    trace: Trace
    mask: Value | None
    coarse: bool = False

    @abc.abstractmethod
    def const(self, value: complex, dtype: DType) -> Value:
        """A literal of ``dtype``."""

    @abc.abstractmethod
    def select(self, condition: Scalar, x: Scalar, y: Scalar) -> Value:
        """``x`` where ``condition`` (bool), else ``y``."""

    @abc.abstractmethod
    def compare(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """A comparison; the result is bool."""

    @abc.abstractmethod
    def cast(self, x: Scalar, dtype: DType) -> Value:
        """``x`` as ``dtype``."""

    @abc.abstractmethod
    def unary(self, fn: str, x: Scalar) -> Value:
        """A function of one scalar."""

    @abc.abstractmethod
    def binary(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """A function of two scalars."""

    @abc.abstractmethod
    def rounded(self, x: Value) -> Value:
        """``x``, a product, as it is alone: not as a part of a fused multiply-add."""

    @abc.abstractmethod
    def load(self, cell: Cell, dtype: DType, other: float) -> Value:
        """The element in ``cell``; ``other`` where the mask is false."""

    @abc.abstractmethod
    def stored(self, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """``x``, in registers, as it is stored."""

    @abc.abstractmethod
    def assigned(self, cell: Cell, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """The statement that puts ``x`` into ``cell``, of ``dtype``."""

    def both(self, x: Scalar | None, y: Scalar | None) -> Value | None:
        """The conjunction of two masks; None is always true."""
        if x is None or y is None:
            return cast(Value | None, y if x is None else x)
        return self.binary("and_", x, y)

    def index(self, name: str, size: Size) -> Size:
        """``name``, an integer of the trace, as a size that is known to be in ``[0, size)``."""
        high = size - 1 if isinstance(size, int) else None
        self.trace.facts.ranges[name] = (0, max(high, 0) if high is not None else None)
        self.trace.facts.extents[name] = size
        return Sym.var(name)
