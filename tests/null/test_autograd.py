"""Gradients: eager, in a trace, and through compiled functions; each pair has to agree."""

import threading

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import GradientError, VersionError


def leaf(*shape):
    x = vtc.arange(int(np.prod(shape)), dtype=vtc.float32).reshape(*shape)
    return x.requires_grad_()


def both(fn):
    return [fn, vtc.compile(fn)]


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_accumulation_writes_into_the_gradient(wrap):
    w = leaf(3)
    step = wrap(lambda: (w * 1.0).sum().backward())
    step()
    g = w.grad
    step()
    step()
    assert w.grad is g
    assert g.tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_gradients_of_two_leaves_are_two_tensors(wrap):
    a, b, seed = leaf(2), leaf(2), vtc.ones(2)
    wrap(lambda: (a + b).backward(seed))()
    a.grad.add_(1.0)
    assert (b.grad.tolist(), seed.tolist()) == ([1.0, 1.0], [1.0, 1.0])


def test_the_gradient_goes_to_the_argument_of_the_call():
    f = vtc.compile(lambda x: (x * x).sum().backward())
    a, b, c = leaf(3), leaf(3), leaf(3)
    c.grad = vtc.ones(3)
    for x in (a, b, b, c):
        f(x)
    found = [x.grad.tolist() for x in (a, b, c)]
    assert found == [[0.0, 2.0, 4.0], [0.0, 4.0, 8.0], [1.0, 3.0, 5.0]]
    assert len(f.entries) == 2


def test_a_write_that_is_not_recorded_keeps_the_history():
    w = leaf(3)

    def f():
        x = w * 2.0
        with vtc.no_grad():
            x.mul_(3.0)
        return (x * w).sum()

    for fn in both(f):
        w.grad = None
        fn().backward()
        assert w.grad.tolist() == [0.0, 8.0, 16.0]


def test_writing_the_data_of_a_leaf():
    def f(p):
        p.data.mul_(2.0)
        p.data[0] = 7.0
        return (p * p).sum()

    for fn in both(f):
        p = leaf(3)
        fn(p).backward()
        assert p.tolist() == [7.0, 2.0, 4.0]
        assert p.grad.tolist() == [14.0, 4.0, 8.0]


def test_requires_grad_asked_inside():
    def on_argument(x):
        x.requires_grad_()
        return (x * x).sum()

    def on_value(x):
        z = x.clone().requires_grad_()
        (z * z).sum().backward()
        return z.grad, z

    for fn in both(on_argument):
        x = vtc.ones(2)
        fn(x).backward()
        assert x.requires_grad
        assert x.grad.tolist() == [2.0, 2.0]
    for fn in both(on_value):
        g, z = fn(vtc.ones(2))
        assert z.requires_grad
        assert g.tolist() == [2.0, 2.0]


def test_buffers_may_be_written_between_forward_and_backward():
    class Shift(nn.Module):
        def __init__(self):
            self.w, self.mean = nn.Parameter(vtc.ones(2)), nn.Buffer(vtc.zeros(2))

        def forward(self, x):
            y = (x - self.mean) * self.w
            with vtc.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x)
            return y

    grads = []
    for wrap in (lambda m: m, vtc.compile):
        m = Shift()
        f = wrap(m)
        # eager saves (x - mean), compiled may recompute it: neither reads the buffer afterwards
        (f(vtc.ones(2)).sum() + 2 * f(vtc.ones(2) * 3).sum()).backward()
        grads.append(m.w.grad.tolist())
    np.testing.assert_allclose(*grads, rtol=1e-6)


def test_only_what_backward_reads_is_refused():
    m = nn.Linear(2, 2)
    fast = vtc.compile(lambda x: m(m(x)).sum())
    y = fast(vtc.ones(2, 2))
    with vtc.no_grad():
        m.bias.mul_(2.0)
    y.backward()
    y = fast(vtc.ones(2, 2))
    with vtc.no_grad():
        m.weight.mul_(2.0)
    with pytest.raises(VersionError, match="changed in place"):
        y.backward()


def test_switches():
    w = leaf(2)
    vtc.set_grad_enabled(False)
    assert not (w * 2).requires_grad
    vtc.set_grad_enabled(True)
    with vtc.set_grad_enabled(False):
        assert not (w * 2).requires_grad
    assert vtc.is_grad_enabled()

    @vtc.set_grad_enabled(False)
    def off():
        return w * 2

    @vtc.no_grad
    def bare():
        return w * 2

    assert vtc.is_grad_enabled()
    assert not off().requires_grad
    assert not bare().requires_grad


def test_a_decorated_function_runs_in_several_threads():
    inside, leave = threading.Barrier(2), threading.Barrier(2)
    after = []

    @vtc.no_grad()
    def run():
        inside.wait(10)
        leave.wait(10)

    def thread(grad):
        vtc.set_grad_enabled(grad)
        run()
        after.append((grad, vtc.is_grad_enabled()))

    threads = [threading.Thread(target=thread, args=(g,)) for g in (True, False)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(after) == [(False, False), (True, True)]


def test_a_gradient_of_what_does_not_depend_is_zero_alike():
    for fn in both(lambda x: vtc.grad(lambda _: x.sum())(x)):
        assert fn(vtc.ones(2)).tolist() == [0, 0]
    for fn in both(vtc.grad(vtc.grad(lambda x: 3 * x))):
        assert fn(vtc.tensor(2.0)).item() == 0
    for fn in both(vtc.grad(lambda x: x.detach())):
        with pytest.raises(GradientError, match=r"grad: expected a scalar, got f32\[2\]"):
            fn(vtc.ones(2))


def test_an_angle_without_a_direction_has_no_slope():
    for fn in both(vtc.grad(lambda x: vtc.atan2(x, x.detach()).sum())):
        assert fn(vtc.tensor([0.0, 2.0])).tolist() == [0.0, 0.25]


def test_an_argument_that_is_no_leaf_passes_gradients_on():
    m = nn.Linear(2, 2)
    found = []
    for fn in both(m):
        x = leaf(3, 2)
        (fn(x * 3.0) ** 2).sum().backward()
        found.append(x.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_five_thousand_operations():
    w = leaf(2)
    x = w
    for _ in range(5000):
        x = x + 1.0
    x.sum().backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_second_gradients_inside_a_trace():
    w = leaf(3)

    @vtc.compile
    def f():
        (w**3).sum().backward(create_graph=True)
        g = w.grad
        w.grad = None
        (g * g).sum().backward()

    f()
    assert w.grad.tolist() == [0.0, 36.0, 288.0]


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_views_made_without_gradients_have_none(wrap):
    def f(x):
        h = x * 2
        with vtc.no_grad():
            v = h[1:]
        (v * h[1:]).sum().backward()
        h.detach()[1:].zero_()  # a write that is meant to go unrecorded
        return x.grad, v.requires_grad, h

    g, required, h = wrap(f)(leaf(3))
    assert (g.tolist(), required) == ([0.0, 4.0, 8.0], False)
    assert h.tolist() == [0.0, 0.0, 0.0]

    def written(x):
        h = x * 2
        with vtc.no_grad():
            v = h[1:]
        v[0].mul_(3)
        return h

    with pytest.raises(GradientError, match=r"made under vtc.no_grad\(\), is written: f32"):
        wrap(written)(leaf(3))


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_where_backward_begins(wrap):
    def f(x):
        x[:1].backward()  # one element needs no gradient to begin with
        (x * 2).backward(vtc.ones(3, dtype=vtc.float64), retain_graph=True)
        return x.grad

    assert wrap(f)(leaf(3)).tolist() == [3.0, 2.0, 2.0]


def test_a_quotient_may_be_written():
    x, y = leaf(3), vtc.full((3,), 2.0).requires_grad_()
    q = x / y
    q.add_(1.0)
    q.sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([0.5, 0.5, 0.5], [-0.0, -0.25, -0.5])
