"""What a trace read besides its arguments, and whether that is still so.

While user code is traced a profile hook collects the functions it enters. The globals their code
names, the cells and defaults of those functions, and every container and object found from there
are watched: each one alone, by its direct parts. Attributes of classes and of Python modules are
watched by the names that the code mentions, and so are those of objects, unless the code looks at
attributes by other means (``getattr``): a counter that it never reads may count. What cannot change
without the process-wide epoch moving (Modules; the types of tensors, and whether they require grad)
is compared only when it has.
"""

from __future__ import annotations

import argparse
import builtins
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter, methodcaller
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, Literal

import numpy as np

from vtc.frontend.additions import Additions, Effect, additions
from vtc.frontend.changed import Changed
from vtc.frontend.codes import LOOKS, global_names, is_user_module, mentioned, set_names
from vtc.frontend.dispatch import epoch
from vtc.frontend.hooks import EVERYWHERE
from vtc.frontend.parts import (
    MISSING,
    PLAIN,
    SEQUENCES,
    Parts,
    is_small,
    parts_of,
    read_by_name,
    read_of,
    same,
)
from vtc.frontend.reach import Reach
from vtc.frontend.reads import Reads
from vtc.frontend.tensor import Tensor

NAMESPACES = (SimpleNamespace, argparse.Namespace)
MENTIONED = 512
"""Names that code may mention for objects to be watched by them alone."""
ProfileEvent = Literal["call", "return", "c_call", "c_return", "c_exception"]


@dataclass(frozen=True, slots=True)
class Binding:
    """A name in a namespace (of a module or of a class) and what it was bound to."""

    path: str
    name: str
    space: Mapping[str, object]
    value: object

    def miss(self) -> str | None:
        """What changed, or None."""
        now = self.space.get(self.name, MISSING)
        return None if same(self.value, now) else _change(self.path, self.value, now)


@dataclass(frozen=True, slots=True)
class Watch:
    """An object and its direct parts when traced."""

    path: str
    value: object
    parts: Parts
    names: frozenset[str] | None = None
    """Of which plain parts count; None: all."""

    def miss(self) -> str | None:
        """What changed, or None."""
        keys, now = parts_of(self.value) if self.names is None else read_of(self.value, self.names)
        old_keys, old = self.parts
        if keys == old_keys and all(map(same, old, now)):
            return None
        was, is_ = dict(zip(old_keys, old, strict=True)), dict(zip(keys, now, strict=True))
        for key in (*was, *is_):
            a, b = was.get(key, MISSING), is_.get(key, MISSING)
            if not same(a, b):
                return _change(_path(self.path, self.value, key), a, b)
        return f"{self.path or 'the function'} has its parts in another order"


@dataclass
class Guards:
    """Names and objects compared at each call, and objects compared when the epoch moved."""

    bindings: list[Binding] = field(default_factory=list)
    light: list[Watch] = field(default_factory=list)
    heavy: list[Watch] = field(default_factory=list)
    epoch: int = -1
    reads: Reads | None = None
    """``bindings`` and ``light``, and ``rare`` what is ``heavy``, made when a call first asks."""
    rare: Reads | None = None

    def hold(self) -> bool:
        """Whether :meth:`miss` has nothing to say; quick where it has not."""
        now = epoch()  # before comparing, as in ``miss``
        if self.reads is None or self.rare is None:
            return self._read()
        if not self.reads.hold() or (self.epoch != now and not self.rare.hold()):
            return self.miss() is None
        self.epoch = now
        return True

    def _read(self) -> bool:
        """Make the reads, between two looks at what they read."""
        if self.miss() is not None:
            return False
        names = [(b.space, b.name, b.value) for b in self.bindings]
        reads = Reads(names, [(w.value, w.names) for w in self.light])
        rare = Reads((), [(w.value, w.names) for w in self.heavy])
        if self.miss() is not None:
            return False
        self.reads, self.rare = reads, rare
        return True

    def miss(self) -> str | None:
        """Why the guards do not hold, or None."""
        for b in self.bindings:
            if (why := b.miss()) is not None:
                return why
        for w in self.light:
            if (why := w.miss()) is not None:
                return why
        now = epoch()  # before comparing: another thread may move it meanwhile
        if self.epoch != now:
            for w in self.heavy:
                if (why := w.miss()) is not None:
                    return why
            self.epoch = now
        return None


