"""Gradient rules on the CPU: recorded once for an op and the types it met, run on arrays.

A sweep that is not itself differentiated asks here first::

    HostRule(record).vjp(g, out, inputs, needs)

What a rule of :mod:`~vtc.ir.op` makes of tensors one by one, its recorded steps make of their
arrays at once. The results are the same, and so is what is read of what was saved: a value that was
written since raises if the rule reads it, and only then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np

from vtc.frontend.concrete import own
from vtc.frontend.tape import BUILDER, Record, Saved, Spread, restore
from vtc.frontend.tensor import concrete_tensor
from vtc.ir.graph import GraphBuilder
from vtc.ir.op import Needs, Op
from vtc.ir.ops.expr import Expr
from vtc.ir.steps import Steps
from vtc.ir.types import TensorType


@final
@dataclass(frozen=True, slots=True)
class HostRule:
    """The rule of a record."""

    record: Record

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of the inputs."""
        found = None
        if isinstance(self.record.op, (Op, Spread)) and isinstance(g, Expr):
            found = _found(self.record, g, out, needs)
        return self.record.vjp(g, out, inputs, needs) if found is None else found


def _found(record: Record, g: Expr, out: Expr, needs: Needs) -> Sequence[Expr | None] | None:
    """None where the rule must look itself: several results, or values that are not here."""
    values = (g.value, out.value, *record.inputs)
    arrays: list[Any] = [
        v.array if isinstance(v, Saved) else getattr(v, "_array", None) for v in values
    ]
    if any([a.__class__ is not np.ndarray for a in arrays]):
        return None
    types = tuple([TensorType.of(a) for a in arrays])
    steps, places = _steps(record.op, types, needs)
    for value, read in zip(values, steps.reads, strict=True):
        if read and isinstance(value, Saved) and _is_stale(value):
            restore(value)
    results: list[Expr] = []
    made = list(arrays)
    for at, array in zip(steps.outputs, steps.run(arrays), strict=True):
        if at < len(values):
            results.append(g if at == 0 else Expr(BUILDER, values[at]))
            continue
        x = own(array, made)
        made.append(x)
        results.append(Expr(BUILDER, concrete_tensor(x)))
    return [None if p is None else results[p] for p in places]


def _is_stale(saved: Saved) -> bool:
    return saved.storage is not None and saved.storage.version != saved.version


@lru_cache(maxsize=4096)
def _steps(
    op: Op | Spread, types: tuple[TensorType, ...], needs: Needs
) -> tuple[Steps, tuple[int | None, ...]]:
    """The rule of ``op`` for a gradient, a result and inputs of ``types``; and which of its
    outputs is the gradient of which input.
    """
    b = GraphBuilder()
    params = [b.param("x", t) for t in types]
    g, out, *inputs = [Expr(b, p) for p in params]
    found = op.vjp(g, out, tuple(inputs), needs)
    given = [
        (x.zeros() if one is None else one).value if needed else None
        for x, needed, one in zip(inputs, needs, found, strict=True)
    ]
    outputs = list(dict.fromkeys(v for v in given if v is not None))
    places = tuple([None if v is None else outputs.index(v) for v in given])
    return Steps(params, b.nodes, outputs), places
