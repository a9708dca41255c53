"""``vtc.compile``: trace on the first call, check guards on the next, trace again when they fail.

@vtc.compile
def step(x, y): ...

fast = vtc.compile(model)           # a Module; attributes pass through
step.lower(x, y).ir("joint")        # compile without running
print(step.explain())               # what was compiled, and why again
"""

from __future__ import annotations

import functools
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import Any, final, overload

from vtc.config import config
from vtc.errors import ArgumentError, GuardError, VtcWarning
from vtc.frontend import dispatch
from vtc.frontend.deciding import Decides
from vtc.frontend.dispatch import state
from vtc.frontend.entry import Entry, build_entry
from vtc.frontend.keys import (
    Key,
    Kind,
    key_difference,
    leaf_keys,
    leaf_names,
    partition,
    sharing,
    tensor_leaf,
)
from vtc.frontend.options import check_options
from vtc.frontend.rebound import rebound
from vtc.frontend.replay import MISSED, Replay, holding
from vtc.frontend.source import located, user_level
from vtc.frontend.tensor import Tensor
from vtc.frontend.trace import Request, Traced, trace
from vtc.frontend.tree import Form, flatten
from vtc.frontend.widest import covers, widest
from vtc.ir.dims import Dim, Size
from vtc.ir.graph import Program
from vtc.ir.text import show
from vtc.passes.pipeline import Options

REPLAYS = 1024
"""Keys of calls that a compiled function remembers."""

REASONS = 3
"""Why a call was traced again: of as many programs as this is said why they do not serve."""
UNLUCKY = 16
"""Calls in a row that are all traced, after which a warning says so."""

_marked: dict[int, dict[int, Dim]] = {}  # by id: tensors do not compare as keys


def mark_dynamic(
    x: Tensor, dim: int, *, min: int = 2, max: int | None = None, name: str = ""
) -> None:
    """Say that this dim of ``x`` varies between calls: it is symbolic from the first one."""
    if not -x.ndim <= dim < x.ndim:
        raise located(ArgumentError, f"mark_dynamic: no dim {dim} in {x.type}")
    dim %= x.ndim
    if id(x) not in _marked:
        weakref.finalize(x, _marked.pop, id(x), None)
    _marked.setdefault(id(x), {})[dim] = Dim(name or f"d{dim}", min, max)


@final
@dataclass(frozen=True)
class Lowered:
    """A compiled program that was not run: what ``fn.lower(*args)`` gives."""

    entry: Entry

    def ir(self, stage: str = "captured", *, loc: bool = False) -> str:
        """The program at a stage of the pipeline, as text that parses."""
        return show(self.program(stage), loc=loc)

    def program(self, stage: str = "captured") -> Program:
        """The program at a stage of the pipeline."""
        return _stage(self.entry, stage)


def _stage(entry: Entry, stage: str) -> Program:
    if stage == "captured":
        return entry.traced.program
    stages = entry.forward.stages
    if stage not in stages:
        message = f"ir: expected a stage of {', '.join(stages)}, got {stage!r}"
        raise located(ArgumentError, message)
    return stages[stage]


class _Methods:
    """The compiled methods of an instance, kept in its ``__dict__`` so that they go when it goes.

    By function and instance, since a shallow copy has the same; other copies begin without.
    """

    def __init__(self) -> None:
        self.compiled: dict[tuple[int, int], Compiled] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Methods, ()


