"""Every schedule of the learning rate beside PyTorch's: rates and momenta, saved and loaded."""

import copy
import warnings

import pytest

import vtc
import vtc.nn
import vtc.optim

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

STEPS = 23
FIGURES = [5, 4, 4, 4.5, 3.9999, 4, 4, 3, 3, 3, 3, 2.9, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]


def halves(step):
    return 0.5 ** (step // 5)


def chained(S, o):
    return S.ChainedScheduler([S.ConstantLR(o, 0.1, 4), S.ExponentialLR(o, 0.9)], optimizer=o)


def sequential(*names):
    def make(S, o):
        parts = {
            "warm": lambda: S.LinearLR(o, 0.1, total_iters=4),
            "cosine": lambda: S.CosineAnnealingLR(o, 15),
            "exponential": lambda: S.ExponentialLR(o, 0.9),
            "step": lambda: S.StepLR(o, 3),
            "restarts": lambda: S.CosineAnnealingWarmRestarts(o, 3),
            "chained": lambda: chained(S, o),
        }
        return S.SequentialLR(o, [parts[n]() for n in names], [5, 12][: len(names) - 1])

    return make


CASES = {
    "lambda": lambda S, o: S.LambdaLR(o, halves),
    "lambdas": lambda S, o: S.LambdaLR(o, [halves, lambda step: 1 / (1 + step)]),
    "multiplicative": lambda S, o: S.MultiplicativeLR(o, lambda step: 0.9),
    "step": lambda S, o: S.StepLR(o, 4, gamma=0.5),
    "steps": lambda S, o: S.MultiStepLR(o, [3, 7, 7, 20], gamma=0.5),
    "constant": lambda S, o: S.ConstantLR(o, factor=0.25, total_iters=6),
    "linear": lambda S, o: S.LinearLR(o, 0.1, 0.8, total_iters=7),
    "exponential": lambda S, o: S.ExponentialLR(o, 0.8),
    "polynomial": lambda S, o: S.PolynomialLR(o, total_iters=9, power=2.0),
    "cosine": lambda S, o: S.CosineAnnealingLR(o, 5, eta_min=1e-3),
    "restarts": lambda S, o: S.CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=1e-3),
    "one cycle": lambda S, o: S.OneCycleLR(o, 0.5, total_steps=STEPS),
    "one cycle, three phases": lambda S, o: S.OneCycleLR(
        o, [0.5, 0.3], epochs=4, steps_per_epoch=7, three_phase=True, anneal_strategy="linear"
    ),
    "one cycle, no momentum": lambda S, o: S.OneCycleLR(
        o, 0.5, total_steps=30, cycle_momentum=False, div_factor=5.0
    ),
    "cyclic": lambda S, o: S.CyclicLR(o, 1e-3, 0.1, step_size_up=4),
    "cyclic, down": lambda S, o: S.CyclicLR(
        o, [1e-3, 1e-2], 0.1, step_size_up=4, step_size_down=2, mode="triangular2"
    ),
    "cyclic, exponential": lambda S, o: S.CyclicLR(
        o, 1e-3, 0.1, step_size_up=3, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "cyclic, own scale": lambda S, o: S.CyclicLR(
        o, 1e-3, 0.1, step_size_up=3, scale_fn=halves, scale_mode="iterations"
    ),
    "plateau": lambda S, o: S.ReduceLROnPlateau(o, patience=1, cooldown=2, factor=0.5),
    "plateau, largest": lambda S, o: S.ReduceLROnPlateau(
        o, "max", patience=2, threshold_mode="abs", threshold=0.1, min_lr=[0.01, 0.002], factor=0.2
    ),
    "chained": chained,
    "sequential": sequential("warm", "cosine"),
    "sequential of three": sequential("warm", "exponential", "step"),
    "sequential with restarts": sequential("step", "restarts"),
    "sequential of chained": sequential("chained", "cosine"),
}  # fmt: skip


def optimizer_of(T, kind):
    p, q = (T.nn.Parameter(T.ones(2)) for _ in range(2))
    groups = [{"params": [p]}, {"params": [q], "lr": 0.05}]
    if kind == "SGD":
        return T.optim.SGD(groups, lr=0.2, momentum=0.9)
    return T.optim.Adam(groups, lr=0.2)


def walk(schedule, optimizer, figures):
    """Rates and momenta now and after each step."""
    seen = [shown(optimizer)]
    for figure in figures:
        is_plateau = hasattr(schedule, "num_bad_epochs")
        schedule.step(*([figure] if is_plateau else []))
        seen.append(shown(optimizer))
    return seen


def shown(optimizer):
    return [
        (float(g["lr"]), float(g["betas"][0] if "betas" in g else g["momentum"]))
        for g in optimizer.param_groups
    ]


def flat(rows):
    return [x for row in rows for pair in row for x in pair]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CASES)
