"""Applying ops of recorded graphs to tensors, those of loops and branches included.

Eager, a loop or a branch runs, and the tape records what it does. In a trace its graphs become
graphs of that trace::

    b = Applier(library)
    Expr(b, x).apply(ForLoop(body="step", ...), ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from vtc.frontend import dispatch
from vtc.frontend.dispatch import state
from vtc.frontend.functions.rearrange import stack
from vtc.frontend.tape import BUILDER, Saved, restore
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Size
from vtc.ir.graph import Graph, Node, rebuild
from vtc.ir.op import Op
from vtc.ir.ops.control import Library
from vtc.ir.ops.flow import Cond, Flow, ForLoop, WhileLoop
from vtc.ir.types import Type

NAMES = ("then", "otherwise", "condition", "body")
"""The fields of control flow that name graphs."""


@final
class Applier:
    """The Builder that runs tensors, where control flow names graphs of ``library``."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._capture: Any = None
        self._names: dict[str, str] = {}

    def apply(self, op: Op, *inputs: Any, hint: str = "") -> Any:
        """``op`` on tensors, and values that are saved."""
        if not isinstance(op, Flow):
            return BUILDER.apply(op, *inputs, hint=hint)
        tensors = [restore(x) if isinstance(x, Saved) else x for x in inputs]
        if state.capture is None:
            return self._run(op, tensors)
        if self._capture is not state.capture:
            self._capture, self._names = state.capture, {}
        return dispatch.apply_tuple(self._installed(op), *tensors)

    def type_of(self, value: Any) -> Type:
        """The type of a tensor, or of a tuple of them."""
        return BUILDER.type_of(value)

    # in a trace

    def _installed(self, op: Flow) -> Flow:
        """``op`` with the names that its graphs have in the trace."""
        names = {f: self._name(getattr(op, f)) for f in NAMES if hasattr(op, f)}
        renamed: Flow = replace(op, **names)
        return renamed

    def _name(self, name: str) -> str:
        if name not in self._names:
            graph = rebuild(
                self.library[name],
                lambda b, n, inputs: (
                    b.apply(self._installed(n.op), *inputs, hint=n.name, loc=n.loc)
                    if isinstance(n.op, Flow)
                    else b.copy(n, inputs)
                ),
            )
            self._names[name] = self._capture.frames.add(name, graph)
        return self._names[name]

    # eager

    def _run(self, op: Flow, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        match op:
            case Cond(then=then, otherwise=otherwise):
                pred, *operands = tensors
                return tuple(self._call(then if bool(pred) else otherwise, operands))
            case WhileLoop(condition=condition, body=body, carried=count):
                now, others = list(tensors[:count]), tensors[count:]
                while bool(self._call(condition, [*now, *others])[0]):
                    now = self._call(body, [*now, *others])
                return tuple(now)
            case ForLoop():
                return self._loop(op, tensors)
        raise TypeError(f"{op.name}: expected a loop or a branch")

    def _loop(self, op: ForLoop, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        now, slices, others = op.parts(tensors)
        now = list(now)
        count = op.length if isinstance(op.length, int) else 0
        rows: dict[int, list[Tensor]] = {}
        for k in range(count)[::-1] if op.reverse else range(count):
            before = now
            found = self._call(op.body, [*now, *(x.select(0, k) for x in slices), *others])
            now = found[: op.carried]
            rows[k] = [*found[op.carried :], *(before if op.saves else ())]
        if rows:
            columns = zip(*(rows[k] for k in range(count)), strict=True)
            return (*now, *(stack(list(c)) for c in columns))
        types = [*op.stacked, *(x.type for x in now if op.saves)]
        empty = [_zeros((0, *t.shape), t.dtype, tensors) for t in types]
        return (*now, *empty)

    def _call(self, name: str, values: Sequence[Tensor]) -> list[Tensor]:
        graph: Graph = self.library[name]
        env: dict[Node, Any] = dict(zip(graph.params, values, strict=True))
        for n in graph.nodes:
            if n.op is not None:
                env[n] = self.apply(n.op, *(env[i] for i in n.inputs))
        return [env[o] for o in graph.outputs]


def _zeros(shape: Sequence[Size], dtype: Any, like: Sequence[Tensor]) -> Tensor:
    return dispatch.constant(0, dtype, shape, like[0].device if like else None)
