"""The oracle itself: where it departs from Triton's interpreter, it is as a GPU is."""

import ml_dtypes
import numpy as np
import pytest
import triton.language as tl
from corrections import FUNCTIONS, corrected
from interpret import launch, module, run
from kernels import HEAD, normal
from triton.language.extra import libdevice
from triton.language.extra.cuda import libdevice as on_cuda
from triton.runtime.errors import InterpreterError


def compute(body, *arrays, out, helpers="", grid=(1,), sizes=()):
    """``out`` after a kernel whose arguments are x0, x1, ... and y0, with ``i`` of 0 to 63."""
    names = [*(f"x{k}" for k in range(len(arrays))), "y0", *(f"n{k}" for k in range(len(sizes)))]
    lines = "\n".join(f"    {line}" for line in ["i = tl.arange(0, 64)", *body.splitlines()])
    source = f"{HEAD}{helpers}\n@triton.jit\ndef k({', '.join(names)}):\n{lines}\n"
    run(source, "k", [*arrays, out], sizes, grid)
    return out


def test_narrow_floats_are_bits_until_they_are_cast():
    x = normal(64, dtype=ml_dtypes.bfloat16)
    got = compute(
        "v = tl.load(x0 + i, i < 50, other=0.0)\ntl.store(y0 + i, tl.where(i < 10, v, v))",
        x, out=np.zeros_like(x),
    )  # fmt: skip
    np.testing.assert_array_equal(got[:50], x[:50])
    assert not got[50:].any()
    for wrong in ("v + v", "v * 2.0", "-v", "v < v", "tl.exp(v)"):
        with pytest.raises(InterpreterError):
            compute(
                f"v = tl.load(x0 + i)\ntl.store(y0 + i, {wrong})", x, out=np.zeros(64, np.float32)
            )


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.float16, bool])
def test_anything_casts_to_bf16(dtype):
    x = (normal(64) * 300).astype(dtype)
    load = "tl.load(x0 + i) != 0" if dtype is bool else "tl.load(x0 + i)"
    got = compute(
        f"tl.store(y0 + i, tl.cast({load}, tl.bfloat16))", x, out=np.zeros(64, ml_dtypes.bfloat16)
    )
    np.testing.assert_array_equal(got, x.astype(np.float32).astype(ml_dtypes.bfloat16))


def test_minima_ignore_nan_unless_told_otherwise():
    x, y = normal(64), normal(64, seed=1)
    x[::3] = np.nan
    load = "a = tl.load(x0 + i)\nb = tl.load(x1 + i)\n"
    got = compute(f"{load}tl.store(y0 + i, tl.minimum(a, b))", x, y, out=np.zeros(64, np.float32))
    np.testing.assert_array_equal(got, np.fmin(x, y))
    told = "propagate_nan=tl.PropagateNan.ALL"
    got = compute(
        f"{load}tl.store(y0 + i, tl.maximum(a, b, {told}))", x, y, out=np.zeros(64, np.float32)
    )
    np.testing.assert_array_equal(got, np.maximum(x, y))


PRODUCT = "@triton.jit\ndef product(a, b):\n    return a * b\n"
TAKE = "@triton.jit\ndef first(a, k, b, l):\n    return tl.where(k < l, a, b), tl.minimum(k, l)\n"
SQUARE = "x = tl.load(x0 + i[:, None] * 64 + i[None, :])\n"


@pytest.mark.parametrize("axis", [0, 1])
def test_reductions_with_a_function(axis):
    x = 1 + normal(64, 64) / 10
    got = compute(
        f"{SQUARE}tl.store(y0 + i, tl.reduce(x, {axis}, product))",
        x, out=np.zeros(64, np.float32), helpers=PRODUCT,
    )  # fmt: skip
    np.testing.assert_allclose(got, x.prod(axis), rtol=1e-5)
    got = compute(
        f"{SQUARE}s = tl.reduce(x, {axis}, product, keep_dims=True)\n"
        "tl.store(y0 + i[:, None] * 64 + i[None, :], x / s)",
        x, out=np.zeros((64, 64), np.float32), helpers=PRODUCT,
    )  # fmt: skip
    np.testing.assert_allclose(got, x / x.prod(axis, keepdims=True), rtol=1e-5)


