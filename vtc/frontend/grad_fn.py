"""``Tensor.grad_fn``: how a value came to be, for looking at.

print((x * 2).grad_fn)                  # <MulBackward>
(x * 2).grad_fn.next_functions          # ((<AccumulateGrad>, 0), (None, 0))
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from vtc.ir.graph import Node
from vtc.ir.ops.control import Item

if TYPE_CHECKING:
    from vtc.frontend.tape import Record, Saved
    from vtc.frontend.tensor import Tensor

Next = tuple["GradFn | None", int]


@final
@dataclass(frozen=True, slots=True)
class GradFn:
    """One step of a backward. Two are equal if they are the same step; ``variable`` is the leaf
    whose ``.grad`` it adds to, if it does that.
    """

    _step: object
    _name: str = field(compare=False)
    _below: Callable[[], tuple[Next, ...]] = field(compare=False)
    variable: Tensor | None = field(default=None, compare=False)

    def name(self) -> str:
        """As PyTorch calls it, without the number: ``MulBackward``."""
        return self._name

    @property
    def next_functions(self) -> tuple[Next, ...]:
        """The steps that its gradients go to, each with the number of the result there; None where
        no gradient goes.
        """
        return self._below()

    def __repr__(self) -> str:
        return f"<{self._name}>"


def accumulates(leaf: Tensor) -> GradFn:
    """The step that adds to ``.grad`` of ``leaf``."""
    return GradFn(id(leaf), "AccumulateGrad", tuple, leaf)


def step_name(op: Any) -> str:
    """What the step back from ``op`` is called."""
    op = getattr(op, "op", op)  # an elementwise one, on operands that are repeated
    return f"{type(op).__name__.removesuffix('Backward').lstrip('_')}Backward"


def eager_fn(record: Record) -> GradFn:
    """The step back from what ``record`` says; of several results one step."""
    whole = whole_of(record)
    return GradFn(whole, step_name(whole.op), lambda: tuple(map(_next, whole.inputs)))


def whole_of(record: Record) -> Record:
    """The record of all results, where ``record`` is about one of several."""
    whole = record.inputs[0].record if isinstance(record.op, Item) else None
    return record if whole is None else whole


def _next(value: Saved) -> Next:
    if value.record is not None:
        return eager_fn(value.record), value.record.index or 0
    return (None if value.leaf is None else accumulates(value.leaf)), 0


def traced_step(node: Node, hot: Collection[Node], leaves: Mapping[Node, Tensor]) -> Next:
    """The step back from ``node`` of a trace; ``hot`` nodes and ``leaves`` carry gradients."""
    index = node.op.index if isinstance(node.op, Item) else 0
    whole = node.inputs[0] if isinstance(node.op, Item) else node

    def below() -> tuple[Next, ...]:
        return tuple(
            [
                (accumulates(leaves[i]), 0)
                if i in leaves
                else traced_step(i, hot, leaves)
                if i in hot
                else (None, 0)
                for i in whole.inputs
            ]
        )

    return GradFn(whole, step_name(whole.op), below), index
