"""Tensors, modules and optimizers as bytes: what is shared stays shared, and computes as before."""

import copy
import pickle

import pytest

import vtc
import vtc.nn as nn
from vtc.errors import CaptureError


def again(value):
    return pickle.loads(pickle.dumps(value))


def test_memory_is_shared_as_before():
    x = vtc.arange(6.0)
    whole, row, turned, flipped = again(again((x, x[1:], x.view(2, 3).t(), x.flip(0))))
    row[0] = 9.0
    turned.mul_(2)
    assert whole.tolist() == [0.0, 18.0, 4.0, 6.0, 8.0, 10.0]
    assert flipped.tolist() == x.flip(0).tolist()


@pytest.mark.parametrize(
    "x",
    [
        vtc.ones(3, dtype=vtc.bfloat16),
        vtc.zeros(0, 3),
        vtc.tensor(True),
        vtc.ones(1).expand(4),
        vtc.arange(16.0).view(4, 4)[::2, 1:],
        vtc.ones(2).requires_grad_() * 2,
    ],
    ids=lambda x: str(x.type),
)
def test_what_comes_back(x):
    y = again(x)
    assert (y.type, y.device, y.requires_grad) == (x.type, x.device, x.requires_grad)
    assert y.tolist() == x.tolist()
    assert y.double().sum().item() == x.double().sum().item()  # it computes


def test_a_small_result_takes_only_its_own_memory_along():
    double = vtc.compile(lambda x: x * 2)
    found = [double(vtc.arange(4.0)) for _ in range(5)]  # parts of one page, but the first
    for x in found:
        assert len(pickle.dumps(x)) < 400
        y, row = again((x, x[1:]))
        row[0] = 9.0
        assert y.tolist() == [0.0, 9.0, 4.0, 6.0]


def test_deep_copies_share_what_they_shared():
    x = vtc.arange(6.0, requires_grad=True)
    x.square().sum().backward()
    double = vtc.compile(lambda x: x * 2)
    for base in (x.detach(), x.detach().view(2, 3).t(), double(x.detach()), double(x.detach())):
        whole, rest, leaf = copy.deepcopy([base, base[1:], x])
        rest[...] = 9.0
        assert (whole[1:] == 9.0).all()
        assert not (base == 9.0).any()
        assert leaf.requires_grad
        assert leaf.grad.tolist() == x.grad.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        assert leaf.grad is not x.grad


def test_a_model_goes_on_training():
    model = nn.Linear(2, 2)
    model.tied = model.bias
    optimizer = vtc.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer)
    copy, its = again((model, optimizer))
    assert copy.tied is copy.bias
    step(model, optimizer)
    step(copy, its)
    assert copy.weight.tolist() == model.weight.tolist()


def step(model, optimizer):
    model(vtc.ones(1, 2)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_traced_tensor_is_refused():
    @vtc.compile
    def f(x):
        return again(x)

    with pytest.raises(CaptureError, match=r"pickling of a traced tensor f32\[2\]"):
        f(vtc.ones(2))
