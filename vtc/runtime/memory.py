"""What an allocator needs of a device, and what it says when there is no more of it.

class Toy(Memory): ...               # reserve, release, record, done, wait
raise no_memory("toy:0", 1 << 30, held, limit, owners)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vtc.errors import OutOfMemoryError

GIB = 1 << 30


class Memory(Protocol):
    """What an allocator needs of a device."""

    name: str
    total: int

    def reserve(self, nbytes: int) -> int | None:
        """The address of new memory, aligned to 512 bytes; None if the device has not so much."""

    def release(self, address: int) -> None:
        """Give memory back that nothing works with any more."""

    def record(self, stream: int) -> Any:
        """An event that is done when all that ``stream`` was given so far is."""

    def done(self, event: Any) -> bool:
        """Whether an event is done."""

    def wait(self, event: Any) -> None:
        """Block this thread until an event is done."""


def no_memory(
    name: str, nbytes: int, held: Mapping[str, int], limit: int, owners: Sequence[tuple[str, int]]
) -> OutOfMemoryError:
    """The error where device ``name`` has no ``nbytes`` more. ``held``: gauges of the ledger."""
    lines = [
        f"{name}: expected {_gib(nbytes)} of memory, got none: {_gib(held['reserved_bytes'])} "
        f"reserved, {_gib(held['allocated_bytes'])} of them in use, of {_gib(limit)}",
        *(f"  {_gib(size)} at {where}" for where, size in owners),
    ]
    return OutOfMemoryError("\n".join(lines))


def _gib(nbytes: int) -> str:
    if nbytes >= GIB:
        return f"{nbytes / GIB:.2f} GiB"
    return f"{nbytes / (1 << 20):.2f} MiB"
