"""Optimizers and schedules, eager and compiled, against their formulas and against PyTorch."""

import copy
import math

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.errors import ArgumentError, VtcWarning

STEPS = 20
SHAPES = ((4, 3), (3,), ())
SGD_OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.1},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
]
ADAMW_OPTIONS = [
    {"lr": 1e-2},
    {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    {"lr": 1e-2, "amsgrad": True, "maximize": True},
]
CASES = [("SGD", o) for o in SGD_OPTIONS] + [("AdamW", o) for o in ADAMW_OPTIONS]


def start():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in SHAPES]


def gradients():
    """One gradient per parameter and step; they shrink, so that amsgrad matters."""
    rng = np.random.default_rng(1)
    return [
        [(rng.standard_normal(s) / (1 + i)).astype(np.float32) for s in SHAPES]
        for i in range(STEPS)
    ]


def ours(name, options, *, compiled=False):
    """The parameters after all steps; the loss is the product with the wanted gradient."""
    params = [nn.Parameter(vtc.tensor(p)) for p in start()]
    optimizer = getattr(vtc.optim, name)(params, **options)

    def step(*grads):
        optimizer.zero_grad()
        sum((p * g).sum() for p, g in zip(params, grads, strict=True)).backward()
        optimizer.step()

    run = vtc.compile(step) if compiled else step
    for grads in gradients():
        run(*map(vtc.tensor, grads))
    return [p.detach().numpy() for p in params]


def sgd(
    params, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, *, nesterov=False, maximize=False
):
    buffers = [None] * len(params)
    for grads in gradients():
        for i, g in enumerate(grads):
            g = (-g if maximize else g) + weight_decay * params[i]
            b = buffers[i]
            b = buffers[i] = g if b is None else momentum * b + (1 - dampening) * g
            step = g + momentum * b if nesterov else b if momentum else g
            params[i] = params[i] - lr * step
    return params


def adamw(
    params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, *, amsgrad=False, maximize=False
):
    m, v, top = ([0.0 * p for p in params] for _ in range(3))
    for t, grads in enumerate(gradients(), 1):
        for i, g in enumerate(grads):
            g = -g if maximize else g
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            top[i] = np.maximum(top[i], v[i]) if amsgrad else v[i]
            root = np.sqrt(top[i] / (1 - betas[1] ** t))
            params[i] = params[i] * (1 - lr * weight_decay)
            params[i] = params[i] - lr * m[i] / (1 - betas[0] ** t) / (root + eps)
    return params


