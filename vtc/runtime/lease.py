"""What threads share while they call executables: pools, and claims on memory they write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

L = TypeVar("L")


@final
class Pool(Generic[L]):
    """At most ``limit`` things, made when first needed, the last returned first."""

    def __init__(self, make: Callable[[], L], limit: int) -> None:
        self._make = make
        self._left = limit
        self._idle: list[L] = []
        self._waiting = 0
        self._changed = threading.Condition()

    def take(self) -> L:
        """A thing nobody else has; waits for one if all are out."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._wait()

    def give_back(self, thing: L) -> None:
        """The end of its use."""
        self._idle.append(thing)
        # A waiting thread counts itself before it looks at ``_idle``, so it is never missed.
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def _wait(self) -> L:
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if self._left:
                        thing = self._make()
                        self._left -= 1
                        return thing
                    try:
                        return self._idle.pop()
                    except IndexError:
                        self._changed.wait()
            finally:
                self._waiting -= 1


@final
class Claims:
    """Which addresses are being written.

    A call claims all of its addresses at once, so no two calls can block each other for good.
    """

    def __init__(self) -> None:
        self._busy: set[int] = set()
        self._waiting = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def take(self, addresses: frozenset[int]) -> None:
        """Wait until nobody holds any of ``addresses``, then hold them."""
        with self._lock:
            while not self._busy.isdisjoint(addresses):
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1
            self._busy |= addresses

    def give_back(self, addresses: frozenset[int]) -> None:
        """Let others have ``addresses``."""
        with self._lock:
            self._busy -= addresses
            if self._waiting:
                self._changed.notify_all()
