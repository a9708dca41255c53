"""Comparisons, logic and selection: what makes bools, and what uses them.

NaN compares unequal to everything, and neither less nor greater::

    m: bool[B, 4] = lt(x, y)
    n: bool[B, 4] = logical_not(m)
    z: f32[B, 4] = where(n, x, y)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from vtc.ir.op import Needs, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.elementwise import FLOATS, REAL, Binary, Elementwise
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.scalar import Scalar, Scalars
from vtc.ir.types import Array, Kind, TensorType, Type, bool_

LOGIC: tuple[Kind, ...] = ("bool", "int")


@dataclass(frozen=True)
class Comparison(Elementwise, abstract=True):
    """Two operands to bool; false where one is NaN, but for ``ne``."""

    arity = 2
    promotion = "compare"
    kinds = REAL
    primitive: ClassVar[str]

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        return s.compare(self.primitive, x, y)


@dataclass(frozen=True)
class Logic(Binary, abstract=True):
    """Logic on bools, the same bit by bit on integers."""

    kinds = LOGIC


@final
@dataclass(frozen=True)
class Eq(Comparison):
    """``x == y``."""

    primitive = "eq"

    def reference(self, x: Array, y: Array) -> Array:
        return np.equal(x, y)


@final
@dataclass(frozen=True)
class Ne(Comparison):
    """``x != y``."""

    primitive = "ne"

    def reference(self, x: Array, y: Array) -> Array:
        return np.not_equal(x, y)


@final
@dataclass(frozen=True)
class Lt(Comparison):
    """``x < y``."""

    primitive = "lt"

    def reference(self, x: Array, y: Array) -> Array:
        return np.less(x, y)


@final
@dataclass(frozen=True)
class Le(Comparison):
    """``x <= y``."""

    primitive = "le"

    def reference(self, x: Array, y: Array) -> Array:
        return np.less_equal(x, y)


@final
@dataclass(frozen=True)
class Gt(Comparison):
    """``x > y``."""

    primitive = "gt"

    def reference(self, x: Array, y: Array) -> Array:
        return np.greater(x, y)


@final
@dataclass(frozen=True)
class Ge(Comparison):
    """``x >= y``."""

    primitive = "ge"

    def reference(self, x: Array, y: Array) -> Array:
        return np.greater_equal(x, y)


@final
@dataclass(frozen=True)
class Isnan(Elementwise):
    """Whether ``x`` is NaN."""

    promotion = "compare"
    kinds = FLOATS

    def reference(self, x: Array) -> Array:
        return np.isnan(x)

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.unary("isnan", x)


@final
@dataclass(frozen=True)
class Signbit(Elementwise):
    """Whether the sign is minus, as that of -0.0 and of some NaNs is."""

    promotion = "compare"
    kinds = FLOATS

    def reference(self, x: Array) -> Array:
        return np.signbit(x)

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.unary("signbit", x)


@final
@dataclass(frozen=True)
class LogicalNot(Elementwise):
    """``not x``; every bit of an integer flipped."""

    kinds = LOGIC

    def reference(self, x: Array) -> Array:
        return np.invert(x)

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.unary("not_", x)


@final
@dataclass(frozen=True)
class LogicalAnd(Logic):
    """``x and y``."""

    primitive = "and_"

    def reference(self, x: Array, y: Array) -> Array:
        return np.bitwise_and(x, y)


@final
@dataclass(frozen=True)
class LogicalOr(Logic):
    """``x or y``."""

    primitive = "or_"

    def reference(self, x: Array, y: Array) -> Array:
        return np.bitwise_or(x, y)


@final
@dataclass(frozen=True)
class LogicalXor(Logic):
    """Either, not both."""

    primitive = "xor"

    def reference(self, x: Array, y: Array) -> Array:
        return np.bitwise_xor(x, y)


@final
@dataclass(frozen=True)
class Where(Elementwise):
    """``x`` where the condition holds, else ``y``."""

    arity = 3
    kinds = REAL

    def infer(self, *inputs: Type) -> TensorType:
        self.check(len(inputs) == 3, f"expected 3 operands, got {len(inputs)}")
        condition, x, y = (tensor_type(self, i) for i in inputs)
        self.check(condition.dtype is bool_, f"expected a bool condition, got {condition}")
        same = condition.shape == x.shape and x == y
        self.check(same, f"expected one shape and two equal types, got {condition}, {x}, {y}")
        return x

    def reference(self, condition: Array, x: Array, y: Array) -> Array:
        return np.where(condition, x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        condition = inputs[0]
        gx = condition.where(g, 0) if needs[1] else None
        return None, gx, condition.where(0, g) if needs[2] else None

    def lower(self, s: Scalars, condition: Scalar, x: Scalar, y: Scalar) -> Scalar:
        return s.select(condition, x, y)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in draw.SHAPES:
            condition = rng.integers(0, 2, shape).astype(bool)
            x, y = rng.normal(size=(2, *shape)).astype(np.float32)
            yield Sample(cls(), (condition, np.asarray(x), np.asarray(y)))
        condition = np.array([True, False])
        yield Sample(cls(), (condition, np.array([1, 2]), np.array([3, 4])))
        yield Sample(cls(), (condition, condition, ~condition))
