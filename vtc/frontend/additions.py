"""What traced code only adds to, and never reads: counters, logs, tallies.

Guards compare what code reads. ``self.calls += 1`` reads a number, but nothing else comes of it:
the program for one count serves all, if each call adds as much again. That is so where every
mention of the name, in all code that ran, is an addition, and nothing else leads to the list or
dict::

    self.calls += 1              # an Added, at an attribute, a global, a variable
    log.append(x.shape)          # an Extended
    seen["rows"] += x.shape[0]   # an Added, at an Item
"""

from __future__ import annotations

import gc
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, final

from vtc.frontend.changed import Attribute, Change, Contents, Place
from vtc.frontend.codes import LOOKS, mentioned
from vtc.frontend.leaks import thawed
from vtc.frontend.parts import MISSING, same
from vtc.frontend.tensor import Tensor
from vtc.frontend.uses import DICT, LIST, NUMBER, PRESENT, uses

DEEP = 3
"""Tuples and lists, in one another, in which guards keep an object."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """``owner[key]`` of a dict."""

    owner: dict[Any, Any]
    key: Any
    name: str = ""

    def get(self) -> object:
        """What is there; KeyError for nothing."""
        return self.owner[self.key]

    def put(self, value: object) -> None:
        """Leave ``value`` there."""
        self.owner[self.key] = value


@final
@dataclass(frozen=True, slots=True)
class Added:
    """The number at ``place`` is greater by ``amount`` from now on."""

    place: Place
    amount: int

    def apply(self) -> None:
        """Add it to what is there now."""
        now: Any = self.place.get()
        if now is MISSING and isinstance(self.place, Attribute):
            now = getattr(self.place.owner, self.place.name)  # what the class says
        self.place.put(now + self.amount)


@final
@dataclass(frozen=True, slots=True)
class Extended:
    """``values`` are at the end of ``owner`` from now on."""

    owner: list[Any] | deque[Any]
    values: tuple[Any, ...]

    def apply(self) -> None:
        """Append them to what is there now."""
        self.owner.extend(self.values)


Effect = Change | Added | Extended


@final
@dataclass(frozen=True)
class Additions:
    """What each call does; guards need not compare the numbers under ``names``, nor what the
    ``containers`` hold, which are known by their id.
    """

    effects: tuple[Effect, ...] = ()
    names: frozenset[str] = frozenset()
    containers: frozenset[int] = frozenset()


def additions(
    changes: Sequence[Change], codes: Collection[CodeType], direct: Mapping[int, str]
) -> Additions:
    """Which of ``changes``, which were taken back, ``codes`` made by adding.

    ``direct`` is the name under which an object or a namespace has a container, by its id.
    """
    if not changes or not all(LOOKS.isdisjoint(mentioned(c)) for c in codes):
        return Additions(tuple(changes))
    ways = uses(codes)
    names = {name for name, found in ways.items() if found == {NUMBER}}
    names -= {c.place.name for c in changes if not _is_sum(c)}
    effects: list[Effect] = []
    containers = set()
    for c in changes:
        found: tuple[Effect, ...] = (c,)
        if isinstance(c.place, Contents):
            found = _grown(c.place.owner, c, ways.get(direct.get(id(c.place.owner), ""), set()))
            containers |= {id(c.place.owner)} if c not in found else set()
        elif c.place.name in names:
            found = (_sum(c.place, c.place.get(), c.value),)
        effects += found
    return Additions(tuple(effects), frozenset(names), frozenset(containers))


def _is_sum(change: Change) -> bool:
    return type(change.place.get()) is type(change.value) is int


def _sum(place: Place, was: Any, now: Any) -> Added:
    return Added(place, now - was)


def _grown(owner: Any, change: Change, ways: Collection[str]) -> tuple[Effect, ...]:
    """How ``owner`` grows at each call; ``change`` itself if that is not certain."""
    found: tuple[Effect, ...] = ()
    adding = set(ways) - {PRESENT}
    if adding and adding <= {NUMBER, LIST}:
        found = _longer(owner, change.place.get(), change.value)
    elif adding == {DICT}:
        found = _counted(owner, change.place.get(), change.value)
    return found if found and _is_held_once(owner) else (change,)


def _longer(owner: Any, before: Any, after: Any) -> tuple[Effect, ...]:
    """A list that begins as it was."""
    was, now = before[1], after[1]
    unbounded = type(owner) in (list, deque) and getattr(owner, "maxlen", None) is None
    more = unbounded and same(was, now[: len(was)])
    return (Extended(owner, now[len(was) :]),) if more else ()


def _counted(owner: Any, before: Any, after: Any) -> tuple[Effect, ...]:
    """A dict with the keys that it had, and other whole numbers."""
    if type(owner) not in (dict, defaultdict, Counter) or before[0] != after[0]:
        return ()
    moved = [m for m in zip(before[0], before[1], after[1], strict=True) if not same(*m[1:])]
    if not all(type(a) is type(b) is int for _, a, b in moved):
        return ()
    return tuple([_sum(Item(owner, k), a, b) for k, a, b in moved])


def _is_held_once(container: object) -> bool:
    """Whether only one object of the user's leads to ``container``, and once; variables of running
    functions do not count.
    """
    with thawed():
        holders = _holders(container, DEEP, set())
    return len(holders) == 1 and list(map(id, gc.get_referents(*holders))).count(id(container)) == 1


def _holders(value: object, deep: int, passed: set[int]) -> list[object]:
    """What holds ``value``, but what vtc remembers of it, in tuples and lists of its own too."""
    found: list[object] = []
    held = gc.get_referrers(value)
    passed |= {id(found), id(held)}
    for holder in held:
        if id(holder) in passed or isinstance(holder, FrameType) or _is_ours(holder):
            continue
        if type(holder) in (tuple, list) and deep and not _holders(holder, deep - 1, passed):
            continue
        found.append(holder)
    return found


def _is_ours(holder: object) -> bool:
    module = type(holder).__module__
    return module.startswith("vtc.frontend.") and not isinstance(holder, Tensor)
