"""``autograd.Function`` beside PyTorch's, eager and compiled: values and gradients of any order."""

from types import SimpleNamespace

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, CaptureError, GradientError, VersionError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")


def functions(T):
    """The same functions over either library."""

    class Exp(T.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return g * y

    class Several(T.autograd.Function):
        @staticmethod
        def forward(a, b, k):
            return a * b, a + k, a > b

        @staticmethod
        def setup_context(ctx, inputs, output):
            a, b, ctx.k = inputs
            ctx.save_for_backward(a, b, None)
            ctx.mark_non_differentiable(output[2])

        @staticmethod
        def backward(ctx, product, total, _):
            a, b, _ = ctx.saved_tensors
            to_b = product * a if ctx.needs_input_grad[1] else None
            return product * b + ctx.k * total, to_b, None

    class Lazy(T.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x + 0, x * 2

        @staticmethod
        def backward(ctx, a, b):
            return (a if b is None else b * 2) * 10

    return SimpleNamespace(Exp=Exp, Several=Several, Lazy=Lazy, **placed(T))


def placed(T):
    """Functions that write an argument, or take some by name."""

    class Doubled(T.autograd.Function):
        @staticmethod
        def forward(ctx, out, x, k=2.0):
            ctx.mark_dirty(out.mul_(k))
            return out, x + k

        @staticmethod
        def backward(ctx, g, h):
            return g * 5, h * 3

    class Scaled(T.autograd.Function):
        @staticmethod
        def forward(x, k=3.0):
            return x * k

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, ctx.k = inputs

        @staticmethod
        def backward(ctx, g):
            return g * ctx.k, None

    return {"Doubled": Doubled, "Scaled": Scaled}


def tensor(T, *values):
    return T.tensor(np.array(values, np.float32))


def second(T, f, x):
    (g,) = T.autograd.grad(f.Exp.apply(x * 2).sum(), x, create_graph=True)
    (gg,) = T.autograd.grad((g * g).sum(), x, create_graph=True)
    return g, gg, *T.autograd.grad(gg.sum(), x)


def penalty(T, f, x):
    (g,) = T.autograd.grad(
        outputs=f.Exp.apply(x), inputs=x, grad_outputs=T.ones_like(x), create_graph=True,
        retain_graph=True, only_inputs=True,
    )  # fmt: skip
    ((g.norm() - 1) ** 2).backward()
    return (x.grad,)


def several(T, f, x):
    b = tensor(T, 3.0, -2.0, 1.0).requires_grad_()
    product, total, larger = f.Several.apply(x, b, 2.0)
    assert not larger.requires_grad
    (product * larger + total.square()).sum().backward()
    alone, _, _ = f.Several.apply(x.detach(), x, 1.0)
    alone.sum().backward()
    return product, b.grad, x.grad


def partly(T, f, x):
    first, both = f.Lazy.apply(x), f.Lazy.apply(x)
    first[0].sum().backward()
    (both[0] + both[1]).sum().backward()
    return (x.grad,)


def chained(T, f, x):
    h = f.Exp.apply(f.Exp.apply(x * 0.1) * 0.1)
    loss = (h * x).sum() + f.Exp.apply(x * 0.2).mean()
    loss.backward()
    with T.no_grad():
        assert not f.Exp.apply(x).requires_grad
    return loss, x.grad


def dirty(T, f, x):
    h, bare = x * 3, T.ones(3)
    h.register_hook(lambda g: g * 10)
    y, z = f.Doubled.apply(h, x)
    assert y is h
    assert f.Doubled.apply(bare, x)[0].requires_grad
    (y * h + z * bare).sum().backward()
    return h, bare, x.grad


def named(T, f, x):
    (f.Scaled.apply(x) + f.Scaled.apply(x, k=5.0) + f.Scaled.apply(k=7.0, x=x)).sum().backward()
    return (x.grad,)


def unrecorded(T, f, x):
    y, z = f.Exp.apply(x * 1), f.Scaled.apply(x)
    with T.no_grad():
        z.mul_(0.5)
        z[1:].add_(1)
    (z.tanh() + y).sum().backward()
    return z, x.grad


CASES = [second, penalty, several, partly, chained, dirty, named, unrecorded]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_as_pytorch(case, compiled):
    def run(T):
        f = functions(T)

        def whole(x):
            return case(T, f, x.detach().requires_grad_())

        whole = vtc.compile(whole) if compiled and T is vtc else whole
        return [t.detach().numpy() for t in whole(tensor(T, 0.5, -1.0, 2.0))]

    for got, want in zip(run(vtc), run(torch), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


def test_compiled_forward_with_a_backward_outside_and_under_func():
    f = functions(vtc)
    x = tensor(vtc, 0.5, -1.0).requires_grad_()

    def model(x):
        return (f.Exp.apply(x) * 3).sum()

    vtc.compile(model)(x).backward()
    want = 3 * np.exp([0.5, -1.0])
    np.testing.assert_allclose(x.grad.numpy(), want, 1e-6)
    np.testing.assert_allclose(vtc.func.grad(model)(x.detach()).numpy(), want, 1e-6)


def made(backward, forward=lambda ctx, x: x * 2):
    return type(
        "Made",
        (vtc.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda ctx, g: (), "Made.backward: expected 1 gradients"),
        (lambda ctx, g: (g, g), "Made.backward: expected 1 gradients"),
        (lambda ctx, g: 1.0, r"argument 0: expected a gradient f32\[2\] on cpu or None, got float"),
        (lambda ctx, g: vtc.ones(3), r"argument 0: expected a gradient f32\[2\], got f32\[3\]"),
    ],
)
def test_what_backward_returns_must_fit(backward, message):
    x = tensor(vtc, 1.0, 2.0).requires_grad_()
    with pytest.raises(GradientError, match=message):
        made(backward).apply(x).sum().backward()


def test_gradients_are_summed_and_cast_to_fit():
    x = tensor(vtc, 1.0, 2.0).requires_grad_()
    made(lambda ctx, g: vtc.ones(3, 2, dtype=vtc.float64)).apply(x).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert x.grad.dtype is vtc.float32


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile])
def test_what_was_saved_may_not_be_written(wrap):
    f = functions(vtc)

    def run(x):
        x = x.detach().requires_grad_()
        y = f.Exp.apply(x)
        out = y.clone()
        y.mul_(2)
        out.sum().backward()
        return x.grad

    with pytest.raises(VersionError, match=r"test_function.py"):
        wrap(run)(tensor(vtc, 1.0))


def test_what_is_refused():
    x = tensor(vtc, 1.0).requires_grad_()
    with pytest.raises(ArgumentError, match="expected tensors or None, got a int"):
        made(None, lambda ctx, x: ctx.save_for_backward(3)).apply(x)
    with pytest.raises(ArgumentError, match="mark_dirty: expected arguments that forward returns"):
        made(None, lambda ctx, x: ctx.mark_dirty(x) or x * 1).apply(x)
    with pytest.raises(GradientError, match="a leaf tensor that requires grad was written in"):
        made(None, lambda ctx, x: ctx.mark_dirty(x) or x).apply(x)
    f = functions(vtc)
    with pytest.raises(ArgumentError, match=r"Scaled.apply: got an unexpected keyword argument"):
        f.Scaled.apply(x, q=1)

    @vtc.compile
    def loop(x):
        return vtc.scan(lambda c, _: (f.Exp.apply(c), c), x, vtc.zeros(3))[0]

    with pytest.raises(CaptureError, match=r"scan: Exp.backward would have to run in each step"):
        loop(x)