def assert_close(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_is_its_formula(name, options, compiled):
    formula = {"SGD": sgd, "AdamW": adamw}[name]
    expected = formula([p.astype(np.float64) for p in start()], **options)
    assert_close(ours(name, options, compiled=compiled), expected)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_agrees_with_pytorch(name, options):
    torch = pytest.importorskip("torch")
    params = [torch.nn.Parameter(torch.tensor(p)) for p in start()]
    optimizer = getattr(torch.optim, name)(params, **options)
    for grads in gradients():
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
    assert_close(ours(name, options), [p.detach().numpy() for p in params])


def test_half_parameters_keep_their_dtype():
    p = nn.Parameter(vtc.ones(4, dtype=vtc.bfloat16))
    optimizer = vtc.optim.AdamW([p], lr=0.1)

    @vtc.compile
    def step():
        (p * p).sum().backward()
        nn.utils.clip_grad_norm_([p], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    assert p.dtype is optimizer.state[p]["exp_avg"].dtype is vtc.bfloat16
    np.testing.assert_allclose(p.detach().numpy().astype(np.float32), 0.9, atol=0.01)


# groups and hyperparameters


def quadratic():
    p = nn.Parameter(vtc.ones(2))

    def loss():
        return (p * p).sum()

    return p, loss


def test_groups_have_their_own_options():
    a, b = nn.Parameter(vtc.ones(2)), nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1)
    (a.sum() + b.sum()).backward()
    optimizer.step()
    assert a.tolist() == pytest.approx([0.9, 0.9])
    assert b.tolist() == pytest.approx([0.5, 0.5])


def test_a_new_rate_does_not_recompile_but_other_options_do():
    p, loss = quadratic()
    optimizer = vtc.optim.SGD([p], lr=0.1, momentum=0.9)

    @vtc.compile
    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    entries = len(step.entries)
    group = optimizer.param_groups[0]
    for lr in (0.01, 0, 0.5):
        group["lr"] = lr
        before = p.detach().clone()
        step()
        assert (p.tolist() == before.tolist()) is (lr == 0)
    assert len(step.entries) == entries
    group["nesterov"] = True
    step()
    assert len(step.entries) == entries + 1


def test_a_step_is_one_graph_with_the_rate_as_an_input():
    p, loss = quadratic()
    optimizer = vtc.optim.AdamW([p], lr=0.1)

    @vtc.compile
    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    head = step.ir("captured").split("->")[0]
    assert "lr: f32[()]" in head
    assert "overwritten" in head
    assert p.grad is None


def test_inputs_of_a_compiled_step_have_names():
    model = nn.Linear(2, 2)
    optimizer = vtc.optim.AdamW(model.parameters())

    @vtc.compile
    def train(x):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    text = train.lower(vtc.ones(1, 2)).ir("captured")
    assert 'param("weight.exp_avg", overwritten=' in text
    assert 'param("step", overwritten=' in text
    assert "captured" not in text.split("->")[0]


def test_a_parameter_without_gradient_is_left_alone():
    p, loss = quadratic()
    other = nn.Parameter(vtc.ones(3))
    optimizer = vtc.optim.AdamW([other, p], lr=0.1)
    loss().backward()
    optimizer.step()
    assert other.tolist() == [1.0, 1.0, 1.0]
    assert p.tolist() == pytest.approx([0.899, 0.899])


def test_closure():
    p, loss = quadratic()
    optimizer = vtc.optim.SGD([p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    assert optimizer.step(closure).item() == 2.0
    assert p.tolist() == [0.5, 0.5]


def test_add_param_group():
    p, _ = quadratic()
    q = nn.Parameter(vtc.ones(3))
    optimizer = vtc.optim.SGD([p], lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": q, "lr": 1.0})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 1.0]
    assert optimizer.state[q]["momentum_buffer"].shape == (3,)


# what is refused


def test_a_step_without_gradients_changes_nothing_and_says_so_once():
    model = nn.Linear(2, 3)
    optimizer = vtc.optim.AdamW(model.named_parameters())
    before = model.weight.detach().clone()
    message = r"AdamW.step: no gradient reaches parameter weight: f32\[3, 2\]"
    with pytest.warns(VtcWarning, match=message) as said:
        optimizer.step()
    assert said[0].filename == __file__
    optimizer.step()  # warnings are errors: it is not said again
    assert (model.weight == before).all()
    assert optimizer.steps(model.weight).item() == 0

    optimizer = vtc.optim.SGD(model.parameters())

    @vtc.compile
    def step(x):
        loss = model(x).sum()
        optimizer.step()
        return loss

    with pytest.warns(VtcWarning, match=r"SGD.step: no gradient reaches parameter weight") as said:
        step(vtc.ones(1, 2))
    assert said[0].filename == __file__
    assert step(vtc.ones(1, 2)).item() == pytest.approx(model(vtc.ones(1, 2)).sum().item())
    assert (model.weight == before).all()
    model(vtc.ones(1, 2)).sum().backward()
    step(vtc.ones(1, 2))
    assert (model.weight != before).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: vtc.optim.SGD([]), "SGD: expected parameters, got none"),
        (lambda p: vtc.optim.SGD(p), r"params: expected several tensors, got one: f32\[2\]"),
        (lambda p: vtc.optim.SGD([1.0]), "SGD: expected tensors, got float"),
        (lambda p: vtc.optim.SGD([p, p]), "SGD: a parameter was given twice"),
        (lambda p: vtc.optim.SGD([p * 2]), r"SGD: expected leaf tensors, got a result: f32\[2\]"),
        (lambda p: vtc.optim.SGD([p], lr=-1), r"SGD: expected lr >= 0.0, got -1"),
        (lambda p: vtc.optim.SGD([p], nesterov=True), "nesterov: expected momentum > 0"),
        (lambda p: vtc.optim.AdamW([p], eps=-1), r"AdamW: expected eps >= 0.0, got -1"),
        (lambda p: vtc.optim.AdamW([p], betas=(0.9, 1.0)), r"AdamW: expected betas two numbers"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ArgumentError, match=message):
        make(nn.Parameter(vtc.ones(2)))


# saving and loading


def trainer(name, options, *, seed):
    vtc.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))
    optimizer = getattr(vtc.optim, name)(model.parameters(), **options)
    schedule = vtc.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    @vtc.compile
    def step(x):
        loss = F.mse_loss(model(x), x.sum(-1, keepdim=True))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    def run(n):
        losses = []
        for i in range(n):
            x = np.random.default_rng(i).standard_normal((5, 4)).astype(np.float32)
            losses.append(step(vtc.tensor(x)).item())
            schedule.step()
        return losses

    return (model, optimizer, schedule), run


@pytest.mark.parametrize(("name", "options"), [CASES[3], CASES[-1]])
def test_a_resumed_run_gives_identical_losses(name, options):
    parts, run = trainer(name, options, seed=0)
    run(4)
    saved = copy.deepcopy([part.state_dict() for part in parts])
    random = vtc.get_rng_state()
    expected = run(4)
    twins, again = trainer(name, options, seed=1)
    again(2)
    for twin, state in zip(twins, saved, strict=True):
        twin.load_state_dict(state)
    vtc.set_rng_state(random)
    assert again(4) == expected


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_goes_to_pytorch_and_back(name, options):
    torch = pytest.importorskip("torch")
    values, grads = start(), gradients()
    p = [nn.Parameter(vtc.tensor(v)) for v in values]
    q = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    a, b = getattr(vtc.optim, name)(p, **options), getattr(torch.optim, name)(q, **options)
    as_torch = lambda x: torch.tensor(x.numpy()) if isinstance(x, vtc.Tensor) else x  # noqa: E731

    def step(g):
        for x, y, v in zip(p, q, g, strict=True):
            x.grad, y.grad = vtc.tensor(v), torch.tensor(v)
        a.step()
        b.step()
        assert_close([x.detach().numpy() for x in p], [y.detach().numpy() for y in q])

    step(grads[0])
    state = a.state_dict()
    state["state"] = {
        i: {k: as_torch(v) for k, v in entry.items()} for i, entry in state["state"].items()
    }
    b.load_state_dict(state)
    step(grads[1])
    a.load_state_dict(b.state_dict())
    step(grads[2])


def test_loading_keeps_the_state_tensors():
    p, loss = quadratic()
    optimizer = vtc.optim.AdamW([p])
    loss().backward()
    optimizer.step()
    before = dict(optimizer.state[p])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(optimizer.state[p][k] is v for k, v in before.items())
    assert optimizer.state[p]["step"].item() == 1.0


def test_what_cannot_be_loaded():
    p, _ = quadratic()
    optimizer = vtc.optim.AdamW([p])
    state = optimizer.state_dict()
    with pytest.raises(ArgumentError, match=r"expected groups of \[1\] parameters, got \[1, 0\]"):
        optimizer.load_state_dict(
            {**state, "param_groups": [*state["param_groups"], {"params": []}]}
        )
    with pytest.raises(ArgumentError, match=r"parameter 0: exp_avg: expected f32\[2\], got \[3\]"):
        optimizer.load_state_dict({**state, "state": {0: {"exp_avg": vtc.zeros(3)}}})
    sgd = vtc.optim.SGD([p], momentum=0.9)
    with pytest.raises(
        ArgumentError, match=r"expected momentum_buffer, step, got exp_avg, exp_avg_sq"
    ):
        sgd.load_state_dict(state)


# schedules

SCHEDULES = [
    ("LambdaLR", {"lr_lambda": lambda i: 0.9**i}),
    ("LambdaLR", {"lr_lambda": [lambda i: 1 / (i + 1), lambda i: 1.0]}),
    ("CosineAnnealingLR", {"T_max": 7}),
    ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.01}),
]


