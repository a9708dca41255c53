"""Where Triton 3.6.0's interpreter differs from a GPU, or is slow: what replaces it.

``corrected()`` puts these in place within a ``with`` block; importing this file changes nothing.

* bf16 and fp8 are bits in unsigned integers. Casts round to nearest even (the interpreter cuts
  bits off, and takes the bits of integers for numbers); fp8 saturates, as on a GPU. ``tl.dot``
  multiplies what they mean; any other arithmetic on them raises, where the interpreter would go on
  with the bits.
* Floats that do not fit into an integer saturate and NaN is 0, as PTX has it.
* ``minimum`` and ``maximum`` ignore NaN unless they are told to propagate it.
* ``fma`` rounds once.
* ``tl.reduce`` and ``tl.associative_scan`` with a function of one's own take log(n) steps on whole
  blocks instead of one step for each element, and combine in a tree, as a GPU does.
* ``libdevice`` is there, and the instructions that kernels have in assembler: the interpreter has
  none of it.
* A call of a helper does not patch Triton's modules again, which takes a millisecond; what is made
  anew at every operation is kept, see :mod:`kept`.
"""

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import kept
import ml_dtypes
import numpy as np
import triton.language as tl
from scipy import special
from triton.language.extra import libdevice
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

BITS = {
    tl.bfloat16: ml_dtypes.bfloat16,
    tl.float8e4nv: ml_dtypes.float8_e4m3fn,
    tl.float8e5: ml_dtypes.float8_e5m2,
}
"""The floats that the interpreter holds as bits."""

_numpy_type = kept.numpy_type
_binary, _ternary, _unary = (
    InterpreterBuilder.binary_op,
    InterpreterBuilder.ternary_op,
    InterpreterBuilder.unary_op,
)
_rmw = InterpreterBuilder.create_atomic_rmw


def meant(handle):
    """The numbers of ``handle``; f32 for bits."""
    kind = BITS.get(handle.dtype.scalar)
    return handle.data if kind is None else handle.data.view(kind).astype(np.float32)


def cast(self, src, dst_type, rounding=None):
    """Between any two types of numbers."""
    data, target = meant(src), dst_type.scalar
    kind = BITS.get(target)
    if kind is not None:
        if target is not tl.bfloat16:
            most = float(ml_dtypes.finfo(kind).max)
            data = np.clip(data, -most, most)
        return TensorHandle(data.astype(np.float32).astype(kind).view(_numpy_type(target)), target)
    if data.dtype.kind == "f" and target.is_int() and not target.is_bool():
        return TensorHandle(_saturated(data, _numpy_type(target)), target)
    return TensorHandle(data.astype(_numpy_type(target)), target)


def _saturated(data, dtype):
    """PTX has no conversion to 8 bits: it is one to 16, of which 8 are kept."""
    via = np.dtype(np.int16) if dtype.itemsize == 1 else dtype
    limits = np.iinfo(via)
    whole = np.nan_to_num(np.trunc(data.astype(np.float64)), nan=0.0)
    # 2**63 - 1 is no double: what is too large is told apart by comparison.
    inside = np.where((whole >= float(limits.max)) | (whole <= float(limits.min)), 0.0, whole)
    found = inside.astype(via)
    found = np.where(whole >= float(limits.max), via.type(limits.max), found)
    found = np.where(whole <= float(limits.min), via.type(limits.min), found)
    return found.astype(dtype)


def _number(handle, op):
    if handle.dtype.scalar in BITS:
        name = handle.dtype.scalar
        raise TypeError(f"{op.__name__}: expected numbers, got {name} as bits: cast it first")


def binary(self, lhs, rhs, op):
    """As it was, but not on bits that are meant as floats."""
    _number(lhs, op)
    return _binary(self, lhs, rhs, op)


def ternary(self, lhs, rhs, other, op):
    """As it was; ``where`` may choose between bits."""
    if op is not np.where:
        _number(lhs, op)
    return _ternary(self, lhs, rhs, other, op)


def unary(self, arg, op):
    """As it was, but not on bits that are meant as floats."""
    _number(arg, op)
    return _unary(self, arg, op)


def dot(self, a, b, d, input_precision, max_num_imprecise_acc):
    """The product of what ``a`` and ``b`` mean, in the type of ``d``."""
    return TensorHandle(np.matmul(meant(a), meant(b), dtype=d.data.dtype) + d.data, d.dtype.scalar)


