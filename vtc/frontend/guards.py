"""What a trace read besides its arguments, and whether that is still so.

While user code is traced a profile hook collects the functions it enters. The globals and closure
cells their code names are recorded by value, objects with their attributes. What cannot change
without an attribute of a Module being set is compared only when the process-wide epoch has moved.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

import numpy as np

from vtc.frontend.dispatch import epoch
from vtc.frontend.source import is_user_file
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Dim
from vtc.ir.types import DType
from vtc.runtime.device import Device

Facts = dict[str, object]
PLAIN = (int, float, str, bytes, bool, complex, type(None), DType, Device, Dim, enum.Enum)
OPAQUE = (FunctionType, BuiltinFunctionType, type, ModuleType, np.ndarray, np.generic)
DEPTH = 12
ProfileEvent = Literal["call", "return", "c_call", "c_return", "c_exception"]


@dataclass(frozen=True, slots=True)
class Binding:
    """A name in a namespace (a globals dict, or a closure cell) and what it was bound to."""

    name: str
    space: Any
    value: object

    def now(self) -> object:
        """What the name is bound to now."""
        if isinstance(self.space, dict):
            return self.space.get(self.name, _MISSING)
        try:
            return self.space.cell_contents
        except ValueError:
            return _MISSING

    def holds(self) -> bool:
        """Whether the name still means the same."""
        now = self.now()
        return now is self.value or (
            isinstance(now, PLAIN) and type(now) is type(self.value) and now == self.value
        )


_MISSING = object()


@dataclass
class Guards:
    """Bindings checked at each call, and objects compared when the epoch moved or when they are
    small.
    """

    bindings: list[Binding] = field(default_factory=list)
    light: dict[str, tuple[object, Facts]] = field(default_factory=dict)
    heavy: dict[str, tuple[object, Facts]] = field(default_factory=dict)
    epoch: int = -1

    def miss(self) -> str | None:
        """Why the guards do not hold, or None."""
        for b in self.bindings:
            if not b.holds():
                return f"{b.name} was {_word(b.value)}, is {_word(b.now())}"
        for name, (value, facts) in self.light.items():
            if (why := difference(facts, read(name, value))) is not None:
                return why
        if self.epoch != epoch():
            for name, (value, facts) in self.heavy.items():
                if (why := difference(facts, read(name, value))) is not None:
                    return why
            self.epoch = epoch()
        return None

    def add(self, name: str, value: object) -> None:
        """Record the attributes and elements of ``value``."""
        if isinstance(value, (*PLAIN, *OPAQUE, Tensor)) or name in self.light or name in self.heavy:
            return
        facts = read(name, value)
        heavy = hasattr(value, "named_parameters") or hasattr(value, "__guards__")
        (self.heavy if heavy else self.light)[name] = (value, facts)


def read(name: str, value: object) -> Facts:
    """Every plain value, tensor and function below ``value``, by path."""
    facts: Facts = {}
    _read(name, value, facts, set(), 0)
    return facts


def _read(path: str, value: object, facts: Facts, seen: set[int], depth: int) -> None:
    if isinstance(value, PLAIN):
        facts[path] = (type(value), value)
        return
    if isinstance(value, Tensor):
        facts[path] = ("tensor", id(value), value.dtype, value.shape, value._requires)
        return
    if isinstance(value, OPAQUE) or depth > DEPTH or id(value) in seen:
        facts[path] = ("object", id(value))
        return
    seen.add(id(value))
    guards = getattr(value, "__guards__", None)
    if guards is not None:
        facts[path] = ("guards", guards())
        return
    facts[path] = ("kind", type(value), id(value))
    for key, inner in _parts(value):
        _read(f"{path}{key}", inner, facts, seen, depth + 1)


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((f"[{k!r}]", v) for k, v in tuple(value.items()))
        yield "[len]", len(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{i}]", v) for i, v in enumerate(value))
        yield "[len]", len(value)
    elif isinstance(value, MethodType):
        yield ".__func__", value.__func__
        yield ".__self__", value.__self__
    else:
        yield from ((f".{k}", v) for k, v in list(getattr(value, "__dict__", {}).items()))


def difference(old: Facts, new: Facts) -> str | None:
    """The first path at which the two differ, in words."""
    if old == new:
        return None
    for path in (*old, *new):
        if old.get(path) != new.get(path):
            return f"{path} was {_fact(old.get(path))}, is {_fact(new.get(path))}"
    return None


def _fact(fact: object) -> str:
    match fact:
        case None:
            return "absent"
        case (type(), value):
            return repr(value)
        case ("tensor", _, dtype, tuple() as shape, _):
            return f"a tensor {dtype}{list(shape)}"
        case _:
            return "another object" if isinstance(fact, tuple) else repr(fact)


def _word(value: object) -> str:
    return repr(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"


class Recorder:
    """Collects the user functions entered while it is active."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, dict[str, Any]] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Collect on this thread."""
        before = sys.getprofile()

        def hook(frame: FrameType, event: ProfileEvent, argument: Any) -> None:
            if (
                event == "call"
                and frame.f_code not in self.codes
                and is_user_file(frame.f_code.co_filename)
            ):
                self.codes[frame.f_code] = frame.f_globals
            if before is not None:
                before(frame, event, argument)

        sys.setprofile(hook)
        try:
            yield
        finally:
            sys.setprofile(before)

    def guards(self, fn: Any) -> Guards:
        """What the collected functions, and the closures of ``fn``, read."""
        found = Guards()
        known: set[tuple[int, str]] = set()
        for code, space in self.codes.items():
            for name in _names(code):
                if name in space and (id(space), name) not in known:
                    known.add((id(space), name))
                    self._bind(found, name, space, space[name])
        self._closures(found, fn, set())
        self.codes.clear()
        found.epoch = epoch()
        return found

    def _bind(self, found: Guards, name: str, space: object, value: object) -> None:
        if isinstance(value, ModuleType):
            return
        found.bindings.append(Binding(name, space, value))
        found.add(name, value)

    def _closures(self, found: Guards, fn: Any, seen: set[int]) -> None:
        fn = getattr(fn, "__wrapped__", fn)
        if id(fn) in seen:
            return
        seen.add(id(fn))
        if hasattr(fn, "named_parameters"):
            found.add("self", fn)
        owner = getattr(fn, "__self__", None)
        if owner is not None and not isinstance(owner, ModuleType):
            found.add("self", owner)
        function = getattr(fn, "__func__", fn)
        if not isinstance(function, FunctionType):
            return
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            self._bind(found, name, cell, value)
            if isinstance(value, (FunctionType, MethodType)):
                self._closures(found, value, seen)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
