"""How long it takes to compile a GPT training step: trace, passes, code generation, C compiler;
and to import.

    python -m benchmarks.compile_time [--layers 12] [--json FILE]

The step is forward, backward, clipping and AdamW as one graph. The kernel cache is an empty
directory, so every kernel is compiled; then a second build of the same step finds them all.
Medians of ``--repeat`` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import vtc
import vtc.nn as nn
import vtc.nn.functional as F


class Block(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        b, t, d = x.shape
        q, k, v = (
            self.qkv(self.norm1(x))
            .view(b, t, 3, self.heads, d // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, layers: int, d: int = 128, heads: int = 4, vocabulary: int = 256) -> None:
        self.token = nn.Embedding(vocabulary, d)
        self.blocks = nn.ModuleList([Block(d, heads) for _ in range(layers)])
        self.norm, self.head = nn.RMSNorm(d), nn.Linear(d, vocabulary, bias=False)

    def forward(self, ids: vtc.Tensor) -> vtc.Tensor:
        x = self.token(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def import_seconds() -> float:
    """`import vtc` in a fresh interpreter, less the interpreter's own start: the best of five."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return min(run("import vtc") for _ in range(5)) - min(run("pass") for _ in range(5))


def build_once(layers: int) -> dict[str, float]:
    """One trace and build; seconds per phase, and counts."""
    model = Gpt(layers)
    optimizer = vtc.optim.AdamW(model.parameters(), lr=1e-3)

    @vtc.compile
    def step(ids: vtc.Tensor) -> vtc.Tensor:
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 256), ids[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    ids = vtc.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 65)))
    start = time.perf_counter()
    built = step.lower(ids).entry.forward
    total = time.perf_counter() - start
    phases = dict(built.seconds)
    phases["trace"] = total - sum(phases.values())
    phases["total"] = total
    phases["nodes"] = float(len(built.stages["joint"].entry.nodes))
    phases["kernels"] = float(built.kernels)
    return phases


def in_fresh_process(layers: int, cache: str) -> dict[str, float]:
    """``build_once`` in a new interpreter, with ``cache`` as the kernel cache."""
    done = subprocess.run(
        [sys.executable, __file__, "--once", "--layers", str(layers)],
        env={**os.environ, "VTC_CACHE_DIR": cache, "VTC_CHECK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(layers: int, repeat: int) -> dict[str, dict[str, float]]:
    """Medians over ``repeat`` rounds: an empty cache (cold), then the same cache again (warm)."""
    runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as cache:
            for found in runs.values():
                found.append(in_fresh_process(layers, cache))
    return {
        kind: {k: round(statistics.median([r[k] for r in found]), 4) for k in found[0]}
        for kind, found in runs.items()
    }


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", action="store_true", help="one build in this process")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(build_once(args.layers)))
        return
    result = {
        "benchmark": "compile_time",
        "layers": args.layers,
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "vtc": vtc.__version__,
        },
        "import_s": round(import_seconds(), 4),
        **measure(args.layers, args.repeat),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
