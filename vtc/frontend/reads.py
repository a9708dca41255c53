"""Guards as few, wide reads: what was read is compared by identity, in C where it is long.

A read is a function, what it is applied to, and the tuple it gave; it holds while it gives the same
objects, or equal ones of those that code cannot tell apart. This answers yes quickly; for a no,
:mod:`vtc.frontend.guards` finds out what changed, and has the last word.
"""

from __future__ import annotations

import ctypes
import marshal
from collections.abc import Callable, Iterable, KeysView, Mapping
from functools import partial
from operator import is_, itemgetter
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, final

from vtc.frontend.parts import MISSING, SEQUENCES, parts_of, read_of, same

Read = tuple[Callable[[Any], tuple[object, ...]], Any, tuple[object, ...]]
LONG = 128
"""Objects from which on their addresses are compared as one block of memory."""


@final
class Reads:
    """The names (in a namespace, with what they meant) and the objects that a trace read (of a
    Module, which plain attributes by name; None: all).
    """

    __slots__ = ("_absent", "_empty", "_few", "_functions", "_reads", "_states")

    def __init__(
        self,
        names: Iterable[tuple[Mapping[str, object], str, object]],
        objects: Iterable[tuple[object, frozenset[str] | None]],
    ) -> None:
        self._absent: list[tuple[KeysView[str], frozenset[str]]] = []
        self._functions: list[tuple[FunctionType, CodeType, object, object, object]] = []
        self._empty: list[object] = []
        self._states: list[tuple[Callable[[], Any], bytes]] = []
        self._reads: list[Read] = []
        self._add_names(names)
        cells: list[CellType] = []
        for value, read in objects:
            if read is None:
                self._add(value, cells)
            else:
                self._read(partial(_read_of, read), value)
        if cells:
            self._read(_contents, tuple(cells))
        self._few = not (self._reads or self._absent or self._states)

    def hold(self) -> bool:
        """Whether everything is as it was. False may also mean that this cannot tell quickly."""
        for f, code, defaults, named, attributes in self._functions:
            if (
                f.__code__ is not code
                or f.__defaults__ is not defaults
                or f.__kwdefaults__ is not named
                or f.__dict__ is not attributes
            ):
                return False
        if any(self._empty):
            return False
        return self._few or self._reads_hold()

    def _reads_hold(self) -> bool:
        try:
            for keys, names in self._absent:
                if not keys.isdisjoint(names):
                    return False
            for k, (read, value, old) in enumerate(self._reads):
                now = read(value)
                if identical(old, now):
                    continue
                if len(old) != len(now) or not all(map(same, old, now)):
                    return False
                self._reads[k] = read, value, now
            return all([marshal.dumps(state(), 2) == old for state, old in self._states])
        except (LookupError, ValueError, AttributeError):  # a name or a cell is no longer bound
            return False

    def _add_names(self, names: Iterable[tuple[Mapping[str, object], str, object]]) -> None:
        spaces: dict[int, tuple[Mapping[str, object], list[str], list[str]]] = {}
        for space, name, value in names:
            _, present, absent = spaces.setdefault(id(space), (space, [], []))
            (absent if value is MISSING else present).append(name)
        for space, present, absent in spaces.values():
            if present:
                self._read(itemgetter(*present, present[0]), space)  # of one it gives no tuple
            if absent:
                self._absent.append((space.keys(), frozenset(absent)))

    def _add(self, value: Any, cells: list[CellType]) -> None:
        if type(value) in (tuple, frozenset, MethodType):
            return  # they cannot change; what they hold is watched by itself
        if isinstance(value, FunctionType) and not _has_unbound(value):
            named, attributes = value.__kwdefaults__, value.__dict__
            self._functions.append((value, value.__code__, value.__defaults__, named, attributes))
            cells += value.__closure__ or ()
        elif isinstance(value, (dict, *SEQUENCES)):
            if not value:
                self._empty.append(value)
            else:
                self._read(_items if isinstance(value, dict) else tuple, value)
        elif not self._add_state(value):
            own = getattr(value, "__dict__", None)
            plain = own is not None and tuple(own) == parts_of(value)[0]
            self._read(_attributes if plain else _parts, value)

    def _add_state(self, value: Any) -> bool:
        """Watch what ``__guards__`` of ``value`` gives, if that is numbers and text in tuples."""
        state = getattr(value, "__guards__", None)
        if state is None:
            return False
        try:
            self._states.append((state, marshal.dumps(state(), 2)))  # as exact as ``same`` is
        except ValueError:
            return False
        return True

    def _read(self, read: Callable[[Any], tuple[object, ...]], value: Any) -> None:
        self._reads.append((read, value, read(value)))


def identical(old: tuple[object, ...], now: tuple[object, ...]) -> bool:
    """Whether both tuples hold the same objects."""
    if len(old) != len(now):
        return False
    if len(old) < LONG or _COMPARE is None:
        return all(map(is_, old, now))
    return _same_pointers(_COMPARE, old, now)


def _same_pointers(
    compare: Callable[..., int], old: tuple[object, ...], now: tuple[object, ...]
) -> bool:
    """Whether the addresses of their objects, which CPython keeps in one block, are equal."""
    a, b = (ctypes.c_void_p(id(x) + tuple.__basicsize__) for x in (old, now))
    return compare(a, b, ctypes.c_size_t(len(old) * ctypes.sizeof(ctypes.c_void_p))) == 0


def _has_unbound(value: FunctionType) -> bool:
    return any([part is MISSING for part in parts_of(value)[1]])


def _contents(cells: tuple[CellType, ...]) -> tuple[object, ...]:
    return tuple([c.cell_contents for c in cells])


def _items(value: dict[object, object]) -> tuple[object, ...]:
    return (*value, *value.values())


def _attributes(value: Any) -> tuple[object, ...]:
    own = value.__dict__
    return (*own, *own.values())


def _read_of(names: frozenset[str], value: object) -> tuple[object, ...]:
    keys, values = read_of(value, names)
    return (*keys, *values)


def _parts(value: object) -> tuple[object, ...]:
    keys, values = parts_of(value)
    return (*keys, *values)


def _memcmp() -> Callable[..., int] | None:
    """C's, called with the interpreter lock held; None where tuples are not as expected."""
    try:
        compare = ctypes.PyDLL(None).memcmp
    except (OSError, TypeError, AttributeError):
        return None
    probe = (_items, _parts, Reads)
    block = ctypes.string_at(id(probe) + tuple.__basicsize__, 3 * ctypes.sizeof(ctypes.c_void_p))
    return compare if block == bytes((ctypes.c_void_p * 3)(*map(id, probe))) else None


_COMPARE = _memcmp()
