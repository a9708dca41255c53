"""How fast compiled programs run on this CPU, beside PyTorch: one source, the same weights.

    python benchmarks/cpu.py [--threads 2] [--torch-compile] [--json FILE] [NAME ...]

Peers take turns, so what else the machine does hits all of them; a turn starts with a call that is
not counted. Medians and quartiles over all turns, in milliseconds; errors are the largest deviation
from the same computation in float64, relative to its largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import vtc
import vtc.nn
import vtc.optim

try:
    import torch
except ImportError:
    torch = None

TURN, TURNS = 0.12, 9
"""Seconds of a turn, and turns per peer."""


@dataclass(frozen=True)
class Peer:
    """A library, how it compiles a function, and the float type it computes in."""

    name: str
    library: Any
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    floats: str = "float32"

    def tensor(self, *shape: int, seed: int = 0, scale: float = 1.0) -> Any:
        """Normal numbers, the same for every peer."""
        array = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * scale
        return self.library.from_numpy(array.astype(self.floats))

    def integers(self, high: int, *shape: int) -> Any:
        return self.library.from_numpy(np.random.default_rng(9).integers(0, high, shape))

    def ready(self, model: Any) -> Any:
        """``model`` with weights that are the same for every peer."""
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        if self.floats == "float64":
            model = model.double()
        named = sorted(shapes.items())
        model.load_state_dict(
            {
                name: self.tensor(*shape, seed=k, scale=0.02 if len(shape) > 1 else 0.1)
                for k, (name, shape) in enumerate(named)
            }
        )
        return model


Run = Callable[[], Any]


def chain(peer: Peer) -> Run:
    """gelu_tanh(x + b) + r, 4096x4096."""
    F = peer.library.nn.functional
    x, b, r = peer.tensor(4096, 4096), peer.tensor(4096, seed=1), peer.tensor(4096, 4096, seed=2)
    run = peer.compile(lambda x, b, r: F.gelu(x + b, approximate="tanh") + r)
    return lambda: run(x, b, r)


def softmax(peer: Peer) -> Run:
    """Softmax of the rows of 8192x1024."""
    x, F = peer.tensor(8192, 1024), peer.library.nn.functional
    run = peer.compile(lambda x: F.softmax(x, -1))
    return lambda: run(x)


def layer_norm(peer: Peer) -> Run:
    """Layer norm of the rows of 8192x1024."""
    F = peer.library.nn.functional
    x, w, b = peer.tensor(8192, 1024), peer.tensor(1024, seed=1), peer.tensor(1024, seed=2)
    run = peer.compile(lambda x, w, b: F.layer_norm(x, (1024,), w, b))
    return lambda: run(x, w, b)


def mlp_step(peer: Peer) -> Run:
    """MLP 784-512-10, batch 64: forward, backward, SGD."""
    nn, F = peer.library.nn, peer.library.nn.functional
    model = peer.ready(nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)))
    optimizer = peer.library.optim.SGD(model.parameters(), lr=0.01)
    x, y = peer.tensor(64, 784), peer.integers(10, 64)
    return training(peer, lambda x, y: F.cross_entropy(model(x), y), optimizer, x, y)


VOCABULARY, TIME, BATCH, WIDTH, HEADS, LAYERS = 1000, 128, 4, 256, 8, 4


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


def gpt_forward(peer: Peer) -> Run:
    """GPT of 4 layers, width 256, 4x128 tokens of 1000: forward."""
    model, no_grad = gpt(peer), peer.library.no_grad
    ids = peer.integers(VOCABULARY, BATCH, TIME)

    def forward(ids: Any) -> Any:
        with no_grad():
            return model(ids)

    run = peer.compile(forward)
    return lambda: run(ids)


def gpt_step(peer: Peer) -> Run:
    """The same: forward, backward, AdamW."""
    model, F = gpt(peer), peer.library.nn.functional
    optimizer = peer.library.optim.AdamW(model.parameters(), lr=1e-3)
    ids, targets = (peer.integers(VOCABULARY, BATCH, TIME) for _ in range(2))

    def loss(ids: Any, targets: Any) -> Any:
        return F.cross_entropy(model(ids).reshape(-1, VOCABULARY), targets.reshape(-1))

    return training(peer, loss, optimizer, ids, targets)


def training(peer: Peer, loss: Callable[..., Any], optimizer: Any, *data: Any) -> Run:
    """The whole step as one function."""

    def step(*data: Any) -> Any:
        found = loss(*data)
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        return found

    run = peer.compile(step)
    return lambda: run(*data)


def overhead(peer: Peer) -> Run:
    """x + 1 on 8 elements."""
    x = peer.tensor(8)
    run = peer.compile(lambda x: x + 1)
    return lambda: run(x)


CASES = (chain, softmax, layer_norm, mlp_step, gpt_forward, gpt_step, overhead)


def peers(threads: int, *, compiled: bool) -> list[Peer]:
    """Those that are installed; vtc first."""
    vtc.set_num_threads(threads)
    found = [Peer("vtc", vtc, vtc.compile)]
    if torch is not None:
        torch.set_num_threads(threads)
        found.append(Peer("torch", torch, lambda fn: fn))
        if compiled:
            found.append(Peer("torch.compile", torch, torch.compile))
    return found


def values(result: Any) -> np.ndarray[Any, Any]:
    return np.asarray(result.detach().numpy(), np.float64)


def turn(run: Run, seconds: float) -> list[float]:
    """Milliseconds per call; calls of less than 50 us are timed a hundred at a time."""
    run()
    start = time.perf_counter()
    run()
    many = 100 if time.perf_counter() - start < 5e-5 else 1
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(many):
            run()
        found.append(1e3 * (time.perf_counter() - start) / many)
    return found


def measure(case: Callable[[Peer], Run], among: list[Peer]) -> dict[str, dict[str, float]]:
    """Of each peer: median, quartiles, error."""
    runs = {p.name: case(p) for p in among}
    results = {name: values(run()) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            times[name] += turn(run, TURN)
    errors: dict[str, float] = {}
    if torch is not None:
        exact = values(case(Peer("exact", torch, lambda fn: fn, "float64"))())
        errors = {
            n: float(np.abs(r - exact).max() / np.abs(exact).max()) for n, r in results.items()
        }
    found = {}
    for name, t in times.items():
        low, middle, high = statistics.quantiles(t, n=4)
        found[name] = {"ms": middle, "low": low, "high": high, "calls": float(len(t))}
        if name in errors:
            found[name]["error"] = errors[name]
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases; default all")
    parser.add_argument("--threads", type=int, default=vtc.get_num_threads())
    parser.add_argument("--torch-compile", action="store_true", help="as a third peer: minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    among = peers(args.threads, compiled=args.torch_compile)
    if torch is None:
        print("torch is not installed (make parity): no peer, no errors")
    rows: dict[str, Any] = {}
    for case in CASES:
        if args.names and case.__name__ not in args.names:
            continue
        rows[case.__name__] = measure(case, among)
        for name, r in rows[case.__name__].items():
            spread = f"{r['low']:.4f} .. {r['high']:.4f}"
            error = f"{r['error']:.1e}" if "error" in r else ""
            print(
                f"{case.__name__:12} {name:14} {r['ms']:10.4f} ms  ({spread})  {error}", flush=True
            )
    if args.json:
        result = {
            "benchmark": "cpu",
            "date": datetime.now(UTC).date().isoformat(),
            "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "threads": args.threads,
            "load": os.getloadavg()[0],
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "vtc": vtc.__version__,
                "torch": None if torch is None else torch.__version__,
            },
            "cases": {case.__name__: case.__doc__ for case in CASES},
            "results": rows,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
