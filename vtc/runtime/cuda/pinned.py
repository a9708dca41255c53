"""Host memory that devices copy from and to by themselves: page-locked, cached, given back safely.

>>> x = pinned_empty((64, 512), np.dtype("f4"))     # an ordinary array
>>> is_pinned(x[1:])
True

When the last view dies its block is kept and handed out again, once the streams that were told to
copy from or to it (``used_by``) have got past that. ``trim`` gives free blocks back to the system.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict, deque
from math import prod
from typing import Any, final

import numpy as np

from vtc.errors import OutOfMemoryError
from vtc.ir.types import Array
from vtc.runtime.buffer import address
from vtc.runtime.cuda.driver import Driver, driver
from vtc.runtime.cuda.space import array_at

SMALLEST = 512
_BYTES = np.dtype(np.uint8)
Uses = set[tuple[int, int]]
"""Devices and streams."""


@final
class PinnedMemory:
    """Page-locked memory of one driver. No block has two owners; sizes are powers of two."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._dropped: deque[tuple[int, int, Uses]] = deque()
        self._waiting: deque[tuple[int, int, list[tuple[int, int]]]] = deque()
        self._lock = threading.RLock()

    def take(self, nbytes: int) -> tuple[int, int]:
        """The address of a block for ``nbytes``, and its size."""
        size = max(SMALLEST, 1 << (nbytes - 1).bit_length())
        with self._lock:
            self._collect()
            if self._free[size]:
                return self._free[size].pop(), size
            try:
                return self.driver.pinned(size), size
            except OutOfMemoryError:
                self.trim()
                return self.driver.pinned(size), size

    def give_back(self, at: int, size: int, uses: Uses) -> None:
        """The end of a block's use; safe at any time, also within ``take``."""
        self._dropped.append((at, size, uses))

    def trim(self) -> None:
        """Give the blocks that nothing uses back to the system."""
        with self._lock:
            self._collect()
            for blocks in self._free.values():
                while blocks:
                    self.driver.free_pinned(blocks.pop())

    def _collect(self) -> None:
        while self._dropped:
            at, size, uses = self._dropped.popleft()
            events = [(device, self._record(device, stream)) for device, stream in sorted(uses)]
            self._waiting.append((at, size, events))
        for _ in range(len(self._waiting)):
            at, size, events = self._waiting.popleft()
            if all(self.driver.event_done(*e) for e in events):
                for e in events:
                    self.driver.destroy_event(*e)
                self._free[size].append(at)
            else:
                self._waiting.append((at, size, events))

    def _record(self, device: int, stream: int) -> int:
        event = self.driver.event(device, timing=False)
        self.driver.record(device, event, stream)
        return event


@final
class PinnedLease(np.ndarray[Any, np.dtype[Any]]):
    """One use of a block: the base of every array over it. ``uses`` are streams that copy."""

    __slots__ = ("memory", "uses")

    memory: PinnedMemory
    uses: Uses

    def __del__(self) -> None:
        if sys is None or sys.is_finalizing():
            return
        memory = getattr(self, "memory", None)  # a view of a lease has none
        if memory is not None:
            memory.give_back(address(self), self.size, self.uses)


def pinned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array with undefined elements in page-locked memory."""
    memory = _memory()
    at, size = memory.take(max(prod(shape) * dtype.itemsize, 1))
    lease = array_at(PinnedLease, at, size)
    lease.uses = set()
    lease.memory = memory
    return np.ndarray(shape, dtype, lease)


def lease_of(array: Array) -> PinnedLease | None:
    """The page-locked memory that ``array`` lies in, if it does."""
    base = array.base
    while isinstance(base, np.ndarray):
        if type(base) is PinnedLease:
            return base
        base = base.base
    return None


def is_pinned(array: Array) -> bool:
    """Whether the memory of an array is page-locked."""
    return lease_of(array) is not None


def trim() -> None:
    """Give page-locked memory that nothing uses back to the system."""
    if _in_use is not None:
        _in_use.trim()


_in_use: PinnedMemory | None = None
_making = threading.RLock()


def _memory() -> PinnedMemory:
    global _in_use
    with _making:
        if _in_use is None or _in_use.driver is not driver():
            _in_use = PinnedMemory(driver())
        return _in_use
