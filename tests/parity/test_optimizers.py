"""Every optimizer, 20 steps beside PyTorch's, eager and compiled; and its state across libraries.

A compiled case is one step on all parameters, compiled once.
"""

import copy

import numpy as np
import pytest

import vtc
import vtc.nn as nn

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

STEPS = 20
SHAPES = ((4, 3), (3,), ())
CASES = [
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 1e-2}),
    ("Adam", {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 1e-2, "weight_decay": 0.0}),
    ("NAdam", {"lr": 1e-2, "weight_decay": 0.1, "momentum_decay": 0.01}),
    ("NAdam", {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"lr": 1e-2, "weight_decay": 0.1}),
    ("RAdam", {"lr": 1e-2, "betas": (0.8, 0.9), "weight_decay": 0.1,
               "decoupled_weight_decay": True}),
    ("Adamax", {"lr": 1e-2, "weight_decay": 0.1}),
    ("Adadelta", {"lr": 0.5, "weight_decay": 0.1}),
    ("Adadelta", {"rho": 0.8, "maximize": True}),
    ("RMSprop", {"lr": 1e-2}),
    ("RMSprop", {"lr": 1e-2, "momentum": 0.9, "centered": True, "weight_decay": 0.1, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-6,
                 "initial_accumulator_value": 0.5}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "t0": 5.0, "weight_decay": 0.1}),
    ("Rprop", {"lr": 0.01, "step_sizes": (1e-3, 0.1)}),
    ("Adafactor", {"lr": 0.05}),
    ("Adafactor", {"lr": 0.05, "eps": (1e-3, 1e-2), "d": 1.5, "weight_decay": 0.1,
                   "beta2_decay": -0.5, "maximize": True}),
    ("Muon", {"lr": 0.02}),
    ("Muon", {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}),
]  # fmt: skip
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]


def shapes_of(name):
    return ((4, 3), (3, 6)) if name == "Muon" else SHAPES


def numbers(name):
    """What parameters start as, and a gradient for each at each step; they shrink."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(s).astype(np.float32) for s in shapes_of(name)]
    steps = [
        [(rng.standard_normal(s) / (1 + i)).astype(np.float32) for s in shapes_of(name)]
        for i in range(STEPS)
    ]
    return start, steps


def run(T, name, options, *, compiled=False, state=None, start=None, first=0, last=STEPS):
    """The parameters after some steps, and the optimizer's state."""
    began, grads = numbers(name)
    params = [T.nn.Parameter(T.tensor(np.array(p))) for p in start or began]
    optimizer = getattr(T.optim, name)(params, **options)
    if state is not None:
        optimizer.load_state_dict(copy.deepcopy(state))  # torch writes into what it loads

    def step(*gradients):
        sum((p * g).sum() for p, g in zip(params, gradients, strict=True)).backward()
        optimizer.step()
        optimizer.zero_grad()

    once = vtc.compile(step) if compiled else step
    for gradients in grads[first:last]:
        once(*[T.tensor(g) for g in gradients])
    if compiled:
        assert len(once.entries) == 1, once.misses
    return [p.detach().numpy().copy() for p in params], copy.deepcopy(optimizer.state_dict())


def compare(name, got, want, *, rounded=False):
    """Muon computes in bf16; eager code rounds its sums of products twice, torch once."""
    rtol, atol = (0, 4e-2 if rounded else 1e-3) if name == "Muon" else (2e-5, 5e-6)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol, atol)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_twenty_steps(name, options, compiled):
    got, _ = run(vtc, name, options, compiled=compiled)
    want, _ = run(torch, name, options)
    compare(name, got, want, rounded=not compiled)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_resume_from_the_state_of_torch(name, options):
    middle, state = run(torch, name, options, last=7)
    want, _ = run(torch, name, options, state=state, start=middle, first=7)
    got, saved = run(vtc, name, options, state=state, start=middle, first=7)
    compare(name, got, want, rounded=True)
    again, _ = run(torch, name, options, state=as_torch(saved), start=got, first=3, last=5)
    here, _ = run(vtc, name, options, state=saved, start=got, first=3, last=5)
    compare(name, here, again, rounded=True)


def as_torch(state):
    entries = {
        i: {k: torch.tensor(v.numpy()) for k, v in entry.items()}
        for i, entry in state["state"].items()
    }
    return {**state, "state": entries}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_lion_is_its_formula(compiled):
    lr, (b1, b2), decay = 0.01, (0.9, 0.99), 0.1
    got, _ = run(vtc, "Lion", {"lr": lr, "weight_decay": decay}, compiled=compiled)
    params, steps = numbers("Lion")
    means = [np.zeros_like(p) for p in params]
    for grads in steps:
        for i, g in enumerate(grads):
            along = np.sign(b1 * means[i] + (1 - b1) * g)
            means[i] = b2 * means[i] + (1 - b2) * g
            params[i] = params[i] * (1 - lr * decay) - lr * along
    compare("Lion", got, params)


def test_options_out_of_range():
    p = nn.Parameter(vtc.ones(2))
    wrong = [
        ("Adam", {"betas": (1.0, 0.9)}, "Adam: expected betas two numbers"),
        ("NAdam", {"momentum_decay": -1}, "NAdam: expected momentum_decay >= 0"),
        ("RMSprop", {"alpha": -0.1}, "RMSprop: expected alpha >= 0"),
        ("Adadelta", {"rho": 1.5}, "Adadelta: expected rho <= 1"),
        ("Rprop", {"etas": (1.5, 1.2)}, "Rprop: expected 0 < etas"),
        ("Adafactor", {"beta2_decay": 0.1}, "Adafactor: expected beta2_decay <= 0"),
        ("Muon", {}, r"Muon: expected matrices, got f32\[2\]"),
        ("Muon", {"adjust_lr_fn": "x"}, "Muon: expected adjust_lr_fn one of"),
    ]
    for name, options, message in wrong:
        with pytest.raises(vtc.errors.ArgumentError, match=message):
            getattr(vtc.optim, name)([p], **options)


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "Lion", "Muon", "RMSprop", "Adafactor"])
def test_half_parameters_keep_their_dtype(name):
    p = nn.Parameter(vtc.ones(4, 4, dtype=vtc.bfloat16))
    optimizer = getattr(vtc.optim, name)([p], lr=0.1)
    (p * p).sum().backward()
    optimizer.step()
    dtypes = {v.dtype for k, v in optimizer.state[p].items() if k not in ("step", "mu_product")}
    assert dtypes == {vtc.bfloat16}
    assert p.dtype is vtc.bfloat16
    assert (p.detach().float().numpy() < 1).any()
