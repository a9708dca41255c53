"""``vtc.compile``: trace on the first call, check guards on the next, trace again when they fail.

@vtc.compile
def step(x, y): ...

fast = vtc.compile(model)           # a Module; attributes pass through
step.lower(x, y).ir("joint")        # compile without running
print(step.explain())               # what was compiled, and why again
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final, overload

import numpy as np

from vtc.config import config
from vtc.errors import ArgumentError, CaptureError, GuardError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import state
from vtc.frontend.entry import Entry, build_entry
from vtc.frontend.guards import PLAIN
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.trace import Request, Traced, trace
from vtc.frontend.tree import Form, flatten
from vtc.ir.dims import Dim, Size, symbols
from vtc.ir.graph import Program
from vtc.ir.text import show
from vtc.ir.types import TensorType
from vtc.passes.pipeline import Context

Key = tuple[Any, ...]
_marked: weakref.WeakKeyDictionary[Tensor, dict[int, Dim]] = weakref.WeakKeyDictionary()


def mark_dynamic(
    x: Tensor, dim: int, *, min: int = 2, max: int | None = None, name: str = ""
) -> None:
    """Say that this dim of ``x`` varies between calls, so that it is symbolic from the first one.
    """
    if not -x.ndim <= dim < x.ndim:
        raise located(ArgumentError, f"mark_dynamic: no dim {dim} in {x.type}")
    dim %= x.ndim
    _marked.setdefault(x, {})[dim] = Dim(name or f"d{dim}", min, max)


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
        raise ArgumentError(
            f"ir: expected a stage of {', '.join(('captured', *stages))}, got {stage!r}"
        )
    return stages[stage]


@final
class Compiled:
    """A function that runs as compiled programs, one for each set of guards."""

    def __init__(
        self, fn: Callable[..., Any], *, dynamic: bool | None = None, name: str = ""
    ) -> None:
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.dynamic = dynamic
        self.name = name or _name(fn)
        self.misses: list[str] = []
        self._exact: dict[Key, list[Entry]] = {}
        self._general: dict[Key, list[tuple[Request, Entry]]] = {}
        self._varying: dict[Key, set[tuple[int, int]]] = {}
        self._seen: dict[Key, list[tuple[int, ...]]] = {}
        self._last: Entry | None = None
        self._lock = threading.RLock()
        self._bound: weakref.WeakKeyDictionary[Any, Compiled] = weakref.WeakKeyDictionary()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run compiled. The first call, and any the guards do not cover, trace and compile."""
        if state.capture is not None:
            return self.fn(*args, **kwargs)
        leaves, form = flatten((args, kwargs))
        leaves = [_tensor_leaf(leaf) for leaf in leaves]
        return self._entry(leaves, form).run(leaves)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: compiled for each instance."""
        if instance is None:
            return self
        if instance not in self._bound:
            self._bound[instance] = Compiled(
                self.fn.__get__(instance), dynamic=self.dynamic, name=self.name
            )
        return self._bound[instance]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "fn" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.fn, name)

    def __guards__(self) -> int:
        """Which function this is; its own entries guard the rest."""
        return id(self.fn)

    def __repr__(self) -> str:
        return f"vtc.compile({self.fn!r})"

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace and compile for these arguments without running."""
        leaves, form = flatten((args, kwargs))
        return Lowered(self._entry([_tensor_leaf(leaf) for leaf in leaves], form))

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
        return tuple({id(e): e for found in self._exact.values() for e in found}.values())

    def explain(self) -> str:
        """What was compiled, how large it is, and why it was compiled again."""
        lines = [f"{self.name}: {len(self.entries)} compiled programs"]
        for k, e in enumerate(self.entries):
            lines.append(f"  program {k}: called {e.calls} times; {e.forward.describe()}")
            if e.backward is not None:
                lines.append(f"    backward: {e.backward.describe()}")
        lines += [f"  compiled again: {m}" for m in self.misses]
        return "\n".join(lines)

    # finding the entry

    def _entry(self, leaves: Sequence[Any], form: Form | None) -> Entry:
        key = (
            form,
            tuple([_leaf_key(leaf) for leaf in leaves]),
            state.grad,
            state.autocast,
            _partition(leaves),
        )
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
        general = (form, tuple([_leaf_key(leaf, ranks_only=True) for leaf in leaves]), *key[2:])
        for request, entry in self._general.get(general, ()):
            if _covers(request, leaves) and entry.miss(leaves) is None:
                self._exact.setdefault(key, []).append(entry)
                return entry
        self._explain_miss(key, general, leaves)
        self._refuse_too_many()
        request, traced = self._trace(general, leaves, form)
        entry = build_entry(traced, Context())
        self._exact.setdefault(key, []).insert(0, entry)
        self._general.setdefault(general, []).append((request, entry))
        return entry

    def _explain_miss(self, key: Key, general: Key, leaves: Sequence[Any]) -> None:
        if not self._exact:
            return
        tried = [*self._exact.get(key, ()), *(e for _, e in self._general.get(general, ()))]
        reasons = [why for e in tried if (why := e.miss(leaves)) is not None]
        if not reasons:
            reasons = [_key_difference(next(reversed(self._exact)), key)]
        self.misses.append("; ".join(dict.fromkeys(reasons)))

    def _refuse_too_many(self) -> None:
        limit = config().cache_size
        while len(self.entries) >= limit:
            oldest = next(iter(self._exact.values()))[0]
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
        request = self._request(general, leaves, form)
        if not request.dims or self.dynamic is True:
            return request, trace(request)
        try:
            return request, trace(request)
        except (CaptureError, TypeCheckError) as e:
            self.misses.append(
                f"a symbolic size did not work ({str(e).splitlines()[0]}); compiled for fixed sizes"
            )
            request = self._static(leaves, form)
            return request, trace(request)

    def _static(self, leaves: Sequence[Any], form: Form | None) -> Request:
        types = {i: leaf.type for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        return Request(self.name, self.fn, leaves, _leaf_names(self.fn, form), form, types)

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
                    request.values[dim.name] = n
                sizes.append(n if dim is None else dim.sym)
                at += 1
            request.types[i] = type.with_shape(sizes)
        request.dims = tuple(dims.values())
        return request

    def _dim(self, name: str, x: Tensor, axis: int, seen: set[int]) -> Dim | None:
        n = x.shape[axis]
        marked = _marked.get(x, {}).get(axis)
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


def _covers(request: Request, leaves: Sequence[Any]) -> bool:
    """Whether the symbolic types of ``request`` fit these arguments."""
    ranges = {d.name: (d.min, d.max) for d in request.dims}
    values: dict[str, int] = {}
    for i, type in request.types.items():
        for s, n in zip(type.shape, leaves[i].shape, strict=True):
            if isinstance(s, int):
                if s != n:
                    return False
                continue
            (name,) = symbols(s)
            lo, hi = ranges[name]
            if values.setdefault(name, n) != n or n < lo or (hi is not None and n > hi):
                return False
    return True


def _tensor_leaf(leaf: Any) -> Any:
    if isinstance(leaf, np.generic):
        return leaf.item()
    return dispatch.from_array(leaf) if isinstance(leaf, np.ndarray) else leaf


def _leaf_key(leaf: Any, *, ranks_only: bool = False) -> Any:
    """What of an argument is guarded."""
    if isinstance(leaf, Tensor):
        array = leaf._array
        if array is None:
            raise located(
                CaptureError, "a traced value of an ended trace was passed to a compiled function"
            )
        requires = (
            leaf._requires
            or leaf._record is not None
            or (leaf._link is not None and leaf.requires_grad)
        )
        return (
            array.ndim if ranks_only else array.shape,
            array.dtype,
            requires,
            leaf._weak,
            leaf.device,
        )
    if isinstance(leaf, float):
        return float
    if isinstance(leaf, PLAIN):
        return type(leaf), leaf
    if callable(leaf) or hasattr(leaf, "__dict__"):
        return type(leaf), id(leaf)
    raise located(
        ArgumentError,
        f"an argument of type {type(leaf).__name__} cannot be compiled; expected tensors, "
        "numbers, strings, "
        "modules, or tuples, lists, dicts and dataclasses of them",
    )


def _partition(leaves: Sequence[Any]) -> tuple[int, ...]:
    """Which tensor arguments share a storage."""
    storages = [id(leaf._storage) for leaf in leaves if isinstance(leaf, Tensor)]
    if len(set(storages)) == len(storages):
        return ()
    return tuple(storages.index(s) for s in storages)


def _key_difference(old: Key, new: Key) -> str:
    """Where two keys differ, in words."""
    if old[0] != new[0]:
        return "the arguments have another structure"
    for k, (a, b) in enumerate(zip(old[1], new[1], strict=True)):
        if a != b:
            return f"argument {k} was {_key_word(a)}, is {_key_word(b)}"
    words = ("gradients enabled", "autocast", "which arguments share memory")
    return next(
        (
            f"{w}: was {a}, is {b}"
            for w, a, b in zip(words, old[2:], new[2:], strict=True)
            if a != b
        ),
        "guards",
    )


def _key_word(key: Any) -> str:
    match key:
        case (tuple() as shape, np.dtype() as dtype, *_):
            return str(TensorType.of(np.empty(shape, dtype)))
        case (type() as kind, value):
            return f"{kind.__name__} {value!r}"
        case _:
            return str(key)


def _name(fn: Any) -> str:
    name = getattr(fn, "__name__", type(fn).__name__.lower())
    return name if name.isidentifier() and not name.startswith("<") else "f"


def _leaf_names(fn: Any, form: Form | None) -> list[str]:
    """A name for each leaf of ``(args, kwargs)``, from the signature."""
    if form is None:
        return []
    args, kwargs = form.children
    try:
        parameters = [
            p.name
            for p in inspect.signature(getattr(fn, "forward", fn)).parameters.values()
            if p.kind is not p.KEYWORD_ONLY
        ]
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for i, child in enumerate(args.children if args else ()):
        _name_leaves(parameters[i] if i < len(parameters) else f"x{i}", child, names)
    if kwargs is not None:
        for key, child in zip(kwargs.keys, kwargs.children, strict=True):
            _name_leaves(str(key), child, names)
    return names


def _name_leaves(name: str, form: Form | None, names: list[str]) -> None:
    if form is None:
        names.append(name if name.isidentifier() else "x")
        return
    for k, child in enumerate(form.children):
        key = form.keys[k] if form.keys else k
        _name_leaves(f"{name}_{key}", child, names)


@overload
def compile(
    fn: None = None, *, dynamic: bool | None = None, name: str = ""
) -> Callable[[Any], Any]: ...


@overload
def compile(fn: Any, *, dynamic: bool | None = None, name: str = "") -> Any: ...


def compile(fn: Any = None, *, dynamic: bool | None = None, name: str = "") -> Any:
    """Compile a function, a method, a Module or a Module class; with options, a decorator.

    ``dynamic``: None makes a dim symbolic at its second size, True from the start, False never.
    ArgumentError if ``fn`` cannot be called.
    """
    if fn is None:
        return lambda f: compile(f, dynamic=dynamic, name=name)
    if isinstance(fn, type):
        return _compile_class(fn, dynamic, name)
    if not callable(fn):
        raise located(
            ArgumentError, f"compile: expected a function or a Module, got {type(fn).__name__}"
        )
    return Compiled(fn, dynamic=dynamic, name=name)


def _compile_class(cls: type, dynamic: bool | None, name: str) -> type:
    """``cls`` whose instances run compiled when called."""
    if not hasattr(cls, "named_parameters"):
        raise located(ArgumentError, f"compile: expected a Module class, got {cls.__name__}")
    call = Compiled(cls.__call__, dynamic=dynamic, name=name or _name(cls))

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call.__get__(self)(*args, **kwargs)

    setattr(cls, "__call__", run)  # noqa: B010  # mypy: a method of an unknown class
    return cls
