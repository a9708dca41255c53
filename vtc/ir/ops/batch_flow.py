"""Loops and branches for many examples at once: their bodies are batched, as new graphs.

A branch that examples take differently runs both ways, and each keeps its own; a loop that they
leave at different times goes on until the last has, and those that have left stay as they are::

    t: (f32[B, 4],) = while_loop(x, condition="any_goes_on", body="go_on_or_stay", carried=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.ir.dims import Size
from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.op import Op
from vtc.ir.ops.batch import Lane, Sweep
from vtc.ir.ops.control import Library
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.flow import Cond, Flow, ForLoop, WhileLoop
from vtc.ir.types import TensorType, TupleType


@final
@dataclass(frozen=True)
class FlowRule:
    """Batches control flow whose graphs are in ``library``, to which it adds."""

    library: Library

    def __call__(self, sweep: Sweep, op: Op, inputs: Sequence[Lane]) -> Lane | None:
        """The results of ``op``; None where it is no control flow, or has no rule."""
        if not isinstance(op, Flow):
            return None
        differ = any(lane.batched for lane in inputs)
        if not differ and (sweep.randomness == "same" or not self._draws(op)):
            return None
        match op:
            case Cond():
                return self._cond(sweep, op, inputs)
            case ForLoop():
                return self._for(sweep, op, inputs)
            case WhileLoop():
                return self._while(sweep, op, inputs)
        return None

    def _draws(self, op: Flow) -> bool:
        """Whether a graph of ``op`` draws random numbers."""
        made = [n.op for name in op.graphs for n in self.library[name].nodes]
        return any(o.draws or (isinstance(o, Flow) and self._draws(o)) for o in made if o)

    def _cond(self, sweep: Sweep, op: Cond, inputs: Sequence[Lane]) -> Lane:
        pred, *operands = inputs
        if pred.batched:
            yes, no = (self._inline(sweep, name, operands) for name in op.graphs)
            found = [_choose(pred.value, a, b) for a, b in zip(yes, no, strict=True)]
            return Lane(tuple(found), batched=True)
        flags = [lane.batched for lane in operands]
        bodies = [self._body(sweep, name, flags) for name in op.graphs]
        pairs = zip(*(b.outputs for b in bodies), strict=True)
        differ = [a.batched or b.batched for a, b in pairs]
        ends = [b.carried(len(differ), differ) for b in bodies]
        parts = zip(op.graphs, bodies, ends, strict=True)
        names = [self._add(name, b, e) for name, b, e in parts]
        types = TupleType(tuple(e.tensor for e in ends[0]))
        made = Cond(names[0], names[1], types)
        return _lanes(pred.value.apply(made, *(lane.value for lane in operands)), differ)

    def _for(self, sweep: Sweep, op: ForLoop, inputs: Sequence[Lane]) -> Lane:
        flags, body = self._settled(sweep, op.body, [i.batched for i in inputs], op.carried)
        ends = [*body.carried(op.carried, flags), *(o.value for o in body.outputs[op.carried :])]
        name = self._add(op.body, body, ends)
        stacked = tuple(e.tensor for e in ends[op.carried :])
        carried, slices, others = op.parts(list(zip(inputs, flags, strict=True)))
        operands = [lane.whole(sweep.size) if flag else lane.value for lane, flag in carried]
        operands += [_swapped(lane).value for lane, _ in slices]
        operands += [lane.value for lane, _ in others]
        out = operands[0].apply(replace(op, body=name, stacked=stacked), *operands[1:])
        differ = [*flags[: op.carried], *(o.batched for o in body.outputs[op.carried :])]
        differ += flags[: op.carried] if op.saves else []
        lanes = _lanes(out, differ).value
        rows = [_swapped(lane) for lane in lanes[op.carried :]]
        return Lane((*lanes[: op.carried], *rows), batched=True)

    def _while(self, sweep: Sweep, op: WhileLoop, inputs: Sequence[Lane]) -> Lane:
        given = [lane.batched for lane in inputs]
        flags, body = self._settled(sweep, op.body, given, op.carried)
        test = self._body(sweep, op.condition, flags)
        if test.outputs[0].batched:
            flags = [True] * op.carried + flags[op.carried :]
            body, test = (self._body(sweep, name, flags) for name in (op.body, op.condition))
            goes_on = self._inline(body.sweep, op.condition, body.lanes)[0]
            both = zip(body.wholes(), body.lanes, strict=False)
            ends = [_choose(goes_on, new, old.value) for new, old in both]
            tests = [test.wholes()[0].max((0,))]
        else:
            ends = body.carried(op.carried, flags)
            tests = [test.outputs[0].value]
        names = self._add(op.condition, test, tests), self._add(op.body, body, ends)
        pairs = zip(inputs, flags, strict=True)
        operands = [lane.whole(sweep.size) if flag else lane.value for lane, flag in pairs]
        made = replace(op, condition=names[0], body=names[1])
        return _lanes(operands[0].apply(made, *operands[1:]), flags[: op.carried])

    def _settled(
        self, sweep: Sweep, name: str, flags: Sequence[bool], count: int
    ) -> tuple[list[bool], _Body]:
        """Which operands of a loop differ among examples once it has run, and its body then."""
        found = list(flags)
        while True:
            body = self._body(sweep, name, found)
            now = [f or o.batched for f, o in zip(found[:count], body.outputs, strict=False)]
            if now == found[:count]:
                return found, body
            found[:count] = now

    def _body(self, sweep: Sweep, name: str, flags: Sequence[bool]) -> _Body:
        """Graph ``name`` for all examples, of which params differ where ``flags`` say so."""
        graph, b = self.library[name], GraphBuilder()
        pairs = list(zip(graph.params, flags, strict=True))
        params = [b.param(p.name, _many(p.tensor, sweep.size) if f else p.type) for p, f in pairs]
        lanes = [Lane(Expr(b, p), f) for p, f in zip(params, flags, strict=True)]
        inner = Sweep(b, sweep.size, sweep.randomness, flow=self)
        inner.lanes.update(zip(graph.params, lanes, strict=True))
        inner.run(graph.nodes)
        return _Body(inner, b, params, lanes, [inner.lanes[o] for o in graph.outputs])

    def _inline(self, sweep: Sweep, name: str, lanes: Sequence[Lane]) -> list[Expr]:
        """The results of graph ``name``, computed where ``sweep`` computes."""
        graph = self.library[name]
        inner = Sweep(sweep.builder, sweep.size, sweep.randomness, flow=self)
        inner.lanes.update(zip(graph.params, lanes, strict=True))
        inner.run(graph.nodes)
        return [inner.lanes[o].whole(sweep.size) for o in graph.outputs]

    def _add(self, name: str, body: _Body, outputs: Sequence[Expr]) -> str:
        made = body.builder.graph(f"{name}_many", body.params, [e.value for e in outputs])
        return self.library.add(made)


@final
@dataclass(frozen=True)
class _Body:
    """A graph for all examples while it is made."""

    sweep: Sweep
    builder: GraphBuilder
    params: list[Node]
    lanes: list[Lane]
    outputs: list[Lane]

    def wholes(self) -> list[Expr]:
        """The outputs, all for all examples."""
        return [lane.whole(self.sweep.size) for lane in self.outputs]

    def carried(self, count: int, flags: Sequence[bool]) -> list[Expr]:
        """The first outputs, as what is carried on."""
        pairs = zip(self.outputs[:count], flags, strict=False)
        return [lane.whole(self.sweep.size) if flag else lane.value for lane, flag in pairs]


def _choose(pred: Expr, x: Expr, y: Expr) -> Expr:
    """For each example ``x`` or ``y``."""
    return pred.expand(range(1, x.rank), x.shape[1:]).where(x, y)


def _lanes(out: Expr, batched: Sequence[bool]) -> Lane:
    """The results of ``out``; which differ among examples."""
    return Lane(tuple(Lane(out.item(i), b) for i, b in enumerate(batched)), batched=True)


def _many(type: TensorType, size: Size) -> TensorType:
    return type.with_shape((size, *type.shape))


def _swapped(lane: Lane) -> Lane:
    """Examples first where slices were, and the other way round."""
    if not lane.batched:
        return lane
    x: Expr = lane.value
    return Lane(x.permute((1, 0, *range(2, x.rank))), batched=True)