def test_schedule(name, kind):
    seen = []
    for T in (vtc, torch):
        optimizer = optimizer_of(T, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants optimizer.step() before
            schedule = CASES[name](T.optim.lr_scheduler, optimizer)
            seen.append(flat(walk(schedule, optimizer, FIGURES)))
    assert seen[0] == pytest.approx(seen[1], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_saved_and_loaded(name):
    optimizer = optimizer_of(vtc, "SGD")
    schedule = CASES[name](vtc.optim.lr_scheduler, optimizer)
    walk(schedule, optimizer, FIGURES[:6])
    state, rates = copy.deepcopy(schedule.state_dict()), copy.deepcopy(optimizer.state_dict())
    want = walk(schedule, optimizer, FIGURES[6:])
    again = optimizer_of(vtc, "SGD")
    loaded = CASES[name](vtc.optim.lr_scheduler, again)
    again.load_state_dict(rates)
    loaded.load_state_dict(state)
    assert walk(loaded, again, FIGURES[6:]) == want
    assert loaded.get_last_lr() == [g["lr"] for g in again.param_groups]


def test_restarts_between_steps():
    seen = []
    for T in (vtc, torch):
        optimizer = optimizer_of(T, "SGD")
        schedule = T.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, T_mult=2)
        for epoch in (0.5, 2.75, 3.25, 8.9, 9.5, 1.0):
            schedule.step(epoch)
            seen += flat([shown(optimizer)])
    half = len(seen) // 2
    assert seen[:half] == pytest.approx(seen[half:])


def test_a_schedule_does_not_compile_a_step_again():
    p = vtc.nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.Adam([p], lr=0.1)
    schedule = vtc.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)

    @vtc.compile
    def step():
        (p * p).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(6):
        step()
        schedule.step()
    assert len(step.entries) == 1, step.misses


def test_what_schedules_refuse():
    S = vtc.optim.lr_scheduler
    o, other = optimizer_of(vtc, "SGD"), optimizer_of(vtc, "SGD")
    plain = vtc.optim.Adagrad([vtc.nn.Parameter(vtc.ones(1))])
    wrong = [
        (lambda: S.StepLR(3, 1), "StepLR: expected an Optimizer, got int"),
        (lambda: S.ConstantLR(o, 2.0), r"ConstantLR: expected factor in \[0, 1\], got 2.0"),
        (lambda: S.LinearLR(o, 0.0), "LinearLR: expected start_factor > 0"),
        (lambda: S.LambdaLR(o, [halves]), "LambdaLR: expected 2 functions, got 1"),
        (lambda: S.OneCycleLR(o, 0.1), "OneCycleLR: expected total_steps >= 1"),
        (lambda: S.OneCycleLR(o, [0.1], 5), "OneCycleLR: expected 2 values of max_lr, got 1"),
        (lambda: S.CyclicLR(plain, 0.1, 0.2), "CyclicLR: expected an optimizer with momentum"),
        (lambda: S.ReduceLROnPlateau(o, "least"), "ReduceLROnPlateau: expected mode 'min'"),
        (lambda: S.ChainedScheduler([]), "ChainedScheduler: expected schedulers, got none"),
        (lambda: S.SequentialLR(o, [S.StepLR(o, 1)], [1]), "SequentialLR: expected one milestone"),
        (
            lambda: S.SequentialLR(o, [S.StepLR(other, 1)], []),
            "SequentialLR: expected one optimizer, got another at 0",
        ),
    ]
    for make, message in wrong:
        with pytest.raises(vtc.errors.ArgumentError, match=message):
            make()
