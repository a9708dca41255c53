"""Whole models, eager and compiled, against PyTorch: losses, gradients, weights after some steps.

Each case is a model in both libraries (``nn``, ``F`` and ``T`` are torch's or vtc's), batches, and
how one trains on them. The weights are torch's, copied.
"""

import copy
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zoo
from zoo import module

import vtc
import vtc.nn
import vtc.nn.functional
import vtc.optim

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

STEPS = 4
rng = np.random.default_rng(0)


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def library(T):
    return SimpleNamespace(T=T, nn=T.nn, F=T.nn.functional, optim=T.optim)


THEIRS, OURS = library(torch), library(vtc)


# models: each takes a library and returns a module of it


def mlp(L):
    return L.nn.Sequential(
        L.nn.Linear(6, 16),
        L.nn.GELU(),
        L.nn.Linear(16, 16, bias=False),
        L.nn.LayerNorm(16),
        L.nn.Tanh(),
        L.nn.Sequential(L.nn.Linear(16, 8), L.nn.SiLU()),
        L.nn.Linear(8, 3),
    )


def convolutions(L):
    return L.nn.Sequential(
        L.nn.Conv2d(2, 4, 3, padding=1),
        L.nn.ReLU(),
        L.nn.MaxPool2d(2),
        L.nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2),
        L.nn.GELU(approximate="tanh"),
        L.nn.AvgPool2d(2, stride=1),
        L.nn.Conv2d(6, 6, 3, padding="same", groups=6, bias=False),
        L.nn.LeakyReLU(0.1),
        L.nn.Flatten(),
        L.nn.Linear(24, 5),
    )


def rotate(L, x):
    """Rotary embedding of ``[B, heads, T, 2 n]``, halves together, spelled out."""
    T = L.T
    half = x.shape[-1] // 2
    place = T.arange(x.shape[-2], dtype=T.float32)
    speed = 10000.0 ** (-T.arange(half, dtype=T.float32) / half)
    angle = T.outer(place, speed)
    cos, sin = T.cat([angle.cos()] * 2, -1), T.cat([angle.sin()] * 2, -1)
    swapped = T.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + swapped * sin


