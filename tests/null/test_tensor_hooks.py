"""Hooks where PyTorch is no yardstick: guards, errors, checkpoints, vtc.func, what is kept.

That hooks do what PyTorch's do is shown in ``tests/parity/test_hook_order.py``.
"""

import copy
import gc
import weakref

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError, CaptureError, GradientError, LeakError
from vtc.frontend.hooks import EVERYWHERE


@pytest.fixture(autouse=True)
def no_hooks_left():
    yield
    assert not vars(EVERYWHERE)


def leaf(*values):
    return vtc.tensor(list(values)).requires_grad_()


def none(value):
    """For what is done only for its effect."""


# compiled functions


def test_a_training_step_follows_the_hooks_of_its_parameters():
    w, x = nn.Parameter(vtc.tensor([1.0, 2.0])), vtc.tensor([3.0, 4.0])

    @vtc.compile
    def step():
        (w * x).sum().backward()

    def gradient():
        w.grad = None
        step()
        return w.grad.tolist()

    assert gradient() == [3.0, 4.0]
    handle = w.register_hook(lambda g: g * 10)
    assert gradient() == [30.0, 40.0]
    assert gradient() == [30.0, 40.0]
    assert len(step.entries) == 2
    after = w.register_post_accumulate_grad_hook(lambda p: none(p.grad.add_(1)))
    assert gradient() == [31.0, 41.0]
    after.remove()
    handle.remove()
    assert gradient() == [3.0, 4.0]
    assert len(step.entries) == 3
    assert all("hook" in why for why in step.misses)


def test_a_compiled_function_follows_the_hooks_of_its_arguments():
    @vtc.compile
    def step(w):
        (w * 2).sum().backward()

    plain, doubled = leaf(1.0), leaf(1.0)
    doubled.register_hook(lambda g: g * 2)
    for w, expected in ((plain, 2.0), (doubled, 4.0), (plain, 2.0), (doubled, 4.0)):
        w.grad = None
        step(w)
        assert w.grad.tolist() == [expected]
    assert len(step.entries) == 2
    assert "f32[1] with 1 hook" in step.misses[0]


def test_what_a_hook_reads_is_guarded():
    factor = [2.0]
    w = leaf(1.0)
    w.register_hook(lambda g: g * int(factor[0]))

    @vtc.compile
    def step():
        w.grad = None
        (w * 1).sum().backward()

    for value in (2.0, 5.0):
        factor[0] = value
        step()
        assert w.grad.tolist() == [value]


def test_hooks_of_all_modules_are_guarded():
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    fast, x = vtc.compile(model), vtc.ones(2)
    assert fast(x).tolist() == [1.0, 1.0]
    with nn.register_module_forward_hook(lambda m, args, out: out + 1):
        assert fast(x).tolist() == [4.0, 4.0]
    assert fast(x).tolist() == [1.0, 1.0]
    assert len(fast.entries) == 2


@pytest.mark.parametrize("compiled", [False, True])
def test_backward_outside_runs_the_hooks_inside(compiled):
    """One gradient for both results reaches the hook, once."""
    model, x = nn.Linear(2, 2, bias=False), leaf(1.0, 2.0)
    calls = []

    def forward(x):
        h = model(x)
        h.register_hook(lambda g: calls.append("h") or g * g)
        return h.sum(), h * 3

    model.register_full_backward_hook(lambda m, gi, go: calls.append("model") or (gi[0] + 1,))
    a, b = (vtc.compile(forward) if compiled else forward)(x)
    vtc.autograd.backward([a, b], [None, vtc.ones(2)])
    w = model.weight.detach().numpy()
    np.testing.assert_allclose(model.weight.grad.numpy(), 16 * np.outer([1, 1], [1, 2]), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), 16 * w.sum(0) + 1, rtol=1e-6)
    assert calls == ["h", "model"]


def test_what_a_hook_may_not_do_in_a_trace():
    w, seen, total = leaf(1.0), [], vtc.zeros(1)
    outside = vtc.compile(lambda f: f(w * 2))

    def writes(h):
        h.register_hook(lambda g: none(total.add_(g)))
        return h

    with pytest.raises(CaptureError, match=r"a hook on a gradient writes f32\[1\] in place"):
        outside(writes)

    def stays(h):
        w.register_hook(lambda g: g)
        return h

    with pytest.raises(CaptureError, match=r"registers a hook on f32.*which is from outside"):
        outside(stays)

    @vtc.compile
    def keeps():
        h = w * 2
        h.register_hook(seen.append)
        h.sum().backward()

    with pytest.raises(LeakError, match=r"left in a closure variable|left in a list"):
        keeps()

    @vtc.compile
    def in_a_body(x):
        def step(c, x):
            h = c * x
            h.register_hook(lambda g: g * 2)
            return h, h

        return vtc.scan(step, w.sum(), x)[0]

    with pytest.raises(CaptureError, match="scan: a hook on a gradient inside a function"):
        in_a_body(vtc.ones(3))


