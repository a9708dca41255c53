"""Philox against its published vectors; the law of elements; moments; advancing."""

import numpy as np
import pytest
from scalars_in_python import by_elements

from vtc.errors import TypeCheckError
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.ops.random import DIGITS, Advance, Bits, Normal, Random, Uniform, philox4x32
from vtc.ir.types import DTYPES, f32, f64

ONES = 0xFFFFFFFF
STATE = np.array([42, 7], np.int64)
COUNT = 100_000

# kat_vectors of the Random123 distribution, philox4x32 with 10 rounds: counter, key, words.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def draw(op, state=STATE):
    return ArrayBuilder().apply(op, state)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    assert tuple(philox4x32(counter, key)) == words


def test_zero_state_begins_with_the_known_words():
    found = draw(Bits(shape=(4,), offset=0), np.zeros(2, np.int64))
    assert tuple(found) == KNOWN[0][2]


@pytest.mark.parametrize("seed", [0, 42, -1, 2**62 + 3])
@pytest.mark.parametrize("start", [0, 2**32 - 2, -3])
def test_element_i_is_word_i_mod_4_of_counter_i_div_4(seed, start):
    offset = 5
    found = draw(Bits(shape=(3, 7), offset=offset), np.array([seed, start], np.int64)).reshape(-1)
    for i, bits in enumerate(found):
        at, key = (start + offset + i // 4) % 2**64, seed % 2**64
        words = philox4x32((at & ONES, at >> 32, 0, 0), (key & ONES, key >> 32))
        assert bits == words[i % 4]


@pytest.mark.parametrize("op", [c for c in (Bits, Uniform, Normal, Advance)])
def test_element_agrees_with_reference(op):
    for sample in op.samples(np.random.default_rng(0)):
        want = draw(sample.op, *sample.inputs)
        np.testing.assert_array_equal(by_elements(sample.op, *sample.inputs), want)


@pytest.mark.parametrize("name", DIGITS)
def test_uniform_is_the_leading_bits(name):
    dtype = DTYPES[name]
    bits = draw(Bits(shape=(COUNT,), offset=3))
    found = draw(Uniform(shape=(COUNT,), dtype=dtype, offset=3)).astype(np.float64)
    digits = DIGITS[name]
    np.testing.assert_array_equal(found, (bits >> (32 - digits)) * 2.0**-digits)
    assert found.min() >= 0.0
    assert found.max() < 1.0
    assert np.finfo(np.float32).nmant + 1 == DIGITS["f32"]


def test_uniform_f64_is_strictly_inside():
    bits = draw(Bits(shape=(COUNT,), offset=0))
    found = draw(Uniform(shape=(COUNT,), dtype=f64, offset=0))
    np.testing.assert_array_equal(found, (bits + 0.5) * 2.0**-32)
    assert 0.0 < found.min() < found.max() < 1.0


def test_uniform_moments():
    x = draw(Uniform(shape=(COUNT,), dtype=f32, offset=0)).astype(np.float64)
    for k in (1, 2, 3, 4):
        assert abs((x**k).mean() - 1 / (k + 1)) < 4 / COUNT**0.5
    assert np.abs(np.histogram(x, 16, (0, 1))[0] / COUNT - 1 / 16).max() < 0.005


def test_normal_moments():
    x = draw(Normal(shape=(COUNT,), dtype=f32, offset=0)).astype(np.float64)
    for k, want, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**k).mean() - want) < 4 * (spread / COUNT) ** 0.5
    for lag in (1, 2, 3, 4):
        assert abs((x[lag:] * x[:-lag]).mean()) < 4 / COUNT**0.5


def test_normal_pairs():
    w = draw(Bits(shape=(10, 4), offset=2))
    x = draw(Normal(shape=(10, 4), dtype=f64, offset=2))
    for a, b in ((0, 1), (2, 3)):
        radius = np.sqrt(-2 * np.log((w[:, a] + 1) / 2**32))
        angle = 2 * np.pi * w[:, b] / 2**32
        np.testing.assert_allclose(x[:, a], radius * np.cos(angle), atol=1e-14)
        np.testing.assert_allclose(x[:, b], radius * np.sin(angle), atol=1e-14)


@pytest.mark.parametrize("name", ["f16", "bf16", "f32"])
def test_normal_is_f64_rounded(name):
    dtype = DTYPES[name]
    exact = draw(Normal(shape=(999,), dtype=f64, offset=0))
    found = draw(Normal(shape=(999,), dtype=dtype, offset=0))
    np.testing.assert_array_equal(found, exact.astype(np.float32).astype(dtype.numpy))


@pytest.mark.parametrize("make", [Bits, lambda **k: Normal(dtype=f32, **k)])
def test_shape_does_not_matter_and_offset_moves(make):
    flat = draw(make(shape=(24,), offset=0))
    np.testing.assert_array_equal(draw(make(shape=(2, 3, 4), offset=0)).reshape(-1), flat)
    np.testing.assert_array_equal(draw(make(shape=(7,), offset=0)), flat[:7])
    np.testing.assert_array_equal(draw(make(shape=(16,), offset=2)), flat[8:])
    later = draw(Advance(count=2))
    np.testing.assert_array_equal(draw(make(shape=(16,), offset=0), later), flat[8:])


def test_precision_does_not_change_the_draw():
    b = ArrayBuilder("f64")
    for op in (Uniform(shape=(99,), dtype=f32, offset=0), Normal(shape=(99,), dtype=f32, offset=0)):
        assert b.apply(op, STATE).dtype == np.float64
        np.testing.assert_array_equal(b.apply(op, STATE), draw(op))


def test_errors():
    with pytest.raises(TypeCheckError, match=r"bits: expected the state of a generator, i64\[2\]"):
        draw(Bits(shape=(4,), offset=0), np.zeros(3, np.int64))
    with pytest.raises(TypeCheckError, match="normal: expected a floating-point dtype, got i64"):
        draw(Normal(shape=(4,), dtype=DTYPES["i64"], offset=0))
    assert issubclass(Uniform, Random)
