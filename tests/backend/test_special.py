"""Special functions in C: over all f32 numbers, and where they are steep; signs."""

import numpy as np
import pytest
from regions import region, run

import vtc
from vtc.ir.evaluate import evaluate
from vtc.ir.types import TensorType, bf16, f16, f32, f64

# Units in the last place of f32, measured; what is a difference is only as exact as what it is of.
UNITS = {
    "exp2": 1, "expm1": 2, "log1p": 2, "erfc": 5, "tan": 3.5, "asin": 2.5, "acos": 2.5, "atan": 2,
    "sinh": 3.5, "cosh": 3.5, "asinh": 2.5, "acosh": 2.5, "atanh": 2.5, "erfinv": 4,
    "atan2": 2, "hypot": 2.5, "xlogy": 2.5,
}  # fmt: skip
TWO = ("atan2", "hypot", "xlogy", "logaddexp")
NEAR = ("lgamma", "digamma", "logaddexp")


def numbers():
    """f32 numbers of all magnitudes, and more of the middle ones; without signalling NaNs."""
    rng = np.random.default_rng(0)
    x = np.arange(0, 2**32, 40009, np.uint64).astype(np.uint32).view(np.float32)
    middle = [rng.uniform(-m, m, 20000).astype(np.float32) for m in (1, 4, 120)]
    edges = np.array([0, -0.0, 1, -1, 2, -2, 3, np.inf, -np.inf, np.nan], np.float32)
    x = np.concatenate([x, *middle, edges])
    x[np.isnan(x)] = np.nan
    return x


@pytest.fixture(scope="module", params=[f32, f64], ids=str)
def found(request):
    """By name: what a kernel gives, and what it should."""
    dtype = request.param
    x = numbers().astype(dtype.numpy)
    y = np.random.default_rng(1).permutation(x)
    names = (*UNITS, *NEAR)

    def body(x, y):
        return [x.op(n, y) if n in TWO else x.op(n) for n in names]

    program = region([TensorType.of(x)] * 2, body)
    _, got = run(program, [x, y])
    wanted = evaluate(program, x, y, precision="f64")
    return dtype, dict(zip(names, zip(got, wanted, strict=True), strict=True))


@pytest.mark.parametrize("name", UNITS)
def test_a_few_units_in_the_last_place(found, name):
    dtype, results = found
    got, want = results[name]
    with np.errstate(all="ignore"):
        near = want.astype(dtype.numpy)
    finite = np.isfinite(near)
    np.testing.assert_array_equal(got[~finite], near[~finite])
    if dtype is f64:  # SciPy is no better judge than the C library
        np.testing.assert_allclose(got[finite], want[finite], rtol=2e-14, atol=1e-300)
        return
    unit = np.spacing(np.abs(near[finite])).astype(np.float64)
    assert (np.abs(got[finite] - want[finite]) / unit).max() < UNITS[name]


@pytest.mark.parametrize("name", NEAR)
def test_differences_are_as_exact_as_their_parts(found, name):
    dtype, results = found
    got, want = results[name]
    with np.errstate(all="ignore"):
        near = want.astype(dtype.numpy)
    finite = np.isfinite(near)
    np.testing.assert_array_equal(got[~finite], near[~finite])
    rtol, atol = (2e-6, 2e-5) if dtype is f32 else (1e-11, 1e-10)
    np.testing.assert_allclose(got[finite], want[finite], rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [f32, f64, f16, bf16], ids=str)
def test_signs_are_those_of_the_bits(dtype):
    """Of zeros and of NaNs too, in vectors of any length."""
    x = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, np.copysign(np.nan, -1)] * 9)
    with np.errstate(all="ignore"):
        x = x.astype(dtype.numpy)
    _, (got,) = run(region([TensorType.of(x)], lambda x: [x.op("signbit")]), [x])
    np.testing.assert_array_equal(got, np.signbit(x))
    assert got[7]
    y = vtc.from_numpy(x)
    np.testing.assert_array_equal(vtc.signbit(y).numpy(), got)
    signed = vtc.copysign(vtc.ones(len(x), dtype=y.dtype), y)
    np.testing.assert_array_equal(signed.to(vtc.float32).numpy(), np.where(got, -1, 1))
    assert vtc.copysign(y, -1.0).signbit().all().item()
