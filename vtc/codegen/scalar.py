"""The scalar primitives in C: the only file that spells them.

Narrow floats are f32 in registers. Arithmetic on integers wraps, as NumPy's does, so it is done
unsigned; division and remainder floor. ``vtc_*`` functions are in ``templates/prelude.c.jinja``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from vtc.codegen.spelling import Spelling
from vtc.codegen.trace import Cell, Let, Part, Trace, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size
from vtc.ir.scalar import Scalar
from vtc.ir.types import DType, bool_, converted, f32, f64, i32, i64

REGISTER = {
    "bool": "_Bool",
    "u8": "uint8_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "f32": "float",
    "f64": "double",
}
STORAGE = {**REGISTER, "bool": "uint8_t", "f16": "vtc_f16", "bf16": "vtc_bf16"} | {
    "f8e4m3": "vtc_f8e4m3",
    "f8e5m2": "vtc_f8e5m2",
}
WRAPPING = {"i32": "uint32_t", "i64": "uint64_t"}
"""Types whose arithmetic is done unsigned; narrower ones are widened to int by C and cannot
overflow.
"""

_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and_": "&", "or_": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BUILTIN = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint"}
_OWN_F32 = {fn: f"vtc_{fn}f" for fn in ("exp", "log", "tanh", "erf", "sin", "cos")}
_SPECIAL_F32 = {fn: f"vtc_{fn}f" for fn in ("exp2", "log1p", "erfc", "lgamma", "atan2")}
_SPECIAL_F32["expm1"] = "vtc_expm1_allf"


@final
@dataclass
class CScalars(Spelling):
    """Records scalars in ``trace``. Where ``mask`` is false, nothing is read or checked."""

    trace: Trace
    mask: Value | None = None

    def const(self, value: complex, dtype: DType) -> Value:
        """A literal, rounded to ``dtype``."""
        return Value(register(dtype), literal(value, dtype), integer(value, dtype))

    def cast(self, x: Scalar, dtype: DType) -> Value:
        """C conversion; through a narrow float and back, where ``dtype`` is one."""
        x, kept = _value(x), register(dtype)
        if dtype is bool_:
            return x if x.dtype is bool_ else self._let(bool_, x, " != 0")
        if kept is not dtype:
            return self._widened(dtype, f"vtc_to_{dtype}(", self._plain(x, f32), ")")
        return self._plain(x, dtype)

    def to_bits(self, x: Scalar, dtype: DType) -> Value:
        """A function of the prelude; a narrow float as it is stored."""
        x, word = _value(x), dtype.word
        to = f"({REGISTER[word.name]})"
        if dtype.kind != "float":
            return self._plain(x, word)
        if register(dtype) is not dtype:
            return self._let(word, to, *self.stored(x, dtype))
        return self._let(word, f"{to}vtc_bits{'64' if dtype is f64 else ''}(", x, ")")

    def from_bits(self, x: Scalar, dtype: DType) -> Value:
        """A function of the prelude; a narrow float as if it were loaded."""
        x = _value(x)
        if dtype is bool_:
            return self._let(bool_, x, " != 0")
        if dtype.kind != "float":
            return self._plain(x, dtype)
        if register(dtype) is not dtype:
            return self._widened(dtype, f"({STORAGE[dtype.name]})", x)
        name = "vtc_float64((uint64_t)" if dtype is f64 else "vtc_float((uint32_t)"
        return self._let(dtype, name, x, ")")

    def rounded(self, x: Value) -> Value:
        """``x``, a product, as it is alone: not as a part of a fused multiply-add."""
        return self._let(x.dtype, "vtc_rounded(", x, ")")

    def unary(self, fn: str, x: Scalar) -> Value:
        """A builtin, a function of the prelude, or one of libm."""
        x = _value(x)
        dtype = x.dtype
        if dtype.kind != "float":
            return self._unary_integer(fn, x)
        if fn == "neg":
            return self._let(dtype, "-", x)
        if fn == "isnan":
            return self._let(bool_, x, " != ", x)
        if fn == "signbit":
            # GCC 12 fails on __builtin_signbit in vectors; a double becomes a float of its sign.
            return self._let(bool_, "vtc_bits((float)", x, ") >> 31 != 0")
        if fn == "rsqrt":
            one = self.const(1, dtype)
            return self._let(dtype, one, f" / __builtin_sqrt{_suffix(dtype)}(", x, ")")
        return self._let(dtype, self._function(fn, dtype), "(", x, ")")

    def binary(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """An operator, a comparison and a choice, or a function of the prelude."""
        x, y = _value(x), _value(y)
        dtype = x.dtype
        if fn in ("min", "max"):
            return self._extreme(fn, x, y)
        if fn in ("and_", "or_", "xor"):
            return self._bitwise(fn, x, y)
        if fn in ("shl", "shr"):
            return self._shifted(fn, x, y)
        if fn == "atan2":
            return self._let(dtype, self._function(fn, dtype), "(", x, ", ", y, ")")
        if fn in ("floordiv", "mod", "pow"):
            return self._division(fn, x, y) if dtype.kind == "int" else self._float(fn, x, y)
        if dtype.kind == "float":
            return self._let(dtype, x, f" {_SYMBOL[fn]} ", y)
        if dtype.kind != "int" or fn == "div":
            raise CodegenError(f"{fn}: expected numbers a C kernel can divide or add, got {dtype}")
        if dtype is i64 and x.size is not None and y.size is not None:
            size = {"add": x.size + y.size, "sub": x.size - y.size, "mul": x.size * y.size}[fn]
            return self.from_index(size, i64)
        unsigned = WRAPPING.get(dtype.name, "int")
        whole = (
            f"({REGISTER[dtype.name]})(({unsigned})",
            x,
            f" {_SYMBOL[fn]} ({unsigned})",
            y,
            ")",
        )
        return self._let(dtype, *whole)

    def compare(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """A comparison; a literal where index expressions decide it."""
        x, y = _value(x), _value(y)
        if x.size is not None and y.size is not None:
            known = self.trace.facts.decide(fn, x.size, y.size)
            if known is not None:
                return self.const(known, bool_)
        return self._let(bool_, x, f" {_COMPARE[fn]} ", y)

    def select(self, condition: Scalar, x: Scalar, y: Scalar) -> Value:
        """``condition ? x : y``."""
        condition, x, y = _value(condition), _value(x), _value(y)
        if condition.text in ("0", "1"):
            return x if condition.text == "1" else y
        return x if x == y else self._let(x.dtype, condition, " ? ", x, " : ", y)

    def to_index(self, x: Scalar, size: Size) -> Size:
        """A checked index; ``x`` itself where it is known to be inside."""
        x, facts = _value(x), self.trace.facts
        if x.size is not None and facts.inside(x.size, size):
            return x.size
        if not facts.at_least(size, 1):
            self.trace.guards.append(size)
        unsigned = ("(uint64_t)", x, " >= (uint64_t)", size)
        masked = ("(", *unsigned, ") & ", self.mask) if self.mask is not None else unsigned
        outside = self.trace.let("_Bool", *masked, prefix="e", raises=True)
        wrong = Value(bool_, outside)
        name = self.trace.let("int64_t", wrong, " ? 0 : (int64_t)", x, prefix="j")
        return self.index(name, size)

    def clamp_index(self, x: Scalar, upper: Size) -> Size:
        """An index by two comparisons."""
        x = _value(x)
        inner = ("vtc_minimum(", self._plain(x, i64), ", ", upper, ")")
        name = self.trace.let("int64_t", "vtc_maximum(", *inner, ", 0)", prefix="j")
        return self.index(name, upper + 1)

    def from_index(self, index: Size, dtype: DType) -> Value:
        """The expression itself as i64, else converted."""
        index = self.trace.facts.simplify(index)
        if isinstance(index, int):
            return self.const(index, dtype)
        if dtype is i64:
            return Value(i64, "", index)
        kept = register(dtype)
        size = index if dtype is i32 else None
        return self.cast(self._let(kept, f"({REGISTER[kept.name]})", index, size=size), dtype)

    def philox(self, seed: Scalar, counter: Scalar, word: Size) -> Value:
        """A call of the prelude's generator."""
        self.trace.needs.add("random")
        return self._let(i64, "vtc_philox(", _value(seed), ", ", _value(counter), ", ", word, ")")

    def load(self, cell: Cell, dtype: DType, other: float) -> Value:
        """The element in ``cell``; ``other`` where the mask is false."""
        kept = register(dtype)
        if kept is not dtype and self.mask is None:
            return self._widened(dtype, cell)
        read: tuple[Part, ...] = (cell,)
        if kept is not dtype:
            self.trace.needs.add("half")
            read = (f"vtc_from_{dtype}(", cell, ")")
        if self.mask is not None:
            read = (self.mask, " ? ", *read, " : ", self.const(other, dtype))
        return self._let(kept, *read)

    def stored(self, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """``x``, in registers, as it is stored."""
        x = _value(x)
        if register(dtype) is dtype:
            return (x,)
        self.trace.needs.add("half")
        match self.trace.lets.get(x.text):
            case Let(parts=(str() as function, Value() as narrow, _)):
                if function == f"vtc_from_{dtype}(":
                    return (narrow,)
        return (f"vtc_to_{dtype}(", x, ")")

    def assigned(self, cell: Cell, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """The statement that puts ``x`` into ``cell``, of ``dtype``."""
        return (cell, " = ", *self.stored(x, dtype))

    def _let(self, dtype: DType, *parts: Part, size: Size | None = None) -> Value:
        return self.trace.value(dtype, *parts, ctype=REGISTER[dtype.name], size=size)

    def _widened(self, dtype: DType, *narrow: Part) -> Value:
        """A narrow float in a register; :meth:`stored` finds what it was made from."""
        self.trace.needs.add("half")
        raw = self.trace.value(dtype, *narrow, ctype=STORAGE[dtype.name])
        return self._let(dtype.accumulate, f"vtc_from_{dtype}(", raw, ")")

    def _plain(self, x: Value, dtype: DType) -> Value:
        if x.dtype is dtype:
            return x
        size = x.size if dtype in (i32, i64) else None
        return self._let(dtype, f"({REGISTER[dtype.name]})", x, size=size)

    def _unary_integer(self, fn: str, x: Value) -> Value:
        dtype, ctype = x.dtype, REGISTER[x.dtype.name]
        if fn in ("floor", "ceil", "trunc", "round"):
            return x
        if fn == "isnan":
            return self.const(False, bool_)
        if fn == "not_":
            return (
                self._let(dtype, "!", x) if dtype is bool_ else self._let(dtype, f"({ctype})~", x)
            )
        negative = (f"({ctype})-({WRAPPING.get(dtype.name, 'int')})", x)
        if fn == "neg" and dtype.kind == "int":
            return self._let(dtype, *negative)
        if fn == "abs":
            return x if dtype is bool_ else self._let(dtype, x, " < 0 ? ", *negative, " : ", x)
        raise CodegenError(f"{fn}: expected a floating-point value, got {dtype}")

    def _function(self, fn: str, dtype: DType) -> str:
        if fn in _BUILTIN:
            return f"__builtin_{_BUILTIN[fn]}{_suffix(dtype)}"
        if fn == "abs":
            return f"__builtin_fabs{_suffix(dtype)}"
        self.trace.needs.add("math")
        if fn in _SPECIAL_F32:
            self.trace.needs.add("special")
        own = (_OWN_F32 | _SPECIAL_F32).get(fn) if dtype is f32 else None
        return own or f"{fn}{_suffix(dtype)}"

    def _extreme(self, fn: str, x: Value, y: Value) -> Value:
        sign = " < " if fn == "min" else " > "
        if x.dtype.kind == "float":
            # A NaN in x stays because x != x, one in y because the comparison is false.
            return self._let(x.dtype, "(", x, sign, y, ") | (", x, " != ", x, ") ? ", x, " : ", y)
        return self._let(x.dtype, x, sign, y, " ? ", x, " : ", y)

    def _bitwise(self, fn: str, x: Value, y: Value) -> Value:
        if x.dtype is bool_ and fn == "and_":
            for a, b in ((x, y), (y, x)):
                if a.text in ("0", "1"):
                    return b if a.text == "1" else a
        kind = REGISTER[x.dtype.name]
        return self._let(x.dtype, f"({kind})(", x, f" {_SYMBOL[fn]} ", y, ")")

    def _shifted(self, fn: str, x: Value, y: Value) -> Value:
        """By less than the width; to the left without a sign, where nothing overflows."""
        ctype = REGISTER[x.dtype.name]
        if fn == "shr":
            return self._let(x.dtype, f"({ctype})(", x, " >> ", y, ")")
        unsigned = WRAPPING.get(x.dtype.name, "uint32_t")
        return self._let(x.dtype, f"({ctype})(({unsigned})", x, " << ", y, ")")

    def _division(self, fn: str, x: Value, y: Value) -> Value:
        ctype = REGISTER[x.dtype.name]
        if fn != "pow" and y.size is not None and isinstance(y.size, int) and _is_power(y.size):
            shift, low = f" >> {y.size.bit_length() - 1})", f" & {y.size - 1})"
            return self._let(x.dtype, f"({ctype})(", x, shift if fn == "floordiv" else low)
        self.trace.needs.add("integer")
        return self._let(x.dtype, f"({ctype})vtc_integer_{fn}(", x, ", ", y, ")")

    def _float(self, fn: str, x: Value, y: Value) -> Value:
        self.trace.needs.add("math")
        name = {"pow": "pow", "floordiv": "vtc_floordiv_", "mod": "vtc_mod_"}[fn]
        return self._let(x.dtype, f"{name}{_suffix(x.dtype)}(", x, ", ", y, ")")


def literal(value: complex, dtype: DType) -> str:
    """A C literal of ``dtype`` as it is in registers, rounded to ``dtype``."""
    refuse_complex("literal", dtype)
    if dtype.kind == "bool":
        return "1" if value else "0"
    if dtype.kind == "int":
        return _integer_literal(int(cast(int, value)), dtype)
    with np.errstate(all="ignore"):
        number = float(converted(np.asarray(value, np.float64), dtype.numpy))
    suffix = _suffix(register(dtype))
    if math.isnan(number):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(number):
        return f"(-__builtin_inf{suffix}())" if number < 0 else f"__builtin_inf{suffix}()"
    text = str(np.float32(number)) if suffix else repr(number)
    text = f"{text}{suffix}" if "." in text or "e" in text else f"{text}.0{suffix}"
    return f"({text})" if number < 0 or text.startswith("-") else text


def refuse_complex(what: str, dtype: DType) -> None:
    """CodegenError for a dtype C kernels do not compute with."""
    if dtype.is_complex:
        raise CodegenError(f"{what}: expected a real dtype, got {dtype}, which C kernels lack")


def _integer_literal(value: int, dtype: DType) -> str:
    value = int(np.asarray(value).astype(dtype.numpy))
    if value == -(2**63):
        return "INT64_MIN"
    text = str(value) if abs(value) < 2**31 else f"INT64_C({value})"
    return f"({text})" if value < 0 else text


def integer(value: complex, dtype: DType) -> Size | None:
    """The literal ``value`` as a size, where ``dtype`` has sizes."""
    return int(cast(int, value)) if dtype in (i32, i64) else None


def register(dtype: DType) -> DType:
    """What kernels compute ``dtype`` in; CodegenError for complex numbers."""
    refuse_complex("kernel", dtype)
    return dtype.accumulate


def _suffix(dtype: DType) -> str:
    return "" if dtype is f64 else "f"


def _is_power(size: int) -> bool:
    return size > 0 and size & (size - 1) == 0


def _value(x: Scalar) -> Value:
    return cast(Value, x)
