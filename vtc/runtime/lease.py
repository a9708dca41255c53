"""What threads share while they call executables: pools, and claims on memory they write.

A call can be interrupted (Ctrl-C) between any two steps. So what a pool lends counts only as long
as it is alive, and a claim is made before it is taken: whoever holds neither has given both back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar, final

L = TypeVar("L")
LOOK_AGAIN = 0.1
"""Seconds after which a waiting call looks whether what it waits for was lost."""


@final
class Pool(Generic[L]):
    """At most ``limit`` living things, made when first needed, the last returned first.

    They can be referenced weakly: one that is lost makes room for another.
    """

    def __init__(self, make: Callable[[], L], limit: int) -> None:
        self._make = make
        self._limit = limit
        self.idle: list[L] = []
        """To take from in a hurry; ``take`` where it is empty."""
        self._alive: weakref.WeakSet[L] = weakref.WeakSet()
        self.waiting = 0
        self._lock = threading.RLock()  # entered by itself: a Condition can be interrupted there
        self._changed = threading.Condition(self._lock)

    def take(self) -> L:
        """A thing nobody else has; waits for one if all are out."""
        try:
            return self.idle.pop()
        except IndexError:
            return self._wait()

    def give_back(self, thing: L) -> None:
        """The end of its use."""
        self.idle.append(thing)
        # A waiting thread counts itself before it looks at ``idle``, so it is never missed.
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Let a waiting thread look at ``idle``."""
        with self._lock:
            self._changed.notify()

    def _wait(self) -> L:
        with self._lock:
            self.waiting += 1
            try:
                while True:
                    if len(self._alive) < self._limit:
                        thing = self._make()
                        self._alive.add(thing)
                        return thing
                    try:
                        return self.idle.pop()
                    except IndexError:
                        self._changed.wait(LOOK_AGAIN)
            finally:
                self.waiting -= 1


@final
class Claim:
    """Addresses that one call writes; it counts from ``take`` to ``give_back``, or its death."""

    __slots__ = ("__weakref__", "addresses")

    def __init__(self, addresses: frozenset[int]) -> None:
        self.addresses = addresses


@final
class Claims:
    """Which addresses are being written.

    A call claims all of its addresses at once, so no two calls can block each other for good.
    """

    def __init__(self) -> None:
        self._held: dict[int, weakref.ref[Claim]] = {}
        self._waiting = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def take(self, claim: Claim) -> None:
        """Wait until nobody else holds any of its addresses, then hold them."""
        with self._lock:
            while self._held and self._taken(claim.addresses):
                self._waiting += 1
                try:
                    self._changed.wait(LOOK_AGAIN)
                finally:
                    self._waiting -= 1
            self._held[id(claim)] = weakref.ref(claim)

    def give_back(self, claim: Claim) -> None:
        """Let others have the addresses; nothing happens if it does not hold them."""
        with self._lock:
            if self._held.pop(id(claim), None) is not None and self._waiting:
                self._changed.notify_all()

    def _taken(self, addresses: frozenset[int]) -> bool:
        for key, held in list(self._held.items()):
            claim = held()
            if claim is None:
                self._held.pop(key, None)
            elif not claim.addresses.isdisjoint(addresses):
                return True
        return False


CLAIMS = Claims()
"""On all memory that executables of this process write."""
