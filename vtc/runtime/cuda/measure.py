"""Plans on a device, measured: their memory filled with plausible data, and caches cold.

    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        trial = room.trial(plan, binaries)
        trial.results()                   # samples of the outputs, on the host
        trial.time()                      # milliseconds of one run

A plan that is measured has no dims, and each output overwrites an input. Floats are normal,
integers 0 (so that an index is inside its axis), bools either; what is overwritten holds no numbers
before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np

from vtc.errors import ArgumentError
from vtc.ir.plan import Binary, Plan
from vtc.ir.types import Array
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import DeviceArray, empty
from vtc.runtime.cuda.copies import fill_bytes, to_host, write
from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.fit import shape_at

PATTERN: Final = 1 << 20
"""Elements that are made on the host; larger arrays repeat them."""
SAMPLES, SAMPLE = 16, 1 << 16
"""How many stretches of a large result are looked at, and their elements."""
NONSENSE: Final = 0xFF
"""A byte of memory to be overwritten: floats of it are no numbers."""
WHERE: Final = "tuning"
"""Whose memory it is, for errors."""
_FLUSHED, _TURNS = 2, 8
"""Times the L2 cache that are written before each run, and how often: on an H100 that takes a
third of a millisecond, in which the host can launch what is measured.
"""
_ALONE = threading.RLock()


@final
class Bench:
    """A device that one thread measures on. ``clock`` gives seconds."""

    def __init__(self, gpu: Gpu, clock: Callable[[], float] = time.perf_counter) -> None:
        self.gpu = gpu
        self.seconds = clock
        self._flush: DeviceArray | None = None
        self._events: list[int] = []

    def __enter__(self) -> Bench:
        _ALONE.acquire()
        try:
            self.gpu.synchronize()  # errors of earlier work are not those of a candidate
            driver, index = self.gpu.driver, self.gpu.index
            self._events = [driver.event(index, timing=True) for _ in range(2)]
        except BaseException:
            _ALONE.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._flush = None
            events, self._events = self._events, []
            for event in events:
                self.gpu.driver.destroy_event(self.gpu.index, event)
            self.gpu.allocator.empty_cache()
        finally:
            _ALONE.release()

    @contextmanager
    def room(self, plan: Plan) -> Iterator[Room]:
        """Filled memory for ``plan``, and for others with the same inputs and outputs."""
        room = Room(self, plan)
        try:
            yield room
        finally:
            room.arrays.clear()

    def check(self) -> None:
        """Raises if the device does not work any more."""
        self.gpu.driver.synchronize(self.gpu.index)

    def run(self, work: Callable[[], object]) -> float:
        """Milliseconds that ``work`` keeps the current stream busy, after a flush."""
        here, stream = self.gpu, self.gpu.stream
        driver, index = here.driver, here.index
        if self._flush is None:
            nbytes = _FLUSHED * max(here.facts.l2, 1)
            self._flush = empty((nbytes,), np.dtype(np.uint8), index, WHERE)
        start, end = self._events
        # While the device writes, the host gets ahead: launches are no part of what is measured.
        for _ in range(_TURNS):
            fill_bytes(self._flush, 0)
        driver.record(index, start, stream)
        work()
        driver.record(index, end, stream)
        driver.synchronize_event(index, end)
        return driver.elapsed(index, start, end)


@final
class Room:
    """The memory of a plan; the last arrays are those it overwrites."""

    def __init__(self, bench: Bench, plan: Plan) -> None:
        over = [b.overwritten for b in plan.inputs if b.overwritten is not None]
        if plan.dims or over != list(range(len(plan.outputs))):
            got = f"got {len(plan.dims)} dims, and outputs {over} in inputs"
            raise ArgumentError(f"{plan.name}: expected a plan of fixed sizes, {got}")
        self.bench = bench
        self.arrays = [
            empty(shape_at(b.shape, {}), b.dtype.numpy, bench.gpu.index, WHERE) for b in plan.inputs
        ]
        self.results = [
            a for a, b in zip(self.arrays, plan.inputs, strict=True) if b.overwritten is not None
        ]
        generator = np.random.default_rng(0)
        for a, b in zip(self.arrays, plan.inputs, strict=True):
            if b.overwritten is None:
                _fill(a, b.dtype.kind, bench.gpu, generator)

    def trial(self, plan: Plan, binaries: Mapping[str, Binary]) -> Trial:
        """``plan``, ready to run."""
        executable = CudaExecutable(plan, binaries, self.bench.gpu.index, graphs=False)
        bound = executable.bind(self.arrays, {})
        assert bound is not None
        return Trial(self, lambda: bound.run(()))


@final
class Trial:
    """A plan in a room."""

    def __init__(self, room: Room, run: Callable[[], object]) -> None:
        self._room, self._run = room, run

    def results(self) -> Sequence[Array]:
        """What it computes: small results whole, of large ones stretches, the ends among them."""
        room = self._room
        for a in room.results:
            fill_bytes(a, NONSENSE)
        self._run()
        room.bench.check()
        return [_sample(a) for a in room.results]

    def time(self) -> float:
        """Milliseconds of one run."""
        return self._room.bench.run(self._run)


def _fill(array: DeviceArray, kind: str, gpu: Gpu, generator: np.random.Generator) -> None:
    if not array.size:
        return
    if kind not in ("float", "bool"):
        fill_bytes(array, 0)
        return
    flat, first = array.reshape(-1), min(array.size, PATTERN)
    drawn: np.ndarray[Any, Any] = (
        generator.standard_normal(first, np.float32)
        if kind == "float"
        else generator.integers(0, 2, first)
    )
    write(flat[:first], drawn.astype(array.dtype))
    done, total, start = first * array.itemsize, array.nbytes, address(array)
    while done < total:
        more = min(done, total - done)
        gpu.driver.copy(gpu.index, start + done, start, more, gpu.stream)
        done += more


def _sample(array: DeviceArray) -> Array:
    flat = array.reshape(-1)
    if flat.size <= SAMPLES * SAMPLE:
        return to_host(flat)
    starts = np.linspace(0, flat.size - SAMPLE, SAMPLES).astype(np.int64)
    return np.concatenate([to_host(flat[int(s) : int(s) + SAMPLE]) for s in starts])
