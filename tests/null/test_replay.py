"""Calls like one before are replayed; what makes a call unlike it is seen."""

import time

import numpy as np
import pytest

import vtc
import vtc.nn as nn

CALLS = 4
"""The first traces, the second is found by its key, those after that are replayed."""


def replayed(f):
    """``f``, whose last call can be replayed; asserts that it can."""
    assert f._replay is not None
    return f


def ready(f, *args):
    """``f`` compiled, and called until its calls are replayed."""
    fast = vtc.compile(f)
    for _ in range(CALLS):
        fast(*args)
    return replayed(fast)


def test_outputs_are_fresh():
    f = ready(lambda x: x + 1, vtc.ones(8))
    x = vtc.zeros(8)
    kept = []
    for _ in range(10):
        x = f(x)
        kept.append(x)
    assert [y[0].item() for y in kept] == list(range(1, 11))
    assert len({y.numpy().ctypes.data for y in kept}) == 10


def test_an_argument_of_another_kind():
    f = ready(lambda x: x + 1, vtc.ones(4))
    assert f(vtc.ones(5)).shape == (5,)
    assert f(vtc.ones(4, dtype=vtc.float64)).dtype is vtc.float64
    assert f(vtc.ones(4)).tolist() == [2.0] * 4
    assert f(np.ones(4, np.float32)).tolist() == [2.0] * 4
    assert f(vtc.ones(4, 2).T[0]).tolist() == [2.0] * 4  # strided
    assert f(vtc.ones(4).requires_grad_()).requires_grad
    assert not f(vtc.ones(4)).requires_grad


def test_a_tensor_that_comes_to_require_grad():
    f, x = ready(lambda x: x * 2, vtc.ones(4)), vtc.ones(4)
    for _ in range(CALLS):
        f(x)
    x.requires_grad_()
    f(x).sum().backward()
    assert x.grad.tolist() == [2.0] * 4
    with vtc.no_grad():
        assert not f(x).requires_grad
    y = x * 1.0
    assert f(y).requires_grad
    assert not f(y.detach()).requires_grad


def test_plain_arguments_and_their_types():
    f = ready(lambda x, k: x * 7.0 if k is True else x + k, vtc.ones(1), 1)
    for k, want in ((1, 2.0), (True, 7.0), (2, 3.0), (1, 2.0), (0.5, 1.5), (0.25, 1.25)):
        for _ in range(CALLS):
            assert f(vtc.ones(1), k).item() == want


def test_the_form_of_the_arguments():
    def f(a, b=None):
        return a[0] - a[1] if isinstance(a, tuple) else a - b

    fast, x, y = vtc.compile(f), vtc.ones(1), vtc.full((1,), 3.0)
    for _ in range(CALLS):
        assert fast(x, y).item() == -2.0
        assert fast(b=x, a=y).item() == 2.0
        assert fast(x, b=y).item() == -2.0
        assert fast((y, x)).item() == 2.0


def test_arguments_that_come_to_share_memory():
    def f(x, y):
        x.mul_(2.0)
        return y * 1.0

    fast, base = ready(f, vtc.ones(4), vtc.ones(4)), vtc.ones(4)
    for k in range(1, CALLS):
        assert fast(base, base).tolist() == [2.0**k] * 4
    assert fast(vtc.ones(4), base).tolist() == base.tolist()
    assert fast(base[:2], base[1:3]).tolist() == [16.0, 8.0]


def test_an_argument_that_is_held_by_the_function():
    w = vtc.ones(4)

    def f(x):
        w.add_(1.0)
        return x * 1.0

    fast = ready(f, vtc.zeros(4))
    for _ in range(CALLS):
        before = w[0].item()
        assert fast(w).tolist() == [before + 1.0] * 4
        assert fast(vtc.zeros(4)).tolist() == [0.0] * 4


def test_writes_count():
    w = vtc.ones(4)

    def f(x):
        x.add_(w)
        w.add_(1.0)

    fast, x = ready(f, vtc.zeros(4)), vtc.zeros(4)
    versions = x._version, w._version
    fast(x)
    assert (x._version, w._version) == (versions[0] + 1, versions[1] + 1)
    p = vtc.ones(4).requires_grad_()
    loss = (p * x).sum()
    fast(x)
    with pytest.raises(vtc.VtcError, match="changed in place"):
        loss.backward()


def test_switches():
    m = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    x = vtc.ones(100, 4)
    f = ready(m, x)
    for _ in range(CALLS):
        m.eval()
        assert f(x).tolist() == f(x).tolist()
        m.train()
        assert (f(x).detach().numpy() == 0).any()
        with vtc.no_grad():
            assert not f(x).requires_grad
        with vtc.autocast("cpu", dtype=vtc.bfloat16):
            assert f(x).dtype is vtc.bfloat16
        assert f(x).dtype is vtc.float32
    assert len(f.entries) <= 4, f.explain()


def test_gradients_that_are_set_or_not():
    p = nn.Parameter(vtc.ones(2))

    def f(x):
        (p * x).sum().backward()

    fast, x = vtc.compile(f), vtc.ones(2)
    for k in range(1, 2 * CALLS):
        fast(x)
        assert p.grad.tolist() == [float(k)] * 2
    p.grad = None
    fast(x)
    assert p.grad.tolist() == [1.0] * 2


def test_numbers_that_an_optimizer_reads():
    p = nn.Parameter(vtc.zeros(2))
    optimizer = vtc.optim.SGD([p], lr=1.0)

    def step(x):
        (p * x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    fast, x = ready(step, vtc.ones(2)), vtc.ones(2)
    want = p.tolist()[0]
    for lr in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = lr
        fast(x)
        want -= lr
        assert p.tolist() == [want] * 2
    assert len(fast.entries) == 1


def test_the_array_a_user_holds_is_not_the_tensors():
    given = np.zeros(4, np.float32)
    for x in (vtc.zeros(4), vtc.from_numpy(given)):
        f = ready(lambda x: x.add_(1.0), x)
        given.flags.writeable = x.numpy().flags.writeable = False
        f(x)
        assert x.tolist() == [CALLS + 1.0] * 4


def test_a_function_inside_another_is_inlined():
    inner = ready(lambda x: x + 1, vtc.ones(2))
    outer = vtc.compile(lambda x: inner(x) * 2)
    for _ in range(CALLS):
        assert outer(vtc.ones(2)).tolist() == [4.0, 4.0]
    assert outer.ir().count("add") >= 1


def test_ir_is_of_the_call_made_last():
    f = ready(lambda x, **_: x + 1, vtc.ones(2))
    f(vtc.ones(2, dtype=vtc.float64))
    assert "f64[2]" in f.ir()
    for _ in range(CALLS):
        f(vtc.ones(2))
    assert "f32[2]" in f.ir()


def test_a_replayed_call_costs_less_than_finding_it():
    f, x = vtc.compile(lambda x: x + 1), vtc.ones(8)

    def seconds(call):
        start = time.process_time()
        for _ in range(500):
            call()
        return time.process_time() - start

    for _ in range(CALLS):
        f(x), f(x=x)
    found = min(seconds(lambda: f(x=x)) for _ in range(9))
    f(x)
    assert min(seconds(lambda: f(x)) for _ in range(9)) < 0.8 * found
