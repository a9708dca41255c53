"""What ``cpu.py`` runs: one source for vtc and PyTorch (JAX has its own, ``workloads_jax.py``).

work = WORKLOADS["gpt_step"](peer)
work.run()          # one call
work.results()      # what it computes, from a fresh start, as float64 arrays
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]

VOCABULARY, TIME, BATCH, WIDTH, HEADS, LAYERS = 1000, 128, 4, 256, 8, 4
MLP = (784, 512, 10)
LOSSES = 3
"""Steps of training whose losses are compared."""


@dataclass(frozen=True)
class Workload:
    """``run`` is what is timed; ``results`` are the arrays compared with float64."""

    run: Run
    results: Callable[[], list[Any]]


@dataclass(frozen=True)
class Peer:
    """A library with PyTorch's names, how it compiles, and the float type it computes in."""

    name: str
    library: Any
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    whole_step: bool = True
    """Whether a training step compiles as one function; else its loss and its update do."""
    floats: str = "float32"
    fused: bool = False
    """Whether optimizers have a ``fused`` kernel."""

    def tensor(self, *shape: int, seed: int = 0, scale: float = 1.0) -> Any:
        return self.library.from_numpy(numbers(*shape, seed=seed, scale=scale).astype(self.floats))

    def integers(self, high: int, *shape: int) -> Any:
        return self.library.from_numpy(whole_numbers(high, *shape))

    def ready(self, model: Any) -> Any:
        """``model`` with weights that are the same for every peer."""
        if self.floats == "float64":
            model = model.double()
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        arrays = weights(shapes)
        model.load_state_dict(
            {n: self.library.from_numpy(a.astype(self.floats)) for n, a in arrays.items()}
        )
        return model


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Normal numbers, the same for every peer."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(scale)


