"""Training steps in the ways users write them, beside PyTorch's: some parameters have no gradient,
the optimizer is the user's own, gradients are forgotten before the step and not after it.
"""

import copy

import numpy as np
import pytest

import vtc
import vtc.nn
import vtc.optim

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

CASES = [
    ("Adam", {"lr": 1e-2}),
    ("AdamW", {"lr": 1e-2, "fused": True, "foreach": None}),
    ("NAdam", {"lr": 1e-2, "capturable": False}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 1.0}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "differentiable": False}),
]
TASKS = [(0,), (0, 1), (0, 1, 2), (2,), (0, 1), (0,), (1, 2), (0, 1)]


def heads(T, name, options, compiled):
    """Three parameters of one group, of which each step uses some; values, then after resuming."""
    params = [T.nn.Parameter(T.tensor(np.float32([1.0, -2.0, 0.5 + i]))) for i in range(3)]
    optimizer = getattr(T.optim, name)(params, **options)

    def step(tasks, x):
        optimizer.zero_grad()
        sum(((params[t] - x) ** 2).sum() for t in tasks).backward()
        optimizer.step()

    once = vtc.compile(step) if compiled else step
    xs = [T.tensor(np.float32([i, 1.0, -i])) for i in range(len(TASKS))]
    for tasks, x in zip(TASKS, xs, strict=True):
        once(tasks, x)
    if compiled:
        programs = len(once.entries)
        for tasks, x in zip(TASKS, xs, strict=True):
            once(tasks, x)
        assert len(once.entries) <= programs + 1  # nobody is parted from anybody any more
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    step((0, 1, 2), xs[0])
    return [p.detach().numpy().copy() for p in params]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_parameters_count_their_own_steps(name, options):
    want = heads(torch, name, options, compiled=False)
    for a, b in zip(heads(vtc, name, options, compiled=False), want, strict=True):
        np.testing.assert_allclose(a, b, 2e-5, 2e-6)


def test_parameters_count_their_own_steps_compiled():
    name, options = CASES[0]
    got = heads(vtc, name, options, compiled=True)
    params = [torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5 + i])) for i in range(3)]
    optimizer = getattr(torch.optim, name)(params, **options)
    xs = [torch.tensor([i, 1.0, -i], dtype=torch.float32) for i in range(len(TASKS))]
    for tasks, x in [*zip(TASKS, xs, strict=True)] * 2 + [((0, 1, 2), xs[0])]:
        optimizer.zero_grad()
        sum(((params[t] - x) ** 2).sum() for t in tasks).backward()
        optimizer.step()
    for a, b in zip(got, params, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), 2e-5, 2e-6)


def test_gradients_forgotten_first_cost_one_program():
    model = vtc.nn.Linear(3, 2)
    optimizer = vtc.optim.SGD(model.parameters(), lr=0.1)

    @vtc.compile
    def step(x):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    x = vtc.ones(4, 3)
    for _ in range(3):
        step(x)
        before = model.weight.grad.clone()
    assert [e.calls for e in step.entries] == [3]
    model.weight.grad = None
    step(x)
    assert len(step.entries) == 1
    assert model.weight.grad.shape == before.shape

    @vtc.compile
    def add(x):
        model(x).sum().backward()

    for _ in range(3):
        add(x)
    assert sorted(e.calls for e in add.entries) == [3]  # the gradient of ``step`` is still there


def own(T):
    """An optimizer as users of PyTorch write them."""

    class Own(T.optim.Optimizer):
        def __init__(self, params, lr=0.1, betas=(0.9, 0.99)):
            super().__init__(params, {"lr": lr, "betas": betas})

        @T.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    if len(state) == 0:
                        state["mean"] = T.zeros_like(p)
                    b1, b2 = group["betas"]
                    along = (b1 * state["mean"] + (1 - b1) * p.grad).sign()
                    p.add_(along, alpha=-group["lr"])
                    state["mean"].mul_(b2).add_(p.grad, alpha=1 - b2)

    return Own


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_an_optimizer_of_the_users_own(compiled):
    def run(T):
        Own, x = own(T), T.tensor(np.float32([[1.0, 2.0], [-1.0, 0.5]]))
        w = T.nn.Parameter(T.tensor(np.float32([[1.0, -2.0], [0.5, 3.0]])))
        optimizer = Own([w])

        def step():
            optimizer.zero_grad()
            (x @ w).square().sum().backward()
            optimizer.step()

        step()  # makes the state
        once = vtc.compile(step) if compiled and T is vtc else step
        for _ in range(3):
            once()
        optimizer.param_groups[0]["lr"] = 0.01
        once()
        assert T is torch or not compiled or len(once.entries) == 1
        other = T.nn.Parameter(w.detach().clone())
        again = Own([other])
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        (x @ other).square().sum().backward()
        again.step()
        return w.detach().numpy(), other.detach().numpy()

    for got, want in zip(run(vtc), run(torch), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)
