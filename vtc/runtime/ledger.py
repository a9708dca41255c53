"""What an allocator did: counters by PyTorch's names, and a bounded history.

>>> ledger = Ledger()
>>> ledger.count("segment", 1)
>>> ledger.stats()["segment.all.peak"]
1
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple, final

from vtc.runtime.blocks import Block

HISTORY = 10_000
"""Actions that are remembered."""
GAUGES = ("allocated_bytes", "requested_bytes", "reserved_bytes", "active", "segment")


class Action(NamedTuple):
    """What happened: ``alloc``, ``free``, ``segment_alloc``, ``segment_free`` or ``oom``."""

    kind: str
    address: int
    size: int
    stream: int
    where: str


@final
class Ledger:
    """``now``: gauges; ``peak``: their highest since the last reset; ``sum``: what only grows."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.sum: Counter[str] = Counter()
        self._history: deque[tuple[str, int, int, int, str]] = deque(maxlen=HISTORY)

    @property
    def history(self) -> list[Action]:
        """What happened last, oldest first."""
        return [Action(*a) for a in list(self._history)]

    def note(self, kind: str, address: int, size: int, stream: int, where: str = "") -> None:
        """Remember an action."""
        self._history.append((kind, address, size, stream, where))

    def count(self, name: str, by: int) -> None:
        """Move a gauge."""
        now = self.now[name] = self.now[name] + by
        if now > self.peak[name]:
            self.peak[name] = now

    def handed_out(self, block: Block) -> None:
        """A block is used now. ``count`` is written out: every array passes here."""
        now, peak = self.now, self.peak
        n = now["allocated_bytes"] = now["allocated_bytes"] + block.size
        if n > peak["allocated_bytes"]:
            peak["allocated_bytes"] = n
        n = now["requested_bytes"] = now["requested_bytes"] + block.requested
        if n > peak["requested_bytes"]:
            peak["requested_bytes"] = n
        n = now["active"] = now["active"] + 1
        if n > peak["active"]:
            peak["active"] = n
        stream = block.segment.stream
        self._history.append(("alloc", block.address, block.size, stream, block.where))

    def taken_back(self, block: Block) -> None:
        """A block is not used any more."""
        now = self.now
        now["allocated_bytes"] -= block.size
        now["requested_bytes"] -= block.requested
        now["active"] -= 1
        self.sum["freed_bytes"] += block.size
        stream = block.segment.stream
        self._history.append(("free", block.address, block.size, stream, block.where))

    def recount(self, used: Sequence[Block], segments: Sequence[int]) -> None:
        """Set the gauges from the blocks in use and the sizes of the segments."""
        self.now["allocated_bytes"] = sum(b.size for b in used)
        self.now["requested_bytes"] = sum(b.requested for b in used)
        self.now["reserved_bytes"] = sum(segments)
        self.now["active"], self.now["segment"] = len(used), len(segments)

    def reset_peak(self) -> None:
        """Let peaks start again from what is in use now."""
        self.peak = Counter(self.now)

    def stats(self) -> dict[str, int]:
        """All counters by PyTorch's names."""
        found: dict[str, int] = {}
        for name in GAUGES:
            found[f"{name}.all.current"] = self.now[name]
            found[f"{name}.all.peak"] = self.peak[name]
        freed = self.sum["freed_bytes"]
        found["allocated_bytes.all.freed"] = freed
        found["allocated_bytes.all.allocated"] = self.now["allocated_bytes"] + freed
        found["num_alloc_retries"] = self.sum["num_alloc_retries"]
        found["num_ooms"] = self.sum["num_ooms"]
        return found