def whole_numbers(high: int, *shape: int) -> Array:
    return np.random.default_rng(9).integers(0, high, shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """The weights of a model, by the names PyTorch gives them."""
    return {
        name: numbers(*shape, seed=k, scale=0.02 if len(shape) > 1 else 0.1)
        for k, (name, shape) in enumerate(sorted(shapes.items()))
    }


# kernels


def chain(peer: Peer) -> Workload:
    """gelu_tanh(x + b) + r, 4096x4096"""
    F = peer.library.nn.functional
    x, b, r = peer.tensor(4096, 4096), peer.tensor(4096, seed=1), peer.tensor(4096, 4096, seed=2)
    return function(peer, lambda x, b, r: F.gelu(x + b, approximate="tanh") + r, x, b, r)


def softmax(peer: Peer) -> Workload:
    """softmax of the rows of 8192x1024"""
    F = peer.library.nn.functional
    return function(peer, lambda x: F.softmax(x, -1), peer.tensor(8192, 1024))


def layer_norm(peer: Peer) -> Workload:
    """layer_norm of the rows of 8192x1024"""
    F = peer.library.nn.functional
    x, w, b = peer.tensor(8192, 1024), peer.tensor(1024, seed=1), peer.tensor(1024, seed=2)
    return function(peer, lambda x, w, b: F.layer_norm(x, (1024,), w, b), x, w, b)


def attention(peer: Peer) -> Workload:
    """attention 1x12x512x64"""
    F = peer.library.nn.functional
    q, k, v = (peer.tensor(1, 12, 512, 64, seed=s) for s in range(3))
    return function(peer, lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q, k, v)


def conv(peer: Peer) -> Workload:
    """conv 3x3, 8x64x32x32 to 64 channels"""
    F = peer.library.nn.functional
    x, w = peer.tensor(8, 64, 32, 32), peer.tensor(64, 64, 3, 3, seed=1, scale=0.05)
    b = peer.tensor(64, seed=2)
    return function(peer, lambda x, w, b: F.conv2d(x, w, b, padding=1), x, w, b)


def matmul(peer: Peer) -> Workload:
    """matmul 512x768 by 768x3072"""
    x, w = peer.tensor(512, 768), peer.tensor(768, 3072, seed=1)
    return function(peer, lambda x, w: x @ w, x, w)


def overhead(peer: Peer) -> Workload:
    """x + 1 on 8 elements"""
    return function(peer, lambda x: x + 1, peer.tensor(8))


# models


def mlp_step(peer: Peer) -> Workload:
    """MLP 784-512-10, batch 64: SGD step"""
    nn, F = peer.library.nn, peer.library.nn.functional
    x, y = peer.tensor(64, MLP[0]), peer.integers(MLP[2], 64)

    def make() -> tuple[Any, Any]:
        layers = nn.Linear(MLP[0], MLP[1]), nn.ReLU(), nn.Linear(MLP[1], MLP[2])
        model = peer.ready(nn.Sequential(*layers))
        more = {"fused": True} if peer.fused else {}
        return model, peer.library.optim.SGD(model.parameters(), lr=0.01, **more)

    return training(peer, make, lambda model, x, y: F.cross_entropy(model(x), y), x, y)


def gpt(peer: Peer) -> Any:
    """A GPT."""
    nn, F = peer.library.nn, peer.library.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            b, t, d = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, d // HEADS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(TIME, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, ids: Any) -> Any:
            x = self.token(ids) + self.place.weight
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return peer.ready(Gpt())


def gpt_forward(peer: Peer) -> Workload:
    """GPT of 4 layers, width 256, 4x128 tokens of 1000: forward"""
    model, no_grad = gpt(peer), peer.library.no_grad

    def forward(ids: Any) -> Any:
        with no_grad():
            return model(ids)

    return function(peer, forward, peer.integers(VOCABULARY, BATCH, TIME))


def gpt_forward_bf16(peer: Peer) -> Workload:
    """the same forward, bf16 autocast"""
    model, library = gpt(peer), peer.library

    def forward(ids: Any) -> Any:
        with library.no_grad(), library.autocast("cpu", dtype=library.bfloat16):
            return model(ids)

    def exact(ids: Any) -> Any:
        with library.no_grad():
            return model(ids)

    wanted = exact if peer.floats == "float64" else forward
    return function(peer, wanted, peer.integers(VOCABULARY, BATCH, TIME))


def gpt_step(peer: Peer) -> Workload:
    """the same: AdamW step"""
    F = peer.library.nn.functional
    ids, targets = (peer.integers(VOCABULARY, BATCH, TIME) for _ in range(2))

    def make() -> tuple[Any, Any]:
        model = gpt(peer)
        more = {"fused": True} if peer.fused else {}
        return model, peer.library.optim.AdamW(model.parameters(), lr=1e-3, **more)

    def loss(model: Any, ids: Any, targets: Any) -> Any:
        return F.cross_entropy(model(ids).reshape(-1, VOCABULARY), targets.reshape(-1))

    return training(peer, make, loss, ids, targets)


def function(peer: Peer, fn: Callable[..., Any], *inputs: Any) -> Workload:
    """``fn``, compiled, on ``inputs``."""
    run = peer.compile(fn)
    return Workload(lambda: run(*inputs), lambda: [array(run(*inputs))])


def training(
    peer: Peer, make: Callable[[], tuple[Any, Any]], loss: Callable[..., Any], *data: Any
) -> Workload:
    """Forward, backward, update, gradients cleared."""

    def fresh() -> Run:
        model, optimizer = make()

        def step(*data: Any) -> Any:
            found = loss(model, *data)
            found.backward()
            optimizer.step()
            optimizer.zero_grad()
            return found

        if peer.whole_step:
            run = peer.compile(step)
            return lambda: run(*data)
        forward = peer.compile(lambda *data: loss(model, *data))
        update = peer.compile(optimizer.step)

        def in_pieces() -> Any:
            found = forward(*data)
            found.backward()
            update()
            optimizer.zero_grad()
            return found

        return in_pieces

    def results() -> list[Any]:
        run = fresh()
        return [np.stack([array(run()) for _ in range(LOSSES)])]

    return Workload(fresh(), results)


def array(result: Any) -> Array:
    """In float64 (through f32: NumPy has no bf16)."""
    result = result.detach()
    if "bfloat16" in str(result.dtype):
        result = result.float()
    return np.array(result.numpy(), np.float64)


WORKLOADS = {
    w.__name__: w
    for w in (
        mlp_step,
        gpt_forward,
        gpt_step,
        gpt_forward_bf16,
        chain,
        softmax,
        layer_norm,
        attention,
        conv,
        matmul,
        overhead,
    )
}
"""In the order of the table."""

FIRST_CALLS = ("mlp_step", "gpt_forward", "gpt_step")
"""Whose first call is timed too."""
