"""The caching allocator of a device: memory that is freed stays here and is handed out again.

Memory belongs to a stream: what one stream freed, the same stream may have again at once, since
its work runs in order. Where another stream worked with it (``used_by``), it comes back when an
event that is recorded there at the free is done. While a graph is captured nothing is waited for,
and memory comes from the graph's own pool, which lives as long as the graph::

    at = allocator.allocate(1 << 20, stream=0, where="train.py:14 blocks.3.attn")
    allocator.used_by(at, stream=7)
    allocator.free(at)
    print(allocator.stats()["allocated_bytes.all.current"])

The names of the statistics are PyTorch's. Any thread may call; there is one lock.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

from vtc.errors import OutOfMemoryError
from vtc.runtime.blocks import (
    LARGE_SEGMENT,
    SMALL,
    Block,
    FreeList,
    Segment,
    rounded,
    segment_size,
)

HISTORY = 10_000
"""Actions that are remembered."""
OWNERS = 5
"""Owners that an error names."""
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


@final
@dataclass(frozen=True, slots=True)
class Action:
    """What happened: ``alloc``, ``free``, ``segment_alloc``, ``segment_free`` or ``oom``."""

    kind: str
    address: int
    size: int
    stream: int
    where: str


@final
class Allocator:
    """See the module."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.limit = memory.total
        self._lock = threading.RLock()
        self._used: dict[int, Block] = {}
        self._segments: dict[int, Segment] = {}
        self._heads: dict[int, Block] = {}
        self._free: defaultdict[tuple[int, int, bool], FreeList] = defaultdict(FreeList)
        self._events: deque[tuple[Any, Block]] = deque()
        self._deferred: list[Block] = []
        self._captures: list[int] = []
        self._pools = 0
        self._dead: set[int] = set()
        self._now: Counter[str] = Counter()
        self._peak: Counter[str] = Counter()
        self._sum: Counter[str] = Counter()
        self.history: deque[Action] = deque(maxlen=HISTORY)

    # allocating

    def allocate(self, nbytes: int, stream: int = 0, where: str = "") -> int:
        """The address of ``nbytes`` bytes for work on ``stream``; 0 for none.

        OutOfMemoryError if the device has not so much, even after everything cached was given back.
        """
        if nbytes == 0:
            return 0
        with self._lock:
            self._collect(wait=False)
            size = rounded(nbytes)
            block = self._find(size, stream) or self._grow(size, stream) or self._last(size, stream)
            if block is None:
                self._count("num_ooms", 1)
                self._note("oom", 0, size, stream, where)
                raise self._no_memory(nbytes, stream)
            return self._hand_out(block, size, nbytes, where)

    def used_by(self, address: int, stream: int) -> None:
        """Say that ``stream`` works with the memory at ``address``: freed, it waits for that."""
        with self._lock:
            block = self._block(address)
            if stream != block.segment.stream:
                block.uses.add(stream)

    def free(self, address: int) -> None:
        """Take memory back; what works with it on its stream may still run."""
        if address == 0:
            return
        with self._lock:
            block = self._block(address)
            del self._used[address]
            self._now["allocated_bytes"] -= block.size
            self._now["requested_bytes"] -= block.requested
            self._now["active"] -= 1
            self._sum["freed_bytes"] += block.size
            self._note("free", address, block.size, block.segment.stream, block.where)
            block.used, block.where = False, ""
            if block.uses and self._captures:
                block.pending = 1  # an event cannot be asked for while a graph is captured
                self._deferred.append(block)
            elif block.uses:
                self._wait_for_uses(block)
            else:
                self._put_back(block)

    # pools of graphs

    def new_pool(self) -> int:
        """A pool for the memory of a graph: nothing else is put there."""
        with self._lock:
            self._pools += 1
            return self._pools

    @contextmanager
    def capture(self, pool: int) -> Iterator[None]:
        """Allocate from ``pool`` inside; what other streams use is waited for afterwards."""
        with self._lock:
            self._captures.append(pool)
        try:
            yield
        finally:
            with self._lock:
                self._captures.remove(pool)
                if not self._captures:
                    waiting, self._deferred = self._deferred, []
                    for block in waiting:
                        block.pending = 0
                        self._wait_for_uses(block)

    def drop_pool(self, pool: int) -> None:
        """The graph of ``pool`` is gone: its memory returns to the device once it is free."""
        with self._lock:
            self._dead.add(pool)
            self._release(pools={pool})

    # looking and giving back

    def empty_cache(self) -> None:
        """Give all memory that is free back to the device, after what is still waited for."""
        with self._lock:
            self._collect(wait=not self._captures)
            self._release(pools={0, *self._dead})

    def set_fraction(self, fraction: float) -> None:
        """Never hold more than this part of the device's memory."""
        with self._lock:
            self.limit = int(self.memory.total * fraction)

    def stats(self) -> dict[str, int]:
        """Counters by PyTorch's names: ``allocated_bytes.all.current``, ``.peak`` and so on."""
        with self._lock:
            found: dict[str, int] = {}
            for name in (
                "allocated_bytes",
                "requested_bytes",
                "reserved_bytes",
                "active",
                "segment",
            ):
                found[f"{name}.all.current"] = self._now[name]
                found[f"{name}.all.peak"] = self._peak[name]
            found["inactive_split_bytes.all.current"] = self._split_bytes()
            found["allocated_bytes.all.freed"] = self._sum["freed_bytes"]
            found["allocated_bytes.all.allocated"] = (
                self._now["allocated_bytes"] + self._sum["freed_bytes"]
            )
            found["num_alloc_retries"] = self._sum["num_alloc_retries"]
            found["num_ooms"] = self._sum["num_ooms"]
            return found

    def reset_peak(self) -> None:
        """Let peaks start again from what is in use now."""
        with self._lock:
            self._peak = Counter(self._now)

    def snapshot(self) -> list[dict[str, Any]]:
        """Every segment with every block: address, size, state, and the line that allocated it."""
        with self._lock:
            return [
                {
                    "address": s.address,
                    "total_size": s.size,
                    "stream": s.stream,
                    "segment_type": "small" if s.small else "large",
                    "pool": s.owner,
                    "blocks": [_described(b) for b in self._chain(s)],
                }
                for s in self._segments.values()
            ]

    # how

    def _find(self, size: int, stream: int) -> Block | None:
        """A free block, the best fit; a large one is not broken up for a much smaller one."""
        pool = self._captures[-1] if self._captures else 0
        small = size <= SMALL
        most = size + LARGE_SEGMENT if size >= LARGE_SEGMENT else 1 << 62
        return self._free[pool, stream, small].best(size, most)

    def _grow(self, size: int, stream: int) -> Block | None:
        """A new segment, if the device and the limit have room for it."""
        pool = self._captures[-1] if self._captures else 0
        whole = segment_size(size)
        if self._now["reserved_bytes"] + whole > self.limit:
            return None
        address = self.memory.reserve(whole)
        if address is None:
            return None
        segment = Segment(address, whole, stream, size <= SMALL, pool)
        self._segments[address] = segment
        block = self._heads[address] = Block(segment, address, whole)
        self._count("reserved_bytes", whole)
        self._count("segment", 1)
        self._note("segment_alloc", address, whole, stream, "")
        return block

    def _last(self, size: int, stream: int) -> Block | None:
        """What can still be done: drop garbage, wait for other streams, give back what is free."""
        self._sum["num_alloc_retries"] += 1
        gc.collect()
        if not self._captures:
            self._collect(wait=True)
        if (block := self._find(size, stream)) is not None:
            return block
        self._release(pools={0, *self._dead})
        return self._grow(size, stream)

    def _hand_out(self, block: Block, size: int, requested: int, where: str) -> int:
        rest = block.split(size)
        if rest is not None:
            self._list(rest).add(rest)
        block.used, block.requested, block.where = True, requested, where
        self._used[block.address] = block
        self._count("allocated_bytes", block.size)
        self._count("requested_bytes", requested)
        self._count("active", 1)
        self._note("alloc", block.address, block.size, block.segment.stream, where)
        return block.address

    def _put_back(self, block: Block) -> None:
        """Merge a block with free neighbours and make it available."""
        if block.after is not None and block.after.free:
            self._list(block.after).remove(block.after)
            block.absorb()
        if block.before is not None and block.before.free:
            self._list(block.before).remove(block.before)
            block = block.before
            block.absorb()
        self._list(block).add(block)
        if block.whole and block.segment.owner in self._dead and not self._captures:
            self._give_back(block)

    def _wait_for_uses(self, block: Block) -> None:
        """Let ``block`` come back when the other streams are done with it."""
        uses, block.uses = block.uses, set()
        for stream in sorted(uses):
            block.pending += 1
            self._events.append((self.memory.record(stream), block))

    def _collect(self, *, wait: bool) -> None:
        """Put blocks back whose events are done; with ``wait``, when they are."""
        if self._captures:
            return
        waiting: deque[tuple[Any, Block]] = deque()
        while self._events:
            event, block = self._events.popleft()
            if wait:
                self.memory.wait(event)
            elif not self.memory.done(event):
                waiting.append((event, block))
                continue
            block.pending -= 1
            if not block.pending:
                self._put_back(block)
        self._events = waiting

    def _release(self, pools: set[int]) -> None:
        """Give segments of ``pools`` that are free altogether back to the device."""
        if self._captures:
            return
        for (pool, _, _), free in list(self._free.items()):
            for block in free.blocks() if pool in pools else ():
                if block.whole:
                    self._give_back(block)

    def _give_back(self, block: Block) -> None:
        segment = block.segment
        self._list(block).remove(block)
        self.memory.wait(self.memory.record(segment.stream))  # what was freed may still be at work
        del self._segments[segment.address], self._heads[segment.address]
        self.memory.release(segment.address)
        self._count("reserved_bytes", -segment.size)
        self._count("segment", -1)
        self._note("segment_free", segment.address, segment.size, segment.stream, "")

    def _list(self, block: Block) -> FreeList:
        segment = block.segment
        return self._free[segment.owner, segment.stream, segment.small]

    def _block(self, address: int) -> Block:
        block = self._used.get(address)
        if block is None:
            raise ValueError(f"allocator: nothing in use begins at address {address:#x}")
        return block

    def _chain(self, segment: Segment) -> Iterator[Block]:
        block: Block | None = self._heads[segment.address]
        while block is not None:
            yield block
            block = block.after

    def _split_bytes(self) -> int:
        return sum(b.size for free in self._free.values() for b in free.blocks() if not b.whole)

    def _count(self, name: str, by: int) -> None:
        if name.startswith("num_"):
            self._sum[name] += by
            return
        self._now[name] += by
        self._peak[name] = max(self._peak[name], self._now[name])

    def _note(self, kind: str, address: int, size: int, stream: int, where: str) -> None:
        self.history.append(Action(kind, address, size, stream, where))

    def _no_memory(self, nbytes: int, stream: int) -> OutOfMemoryError:
        owners: Counter[str] = Counter()
        for block in self._used.values():
            owners[block.where or "unknown"] += block.size
        reserved, used = self._now["reserved_bytes"], self._now["allocated_bytes"]
        lines = [
            f"{self.memory.name}: expected {_gib(nbytes)} of memory, got none: "
            f"{_gib(reserved)} reserved, {_gib(used)} of them in use, of {_gib(self.limit)}",
            *(f"  {_gib(size)} at {where}" for where, size in owners.most_common(OWNERS)),
        ]
        return OutOfMemoryError("\n".join(lines))


def _described(block: Block) -> dict[str, Any]:
    state = "active_allocated" if block.used else "active_pending_free" if block.pending else ""
    return {
        "address": block.address,
        "size": block.size,
        "requested_size": block.requested if block.used else 0,
        "state": state or "inactive",
        "where": block.where,
    }


def _gib(nbytes: int) -> str:
    if nbytes >= GIB:
        return f"{nbytes / GIB:.2f} GiB"
    return f"{nbytes / (1 << 20):.2f} MiB"