def fma(self, x, y, z):
    """Rounded once: the product of two f32 is exact in f64."""
    exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)


@dataclass(frozen=True)
class Assembled:
    """The results of inline assembler."""

    results: tuple

    def get_result(self, i):
        return self.results[i]


def inline_asm(self, text, constraints, operands, types, is_pure, pack):
    """One instruction on f32, as exact as f32 can be."""
    if text not in INSTRUCTIONS:
        raise NotImplementedError(f"assembler: expected one of INSTRUCTIONS, got {text}")
    assert (constraints, pack, len(types)) == ("=f,f", 1, 1)
    found = INSTRUCTIONS[text](operands[0].data.astype(np.float64)).astype(np.float32)
    small = np.abs(found) < np.finfo(np.float32).tiny
    return Assembled((TensorHandle(np.where(small, found * 0, found), tl.float32),))


INSTRUCTIONS = {
    "ex2.approx.ftz.f32 $0, $1;": np.exp2,
    "rcp.approx.ftz.f32 $0, $1;": np.reciprocal,
}


def rmw(self, op, ptr, val, mask, sem, scope):
    """bf16 is added element by element: the interpreter would add bits."""
    if val.dtype.scalar not in BITS:
        return _rmw(self, op, ptr, val, mask, sem, scope)
    if op != interpreter._ir.ATOMIC_OP.FADD:
        raise TypeError(f"atomic: expected fadd of {val.dtype.scalar}, got {op}")
    kind, before = BITS[val.dtype.scalar], np.zeros_like(val.data)
    for i in np.ndindex(val.data.shape):
        if mask.data[i]:
            at = (ptr.data[i].reshape(1), np.ones(1, bool))
            held = interpreter._interpreter.load(*at, before[i].reshape(1), before.dtype)
            before[i] = held[0]
            total = held.view(kind).astype(np.float32) + meant(val)[i]
            interpreter._interpreter.store(at[0], total.astype(kind).view(before.dtype), at[1])
    return TensorHandle(before, val.dtype.scalar)


def generic_reduce(self, values):
    """Neighbours are combined with each other: log(n) steps."""
    flat, axis = self.unravel(values, self.axis)
    data = [v.handle.data for v in flat]
    while data[0].shape[axis] > 1:
        even, odd = ([np.take(d, range(k, d.shape[axis], 2), axis) for d in data] for k in (0, 1))
        data = _combined(self, flat, even, odd)
    if not self.keep_dims:
        data = [np.squeeze(d, axis) for d in data]
    elif self.axis is None:
        data = [d.reshape((1,) * values[0].handle.data.ndim) for d in data]
    return [self.to_tensor(d, v.dtype) for d, v in zip(data, flat, strict=True)]


def generic_scan(self, values):
    """Each element takes in what lies 1, 2, 4, ... before it: log(n) steps."""
    data = [v.handle.data for v in values]
    count, step = data[0].shape[self.axis], 1
    place = np.arange(count).reshape([-1 if k == self.axis else 1 for k in range(data[0].ndim)])
    while step < count:
        early = [np.roll(d, step, self.axis) for d in data]
        joined = _combined(self, values, early, data)
        data = [np.where(place >= step, j, d) for j, d in zip(joined, data, strict=True)]
        step *= 2
    return [self.to_tensor(d, v.dtype) for d, v in zip(data, values, strict=True)]


def _combined(self, values, left, right):
    """The combining function on blocks."""
    types = [v.dtype for v in values]
    blocks = [self.to_tensor(d, t) for d, t in zip((*left, *right), types * 2, strict=True)]
    made = self.combine_fn(*blocks)
    made = made if isinstance(made, tuple) else (made,)
    return [np.broadcast_to(m.handle.data, left[0].shape) for m in made]


def call(self, *args, **kwargs):
    """A helper: all of the language is patched already, see ``corrected``."""
    return self.rewrite()(*args, **kwargs)


def _fused(x, y, z):
    return x * y + z


