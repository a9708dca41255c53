"""The libraries that ``gpu.py`` compares, and what it runs with one of them.

peer = Peer(torch, floats="float64")
x = peer.tensor(numbers(4, 8))                     # f64, on the GPU
model = peer.ready(nn.Linear(8, 8))                # weights that are the same for every peer
w = Supply(peer)(2048, 5632)                       # the same for large models
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.workloads import Array, numbers, weights

Loss = Callable[..., Any]
BLOCK, TURN = 1_000_003, 7919
"""How many numbers a supply has, and by how many each next tensor turns them: primes, so that no
two rows are equal.
"""


@dataclass(frozen=True)
class Peer:
    """A library with PyTorch's names, and the device and the float type it computes in."""

    library: Any
    device: str = "cuda"
    floats: str = "float32"

    @property
    def is_exact(self) -> bool:
        """Whether this is the one others are compared with."""
        return self.floats == "float64"

    def tensor(self, array: Array) -> Any:
        kind = self.floats if array.dtype.kind == "f" else array.dtype
        return self.library.from_numpy(np.ascontiguousarray(array.astype(kind))).to(self.device)

    def narrow(self, array: Array) -> Any:
        """Numbers rounded to bf16; the exact peer has the rounded ones, too."""
        found = self.library.from_numpy(np.ascontiguousarray(array)).to(self.device)
        found = found.to(self.library.bfloat16)
        return found.to(self.library.float64) if self.is_exact else found

    def ready(self, model: Any, *, narrow: bool = False) -> Any:
        """``model`` on the device, with weights that are the same for every peer; rounded to bf16
        if ``narrow``.
        """
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        arrays = weights(shapes)
        model.load_state_dict({n: self.library.from_numpy(a) for n, a in arrays.items()})
        if narrow:
            model = model.to(self.library.bfloat16)
        if self.is_exact:
            model = model.double()
        return model.to(self.device)

    def autocast(self) -> Any:
        """bf16 where the peer does not compute in float64."""
        if self.is_exact:
            return nullcontext()
        kind = "cuda" if self.device.startswith("cuda") else "cpu"
        return self.library.autocast(kind, dtype=self.library.bfloat16)


@dataclass
class Supply:
    """Numbers of one block, turned and repeated: a billion of them is there in seconds, the same
    for every peer that asks for the same shapes. They are rounded to bf16.
    """

    peer: Peer
    block: Array = field(default_factory=lambda: numbers(BLOCK))
    taken: int = 0

    def __call__(self, *shape: int, scale: float = 0.02) -> Any:
        """The next tensor of ``shape``."""
        self.taken += 1
        turned = np.roll(self.block, self.taken * TURN) * np.float32(scale)
        return self.peer.narrow(np.resize(turned, shape))

    def parameter(self, *shape: int, scale: float = 0.02) -> Any:
        """The same as a parameter that needs no gradient."""
        return self.peer.library.nn.Parameter(self(*shape, scale=scale), requires_grad=False)


@dataclass(frozen=True)
class Workload:
    """``make`` gives a model and its optimizer (None: only forward); ``loss`` (or the result) is
    computed from the model and ``data``.
    """

    make: Callable[[], tuple[Any, Any]]
    loss: Loss
    data: tuple[Any, ...]


def integers(high: int, *shape: int, seed: int = 9) -> Array:
    """Whole numbers below ``high``, the same for every peer."""
    return np.random.default_rng(seed).integers(0, high, shape)