def rates(module, optimizer, name, options, steps=12):
    schedule = getattr(module.lr_scheduler, name)(optimizer, **options)
    seen = [schedule.get_last_lr()]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        seen.append(schedule.get_last_lr())
    return seen


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_schedules_agree_with_pytorch(name, options):
    torch = pytest.importorskip("torch")
    seen = []
    for n, optim, ones in ((nn, vtc.optim, vtc.ones), (torch.nn, torch.optim, torch.ones)):
        p, q = (n.Parameter(ones(1)) for _ in range(2))
        p.grad = ones(1)
        optimizer = optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=0.1)
        seen.append(rates(optim, optimizer, name, options))
    np.testing.assert_allclose(*seen, rtol=1e-12, atol=1e-15)


def test_cosine_is_its_formula():
    p, _ = quadratic()
    p.grad = vtc.ones(2)
    optimizer = vtc.optim.SGD([p], lr=0.2)
    seen = rates(vtc.optim, optimizer, "CosineAnnealingLR", {"T_max": 5, "eta_min": 0.1}, steps=5)
    expected = [0.1 + 0.05 * (1 + math.cos(math.pi * i / 5)) for i in range(6)]
    np.testing.assert_allclose([lr for (lr,) in seen], expected)


def test_a_schedule_resumes():
    p, _ = quadratic()
    optimizer = vtc.optim.SGD([p], lr=0.2)
    schedule = vtc.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    for _ in range(3):
        schedule.step()
    twin_optimizer = vtc.optim.SGD([p], lr=1.0)
    twin = vtc.optim.lr_scheduler.CosineAnnealingLR(twin_optimizer, T_max=2)
    twin_optimizer.load_state_dict(optimizer.state_dict())
    twin.load_state_dict(schedule.state_dict())
    assert twin.get_last_lr() == schedule.get_last_lr()
    schedule.step()
    twin.step()
    assert twin.get_last_lr() == schedule.get_last_lr()


