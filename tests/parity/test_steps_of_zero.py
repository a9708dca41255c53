"""What has no slope has a gradient of 0, and what shows elements twice is filled: as in PyTorch."""

import pytest

import vtc
import vtc.nn.functional as F
from vtc.errors import ArgumentError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

VALUES = [0.3, -1.7, 2.5]
STEPS = {
    "round": lambda T, x: T.round(x),
    "round to decimals": lambda T, x: T.round(x, decimals=1),
    "floor": lambda T, x: T.floor(x),
    "ceil": lambda T, x: T.ceil(x),
    "trunc": lambda T, x: T.trunc(x),
    "sign": lambda T, x: T.sign(x),
    "frac": lambda T, x: T.frac(x),
    "div floor": lambda T, x: T.div(x, 0.7, rounding_mode="floor"),
    "in place": lambda T, x: x.clone().round_(),
    "product": lambda T, x: x * x.floor(),
}


def gradient(T, fn):
    """That of the leaf, of a value before the step with a hook on it, and by ``autograd.grad``."""
    x, y = (T.tensor(VALUES, requires_grad=True) for _ in range(2))
    fn(T, x).sum().backward()
    h = y * 2
    h.retain_grad()
    h.register_hook(lambda g: g + 1)
    (by_call,) = T.autograd.grad(fn(T, h).sum(), [y], retain_graph=True)
    fn(T, h).sum().backward()
    return [x.grad.tolist(), y.grad.tolist(), h.grad.tolist(), by_call.tolist()]


@pytest.mark.parametrize("name", STEPS)
def test_gradients_of_steps(name):
    want = gradient(torch, STEPS[name])
    assert [pytest.approx(w) for w in want] == gradient(vtc, STEPS[name])
    leaf = vtc.func.grad(lambda x: STEPS[name](vtc, x).sum())(vtc.tensor(VALUES))
    assert leaf.tolist() == pytest.approx(want[0])


def test_gradients_of_steps_compiled():
    def run(x):
        found = [vtc.autograd.grad(fn(vtc, x).sum(), [x])[0] for fn in STEPS.values()]
        x.round().sum().backward()
        return vtc.stack(found)

    x = vtc.tensor(VALUES, requires_grad=True)
    got = vtc.compile(run)(x)
    want = [gradient(torch, fn)[0] for fn in STEPS.values()]
    assert [pytest.approx(w) for w in want] == got.tolist()
    assert x.grad.tolist() == [0.0] * 3


def test_a_gradient_that_a_user_leaves_out_stays_out():
    def run(T):
        class Stop(T.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 1

            @staticmethod
            def backward(ctx, g):
                return None

        x, y = (T.tensor(VALUES, requires_grad=True) for _ in range(2))
        (Stop.apply(x).floor() + Stop.apply(y.floor())).sum().backward()
        return x.grad, y.grad

    assert run(torch) == run(vtc) == (None, None)


def test_nan_has_no_sign():
    values = [float("nan"), -2.0, -0.0, float("inf")]
    want = torch.tensor(values).sign().tolist()
    x = vtc.tensor(values)
    assert x.sign().tolist() == vtc.compile(vtc.sign)(x).tolist() == want


@pytest.mark.parametrize("compiled", [False, True])
def test_filling_what_shows_elements_twice(compiled):
    def run(T, base):
        base.expand(4, 3).fill_(2.0)
        base[:2].expand(5, 2).t()[1].fill_(7.0)
        base[2].expand(3, 3)[1:].zero_()
        return base

    want = run(torch, torch.ones(3)).tolist()
    fn = vtc.compile(lambda base: run(vtc, base)) if compiled else lambda base: run(vtc, base)
    assert fn(vtc.ones(3)).tolist() == want
    with pytest.raises(TypeCheckError, match="more than one element of the tensor shares"):
        vtc.zeros(1).expand(3).fill_(vtc.tensor(7.0))  # as torch


@pytest.mark.parametrize(("p", "y"), [(1.5, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.5, 1.1)])
def test_probabilities_outside_are_refused(p, y):
    with pytest.raises(RuntimeError, match="should be between 0 and 1"):
        torch.nn.functional.binary_cross_entropy(torch.tensor([p]), torch.tensor([y]))
    with pytest.raises(ArgumentError, match=r"expected (input|target) in \[0, 1\]"):
        F.binary_cross_entropy(vtc.tensor([p]), vtc.tensor([y]))
