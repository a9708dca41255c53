"""What measuring candidates asks of a device, and how its answers are judged.

    with bench, bench.room(plan) as room:
        trial = room.trial(plan, binaries)
        why = difference(trial.results(), want, plan.outputs)       # "" if they are alike
        ms = time_of(trial, best)

:mod:`vtc.runtime.cuda.measure` is such a bench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median
from typing import Protocol

import numpy as np

from vtc.ir.plan import Binary, Buffer, Plan
from vtc.ir.types import Array

SLOW = 1.5
"""Times the best, in both of two runs, that are given up."""
BETTER = 0.98
"""Times the best that a later candidate has to stay below."""
RUNS, MORE_RUNS, SHORT = 5, 15, 0.05
"""Runs that the median is of; more of those shorter than so many milliseconds."""
TOLERANCE: Mapping[int, float] = {8: 1e-6, 4: 2e-3, 2: 5e-2, 1: 0.3}
"""Of the largest magnitude, by bytes of a float."""


class Trial(Protocol):
    """A candidate on the device."""

    def results(self) -> Sequence[Array]:
        """What it computes, or a large sample of that; memory holds nonsense before."""

    def time(self) -> float:
        """Milliseconds of one more run."""


class Room(Protocol):
    """Buffers of one region on the device."""

    def trial(self, plan: Plan, binaries: Mapping[str, Binary]) -> Trial:
        """A plan that has these buffers, ready to run."""


class Bench(Protocol):
    """A device; inside ``with`` nothing else is measured on it."""

    def __enter__(self) -> Bench: ...

    def __exit__(self, *_: object) -> None: ...

    def seconds(self) -> float:
        """A clock."""

    def room(self, plan: Plan) -> AbstractContextManager[Room]:
        """Filled buffers for ``plan``, all of whose sizes are numbers."""

    def check(self) -> None:
        """Raises if the device does not work any more."""


def time_of(trial: Trial, best: float | None) -> float:
    """The median of some runs; of two where both are much slower than the best, the lesser."""
    trial.time()  # the first run of a kernel loads it
    two = [trial.time() for _ in range(2)]
    if best is not None and min(two) > SLOW * best:
        return min(two)
    runs = MORE_RUNS if min(two) < SHORT else RUNS
    return median([*two, *(trial.time() for _ in range(runs - 2))])


def fastest(times: Mapping[str, float]) -> str:
    """The name with the least time, the first of those that are about as fast; "" if none."""
    best = ""
    for name, time in times.items():
        if not best or time < BETTER * times[best]:
            best = name
    return best


def difference(got: Sequence[Array], want: Sequence[Array], buffers: Sequence[Buffer]) -> str:
    """How results differ from those of the first candidate; "" if they do not."""
    for k, (a, b, buffer) in enumerate(zip(got, want, buffers, strict=True)):
        if buffer.dtype.kind != "float":
            wrong = int((a != b).sum())
            if wrong:
                return f"output {k}: {wrong} of {a.size} elements are not those of the first"
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return f"output {k}: other elements are infinite or no numbers than of the first"
        scale = np.abs(y[finite]).max(initial=0.0)
        error = np.abs(x[finite] - y[finite]).max(initial=0.0)
        if error > TOLERANCE[buffer.dtype.itemsize] * scale:
            return f"output {k}: differs from the first by {error:.2g}, at most {scale:.2g}"
    return ""
