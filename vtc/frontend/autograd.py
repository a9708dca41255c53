"""Eager differentiation: records while eager code runs, and what is asked of them.

Views recompute their record from their base after a differentiable write, so a write through a
view is differentiated too. The tape is in :mod:`~vtc.frontend.tape`, the way back in
:mod:`~vtc.frontend.sweep`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import GradientError
from vtc.frontend import dispatch, eager, hooks
from vtc.frontend.dispatch import Rest, Result, state
from vtc.frontend.grad_fn import Next, eager_fn
from vtc.frontend.hooks import Gradients, Group
from vtc.frontend.refused import into_leaf, into_view_without_history
from vtc.frontend.source import located, user_loc
from vtc.frontend.sweep import Sweep, free, leaves_below, tape_below
from vtc.frontend.tape import BUILDER, Differentiable, Move, Record, Saved, running
from vtc.frontend.tensor import Tensor, concrete_type, write_through
from vtc.ir.op import Op
from vtc.ir.ops.control import Item, StopGradient
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.pullback import Spread
from vtc.ir.ops.view import Reshape
from vtc.ir.types import Array, TensorType, TupleType
from vtc.runtime.cuda.array import DeviceArray
from vtc.runtime.device import Device


class Engine:
    """Records while eager code runs; sweeps at ``backward``."""

    def __init__(self) -> None:
        self.retaining: dict[int, weakref.ref[Tensor]] = {}

    def rule(self, op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
        """The dispatch rule: run, then record where a gradient may flow."""
        if not state.grad or not any([x.requires_grad for x in inputs]):
            return rest(op, inputs)
        saved = tuple([self.save(x) for x in inputs])
        state.grad = False
        try:
            out = rest(op, inputs)
        finally:
            state.grad = True
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

    def spreads(self, xs: Sequence[Tensor]) -> bool:
        """Whether an elementwise op on these, which may differ in shape, is to be one step: those
        of checkpointed segments and of bodies are counted as the stack has them.
        """
        if not state.grad or state.autocast is not None:
            return False
        if running.segment is not None or running.body is not None:
            return False
        return any([x.requires_grad for x in xs]) and len({x.device for x in xs}) == 1

    def spread(
        self, op: Elementwise, values: Sequence[Any], arrays: Sequence[Array | None], out: Tensor
    ) -> None:
        """Put ``op`` on the tape, on tensors and numbers (``arrays`` has them 0-d) that were
        repeated to one shape.
        """
        saved = [
            self.save(v) if a is None or v.__class__ is Tensor else Saved(TensorType.of(a), a)
            for v, a in zip(values, arrays, strict=True)
        ]
        if isinstance(out._array, DeviceArray):
            saved = [_on_device(s, out.device) for s in saved]
        self._attach(out, Record(Spread(op), tuple(saved), self._result(out), loc=user_loc()))

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
        if not state.grad:
            return
        root, unrecorded = x, False
        while root._link is not None and not isinstance(root._link[1], StopGradient):
            unrecorded = unrecorded or root._stamp == -1
            root = root._link[0]
        if unrecorded and root.requires_grad:
            raise into_view_without_history(x.type)
        if not (x.requires_grad or value.requires_grad):
            return
        if root._requires and root._record is None:
            raise into_leaf(x.type, view=root is not x)
        new, at = value, x
        path: list[Op] = []
        device, running.device = running.device, x.device
        while at._link is not None and not isinstance(at._link[1], StopGradient):
            parent, op = at._link
            path.insert(0, op)
            new = write_through(path, *(Expr(BUILDER, t) for t in (parent, new, value))).value
            at = parent
        running.device = device
        if x._storage is not None:
            x._storage.writes += 1
        at._record = self._alias(new)
        at._stamp = x._storage.writes if x._storage else 0

    def _alias(self, value: Tensor) -> Record | None:
        """A record of what becomes ``value``: one of its own, since hooks belong to one of them."""
        if not value.requires_grad:
            return None
        op = Reshape(value.type.shape)
        record = Record(op, (self.save(value),), self._result(value), loc=user_loc())
        self._collect(record)
        return record

    # gradients

    def backward(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        *,
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradients of ``roots`` to ``.grad`` of the leaves below them, or of ``inputs``.

        ``seeds`` are the gradients of ``roots``, None for 1.
        """
        for x in inputs or ():
            if not x.is_leaf:
                hooks.retain(x)
        starts = self._keys("backward", roots)
        tape = tape_below(starts)
        wrt = leaves_below(tape, starts) if inputs is None else self._keys("backward", inputs)
        Sweep(tape, wrt, self._retaining(), create_graph=create_graph, adds=True).run(
            starts, roots, seeds
        )
        if not (retain_graph or create_graph):
            free(tape)

    def gradients(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        wrt: Sequence[Tensor],
        *,
        retain_graph: bool,
        create_graph: bool,
    ) -> list[Tensor | None]:
        """The gradients of ``roots`` with respect to ``wrt``, None for those they do not depend on.

        GradientError if nothing depends on anything that requires grad.
        """
        starts = self._keys("grad", roots)
        tape = tape_below(starts)
        keys = [self.key_of(x) for x in wrt]
        sweep = Sweep(tape, keys, self._retaining(), create_graph=create_graph, adds=False)
        found = sweep.run(starts, roots, seeds)
        if not (retain_graph or create_graph):
            free(tape)
        return [found.get(k) for k in keys]

    def leaves_of(self, x: Tensor) -> list[Tensor]:
        """The leaves that gradients of ``x`` reach."""
        if not x.requires_grad:
            return []
        start = [self.key_of(x)]
        return leaves_below(tape_below(start), start)

    def key_of(self, x: Tensor) -> Record | Tensor:
        """What a sweep calls ``x``: its record, or the leaf itself."""
        record = self.record_of(x)
        return x if record is None else record

    def _keys(self, name: str, xs: Sequence[Tensor]) -> list[Record | Tensor]:
        keys = [self.key_of(x) for x in xs]
        for x, key in zip(xs, keys, strict=True):
            if key is x and not x._requires:
                message = f"{x.type} does not depend on anything that requires grad"
                raise located(GradientError, f"{name}: {message}")
        return keys

    # hooks

    def hook_owner(self, x: Tensor) -> tuple[object, str]:
        """Who keeps the hooks on the gradient of ``x``, and under what name."""
        record = self.record_of(x)
        return (hooks.of(x), "before") if record is None else (record, "hooks")

    def group(self, xs: Sequence[Tensor], call: Callable[[Gradients], Gradients]) -> None:
        """Hand the gradients of ``xs``, which were just made, to ``call`` together."""
        records = tuple([self.record_of(x) for x in xs])
        made = Group(records, call)
        for record in records:
            if record is not None:
                record.group = made

    def retain(self, x: Tensor) -> None:
        """Give ``x`` its ``.grad``, though it is no leaf."""
        key = id(x)
        self.retaining[key] = weakref.ref(x, lambda _: self.retaining.pop(key, None))

    def _retaining(self) -> dict[Record, list[Tensor]]:
        """Who gets a ``.grad`` from which record, as things are now."""
        found: dict[Record, list[Tensor]] = {}
        for ref in list(self.retaining.values()):
            x = ref()
            record = None if x is None else self.record_of(x)
            if x is not None and record is not None:
                found.setdefault(record, []).append(x)
        return found

    def step_of(self, x: Tensor) -> Next:
        """How ``x`` came to be (None for a leaf), and which result of that it is."""
        record = self.record_of(x)
        return (None, 0) if record is None else (eager_fn(record), record.index or 0)


def _on_device(saved: Saved, device: Device) -> Saved:
    """What is on the host beside operands on a GPU is a number; it is kept there."""
    array = saved.array
    if array is None or isinstance(array, DeviceArray):
        return saved
    return Saved(saved.type, eager.number_on(array, device))


ENGINE = Engine()
dispatch.register("autograd", ENGINE.rule)
dispatch.register_autograd(ENGINE)
