"""Which steps of a plan must wait for which: those that read or write the same memory, unless both
only read it.

    steps = Hazards()
    steps.add([Use("arena", 0, 64, writes=True)])                                   # ()
    steps.add([Use("arena", 0, 64), Use("in0")])                                    # (0,)
    steps.add([Use("arena", 64, 128, writes=True), Use("in0")])                     # ()
    steps.add([Use("arena", 0, 128, writes=True)])                                  # (2, 1)

Of steps that wait for each other only the last is named.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

EVERYTHING = 1 << 62


@final
@dataclass(frozen=True, slots=True)
class Use:
    """The bytes from ``start`` to ``end`` of some memory, and whether they are written."""

    memory: Hashable
    start: int = 0
    end: int = EVERYTHING
    writes: bool = False


@final
@dataclass(slots=True)
class _Stretch:
    """Bytes that were written by one step, and read by ``readers`` since; they end where the next
    stretch begins.
    """

    writer: int | None = None
    readers: list[int] = field(default_factory=list)


@final
@dataclass
class Hazards:
    """The steps so far. ``before``: of each, all that it waits for, as bits."""

    before: list[int] = field(default_factory=list)
    _starts: dict[Hashable, list[int]] = field(default_factory=dict)
    _stretches: dict[Hashable, list[_Stretch]] = field(default_factory=dict)

    def add(self, uses: Sequence[Use]) -> tuple[int, ...]:
        """The steps that one with these ``uses`` waits for, the latest first."""
        me = len(self.before)
        wait = {k for use in uses for k in self._conflicts(use)}
        for use in uses:
            self._record(use, me)
        found, known = [], 0
        for k in sorted(wait, reverse=True):
            if not known >> k & 1:
                found.append(k)
                known |= self.before[k] | 1 << k
        self.before.append(known)
        return tuple(found)

    def _conflicts(self, use: Use) -> Iterator[int]:
        for stretch in self._within(use):
            if stretch.writer is not None:
                yield stretch.writer
            if use.writes:
                yield from stretch.readers

    def _record(self, use: Use, me: int) -> None:
        first, last = self._cut(use.memory, use.start), self._cut(use.memory, use.end)
        starts, stretches = self._starts[use.memory], self._stretches[use.memory]
        if use.writes:
            starts[first:last] = [use.start]
            stretches[first:last] = [_Stretch(me)]
            return
        for stretch in stretches[first:last]:
            if stretch.writer != me:  # what it writes, too, it has
                stretch.readers.append(me)

    def _within(self, use: Use) -> Iterable[_Stretch]:
        starts = self._starts.get(use.memory)
        if starts is None:
            return ()
        first = bisect_right(starts, use.start) - 1
        last = bisect_right(starts, use.end - 1)
        return self._stretches[use.memory][first:last]

    def _cut(self, memory: Hashable, at: int) -> int:
        """The number of the stretch that begins at ``at``, if need be made of another's end."""
        starts = self._starts.setdefault(memory, [0])
        stretches = self._stretches.setdefault(memory, [_Stretch()])
        k = bisect_right(starts, at) - 1
        if starts[k] == at:
            return k
        old = stretches[k]
        starts.insert(k + 1, at)
        stretches.insert(k + 1, _Stretch(old.writer, list(old.readers)))
        return k + 1