def test_a_hook_inside_a_backward_inside_may_write():
    """It is code of the step like any other."""
    w, total = leaf(1.0, 2.0), vtc.zeros(2)

    @vtc.compile
    def step():
        h = w * 2
        h.register_hook(lambda g: none(total.add_(g)))
        (h * h).sum().backward()
        w.grad = None

    step()
    step()
    assert total.tolist() == [8.0, 16.0]


# checkpoints


@pytest.mark.parametrize("compiled", [False, True])
def test_hooks_and_checkpoints(compiled):
    calls = []

    def inner(x):
        h = x.exp()
        h.register_hook(lambda g: calls.append("h") or g * 2)
        return (h * x).sin()

    def step(x, keep):
        y = inner(x) if keep else vtc.checkpoint(inner, x)
        y.sum().backward()

    found = []
    for keep in (True, False):
        x = leaf(0.3, -0.7)
        (vtc.compile(step) if compiled else step)(x, keep)
        found.append(x.grad.tolist())
    assert found[0] == found[1]
    assert calls == ["h", "h"]


# vtc.func


def test_hooks_inside_functions_that_are_transformed():
    def f(x):
        h = x * x
        h.register_hook(lambda g: g * 10)
        return h.sum()

    x = vtc.tensor([1.0, 2.0])
    assert vtc.grad(f)(x).tolist() == [20.0, 40.0]
    assert vtc.compile(vtc.grad(f))(x).tolist() == [20.0, 40.0]
    rows = vtc.stack([x, x + 1])
    assert vtc.vmap(vtc.grad(f))(rows).tolist() == [[20.0, 40.0], [40.0, 60.0]]
    with pytest.raises(GradientError, match=r"inside a function that vtc\.func transforms"):
        vtc.func.vjp(f, x)
    with vtc.no_grad(), pytest.raises(GradientError, match="a tensor that requires grad"):
        f(x)


# errors


def test_hooks_on_what_has_no_gradient():
    x, w = vtc.ones(2), leaf(1.0)
    with pytest.raises(GradientError, match=r"register_hook: expected .* requires grad, got f32"):
        x.register_hook(print)
    with pytest.raises(GradientError, match="retain_grad: expected a tensor that requires grad"):
        x.retain_grad()
    for y, got in ((x, "does not require grad"), (w * 2, "is a result")):
        with pytest.raises(GradientError, match=f"expected a leaf that requires grad.*{got}"):
            y.register_post_accumulate_grad_hook(print)
    with pytest.raises(ArgumentError, match="a hook: expected a function, got int 3"):
        w.register_hook(3)
    w.retain_grad()
    assert not w.retains_grad


def wrong(g):
    return g.sum()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (wrong, r"register_hook: wrong: expected None or a tensor f32\[2\], got f32\[\(\)\]"),
        (lambda g: 3, r"<lambda>: expected None or a tensor f32\[2\], got int 3"),
        (lambda g: g.double(), r"expected None or a tensor f32\[2\], got f64\[2\]"),
    ],
)
def test_hooks_that_return_something_else(hook, message, compiled):
    w = leaf(1.0, 2.0)

    def step():
        h = w * 2
        h.register_hook(hook)
        h.sum().backward()

    with pytest.raises(GradientError, match=message) as e:
        (vtc.compile(step) if compiled else step)()
    assert "h.sum().backward()" in str(e.value)


def test_other_hooks_that_return_something_else():
    w = leaf(1.0, 2.0)
    with (
        w.register_post_accumulate_grad_hook(lambda p: p),
        pytest.raises(GradientError, match="expected <lambda> to return None, got f32"),
    ):
        w.sum().backward()
    layer = nn.Linear(2, 3)
    for hook, message in (
        (lambda m, gi, go: gi[0], "expected None or a tuple of 1 gradients, got f32"),
        (lambda m, gi, go: (*gi, None), "expected None or a tuple of 1 gradients, got 2"),
        (lambda m, gi, go: go, r"expected None or a tensor f32\[2\], got f32\[3\]"),
    ):
        with (
            layer.register_full_backward_hook(hook),
            pytest.raises(GradientError, match=f"a backward hook: <lambda>: {message}"),
        ):
            layer(w * 1).sum().backward()
    with (
        layer.register_full_backward_hook(lambda m, gi, go: go),
        pytest.raises(GradientError, match="expected <lambda> to return None, since no argument"),
    ):
        layer(vtc.ones(2)).sum().backward()
    with (
        layer.register_forward_pre_hook(lambda m, a, k: a, with_kwargs=True),
        pytest.raises(ArgumentError, match=r"to return None or \(args, kwargs\), got tuple"),
    ):
        layer(w)


