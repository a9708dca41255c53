"""Autocast inserts the same casts eager and captured, and ends where its block ends."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F

LOW, FULL = vtc.bfloat16, vtc.float32


def test_eager_and_captured_agree():
    vtc.manual_seed(0)
    m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x, t = vtc.randn(5, 4), vtc.tensor([0, 1, 2, 0, 1])

    def g(x):
        with vtc.autocast("cpu"):
            y = m(x)
            with vtc.autocast("cpu", enabled=False):
                z = y.float() @ y.float().t()
            return y, F.cross_entropy(y, t), vtc.softmax(y, -1), z

    eager, captured = g(x), vtc.compile(g)(x)
    assert [v.dtype for v in eager] == [LOW, FULL, FULL, FULL]
    for a, b in zip(eager, captured, strict=True):
        assert a.dtype is b.dtype
        got, want = (v.detach().float().numpy() for v in (b, a))
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=2e-2)


def test_an_addend_is_narrowed_as_the_product_is():
    w = vtc.ones(2, 2)
    batch = w[None]
    with vtc.autocast("cpu"):
        assert vtc.addmm(w, w, w).dtype is LOW
        assert vtc.addmm(w, w, w, beta=0.5, alpha=2).dtype is LOW
        assert vtc.baddbmm(batch, batch, batch).dtype is LOW
    assert vtc.addmm(w, w, w).dtype is FULL


def test_nesting_and_ends():
    w = vtc.ones(2, 2)
    with vtc.autocast("cpu"):
        with vtc.autocast("cpu", vtc.float16):
            assert (w @ w).dtype is vtc.float16
        assert (w @ w).dtype is LOW
    with pytest.raises(KeyError), vtc.autocast("cpu"):
        raise KeyError
    assert (w @ w).dtype is FULL


def test_inside_and_outside_are_two_programs():
    f = vtc.compile(lambda x: x @ x)
    with vtc.autocast("cpu"):
        assert f(vtc.ones(2, 2)).dtype is LOW
    assert f(vtc.ones(2, 2)).dtype is FULL
    assert "autocast" in f.explain()


def test_gradients_have_the_dtype_of_their_leaf():
    w = vtc.ones(2, 2).requires_grad_()

    @vtc.autocast("cpu")
    def f(x):
        return (x @ w).sum()

    for fn in (f, vtc.compile(f)):
        w.grad = None
        fn(vtc.ones(2, 2)).backward()
        assert w.grad.dtype is FULL
        assert w.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]
