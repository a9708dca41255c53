"""What one call of an executable works with at a time: an arena, addresses, graphs.

Launches of one instance run one after the other, so its arena is free for the next at once. An
instance belongs to a stream. One stream needs no second one, for its work runs in order anyway;
another stream gets its own, up to a bound, and then one that is idle, after what that still has to
do::

    instance = instances.take(stream)
    try:
        instance.room(layout)
        instance.table[0] = address(x)
        instance.replay(layout).launch()
    finally:
        instances.give_back(instance)
"""

from __future__ import annotations

import ctypes
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.errors import VtcError, VtcWarning
from vtc.ir.plan import Binary
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import Lease, allocate
from vtc.runtime.cuda.cells import Cells
from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.graph import Quick, Replay, Side
from vtc.runtime.cuda.nodes import Way
from vtc.runtime.cuda.steps import ALIGNMENT, Layout, checking, number_cells
from vtc.runtime.fit import Fit
from vtc.runtime.lease import LOOK_AGAIN
from vtc.runtime.shelf import Shelf

GRAPHS = 32
"""Sizes of which an instance keeps a graph."""
_WHAT = "the sizes of its inputs change often"


Fresh = tuple[int, Shelf, tuple[int, ...], np.dtype[Any], int]
"""Of an output: its slot, the shelf that its memory comes from, shape, dtype, bytes."""


@final
@dataclass(slots=True)
class Program:
    """What the instances of an executable share: ``way`` is that of its loops and branches, and
    ``warned`` that graphs are made again.
    """

    gpu: Gpu
    fit: Fit
    binaries: Mapping[str, Binary]
    functions: Mapping[str, int]
    quick: tuple[Quick, tuple[int, ...]] | None
    graphs: bool = True
    way: Way = "spelled"
    warned: bool = False


@final
class Instance:
    """See the module. ``filled``: whose call its table was filled for. ``ready``, ``values`` (where
    its numbers go) and ``fresh`` (where its outputs come from) are of that call.
    """

    __slots__ = (
        "__weakref__", "_arena", "_program", "_replays", "_side", "cells", "filled", "fresh",
        "number_bytes", "numbers", "ready", "table", "values",
    )  # fmt: skip

    def __init__(self, program: Program, stream: int) -> None:
        fit, gpu = program.fit, program.gpu
        slots = len(fit.plan.inputs) + len(fit.plan.outputs) + 1
        self._program = program
        self._arena: Lease | None = None
        self._replays: OrderedDict[tuple[int, ...], Replay] = OrderedDict()
        self.table = (ctypes.c_uint64 * slots)()
        self.numbers = (ctypes.c_uint8 * max(1, ALIGNMENT * len(number_cells(fit))))()
        self.number_bytes = ctypes.c_uint64(0)
        self.cells = Cells(gpu, fit) if checking(fit) else None
        at = ctypes.c_uint64(stream)
        self._side = Side(
            fit.plan.name, gpu.driver, gpu.index, at, self.table, self.numbers, self.number_bytes,
            self.cells, gpu.launches, ctypes.c_uint64(0),
        )  # fmt: skip
        self.filled: object = None
        self.ready: Replay | None = None
        self.fresh: tuple[Fresh, ...] = ()
        self.values: list[Any] = []
        if self.cells is not None:
            weakref.finalize(self, _leave, self.cells, at).atexit = False

    @property
    def stream(self) -> int:
        """The stream it is launched on."""
        return self._side.stream.value

    def move(self, stream: int) -> None:
        """Launch on another stream from now on, after what the one before still has to do."""
        driver, device = self._side.driver, self._side.device
        event = driver.event(device, timing=False)
        try:
            driver.record(device, event, self.stream)
            driver.wait_event(device, stream, event)
        finally:
            driver.destroy_event(device, event)
        if self._arena is not None:
            self._arena.used_by(stream)
        self._side.stream.value = stream
        self.filled = None

    def room(self, layout: Layout) -> int:
        """The address of the arena, made large enough for ``layout``."""
        slot, nbytes = len(self.table) - 1, layout.arena
        if nbytes and (self._arena is None or self._arena.size < nbytes):
            self._arena = None  # first: both need not fit
            self._side.held.value = 0
            self._arena = allocate(nbytes, self._side.device, self._side.name)
            self.table[slot] = address(self._arena)
        return self.table[slot]

    def trim(self) -> None:
        """Give the arena back to the allocator; the next call takes another."""
        self.filled, self.ready = None, None
        self._arena = None
        self.table[-1] = 0

    def replay(self, layout: Layout) -> Replay:
        """The launches of ``layout``; there is room for it, and the table is filled."""
        found = self._replays.get(layout.key)
        if found is None:
            return self._make(layout)
        self._replays.move_to_end(layout.key)
        return found

    def _make(self, layout: Layout) -> Replay:
        program = self._program
        graphs = program.graphs
        made = Replay(self._side, layout, program.functions, program.quick, graphs=graphs)
        if len(self._replays) >= GRAPHS:
            self._replays.popitem(last=False)
            if graphs and not program.warned:
                program.warned = True
                warnings.warn(
                    f"{self._side.name}: expected at most {GRAPHS} different sizes, got more: "
                    f"CUDA graphs are made again and again, since {_WHAT}",
                    VtcWarning,
                    stacklevel=2,
                )
        self._replays[layout.key] = made
        return made


@final
class Instances:
    """At most ``limit`` instances. Those that are lost (an interrupted call) make room for others,
    as in :class:`vtc.runtime.lease.Pool`.
    """

    def __init__(self, make: Callable[[int], Instance], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._alive: weakref.WeakSet[Instance] = weakref.WeakSet()
        self.idle: dict[int, list[Instance]] = {}
        """By stream, to take from in a hurry; ``take`` where that fails."""
        self.waiting = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        _pools.add(self)

    def take(self, stream: int) -> Instance:
        """The instance of ``stream``; waits while another thread has it."""
        try:
            return self.idle[stream].pop()
        except (KeyError, IndexError):
            return self._wait(stream)

    def give_back(self, instance: Instance) -> None:
        """The end of its use."""
        self.idle[instance.stream].append(instance)
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Let waiting threads look again."""
        with self._lock:
            self._changed.notify_all()

    def trim(self) -> None:
        """Give the arenas of those back that nobody has."""
        for mine in list(self.idle.values()):
            idle: list[Instance] = []
            with suppress(IndexError):
                while True:
                    idle.append(mine.pop())
            for instance in idle:
                instance.trim()
                self.give_back(instance)

    def _wait(self, stream: int) -> Instance:
        with self._lock:
            mine = self.idle.setdefault(stream, [])
            self.waiting += 1
            try:
                while True:
                    found = self._find(stream, mine)
                    if found is not None:
                        return found
                    self._changed.wait(LOOK_AGAIN)
            finally:
                self.waiting -= 1

    def _find(self, stream: int, mine: list[Instance]) -> Instance | None:
        with suppress(IndexError):
            return mine.pop()
        if any(i.stream == stream for i in list(self._alive)):
            return None
        if len(self._alive) < self._limit:
            made = self._make(stream)
            self._alive.add(made)
            return made
        for other in list(self.idle.values()):
            with suppress(IndexError):
                found = other.pop()
                found.move(stream)
                return found
        return None


def trim() -> None:
    """Give the arenas that no call is using back to the allocators of their devices."""
    for pool in list(_pools):
        pool.trim()


_pools: weakref.WeakSet[Instances] = weakref.WeakSet()


def _leave(cells: Cells, stream: ctypes.c_uint64) -> None:
    with suppress(VtcError):
        cells.leave(stream.value)
