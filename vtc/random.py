"""Seeds and states of random numbers, with the names of ``torch.random``.

with vtc.random.fork_rng():          # what is drawn here leaves what comes after as it is
    vtc.manual_seed(0)
    noise = vtc.randn(3)
"""

from __future__ import annotations

from vtc.frontend.functions.random import (
    Generator,
    default_generator,
    fork_rng,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)

__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]