@final
class Compiled:
    """A function that runs as compiled programs, one for each set of guards."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        dynamic: bool | None = None,
        name: str = "",
        recompute: bool = True,
    ) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.dynamic = dynamic
        self.recompute = recompute
        self.name = name or _name(fn)
        self.misses: list[str] = []
        self._exact: dict[Key, list[Entry]] = {}
        self._general: dict[Key, list[tuple[Request, Entry]]] = {}
        self._varying: dict[Key, set[tuple[int, int]]] = {}
        self._seen: dict[Key, list[tuple[int, ...]]] = {}
        self._last: Entry | None = None
        self._latest: deque[Entry] = deque(maxlen=UNLUCKY)
        self._said = False
        self._replay: Replay | None = None
        self._replays: dict[Key, list[Replay]] = {}
        self._placed: set[Key] = set()
        self._decide: dict[Form | None, set[int]] = {}
        self._lock = threading.RLock()
        self._slotted = _Methods()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run compiled. The first call, and any the guards do not cover, trace and compile."""
        replay = self._replay
        if replay is not None and not kwargs:
            result = replay.call(args)
            if result is not MISSED:
                return result
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that is not like the one before."""
        if state.capture is not None:
            return self.fn(*args, **kwargs)
        leaves, form = flatten((args, kwargs))
        leaves = [tensor_leaf(leaf) for leaf in leaves]
        key = self._key(leaves, form)
        found = self._replays.get(key)
        replay = None if found is None else holding(found, leaves)
        if replay is None:
            entry = self._entry(key, leaves, form)
            if found is None:  # a key that is seen once is not worth a replay
                self._remember(key, [])
                self._replay = None
                return entry.run(leaves)
            replay = Replay(entry, leaves, key[1])
            self._remember(key, [replay, *(r for r in found if r.entry is not entry)])
        replay.rearm()
        again = replay if replay.by_kinds and _is_flat(form) and not key[-1] else None
        if self._last is not replay.entry or self._replay is not again:
            self._last, self._replay = replay.entry, again
        return replay.run(leaves, [leaf._known[2] for leaf in leaves if isinstance(leaf, Tensor)])

    def _remember(self, key: Key, replays: list[Replay]) -> None:
        if len(self._replays) >= REPLAYS:
            self._replays.clear()
        self._replays[key] = replays

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: compiled for each instance."""
        if instance is None:
            return self
        held = getattr(instance, "__dict__", None)
        methods = self._slotted  # for instances with slots, and for classes
        if isinstance(held, dict):
            methods = held.setdefault("__vtc__", methods.__class__())
        key = id(self), id(instance)
        if key not in methods.compiled:
            bound = self.fn.__get__(instance)
            methods.compiled[key] = _compiled(bound, self.dynamic, self.name, self.recompute)
        return methods.compiled[key]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy compiles anew."""
        return _compiled, (self.fn, self.dynamic, self.name, self.recompute)

    def __setattr__(self, name: str, value: Any) -> None:
        """Attributes of a compiled Module are the Module's."""
        own = "_lock" not in self.__dict__ or name in self.__dict__
        if own or not hasattr(self.fn, "named_parameters"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.fn, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "fn" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.fn, name)

    def __guards__(self) -> Callable[..., Any]:
        """What runs, inlined, when another compiled function calls this."""
        return self.fn

    def __repr__(self) -> str:
        return f"vtc.compile({self.fn!r})"

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace and compile for these arguments without running."""
        leaves, form = flatten((args, kwargs))
        leaves = [tensor_leaf(leaf) for leaf in leaves]
        return Lowered(self._entry(self._key(leaves, form), leaves, form))

    def ir(self, stage: str = "captured", *, loc: bool = False) -> str:
        """The program called last, at a stage of the pipeline, as text that parses."""
        return show(self.program(stage), loc=loc)

    def program(self, stage: str = "captured") -> Program:
        """The program called last, at a stage of the pipeline."""
        if self._last is None:
            raise located(
                ArgumentError, f"{self.name} was not called yet; call it, or use .lower(*args)"
            )
        return _stage(self._last, stage)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every compiled entry alive."""
        kept = list(self._exact.values())  # another thread may add to it meanwhile
        return tuple({id(e): e for found in kept for e in found}.values())

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """What was compiled and why again; what each program moves through memory, kernel by
        kernel, and why it is not less. With arguments it is compiled for them first.
        """
        if args or kwargs:
            self.lower(*args, **kwargs)
        lines = [f"{self.name}: {len(self.entries)} compiled programs"]
        for k, e in enumerate(self.entries):
            lines.append(f"  program {k}: called {e.calls} times; {e.forward.describe()}")
            lines.append(indent(e.forward.explain(), "    "))
            if e.backward is not None:
                lines.append(f"    backward: {e.backward.describe()}")
                lines.append(indent(e.backward.explain(), "    "))
        lines += [f"  compiled again: {m}" for m in self.misses]
        return "\n".join(lines)

    # finding the entry

    def _key(self, leaves: Sequence[Any], form: Form | None) -> Key:
        key = (
            form,
            leaf_keys(leaves, self._decide.get(form, ())),
            state.grad,
            state.autocast,
            (dispatch.default_dtype(), dispatch.default_device()),
            dispatch.deterministic(),
            sharing(leaves),
        )
        placed = key[-1] and key in self._placed
        return (*key[:-1], partition(leaves)) if placed else key

    def _entry(self, key: Key, leaves: Sequence[Any], form: Form | None) -> Entry:
        for entry in self._exact.get(key, ()):
            if entry.miss(leaves) is None:
                self._last = entry
                return entry
        with self._lock:
            entry = self._find_or_trace(key, leaves, form)
        self._last = entry
        return entry

    def _find_or_trace(self, key: Key, leaves: Sequence[Any], form: Form | None) -> Entry:
        for entry in self._exact.get(key, ()):  # another thread may have made it meanwhile
            if entry.miss(leaves) is None:
                return entry
        ranks = tuple([k.general if isinstance(k, Kind) else k for k in key[1]])
        general = (form, ranks, *key[2:])
        for request, entry in self._general.get(general, ()):
            if covers(request, leaves) and entry.miss(leaves) is None:
                self._exact.setdefault(key, []).append(entry)
                return entry
        if (again := self._rebound(key, general, leaves)) is not None:
            return again
        self._explain_miss(key, general, leaves)
        self._say_if_unlucky()
        self._refuse_too_many()
        try:
            request, traced = self._trace(general, leaves, form)
        except Decides as asked:
            self._decide.setdefault(form, set()).add(asked.index)
            return self._find_or_trace(self._key(leaves, form), leaves, form)
        if traced.placed:
            self._placed.add(key)
            key, general = [(*k[:-1], partition(leaves)) for k in (key, general)]
        least = Options().recompute if self.recompute else None
        entry = build_entry(traced, Options(recompute=least))
        self._exact.setdefault(key, []).insert(0, entry)
        self._general.setdefault(general, []).append((request, entry))
        self._latest.append(entry)
        return entry

    def _rebound(self, key: Key, general: Key, leaves: Sequence[Any]) -> Entry | None:
        """An old entry, for other tensors under the names that it reads; the first two have own."""
        known = self._exact.get(key, ())
        for old in reversed(known[1:]):
            if (entry := rebound(old, leaves)) is not None:
                self._exact[key] = [entry, *(e for e in known if e is not old)]
                ready = self._general.get(general, [])
                self._general[general] = [(r, entry if e is old else e) for r, e in ready]
                for replays in self._replays.values():
                    replays[:] = [r for r in replays if r.entry is not old]
                return entry
        return None

    def _explain_miss(self, key: Key, general: Key, leaves: Sequence[Any]) -> None:
        if not self._exact:
            return
        fitting = (e for r, e in self._general.get(general, ()) if covers(r, leaves))
        tried = [*self._exact.get(key, ()), *fitting]
        reasons = [why for e in tried if (why := e.miss(leaves)) is not None]
        if not reasons:
            reasons = [key_difference(next(reversed(self._exact)), key)]
        self.misses.append("; ".join(list(dict.fromkeys(reasons))[:REASONS]))

    def _say_if_unlucky(self) -> None:
        """Warn, once, of a function that is slower than without ``compile``."""
        if self._said or len(self._latest) < UNLUCKY or any(e.calls > 1 for e in self._latest):
            return
        self._said = True
        warnings.warn(
            f"{self.name}: each of the last {UNLUCKY} calls was traced and compiled anew, this one "
            f"because {self.misses[-1]}. What changes from call to call should be an argument, or "
            "change outside of the function; its explain() lists all reasons",
            VtcWarning,
            stacklevel=user_level(),
        )

    def _refuse_too_many(self) -> None:
        limit = config().cache_size
        while len(self.entries) >= limit:
            oldest = next(iter(self._exact.values()))[-1]
            self._replay = None
            self._replays.clear()
            exact = {k: [e for e in found if e is not oldest] for k, found in self._exact.items()}
            self._exact = {k: found for k, found in exact.items() if found}
            self._general = {
                k: [(r, e) for r, e in found if e is not oldest]
                for k, found in self._general.items()
            }
            self.misses.append(
                f"more than {limit} programs (VTC_CACHE_SIZE): the oldest was dropped"
            )

    def _trace(
        self, general: Key, leaves: Sequence[Any], form: Form | None
    ) -> tuple[Request, Traced]:
        asked = self._request(general, leaves, form)
        if not asked.dims:
            return asked, trace(asked)
        request, traced, why = widest(asked)
        if fixed := [d.name for d in asked.dims if d not in request.dims]:
            sizes = f"fixed sizes of {', '.join(fixed)}" if request.dims else "fixed sizes"
            self.misses.append(f"a symbolic size did not work ({why}); compiled for {sizes}")
        return request, traced

    def _static(self, leaves: Sequence[Any], form: Form | None) -> Request:
        types = {i: leaf.type for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        names, decide = leaf_names(self.fn, form), frozenset(self._decide.get(form, ()))
        return Request(self.name, self.fn, leaves, names, form, types, decide=decide)

    def _request(self, general: Key, leaves: Sequence[Any], form: Form | None) -> Request:
        """The types to trace with: dims that were seen to vary are symbolic, equal sizes alike."""
        request = self._static(leaves, form)
        shape = tuple(n for leaf in leaves if isinstance(leaf, Tensor) for n in leaf.shape)
        self._seen.setdefault(general, []).append(shape)
        dims: dict[int, Dim] = {}
        at = 0
        for i, type in list(request.types.items()):
            sizes: list[Size] = []
            for axis, n in enumerate(type.shape):
                dim = self._dim(
                    request.names[i], leaves[i], axis, {s[at] for s in self._seen[general]}
                )
                if dim is not None and isinstance(n, int):
                    dim = dims.setdefault(n, dim)
                    self._refuse_two_sizes(dim, n, request.values)
                    request.values[dim.name] = n
                sizes.append(n if dim is None else dim.sym)
                at += 1
            request.types[i] = type.with_shape(sizes)
        request.dims = tuple(dims.values())
        return request

    def _refuse_two_sizes(self, dim: Dim, n: int, values: Mapping[str, Size]) -> None:
        if (other := values.get(dim.name, n)) != n:
            raise located(
                GuardError,
                f"{self.name}: dim {dim.name} is {other} in one argument and {n} in another",
            )

    def _dim(self, name: str, x: Tensor, axis: int, seen: set[int]) -> Dim | None:
        n = x.shape[axis]
        marked = _marked.get(id(x), {}).get(axis)
        if self.dynamic is False or n < 2:
            return None
        if marked is not None:
            if n < marked.min or (marked.max is not None and n > marked.max):
                raise located(
                    GuardError,
                    f"{name}: size {n} of dim {axis} is outside the marked range {marked}",
                )
            return marked
        varies = self.dynamic is True or len(seen - {0, 1}) > 1
        return Dim(f"{name}_{axis}", 2, None) if varies else None


def _is_flat(form: Form | None) -> bool:
    """Whether ``(args, kwargs)`` of this form is leaves by position, none by name."""
    args, kwargs = form.children if form is not None else (None, None)
    return args is not None and not any(args.children) and kwargs is not None and not kwargs.keys


def _name(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__.lower())
    return name if name.isidentifier() and not name.startswith("<") else "f"


@overload
def compile(
    fn: None = None, *, dynamic: bool | None = None, name: str = "", recompute: bool = True
) -> Callable[[Any], Any]: ...


@overload
def compile(
    fn: Any, *, dynamic: bool | None = None, name: str = "", recompute: bool = True
) -> Any: ...


def compile(
    fn: Any = None,
    *,
    dynamic: bool | None = None,
    name: str = "",
    recompute: bool = True,
    **others: object,
) -> Any:
    """Compile a function, a method, a Module or a Module class; with options, a decorator.

    ``dynamic``: None makes a dim symbolic at its second size, True from the start, False never; one
    that meets a fixed size, that of a parameter, is fixed.
    ``recompute``: whether cheap values may be computed again where that saves much memory.
    ``name``: what it is called in programs and messages, the function's own by default.
    ArgumentError for other values, and if ``fn`` cannot be called.
    """
    check_options(dynamic, name, recompute, others)
    if fn is None:
        return lambda f: compile(f, dynamic=dynamic, name=name, recompute=recompute)
    if isinstance(fn, type):
        return _compile_class(fn, dynamic, name, recompute)
    if not callable(fn):
        raise located(
            ArgumentError, f"compile: expected a function or a Module, got {type(fn).__name__}"
        )
    return _compiled(fn, dynamic, name, recompute)


def _compiled(fn: Callable[..., Any], dynamic: bool | None, name: str, recompute: bool) -> Compiled:
    return Compiled(fn, dynamic=dynamic, name=name, recompute=recompute)


def _compile_class(cls: type, dynamic: bool | None, name: str, recompute: bool) -> type:
    """``cls`` whose instances run compiled when called."""
    if not hasattr(cls, "named_parameters"):
        raise located(ArgumentError, f"compile: expected a Module class, got {cls.__name__}")
    call = _compiled(cls.__call__, dynamic, name or _name(cls), recompute)

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call.__get__(self)(*args, **kwargs)

    setattr(cls, "__call__", run)  # noqa: B010  # mypy: a method of an unknown class
    return cls
