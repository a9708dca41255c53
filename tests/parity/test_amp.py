"""``amp.GradScaler`` against PyTorch's: parameters, scale and state over steps, one of them bad."""

import numpy as np
import pytest

import vtc
import vtc.amp
from vtc.errors import ArgumentError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
BAD = (2, 5)


def trained(T, *, compiled=False, unscaled=False, momentum=0.9):
    """What six steps leave behind, after each."""
    w = T.tensor([1.0, 2.0, -1.0])
    w.requires_grad_()
    optimizer = T.optim.SGD([w], lr=0.1, momentum=momentum)
    scaler = T.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)

    def step(x):
        loss = (w * x).sum() ** 2
        scaler.scale(loss).backward()
        if unscaled:
            scaler.unscale_(optimizer)
            w.grad.clamp_(-1, 1) if T is torch else setattr(w, "grad", w.grad.clamp(-1, 1))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss

    run = vtc.compile(step) if compiled else step
    found = []
    for k in range(8):
        run(T.tensor([1.0, 0.5, float("inf") if k in BAD else 0.3]))
        found.append((*w.detach().tolist(), scaler.get_scale()))
    return np.array(found), scaler.state_dict()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
def test_as_in_torch(compiled, unscaled):
    got, state = trained(vtc, compiled=compiled, unscaled=unscaled)
    want, theirs = trained(torch, unscaled=unscaled)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert state == theirs


def test_state_goes_on():
    _, state = trained(torch)
    scaler = vtc.amp.GradScaler()
    scaler.load_state_dict(state)
    assert scaler.state_dict() == state
    with pytest.raises(ArgumentError, match="load_state_dict: expected a state, got none"):
        scaler.load_state_dict({})


def test_off():
    scaler = vtc.amp.GradScaler(enabled=False)
    x = vtc.tensor(2.0)
    assert scaler.scale(x) is x
    assert (scaler.get_scale(), scaler.state_dict()) == (1.0, {})
    scaler.update()


def test_errors():
    w = vtc.tensor([1.0], requires_grad=True)
    optimizer, scaler = vtc.optim.SGD([w], lr=0.1), vtc.amp.GradScaler()
    with pytest.raises(ArgumentError, match="update: expected a step"):
        scaler.update()
    with pytest.raises(ArgumentError, match="no parameter of the optimizer has a gradient"):
        scaler.step(optimizer)
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(ArgumentError, match="unscale_: was called for this optimizer"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(ArgumentError, match="step: was called for this optimizer"):
        scaler.step(optimizer)
    with pytest.raises(ArgumentError, match="expected growth_factor > 1"):
        vtc.amp.GradScaler(growth_factor=0.5)
