"""The programs whose kernels ``replay`` compares between two commits.

python -m benchmarks.corpus DIRECTORY      # writes every kernel and every stage there
"""

from __future__ import annotations

import sys
from pathlib import Path

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.frontend.jit import Lowered


def mlp() -> Lowered:
    """Forward, backward and SGD of an MLP."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = vtc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @vtc.compile
    def step(x: vtc.Tensor, y: vtc.Tensor) -> vtc.Tensor:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step.lower(vtc.randn(16, 64), vtc.randint(0, 10, (16,)))


def conv() -> Lowered:
    """A small conv net."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
    return vtc.compile(model).lower(vtc.randn(2, 1, 8, 8))


def attention() -> Lowered:
    """Attention with its backward."""

    @vtc.compile
    def attend(q: vtc.Tensor, k: vtc.Tensor, v: vtc.Tensor) -> vtc.Tensor:
        return vtc.grad(lambda q: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum())(q)

    return attend.lower(*(vtc.randn(2, 2, 16, 8) for _ in range(3)))


CORPUS = (mlp, conv, attention)


def main() -> None:
    """Write the corpus."""
    out = Path(sys.argv[1])
    for make in CORPUS:
        vtc.manual_seed(0)
        lowered = make()
        folder = out / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for stage in ("captured", "joint", "lowered", "fused", "planned"):
            (folder / f"{stage}.vtc").write_text(lowered.ir(stage))
        for kernel in lowered.entry.forward.plan.kernels:
            (folder / f"{kernel.name}.c").write_text(kernel.source)


if __name__ == "__main__":
    main()
