"""Eager differentiation: a tape of records, and the reverse sweep over it.

A record keeps its inputs as they were, with the version of their storage. A gradient rule that
reads a value whose version has moved raises VersionError; one that never reads it is content.
Views recompute their record from their base after a differentiable write, so a write through a
view is differentiated too.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vtc.errors import GradientError, VersionError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import Rest, Result, state
from vtc.frontend.source import located, user_loc
from vtc.frontend.tensor import Storage, Tensor, concrete_tensor, concrete_type, write_through
from vtc.ir.graph import Loc
from vtc.ir.op import Builder, Op
from vtc.ir.ops.control import Item, StopGradient
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import Reshape
from vtc.ir.reverse import Entry, reverse
from vtc.ir.types import Array, TupleType, Type
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.ir.op import Needs

_sequence = itertools.count()


class Differentiable(Protocol):
    """What a record needs of its op: an :class:`~vtc.ir.op.Op`, or a compiled function."""

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of the inputs."""


class Segment(Protocol):
    """A checkpointed segment of the tape: it forgets what its records saved, and can fill it in."""

    @property
    def outer(self) -> Segment | None:
        """The segment this one lies in."""

    @property
    def forgotten(self) -> bool:
        """Whether it must be filled before its records are read."""

    def fill(self) -> None:
        """Compute what the records saved again."""

    def drop(self) -> None:
        """Forget it."""


@dataclass(eq=False, slots=True)
class Saved:
    """A value as it was when an op read or made it."""

    type: Type
    array: Array | None = None
    storage: Storage | None = None
    version: int = 0
    record: Record | None = None
    leaf: Tensor | None = None

    @property
    def key(self) -> object:
        """What the reverse sweep calls this value."""
        known = self.record if self.record is not None else self.leaf
        return self if known is None else known


