"""Random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers", 2011).

A generator's state is ``i64[2]``: the seed (the key) and an offset in counters of 128 bits.
Element ``i``, row-major, of a node is made from word ``i % 4`` of counter
``state[1] + offset + i // 4``, so every backend draws the same numbers in any order, and in any
precision of evaluation::

    noise: f32[4, 8] = normal(state, shape=(4, 8), dtype=f32, offset=0)
    mask: f32[4, 8] = uniform(state, shape=(4, 8), dtype=f32, offset=8)
    state_1: i64[2] = advance(state, count=16)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import numpy as np

from vtc.ir.dims import Size, floordiv, mod
from vtc.ir.op import Needs, Op, Pointwise, Sample, tensor_type
from vtc.ir.ops.view import at_most
from vtc.ir.scalar import Index, Operand, Scalar, Scalars
from vtc.ir.types import Array, DType, TensorType, Type, bf16, f16, f32, f64, i64

DIGITS = {"f8e5m2": 3, "f8e4m3": 4, "bf16": 8, "f16": 11, "f32": 24}
"""Bits of precision of each dtype, the implicit one included."""

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _WORD = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True)
class Random(Pointwise, abstract=True):
    """Draws from the generator whose state is the one input; there is no gradient to the state."""

    draws = True

    @property
    @abc.abstractmethod
    def drawn(self) -> TensorType:
        """The type of what is drawn."""

    def infer(self, state: Type) -> Type:
        check_state(self, state)
        sizes = self.drawn.shape
        self.check(all(at_most(0, n) for n in sizes), f"expected sizes, got {sizes}")
        return self.drawn

    def lifted(self, size: Size, *inputs: Any) -> Op:
        """Each example draws its own numbers; the state stays one."""
        many: Any = self
        return cast("Op", replace(many, shape=(size, *many.shape), offset=many.offset * size))

    def batch(self, size: Size, inputs: Any, batched: Needs) -> Any:
        return NotImplemented

    @classmethod
    def seeds(cls, rng: np.random.Generator) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Shapes and states to try."""
        for shape in ((), (1,), (0, 4), (3, 5), (2, 3, 4)):
            yield shape, np.array([rng.integers(-(2**63), 2**63), rng.integers(2**40)], np.int64)


@final
@dataclass(frozen=True)
class Bits(Random):
    """Whole words: integers in ``[0, 2**32)``."""

    shape: tuple[Size, ...]
    offset: Size

    @property
    def drawn(self) -> TensorType:
        return TensorType(i64, self.shape)

    def reference(self, state: Array) -> Array:
        return _shaped(blocks(state, self.offset, self.shape), self.shape)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        i = _flat(index, out.shape)
        return _word(s, inputs[0], self.offset + floordiv(i, 4), mod(i, 4))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, state in cls.seeds(rng):
            yield Sample(cls(shape=shape, offset=3), (state,))


@final
@dataclass(frozen=True)
class Uniform(Random):
    """Numbers in ``[0, 1)``: as many leading bits of a word as ``dtype`` holds, so never 1.

    f64 takes all 32 bits and half a step, so it is never 0.
    """

    shape: tuple[Size, ...]
    dtype: DType
    offset: Size

    @property
    def drawn(self) -> TensorType:
        return _floating(self, self.shape, self.dtype)

    def reference(self, state: Array) -> Array:
        bits = _shaped(blocks(state, self.offset, self.shape), self.shape)
        if self.dtype is f64:
            return (bits + 0.5) * 2.0**-32
        digits = DIGITS[self.dtype.name]
        whole = (bits >> (32 - digits)).astype(np.float32)
        return whole * np.float32(2.0**-digits)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        i = _flat(index, out.shape)
        bits = _word(s, inputs[0], self.offset + floordiv(i, 4), mod(i, 4))
        if self.dtype is f64:
            middle = s.binary("add", s.cast(bits, f64), s.const(0.5, f64))
            return s.binary("mul", middle, s.const(2.0**-32, f64))
        digits = DIGITS[self.dtype.name]
        whole = s.binary("floordiv", bits, s.const(2 ** (32 - digits), i64))
        return s.binary("mul", s.cast(whole, f32), s.const(2.0**-digits, f32))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, state in cls.seeds(rng):
            yield Sample(cls(shape=shape, dtype=f32, offset=0), (state,))
        for dtype in (f64, f16, bf16):
            yield Sample(cls(shape=(5, 3), dtype=dtype, offset=1), (state,))


