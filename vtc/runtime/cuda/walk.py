"""Loops and branches that the host walks through, launching node after node.

So it is where there are no graphs (``VTC_CUDA_GRAPHS=0``, programs of one op), and where the
driver has no conditional nodes. A loop that counts costs its launches. A byte that decides is
copied to the host, which waits for it::

    walk = Walk(side, layout.items, words, launch, tables)
    walk.run()

An index out of its range shows where the host has waited: a loop that it would not end, ends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, final

from vtc.runtime.cuda.steps import HostBranch, HostLoop, Item, Place

if TYPE_CHECKING:
    from vtc.runtime.cuda.graph import Side

Turns = Mapping[int, int]
"""The turn that each loop is in, by its number."""


class Words(Protocol):
    """The addresses of nodes."""

    def turn(self, k: int, turns: Turns) -> bool:
        """Let node ``k`` have those of these turns; whether tables are to be written again."""

    def at(self, place: Place, turns: Turns) -> int:
        """The address of a place."""


@final
class Walk:
    """See the module. ``launch`` launches a node by its number; ``tables`` writes the tables."""

    def __init__(
        self,
        side: Side,
        items: Sequence[Item],
        words: Words,
        launch: Callable[[int], None],
        tables: Callable[[], None],
    ) -> None:
        self._side, self._items, self._words = side, items, words
        self._launch, self._tables = launch, tables
        self._byte = ctypes.c_uint8(0)

    def run(self) -> None:
        """All of it, on the stream of now. IndexRangeError if a kernel met such an index."""
        self._all(self._items, {})

    def _all(self, items: Sequence[Item], turns: Turns) -> None:
        for item in items:
            match item:
                case HostLoop(cell=None):
                    for k in item.order:
                        self._all(item.body, {**turns, item.number: k})
                case HostLoop(cell=cell):
                    assert cell is not None
                    self._all(item.test, turns)
                    while self._holds(cell, turns):
                        self._all(item.body, turns)
                        self._all(item.test, turns)
                case HostBranch(cell, then, otherwise):
                    self._all(then if self._holds(cell, turns) else otherwise, turns)
                case int():
                    if self._words.turn(item, turns):
                        self._tables()
                    self._launch(item)

    def _holds(self, cell: Place, turns: Turns) -> bool:
        """Whether the byte there is not 0, once all before has run."""
        side, byte, stream = self._side, self._byte, self._side.stream.value
        began = side.launches.turn.value
        at = self._words.at(cell, turns)
        side.driver.copy(side.device, ctypes.addressof(byte), at, 1, stream)
        side.driver.synchronize_stream(side.device, stream)
        side.launches.waited(began, stream)
        if side.cells is not None:
            side.cells.look()
        return bool(byte.value)
