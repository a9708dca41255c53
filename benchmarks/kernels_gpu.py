"""How fast single kernels run on a GPU: vtc beside PyTorch, and beside what the memory allows.

    python -m benchmarks.kernels_gpu [--json FILE] [--quick] [KERNEL ...]

Times are of the GPU: events around calls that the host hands over while the GPU still sleeps.
Inputs of calls take turns, so that they come from memory and not from the cache. Peers take turns
as well; the figure is the median in microseconds per call, with quartiles. ``floor_us`` is what
reading the inputs and writing the results once takes at 3.0 TB/s; attention has TFLOP/s, causal
ones by half the products. ``late`` means that the host was slower than the GPU: the time is its.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

BANDWIDTH = 3.0e12
ASLEEP, CYCLES = 0.02, 40_000_000
"""Seconds that the GPU sleeps at least, and the cycles of that at 1.98 GHz."""
MOST_BYTES, MOST_SETS = 1 << 30, 4
"""Sets of inputs that take turns."""

Make = Callable[[Any], Callable[..., Any]]


@dataclass(frozen=True)
class Kernel:
    """``make(library)`` gives the function of tensors of ``shapes`` (of integers below ``high``,
    where a shape is one). With ``backward``, gradients of the tensors are computed, too.
    """

    make: Make
    shapes: tuple[tuple[int, ...], ...]
    floor: float
    flops: float = 0.0
    high: int = 0
    backward: bool = False


def names(library: Any) -> Any:
    """The functions of neural networks of a library."""
    return import_module(f"{library.__name__}.nn.functional")


def rms_norm(library: Any) -> Callable[..., Any]:
    return lambda x, w: names(library).rms_norm(x, (x.shape[-1],), w, 1e-5)


def added_norm(library: Any) -> Callable[..., Any]:
    def run(x: Any, y: Any, w: Any) -> Any:
        both = x + y
        return both, names(library).rms_norm(both, (x.shape[-1],), w, 1e-5)

    return run


def layer_norm(library: Any) -> Callable[..., Any]:
    return lambda x, w, b: names(library).layer_norm(x, (x.shape[-1],), w, b)


def softmax(library: Any) -> Callable[..., Any]:
    return lambda x: names(library).softmax(x, -1)


def swiglu(library: Any) -> Callable[..., Any]:
    return lambda x, y: names(library).silu(x) * y


def rotary(library: Any) -> Callable[..., Any]:
    def turned(x: Any, cos: Any, sin: Any) -> Any:
        half = x.shape[-1] // 2
        return x * cos + library.cat((-x[..., half:], x[..., :half]), -1) * sin

    return lambda q, k, cos, sin: (turned(q, cos, sin), turned(k, cos, sin))


def cross_entropy(library: Any) -> Callable[..., Any]:
    return lambda x, target: names(library).cross_entropy(x, target)


def attention(library: Any, *, causal: bool) -> Callable[..., Any]:
    dot = names(library).scaled_dot_product_attention
    return lambda q, k, v: dot(q, k, v, is_causal=causal)


def _memory() -> dict[str, Kernel]:
    n = 4096
    square, row, big = (n, n), (n,), (4, 32, n, 128)
    s, wide, logits, table = 2 * n * n, 8192 * 16384 * 2, (8192, 32000), (n, 128)
    all_logits, each = 2 * 8192 * 32000, 2 * 4 * 32 * n * 128
    return {
        "rms_norm": Kernel(rms_norm, (square, row), 2 * s),
        "layer_norm": Kernel(layer_norm, (square, row, row), 2 * s),
        "added_rms_norm": Kernel(added_norm, (square, square, row), 4 * s),
        "softmax": Kernel(softmax, (square,), 2 * s),
        "softmax_wide": Kernel(softmax, ((8192, 16384),), 2 * wide),
        "swiglu": Kernel(swiglu, (square, square), 3 * s),
        "layer_norm_both": Kernel(layer_norm, (square, row, row), 6 * s, backward=True),
        "rotary": Kernel(rotary, (big, big, table, table), 4 * each),
        "cross_entropy": Kernel(cross_entropy, (logits, (8192,)), all_logits, high=32000),
        "cross_entropy_both": Kernel(
            cross_entropy, (logits, (8192,)), 2 * all_logits, high=32000, backward=True
        ),
    }


def _attention() -> dict[str, Kernel]:
    found = {}
    for d in (64, 128):
        for causal in (True, False):
            for t in (1024, 4096, 16384):
                shape = (16384 // t, 2048 // d, t, d)
                flops = 4 * 16384 * t * 2048 / (2 if causal else 1)
                for both in (False, True):
                    name = f"attention_{d}_{'causal' if causal else 'full'}_{t}"
                    found[name + ("_both" if both else "")] = Kernel(
                        partial(attention, causal=causal),
                        (shape,) * 3,
                        0.0,
                        flops * (3.5 if both else 1),
                        backward=both,
                    )
    found["attention_gpt2"] = Kernel(
        partial(attention, causal=True), ((8, 12, 1024, 64),) * 3, 0.0, 2 * 96 * 1024**2 * 64
    )
    return found


KERNELS = _memory() | _attention()


def inputs(kernel: Kernel, library: Any, seed: int) -> list[Any]:
    """Tensors on the device, the same for every peer."""
    rng, found = np.random.default_rng(seed), []
    for shape in kernel.shapes:
        if kernel.high and len(shape) == 1:
            found.append(library.from_numpy(rng.integers(0, kernel.high, shape)).to("cuda"))
            continue
        array = rng.standard_normal(shape, np.float32)
        tensor = library.from_numpy(array).to("cuda").to(library.bfloat16)
        found.append(tensor.requires_grad_() if kernel.backward else tensor)
    return found


def with_gradients(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` and the gradients of its tensors; those of a result of several are of its sum."""

    def both(*args: Any) -> Any:
        leaves = [a for a in args if a.requires_grad]
        for a in leaves:
            a.grad = None
        y = run(*args)
        if y.ndim:
            y.backward(leaves[0].detach())
        else:
            y.backward()
        return [y, *(a.grad for a in leaves)]

    return both


