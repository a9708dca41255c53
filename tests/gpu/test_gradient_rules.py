"""Gradient rules of eager code on a GPU, each as one program, beside those on the CPU."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import vtc
from vtc.errors import VersionError
from vtc.frontend import dispatch, eager
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.pullback import Pullback
from vtc.ir.types import TupleType, f32

sys.path.append(str(Path(__file__).parents[1] / "ops"))
CASES = import_module("cases").CASES
tolerance = import_module("tolerance").tolerance

pytestmark = pytest.mark.gpu
ELEMENTWISE = [c for c in CASES if isinstance(c.op, Elementwise)]
COMPOSITES = [c for c in CASES if isinstance(c.op, Composite)]


def gradients(op, arrays, device):
    """The gradients of ``op`` where it has one result with a gradient, on the host."""
    xs = [vtc.tensor(a, device=device) for a in arrays]
    floats = [x.requires_grad_() for x in xs if x.is_floating_point()]
    if not floats or isinstance(op.infer(*[x.type for x in xs]), TupleType):
        return None
    y = dispatch.apply(op, *xs)
    if not y.requires_grad:
        return None
    seed = vtc.tensor(np.random.default_rng(0).normal(size=y.shape), device=device).to(y.dtype)
    found = vtc.autograd.grad([y], floats, [seed], allow_unused=True)
    return [None if g is None else g.cpu().numpy() for g in found]


def close(op, found, wanted):
    t = tolerance(op, f32).times(8)
    for got, want in zip(found, wanted, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            finite = np.isfinite(want)
            largest = np.abs(want[finite]).max(initial=1)
            np.testing.assert_array_equal(got[~finite], want[~finite])
            np.testing.assert_allclose(
                got[finite], want[finite], rtol=t.rtol, atol=t.atol * largest
            )


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in ELEMENTWISE + COMPOSITES])
def test_a_rule_agrees_with_the_cpu(case):
    wanted = gradients(case.op, case.arrays(f32), "cpu")
    if wanted is not None:
        close(case.op, gradients(case.op, case.arrays(f32), "cuda"), wanted)


@pytest.mark.parametrize("name", ["mul", "div", "pow", "atan2"])
def test_operands_that_are_repeated(name):
    function = getattr(vtc, name)

    def found(device):
        x = vtc.tensor([[0.3, 1.5, 0.7], [0.9, 0.2, 0.4]], device=device)
        pairs = [(x, x[0]), (x[:, :1], x[1]), (x[0, 1], x), (x[None], x[:, None]), (x, x.flip(0))]
        pairs += [] if name == "atan2" else [(x, 2), (x.T, 0.5)]
        results = []
        for pair in pairs:
            for _ in range(4):  # the third call is known, and one step of the tape
                given = [v.clone().requires_grad_() if type(v) is vtc.Tensor else v for v in pair]
                y = function(*given)
                y.exp().sum().backward()
                results.append([v.grad.cpu().numpy() for v in given if type(v) is vtc.Tensor])
        return results

    for got, want in zip(found("cuda"), found("cpu"), strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rules_are_programs_for_all_sizes():
    def step(n):
        x = vtc.randn(n, 5, device="cuda").requires_grad_()
        w = vtc.ones(5, device="cuda").requires_grad_()
        for _ in range(3):
            vtc.nn.functional.rms_norm(x * w, (5,), w).sum().backward()
        return x.grad

    for n in (6, 7, 8):
        assert step(n).isfinite().all()
    known = [k[0] for k, call in eager._calls.items() if isinstance(k[0], Pullback) and call]
    assert {p.op.name for p in known} >= {"mul", "rms_norm"}
    before = vtc.stats().eager_compiles
    for n in range(9, 40):
        assert step(n).isfinite().all()
    assert vtc.stats().eager_compiles == before


def test_what_was_written_since_is_not_read():
    x = vtc.ones(3, device="cuda").requires_grad_()
    y = vtc.ones(3, device="cuda")
    out = x + y
    y.zero_()
    out.sum().backward()
    assert x.grad.tolist() == [1.0] * 3
    product = x * y
    y.fill_(2)
    with pytest.raises(VersionError, match="changed in place"):
        product.sum().backward()


def test_a_number_of_the_host_has_its_gradient_there():
    x, s = vtc.ones(3, device="cuda").requires_grad_(), vtc.tensor(2.0).requires_grad_()

    def step():
        x.grad = s.grad = None
        (x * s).sum().backward()

    for run in (step, vtc.compile(step)):
        for _ in range(4):
            run()
            assert x.grad.tolist() == [2.0] * 3
            assert s.grad.item() == 3.0
            assert str(s.grad.device) == "cpu"


def test_second_gradients_of_calls_with_numbers():
    x = vtc.tensor([1.0, 2.0, 3.0], device="cuda", requires_grad=True)
    for _ in range(4):
        (first,) = vtc.autograd.grad((2 * x * x / 4).sum(), [x], create_graph=True)
        (second,) = vtc.autograd.grad((first * first).sum(), [x])
        assert first.tolist() == [1, 2, 3]
        assert second.tolist() == [2, 4, 6]
