"""Blocks of one size that are free, and can be had without a lock.

A block that is lent again and again is lent by a :class:`Loan`, whose death gives it back. The
loans that nobody has lie on shelves, one for each size and stream. ``pop`` takes one off, which
Python does not interrupt; ``append`` puts one on. Both are noted, so that the allocator's books can
follow when somebody asks::

    loan = shelf.pop()
    notes.append((loan.block, nbytes, where))     # after it was taken off
    notes.append(loan.block)                      # before one is put on
    shelf.append(another)

A loan that is taken off and lost (Ctrl-C) dies, and so puts another on: nothing is lost with it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, final

from vtc.runtime.blocks import Block, rounded

Note = int | Block | tuple[Block, int, str]
"""An address that is free; a block that goes on its shelf; one that was taken off it, with the
bytes asked for and the user's line."""


class Loan(Protocol):
    """One use of a block."""

    @property
    def block(self) -> Block | None:
        """What is lent; None if that was called off."""

    def call_off(self) -> None:
        """Give nothing back: the block has another use."""


Shelf = list[Loan]


@final
class Shelves:
    """See the module. ``loose`` are the loans that :meth:`clear` is calling off."""

    def __init__(self) -> None:
        self._shelves: dict[tuple[int, int], Shelf] = {}
        self.loose: list[Loan] = []

    def shelf(self, nbytes: int, stream: int) -> Shelf:
        """The shelf of blocks for ``nbytes``; always the same one."""
        return self._shelves.setdefault((rounded(nbytes), stream), [])

    def nbytes(self) -> int:
        """The size of all blocks on shelves."""
        return sum(size * len(loans) for (size, _), loans in list(self._shelves.items()))

    def clear(self) -> None:
        """Take all loans off; they are ``loose`` now."""
        loose = self.loose
        for shelf in list(self._shelves.values()):
            with suppress(IndexError):  # other threads take from it
                while shelf:
                    loose.append(shelf.pop())
