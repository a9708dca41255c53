"""Options of optimizers in a trace: what guards compare of them, and who reads the numbers.

with updating():
    optimizer.update(group, pairs)      # group["lr"] is the float itself; user code gets an input
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vtc.frontend.dispatch import state as thread


def told_apart(value: object) -> object:
    """``value`` itself where guards can compare it, else which object it is."""
    if isinstance(value, tuple):
        return tuple(map(told_apart, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else id(value)


@contextmanager
def updating() -> Iterator[None]:
    """An optimizer reads its options, as they are."""
    if (capture := thread.capture) is None:
        yield
        return
    before, capture.updating = capture.updating, True
    try:
        yield
    finally:
        capture.updating = before
