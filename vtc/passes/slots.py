"""Slots: memory that values share for a while, and where in one arena they lie.

    h = Slot(size=256, birth=0, death=2)
    r = Slot(size=256, birth=3, death=4)
    assert pack([(h, 256), (r, 256)]) == 256    # never in use at one time
    assert h.at == r.at == 0

A slot may become the whole of another one, or a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import final

from vtc.ir.dims import Ranges, Size, bounds

ALIGNMENT = 64


@final
@dataclass(eq=False)
class Slot:
    """Memory that values share, in use from call ``birth`` to call ``death``, both included."""

    size: Size
    birth: int
    death: int
    result: int = 0
    """Which result of call ``birth`` it is."""
    param: int | None = None
    at: Size | None = None
    reads: list[tuple[int, frozenset[int]]] = field(default_factory=list)
    """The calls that read it, and which of their results may be written over it."""
    _whole: Slot | None = field(init=False, default=None)
    _offset: int = field(init=False, default=0)

    @property
    def free(self) -> bool:
        """Whether it is a slot of its own that lies nowhere yet."""
        return self.param is None and self.at is None and self._whole is None

    def place(self) -> Size | None:
        """Where its memory is; None if that is not known yet."""
        slot, offset = self, 0
        while slot._whole is not None:
            offset += slot._offset
            slot = slot._whole
        return slot.at if not offset or slot.at is None else slot.at + offset

    def whole(self) -> Slot:
        """The slot this one has become part of."""
        slot = self
        while slot._whole is not None:
            slot = slot._whole
        return slot

    def join(self, later: Slot) -> None:
        """Become part of ``later``, which begins earlier then."""
        later.birth, later.result = self.birth, self.result
        later.reads = self.reads + later.reads
        self._whole = later

    def part(self, of: Slot, offset: int) -> None:
        """Lie in ``of``, which is in use as long as any of its parts."""
        of.birth, of.death = min(of.birth, self.birth), max(of.death, self.death)
        of.reads = self.reads + of.reads
        self._whole, self._offset = of, offset


def bounded(slots: Iterable[Slot], ranges: Ranges) -> tuple[list[tuple[Slot, int]], list[Slot]]:
    """The slots of bounded size, with it, and the others."""
    fixed: list[tuple[Slot, int]] = []
    growing: list[Slot] = []
    for slot in slots:
        most = bounds(slot.size, ranges)[1]
        if most is None:
            growing.append(slot)
        else:
            fixed.append((slot, -(-most // ALIGNMENT) * ALIGNMENT))
    return fixed, growing


def floor(slots: Iterable[tuple[Slot, int]]) -> int:
    """The most bytes that are in use at one time: no packing needs less."""
    change: dict[int, int] = {}
    for slot, size in slots:
        change[slot.birth] = change.get(slot.birth, 0) + size
        change[slot.death + 1] = change.get(slot.death + 1, 0) - size
    return max(accumulate(change[at] for at in sorted(change)), default=0)


def pack(slots: Sequence[tuple[Slot, int]]) -> int:
    """Give each slot an offset; the bytes in all. The best of several orders is taken."""
    least = floor(slots)
    best: dict[Slot, int] = {}
    most: int | None = None
    for order in _ORDERS:
        places = _placed(sorted(slots, key=order))
        top = max((places[slot] + size for slot, size in slots), default=0)
        if most is None or top < most:
            best, most = places, top
        if top == least:
            break
    for slot, _ in slots:
        slot.at = best[slot]
    return most or 0


def stack(slots: Iterable[Slot], top: Size, ranges: Ranges) -> None:
    """Give slots of unbounded size offsets from ``top`` on.

    Slots that are not alive at one time share a block, where one is certain to be the larger.
    """
    blocks: list[_Block] = []

    @cache
    def fits(small: Size, large: Size) -> bool:
        low = bounds(large - small, ranges)[0]
        return low is not None and low >= 0

    for slot in sorted(slots, key=lambda s: s.birth):
        size = aligned(slot.size)
        free = [b for b in blocks if b.death < slot.birth]
        block = next((b for b in free if b.size == size), None)
        block = block or next((b for b in free if fits(size, b.size)), None)
        block = block or next((b for b in free if fits(b.size, size)), None)
        if block is None:
            blocks.append(block := _Block(size))
        block.size = block.size if fits(size, block.size) else size
        block.death = slot.death
        block.slots.append(slot)
    for block in blocks:
        for slot in block.slots:
            slot.at = top
        top = top + block.size


@final
@dataclass(eq=False, slots=True)
class _Block:
    """Memory of slots that are in use one after the other, the last until ``death``."""

    size: Size
    death: int = -1
    slots: list[Slot] = field(default_factory=list)


_ORDERS: tuple[Callable[[tuple[Slot, int]], tuple[int, ...]], ...] = (
    lambda s: (-s[1], s[0].birth),
    lambda s: (-s[1] * (s[0].death - s[0].birth + 1), s[0].birth),
    lambda s: (s[0].birth - s[0].death, -s[1], s[0].birth),
    lambda s: (s[0].birth, -s[1]),
    lambda s: (-s[0].death, -s[1]),
)
"""Which slots are placed first: the large, the large for long, the long, the early, the late."""


def _placed(slots: Iterable[tuple[Slot, int]]) -> dict[Slot, int]:
    """An offset for each slot, in this order, each in the tightest gap."""
    found: dict[Slot, int] = {}
    placed: list[tuple[int, int, int, int]] = []
    for slot, size in slots:
        birth, death = slot.birth, slot.death
        taken = sorted((at, end) for at, end, b, d in placed if b <= death and birth <= d)
        at = found[slot] = _tightest(taken, size)
        placed.append((at, at + size, birth, death))
    return found


def _tightest(taken: list[tuple[int, int]], size: int) -> int:
    """Where ``size`` bytes fit best between (or after) sorted intervals."""
    end = 0
    best: tuple[int, int] | None = None
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = gap, end
        end = max(end, stop)
    return end if best is None else best[1]


def aligned(size: Size) -> Size:
    """``size`` rounded up to what slots are aligned to."""
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT
