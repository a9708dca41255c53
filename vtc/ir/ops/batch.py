"""The one batching sweep: what a graph computes for one example, for many at once.

Values that depend on the examples have an axis of them in front; all others stay as they are, and
are computed once. Each op says how it takes such values (``Op.batch``); one that says nothing runs
example by example::

    y: f32[4] = matvec(w, x)        ==>     y: f32[B, 4] = ...      # x: f32[B, 3], w: f32[4, 3]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from vtc.errors import TypeCheckError
from vtc.ir.dims import Size
from vtc.ir.graph import Node
from vtc.ir.op import Needs, Op
from vtc.ir.ops.control import Item
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.random import Advance
from vtc.ir.types import TupleType, tensors

Randomness = Literal["error", "different", "same"]


@final
@dataclass(frozen=True, slots=True)
class Lane:
    """The value of a node: an Expr, or several results; ``batched`` with the axis of examples.

    Of several results that are batched, those that are Lanes say for themselves.
    """

    value: Any
    batched: bool

    def whole(self, size: Size) -> Expr:
        """The one value, for all examples."""
        found: Expr = self.value
        return found if self.batched else found.expand((0,), (size,))


@final
@dataclass
class Sweep:
    """``lanes`` has the values of params first, then of all nodes.

    ``randomness`` says whether draws differ among examples, are the same, or are refused; ``flow``
    batches ops that name graphs.
    """

    builder: Any
    size: Size
    randomness: Randomness = "same"
    flow: Callable[[Sweep, Op, Sequence[Lane]], Lane | None] | None = None
    lanes: dict[Node, Lane] = field(default_factory=dict)

    def run(self, nodes: Sequence[Node]) -> None:
        """Compute ``nodes``, which are in execution order."""
        for node in nodes:
            if node.op is not None:
                inputs = [self.lanes[i] for i in node.inputs]
                self.lanes[node] = self._apply(node.op, inputs)

    def _apply(self, op: Op, inputs: Sequence[Lane]) -> Lane:
        if isinstance(op, Item) and inputs[0].batched:
            part = inputs[0].value[op.index]
            return part if isinstance(part, Lane) else Lane(part, batched=True)
        if self.flow is not None and (lane := self.flow(self, op, inputs)) is not None:
            return lane
        if self.randomness != "same" and (op.draws or isinstance(op, Advance)):
            return self._draw(op, inputs)
        values = tuple(lane.value for lane in inputs)
        batched = tuple(lane.batched for lane in inputs)
        if not any(batched):
            out = self.builder.apply(op, *(x.value for x in values))
            return Lane(Expr(self.builder, out), batched=False)
        return Lane(apply_batched(op, self.size, values, batched), batched=True)

    def _draw(self, op: Op, inputs: Sequence[Lane]) -> Lane:
        """``op``, with other numbers for each example; as many more are used up."""
        if self.randomness == "error":
            raise TypeCheckError(
                f"{op.name}: random numbers in vmap: expected randomness='different' or 'same'"
            )
        *others, state = inputs
        many = op.lifted(self.size)
        if many is None or state.batched:
            raise TypeCheckError(f"{op.name}: cannot draw other numbers for each example")
        if isinstance(op, Advance):
            return Lane(state.value.apply(many), batched=False)
        first, *rest = [*(lane.whole(self.size) for lane in others), state.value]
        return Lane(first.apply(many, *rest), batched=True)


def apply_batched(op: Op, size: Size, inputs: tuple[Expr, ...], batched: Needs) -> Any:
    """The results of ``op`` for ``size`` examples, by its rule or example by example."""
    if size == 0:
        return _nothing(op, inputs, batched)
    out = op.batch(size, inputs, batched)
    if out is NotImplemented:
        out = one_by_one(op, size, inputs, batched)
    return _parts(out)


def one_by_one(op: Op, size: Size, inputs: Sequence[Expr], batched: Needs) -> Any:
    """The results of ``op``, computed for one example after another."""
    if not isinstance(size, int):
        raise TypeCheckError(f"{op.name}: runs example by example; expected a known number of them")
    found = []
    for k in range(size):
        first, *rest = [_example(x, k) if b else x for x, b in zip(inputs, batched, strict=True)]
        found.append(_parts(first.apply(op, *rest)))
    if isinstance(found[0], tuple):
        return tuple(_joined(parts) for parts in zip(*found, strict=True))
    return _joined(found)


def _parts(out: Any) -> Any:
    """Several results as a tuple."""
    if isinstance(out, tuple) or not isinstance(out.type, TupleType):
        return out
    return tuple(out.item(i) for i in range(len(out.type.items)))


def _example(x: Expr, k: int) -> Expr:
    rest = x.shape[1:]
    starts, stops = (k, *(0 for _ in rest)), (k + 1, *rest)
    cut = x.op("slice", starts=starts, stops=stops, steps=(1,) * x.rank)
    return cut.reshape(rest)


def _joined(parts: Sequence[Expr]) -> Expr:
    first, *rest = [p.expand((0,), (1,)) for p in parts]
    return first.op("concat", *rest, axis=0)


def _nothing(op: Op, inputs: Sequence[Expr], batched: Needs) -> Any:
    """The results for no example at all."""
    pairs = zip(inputs, batched, strict=True)
    type = op.infer(*(x.tensor.with_shape(x.shape[1:]) if b else x.type for x, b in pairs))
    made = tuple(inputs[0].full((0, *t.shape), 0, t.dtype) for t in tensors(type))
    return made if isinstance(type, TupleType) else made[0]