FUNCTIONS = {
    name: getattr(np, name)
    for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "cbrt", "hypot", "sin",
        "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc", "rint", "fmod", "copysign",
        "isnan", "isinf", "signbit",
    )
} | {
    "pow": np.power, "rsqrt": lambda x: 1 / np.sqrt(x), "rcp_rn": lambda x: 1 / x,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv,
    "lgamma": lambda x: np.where(np.isneginf(x), np.inf, special.gammaln(x)),
    "tgamma": special.gamma, "abs": np.abs, "nearbyint": np.rint,
    "fdim": lambda x, y: np.maximum(x - y, 0),
    "round": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x), "finitef": np.isfinite,
    "isfinited": np.isfinite, "div_rn": np.divide, "add_rn": np.add, "mul_rn": np.multiply,
    "sub_rn": np.subtract, "sqrt_rn": np.sqrt, "fma": _fused, "fma_rn": _fused,
    "remainder": lambda x, y: x - np.rint(x / y) * y, "exp10": special.exp10,
    "normcdf": special.ndtr, "saturatef": lambda x: np.clip(np.nan_to_num(x), 0.0, 1.0),
    "fast_expf": np.exp, "fast_logf": np.log, "fast_powf": np.power, "fast_sinf": np.sin,
    "fast_cosf": np.cos, "fast_tanf": np.tan, "fast_dividef": np.divide,
}  # fmt: skip
"""What ``libdevice`` has, on NumPy arrays of f64."""


def library(name):
    """``libdevice.name`` on blocks: computed in f64, so about as exact as f32 can be."""

    def of_blocks(*args):
        first = next(a for a in args if isinstance(a, tl.tensor))
        kind = first.dtype
        if name not in FUNCTIONS:
            raise NotImplementedError(f"libdevice.{name}: expected one of corrections.FUNCTIONS")
        if not (kind.is_fp32() or kind.is_fp64()):
            raise TypeError(f"libdevice.{name}: expected f32 or f64, got {kind}")
        data = [a.handle.data if isinstance(a, tl.tensor) else np.array([a]) for a in args]
        found = np.asarray(FUNCTIONS[name](*(d.astype(np.float64) for d in data)))
        kind = tl.int1 if found.dtype == bool else kind
        blocks = any(isinstance(a, tl.tensor) and a.shape for a in args)
        block = tl.block_type(kind, list(found.shape)) if blocks else kind
        return tl.tensor(TensorHandle(found.astype(_numpy_type(kind)), kind), block)

    return of_blocks


def _operators():
    """Methods of the builder by name."""
    casts = ("cast_impl", "create_fp_to_fp")
    chosen = {"create_minnumf": np.fmin, "create_maxnumf": np.fmax}
    yield from dict.fromkeys(casts, cast).items()
    for name, op in chosen.items():
        yield name, lambda self, lhs, rhs, op=op: self.binary_op(lhs, rhs, op)
    yield "binary_op", binary
    yield "ternary_op", ternary
    yield "unary_op", unary
    yield "create_dot", dot
    yield "create_fma", fma
    yield "create_atomic_rmw", rmw
    yield "create_inline_asm", inline_asm
    yield "create_erf", lambda self, x: self.unary_op(x, lambda d: special.erf(d).astype(d.dtype))
    yield "get_bf16", lambda self, v: TensorHandle(_bits(v, ml_dtypes.bfloat16), tl.bfloat16)


def _bits(value, kind):
    return np.array([value], kind).view(f"u{np.dtype(kind).itemsize}")


@cache
def _replaced():
    """What has another value within ``corrected``: owner, name, that value."""
    return [
        *((InterpreterBuilder, name, made) for name, made in _operators()),
        (interpreter.ReduceOps, "generic_reduce", generic_reduce),
        (interpreter.ScanOps, "generic_scan", generic_scan),
        (interpreter.InterpretedFunction, "__call__", call),
        *((libdevice, name, library(name)) for name, _ in inspect.getmembers(libdevice, callable)),
        *kept.kept(),
    ]


@contextmanager
def corrected():
    """The interpreter as a GPU would have it. Only one thread at a time may be within."""
    replaced = _replaced()
    missing = object()
    before = [(owner, name, getattr(owner, name, missing)) for owner, name, _ in replaced]
    for owner, name, made in replaced:
        setattr(owner, name, made)
    # A helper of Triton's own lives in the module where the language is defined.
    scope = interpreter._patch_lang(tl.standard.sum.fn)
    try:
        yield
    finally:
        scope.restore()
        for owner, name, old in before:
            if old is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
