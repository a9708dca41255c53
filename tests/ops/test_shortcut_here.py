"""Known calls of elementwise ops on the CPU give what the whole stack gives."""

import gc
import math
from dataclasses import fields

import numpy as np
import pytest

import vtc
from vtc.errors import VtcError
from vtc.frontend import dispatch, keys, shortcut
from vtc.frontend.functions.promotion import promoted
from vtc.ir.op import REGISTRY
from vtc.ir.ops.elementwise import Cast, Elementwise
from vtc.ir.types import TensorType

OPS = [
    o for o in REGISTRY.values() if issubclass(o, Elementwise) and o is not Cast and not fields(o)
]
FLOATS = TensorType(vtc.float32, (1,))
SMOOTH = [
    o
    for o in OPS
    if o.arity <= 2
    and next(o.samples(np.random.default_rng(0))).smooth
    and o().infer(*[FLOATS] * o.arity) == FLOATS
]
DTYPES = [vtc.float32, vtc.float64, vtc.float16, vtc.bfloat16, vtc.int64, vtc.int32, vtc.uint8]
NUMBERS = [2, -1, 0, True, 0.5, -0.0, math.nan, math.inf]
ARRAY = np.array([[-2.5, -1, -0.0], [0.0, 1.5, 3]])


def bits(x):
    return x.dtype, x.shape, x.numpy().tobytes()


def outcome(call):
    """The bits of a result, or the kind of error."""
    try:
        return bits(call())
    except VtcError as error:
        return type(error)


def known(op, *values):
    """What a call gives when it was met often."""
    for _ in range(3):
        found = dispatch.shortcut(op, *values)
    return promoted(op, *values) if found is None else found


def test_ops_with_attributes_are_not_mixed_up():
    """An op is known by its class."""
    x = vtc.tensor([0.5, 2.0])
    for _ in range(4):
        first, second = vtc.polygamma(1, x), vtc.polygamma(2, x)
        assert (first > 0).all()
        assert (second < 0).all()


@pytest.mark.parametrize("dtype", [*DTYPES, vtc.bool], ids=str)
@pytest.mark.parametrize("kind", [o for o in OPS if o.arity <= 2], ids=lambda o: o.name)
def test_a_known_call_gives_the_same_bits(kind, dtype):
    op = kind()
    x = vtc.tensor(np.abs(ARRAY) if dtype is vtc.uint8 else ARRAY).to(dtype)
    if kind.arity == 1:
        operands = [(x,), (x.T,), (x[:, ::2],), (x[0, 1],)]
    else:
        operands = [(x, n) for n in NUMBERS] + [(2, x), (x, x), (x, x[0]), (x[:, :1], x[1])]
        operands += [(x[0, 1], x), (x, x.to(vtc.float32))]
    for given in operands:
        want = outcome(lambda given=given: promoted(op, *given))
        assert outcome(lambda given=given: known(op, *given)) == want, given


def test_calls_become_known():
    x = vtc.ones(3)
    for _ in range(3):
        y = dispatch.shortcut(REGISTRY["add"](), x, 1)
    assert y.tolist() == [2.0] * 3


def test_results_share_no_memory():
    x = vtc.arange(4.0)
    made = [x + 1 for _ in range(5)]
    made[3].zero_()
    assert [y.tolist() for y in made] == [[1, 2, 3, 4]] * 3 + [[0] * 4, [1, 2, 3, 4]]
    assert len({id(y._storage) for y in made}) == 5


def test_a_tensor_with_another_array_is_looked_at_again():
    x = vtc.ones(3)
    for _ in range(4):
        x + 1
    x._array = np.zeros((2, 2), np.float64)
    assert (x + 1).tolist() == [[1, 1], [1, 1]]
    assert (x + 1).dtype is vtc.float64


def test_gradients_flow_where_they_did():
    x = vtc.ones(3)
    for _ in range(4):
        x * 2
    view = x[1:]
    x.requires_grad_()
    y = x * 2
    y.sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    assert (view * 2).requires_grad == view.requires_grad
    assert (x[1:] * 2).requires_grad
    with vtc.no_grad():
        assert not (x * 2).requires_grad


def test_in_a_trace_calls_are_recorded():
    x = vtc.ones(3)
    for _ in range(4):
        x + 1
    f = vtc.compile(lambda x: x + 1)
    assert f(x).tolist() == [2.0] * 3
    assert "add" in f.ir()


def test_shapes_that_come_once_are_not_kept():
    shortcut._known.clear()
    x = vtc.ones(50)
    for n in range(1, 40):
        x[:n] + 1
    assert all(v is shortcut._MET for v in shortcut._known.values())


def test_errors_name_the_line_of_the_call():
    x = vtc.ones(3, dtype=vtc.bool)
    for _ in range(4):
        with pytest.raises(VtcError, match=r"test_shortcut_here\.py"):
            x - x


def test_numbers_that_come_once_are_not_kept():
    cells = shortcut._Cells(vtc.float32)
    for n in range(2 * shortcut.NUMBERS):
        assert cells.of(n + 0.5).item() == n + 0.5
    assert len(cells._made) <= shortcut.NUMBERS


def test_kinds_that_nobody_uses_go():
    for n in range(2, 50):
        vtc.ones(n) + 1
    shortcut._known.clear()
    gc.collect()
    assert not [k for k in keys._KINDS.values() if k.shape == (49,)]


@pytest.mark.parametrize("kind", SMOOTH, ids=lambda o: o.name)
def test_gradients_of_known_calls(kind):
    """Of the first call and of a known one, on operands that are repeated; and theirs in turn."""
    op = kind()

    def gradients(call, *operands):
        given = [v.clone().requires_grad_() if type(v) is vtc.Tensor else v for v in operands]
        leaves = [v for v in given if type(v) is vtc.Tensor]
        y = call(op, *given)
        first = vtc.autograd.grad(y.exp().sum(), leaves, create_graph=True)
        norm = sum((g * g).sum() for g in first)
        second = vtc.autograd.grad(norm, leaves, allow_unused=True) if norm.requires_grad else ()
        return str(y.grad_fn), [bits(g.detach()) for g in first], [g for g in second]

    x = vtc.tensor([[0.3, 1.5, 0.7], [0.9, 0.2, 0.4]])
    operands = [(x,), (x.T,)] if kind.arity == 1 else [
        (x, 0.5), (2, x), (x, x), (x, x[0]), (x[:, :1], x[1]), (x[0, 1], x), (x[None], x[:, None]),
    ]  # fmt: skip
    for given in operands:
        name, first, second = gradients(promoted, *given)
        for _ in range(2):
            again = gradients(known, *given)
            assert again[:2] == (name, first), given
            for a, b in zip(again[2], second, strict=True):  # what is repeated is summed elsewhere
                assert (a is None) == (b is None)
                assert a is None or np.allclose(a.numpy(), b.numpy(), rtol=1e-5, equal_nan=True)


def test_a_known_call_is_one_step():
    x, y = vtc.ones(2, 3).requires_grad_(), vtc.ones(3).requires_grad_()
    for _ in range(4):  # the first call, which goes through the stack, is one, too
        z = x * y
        assert [str(f) for f, _ in z.grad_fn.next_functions] == ["<AccumulateGrad>"] * 2
    with vtc.no_grad():
        y.mul_(2)
    with pytest.raises(VtcError, match="changed in place"):
        z.sum().backward()
