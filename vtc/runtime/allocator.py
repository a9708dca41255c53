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

Blocks of one size that are lent again and again cost no lock: the loans of those that are free lie
on the shelf of their size and stream, to be taken with ``pop`` and put back with ``append``. Who
does so says so in ``notes``, and statistics follow when somebody asks. Where a request finds no
block, those on shelves are merged with their neighbours before the device is asked for more.

Memory is freed when arrays die, which may be in the middle of any call: ``free`` only makes a note,
and the next call takes the notes in. A call that is interrupted (Ctrl-C) leaves lists half changed;
they are made anew then from what cannot be half changed: chains of blocks, and who uses which.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from vtc.errors import OutOfMemoryError, RunError
from vtc.runtime.blocks import (
    LARGE_SEGMENT,
    ROUND,
    SMALL,
    Block,
    FreeList,
    Segment,
    described,
    segment_size,
)
from vtc.runtime.ledger import Action, Ledger
from vtc.runtime.memory import Memory, no_memory
from vtc.runtime.shelf import Note, Shelf, Shelves

SHELVED = 32 << 20
"""Bytes of the largest blocks that go to shelves."""
NOTES = 4096
"""Notes after which they are taken in."""
OWNERS = 5
"""Owners that an error names."""


@final
class Allocator:
    """See the module."""

    def __init__(self, memory: Memory, *, exact: bool = False) -> None:
        self.memory = memory
        self.limit = memory.total
        self.exact = exact
        """Whether each block is memory of its own: slow, but tools see what lies outside of it."""
        self._lock = threading.RLock()
        self._busy = False
        self.notes: deque[Note] = deque()
        """What happened to blocks since the last turn, oldest first."""
        self.shelving = True
        """Whether blocks may go to shelves: not while a graph is captured."""
        self._shelves = Shelves()
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
        return self.lend(nbytes, stream, where).address if nbytes else 0

    def lend(self, nbytes: int, stream: int, where: str = "") -> Block:
        """:meth:`allocate` that gives the block; ``nbytes`` is not 0."""
        size = -(-nbytes // ROUND) * ROUND
        block = None
        with self._lock:
            if self._busy:
                raise self._entered_again()
            self._busy = True  # no call until ``try``: an interrupt would leave it so
            try:
                if self.notes:
                    self._take_in()
                if self._events:
                    self._collect(wait=False)
                kept = self._kept.get((size, stream, self._pool))
                block = kept.pop() if kept else self._search(size, nbytes, stream, where)
                block.kept, block.used = False, True
                block.requested, block.where = nbytes, where
                self._used[block.address] = block
                self._ledger.handed_out(block)
                return block
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
            self.notes.append(self._block(address).address)

    # shelves

    def shelf(self, nbytes: int, stream: int) -> Shelf:
        """Where loans of free blocks for ``nbytes`` lie; to keep, and to use without a lock."""
        return self._shelves.shelf(nbytes, stream)

    def may_shelve(self, block: Block) -> bool:
        """Whether a block may go to a shelf when it is free."""
        return block.size <= SHELVED and not block.segment.owner and not self.exact

    def settle(self) -> None:
        """Take the notes in; for who makes many of them."""
        with self._looking():
            pass

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
            self.shelving = False
            self._merge_kept()
        try:
            yield
        finally:
            with self._turn():
                self._captures.remove(pool)
                self._pool = self._captures[-1] if self._captures else 0
                self.shelving = not self._captures
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
            kept += self._shelves.nbytes()
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
                    "blocks": [described(b) for b in self._chain(s)],
                }
                for s in self._segments.values()
            ]

    @property
    def history(self) -> list[Action]:
        """What happened last, oldest first."""
        with self._looking():
            return self._ledger.history

    def owners(self) -> list[tuple[str, int]]:
        """The lines that use the most memory, and how many bytes."""
        found: Counter[str] = Counter()
        with self._looking():
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
                if self.notes:
                    self._take_in()
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

    def _take_in(self) -> None:
        """Do what was noted. What is done twice, after an interrupt, changes nothing."""
        notes, used, ledger = self.notes, self._used, self._ledger
        while notes:
            note = notes[0]
            if isinstance(note, tuple):
                block, nbytes, where = note
                if not block.used:
                    block.requested, block.where = nbytes, where
                    used[block.address] = block
                    block.shelved, block.used = False, True
                    ledger.handed_out(block)
            elif isinstance(note, Block):
                if note.used:
                    note.shelved = True
                    used.pop(note.address, None)
                    ledger.taken_back(note)
                    note.used, note.where = False, ""
            else:
                self._free_at(note)
            notes.popleft()

    def _free_at(self, address: int) -> None:
        block = self._used.pop(address, None)
        if block is not None:
            self._ledger.taken_back(block)
            block.used, block.where = False, ""
            self._return(block)

    def _return(self, block: Block) -> None:
        """Make a block that nobody uses available, at once or later."""
        segment = block.segment
        if block.uses and self._captures:
            block.pending = 1  # an event cannot be asked for while a graph is captured
            self._deferred.append(block)
        elif block.uses:
            self._wait_for_uses(block)
        elif block.size <= SMALL and segment.owner not in self._dead and not self.exact:
            block.kept = True
            self._kept.setdefault((block.size, segment.stream, segment.owner), []).append(block)
        else:
            self._put_back(block)

    def _search(self, size: int, nbytes: int, stream: int, where: str) -> Block:
        """A block of ``size`` bytes where none just fits."""
        block = self._find(size, stream)
        if block is None:
            self._merge_kept()
            block = self._find(size, stream)
        block = block or self._grow(size, stream, nbytes) or self._last(size, stream)
        if block is None:
            self._ledger.sum["num_ooms"] += 1
            self._ledger.note("oom", 0, size, stream, where)
            raise no_memory(self.memory.name, nbytes, self._ledger.now, self.limit, self.owners())
        rest = block.split(size)
        if rest is not None:
            self._list(rest).add(rest)
        return block

    def _merge_kept(self) -> None:
        """Let blocks that were kept for requests of their size serve others."""
        self._clear_shelves()
        kept, self._kept = self._kept, {}
        for blocks in kept.values():
            for block in blocks:
                block.kept = False
                self._put_back(block)

    def _clear_shelves(self) -> None:
        self._shelves.clear()
        loose = self._shelves.loose
        if loose:
            self._take_in()  # each was noted before it was put on
            for loan in loose:
                block = loan.block
                if block is not None:
                    block.shelved = False
                    loan.call_off()
                    self._put_back(block)
            loose.clear()

    def _find(self, size: int, stream: int) -> Block | None:
        """A free block, the best fit; a large one is not broken up for a much smaller one."""
        small = size <= SMALL
        most = size + LARGE_SEGMENT if size >= LARGE_SEGMENT else 1 << 62
        return self._free[self._pool, stream, small].best(size, most)

    def _grow(self, size: int, stream: int, nbytes: int = 0) -> Block | None:
        """A new segment, if the device and the limit have room for it."""
        whole = size if self.exact else segment_size(size)
        if self._ledger.reserved + whole > self.limit:
            return None
        address = self.memory.reserve(nbytes if self.exact and nbytes else whole)
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
        self._take_in()
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
        gone = self.exact or block.segment.owner in self._dead
        if block.whole and gone and not self._captures:
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
        for loan in self._shelves.loose:
            if (lent := loan.block) is not None:
                lent.shelved = False
                loan.call_off()
        self._shelves.loose.clear()
        blocks = [b for s in self._segments.values() for b in self._relinked(s)]
        for block in blocks:
            block.kept, block.used = False, self._used.get(block.address) is block
            block.shelved = block.shelved and not block.used
            # Until all are right, none merges.
            block.pending = int(not (block.used or block.shelved))
        used = [b for b in blocks if b.used]
        self._ledger.recount(used, [s.size for s in self._segments.values()])
        for block in blocks:
            if not (block.used or block.shelved):
                block.pending = 0
                self._return(block)

    def _relinked(self, segment: Segment) -> list[Block]:
        """The blocks of a segment; sizes and links back follow from the links forward."""
        blocks = list(self._chain(segment))
        ends = [*(b.address for b in blocks[1:]), segment.address + segment.size]
        for before, block, end in zip([None, *blocks], blocks, ends, strict=False):
            block.before, block.size = before, end - block.address
        return blocks
