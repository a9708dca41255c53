"""Ops that compute each element from the elements at the same place: arithmetic, functions, casts.

Operands have equal types: promotion and broadcasting happen before, in the user function.
``promotion`` tells it how: keep the common dtype (``same``), make integers floats (``float``), or
keep it and return bool (``compare``)::

    h: f32[B, 4] = tanh(x)
    z: bf16[B, 4] = cast(h, dtype=bf16)

Integers wrap. Integer division by zero gives 0, as NumPy's does. Comparisons and logic are
in :mod:`~vtc.ir.ops.logic`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import numpy as np

from vtc import lazy
from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Pointwise, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import (
    Array,
    DType,
    Kind,
    TensorType,
    Type,
    bf16,
    bool_,
    converted,
    f16,
    f32,
    i32,
    i64,
    u8,
)

special = lazy.module("scipy.special")

Promotion = Literal["same", "float", "compare"]
FLOATS: tuple[Kind, ...] = ("float",)
NUMBERS: tuple[Kind, ...] = ("int", "float")
REAL: tuple[Kind, ...] = ("bool", "int", "float")


@dataclass(frozen=True)
class Elementwise(Pointwise, abstract=True):
    """An op whose element needs only those at the same index; says ``reference`` and ``lower``."""

    arity: ClassVar[int] = 1
    promotion: ClassVar[Promotion] = "same"
    kinds: ClassVar[tuple[Kind, ...]] = NUMBERS
    """The kinds of dtype it takes."""
    domain: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    """Where samples are drawn from."""

    def result(self, dtype: DType) -> DType:
        """The dtype of the result on operands of ``dtype``."""
        return bool_ if self.promotion == "compare" else dtype

    def infer(self, *inputs: Type) -> TensorType:
        self.check(len(inputs) == self.arity, f"expected {self.arity} operands, got {len(inputs)}")
        x, *others = (tensor_type(self, i) for i in inputs)
        for y in others:
            self.check(y == x, f"expected operands of one type, got {x} and {y}")
        self.check(x.dtype.kind in self.kinds, f"expected {' or '.join(self.kinds)}, got {x}")
        return x.with_dtype(self.result(x.dtype))

    @abc.abstractmethod
    def lower(self, s: Scalars, *xs: Any) -> Scalar:
        """The result on one element of each operand."""

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        return self.lower(s, *(x.at(index) for x in inputs))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        """Operands from the domain, clear of kinks."""
        return tuple(rng.uniform(*cls.domain, shape) for _ in range(cls.arity))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        op = cls()
        if "float" in cls.kinds:
            for shape in draw.SHAPES:
                drawn = cls.draw(rng, shape)
                yield Sample(op, tuple(np.asarray(x, np.float32) for x in drawn))
            yield Sample(op, draw.every_pair(draw.SPECIAL, cls.arity), smooth=False)
        if "int" in cls.kinds:
            yield Sample(op, draw.every_pair(np.arange(-3, 4), cls.arity), smooth=False)
        if "bool" in cls.kinds:
            yield Sample(op, draw.every_pair(np.array([False, True]), cls.arity), smooth=False)


@dataclass(frozen=True)
class Unary(Elementwise, abstract=True):
    """One operand, one primitive."""

    primitive: ClassVar[str]

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.unary(self.primitive, x)


@dataclass(frozen=True)
class Binary(Elementwise, abstract=True):
    """Two operands, one primitive."""

    arity = 2
    primitive: ClassVar[str]

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        return s.binary(self.primitive, x, y)


@dataclass(frozen=True)
class Transcendental(Unary, abstract=True):
    """A function of a float; integers are promoted before."""

    promotion = "float"
    kinds = FLOATS


@dataclass(frozen=True)
class Rounding(Unary, abstract=True):
    """A float to an integral float; integers stay. The gradient is zero."""

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.unary(self.primitive, x) if x.dtype.kind == "float" else x

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return (rng.integers(-3, 3, shape) + rng.choice([0.2, 0.3, 0.7, 0.8], shape),)


@final
@dataclass(frozen=True)
class Neg(Unary):
    """``-x``."""

    primitive = "neg"

    def reference(self, x: Array) -> Array:
        return -x

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (-g,)


@final
@dataclass(frozen=True)
class Abs(Unary):
    """Absolute value; its gradient at 0 is 0."""

    primitive = "abs"

    def reference(self, x: Array) -> Array:
        return np.abs(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * inputs[0].op("sign"),)

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return (draw.away_from_zero(rng, shape),)


@final
@dataclass(frozen=True)
class Sign(Elementwise):
    """-1, 0 or 1; of NaN 0."""

    def reference(self, x: Array) -> Array:
        return np.where(x == x, np.sign(x), np.zeros((), x.dtype))

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        zero, one, minus = (s.const(c, x.dtype) for c in (0, 1, -1))
        below = s.select(s.compare("lt", x, zero), minus, zero)
        return s.select(s.compare("gt", x, zero), one, below)

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return (draw.away_from_zero(rng, shape),)


@final
@dataclass(frozen=True)
class Exp(Transcendental):
    """``e ** x``."""

    primitive = "exp"

    def reference(self, x: Array) -> Array:
        return np.exp(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * out,)


@final
@dataclass(frozen=True)
class Log(Transcendental):
    """Natural logarithm."""

    domain = (0.25, 3.0)
    primitive = "log"

    def reference(self, x: Array) -> Array:
        return np.log(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g / inputs[0],)


@final
@dataclass(frozen=True)
class Sqrt(Transcendental):
    """Square root."""

    domain = (0.25, 3.0)
    primitive = "sqrt"

    def reference(self, x: Array) -> Array:
        return np.sqrt(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * 0.5 / out,)


@final
@dataclass(frozen=True)
class Rsqrt(Transcendental):
    """``1 / sqrt(x)``."""

    domain = (0.25, 3.0)
    primitive = "rsqrt"

    def reference(self, x: Array) -> Array:
        return np.reciprocal(np.sqrt(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * -0.5 * out * out * out,)


@final
@dataclass(frozen=True)
class Tanh(Transcendental):
    """Hyperbolic tangent."""

    primitive = "tanh"

    def reference(self, x: Array) -> Array:
        return np.tanh(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * (1.0 - out * out),)


@final
@dataclass(frozen=True)
class Erf(Transcendental):
    """The error function."""

    primitive = "erf"

    def reference(self, x: Array) -> Array:
        return np.asarray(special.erf(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        (x,) = inputs
        return (g * ((-(x * x)).exp() * (2.0 / math.sqrt(math.pi))),)


@final
@dataclass(frozen=True)
class Sin(Transcendental):
    """Sine of radians."""

    primitive = "sin"

    def reference(self, x: Array) -> Array:
        return np.sin(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g * inputs[0].op("cos"),)


@final
@dataclass(frozen=True)
class Cos(Transcendental):
    """Cosine of radians."""

    primitive = "cos"

    def reference(self, x: Array) -> Array:
        return np.cos(x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (-(g * inputs[0].op("sin")),)


@final
@dataclass(frozen=True)
class Floor(Rounding):
    """The next integer downwards."""

    primitive = "floor"

    def reference(self, x: Array) -> Array:
        return np.floor(x) if x.dtype.kind == "f" else x


@final
@dataclass(frozen=True)
class Ceil(Rounding):
    """The next integer upwards."""

    primitive = "ceil"

    def reference(self, x: Array) -> Array:
        return np.ceil(x) if x.dtype.kind == "f" else x


@final
@dataclass(frozen=True)
class Trunc(Rounding):
    """The next integer towards zero."""

    primitive = "trunc"

    def reference(self, x: Array) -> Array:
        return np.trunc(x) if x.dtype.kind == "f" else x


@final
@dataclass(frozen=True)
class Round(Rounding):
    """The nearest integer; halves go to the even one."""

    primitive = "round"

    def reference(self, x: Array) -> Array:
        return np.rint(x) if x.dtype.kind == "f" else x


@final
@dataclass(frozen=True)
class Add(Binary):
    """``x + y``."""

    primitive = "add"

    def reference(self, x: Array, y: Array) -> Array:
        return np.add(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return g, g


@final
@dataclass(frozen=True)
class Sub(Binary):
    """``x - y``."""

    primitive = "sub"

    def reference(self, x: Array, y: Array) -> Array:
        return np.subtract(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return g, -g if needs[1] else None


@final
@dataclass(frozen=True)
class Mul(Binary):
    """``x * y``."""

    primitive = "mul"

    def reference(self, x: Array, y: Array) -> Array:
        return np.multiply(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        return g * y if needs[0] else None, g * x if needs[1] else None


@final
@dataclass(frozen=True)
class Div(Binary):
    """``x / y`` of floats."""

    promotion = "float"
    kinds = FLOATS
    domain = (0.5, 2.0)
    primitive = "div"

    def reference(self, x: Array, y: Array) -> Array:
        return np.divide(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        gx = g / y  # and not of out, which users go on to write in place, as PyTorch lets them
        return gx, -(gx * (x / y)) if needs[1] else None


@dataclass(frozen=True)
class Division(Binary, abstract=True):
    """Division with a whole quotient, rounded down."""

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        if x.dtype.kind == "float":
            return s.binary(self.primitive, x, y)
        zero = s.const(0, y.dtype)  # hardware may trap
        by_zero = s.compare("eq", y, zero)
        safe = s.select(by_zero, s.const(1, y.dtype), y)
        return s.select(by_zero, zero, s.binary(self.primitive, x, safe))

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        y = draw.away_from_zero(rng, shape)
        return y * (rng.integers(-3, 3, shape) + rng.uniform(0.2, 0.8, shape)), y


@final
@dataclass(frozen=True)
class FloorDivide(Division):
    """``x // y``, rounded down; the gradient is zero."""

    primitive = "floordiv"

    def reference(self, x: Array, y: Array) -> Array:
        return np.floor_divide(x, y)