def test_hooks_that_are_always_called():
    def fail(m, args, out):
        raise ValueError("second")

    layer, seen = nn.Linear(2, 3), []
    layer.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    layer.register_forward_hook(fail, always_call=True)
    with pytest.raises(Exception, match=r"matmul|linear"), pytest.warns(UserWarning, match="fail"):
        layer(vtc.ones(7))
    assert seen == [None]


# what is looked at


def test_grad_fn():
    x = leaf(1.0, 2.0)
    y = x * 2
    assert x.grad_fn is None
    assert vtc.ones(1).grad_fn is None
    assert repr(y.grad_fn) == "<MulBackward>"
    assert y.grad_fn == y.grad_fn
    assert y.grad_fn != (x * 2).grad_fn
    (below, number), other = y.grad_fn.next_functions
    assert (below.name(), number) == ("AccumulateGrad", 0)
    assert below.variable is x
    assert other == (None, 0)
    values, _ = y.sort()
    assert values.is_leaf is False
    assert [a.output_nr for a in vtc.linalg.qr(leaf(1.0, 2.0, 3.0, 4.0).reshape(2, 2))] == [0, 1]

    @vtc.compile
    def names(x):
        y = x * 2
        return repr(y.grad_fn), repr(y.grad_fn.next_functions), x.grad_fn, y.detach().grad_fn

    assert names(x) == ("<MulBackward>", "((<AccumulateGrad>, 0), (None, 0))", None, None)


def test_what_hooks_keep_alive():
    """Nothing: a value that is gone takes its hooks along, and a copy of a leaf has none."""
    w = leaf(1.0)
    h = w * 2
    h.retain_grad()
    handle = h.register_hook(lambda g: g)
    gone = weakref.ref(h)
    del h
    gc.collect()
    assert gone() is None
    handle.remove()
    w.register_hook(lambda g: g * 2)
    twin = copy.deepcopy(w)
    twin.sum().backward()
    w.sum().backward()
    assert (twin.grad.item(), w.grad.item()) == (1.0, 2.0)


def test_what_a_hook_keeps_is_not_changed_by_what_comes_later():
    w, v, seen = leaf(1.0), leaf(1.0), []
    h = w + v
    h.register_hook(seen.append)
    w.register_hook(seen.append)
    v.register_post_accumulate_grad_hook(lambda p: none(p.grad.mul_(5)))
    h.sum().backward()
    (w * 3).sum().backward()
    assert [g.item() for g in seen] == [1.0, 1.0, 3.0]
    assert (w.grad.item(), v.grad.item()) == (4.0, 5.0)


def test_inference_mode():
    x = leaf(1.0)
    with vtc.inference_mode():
        assert not (x * 2).requires_grad
        with vtc.inference_mode(False):
            assert (x * 2).requires_grad

    @vtc.inference_mode
    def bare(x):
        return (x * 2).requires_grad

    @vtc.inference_mode()
    def called(x):
        return (x * 2).requires_grad

    assert not bare(x)
    assert not called(x)


# vtc.autograd


def test_autograd_grad():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = x * x
    with pytest.raises(GradientError, match="grad: expected inputs that the outputs depend on"):
        vtc.autograd.grad(y.sum(), [x, w], retain_graph=True)
    assert vtc.autograd.grad(y.sum(), [w], retain_graph=True, allow_unused=True) == (None,)
    _, zeros = vtc.autograd.grad(y.sum(), [x, w], retain_graph=True, materialize_grads=True)
    assert zeros.tolist() == [0.0, 0.0]
    eye = vtc.eye(2)
    (jacobian,) = vtc.autograd.grad(y, x, eye, is_grads_batched=True)
    assert jacobian.tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert x.grad is None
    with pytest.raises(GradientError, match="does not depend on anything that requires grad"):
        vtc.autograd.grad(vtc.ones(()), x)
    with pytest.raises(GradientError, match="grad: expected inputs that require grad"):
        vtc.autograd.grad((x * 2).sum(), vtc.ones(1))
    with pytest.raises(ArgumentError, match="expected as many grad_tensors as tensors, 1, got 2"):
        vtc.autograd.backward((x * 2).sum(), [None, None])


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile])
def test_retained_gradients_follow_writes(wrap):
    def f(x, w):
        h, v, q = x * 2, x * 3, w * 1
        h.retain_grad()
        h.mul_(3)
        v.retain_grad()
        v.copy_(q)  # from here on q and v are one value, and q is read besides
        (h * h + v * v + q * 3).sum().backward()
        return h.grad, v.grad, w.grad

    found = wrap(f)(leaf(1.0, 2.0), leaf(3.0, 4.0))
    assert [g.tolist() for g in found] == [[12.0, 24.0], [6.0, 8.0], [9.0, 11.0]]
