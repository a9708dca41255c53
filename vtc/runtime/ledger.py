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
    """Gauges, their highest since the last reset (peaks), and ``sum``: what only grows."""

    def __init__(self) -> None:
        self._now: Counter[str] = Counter()
        self._peak: Counter[str] = Counter()
        self.sum: Counter[str] = Counter()
        self._history: deque[tuple[str, int, int, int, str]] = deque(maxlen=HISTORY)
        # Every array passes through these: bytes in use, bytes asked for, blocks, bytes freed.
        self._used = self._asked = self._active = self._freed = 0
        self._most_used = self._most_asked = self._most_active = 0

    @property
    def now(self) -> Counter[str]:
        """A copy of the gauges."""
        used = {
            "allocated_bytes": self._used, "requested_bytes": self._asked, "active": self._active
        }  # fmt: skip
        return Counter({**self._now, **used})

    @property
    def reserved(self) -> int:
        """Bytes of all segments."""
        return self._now["reserved_bytes"]

    @property
    def history(self) -> list[Action]:
        """What happened last, oldest first."""
        return [Action(*a) for a in list(self._history)]

    def note(self, kind: str, address: int, size: int, stream: int, where: str = "") -> None:
        """Remember an action."""
        self._history.append((kind, address, size, stream, where))

    def count(self, name: str, by: int) -> None:
        """Move the gauge of segments or of their bytes."""
        now = self._now[name] = self._now[name] + by
        if now > self._peak[name]:
            self._peak[name] = now

    def handed_out(self, block: Block) -> None:
        """A block is used now."""
        size = block.size
        n = self._used = self._used + size
        if n > self._most_used:
            self._most_used = n
        n = self._asked = self._asked + block.requested
        if n > self._most_asked:
            self._most_asked = n
        n = self._active = self._active + 1
        if n > self._most_active:
            self._most_active = n
        self._history.append(("alloc", block.address, size, block.segment.stream, block.where))

    def taken_back(self, block: Block) -> None:
        """A block is not used any more."""
        size = block.size
        self._used -= size
        self._freed += size
        self._asked -= block.requested
        self._active -= 1
        self._history.append(("free", block.address, size, block.segment.stream, block.where))

    def recount(self, used: Sequence[Block], segments: Sequence[int]) -> None:
        """Set the gauges from the blocks in use and the sizes of the segments."""
        self._used = sum(b.size for b in used)
        self._asked = sum(b.requested for b in used)
        self._active = len(used)
        self._now["reserved_bytes"], self._now["segment"] = sum(segments), len(segments)

    def reset_peak(self) -> None:
        """Let peaks start again from what is in use now."""
        self._peak = Counter(self._now)
        self._most_used, self._most_asked = self._used, self._asked
        self._most_active = self._active

    def stats(self) -> dict[str, int]:
        """All counters by PyTorch's names."""
        now, found = self.now, dict[str, int]()
        most = {
            "allocated_bytes": self._most_used, "requested_bytes": self._most_asked,
            "active": self._most_active,
        }  # fmt: skip
        for name in GAUGES:
            found[f"{name}.all.current"] = now[name]
            found[f"{name}.all.peak"] = most.get(name, self._peak[name])
        found["allocated_bytes.all.freed"] = self._freed
        found["allocated_bytes.all.allocated"] = self._used + self._freed
        found["num_alloc_retries"] = self.sum["num_alloc_retries"]
        found["num_ooms"] = self.sum["num_ooms"]
        return found