def test_what_schedules_refuse():
    p, _ = quadratic()
    optimizer = vtc.optim.SGD([p], lr=0.2)
    schedulers = vtc.optim.lr_scheduler
    with pytest.raises(ArgumentError, match="CosineAnnealingLR: expected T_max >= 1, got 0"):
        schedulers.CosineAnnealingLR(optimizer, T_max=0)
    with pytest.raises(ArgumentError, match="LambdaLR: expected 1 functions, got 2"):
        schedulers.LambdaLR(optimizer, [abs, abs])
    with pytest.raises(ArgumentError, match="CosineAnnealingLR: expected an Optimizer, got list"):
        schedulers.CosineAnnealingLR([], T_max=3)
    with pytest.raises(ArgumentError, match=r"expected initial_lr in param_groups\[0\] to resume"):
        schedulers.CosineAnnealingLR(optimizer, T_max=3, last_epoch=2)


def test_how_pytorch_would_run_an_update_is_taken_and_other_names_are_not():
    w = nn.Parameter(vtc.ones(2))
    vtc.optim.SGD([w], lr=0.1, foreach=True, fused=False)
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
        vtc.optim.Adam([w], learning_rate=0.1)
    with pytest.raises(ArgumentError, match="AdamW: expected differentiable to be False"):
        vtc.optim.AdamW([w], differentiable=True)
