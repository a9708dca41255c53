"""Activations far from 0, where a formula in f32 may lose everything, against wider numbers."""

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F

FUNCTIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": vtc.sigmoid,
}
SPECIAL = np.array([0.0, -0.0, np.inf, np.nan, 1e18, -1e18, 3e38, -3e38, 1e-30, -100.0, 100.0])


def logistic(z):
    """In extended precision, without overflow."""
    e = np.exp(-np.abs(z.astype(np.longdouble)))
    return np.where(z >= 0, 1, e) / (1 + e)


def wanted(name, x):
    x = x.astype(np.longdouble)
    if name == "sigmoid":
        return logistic(x)
    scale = np.sqrt(8 / np.longdouble(np.pi))
    return x * logistic(x if name == "silu" else scale * (x + np.longdouble(0.044715) * x**3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_small_results_are_as_exact_as_large_ones(name):
    """As exact as what is exponentiated, a number of up to 70 that is rounded to 24 bits."""
    x = np.linspace(-9, 9, 4001).astype(np.float32)
    want = wanted(name, x)
    got = FUNCTIONS[name](vtc.tensor(x)).numpy()
    error = np.abs(got - want) / np.maximum(np.abs(want), 1e-30)
    assert error.max() < 2e-5
    assert np.median(error) < 1e-7


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_any_order_are_finite(name, dtype):
    def total(x):
        return FUNCTIONS[name](x).sum()

    def slopes(x):
        return vtc.grad(total)(x).sum()

    x = vtc.tensor(np.array([-1000.0, -100, -20, -11, 0, 11, 20, 100, 1000]).astype(dtype))
    for found in (vtc.grad(total)(x), vtc.grad(slopes)(x), vtc.compile(vtc.grad(slopes))(x)):
        assert np.isfinite(found.numpy()).all()
    first = vtc.grad(total)(x).numpy()
    limits = [0, 0] if name == "sigmoid" else [0, 1]
    np.testing.assert_allclose(first[[0, -1]], limits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype):
    x = SPECIAL.astype(dtype)
    with np.errstate(all="ignore"):
        for name, function in FUNCTIONS.items():
            got = function(vtc.tensor(x)).numpy()
            np.testing.assert_allclose(got, wanted(name, x).astype(dtype), rtol=1e-6, atol=1e-30)