@dataclass(eq=False, slots=True)
class Record:
    """One application of an op, on the tape."""

    op: Any
    inputs: tuple[Saved, ...]
    out: Saved
    index: int | None = None
    loc: Loc | None = None
    freed: bool = False
    several: tuple[Tensor, ...] = ()
    segment: Segment | None = None
    order: int = field(default_factory=lambda: next(_sequence))

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of the inputs, each as it was when it was read."""
        del inputs
        read = tuple([Expr(BUILDER, s) for s in self.inputs])
        found: Sequence[Any] = self.op.vjp(g, out, read, needs)
        return found


@dataclass(frozen=True, slots=True)
class TensorBuilder:
    """The Builder that runs tensors. A saved value becomes a tensor when it is first read."""

    def apply(self, op: Op, *inputs: Any, hint: str = "") -> Any:
        """``op`` on saved values and tensors."""
        if isinstance(op, Item):
            return inputs[0][op.index]
        if not inputs:
            return dispatch.create(op, running.device)
        tensors = [restore(x) if isinstance(x, Saved) else x for x in inputs]
        several = isinstance(op.infer(*(t.type for t in tensors)), TupleType)
        return dispatch.apply_tuple(op, *tensors) if several else dispatch.apply(op, *tensors)

    def type_of(self, value: Any) -> Type:
        """The type of a saved value, a tensor, or a tuple of tensors."""
        if isinstance(value, tuple):
            return TupleType(tuple(v.type for v in value))
        type: Type = value.type
        return type


BUILDER: Builder[Any] = TensorBuilder()


def restore(saved: Saved) -> Tensor:
    """The tensor that was saved. VersionError if it was written since."""
    if saved.array is None:
        raise located(
            GradientError,
            "backward a second time through the same graph: its saved values are freed;"
            "\n       pass retain_graph=True to the first backward",
        )
    if saved.storage is not None and saved.storage.version != saved.version:
        what = f", the output of {saved.record.op.name}" if saved.record is not None else ""
        raise located(
            VersionError,
            f"a value needed for the gradient was changed in place: {saved.type}{what}, "
            "is at version "
            f"{saved.storage.version}, expected version {saved.version}",
        )
    if saved.leaf is not None:
        return saved.leaf
    x = concrete_tensor(saved.array, saved.storage)
    x._record = saved.record
    return x


class _Running(threading.local):
    def __init__(self) -> None:
        self.segment: Any = None
        self.body: Any = None
        self.device: Device | None = None


running = _Running()
"""The checkpointed segment that runs on this thread, the body of a loop or a branch that does, and
the device of its sweep.
"""


@dataclass(frozen=True, slots=True)
class Move:
    """A copy to another device, on the tape; ``device`` is where it came from."""

    device: Device
    name: str = "to"

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Expr | None]:
        """The gradient, moved back."""
        value = restore(g.value) if isinstance(g.value, Saved) else g.value
        return (Expr(BUILDER, value.to(self.device)),)


class Engine:
    """Records while eager code runs; sweeps at ``backward``."""

    def rule(self, op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
        """The dispatch rule: run, then record where a gradient may flow."""
        if not state.grad or not any([x.requires_grad for x in inputs]):
            return rest(op, inputs)
        saved = tuple([self.save(x) for x in inputs])
        with dispatch.no_grad():
            out = rest(op, inputs)
        self.record(op, saved, out)
        return out

    def save(self, x: Tensor) -> Saved:
        """``x`` as it is now."""
        record = self.record_of(x)
        leaf = x if record is None and x._requires else None
        version = x._storage.version if x._storage is not None else 0
        return Saved(concrete_type(x), x._array, x._storage, version, record, leaf)

    def record(
        self, op: Differentiable, saved: tuple[Saved, ...], out: Tensor | tuple[Tensor, ...]
    ) -> None:
        """Put an application of ``op`` on the tape."""
        if isinstance(op, StopGradient):
            return
        if isinstance(out, tuple):
            whole = Record(op, saved, Saved(TupleType(tuple(o.type for o in out))), loc=user_loc())
            whole.several = out
            self._collect(whole)
            for i, o in enumerate(out):
                self._attach(
                    o,
                    Record(
                        Item(i), (Saved(whole.out.type, record=whole),), self._result(o), index=i
                    ),
                )
            return
        self._attach(out, Record(op, saved, self._result(out), loc=user_loc()))

    def _result(self, out: Tensor) -> Saved:
        return Saved(
            out.type, out._array, out._storage, out._storage.version if out._storage else 0
        )

    def _collect(self, record: Record) -> None:
        if running.segment is not None:
            record.segment = running.segment
            running.segment.records.append(record)

    def _attach(self, out: Tensor, record: Record) -> None:
        self._collect(record)
        if out.dtype.kind in ("float", "complex"):
            out._record = record
            record.out.record = None

    def record_of(self, x: Tensor) -> Record | None:
        """The record of ``x``; a view's is made anew after a differentiable write to its base."""
        if x._link is None or x._storage is None or x._stamp in (-1, x._storage.writes):
            record: Record | None = x._record
            return record
        parent, op = x._link
        x._record = None
        if not isinstance(op, StopGradient) and (
            self.record_of(parent) is not None or parent._requires
        ):
            segment, running.segment = (
                running.segment,
                None,
            )  # a view that is older is no step of the segment
            self.record(op, (self.save(parent),), x)
            running.segment = segment
        x._stamp = x._storage.writes
        made: Record | None = x._record
        return made

    def viewed(self, x: Tensor) -> None:
        """Record the view ``x`` unless gradients are off."""
        if x._link is None or x._storage is None:
            return
        parent, op = x._link
        x._stamp = x._storage.writes if state.grad and not isinstance(op, StopGradient) else -1
        if state.grad and parent.requires_grad:
            self.record(op, (self.save(parent),), x)

    def moved(self, x: Tensor, y: Tensor) -> None:
        """Record that ``y`` is ``x`` on another device."""
        if state.grad and x.requires_grad:
            self.record(Move(x.device), (self.save(x),), y)

    def written(self, x: Tensor, value: Tensor) -> None:
        """``x`` becomes ``value``: its history becomes ``value``'s, and its base's follows."""
        if running.segment is not None:
            running.segment.writing(x)
        if running.body is not None:
            running.body.writing(x)
        if not state.grad or not (x.requires_grad or value.requires_grad):
            return
        root = x
        while root._link is not None and not isinstance(root._link[1], StopGradient):
            root = root._link[0]
        if root._requires and root._record is None:
            kind = "a leaf tensor" if root is x else "a view of a leaf tensor"
            raise located(
                GradientError,
                f"{kind} that requires grad was written in place: {x.type}; write under "
                "vtc.no_grad()",
            )
        new = value
        at = x
        device, running.device = running.device, x.device
        while at._link is not None and not isinstance(at._link[1], StopGradient):
            parent, op = at._link
            base = Expr(BUILDER, parent)
            new = write_through(op, base, Expr(BUILDER, new)).value
            at = parent
        running.device = device
        if x._storage is not None:
            x._storage.writes += 1
        at._record = self._alias(new)
        at._stamp = x._storage.writes if x._storage else 0

    def _alias(self, value: Tensor) -> Record | None:
        if (record := self.record_of(value)) is not None or not value._requires:
            return record
        copy = dispatch.apply(Reshape(value.type.shape), value)
        return self.record_of(copy)

    def backward(
        self, x: Tensor, gradient: Tensor | None, *, retain_graph: bool, create_graph: bool
    ) -> None:
        """Add gradients to the leaves below ``x``."""
        tape = self.tape(x)
        leaves = self._leaves(x, tape)
        found = self.sweep(x, gradient, tape, leaves, create_graph=create_graph)
        if not (retain_graph or create_graph):
            self.free(tape)
        taken = {id(gradient._storage)} if gradient is not None else set()
        for leaf, g in found.items():
            assert isinstance(leaf, Tensor)
            old = leaf._grad
            if old is None:
                leaf._grad = g.clone() if id(g._storage) in taken else g
                taken.add(id(g._storage))
            elif create_graph or old.requires_grad:
                leaf._grad = old + g
            else:
                with dispatch.no_grad():
                    dispatch.write(old, old + g)

    def leaves_of(self, x: Tensor) -> list[Tensor]:
        """The leaves that gradients of ``x`` reach."""
        return self._leaves(x, self.tape(x)) if x.requires_grad else []

    def _leaves(self, x: Tensor, tape: Sequence[Record]) -> list[Tensor]:
        found = {s.leaf: None for r in tape for s in r.inputs if s.leaf is not None}
        return [*found, *([x] if x._requires and self.record_of(x) is None else [])]

    def tape(self, x: Tensor) -> list[Record]:
        """The records below ``x``, in execution order."""
        record = self.record_of(x)
        if record is None and not x._requires:
            raise located(
                GradientError, f"backward: {x.type} does not depend on anything that requires grad"
            )
        found: dict[Record, None] = {}
        queue = [record] if record is not None else []
        while queue:
            r = queue.pop()
            if r in found:
                continue
            if r.freed:
                restore(Saved(r.out.type))
            found[r] = None
            queue += [s.record for s in r.inputs if s.record is not None]
        return sorted(found, key=lambda r: r.order)

    def sweep(
        self,
        x: Tensor,
        gradient: Tensor | None,
        tape: Sequence[Record],
        wrt: Any,
        *,
        create_graph: bool,
    ) -> dict[Any, Tensor]:
        """The cotangents of ``wrt`` (leaves or records)."""
        if gradient is None and x.type.shape != ():
            raise located(
                GradientError, f"backward: expected a scalar, or a gradient argument, got {x.type}"
            )
        if gradient is not None and gradient.type != x.type:
            raise located(
                GradientError,
                f"backward: expected a gradient of type {x.type}, got {gradient.type}",
            )
        values: dict[object, Any] = {s.key: s for r in tape for s in r.inputs}
        values.update({r: r for r in tape})
        opened = _Opened()
        steps: Sequence[Any] = tape  # each record is the op that gives gradients of its own reads
        entries: list[Entry[Any]] = [
            Entry(r, r, tuple(s.key for s in r.inputs), r.index) for r in steps
        ]
        with dispatch.set_grad_enabled(create_graph), _creating_on(x.device):
            seed = gradient
            if seed is None:
                seed = dispatch.constant(1.0, x.dtype, device=x.device)
            record = self.record_of(x)
            start: Any = x if record is None else record
            found = reverse(
                entries,
                {start: Expr(BUILDER, seed)},
                list(wrt),
                lambda k: Expr(BUILDER, self._value(k, values)),
                lambda e, _: opened.enter(e.output.segment),
            )
            dense = {k: self._dense(e.value) for k, e in found.items()}
        opened.enter(None)
        return dense

    def _value(self, key: Any, values: dict[object, Any]) -> Any:
        value = values[key]
        if not isinstance(value, Record):
            return value
        if value.several:
            return value.several
        out = value.out
        return Saved(out.type, out.array, out.storage, out.version, value)

    def _dense(self, g: Any) -> Tensor:
        return restore(g).clone() if isinstance(g, Saved) else g

    def free(self, tape: Sequence[Record]) -> None:
        """Drop what the records saved."""
        for r in tape:
            r.freed, r.segment = True, None
            for s in r.inputs:
                s.array = s.storage = None


@contextmanager
def _creating_on(device: Device) -> Iterator[None]:
    """Gradient rules make their constants there."""
    before, running.device = running.device, device
    try:
        yield
    finally:
        running.device = before


class _Opened:
    """The checkpointed segments that a sweep is in, filled; those it leaves forget again."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def enter(self, segment: Segment | None) -> None:
        """The sweep reads a record of ``segment`` now."""
        wanted: list[Segment] = []
        while segment is not None:
            wanted.insert(0, segment)
            segment = segment.outer
        while self.segments and self.segments != wanted[: len(self.segments)]:
            self.segments.pop().drop()
        for p in wanted[len(self.segments) :]:
            if not p.forgotten:
                return  # it runs still
            p.fill()
            self.segments.append(p)


ENGINE = Engine()
dispatch.register("autograd", ENGINE.rule)
dispatch.register_autograd(ENGINE)
