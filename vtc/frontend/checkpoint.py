"""``vtc.checkpoint(fn, *args)``: of what ``fn`` computes nothing is kept for backward but its
inputs; backward runs it again.

    for block in self.blocks:
        x = vtc.checkpoint(block, x)

Traced, the values of ``fn`` are marked, and ``differentiate`` computes again what gradients read.
Eager, a :class:`Segment` forgets what its records saved, and runs ``fn`` again when backward
reaches it: with the same random numbers, and without a lasting effect on tensors that ``fn``
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from vtc.errors import ArgumentError, GradientError, VersionError
from vtc.frontend import dispatch
from vtc.frontend.autograd import ENGINE
from vtc.frontend.dispatch import state
from vtc.frontend.functions.random import default_generator
from vtc.frontend.inputs import layout
from vtc.frontend.source import located
from vtc.frontend.tape import Record, Saved, restore, running
from vtc.frontend.tensor import MOMENTS, Storage, Tensor
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.op import Op
from vtc.ir.types import Array, DType

FOREIGN = ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check")
"""Options of PyTorch's checkpoint that would otherwise silently be arguments of ``fn``."""


def checkpoint(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``fn(*args, **kwargs)``, of which backward keeps only the inputs and computes the rest again.

    Gradients are bit-equal to those without, dropout included. ``fn`` may take and return trees of
    tensors and anything else; calls nest. ArgumentError if ``fn`` cannot be called; at backward,
    GradientError if ``fn`` does something else when it runs again, VersionError if what it read
    was changed in place since.
    """
    if not callable(fn):
        raise located(ArgumentError, f"checkpoint: expected a function, got {type(fn).__name__}")
    if found := [k for k in FOREIGN if k in kwargs]:
        raise located(
            ArgumentError,
            f"checkpoint: there is no option {found[0]}: fn runs again as it ran first, with the "
            "same random numbers; leave it out",
        )
    if not state.grad:
        return fn(*args, **kwargs)
    if state.capture is not None:
        with state.capture.borders.segment():
            return fn(*args, **kwargs)
    default_generator().state  # noqa: B018  # it is made now, so it is older than the segment
    leaves, form = flatten((args, kwargs))
    given = tuple([ENGINE.save(a) if isinstance(a, Tensor) else a for a in leaves])
    segment = Segment(fn, given, form, outer=running.segment)
    if segment.outer is not None:
        segment.outer.inner.append(segment)
    result = segment.run(args, kwargs)
    segment.drop()
    return result


@dataclass(eq=False, slots=True)
class Written:
    """What a storage that is older than a segment held before the segment wrote it."""

    storage: Storage
    array: Array
    content: Array
    version: int
    writes: int

    @classmethod
    def of(cls, storage: Storage, array: Array) -> Written:
        """What ``array``, of ``storage``, holds now."""
        return cls(storage, array, array.copy(), storage.version, storage.writes)

    def put_back(self) -> None:
        """Make it hold that again."""
        self.array[...] = self.content
        self.storage.version, self.storage.writes = self.version, self.writes


@final
@dataclass(frozen=True, slots=True)
class Forgotten:
    """In place of an op that holds arrays: a compiled backward."""

    name: str


@final
@dataclass(eq=False, slots=True)
class Segment:
    """One call of a checkpointed function, and how to run it again."""

    fn: Callable[..., Any]
    given: tuple[Any, ...]
    form: Form | None
    outer: Segment | None = None
    autocast: DType | None = field(default_factory=lambda: state.autocast)
    start: int = field(default_factory=lambda: next(MOMENTS))
    records: list[Record] = field(default_factory=list)
    inner: list[Segment] = field(default_factory=list)
    written: dict[object, Written] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    """Of what is saved, when the run ended."""
    forgotten: bool = False

    def run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the function returns; its records are collected here."""
        before, running.segment = running.segment, self
        try:
            result = self.fn(*args, **kwargs)
        finally:
            running.segment = before
        self.versions = [_version(s) for s in self.saved()]
        return result

    def saved(self) -> list[Saved]:
        """Every value that is forgotten, in an order that is the same at each run."""
        found = [s for r in self.records for s in (*r.inputs, r.out)]
        return found + [a for p in self.inner for a in p.given if isinstance(a, Saved)]

    def drop(self) -> None:
        """Forget all values but those of leaves."""
        self.forgotten = True
        for s in self.saved():
            if s.leaf is None:
                s.array = None
        for r in self.records:
            r.several = ()
            if not isinstance(r.op, Op):
                r.op = Forgotten(r.op.name)

    def fill(self) -> None:
        """Run again and remember all values."""
        moved = [_version(s) != v for s, v in zip(self.saved(), self.versions, strict=True)]
        again = Segment(self.fn, self.given, self.form)
        with self._as_it_was():
            leaves = [restore(a) if isinstance(a, Saved) else a for a in self.given]
            again.run(*unflatten(self.form, leaves))
        _refuse_other(self, again)
        for old, new, changed in zip(self.saved(), again.saved(), moved, strict=True):
            if changed and old.storage is new.storage:
                raise located(
                    VersionError,
                    f"a value that {_name(self.fn)} reads was changed in place since checkpoint "
                    f"ran it: {old.type}",
                )
            if old.storage is not new.storage:
                old.storage, old.version = new.storage, new.version
            old.array = new.array
        for mine, its in zip(self.records, again.records, strict=True):
            mine.op, mine.several, its.segment = its.op, its.several, None
        self.forgotten = False

    def writing(self, x: Tensor) -> None:
        """``x`` is about to be written."""
        s = x._storage
        if s is None or x._array is None or s.born >= self.start:
            return
        key = s, layout(x), x._array.shape
        if key not in self.written:
            self.written[key] = Written.of(s, x._array)
        if self.outer is not None:
            self.outer.writing(x)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """What the function found when it ran first; afterwards all is as it is now."""
        before = list(self.written.values())
        now = [Written.of(w.storage, w.array) for w in before]
        outer = state.autocast, state.capture
        state.autocast, state.capture = self.autocast, None
        for w in reversed(before):
            w.put_back()
        try:
            with dispatch.enable_grad():
                yield
        finally:
            for w in now:
                w.put_back()
            state.autocast, state.capture = outer


def _refuse_other(first: Segment, again: Segment) -> None:
    """GradientError unless both runs did the same."""
    mine, its = _steps(first), _steps(again)
    if mine == its:
        return
    k = next((k for k, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), -1)
    k = min(len(mine), len(its)) if k < 0 else k
    was, now = (steps[k][0] if k < len(steps) else "nothing" for steps in (mine, its))
    raise located(
        GradientError,
        f"checkpoint: {_name(first.fn)} did something else when it ran again for backward: "
        f"expected {was}, got {now}",
    )


def _steps(segment: Segment) -> list[tuple[str, Any]]:
    """What a run did, as text and exactly."""
    found: list[tuple[str, Any]] = []
    for r in segment.records:
        types = ", ".join([str(s.type) for s in r.inputs])
        op = r.op if isinstance(r.op, Op) else r.op.name
        found.append((f"{r.op.name}({types})", (op, r.out.type)))
    return found + [(f"checkpoint of {_name(p.fn)}", p.form) for p in segment.inner]


def _version(saved: Saved) -> int:
    return 0 if saved.storage is None else saved.storage.version


def _name(fn: Any) -> str:
    name: str = getattr(fn, "__name__", type(fn).__name__)
    return name
