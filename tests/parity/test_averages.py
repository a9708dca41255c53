"""LBFGS, averaged models and the schedule that goes with them, beside PyTorch's."""

import warnings

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.optim
from vtc.errors import ArgumentError, CaptureError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 4)), RNG.normal(size=(20, 2))
WEIGHTS = [RNG.normal(size=s) / 2 for s in ((8, 4), (8,), (2, 8), (2,))]


def problem(T, options):
    """An optimizer, the closure for a small regression in f64, its parameters, counted calls."""
    params = [T.nn.Parameter(T.tensor(w.copy())) for w in WEIGHTS]
    optimizer = T.optim.LBFGS(params, **options)
    calls = []

    def closure():
        optimizer.zero_grad()
        hidden = (T.tensor(X) @ params[0].T + params[1]).tanh()
        loss = ((hidden @ params[2].T + params[3] - T.tensor(Y)) ** 2).mean()
        loss.backward()
        calls.append(loss.item())
        return loss

    return optimizer, closure, params, calls


@pytest.mark.parametrize(
    "options",
    [
        {"max_iter": 6},
        {"lr": 0.3, "max_iter": 4, "history_size": 3},
        {"line_search_fn": "strong_wolfe", "max_iter": 5},
        {"line_search_fn": "strong_wolfe", "max_iter": 9, "max_eval": 6, "history_size": 2},
        {"tolerance_change": 1.0},
    ],
)
def test_lbfgs(options):
    seen = []
    for T in (vtc, torch):
        optimizer, closure, params, calls = problem(T, options)
        for _ in range(3):
            first = optimizer.step(closure)
        assert first.item() in calls
        seen.append((calls, [p.detach().numpy() for p in params], optimizer.state_dict()))
    np.testing.assert_allclose(seen[0][0], seen[1][0], 1e-6)  # as often, at the same places
    for a, b in zip(seen[0][1], seen[1][1], strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-7)
    ours, theirs = (s[2]["state"][0] for s in seen)
    assert set(theirs) - set(ours) == {"al"} & set(theirs)
    assert ours["func_evals"] == theirs["func_evals"]


def test_lbfgs_resumes_from_the_state_of_torch():
    options = {"line_search_fn": "strong_wolfe", "max_iter": 3}
    theirs = problem(torch, options)
    theirs[0].step(theirs[1])
    ours = problem(vtc, options)
    ours[0].load_state_dict(theirs[0].state_dict())
    with vtc.no_grad():
        for p, q in zip(ours[2], theirs[2], strict=True):
            p.copy_(vtc.tensor(q.detach().numpy()))
    again = problem(vtc, options)
    again[0].load_state_dict(ours[0].state_dict())
    for optimizer, closure, _, calls in (ours, theirs):
        calls.clear()
        optimizer.step(closure)
    np.testing.assert_allclose(ours[3], theirs[3], 1e-6)


def test_what_lbfgs_refuses():
    p = nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.LBFGS([p])
    with pytest.raises(ArgumentError, match=r"LBFGS\.step: expected a closure"):
        optimizer.step()
    with pytest.raises(ArgumentError, match="LBFGS: expected one group"):
        optimizer.add_param_group({"params": [nn.Parameter(vtc.ones(2))]})
    with pytest.raises(ArgumentError, match="LBFGS: expected line_search_fn"):
        vtc.optim.LBFGS([p], line_search_fn="x")
    with pytest.raises(CaptureError, match=r"LBFGS\.step inside a compiled function"):
        vtc.compile(lambda: optimizer.step(lambda: (p * p).sum()))()


# averages


def averaged(T, name, compiled=False):
    """What a model of two steps' averages computes, and its buffers."""
    rng = np.random.default_rng(3)
    S = T.optim.swa_utils
    model = T.nn.Sequential(T.nn.Linear(3, 4), T.nn.BatchNorm1d(4))
    options = {
        "mean": {},
        "ema": {"avg_fn": S.get_ema_avg_fn(0.8)},
        "several": {"multi_avg_fn": S.get_ema_multi_avg_fn(0.8), "use_buffers": True},
        "swa": {"multi_avg_fn": S.get_swa_multi_avg_fn()},
    }[name]
    twin = S.AveragedModel(model, **options)
    update = (vtc.compile if compiled else lambda f: f)(lambda: twin.update_parameters(model))
    for _ in range(3):
        with T.no_grad():
            for p in model.parameters():
                p.copy_(T.tensor(rng.normal(size=tuple(p.shape)).astype(np.float32)))
        model(T.tensor(rng.normal(size=(5, 3)).astype(np.float32)))
        update()
    batches = [(T.tensor(rng.normal(size=(5, 3)).astype(np.float32)), None) for _ in range(2)]
    state = {k: v.numpy().copy() for k, v in twin.state_dict().items()}
    S.update_bn(batches, twin)
    y = twin.eval()(batches[0][0])
    return [*state.values(), *(v.numpy() for v in twin.state_dict().values()), y.detach().numpy()]


@pytest.mark.parametrize("name", ["mean", "ema", "several", "swa"])
def test_averaged_model(name):
    for a, b in zip(averaged(vtc, name), averaged(torch, name), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)


def test_averages_are_compiled():
    for a, b in zip(averaged(vtc, "ema", True), averaged(vtc, "ema"), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"swa_lr": 0.05},
        {"swa_lr": [0.3, 0.01], "anneal_epochs": 3, "anneal_strategy": "linear"},
        {"swa_lr": 0.05, "anneal_epochs": 0},
    ],
)
def test_swa_lr(options):
    seen = []
    for T in (vtc, torch):
        p, q = (T.nn.Parameter(T.ones(2)) for _ in range(2))
        optimizer = T.optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.1}], lr=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants optimizer.step() before
            schedule = T.optim.swa_utils.SWALR(optimizer, **options)
            rates = []
            for _ in range(14):
                rates += [g["lr"] for g in optimizer.param_groups]
                schedule.step()
        seen.append(rates)
    assert seen[0] == pytest.approx(seen[1])


def test_what_averages_refuse():
    S, model = vtc.optim.swa_utils, nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match="AveragedModel: expected one of avg_fn"):
        S.AveragedModel(model, None, S.get_swa_avg_fn(), S.get_swa_multi_avg_fn())
    with pytest.raises(ArgumentError, match="expected 0 <= decay <= 1"):
        S.get_ema_multi_avg_fn(1.5)
    with pytest.raises(ArgumentError, match="SWALR: expected anneal_strategy"):
        S.SWALR(vtc.optim.SGD(model.parameters(), 0.1), 0.1, anneal_strategy="x")
