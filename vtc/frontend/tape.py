"""The tape of eager differentiation: what was computed, of what, and where gradients are watched.

    y = x.exp()          # Record(Exp(), inputs=(Saved of x,), out=Saved of y)

A record keeps its inputs as they were, with the version of their storage. A gradient rule that
reads a value whose version has moved raises VersionError; one that never reads it is content.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from vtc.errors import GradientError, VersionError
from vtc.frontend import dispatch
from vtc.frontend.hooks import Group, Hooks
from vtc.frontend.source import located
from vtc.frontend.tensor import Storage, Tensor, concrete_tensor
from vtc.ir.evaluate import inferred
from vtc.ir.graph import Loc
from vtc.ir.op import Builder, Op
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.types import Array, TensorType, TupleType, Type
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
    """One application of an op, on the tape.

    ``hooks`` are called with the gradient of the result, then that of the ``group`` that the result
    is in.
    """

    op: Any
    inputs: tuple[Saved, ...]
    out: Saved
    index: int | None = None
    loc: Loc | None = None
    freed: bool = False
    several: tuple[Tensor, ...] = ()
    segment: Segment | None = None
    hooks: Hooks = ()
    group: Group | None = None
    order: int = field(default_factory=lambda: next(_sequence))

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of the inputs, each as it was when it was read: zeros for one that is
        needed and whose rule says nothing, as those of ``floor``.
        """
        del inputs
        read = tuple([Expr(BUILDER, s) for s in self.inputs])
        found: Sequence[Any] = self.op.vjp(g, out, read, needs)
        return [
            _zeros(s) if needed and one is None else one
            for one, needed, s in zip(found, needs, self.inputs, strict=True)
        ]


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
        if isinstance(op, Elementwise):
            known = dispatch.shortcut(op, *tensors)
            return dispatch.apply(op, *tensors) if known is None else known
        several = isinstance(inferred(op, *[t.type for t in tensors]), TupleType)
        return dispatch.apply_tuple(op, *tensors) if several else dispatch.apply(op, *tensors)

    def type_of(self, value: Any) -> Type:
        """The type of a saved value, a tensor, or a tuple of tensors."""
        if isinstance(value, tuple):
            return TupleType(tuple(v.type for v in value))
        type: Type = value.type
        return type


BUILDER: Builder[Any] = TensorBuilder()


def _zeros(saved: Saved) -> Expr | None:
    """Zeros like a tensor that was saved."""
    if not isinstance(saved.type, TensorType):
        return None
    device = running.device if saved.storage is None else saved.storage.device
    return Expr(BUILDER, dispatch.constant(0, saved.type.dtype, saved.type.shape, device))


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
