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

Memory is freed when arrays die, which may be in the middle of any call: ``free`` only queues, and
the next call takes the queue in. A call that is interrupted (Ctrl-C) leaves lists half changed;
they are made anew then from what cannot be half changed: chains of blocks, and who uses which.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final

from vtc.errors import OutOfMemoryError, RunError
from vtc.runtime.blocks import (
    LARGE_SEGMENT,
    ROUND,
    SMALL,
    Block,
    FreeList,
    Segment,
    segment_size,
)
from vtc.runtime.ledger import Action, Ledger

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
class Allocator:
    """See the module."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.limit = memory.total
        self._lock = threading.RLock()
        self._busy = False
        self._freed: deque[int] = deque()
        self._used: dict[int, Block] = {}
        self._segments: dict[int, Segment] = {}
        self._heads: dict[int, Block] = {}
        self._free: defaultdict[tuple[int, int, bool], FreeList] = defaultdict(FreeList)
        self._kept: dict[tuple[int, int, int], list[Block]] = {}
        self._events: deque[tuple[Any, Block]] = deque()
        self._deferred: list[Block] = []
        self._captures: list[int] = []
        self._pool = 0
        self._pools = 0
        self._dead: set[int] = set()
        self._ledger = Ledger()

    # allocating

    def allocate(self, nbytes: int, stream: int = 0, where: str = "") -> int:
        """The address of ``nbytes`` bytes for work on ``stream``; 0 for none.

        OutOfMemoryError if the device has not so much, even after everything cached was given back.
        """
        if nbytes == 0:
            return 0
        size = -(-nbytes // ROUND) * ROUND
        block = None
        with self._lock:
            if self._busy:
                raise self._entered_again()
            self._busy = True  # no call until ``try``: an interrupt would leave it so
            try:
                if self._freed:
                    self._take_back()
                if self._events:
                    self._collect(wait=False)
                kept = self._kept.get((size, stream, self._pool))
                block = kept.pop() if kept else self._search(size, nbytes, stream, where)
                block.kept, block.used = False, True
                block.requested, block.where = nbytes, where
                self._used[block.address] = block
                self._ledger.handed_out(block)
                return block.address
            except OutOfMemoryError:
                raise
            except BaseException:
                if block is not None:
                    self._used.pop(block.address, None)
                self._repair()
                raise
            finally:
                self._busy = False

    def used_by(self, address: int, stream: int) -> None:
        """Say that ``stream`` works with the memory at ``address``: freed, it waits for that."""
        block = self._block(address)
        if stream != block.segment.stream:
            block.uses.add(stream)

    def free(self, address: int) -> None:
        """Take memory back; what works with it on its stream may still run.

        May be called at any time, also by the garbage collector within another call.
        """
        if address:
            self._freed.append(self._block(address).address)

    # pools of graphs

    def new_pool(self) -> int:
        """A pool for the memory of a graph: nothing else is put there."""
        with self._turn():
            self._pools += 1
            return self._pools

    @contextmanager
    def capture(self, pool: int) -> Iterator[None]:
        """Allocate from ``pool`` inside; what other streams use is waited for afterwards."""
        with self._turn():
            self._captures.append(pool)
            self._pool = pool
        try:
            yield
        finally:
            with self._turn():
                self._captures.remove(pool)
                self._pool = self._captures[-1] if self._captures else 0
                if not self._captures:
                    waiting, self._deferred = self._deferred, []
                    for block in waiting:
                        self._wait_for_uses(block)

    def drop_pool(self, pool: int) -> None:
        """The graph of ``pool`` is gone: its memory returns to the device once it is free."""
        with self._turn():
            self._dead.add(pool)
            self._release(pools={pool})

    # looking and giving back

    def empty_cache(self) -> None:
        """Give all memory that is free back to the device, after what is still waited for."""
        with self._turn():
            self._collect(wait=True)
            self._release(pools={0, *self._dead})

    def set_fraction(self, fraction: float) -> None:
        """Never hold more than this part of the device's memory."""
        self.limit = int(self.memory.total * fraction)

    def stats(self) -> dict[str, int]:
        """Counters by PyTorch's names: ``allocated_bytes.all.current``, ``.peak`` and so on."""
        with self._looking():
            split = sum(b.size for f in self._free.values() for b in f.blocks() if not b.whole)
            kept = sum(b.size for blocks in self._kept.values() for b in blocks)
            return {**self._ledger.stats(), "inactive_split_bytes.all.current": split + kept}

    def reset_peak(self) -> None:
        """Let peaks start again from what is in use now."""
        with self._looking():
            self._ledger.reset_peak()

    def snapshot(self) -> list[dict[str, Any]]:
        """Every segment with every block: address, size, state, and the line that allocated it."""
        with self._looking():
            self._merge_kept()
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

    @property
    def history(self) -> list[Action]:
        """What happened last, oldest first."""
        return self._ledger.history

    def owners(self) -> list[tuple[str, int]]:
        """The lines that use the most memory, and how many bytes."""
        found: Counter[str] = Counter()
        for block in list(self._used.values()):
            found[block.where or "unknown"] += block.size
        return found.most_common(OWNERS)

    # taking turns

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nobody else changes anything inside; ``allocate`` has it written out."""
        with self._lock:
            if self._busy:
                raise self._entered_again()
            self._busy = True
            try:
                if self._freed:
                    self._take_back()
                yield
            except BaseException:
                self._repair()
                raise
            finally:
                self._busy = False

    def _entered_again(self) -> RunError:
        return RunError(
            f"{self.memory.name}: expected no tensor to be made while memory is allocated, "
            "got one made by __del__ or by a signal handler"
        )

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """To read; within another call (a signal handler prints statistics) without the queue."""
        with self._lock:
            if self._busy:
                yield
            else:
                with self._turn():
                    yield

    # how

    def _take_back(self) -> None:
        """Do what ``free`` queued."""
        while self._freed:
            block = self._used.pop(self._freed[0], None)
            if block is not None:
                self._ledger.taken_back(block)
                block.used, block.where = False, ""
                self._return(block)
            self._freed.popleft()

    def _return(self, block: Block) -> None:
        """Make a block that nobody uses available, at once or later."""
        segment = block.segment
        if block.uses and self._captures:
            block.pending = 1  # an event cannot be asked for while a graph is captured
            self._deferred.append(block)
        elif block.uses:
            self._wait_for_uses(block)
        elif block.size <= SMALL and segment.owner not in self._dead:
            block.kept = True
            self._kept.setdefault((block.size, segment.stream, segment.owner), []).append(block)
        else:
            self._put_back(block)

    def _search(self, size: int, nbytes: int, stream: int, where: str) -> Block:
        """A block of ``size`` bytes where none just fits."""
        block = self._find(size, stream)
        if block is None and self._kept:
            self._merge_kept()
            block = self._find(size, stream)
        block = block or self._grow(size, stream) or self._last(size, stream)
        if block is None:
            self._ledger.sum["num_ooms"] += 1
            self._ledger.note("oom", 0, size, stream, where)
            raise self._no_memory(nbytes)
        rest = block.split(size)
        if rest is not None:
            self._list(rest).add(rest)
        return block

    def _merge_kept(self) -> None:
        """Let blocks that were kept for requests of their size serve others."""
        kept, self._kept = self._kept, {}
        for blocks in kept.values():
            for block in blocks:
                block.kept = False
                self._put_back(block)

    def _find(self, size: int, stream: int) -> Block | None:
        """A free block, the best fit; a large one is not broken up for a much smaller one."""
        small = size <= SMALL
        most = size + LARGE_SEGMENT if size >= LARGE_SEGMENT else 1 << 62
        return self._free[self._pool, stream, small].best(size, most)

    def _grow(self, size: int, stream: int) -> Block | None:
        """A new segment, if the device and the limit have room for it."""
        whole = segment_size(size)
        if self._ledger.now["reserved_bytes"] + whole > self.limit:
            return None
        address = self.memory.reserve(whole)
        if address is None:
            return None
        segment = Segment(address, whole, stream, size <= SMALL, self._pool)
        block = self._heads[address] = Block(segment, address, whole)
        self._segments[address] = segment
        self._ledger.count("reserved_bytes", whole)
        self._ledger.count("segment", 1)
        self._ledger.note("segment_alloc", address, whole, stream)
        return block

    def _last(self, size: int, stream: int) -> Block | None:
        """What can still be done: drop garbage, wait for other streams, give back what is free."""
        self._ledger.sum["num_alloc_retries"] += 1
        gc.collect()
        self._take_back()
        self._collect(wait=True)
        self._merge_kept()
        if (block := self._find(size, stream)) is not None:
            return block
        self._release(pools={0, *self._dead})
        return self._grow(size, stream)

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
        block.pending = 0
        for stream in sorted(block.uses):
            self._events.append((self.memory.record(stream), block))
            block.pending += 1

    def _collect(self, *, wait: bool) -> None:
        """Put blocks back whose events are done; with ``wait``, when they are."""
        if self._captures:
            return
        for _ in range(len(self._events)):
            event, block = self._events.popleft()
            if wait:
                self.memory.wait(event)
            elif not self.memory.done(event):
                self._events.append((event, block))
                continue
            block.pending -= 1
            if not block.pending:
                block.uses.clear()
                self._put_back(block)

    def _release(self, pools: set[int]) -> None:
        """Give segments of ``pools`` that are free altogether back to the device."""
        if self._captures:
            return
        self._merge_kept()
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
        self._ledger.count("reserved_bytes", -segment.size)
        self._ledger.count("segment", -1)
        self._ledger.note("segment_free", segment.address, segment.size, segment.stream)

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

    def _repair(self) -> None:
        """After something was interrupted: make all lists and counts anew."""
        for key in self._segments.keys() ^ self._heads.keys():
            self._segments.pop(key, None), self._heads.pop(key, None)
        self._free.clear()
        self._kept.clear()
        self._events.clear()
        self._deferred.clear()
        blocks = [b for s in self._segments.values() for b in self._relinked(s)]
        for block in blocks:
            block.kept, block.used = False, self._used.get(block.address) is block
            block.pending = int(not block.used)  # until all are right, none merges
        used = [b for b in blocks if b.used]
        self._ledger.recount(used, [s.size for s in self._segments.values()])
        for block in blocks:
            if not block.used:
                block.pending = 0
                self._return(block)

    def _relinked(self, segment: Segment) -> list[Block]:
        """The blocks of a segment; sizes and links back follow from the links forward."""
        blocks = list(self._chain(segment))
        ends = [*(b.address for b in blocks[1:]), segment.address + segment.size]
        for before, block, end in zip([None, *blocks], blocks, ends, strict=False):
            block.before, block.size = before, end - block.address
        return blocks

    def _no_memory(self, nbytes: int) -> OutOfMemoryError:
        reserved, used = self._ledger.now["reserved_bytes"], self._ledger.now["allocated_bytes"]
        lines = [
            f"{self.memory.name}: expected {_gib(nbytes)} of memory, got none: "
            f"{_gib(reserved)} reserved, {_gib(used)} of them in use, of {_gib(self.limit)}",
            *(f"  {_gib(size)} at {where}" for where, size in self.owners()),
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
