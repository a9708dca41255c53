"""Gradient rules that are known: recorded once for an op and the types it met.

A sweep that is not itself differentiated asks here first::

    KnownRule(record).vjp(g, out, inputs, needs)

What a rule of :mod:`~vtc.ir.op` makes of tensors one by one, its recorded steps make of their
arrays at once: on the CPU in NumPy, on a GPU, of an elementwise op or a composite, in one program.
What is read of what was saved is the same: a value that was written since raises if the rule reads
it, and only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.frontend import devices, eager
from vtc.frontend.concrete import own
from vtc.frontend.tape import BUILDER, Record, Saved, restore
from vtc.frontend.tensor import concrete_tensor
from vtc.ir.op import Needs, Op
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.pullback import Pullback, Rule, Spread, rule_of
from vtc.ir.types import Array, TensorType
from vtc.runtime.cuda.array import DeviceArray


@final
@dataclass(frozen=True, slots=True)
class KnownRule:
    """The rule of a record."""

    record: Record

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of the inputs."""
        found = None
        if isinstance(self.record.op, (Op, Spread)) and isinstance(g, Expr):
            found = _found(self.record, g, out, needs)
        return self.record.vjp(g, out, inputs, needs) if found is None else found


def _found(record: Record, g: Expr, out: Expr, needs: Needs) -> Sequence[Expr | None] | None:
    """None where the rule must look itself: several results, or values that are not at hand."""
    values = (g.value, out.value, *record.inputs)
    arrays: list[Any] = [
        v.array if isinstance(v, Saved) else getattr(v, "_array", None) for v in values
    ]
    if any([a is None for a in arrays]):
        return None
    run = _run_here if all([a.__class__ is np.ndarray for a in arrays]) else _run_there
    op = Pullback(record.op, needs)
    rule = rule_of(op, tuple([TensorType.of(a) for a in arrays]))
    for value, read in zip(values, rule.steps.reads, strict=True):
        if read and isinstance(value, Saved) and _is_stale(value):
            restore(value)
    made = run(op, rule, arrays)
    if made is None:
        return None
    fresh = iter([Expr(BUILDER, concrete_tensor(x)) for x in made])
    given = (g, *[Expr(BUILDER, v) for v in values[1:]])
    results = [given[at] if at < len(values) else next(fresh) for at in rule.steps.outputs]
    return [None if p is None else results[p] for p in rule.places]


def _is_stale(saved: Saved) -> bool:
    return saved.storage is not None and saved.storage.version != saved.version


def _run_here(op: Pullback, rule: Rule, arrays: list[Array]) -> list[Array]:
    """What is computed, in memory of its own."""
    met, made = list(arrays), []
    for at, array in zip(rule.steps.outputs, rule.steps.run(arrays), strict=True):
        if at >= len(arrays):
            made.append(own(array, met))
            met.append(made[-1])
    return made


def _run_there(op: Pullback, rule: Rule, arrays: list[Array]) -> Sequence[Array] | None:
    """What is computed; None where it is not one program."""
    inner = op.op.op if isinstance(op.op, Spread) else op.op
    if not isinstance(inner, (Elementwise, Composite)) or not isinstance(arrays[0], DeviceArray):
        return None
    shape, device = arrays[0].shape, devices.home(arrays[0])
    if any([not isinstance(a, DeviceArray) or devices.home(a) != device for a in arrays]):
        return None
    if not rule.made:
        return ()
    needs = (True, True, *op.needs)  # a number has no gradient, and may be repeated beforehand
    given = [
        a if a.ndim or needed else np.broadcast_to(a, shape)
        for a, needed in zip(arrays, needs, strict=True)
    ]
    if all([a.shape == shape for a in given]):
        op = Pullback(inner, op.needs)  # nothing is repeated
    return eager.pulled(op, given, device)
