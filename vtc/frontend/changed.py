"""What code changes outside of itself while it is traced, besides tensors.

``model.train()``, ``self.last = n``, ``count += 1`` on a global or a variable of a function around,
``log.append(n)``: eager code would do it at every call. So a trace that succeeds puts everything
back as it was when it began (which is what guards compare), and each call of the program leaves it
as the code did. One that fails puts back whatever was there, tensors too::

    @vtc.compile
    def evaluate(x):
        model.eval()                  # a Change: model.training is False after each call
        return model(x)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import is_
from types import CellType
from typing import Any, Protocol, final

import numpy as np

from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.hooks import TensorHooks
from vtc.frontend.parts import MISSING, PLAIN, content, parts_of, same, slot_names
from vtc.frontend.sizes import SymInt
from vtc.frontend.tensor import Tensor

Container = list[Any] | dict[Any, Any] | set[Any] | deque[Any] | np.ndarray[Any, Any]


class Place(Protocol):
    """Where code may leave something."""

    @property
    def name(self) -> str:
        """What code calls it; nothing for what a container holds."""

    def get(self) -> object:
        """What is there; ``MISSING`` for nothing."""

    def put(self, value: object) -> None:
        """Leave ``value`` there, or nothing."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """``owner.name``, as ``owner`` itself has it."""

    owner: Any
    name: str

    def get(self) -> object:
        """What is there; ``MISSING`` where it is what the class says."""
        own = getattr(self.owner, "__dict__", {})
        if self.name in own:
            return own[self.name]
        slotted = self.name in slot_names(type(self.owner).__mro__)
        return getattr(self.owner, self.name, MISSING) if slotted else MISSING

    def put(self, value: object) -> None:
        """Leave ``value`` there, whatever the class does where code sets it."""
        own = getattr(self.owner, "__dict__", None)
        if not isinstance(own, dict):
            self._set(value)
        elif value is MISSING:
            own.pop(self.name, None)
        else:
            own[self.name] = value
        if isinstance(self.owner, TensorHooks):
            self.owner.changed()
        elif hasattr(type(self.owner), "named_parameters"):
            bump_epoch()

    def _set(self, value: object) -> None:
        """Of a class, and of what has slots."""
        how: Any = type if isinstance(self.owner, type) else object
        if value is MISSING:
            how.__delattr__(self.owner, self.name)
        else:
            how.__setattr__(self.owner, self.name, value)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """The global ``name`` of a Python module."""

    space: dict[str, Any]
    name: str

    def get(self) -> object:
        """What is there."""
        return self.space.get(self.name, MISSING)

    def put(self, value: object) -> None:
        """Bind it."""
        if value is MISSING:
            self.space.pop(self.name, None)
        else:
            self.space[self.name] = value


@final
@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """A variable of a function, kept in a cell for functions inside it."""

    cell: CellType
    name: str

    def get(self) -> object:
        """What is there."""
        return content(self.cell)

    def put(self, value: object) -> None:
        """Bind it."""
        if value is not MISSING:
            self.cell.cell_contents = value
        elif content(self.cell) is not MISSING:
            del self.cell.cell_contents


@final
@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a list, dict, set, deque or NumPy array holds: its names and values."""

    owner: Container
    name: str = ""

    def get(self) -> object:
        """What is there."""
        return parts_of(self.owner)

    def put(self, value: Any) -> None:
        """Hold that."""
        names, values = value
        if isinstance(self.owner, np.ndarray):
            (content,) = values
            old = np.frombuffer(content, self.owner.dtype)
            self.owner[...] = old.reshape(self.owner.shape)
            return
        self.owner.clear()
        if isinstance(self.owner, dict):
            for name, item in zip(names, values, strict=True):  # a Counter would add
                self.owner[name] = item
        elif isinstance(self.owner, set):
            self.owner.update(values)
        else:
            self.owner.extend(values)


PLACES = (Attribute, Global, Variable, Contents)


@final
@dataclass(frozen=True, slots=True)
class Change:
    """``value`` is at ``place`` from now on."""

    place: Place
    value: object

    def apply(self) -> None:
        """Put it there, unless it is."""
        if not same(self.place.get(), self.value):
            self.place.put(self.value)


@final
@dataclass(eq=False)
class Changed:
    """What was where before code changed it, in the order that it did.

    ``doubtful`` are those of objects that may have been made during the trace; those in ``born``
    were. ``left`` is what stays changed if the trace succeeds.
    """

    before: dict[tuple[int, str], tuple[Place, object]] = field(default_factory=dict)
    born: dict[int, Any] = field(default_factory=dict)
    doubtful: set[tuple[int, str]] = field(default_factory=set)
    left: list[tuple[Place, object]] = field(default_factory=list)

    def note(self, owner: Any, name: str, *, doubtful: bool = False) -> None:
        """The attribute ``owner.name`` is about to change."""
        if not getattr(owner, "__dict__", True) and name != "training":
            self.born[id(owner)] = owner
        key = id(owner), name
        if id(owner) not in self.born and key not in self.before:
            place = Attribute(owner, name)
            self.keep(key, place, place.get())
            if doubtful:
                self.doubtful.add(key)

    def keep(self, key: tuple[int, str], place: Place, value: object) -> None:
        """``value`` was at ``place``, which was there before the trace."""
        self.before.setdefault(key, (place, value))
        self.doubtful.discard(key)

    def settle(self) -> tuple[Change, ...]:
        """The trace succeeds: put back what is plain; how that was changed."""
        found = []
        for key, (place, was) in list(self.before.items()):
            now = _with_known_sizes(place.get())
            if same(was, now):
                continue
            if _is_plain(was) and _is_plain(now):
                found.append(Change(place, now))
                place.put(was)
            elif key not in self.doubtful and not any(map(_is_traced, (was, *_elements(was)))):
                self.left.append((place, was))
        self._clear()
        return tuple(found)

    def restore(self) -> None:
        """The trace failed: put everything back."""
        places = [*self.left, *self.before.values()]
        self.forget()
        for place, was in places:
            if same(was, place.get()):
                continue
            place.put(was)

    def forget(self) -> None:
        """What was before does not matter any more."""
        self.left.clear()
        self._clear()

    def _clear(self) -> None:
        self.before.clear()
        self.born.clear()
        self.doubtful.clear()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is MISSING or isinstance(value, (*PLAIN, SymInt))


def _with_known_sizes(value: Any) -> Any:
    """``value`` whose symbolic sizes are numbers, which the trace is for from then on.

    Under export, whose programs change nothing but tensors, they stay.
    """
    if isinstance(value, SymInt):
        return int(value) if value.scope.may_guard else value
    if not isinstance(value, tuple):
        return value
    parts = list(map(_with_known_sizes, value))
    if all(map(is_, parts, value)):
        return value
    return value._make(parts) if hasattr(value, "_make") else tuple(parts)


def _is_traced(value: object) -> bool:
    return isinstance(value, Tensor) and value._array is None


def _elements(value: object) -> Iterator[object]:
    for part in value if isinstance(value, tuple) else ():
        yield part
        yield from _elements(part)
