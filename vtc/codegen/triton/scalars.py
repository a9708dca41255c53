"""The scalar primitives in Triton: the only file that spells them.

A scalar of the trace is a block of elements, or one element where it depends on no loop; both are
spelled alike. Narrow floats are f32 in registers. Arithmetic on integers wraps; division and
remainder floor. Functions are those of libdevice, which are as exact as a C library's; ``vtc_*``
functions are in ``templates/prelude.py.jinja``.

Where a value is *coarse* (see :mod:`vtc.codegen.coarse`), shorter forms take their place. How many
instructions of an H100 they take::

    exp     libdevice.exp(x)    8       vtc_exp(x)      2
    tanh    libdevice.tanh(x)  23       vtc_tanh(x)     9
    div     tl.div_rn(x, y)    12       x / y           8, of which 4 are mostly skipped

The divisor of a sigmoid is at least 1: ``x / y`` is near enough even in f32, and where it is coarse
one or two instructions do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from vtc.codegen.scalar import integer, refuse_complex, register
from vtc.codegen.spelling import Spelling
from vtc.codegen.trace import INSIDE, Cell, Let, Part, Trace, Value, needed, reads
from vtc.errors import CodegenError
from vtc.ir.dims import Size, bounds, symbols
from vtc.ir.scalar import Scalar
from vtc.ir.types import DType, bool_, converted, f8e5m2, f32, i32, i64

NAMES = {
    "bool": "tl.int1",
    "u8": "tl.uint8",
    "i8": "tl.int8",
    "i16": "tl.int16",
    "i32": "tl.int32",
    "i64": "tl.int64",
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "f32": "tl.float32",
    "f64": "tl.float64",
    "f8e4m3": "tl.float8e4nv",
    "f8e5m2": "tl.float8e5",
}
POINTERS = {
    "bool": "*u8",
    "u8": "*u8",
    "i8": "*i8",
    "i16": "*i16",
    "i32": "*i32",
    "i64": "*i64",
    "f16": "*fp16",
    "bf16": "*bf16",
    "f32": "*fp32",
    "f64": "*fp64",
    "f8e4m3": "*fp8e4nv",
    "f8e5m2": "*fp8e5",
}
"""How the signature of a kernel calls a buffer of each dtype; bools are bytes."""

_SYMBOL = {"add": "+", "sub": "-", "mul": "*", "and_": "&", "or_": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LIBRARY = {"round": "rint", "pow": "pow"} | {
    fn: fn
    for fn in (
        *("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "trunc"),
        *("exp2", "expm1", "log1p", "erfc", "lgamma"),
    )
}
_BUILTIN = {"floor": "tl.floor", "ceil": "tl.ceil", "abs": "tl.abs"}
_COARSE = {"exp": "vtc_exp", "tanh": "vtc_tanh"}
_POWERS = ("libdevice.exp(", "vtc_exp(")


@final
@dataclass
class TritonScalars(Spelling):
    """Records scalars in ``trace``; see :class:`~vtc.codegen.spelling.Spelling`."""

    trace: Trace
    mask: Value | None = None

    def const(self, value: complex, dtype: DType) -> Value:
        """A typed literal, rounded to ``dtype``; bools are ``0`` and ``1``."""
        text = _bare(value, dtype) if dtype is bool_ else literal(value, dtype)
        return Value(dtype.accumulate, text, integer(value, dtype))

    def cast(self, x: Scalar, dtype: DType) -> Value:
        """``x.to(dtype)``; through a narrow float and back, where ``dtype`` is one."""
        x, kept = _value(x), register(dtype)
        if dtype is bool_:
            return x if x.dtype is bool_ else self._let(bool_, x, " != 0")
        if dtype is f8e5m2:
            return self._widened(dtype, *self._infinite(self._plain(x, f32)))
        if kept is not dtype:
            narrow = self._let(dtype, "tl.cast(", self._plain(x, f32), f", {NAMES[dtype.name]})")
            return self._let(kept, "tl.cast(", narrow, f", {NAMES[kept.name]})")
        return self._plain(x, dtype)

    def to_bits(self, x: Scalar, dtype: DType) -> Value:
        """A cast of bits; of a narrow float, those it was loaded with."""
        x, word = _value(x), dtype.word
        if dtype.kind != "float":
            return self._plain(x, word)
        if register(dtype) is not dtype:
            x = self._loaded(x, dtype) or self._let(dtype, *self.stored(x, dtype))
        return self._let(word, "tl.cast(", x, f", {NAMES[word.name]}, bitcast=True)")

    def from_bits(self, x: Scalar, dtype: DType) -> Value:
        """A cast of bits; a narrow float in a register."""
        x = _value(x)
        if dtype is bool_:
            return self._let(bool_, x, " != 0")
        if dtype.kind != "float":
            return self._plain(x, dtype)
        bits: tuple[Part, ...] = ("tl.cast(", x, f", {NAMES[dtype.name]}, bitcast=True)")
        narrow = register(dtype) is not dtype
        return self._widened(dtype, *bits) if narrow else self._let(dtype, *bits)

    def rounded(self, x: Value) -> Value:
        """``x`` itself: kernels are compiled without fused multiply-adds."""
        return x

    def unary(self, fn: str, x: Scalar) -> Value:
        """An operator, a builtin or a function of libdevice."""
        x = _value(x)
        if x.dtype.kind != "float":
            return self._unary_integer(fn, x)
        if fn == "neg":
            return self._let(x.dtype, "-", x)
        if fn == "isnan":
            return self._let(bool_, x, " != ", x)
        if fn == "signbit":
            bits = f"tl.int{8 * x.dtype.itemsize}, bitcast=True) < 0"
            return self._let(bool_, "tl.cast(", typed(x), ", ", bits)
        if fn in _COARSE and self.coarse and x.dtype is f32:
            self.trace.needs.add("coarse")
            return self._let(f32, f"{_COARSE[fn]}(", x, ")")
        name = _BUILTIN.get(fn) or f"libdevice.{_LIBRARY[fn]}"
        return self._let(x.dtype, f"{name}(", x, ")")

    def binary(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """An operator, or a function of the helpers."""
        x, y = _value(x), _value(y)
        dtype = x.dtype
        if fn in ("min", "max"):
            return self._extreme(fn, x, y)
        if fn in ("and_", "or_", "xor"):
            return self._bitwise(fn, x, y)
        if fn in ("shl", "shr"):
            return self._let(dtype, typed(x), " << " if fn == "shl" else " >> ", typed(y))
        if fn == "atan2":
            return self._let(dtype, "libdevice.atan2(", x, ", ", y, ")")
        if fn in ("floordiv", "mod", "pow"):
            return self._division(fn, x, y)
        if dtype.kind == "float":
            if fn == "div":
                return self._quotient(x, y)
            return self._let(dtype, x, f" {_SYMBOL[fn]} ", y)
        if dtype.kind != "int" or fn == "div":
            raise CodegenError(f"{fn}: expected numbers a kernel can divide or add, got {dtype}")
        if dtype is i64 and x.size is not None and y.size is not None:
            size = {"add": x.size + y.size, "sub": x.size - y.size, "mul": x.size * y.size}[fn]
            return self.from_index(size, i64)
        return self._let(dtype, x, f" {_SYMBOL[fn]} ", y)

    def compare(self, fn: str, x: Scalar, y: Scalar) -> Value:
        """A comparison; a literal where index expressions decide it."""
        x, y = _value(x), _value(y)
        if x.size is not None and y.size is not None:
            known = self.trace.facts.decide(fn, x.size, y.size)
            if known is not None:
                return self.const(known, bool_)
        x, y = self._narrowed(x, y)
        y, x = self._narrowed(y, x)
        return self._let(bool_, typed(x), f" {_COMPARE[fn]} ", typed(y))

    def select(self, condition: Scalar, x: Scalar, y: Scalar) -> Value:
        """``tl.where``."""
        condition, x, y = _value(condition), _value(x), _value(y)
        if condition.text in ("0", "1"):
            return x if condition.text == "1" else y
        if x == y:
            return x
        return self._let(x.dtype, "tl.where(", condition, ", ", typed(x), ", ", typed(y), ")")

    def to_index(self, x: Scalar, size: Size) -> Size:
        """A checked index; ``x`` itself where it is known to be inside."""
        x, facts = _value(x), self.trace.facts
        if x.size is not None and facts.inside(x.size, size):
            return x.size
        asked: tuple[Part, ...] = (INSIDE,) if self.mask is None else (INSIDE, " & ", self.mask)
        limits = (" & ((", x, " < 0) | (", x, " >= ", size, "))")
        outside = self.trace.let("tl.int1", *asked, *limits, prefix="e", raises=True)
        wrong = Value(bool_, outside)
        name = self.trace.let("tl.int64", "tl.where(", wrong, ", 0, ", x, ")", prefix="j")
        return self.index(name, size)

    def clamp_index(self, x: Scalar, upper: Size) -> Size:
        """An index by two comparisons."""
        inner = ("tl.minimum(", self._plain(_value(x), i64), ", ", upper, ")")
        name = self.trace.let("tl.int64", "tl.maximum(", *inner, ", 0)", prefix="j")
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
        made = self._let(kept, "tl.cast(", index, f", {NAMES[kept.name]})", size=size)
        return self.cast(made, dtype)

    def philox(self, seed: Scalar, counter: Scalar, word: Size) -> Value:
        """A call of the helpers' generator."""
        self.trace.needs.add("random")
        parts = (_value(seed), ", ", _value(counter), ", ", word)
        return self._let(i64, "vtc_philox(", *parts, ")")

    def load(self, cell: Cell, dtype: DType, other: float) -> Value:
        """The elements in ``cell``; ``other`` where the mask is false."""
        kept = register(dtype)
        masked: tuple[Part, ...] = (INSIDE,)
        if self.mask is not None:
            masked = (INSIDE, " & ", self.mask, f", {_bare(other, dtype)}")
        read: tuple[Part, ...] = ("tl.load(", cell, ", ", *masked, ")")
        if dtype is bool_:
            return self._let(bool_, *read, " != 0")
        if kept is not dtype:
            return self._let(kept, *read, f".to({NAMES[kept.name]})")
        return self._let(kept, *read)

    def stored(self, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """``x``, in registers, as it is stored."""
        x = _value(x)
        match self.trace.lets.get(x.text):
            case Let(parts=(Value() as narrow, str())) if narrow.dtype is dtype:
                return (narrow,)
        if dtype is f8e5m2:
            return self._infinite(x)
        name = "tl.uint8" if dtype is bool_ else NAMES[dtype.name]
        return ("tl.cast(", typed(x), f", {name})")

    def assigned(self, cell: Cell, x: Scalar, dtype: DType) -> tuple[Part, ...]:
        """A store of what is inside."""
        return ("tl.store(", cell, ", ", *self.stored(x, dtype), ", ", INSIDE, ")")

    def _let(self, dtype: DType, *parts: Part, size: Size | None = None) -> Value:
        return self.trace.value(dtype, *parts, ctype=NAMES[dtype.name], size=size)

    def _widened(self, dtype: DType, *narrow: Part) -> Value:
        """A narrow float in a register; :meth:`stored` finds what it was made from."""
        kept = dtype.accumulate
        return self._let(kept, self._let(dtype, *narrow), f".to({NAMES[kept.name]})")

    def _loaded(self, x: Value, dtype: DType) -> Value | None:
        """What was loaded and then widened to give ``x``."""
        match self.trace.lets.get(x.text):
            case Let(parts=("tl.load(", *read, str() as widen)) if widen.startswith(".to("):
                return self._let(dtype, "tl.load(", *read)
        return None

    def _infinite(self, x: Value) -> tuple[Part, ...]:
        """``x`` as f8e5m2, infinite where it is too large: the instruction saturates."""
        self.trace.needs.add("e5m2")
        return ("vtc_e5m2(", x, ")")

    def _quotient(self, x: Value, y: Value) -> Value:
        """``x / y`` of floats. In f32 an operator is off by 2 units in the last place."""
        if x.dtype is not f32:
            return self._let(x.dtype, x, " / ", y)
        match self.trace.lets.get(y.text):
            case Let(parts=(Value(text=e), " + ", Value() as one)) if one == self.const(1, f32):
                power = e in self.trace.lets and self.trace.lets[e].parts[0] in _POWERS
            case _:
                power = False
        if power and self.coarse:
            self.trace.needs.add("coarse")
            inverse = self._let(f32, "vtc_inverse(", y, ")")
            return inverse if x == self.const(1, f32) else self._let(f32, x, " * ", inverse)
        if power or self.coarse:
            return self._let(f32, x, " / ", y)
        return self._let(f32, "tl.div_rn(", x, ", ", y, ")")

    def _narrowed(self, x: Value, y: Value) -> tuple[Value, Value]:
        """Both in i32, if that changes no comparison and ``x`` is an index along a loop that ``y``
        does not depend on: ``y`` is changed before the loop then.
        """
        if x.dtype is not i64 or x.size is None or y.size is not None:
            return x, y
        least, most = bounds(x.size, self.trace.facts.ranges)
        along = symbols(x.size)
        if least is None or most is None or not -(2**31) < least <= most < 2**31 - 1:
            return x, y
        if not along or along & self._loops(y):
            return x, y
        near = ("tl.minimum(tl.maximum(", y, f", {least - 1}), {most + 1})")
        return self.from_index(x.size, i32), self._let(i32, "tl.cast(", *near, ", tl.int32)")

    def _loops(self, x: Value) -> frozenset[str]:
        """The loop variables and checked indices that ``x`` depends on."""
        lets = self.trace.lets
        roots = [Let("", "", (x,))]
        read = frozenset().union(*map(reads, (*needed(lets, roots), *roots)))
        return read - lets.keys()

    def _plain(self, x: Value, dtype: DType) -> Value:
        if x.dtype is dtype:
            return x
        size = x.size if dtype in (i32, i64) else None
        return self._let(dtype, "tl.cast(", typed(x), f", {NAMES[dtype.name]})", size=size)

    def _unary_integer(self, fn: str, x: Value) -> Value:
        dtype = x.dtype
        if fn in ("floor", "ceil", "trunc", "round") or (fn == "abs" and dtype.name in _UNSIGNED):
            return x
        if fn == "isnan":
            return self.const(False, bool_)
        if fn == "not_":
            return self._let(dtype, "~", typed(x))
        if fn == "neg" and dtype.kind == "int":
            return self._let(dtype, self.const(0, dtype), " - ", x)
        if fn == "abs":
            return self._let(dtype, "tl.abs(", x, ")")
        raise CodegenError(f"{fn}: expected a floating-point value, got {dtype}")

    def _extreme(self, fn: str, x: Value, y: Value) -> Value:
        nan = ", propagate_nan=tl.PropagateNan.ALL" if x.dtype.kind == "float" else ""
        if x.dtype is bool_:
            return self._bitwise("and_" if fn == "min" else "or_", x, y)
        return self._let(x.dtype, f"tl.{fn}imum(", x, ", ", y, f"{nan})")

    def _bitwise(self, fn: str, x: Value, y: Value) -> Value:
        if x.dtype is bool_ and fn in ("and_", "or_"):
            neutral = "1" if fn == "and_" else "0"
            for a, b in ((x, y), (y, x)):
                if a.text in ("0", "1"):
                    return b if a.text == neutral else a
        return self._let(x.dtype, typed(x), f" {_SYMBOL[fn]} ", typed(y))

    def _division(self, fn: str, x: Value, y: Value) -> Value:
        kind = x.dtype.kind
        if kind == "float" and fn == "pow":
            return self._let(x.dtype, "libdevice.pow(", x, ", ", y, ")")
        if kind == "int" and fn != "pow" and isinstance(y.size, int) and _is_power(y.size):
            shift, low = f" >> {y.size.bit_length() - 1}", f" & {y.size - 1}"
            return self._let(x.dtype, x, shift if fn == "floordiv" else low)
        self.trace.needs.add("division")
        name = "integer" if kind == "int" else "float"
        return self._let(x.dtype, f"vtc_{name}_{fn}(", x, ", ", y, ")")


def literal(value: complex, dtype: DType, shape: str = "()") -> str:
    """A typed Triton literal of ``dtype`` as it is in registers, rounded to ``dtype``, or a block
    of it.
    """
    refuse_complex("literal", dtype)
    return f"tl.full({shape}, {_bare(value, dtype)}, {NAMES[dtype.accumulate.name]})"


def typed(x: Value) -> Value:
    """``x`` with a type: a bool literal has none."""
    return Value(bool_, literal(x.text == "1", bool_)) if x.text in ("0", "1") else x


def _bare(value: complex, dtype: DType) -> str:
    """A number as Python writes it, rounded to ``dtype``."""
    if dtype.kind == "bool":
        return "1" if value else "0"
    if dtype.kind == "int":
        return str(int(np.asarray(int(cast(int, value))).astype(dtype.numpy)))
    with np.errstate(all="ignore"):
        number = float(converted(np.asarray(value, np.float64), dtype.numpy))
    if math.isfinite(number):
        return repr(number)
    return f'float("{number}")'


_UNSIGNED = ("u8", "bool")


def _is_power(size: int) -> bool:
    return size > 0 and size & (size - 1) == 0


def _value(x: Scalar) -> Value:
    return cast(Value, x)
