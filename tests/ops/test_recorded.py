"""What is recorded once and run again gives the bits that ops give one by one."""

import numpy as np
import pytest
from cases import CASES, each

import vtc
from vtc.errors import VersionError
from vtc.frontend import dispatch, sweep
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.graph import GraphBuilder
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.expr import Expr
from vtc.ir.steps import SMALL, Recalled, Steps
from vtc.ir.types import TensorType, TupleType, bf16, f32

COMPOSITES = [c for c in CASES if isinstance(c.op, Composite)]
VARYING = [
    c
    for c in CASES
    if not c.op.draws and c.arrays() and all(a.dtype.kind == "f" for a in c.arrays())
]


def bits(x):
    array = x.numpy() if isinstance(x, vtc.Tensor) else x
    return array.dtype, array.shape, array.tobytes()


@pytest.mark.parametrize("case", each(COMPOSITES))
def test_a_composite_that_is_met_again(case):
    b = ArrayBuilder()
    with np.errstate(all="ignore"):
        want = case.op.decompose(*[Expr(b, a) for a in case.arrays()])
        want = [bits(o.value) for o in (want if isinstance(want, tuple) else (want,))]
        for _ in range(3):
            found = case.op.reference(*case.arrays())
            assert list(map(bits, found if isinstance(found, tuple) else (found,))) == want


def gradients(case, dtype):
    xs = [vtc.tensor(a).requires_grad_() for a in case.arrays(dtype)]
    several = isinstance(case.op.infer(*[x.type for x in xs]), TupleType)
    ys = dispatch.apply_tuple(case.op, *xs) if several else [dispatch.apply(case.op, *xs)]
    ys = [y for y in ys if y.requires_grad]
    if not ys:
        return None
    rng = np.random.default_rng(0)
    seeds = [vtc.tensor(rng.normal(size=y.shape)).to(y.dtype) for y in ys]
    found = vtc.autograd.grad(ys, xs, seeds, allow_unused=True)
    return [None if g is None else bits(g) for g in found]


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize("case", each(VARYING))
def test_a_gradient_rule_on_arrays(case, dtype, monkeypatch):
    found = [gradients(case, dtype) for _ in range(2)]
    monkeypatch.setattr(sweep, "KnownRule", lambda record: record)
    assert found == [gradients(case, dtype)] * 2


def test_a_rule_reads_what_it_must():
    """``add`` reads neither operand, ``exp`` its result, ``mul`` the other one."""
    x, y = vtc.ones(3).requires_grad_(), vtc.ones(3)
    out = x + y
    y.zero_()
    out.sum().backward()
    assert x.grad.tolist() == [1.0] * 3
    product = x * y
    y.fill_(2)
    with pytest.raises(VersionError, match="version 2, expected version 1"):
        product.sum().backward()
    result = x.exp()
    with vtc.no_grad():
        result.zero_()
    with pytest.raises(VersionError, match="output of exp"):
        result.sum().backward()


def test_gradients_share_no_memory():
    x, y = vtc.ones(2, 3).requires_grad_(), vtc.ones(3, 2).requires_grad_()
    g = vtc.ones(2, 3)
    (x + y.reshape(2, 3)).backward(g)
    g.fill_(7)
    x.grad.mul_(2)
    assert x.grad.tolist() == [[2.0] * 3] * 2
    assert y.grad.tolist() == [[1.0] * 2] * 3


def steps_of(build, *types):
    b = GraphBuilder()
    params = [b.param("x", t) for t in types]
    outputs = build(*[Expr(b, p) for p in params])
    return Steps(params, b.nodes, [o.value for o in outputs])


def test_what_is_not_needed_is_not_computed():
    def build(x, y):
        x.op("exp")
        return (y + 1, y)

    steps = steps_of(build, TensorType(f32, (2,)), TensorType(f32, (2,)))
    assert steps.reads == (False, True)
    array = np.float32([1, 2])
    first, second = steps.run([None, array])
    assert first.tolist() == [2, 3]
    assert second is array


def test_constants_are_made_once_and_stay():
    steps = steps_of(lambda x: (x.like(0.1), x * 0.1), TensorType(f32, (2,)))
    first, second = steps.run([np.float32([1, 2])]), steps.run([np.float32([3, 4])])
    assert first[0] is second[0]
    assert not first[0].flags.writeable
    assert first[0].tolist() == [np.float32(0.1)] * 2


def test_large_constants_are_not_kept():
    steps = steps_of(lambda x: (x.iota((SMALL,), 0, f32),), TensorType(f32, ()))
    first, second = steps.run([None]), steps.run([None])
    assert first[0] is not second[0]
    assert first[0].tolist() == second[0].tolist() == list(range(SMALL))


def test_what_comes_once_is_not_kept():
    made = []
    known = Recalled(most=2)

    def make():
        made.append(1)
        return "steps"

    assert [known.find("a", make) for _ in range(3)] == [None, "steps", "steps"]
    assert known.find("b", make) is None
    assert len(made) == 1
    assert known.find("c", make) is None  # and all else is forgotten
    assert known.find("a", make) is None
