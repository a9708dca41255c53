"""``Scalars`` on plain numbers: runs ``element`` and ``target`` of an op at concrete indices.

Slow, and only for small samples: the rules of an op against its reference, without any backend.
"""

import math
import operator
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from vtc.ir.ops.random import philox4x32
from vtc.ir.scalar import Scalars
from vtc.ir.types import TensorType, bool_, dtype_of

UNARY = {
    "neg": operator.neg,
    "abs": abs,
    "not_": lambda x: not x if x.dtype == np.bool_ else ~x,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": lambda x: x.dtype.type(math.erf(x)),
    "erfc": lambda x: x.dtype.type(math.erfc(x)),
    "lgamma": lambda x: gammaln(x) if x != -math.inf else math.inf,
    "round": np.round,
}
BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": operator.pow,
    "min": np.minimum,
    "max": np.maximum,
    "and_": operator.and_,
    "or_": operator.or_,
    "xor": operator.xor,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "atan2": np.arctan2,
}


@dataclass
class Number:
    """One value: a NumPy scalar."""

    value: np.generic

    @property
    def dtype(self):
        return dtype_of(self.value.dtype)


@dataclass
class Held:
    """An array as an operand; reading outside it without a mask is an error."""

    array: np.ndarray

    @property
    def type(self):
        return TensorType.of(self.array)

    def at(self, index, mask=None, other=0):
        wide = self.type.dtype.accumulate.numpy.type
        if mask is not None and not mask.value:
            return Number(wide(other))
        assert all(0 <= i < n for i, n in zip(index, self.array.shape, strict=True)), index
        return Number(wide(self.array[tuple(index)]))


class PythonScalars(Scalars):
    def const(self, value, dtype):
        return Number(dtype.numpy.type(value))

    def cast(self, x, dtype):
        return Number(x.value.astype(dtype.numpy))

    def to_bits(self, x, dtype):
        return Number(np.asarray(x.value).astype(dtype.numpy).view(dtype.word.numpy)[()])

    def from_bits(self, x, dtype):
        found = np.asarray(x.value).view(dtype.numpy)
        return Number(found.astype(dtype.accumulate.numpy)[()])

    def unary(self, fn, x):
        found = (UNARY.get(fn) or getattr(np, fn))(x.value)
        return Number(np.bool_(found) if fn in ("isnan", "signbit") else x.value.dtype.type(found))

    def binary(self, fn, x, y):
        assert x.dtype is y.dtype, (fn, x.dtype, y.dtype)
        with np.errstate(all="ignore"):
            return Number(x.value.dtype.type(BINARY[fn](x.value, y.value)))

    def compare(self, fn, x, y):
        assert x.dtype is y.dtype, (fn, x.dtype, y.dtype)
        return Number(np.bool_(getattr(operator, fn)(x.value, y.value)))

    def select(self, condition, x, y):
        assert condition.dtype is bool_
        assert x.dtype is y.dtype
        return x if condition.value else y

    def to_index(self, x, size):
        assert 0 <= x.value < size
        return int(x.value)

    def clamp_index(self, x, upper):
        return min(max(int(x.value), 0), upper)

    def from_index(self, index, dtype):
        return Number(dtype.numpy.type(index))

    def philox(self, seed, counter, word):
        key, at = (int(v.value) & (2**64 - 1) for v in (seed, counter))
        low = 2**32 - 1
        words = philox4x32((at & low, at >> 32, 0, 0), (key & low, key >> 32))
        return Number(np.int64(words[word]))


def by_elements(op, *arrays):
    """What ``op`` computes, element by element."""
    out = op.infer(*map(TensorType.of, arrays))
    operands = [Held(a) for a in arrays]
    found = np.empty(out.shape, out.dtype.numpy)
    for index in np.ndindex(*out.shape):
        x = op.element(PythonScalars(), index, out, operands)
        assert x.dtype is out.dtype.accumulate, (op, x.dtype)
        found[index] = x.value.astype(out.dtype.numpy)
    return found


def by_targets(op, *arrays):
    """What a scattering op computes, one write after the other."""
    operands = [Held(a) for a in arrays]
    found, values = arrays[0].copy(), arrays[op.values]
    for index in np.ndindex(*values.shape):
        place = op.target(PythonScalars(), index, operands)
        found[place] = values[index] + (found[place] if op.accumulate else 0)
    return found