@final
@dataclass(frozen=True)
class Remainder(Division):
    """``x % y`` with the sign of ``y``."""

    primitive = "mod"

    def reference(self, x: Array, y: Array) -> Array:
        return np.remainder(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        return g, -(g * x.op("floor_divide", y)) if needs[1] else None


@final
@dataclass(frozen=True)
class Pow(Binary):
    """``x ** y``; for integers a negative exponent gives the exact power rounded to zero."""

    domain = (0.5, 2.0)
    primitive = "pow"

    def reference(self, x: Array, y: Array) -> Array:
        if x.dtype.kind == "f":
            return np.power(x, y)
        inverse = np.where(np.abs(x) == 1, x ** (y & 1), 0)
        return np.where(y < 0, inverse, np.power(x, np.maximum(y, 0))).astype(x.dtype)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        """At base 0 the factors 0 ** -1 and log 0 are kept out: times 0 they would be NaN."""
        x, y = inputs
        zero = x.eq(0)
        gx = gy = None
        if needs[0]:
            gx = g * (y * x ** ((zero & y.eq(0)).where(1, y) - 1))
        if needs[1]:
            gy = g * (out * (zero & (y >= 0)).where(1, x).log())
        return gx, gy

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        if x.dtype.kind == "float":
            return s.binary("pow", x, y)
        zero, one = s.const(0, x.dtype), s.const(1, x.dtype)
        odd = s.compare("eq", s.binary("and_", y, one), one)
        unit = s.compare("eq", s.unary("abs", x), one)
        inverse = s.select(unit, s.select(odd, x, one), zero)
        power = s.binary("pow", x, s.binary("max", y, zero))
        return s.select(s.compare("lt", y, zero), inverse, power)


@final
@dataclass(frozen=True)
class Maximum(Binary):
    """The larger; NaN wins. Ties share the gradient."""

    kinds = REAL
    primitive = "max"

    def reference(self, x: Array, y: Array) -> Array:
        return np.maximum(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        return split_ties(g, x, y, drop_x=x < y, drop_y=y < x)

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        return s.binary("or_" if x.dtype is bool_ else self.primitive, x, y)

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return draw.apart(rng, shape)


@final
@dataclass(frozen=True)
class Minimum(Binary):
    """The smaller; NaN wins. Ties share the gradient."""

    kinds = REAL
    primitive = "min"

    def reference(self, x: Array, y: Array) -> Array:
        return np.minimum(x, y)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        return split_ties(g, x, y, drop_x=y < x, drop_y=x < y)

    def lower(self, s: Scalars, x: Scalar, y: Scalar) -> Scalar:
        return s.binary("and_" if x.dtype is bool_ else self.primitive, x, y)

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        return draw.apart(rng, shape)


def split_ties(g: Expr, x: Expr, y: Expr, drop_x: Expr, drop_y: Expr) -> tuple[Expr, Expr]:
    """``g`` to the operand that is kept, half of it to each of two equal ones."""
    shared = x.eq(y).where(g * 0.5, g)
    return drop_x.where(0, shared), drop_y.where(0, shared)


@final
@dataclass(frozen=True)
class Cast(Elementwise):
    """Another dtype: floats round to nearest even, integers truncate, bool is ``x != 0``."""

    dtype: DType

    def result(self, dtype: DType) -> DType:
        return self.dtype

    def infer(self, *inputs: Type) -> TensorType:
        self.check(len(inputs) == 1, f"expected 1 operand, got {len(inputs)}")
        x = tensor_type(self, inputs[0])
        real = x.dtype.kind != "complex" and self.dtype.kind != "complex"
        self.check(real, f"complex numbers are not cast: {x} to {self.dtype}")
        return x.with_dtype(self.dtype)

    def reference(self, x: Array) -> Array:
        """Floats stay as they are: evaluate rounds. Integers become f64, which holds them best."""
        if self.dtype.kind == "float":
            return x if x.dtype.kind == "f" else converted(x, np.dtype(np.float64))
        return converted(x, self.dtype.numpy)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        (x,) = inputs
        differentiable = x.dtype.kind == "float" and self.dtype.kind == "float"
        return (g.cast(x.dtype) if differentiable else None,)

    def lower(self, s: Scalars, x: Scalar) -> Scalar:
        return s.cast(s.cast(x, self.dtype), self.dtype.accumulate)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in draw.SHAPES:
            x = rng.uniform(-3.0, 3.0, shape).astype(np.float32)
            yield Sample(cls(dtype=f32), (x,))
            yield Sample(cls(dtype=i64), (x,))
        for dtype in (f16, bf16, bool_, i32):
            yield Sample(cls(dtype=dtype), (rng.uniform(-3.0, 3.0, 6).astype(np.float32),))
        for dtype in (f32, bf16, u8, bool_):
            yield Sample(cls(dtype=dtype), (np.arange(4),))
            yield Sample(cls(dtype=dtype), (np.array([False, True]),))
        yield Sample(cls(dtype=f16), (draw.SPECIAL,), smooth=False)
