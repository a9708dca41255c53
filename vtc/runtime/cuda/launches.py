"""Which programs were launched since the host last waited: what an error on the device may be from.

Each launched thing has a mark, whose number is that of its last launch. Compiled code counts too,
so it costs a call nothing; the list is only made after an error::

    launches = Launches(0)
    mark = launches.mark("step", stream)
    launches.note(mark)                     # or in C: *last = ++*turn
    began = launches.turn.value
    ...                                     # wait for the stream
    launches.waited(began, stream.value)
    blame(0)                                # "launched since ...: step"

After such an error CUDA can do no more, so the kernel itself cannot be asked for any more.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import final

HINT = "VTC_CUDA_GRAPHS=0 CUDA_LAUNCH_BLOCKING=1 names the kernel, and the line it comes from"
SHOWN = 8
"""Programs that an error names."""


@final
class Mark:
    """Of one thing that is launched again and again: its name, stream, and ``last`` launch."""

    __slots__ = ("__weakref__", "last", "name", "stream")

    def __init__(self, name: str, stream: ctypes.c_uint64) -> None:
        self.name = name
        self.stream = stream
        self.last = ctypes.c_uint64(0)


@final
class Launches:
    """Those of one device. ``turn`` is the number of the last."""

    def __init__(self, device: int) -> None:
        self.turn = ctypes.c_uint64(0)
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        self._all = 0
        self._streams: dict[int, int] = {}
        _known[device] = self

    def mark(self, name: str, stream: ctypes.c_uint64) -> Mark:
        """A mark for what is launched on ``stream``; it counts as long as it lives."""
        made = Mark(name, stream)
        self._marks.add(made)
        return made

    def note(self, mark: Mark) -> None:
        """It is launched now."""
        self.turn.value += 1
        mark.last.value = self.turn.value

    def waited(self, turn: int, stream: int | None = None) -> None:
        """All launches up to ``turn`` have ended well, those of one stream or all."""
        if stream is None:
            self._all = turn
        else:
            self._streams[stream] = turn

    def since(self) -> list[str]:
        """The names of what was launched since, the newest last."""
        late = [
            (m.last.value, m.name)
            for m in list(self._marks)
            if m.last.value > max(self._all, self._streams.get(m.stream.value, 0))
        ]
        return list(dict.fromkeys(name for _, name in sorted(late)))


def blame(device: int) -> str:
    """Lines for an error of ``device`` that may come from any launch."""
    known = _known.get(device)
    names = known.since() if known is not None else []
    lines = []
    if names:
        shown = ", ".join(names[-SHOWN:])
        more = f" and {len(names) - SHOWN} more before" if len(names) > SHOWN else ""
        lines.append(f"launched since the host last waited, the newest last: {shown}{more}")
    return "".join(f"\n  {line}" for line in [*lines, HINT])


_known: dict[int, Launches] = {}