def function(kernel: Kernel, peer: str) -> tuple[Any, Callable[..., Any], Any]:
    """The library of a peer, its function, and the context to call it in."""
    library: Any = import_module("vtc" if peer == "vtc" else "torch")
    import_module(f"{library.__name__}.nn.functional")
    run = kernel.make(library)
    if peer == "vtc":
        return library, library.compile(with_gradients(run) if kernel.backward else run), None
    if peer == "compile":
        run = library.compile(run, dynamic=False)
    how = None
    if peer in ("flash", "cudnn"):
        sdpa: Any = import_module("torch.nn.attention")
        name = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}[peer]
        how = partial(sdpa.sdpa_kernel, getattr(sdpa.SDPBackend, name))
    return library, with_gradients(run) if kernel.backward else run, how


class Timed:
    """A peer that is being measured."""

    def __init__(self, kernel: Kernel, peer: str) -> None:
        library, self.run, how = function(kernel, peer)
        self.context = how or nullcontext
        size = sum(2 * int(np.prod(s)) for s in kernel.shapes)
        sets = max(1, min(MOST_SETS, MOST_BYTES // size))
        self.sets = [inputs(kernel, library, seed) for seed in range(sets)]
        self.turns: list[float] = []
        self.late = False
        self.calls = 3
        self.turn()
        self.calls = 5
        self.turn()
        self.calls = max(5, min(200, int(2e4 / self.turns[-1])))
        self.turns.clear()
        self.late = False

    def turn(self) -> None:
        """Some calls between two events, handed over while the GPU sleeps."""
        torch: Any = import_module("torch")
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self.context():
            torch.cuda.synchronize()
            start = time.perf_counter()
            torch.cuda._sleep(CYCLES)
            begin.record()
            for k in range(self.calls):
                self.run(*self.sets[k % len(self.sets)])
            self.late |= time.perf_counter() - start > ASLEEP
            end.record()
            torch.cuda.synchronize()
        self.turns.append(1e3 * begin.elapsed_time(end) / self.calls)

    def summary(self, kernel: Kernel) -> dict[str, Any]:
        low, middle, high = statistics.quantiles(self.turns, n=4)
        found: dict[str, Any] = {"us": middle, "low": low, "high": high, "late": self.late}
        if kernel.flops:
            found["tflops"] = kernel.flops / middle / 1e6
        else:
            found["of_floor"] = middle * 1e-6 * BANDWIDTH / kernel.floor
        return found


def measure(kernel: Kernel, peers: Sequence[str], turns: int) -> dict[str, Any]:
    """What there is to know of each peer; or why it failed."""
    found: dict[str, Any] = {}
    timed: dict[str, Timed] = {}
    for peer in peers:
        try:
            timed[peer] = Timed(kernel, peer)
        except Exception as failure:  # the others still count
            traceback.print_exc()
            found[peer] = {"failed": f"{type(failure).__name__}: {failure}".splitlines()[0]}
    for _ in range(turns):
        for one in timed.values():
            one.turn()
    found |= {peer: one.summary(kernel) for peer, one in timed.items()}
    if not kernel.flops:
        found["floor_us"] = 1e6 * kernel.floor / BANDWIDTH
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="KERNEL", help=", ".join(KERNELS))
    parser.add_argument("--json", type=Path, help="where results are written; default: nowhere")
    parser.add_argument("--quick", action="store_true", help="few turns, no attention of 16384")
    parser.add_argument("--peers", help="separated by commas; default: all that fit")
    args = parser.parse_args()
    if unknown := [n for n in args.names if n not in KERNELS]:
        parser.error(f"expected kernels among {', '.join(KERNELS)}, got {', '.join(unknown)}")
    torch: Any = import_module("torch")
    results: dict[str, Any] = {}
    found = {
        "benchmark": "kernels_gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(0),
        "versions": {"torch": torch.__version__},
        "results": results,
    }
    short = [n for n in KERNELS if not (args.quick and "16384" in n)]
    for name in args.names or short:
        kernel = KERNELS[name]
        peers = ("vtc", "flash", "cudnn") if kernel.flops else ("vtc", "eager", "compile")
        chosen = args.peers.split(",") if args.peers else peers
        results[name] = measure(kernel, chosen, 5 if args.quick else 15)
        print(name, json.dumps(results[name]), flush=True)
        torch.cuda.empty_cache()
        if args.json:
            args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
