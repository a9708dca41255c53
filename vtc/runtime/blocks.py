"""Blocks of device memory: segments that are split and merged, and free lists that find the best
fit.

A segment comes from the device in one piece. Its blocks are a doubly linked list without gaps; two
free neighbours never stay apart. A pool holds the free blocks of one kind (small or large) for one
stream, ordered by size and address.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Any, final

ROUND = 512
"""Every block is a multiple of this many bytes."""
SMALL, LARGE = 1 << 20, 10 << 20
"""Requests up to ``SMALL`` share segments of ``SMALL_SEGMENT``, those below ``LARGE`` segments of
``LARGE_SEGMENT``; larger ones get segments of their own."""
SMALL_SEGMENT, LARGE_SEGMENT, STEP = 2 << 20, 20 << 20, 2 << 20


def rounded(nbytes: int) -> int:
    """The size of the block that serves ``nbytes``."""
    return max(ROUND, -(-nbytes // ROUND) * ROUND)


def segment_size(size: int) -> int:
    """The size of the segment that is made for a block of ``size``."""
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < LARGE else -(-size // STEP) * STEP


@final
@dataclass(eq=False, slots=True)
class Segment:
    """One piece of device memory, on ``stream``, in the pool of graph ``owner`` (0: none)."""

    address: int
    size: int
    stream: int
    small: bool
    owner: int = 0


@final
@dataclass(eq=False, slots=True)
class Block:
    """A part of a segment. ``where`` is the user's line that allocated it, while it is in use.

    ``uses`` are streams other than its own that work with it, and stay until it waits for none;
    ``pending`` counts the events its memory still waits for after it was freed. One that is
    ``kept`` is free, but for a request of just its size: neighbours do not merge with it. One that
    is ``shelved`` is free too, but only who takes its loan off the shelf may have it.
    """

    segment: Segment
    address: int
    size: int
    requested: int = 0
    used: bool = False
    where: str = ""
    before: Block | None = None
    after: Block | None = None
    uses: set[int] = field(default_factory=set)
    pending: int = 0
    kept: bool = False
    shelved: bool = False

    @property
    def free(self) -> bool:
        """Whether it can be handed out for any request."""
        return not (self.used or self.pending or self.kept or self.shelved)

    @property
    def whole(self) -> bool:
        """Whether it is its segment."""
        return self.before is None and self.after is None

    def split(self, size: int) -> Block | None:
        """Keep ``size`` bytes; the rest as a new block, if it is worth one."""
        rest = self.size - size
        if rest < (ROUND if self.segment.small else SMALL + 1):
            return None
        made = Block(self.segment, self.address + size, rest, before=self, after=self.after)
        if self.after is not None:
            self.after.before = made
        self.after, self.size = made, size
        return made

    def absorb(self) -> Block:
        """Take the block after this one, which goes away; the block that was taken."""
        gone = self.after
        if gone is None:
            raise ValueError(f"block at {self.address:#x}: expected one after it, got none")
        self.size += gone.size
        self.after = gone.after
        if gone.after is not None:
            gone.after.before = self
        return gone


@final
@dataclass(slots=True)
class FreeList:
    """Free blocks, by size and then address."""

    _keys: list[tuple[int, int]] = field(default_factory=list)
    _blocks: dict[int, Block] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """Make ``block`` available."""
        insort(self._keys, (block.size, block.address))
        self._blocks[block.address] = block

    def remove(self, block: Block) -> None:
        """Take ``block`` out."""
        del self._keys[bisect_left(self._keys, (block.size, block.address))]
        del self._blocks[block.address]

    def best(self, size: int, most: int) -> Block | None:
        """The smallest block of at least ``size`` and at most ``most`` bytes, taken out."""
        k = bisect_left(self._keys, (size, 0))
        if k == len(self._keys) or self._keys[k][0] > most:
            return None
        _, address = self._keys.pop(k)
        return self._blocks.pop(address)

    def blocks(self) -> list[Block]:
        """All of them, the smallest first."""
        return [self._blocks[address] for _, address in self._keys]


def described(block: Block) -> dict[str, Any]:
    """What a snapshot says about ``block``."""
    state = "active_allocated" if block.used else "active_pending_free" if block.pending else ""
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": block.requested if block.used else 0,
        "state": state or "inactive",
        "where": block.where,
    }