def transformer(mask):
    """An encoder over token ids; ``mask`` says how padding (id 0) is kept out of attention."""
    d, heads, vocabulary = 16, 2, 11

    def of(L):
        nn, F, T = L.nn, L.F, L.T

        def init(self):
            self.token = nn.Embedding(vocabulary, d, padding_idx=0)
            self.place = nn.Parameter(T.zeros(7, d))
            self.norm1, self.norm2, self.norm = nn.LayerNorm(d), nn.RMSNorm(d), nn.LayerNorm(d)
            self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d, bias=False)
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
            self.drop = nn.Dropout(0.0)

        def forward(self, ids):
            b, t = ids.shape
            x = self.drop(self.token(ids) + self.place[:t])
            kept = (ids != 0)[:, None, None, :]
            parts = self.qkv(self.norm1(x)).view(b, t, 3, heads, d // heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            q, k = rotate(L, q), rotate(L, k)
            if mask == "spelled out":
                scores = q @ k.transpose(-2, -1) / math.sqrt(d // heads)
                a = F.softmax(scores.masked_fill(~kept, -math.inf), dim=-1) @ v
            elif mask == "float":
                bias = T.zeros_like(kept, dtype=T.float32).masked_fill(~kept, -math.inf)
                a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            else:
                a = F.scaled_dot_product_attention(q, k, v, attn_mask=kept)
            x = x + self.drop(self.out(a.transpose(1, 2).reshape(b, t, d)))
            x = x + self.down(F.gelu(self.up(self.norm2(x))))
            return F.linear(self.norm(x), self.token.weight)  # the head is tied

        return module(L, init, forward)

    return of


def recurrent(L):
    """One cell used several times, written into a buffer step by step."""

    def init(self):
        self.cell = L.nn.Linear(10, 6)
        self.gate = L.nn.Linear(10, 6)
        self.head = L.nn.Linear(6, 3)

    def forward(self, x):
        state = L.T.zeros(x.shape[0], 6)
        seen = L.T.zeros(x.shape[0], x.shape[1], 6)
        for i in range(x.shape[1]):
            both = L.T.cat([x[:, i], state], 1)
            gate = self.gate(both).sigmoid()
            state = gate * state + (1 - gate) * self.cell(both).tanh()
            seen[:, i] = state
        return self.head(seen.max(1).values + seen.mean(1))

    return module(L, init, forward)


def experts(L):
    """Scale, gather, scatter and in-place arithmetic: top-1 routing written by hand."""

    def init(self):
        self.router = L.nn.Linear(6, 4)
        self.weight = L.nn.Parameter(L.T.zeros(4, 6, 6))
        self.scale = L.nn.Parameter(L.T.ones(()))

    def forward(self, x):
        T = L.T
        share = self.router(x).softmax(-1)
        best, chosen = share.max(-1, keepdim=True)
        y = (x[:, None] @ self.weight[chosen[:, 0]])[:, 0]
        y *= best
        load = T.zeros(4).scatter_add(0, chosen[:, 0], best[:, 0].float())
        return (x + y * self.scale)[:, :3] + 0.1 * load.square().sum()

    return module(L, init, forward)


# losses and steps


def classes(**options):
    def of(L, logits, y):
        given = {k: L.T.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        return L.F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1), **given)

    return of


def squares(L, out, y):
    return L.F.mse_loss(out, y)


def sgd(**options):
    return lambda L, model: L.optim.SGD(model.parameters(), **options)


def adamw(**options):
    return lambda L, model: L.optim.AdamW(model.parameters(), **options)


def two_groups(L, model):
    """Weight decay for matrices only."""
    named = list(model.named_parameters())
    return L.optim.AdamW(
        [
            {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": 0.3},
            {"params": [p for _, p in named if p.ndim < 2], "lr": 3e-3, "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.8, 0.95),
    )


@dataclass(frozen=True)
class Case:
    """A model, its batches, and how it is trained."""

    model: Any
    batch: Any
    loss: Any = squares
    optimizer: Any = field(default_factory=lambda: sgd(lr=0.1))
    clip: float | None = None
    accumulate: int = 1
    frozen: tuple[str, ...] = ()
    cosine: bool = False
    rtol: float = 2e-4


def tokens():
    ids = rng.integers(1, 11, (3, 7))
    ids[0, 5:] = 0
    ids[2, 2:] = 0
    return ids, np.where(ids == 0, -1, rng.integers(1, 11, (3, 7)))


def vectors():
    return floats(8, 6), floats(8, 3)


def labelled():
    return floats(8, 6), rng.integers(0, 3, 8)


def images():
    return floats(4, 2, 6, 8), rng.integers(0, 5, 4)


def series():
    return floats(4, 5, 4), floats(4, 3)


WEIGHTS = np.array([0.5, 2.0, 1.0], np.float32)
NEXT = classes(ignore_index=-1)
CASES = {
    "mlp": Case(mlp, vectors),
    "mlp nesterov": Case(
        mlp, vectors, optimizer=sgd(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)
    ),
    "mlp dampening": Case(mlp, vectors, optimizer=sgd(lr=0.05, momentum=0.9, dampening=0.3)),
    "mlp maximize": Case(mlp, vectors, optimizer=sgd(lr=0.01, maximize=True)),
    "mlp adamw": Case(mlp, vectors, optimizer=adamw(lr=1e-2, weight_decay=0.1)),
    "mlp amsgrad": Case(mlp, vectors, optimizer=adamw(lr=1e-2, amsgrad=True, eps=1e-4)),
    "mlp groups, clipped": Case(mlp, vectors, optimizer=two_groups, clip=0.05),
    "mlp cosine": Case(mlp, vectors, optimizer=adamw(lr=1e-2), cosine=True),
    "mlp accumulated": Case(mlp, vectors, optimizer=adamw(lr=1e-2), accumulate=3, clip=0.1),
    "mlp frozen": Case(mlp, vectors, optimizer=sgd(lr=0.1, momentum=0.5), frozen=("0.", "3.bias")),
    "mlp class weights": Case(
        mlp, labelled, classes(weight=WEIGHTS, label_smoothing=0.1), optimizer=adamw(lr=1e-2)
    ),
    "convolutions": Case(convolutions, images, classes(label_smoothing=0.2)),
    "convolutions adamw": Case(convolutions, images, classes(), optimizer=two_groups, clip=1.0),
    "transformer, bool mask": Case(transformer("bool"), tokens, NEXT, optimizer=two_groups),
    "transformer, float mask": Case(transformer("float"), tokens, NEXT, clip=1.0, cosine=True),
    "transformer, spelled out": Case(transformer("spelled out"), tokens, NEXT, accumulate=2),
    "recurrent": Case(recurrent, series, optimizer=sgd(lr=0.1, momentum=0.9)),
    "experts": Case(experts, vectors, optimizer=adamw(lr=1e-2), clip=1.0),
    "u-net": Case(zoo.unet, zoo.pictures, classes(), optimizer=adamw(lr=1e-2)),
    "language model by scan": Case(zoo.language, zoo.sentences, classes(), clip=1.0),
    "mixture of experts": Case(zoo.mixture, vectors, optimizer=adamw(lr=1e-2)),
    "masked autoencoder": Case(zoo.autoencoder, zoo.cells, optimizer=sgd(lr=0.1, momentum=0.9)),
}


def prepare(case, L, state=None):
    """The model with the weights of ``state`` (drawn where there is none), and its optimizer."""
    model = case.model(L)
    if state is None:
        draw = np.random.default_rng(3)
        with torch.no_grad():
            for name, p in model.named_parameters():
                drawn = torch.tensor(draw.normal(size=tuple(p.shape)) * 0.3)
                p.copy_(drawn + 1 if "norm" in name and "weight" in name else drawn)
    else:
        model.load_state_dict({k: L.T.tensor(v) for k, v in state.items()})
    for name, p in model.named_parameters():
        if name.startswith(case.frozen or ("nothing",)):
            p.requires_grad_(False)
    return model, case.optimizer(L, model)


def make_step(case, L, model, optimizer):
    """One optimizer step on a list of batches; returns losses, gradients and their norm."""

    def step(parts):
        losses = []
        for x, y in parts:
            loss = case.loss(L, model(x), y) / len(parts)
            loss.backward()
            losses.append(loss.detach())
        norm = None
        if case.clip is not None:
            norm = L.nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        grads = {k: p.grad * 1 for k, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        return losses, norm, grads

    return step


def train(case, L, state, batches, *, compiled=False):
    model, optimizer = prepare(case, L, state)
    schedule = None
    if case.cosine:
        schedule = L.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=1e-4)
    step = make_step(case, L, model, optimizer)
    if compiled:
        step = vtc.compile(step)
    seen = []
    for parts in batches:
        seen.append(step([(L.T.tensor(x), L.T.tensor(y)) for x, y in parts]))
        if schedule is not None:
            schedule.step()
    if compiled:
        assert len(step.entries) == 1, step.misses
    return plain(seen), plain(dict(model.state_dict()))


def plain(tree):
    """Tensors as arrays, f64 where they are floats."""
    match tree:
        case dict():
            return {k: plain(v) for k, v in tree.items()}
        case list() | tuple():
            return [plain(v) for v in tree]
        case None:
            return None
    return tree.detach().double().numpy()


def compare(got, want, rtol, where=""):
    match want:
        case dict():
            assert sorted(got) == sorted(want), where
            for k in want:
                compare(got[k], want[k], rtol, f"{where} {k}")
        case list() | tuple():
            assert len(got) == len(want), where
            for i, (g, w) in enumerate(zip(got, want, strict=True)):
                compare(g, w, rtol, f"{where} {i}")
        case None:
            assert got is None, where
        case _:
            scale = float(np.abs(want).max(initial=1e-3))
            np.testing.assert_allclose(got, want, rtol, rtol * scale, err_msg=where)


@pytest.fixture(scope="module")
def wanted():
    """What torch does in a case: its weights, its batches and its run."""
    found = {}

    def of(name):
        if name not in found:
            case = CASES[name]
            model, _ = prepare(case, THEIRS)
            state = {k: v.numpy().copy() for k, v in model.state_dict().items()}
            batches = [[case.batch() for _ in range(case.accumulate)] for _ in range(STEPS)]
            found[name] = state, batches, train(case, THEIRS, state, batches)
        return found[name]

    return of


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_training(name, compiled, wanted):
    state, batches, want = wanted(name)
    got = train(CASES[name], OURS, state, batches, compiled=compiled)
    compare(got, want, CASES[name].rtol)


def dtypes(tree):
    match tree:
        case dict():
            return {k: dtypes(v) for k, v in tree.items()}
        case list() | tuple():
            return [dtypes(v) for v in tree]
    return repr(tree.dtype).split(".")[-1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 5e-2), ("float16", 1e-2)])
def test_parameters_of_half_the_width(dtype, rtol, compiled, wanted):
    state, batches, _ = wanted("mlp adamw")
    seen = []
    for L in (THEIRS, OURS):
        narrow = getattr(L.T, dtype)
        model, _ = prepare(CASES["mlp adamw"], L, state)
        model.to(narrow)
        # In f16 the squares of gradients are zero, unless they stay in a register.
        kind = L.optim.AdamW if dtype == "bfloat16" else L.optim.SGD
        optimizer = kind(model.parameters(), lr=1e-2)
        step = make_step(CASES["mlp adamw"], L, model, optimizer)
        if L is OURS and compiled:
            step = vtc.compile(step)
        found = [
            step([(L.T.tensor(x).to(narrow), L.T.tensor(y).to(narrow)) for x, y in parts])[::2]
            for parts in batches
        ]
        seen.append((found, dict(model.state_dict())))
    assert dtypes(seen[1]) == dtypes(seen[0])
    compare(plain(seen[1]), plain(seen[0]), rtol)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "name", ["mlp", "mlp class weights", "convolutions", "transformer, bool mask", "experts"]
)
def test_autocast(name, compiled, wanted):
    state, batches, _ = wanted(name)
    case, seen = CASES[name], []
    for L in (THEIRS, OURS):
        model, _ = prepare(case, L, state)

        def step(x, y, L=L, model=model):
            with L.T.autocast("cpu", L.T.bfloat16):
                out = model(x)
                loss = case.loss(L, out, y)
            loss.backward()
            grads = {k: p.grad * 1 for k, p in model.named_parameters() if p.grad is not None}
            for p in model.parameters():
                p.grad = None
            return out.detach(), loss.detach(), grads

        run = vtc.compile(step) if L is OURS and compiled else step
        seen.append(run(*map(L.T.tensor, batches[0][0])))
    assert dtypes(seen[1]) == dtypes(seen[0])
    compare(plain(seen[1]), plain(seen[0]), 5e-2)


def steps_of(L, make, change=None, steps=6):
    """A parameter and another that ``change`` may treat otherwise, after each step."""
    p = L.nn.Parameter(L.T.tensor([1.0, -2.0, 3.0]))
    q = L.nn.Parameter(L.T.tensor([[0.5], [0.25]]))
    optimizer = make(L, p, q)
    seen = []
    for i in range(steps):
        ((p * p).sum() + (q.square() * p[0]).sum()).backward()
        if change is not None:
            change(optimizer, q, i)
        optimizer.step()
        optimizer.zero_grad()
        seen.append((p * 1, q * 1))
    return plain(seen)


def unfreeze(optimizer, q, i):
    if i == 2:
        optimizer.add_param_group({"params": [q], "lr": 0.3})


def gain_momentum(optimizer, q, i):
    del q
    if i == 2:
        optimizer.param_groups[0]["momentum"] = 0.5


LATER = {
    "a group added later starts at step 0": (
        lambda L, p, q: L.optim.AdamW([p], lr=0.1),
        unfreeze,
    ),
    "momentum turned on later": (lambda L, p, q: L.optim.SGD([p, q], lr=0.1), gain_momentum),
}


@pytest.mark.parametrize("name", LATER)
def test_an_optimizer_changed_between_steps(name):
    compare(steps_of(OURS, *LATER[name]), steps_of(THEIRS, *LATER[name]), 1e-4)


def test_momentum_cannot_be_turned_on_inside_a_compiled_step():
    p = vtc.nn.Parameter(vtc.ones(2))
    optimizer = vtc.optim.SGD([p], lr=0.1)
    optimizer.param_groups[0]["momentum"] = 0.5

    @vtc.compile
    def step():
        (p * p).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with pytest.raises(vtc.errors.ArgumentError, match="needs momentum_buffer, which a compiled"):
        step()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"lr": 0.1}),
        ("AdamW", {"lr": 0.1, "amsgrad": True}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ],
)
def test_resume_from_the_state_of_torch(name, options):
    def run(L, start, state=None):
        p = L.nn.Parameter(L.T.tensor(start))
        optimizer = getattr(L.optim, name)([p], **options)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))  # torch writes into what it loads
        for _ in range(3):
            (p * p).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return p.detach().numpy().copy(), copy.deepcopy(optimizer.state_dict())

    middle, state = run(THEIRS, np.array([1.0, -2.0, 3.0], np.float32))
    want, _ = run(THEIRS, middle, state)
    got, _ = run(OURS, middle, state)
    np.testing.assert_allclose(got, want, 1e-5)