@final
@dataclass(frozen=True)
class Normal(Random):
    """Standard normal numbers, by the Box-Muller transform in f64 of words (0, 1) and (2, 3).

    Of a pair, the even element is ``r * cos`` and the odd one ``r * sin``.
    """

    shape: tuple[Size, ...]
    dtype: DType
    offset: Size

    @property
    def drawn(self) -> TensorType:
        return _floating(self, self.shape, self.dtype)

    def reference(self, state: Array) -> Array:
        pairs = blocks(state, self.offset, self.shape).reshape(-1, 2)
        radius = np.sqrt(-2.0 * np.log((pairs[:, 0] + 1) * 2.0**-32))
        angle = pairs[:, 1] * (2.0 * math.pi * 2.0**-32)
        both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        # Kernels hold f32 for narrower types too: round there first, as they do.
        return _shaped(both, self.shape).astype(self.dtype.accumulate.numpy)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        i = _flat(index, out.shape)
        counter, first = self.offset + floordiv(i, 4), floordiv(mod(i, 4), 2) * 2
        a, b = (s.cast(_word(s, inputs[0], counter, w), f64) for w in (first, first + 1))
        share = s.binary("mul", s.binary("add", a, s.const(1, f64)), s.const(2.0**-32, f64))
        squared = s.binary("mul", s.unary("log", share), s.const(-2, f64))
        angle = s.binary("mul", b, s.const(2.0 * math.pi * 2.0**-32, f64))
        even = s.compare("eq", s.from_index(mod(i, 2), i64), s.const(0, i64))
        turn = s.select(even, s.unary("cos", angle), s.unary("sin", angle))
        return s.cast(s.binary("mul", s.unary("sqrt", squared), turn), out.dtype.accumulate)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, state in cls.seeds(rng):
            yield Sample(cls(shape=shape, dtype=f32, offset=0), (state,))
        for dtype in (f64, f16, bf16):
            yield Sample(cls(shape=(5, 3), dtype=dtype, offset=1), (state,))


@final
@dataclass(frozen=True)
class Advance(Pointwise):
    """The state after ``count`` more counters were used."""

    count: Size

    def infer(self, state: Type) -> Type:
        return check_state(self, state)

    def lifted(self, size: Size, *inputs: Any) -> Op:
        """What examples use up that draw their own numbers; the state stays one."""
        return Advance(count=self.count * size)

    def batch(self, size: Size, inputs: Any, batched: Needs) -> Any:
        return NotImplemented

    def reference(self, state: Array) -> Array:
        return state + np.array([0, self.count], np.int64)

    def element(
        self, s: Scalars, index: Index, out: TensorType, inputs: Sequence[Operand]
    ) -> Scalar:
        # The index is 0 at the seed and 1 at the offset.
        return s.binary("add", inputs[0].at(index), s.from_index(index[0] * self.count, i64))

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for count in (0, 1, 2**40):
            yield Sample(cls(count=count), (rng.integers(0, 2**40, 2),))


def check_state(op: Op, state: Type) -> TensorType:
    """``state``, or TypeCheckError if it is not a generator's."""
    want = TensorType(i64, (2,))
    op.check(state == want, f"expected the state of a generator, {want}, got {state}")
    return tensor_type(op, state)


def philox4x32(counter: Sequence[Any], key: tuple[int, int]) -> Array:
    """The words, along the last axis, of counters given as four arrays of words, lowest first."""
    a, b, c, d = np.broadcast_arrays(*(np.asarray(w, np.uint64) for w in counter))
    low, high = key
    for _ in range(10):
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (q >> _WORD) ^ b ^ np.uint64(low),
            q & _LOW,
            (p >> _WORD) ^ d ^ np.uint64(high),
            p & _LOW,
        )
        low, high = (low + _WEYL[0]) & 0xFFFFFFFF, (high + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=-1)


def blocks(state: Array, offset: Size, shape: tuple[Size, ...]) -> Array:
    """The words of a node of ``shape`` at ``offset``: i64, four to a row, the last row padded."""
    seed, start = (int(v) & 0xFFFFFFFFFFFFFFFF for v in state)
    first = (start + cast("int", offset)) & 0xFFFFFFFFFFFFFFFF
    count = math.prod(cast("tuple[int, ...]", shape))
    at = np.arange(-(-count // 4), dtype=np.uint64) + np.uint64(first)
    zero = np.uint64(0)
    found = philox4x32((at & _LOW, at >> _WORD, zero, zero), (seed & 0xFFFFFFFF, seed >> 32))
    return found.astype(np.int64)


def _shaped(padded: Array, shape: tuple[Size, ...]) -> Array:
    sizes = cast("tuple[int, ...]", shape)
    return padded.reshape(-1)[: math.prod(sizes)].reshape(sizes)


def _floating(op: Op, shape: tuple[Size, ...], dtype: DType) -> TensorType:
    op.check(dtype.kind == "float", f"expected a floating-point dtype, got {dtype}")
    return TensorType(dtype, shape)


def _flat(index: Index, shape: tuple[Size, ...]) -> Size:
    flat: Size = 0
    for i, n in zip(index, shape, strict=True):
        flat = flat * n + i
    return flat


def _word(s: Scalars, state: Operand, block: Size, word: Size) -> Scalar:
    counter = s.binary("add", state.at((1,)), s.from_index(block, i64))
    return s.philox(state.at((0,)), counter, word)