def _path(path: str, value: object, key: object) -> str:
    """What part ``key`` of ``value`` is called."""
    if isinstance(value, (dict, *SEQUENCES)):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else str(key)


def _change(path: str, old: object, new: object) -> str:
    was, now = _word(old), _word(new)
    return f"{path} was {was}, is {now if now != was else f'another {type(new).__name__}'}"


def _word(value: object) -> str:
    if value is MISSING:
        return "absent"
    if isinstance(value, Tensor) and value._array is not None:
        return f"a tensor {value.type}"
    return repr(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"


class Recorder:
    """Collects the user functions entered while it is active, and what they can change besides
    tensors, starting at ``fn`` and at objects among the ``arguments``.
    """

    def __init__(
        self, changed: Changed, fn: Any, arguments: Sequence[tuple[str, object]] = ()
    ) -> None:
        self.codes: dict[CodeType, dict[str, Any]] = {}
        self.changed = changed
        self.roots = (("" if isinstance(fn, FunctionType) else "self", fn), *arguments)
        self.reach = Reach()
        self.added = Additions()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Collect on this thread.

        The garbage collector waits: finalizers and its callbacks are not part of the traced code.
        A profiler in Python sees the trace; one in C, as cProfile before Python 3.12, goes on after
        it.
        """
        before: Any = sys.getprofile()
        passes_on, collects = callable(before), gc.isenabled()

        def hook(frame: FrameType, event: ProfileEvent, argument: Any) -> None:
            if event == "call" and (
                frame.f_code in self.codes or is_user_module(frame.f_globals.get("__name__", ""))
            ):
                self.codes[frame.f_code] = frame.f_globals
                self.enter(frame)
            if passes_on:
                before(frame, event, argument)

        for name, value in self.roots:
            self.reach.root(name, value)
        gc.disable()
        sys.setprofile(hook)
        try:
            yield
        finally:
            sys.setprofile(before if passes_on else None)
            if hasattr(before, "enable"):
                before.enable()
            if collects:
                gc.enable()

    def enter(self, frame: FrameType) -> None:
        """Note the attributes of objects that the code of ``frame`` may set; those of Modules are
        noted by themselves.
        """
        self.reach.enter(frame.f_code, frame.f_globals)
        names = set_names(frame.f_code)
        if not names:
            return
        space = frame.f_globals
        read = [space[n] for n in global_names(frame.f_code) if n in space]
        for value in (*frame.f_locals.values(), *read):
            own = isinstance(getattr(value, "__dict__", None), dict)
            if own and is_user_module(type(value).__module__) and not is_module(value):
                for name in names:
                    self.changed.note(value, name, doubtful=True)

    def tell(self) -> None:
        """Tell ``changed`` what there was that the functions could have changed."""
        self.reach.tell(self.changed)

    def settle(self) -> tuple[Effect, ...]:
        """The trace succeeds: what each call does, of what the functions did; it is taken back."""
        direct = self.reach.tell(self.changed)
        self.added = additions(self.changed.settle(), self.codes.keys(), direct)
        return self.added.effects

    def guards(self) -> Guards:
        """What the collected functions read, starting at globals and at the roots."""
        walk = self._walk(_Walk(self.codes, self.added))
        if walk.by_name and walk.looks:  # something that it found reads what no code mentions
            walk = self._walk(_Walk(self.codes, Additions(), by_name=False))
        self.codes.clear()
        walk.found.epoch = epoch()
        return walk.found

    def _walk(self, walk: _Walk) -> _Walk:
        for code, space in self.codes.items():
            for name in global_names(code):
                if name in space or hasattr(builtins, name):
                    walk.bind(name, name, space, id(space))
        walk.queue += [*self.roots, ("hooks of all modules", vars(EVERYWHERE))]
        walk.run()
        return walk


class _Walk:
    """From the names that code mentions to everything it could have read."""

    def __init__(
        self, codes: Mapping[CodeType, object], added: Additions, *, by_name: bool = True
    ) -> None:
        self.codes = frozenset(codes)
        self.added = added
        self.names = frozenset([n for c in codes for n in mentioned(c)]) | {"forward"}
        few = len(self.names) <= MENTIONED and self.names.isdisjoint(LOOKS)
        self.by_name = by_name and few
        self.looks = False
        self.found = Guards()
        self.queue: list[tuple[str, object]] = []
        self.seen: dict[int, object] = {}
        self.bound: set[tuple[int, str]] = set()

    def bind(self, path: str, name: str, space: Mapping[str, object], key: int) -> None:
        """Record what ``name`` means in ``space``."""
        if (key, name) in self.bound:
            return
        self.bound.add((key, name))
        value = space.get(name, MISSING)
        if self.added_of({name: value}):
            return
        self.found.bindings.append(Binding(path, name, space, value))
        self.queue.append((path, value))

    def run(self) -> None:
        """Watch everything in the queue, and what is found on the way."""
        while self.queue:
            path, value = self.queue.pop()
            if isinstance(value, PLAIN) or id(value) in self.seen:
                continue
            if id(value) in self.added.containers:
                continue
            self.seen[id(value)] = value
            self.looks = self.looks or looks(value)
            if isinstance(value, ModuleType):
                self.module(path, value)
            elif isinstance(value, type):
                self.classes(value)
            elif self.is_open(value):
                self.watch(path, value)

    def watch(self, path: str, value: object) -> None:
        """Record the parts of ``value``, and queue them."""
        is_module = hasattr(value, "named_parameters")
        names = self.names_read(value)
        if names is not None and not is_module and not isinstance(value, FunctionType):
            space = vars(value)
            for name in names:
                self.bind(_path(path, value, name), name, space, id(space))
            self.queue.append((type(value).__name__, type(value)))
            return
        parts = parts_of(value) if names is None else read_of(value, names)
        is_heavy = isinstance(value, Tensor) or is_module
        (self.found.heavy if is_heavy else self.found.light).append(
            Watch(path, value, parts, names)
        )
        self.queue += [(_path(path, value, k), v) for k, v in zip(*parts, strict=True)]
        self.queue.append((type(value).__name__, type(value)))

    def names_read(self, value: object) -> frozenset[str] | None:
        """The names by which the code may read variables of a function, or attributes of an object,
        a Module's own included; None where it may read others.
        """
        if isinstance(value, FunctionType):
            keys, values = parts_of(value)
            added = self.added_of(dict(zip(keys, values, strict=True)))
            return frozenset(map(str, keys)) - added if added else None
        own = read_by_name(value) if self.by_name else None
        return None if own is None else (self.names | own) - self.added_of(vars(value))

    def added_of(self, parts: Mapping[Any, object]) -> set[str]:
        """The numbers among ``parts`` that the code only adds to."""
        return {name for name in self.added.names if type(parts.get(name)) is int}

    def is_open(self, value: object) -> bool:
        """Whether the parts of ``value`` are the user's business."""
        if isinstance(value, FunctionType):
            return value.__code__ in self.codes or "__wrapped__" in vars(value)
        if isinstance(value, np.ndarray):
            return is_small(value)
        known = (dict, *SEQUENCES, *NAMESPACES, MethodType, partial, Tensor)
        if isinstance(value, known) or hasattr(value, "named_parameters"):
            return True
        return hasattr(value, "__guards__") or is_user_module(type(value).__module__)

    def module(self, path: str, module: ModuleType) -> None:
        """Record the attributes of a Python module that the code mentions."""
        if is_user_module(module.__name__):
            space = vars(module)
            for name in self.names & space.keys():
                self.bind(f"{path}.{name}", name, space, id(space))

    def classes(self, cls: type) -> None:
        """Record the attributes of a class and of its bases that the code mentions."""
        bases = [c for c in cls.__mro__ if is_user_module(c.__module__)]
        present = {name for c in bases for name in vars(c)}
        for c in bases:
            for name in self.names & present:
                self.bind(f"{c.__name__}.{name}", name, vars(c), id(c))


def is_module(value: object) -> bool:
    """Whether ``value`` is a Module."""
    return hasattr(type(value), "named_parameters")


def looks(value: object) -> bool:
    """Whether calling ``value`` may read attributes of which no code that is traced tells."""
    if isinstance(value, FunctionType | BuiltinFunctionType | type):
        return value.__name__ in LOOKS
    return isinstance(value, attrgetter | methodcaller | partial)
