"""What traced code can reach and change, as it was before: objects, containers, variables, globals.

Tracing runs code once where eager code runs it at every call. To know what it changed, a ``Reach``
goes from the function and from the globals that entered code names through everything of the
user's, and remembers it. Only what that code could have changed by its names counts in the end::

    reach.root("self", fn)
    reach.enter(code, globals)      # for each function that is entered
    reach.tell(changed)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, final

import numpy as np

from vtc.frontend.changed import Attribute, Changed, Contents, Global, Variable
from vtc.frontend.codes import (
    LOOKS,
    global_names,
    is_user_module,
    mentioned,
    set_cells,
    set_globals,
    set_names,
)
from vtc.frontend.parts import (
    MISSING,
    PLAIN,
    Parts,
    content,
    is_small,
    parts_of,
    read_by_name,
    same,
    slot_names,
)
from vtc.frontend.tensor import Tensor

CONTAINERS = (list, dict, set, deque)
PASSED = (*PLAIN, Tensor)
MOST = 1 << 17
"""Objects that are looked at."""


@final
class Reach:
    """See the module."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.seen: dict[int, object] = {}
        self.queue: list[tuple[str, object]] = []
        self.waiting: dict[str, list[object]] = {}
        self.direct: dict[int, str] = {}
        self.objects: list[tuple[Any, dict[str, object]]] = []
        self.containers: dict[int, tuple[set[str], Any, Parts]] = {}
        self.cells: list[tuple[str, CellType, object]] = []
        self.globals: dict[tuple[int, str], tuple[Global, object]] = {}
        self.codes: set[CodeType] = set()
        self.names: set[str] = set()
        self.everything = False

    def root(self, name: str, value: object) -> None:
        """Remember ``value``, which code knows as ``name``, and what it leads to."""
        self.queue.append((name, value))
        while self.queue and len(self.seen) < MOST:
            name, value = self.queue.pop()
            if isinstance(value, PASSED):
                continue
            if id(value) in self.seen:
                if id(value) in self.containers:
                    self.containers[id(value)][0].add(name)
                continue
            self.seen[id(value)] = value
            self._look(name, value)
        self.queue.clear()

    def enter(self, code: CodeType, space: dict[str, Any]) -> None:
        """``code`` with the globals ``space`` is about to run."""
        if code in self.codes:
            return
        self.codes.add(code)
        self._mention({*mentioned(code), *code.co_freevars, *code.co_varnames})
        for name in set_globals(code):
            self._global(space, name)
        for name in global_names(code):
            value = space.get(name, MISSING)
            if isinstance(value, ModuleType):
                self._module(code, value)
            else:
                self._found(name, value)
                self.root(name, value)

    def _mention(self, names: set[str]) -> None:
        """Code that is about to run may read these attributes of objects."""
        self.everything = self.everything or not names.isdisjoint(LOOKS)
        for name in self.waiting.keys() & (self.waiting.keys() if self.everything else names):
            for value in self.waiting.pop(name):
                self.root(name, value)
        self.names |= names

    def tell(self, changed: Changed) -> dict[int, str]:
        """Tell what was where, of all that code could have changed; and forget it.

        Gives the names that containers have, by their id.
        """
        attributes = {n for c in self.codes for n in set_names(c)}
        variables = {n for c in self.codes for n in set_cells(c)}
        for owner, was in self.objects:
            now = _own(owner)
            for name in was.keys() | now.keys():
                old = was.get(name, MISSING)
                if old is not now.get(name, MISSING) and (self.everything or name in attributes):
                    changed.keep((id(owner), name), Attribute(owner, name), old)
        for names, container, parts in self.containers.values():
            known = self.everything or not names.isdisjoint(self.names)
            if known and not same(parts, parts_of(container)):
                changed.keep((id(container), ""), Contents(container), parts)
        for name, cell, value in self.cells:
            if name in variables:
                changed.keep((id(cell), ""), Variable(cell, name), value)
        for (key, name), (place, value) in self.globals.items():
            changed.keep((key, name), place, value)
        direct = self.direct
        self.forget()
        return direct

    def _global(self, space: dict[str, Any], name: str) -> None:
        place = Global(space, name)
        self.globals.setdefault((id(space), name), (place, place.get()))

    def _module(self, code: CodeType, module: ModuleType) -> None:
        """A Python module: what ``code`` mentions of it."""
        if not is_user_module(module.__name__):
            return
        space = vars(module)
        for name in set_names(code):
            self._global(space, name)
        for name in set(mentioned(code)) & space.keys():
            if not isinstance(space[name], ModuleType):
                self._found(name, space[name])
                self.root(name, space[name])

    def _found(self, name: str, value: object) -> None:
        """``value`` is what a namespace, or an object that is read by name, has as ``name``."""
        if isinstance(value, CONTAINERS) and id(value) not in self.seen:
            self.direct[id(value)] = name

    def _look(self, name: str, value: object) -> None:
        """Remember ``value`` itself; queue what it leads to."""
        if isinstance(value, (FunctionType, MethodType, partial)):
            self._callable(name, value)
        elif isinstance(value, (tuple, frozenset)):
            self.queue += [(name, v) for v in value]
        elif isinstance(value, (*CONTAINERS, np.ndarray)):
            self._container(name, value)
        elif hasattr(type(value), "named_parameters"):
            self._parts(value, vars(value))  # it notes attributes itself
        elif isinstance(value, type):
            self._class(value)
        elif is_user_module(type(value).__module__):
            self._object(value)
        elif type(value).__module__.startswith("vtc.") and hasattr(value, "__guards__"):
            self.queue.append((name, value.__guards__()))  # what runs when it is called

    def _callable(self, name: str, value: FunctionType | MethodType | partial[Any]) -> None:
        if isinstance(value, MethodType):
            self.queue += [("self", value.__self__), (name, value.__func__)]
            return
        if isinstance(value, partial):
            self.queue += [(name, value.func), (name, value.args), (name, value.keywords)]
            return
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            found = content(cell)
            self.cells.append((variable, cell, found))
            self._found(variable, found)
            self.queue.append((variable, found))
        own = value.__code__.co_varnames[: value.__code__.co_argcount]
        self.queue += zip(reversed(own), reversed(value.__defaults__ or ()), strict=False)
        self.queue += [*(value.__kwdefaults__ or {}).items(), *vars(value).items()]

    def _container(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            if is_small(value):
                self.containers[id(value)] = {name}, value, parts_of(value)
        elif not type(value).__module__.startswith("vtc."):
            parts = parts_of(value)
            self.containers[id(value)] = {name}, value, parts
            self.queue += [(name, v) for v in parts[1]]

    def _class(self, value: type) -> None:
        if is_user_module(value.__module__):
            self._object(value)
            self.queue += [("", base) for base in value.__bases__]

    def _object(self, value: Any) -> None:
        own = _own(value)
        self.objects.append((value, own))
        self._parts(value, own)

    def _parts(self, value: Any, own: Mapping[str, object]) -> None:
        """Queue what ``value`` has, and its class; what only code that names it reads may wait."""
        by_name = read_by_name(value) is not None
        lazy = by_name and not (self.everything or hasattr(type(value), "named_parameters"))
        for name, part in own.items():
            if by_name:
                self._found(name, part)
            if not lazy or name in self.names:
                self.queue.append((name, part))
            elif not isinstance(part, PASSED):
                self.waiting.setdefault(name, []).append(part)
        self.queue.append(("", type(value)))


def _own(owner: Any) -> dict[str, object]:
    """The attributes that ``owner`` itself has; of a class, those that are data."""
    if isinstance(owner, type):
        return {k: v for k, v in vars(owner).items() if _is_data(k, v)}
    found = dict(getattr(owner, "__dict__", {}))
    for name in slot_names(type(owner).__mro__):
        if (value := getattr(owner, name, MISSING)) is not MISSING:
            found[name] = value
    return found


def _is_data(name: str, value: object) -> bool:
    hidden = name.startswith("__") and name.endswith("__")
    return not hidden and not hasattr(value, "__get__")
