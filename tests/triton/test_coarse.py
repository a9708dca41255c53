"""Shorter forms where a result is rounded to a narrow float: right to its last place."""

import re

import numpy as np
import pytest
from plans import lowered, region, run_plan
from scipy import special

import vtc
import vtc.nn.functional as F
from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import assembly
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f16, f32

H100 = cuda(90)
INF = np.inf


def gelu(x):
    return F.gelu(x, approximate="tanh")


def slope(x):
    return vtc.grad(lambda x: gelu(x).sum())(x)


def logistic(x):
    return special.expit(x)


def inner(x):
    return np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)


def steep(x):
    """The derivative of gelu."""
    s = logistic(inner(x))
    return s + x * s * (1 - s) * np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)


FUNCTIONS = {
    "exp": (vtc.exp, np.exp),
    "tanh": (vtc.tanh, np.tanh),
    "sigmoid": (vtc.sigmoid, logistic),
    "silu": (F.silu, lambda x: x * logistic(x)),
    "gelu": (gelu, lambda x: x * logistic(inner(x))),
    "slope": (slope, steep),
    "quotient": (lambda x: x / (x * x + 0.1), lambda x: x / (x * x + 0.1)),
    "softmax": (lambda x: F.softmax(x, -1), lambda x: special.softmax(x, -1)),
}
UNITS = {"quotient": 4}
"""Of the last place, where ops of narrow floats are rounded one by one; one half and some else."""


@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_narrow_results_are_right_to_the_last_place(name, dtype):
    function, exact = FUNCTIONS[name]
    tiny = np.array([0.0, 1e-3, 3e-2, 3.2e-2, 1e-7])
    x = np.concatenate([np.linspace(-10, 10, 4001), tiny, -tiny]).astype(dtype.numpy)
    plan = lowered(function, vtc.tensor(x))
    (got,) = run_plan(plan, [x])
    want = exact(x.astype(np.float64))
    unit = np.spacing(np.abs(want).astype(dtype.numpy)).astype(np.float64)
    error = np.abs(got.astype(np.float64) - want) / unit
    assert error.max() < UNITS.get(name, 0.52)


def test_special_values_of_narrow_floats():
    x = np.array([INF, -INF, np.nan, 0.0, -0.0, 1e30, -1e30, 90, -90]).astype(bf16.numpy)
    plan = lowered(lambda x: (vtc.exp(x), vtc.tanh(x), vtc.sigmoid(x), gelu(x)), vtc.tensor(x))
    e, t, s, g = (y.astype(np.float64) for y in run_plan(plan, [x]))
    np.testing.assert_array_equal(e[:-2], [INF, 0, np.nan, 1, 1, INF, 0])
    np.testing.assert_array_equal(t, [1, -1, np.nan, 0, -0.0, 1, -1, 1, -1])
    np.testing.assert_array_equal(s[:-1], [1, 0, np.nan, 0.5, 0.5, 1, 0, 1])
    np.testing.assert_array_equal(g, [INF, np.nan, np.nan, 0, -0.0, x[5], -0.0, 90, -0.0])


def instructions(function, dtype, store):
    """The PTX of a function of 1024 elements, four for each thread."""
    plan = lowered(function, vtc.tensor(np.zeros(1024, np.float32)).to(dtype))
    (kernel,) = plan.kernels
    return assembly(kernel, H100, store)


def test_gelu_in_bf16_takes_two_special_functions_and_no_branch(store):
    for function in (gelu, slope, F.silu, vtc.sigmoid):
        text = instructions(function, vtc.bfloat16, store)
        found = re.findall(r"\b(ex2|rcp|div|tanh|lg2)\.", text)
        assert set(found) == {"ex2", "rcp"}
        assert found.count("ex2") == found.count("rcp")
        assert "bra" not in text


def test_f32_stays_exact(store):
    assert "div.rn.f32" in instructions(lambda x: 1.0 / x, vtc.float32, store)
    text = instructions(vtc.exp, vtc.float32, store)
    assert "fma.rn" in text  # of two parts of the logarithm
    sigmoid = instructions(vtc.sigmoid, vtc.float32, store)
    assert "div.full.f32" in sigmoid
    assert "div.rn" not in sigmoid


def test_a_value_that_is_also_seen_in_f32_is_exact():
    def body(x):
        e = x.exp()
        return [e.cast(bf16), e]

    program = region([TensorType(f32, (64,))], body)
    (kernel,) = generate(program, H100).kernels
    assert "libdevice.exp(t0)" in kernel.source
    assert "vtc_exp(" not in kernel.source
    alone = region([TensorType(f32, (64,))], lambda x: body(x)[:1])
    assert "vtc_exp(t0)" in generate(alone, H100).kernels[0].source