def test_reductions_of_all_and_of_pairs():
    x = 1 + normal(64, 64) / 10
    got = compute(
        f"{SQUARE}tl.store(y0, tl.reduce(x, None, product))",
        x, out=np.zeros(4, np.float32), helpers=PRODUCT,
    )  # fmt: skip
    np.testing.assert_allclose(got[0], x.astype(np.float64).prod(), rtol=1e-4)
    got = compute(
        f"{SQUARE}v, _ = tl.reduce((x, i[:, None] * 1 + x.to(tl.int32) * 0), 0, first)\n"
        "tl.store(y0 + i, v)",
        x, out=np.zeros(64, np.float32), helpers=TAKE,
    )  # fmt: skip
    np.testing.assert_array_equal(got, x[0])


@pytest.mark.parametrize("reverse", [False, True])
def test_scans_with_a_function(reverse):
    x = 1 + normal(64, 64) / 100
    got = compute(
        f"{SQUARE}s = tl.associative_scan(x, 1, product, reverse={reverse})\n"
        "tl.store(y0 + i[:, None] * 64 + i[None, :], s)",
        x, out=np.zeros((64, 64), np.float32), helpers=PRODUCT,
    )  # fmt: skip
    want = x[:, ::-1].cumprod(1)[:, ::-1] if reverse else x.cumprod(1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_libdevice_broadcasts_and_refuses_halves():
    x, y = normal(64), np.abs(normal(64, seed=1))
    got = compute(
        "a = tl.load(x0 + i)[:, None]\nb = tl.load(x1 + i)[None, :]\n"
        "tl.store(y0 + i[:, None] * 64 + i[None, :], libdevice.pow(b, a))",
        x, y, out=np.zeros((64, 64), np.float32),
    )  # fmt: skip
    want = np.power(y[None, :].astype(np.float64), x[:, None])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(InterpreterError, match=r"libdevice\.exp: expected f32 or f64, got fp16"):
        compute(
            "tl.store(y0 + i, libdevice.exp(tl.load(x0 + i)))",
            x.astype(np.float16), out=np.zeros(64, np.float32),
        )  # fmt: skip


def test_what_libdevice_lacks_here_is_said():
    with pytest.raises(InterpreterError, match=r"libdevice\.j0: expected one of"):
        compute(
            "tl.store(y0 + i, libdevice.j0(tl.load(x0 + i)))",
            normal(64), out=np.zeros(64, np.float32),
        )  # fmt: skip


def test_functions_of_libdevice_are_there():
    for name in FUNCTIONS:
        assert hasattr(on_cuda, name), name


def test_philox_of_triton_is_philox():
    got = compute("tl.store(y0 + i, tl.randint(7, i))", out=np.zeros(64, np.uint32))
    assert len(set(got.tolist())) == 64
    # Salmon et al., Random123: the first word for key 0, counter 0.
    zero = compute("tl.store(y0 + i, tl.randint(0, i))", out=np.zeros(64, np.uint32))
    assert zero[0] == 0x6627E8D5


def test_every_program_of_a_grid_runs():
    body = (
        "at = (tl.program_id(0) * 3 + tl.program_id(1)) * 5 + tl.program_id(2)\n"
        "tl.atomic_add(y0 + at, 1 + (tl.num_programs(1) - 3).to(tl.int32))"
    )
    got = compute(body, out=np.zeros(32, np.int32), grid=(2, 3, 5))
    np.testing.assert_array_equal(got, [1] * 30 + [0] * 2)
    assert not compute(body, out=np.zeros(32, np.int32), grid=(2, 0, 5)).any()


def test_sizes_are_i64():
    body = "tl.store(y0 + i, tl.zeros((64,), tl.int64) + n0 * n0)"
    got = compute(body, out=np.zeros(64, np.int64), sizes=[1 << 20])
    assert got[0] == 1 << 40


def test_numbers_of_any_type():
    source = HEAD + "@triton.jit\ndef k(y0, a, b, c):\n    tl.store(y0, a + b + c)\n"
    y = np.zeros(4, np.float64)
    launch(source, "k", ["*fp64", "i32", "fp32", "fp64"], [y.ctypes.data, 1, 0.5, 0.25], (1,))
    assert y[0] == 1.75


def test_what_a_kernel_raises_names_its_file():
    with pytest.raises(InterpreterError, match="nosuch"):
        compute("tl.store(y0 + i, nosuch)", out=np.zeros(64, np.float32))


def test_all_is_as_before_afterwards():
    exp, add = libdevice.exp, tl.core.add
    with corrected():
        assert libdevice.exp is not exp
        assert tl.core.add is not add
    assert libdevice.exp is exp
    assert tl.core.add is add


def test_a_module_is_loaded_once():
    assert module(HEAD) is module(HEAD)
