"""Gradients beside finite differences, and backwards that are differentiated once."""

import math

import pytest

import vtc
from vtc.autograd import Function, gradcheck, gradgradcheck
from vtc.autograd.function import once_differentiable
from vtc.errors import ArgumentError, GradcheckError, GradientError, VtcWarning


def leaf(*values):
    return vtc.tensor(values, dtype=vtc.float64, requires_grad=True)


def function(gradient, wrap=lambda backward: backward):
    """``x * x`` with a gradient of one's own."""

    class Made(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @wrap
        def backward(ctx, g):
            return gradient(ctx.saved_tensors[0], g)

    return Made.apply


def several(a, b, c):
    return a * b * c, (a * a).sum(), a.detach()


def test_right_gradients_of_both_orders():
    x, y = leaf(0.3, -1.2), leaf(1.5, 0.4)
    assert gradcheck(several, (x, y, 2.0), check_batched_grad=True)
    assert gradcheck(vtc.sin, x, check_forward_ad=True, check_batched_forward_grad=True)
    assert gradgradcheck(several, (x, y, 2.0), gen_non_contig_grad_outputs=True)
    assert gradgradcheck(vtc.sin, x, vtc.ones(2, dtype=vtc.float64), check_fwd_over_rev=True)
    assert gradcheck(vtc.round, x)
    assert gradcheck(lambda x: x * 2, vtc.zeros(0, 3, dtype=vtc.float64, requires_grad=True))
    assert x.tolist() == [0.3, -1.2]


def test_of_a_compiled_function():
    assert gradcheck(vtc.compile(lambda x: vtc.exp(x) * x), leaf(0.3, -1.2))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (function(lambda x, g: 3 * g), r"Jacobian mismatch for output 0 with respect to input 0,"),
        (function(lambda x, g: g * 0 + 2 * x), "backward not multiplied by grad_output"),
        (function(lambda x, g: (2 * x + vtc.rand(1) * 1e-9) * g), "Backward is not reentrant"),
        (lambda x: x.detach() * 2, "Numerical gradient for function expected to be zero"),
    ],
)
def test_wrong_gradients(fn, message):
    x = leaf(0.5)
    with pytest.raises(GradcheckError, match=message):
        gradcheck(fn, x)
    assert not gradcheck(fn, x, raise_exception=False)


def test_wrong_second_derivatives():
    fn = function(lambda x, g: 2 * x.detach() * g)
    assert gradcheck(fn, leaf(0.5))
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0"):
        gradgradcheck(fn, leaf(0.5))


def test_nondeterminism_within_the_tolerance():
    fn = function(lambda x, g: (2 * x + vtc.rand(1) * 1e-9) * g)
    assert gradcheck(fn, leaf(0.5), nondet_tol=1e-8)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (vtc.ones(1), {}, "at least one input tensor to require gradient, but none of them"),
        (leaf(1.0).expand(3), {}, "The 0th input has a dimension with stride 0"),
        (leaf(1.0), {"check_backward_ad": False}, "at least one of check_forward_ad"),
    ],
)
def test_refused(inputs, options, message):
    with pytest.raises(ArgumentError, match=message):
        gradcheck(vtc.sin, inputs, **options)


def test_single_precision_is_warned_of():
    with pytest.warns(VtcWarning, match="Input #0 requires gradient and is not a double") as said:
        gradcheck(lambda x: x * 2, vtc.ones(1, requires_grad=True), eps=1.0)
    assert said[0].filename == __file__


@pytest.mark.parametrize("compiled", [False, True])
def test_once_differentiable(compiled):
    modes = []

    def gradient(x, g):
        modes.append(vtc.is_grad_enabled())
        return 2 * x * math.pi * g

    square = function(gradient, once_differentiable)

    def first(x):
        return vtc.autograd.grad(square(x).sum(), [x])[0]

    def second(x):
        (g,) = vtc.autograd.grad(square(x).exp().sum(), [x], create_graph=True)
        g.sum().backward()

    run = vtc.compile if compiled else lambda f: f
    assert run(first)(leaf(0.5)).tolist() == pytest.approx([math.pi])
    with pytest.raises(GradientError, match="differentiate twice a function that was marked with"):
        run(second)(leaf(0.5))
    assert not any(modes)
