"""A ``for_loop`` while a pass changes it: what its steps take and give, by value and not by number.

    loop = OpenLoop.of(node, body, operands, items)
    loop.ahead(product)                    # is computed before the loop, for all steps at once
    loop.rows[d_gates] = None              # is stacked
    loop.record(library)
    x = loop.over_steps(d_gates)           # after the loop: [steps, *shape]

Values of steps are nodes of the body; what is computed outside is recorded with ``builder``. What
nobody reads is not taken over: results, operands, carried values that are read for themselves only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

from vtc.ir.graph import Graph, GraphBuilder, Node
from vtc.ir.ops.batch import Lane, Sweep
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item, Library
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Concat, Triangle
from vtc.ir.ops.flow import ForLoop
from vtc.ir.ops.reduce import Reduction
from vtc.ir.types import TensorType
from vtc.passes.dce import trimmed
from vtc.passes.space import INDEX_FUNCTIONS
from vtc.passes.splice import Splice

MOVABLE = (Elementwise, Concat, Triangle, Reduction, Matmul, *INDEX_FUNCTIONS)

Result = tuple[Literal["end", "row", "saved"], Node]
"""What a loop gives: the end of a carried param, a value that is stacked, or a carried param as
each step began with it.
"""


@final
@dataclass
class OpenLoop:
    """See the module.

    The params of ``body`` are ``starts`` (carried), ``slices`` and ``others``; ``given`` are the
    operands that they stand for, outside. ``ends`` says what is carried on for a start, ``rows``
    what is stacked, ``read`` who reads the results; ``made`` has the results of the new loop.
    """

    op: ForLoop
    name: str
    body: Graph
    starts: list[Node]
    slices: list[Node]
    others: list[Node]
    given: dict[Node, Node]
    ends: dict[Node, Node]
    rows: dict[Node, None]
    read: dict[Result, list[Node]]
    builder: GraphBuilder
    sweep: Sweep
    steady: set[Node] = field(default_factory=set)
    """What is the same in all steps."""
    early: dict[Node, Node] = field(default_factory=dict)
    made: dict[Result, Node] = field(default_factory=dict)

    @classmethod
    def of(
        cls, node: Node, op: ForLoop, body: Graph, operands: Sequence[Node], items: Sequence[Node]
    ) -> OpenLoop:
        """``node``, on ``operands``, which stand for its inputs; ``items`` are all who read it."""
        body = trimmed(body)
        starts, slices, others = (list(p) for p in op.parts(body.params))
        results = _results(op, body)
        read: dict[Result, list[Node]] = {}
        for item in items:
            assert isinstance(item.op, Item)
            read.setdefault(results[item.op.index], []).append(item)
        b = GraphBuilder(loc=node.loc)
        given = dict(zip(body.params, operands, strict=True))
        sweep = Sweep(b, op.length)
        sweep.lanes.update({p: Lane(Expr(b, given[p]), batched=True) for p in slices})
        sweep.lanes.update({p: Lane(Expr(b, given[p]), batched=False) for p in others})
        ends = dict(zip(starts, body.outputs, strict=False))
        rows = {v: None for kind, v in read if kind == "row"}
        loop = cls(op, node.name, body, starts, slices, others, given, ends, rows, read, b, sweep)
        loop._settle()
        return loop

    def _settle(self) -> None:
        """What is carried and stays as it is, is what all steps read."""
        for p in [p for p in self.starts if self.ends[p] is p]:
            self.sweep.lanes[p] = Lane(Expr(self.builder, self.give_up(p)), batched=False)
            self.others.append(p)
        self.steady.update(self.others)
        for n in self.body.nodes:
            if movable(n) and all(i in self.steady for i in n.inputs):
                self.steady.add(n)

    @property
    def known(self) -> Mapping[Node, Lane]:
        """Values of the body that are known outside, for all steps or (not batched) once."""
        return self.sweep.lanes

    def over_steps(self, value: Node) -> Lane:
        """``value`` outside, computed there from what is ``known``."""
        found: dict[Node, None] = {}
        waiting = [value]
        while waiting:
            n = waiting.pop()
            if n not in self.known:
                found[n] = None
                waiting.extend(n.inputs)
        for n in self.body.nodes if found else ():
            if n in found:
                self.builder.loc = n.loc
                self.sweep.run((n,))
        return self.known[value]

    def ahead(self, value: Node) -> None:
        """Compute ``value`` before the loop."""
        lane = self.over_steps(value)
        self.early[value] = param = Node(value.name, value.type, loc=value.loc)
        (self.slices if lane.batched else self.others).append(param)
        self.given[param] = lane.value.value

    def give_up(self, start: Node) -> Node:
        """Do not carry ``start`` any more, which only its own end reads; what it began with."""
        self.starts.remove(start)
        del self.ends[start]
        return self.given[start]

    def record(self, library: Library) -> bool:
        """Record the loop. False where it would be what it was."""
        live = self._live()
        rows = self._stacked()
        starts = [p for p in self.starts if p in live]
        slices = [p for p in self.slices if p in live]
        others = [p for p in self.others if p in live]
        saves = any(kind == "saved" for kind, _ in self.read)
        was = self.op
        counts = len(starts), len(slices), len(others), len(rows), saves
        before = was.carried, was.sliced, len(self.body.params) - was.carried - was.sliced
        if counts == (*before, len(was.stacked), was.saves) and not self.early:
            return False
        if starts or rows:
            params = (*starts, *slices, *others)
            stacked = tuple([v.tensor for v in rows])
            body = self._body(params, [*(self.ends[p] for p in starts), *rows], live)
            op = replace(
                was, body=library.add(body), carried=len(starts), sliced=len(slices),
                stacked=stacked, saves=saves,
            )  # fmt: skip
            self._apply(op, [self.given[p] for p in params], starts, rows)
        return True

    def _stacked(self) -> list[Node]:
        return [v for v in self.rows if v not in self.known and v not in self.steady]

    def _live(self) -> set[Node]:
        """What steps compute and take, with what stands for early values."""
        live: set[Node] = set()
        waiting = self._stacked()
        waiting += [p for kind, p in self.read if kind != "row" and p in self.ends]
        while waiting:
            n = waiting.pop()
            if n in live:
                continue
            live.add(n)
            waiting += [self.early[n]] if n in self.early else n.inputs
            waiting += [self.ends[n]] if n in self.ends else ()
        return live

    def _body(self, params: tuple[Node, ...], outputs: Sequence[Node], live: set[Node]) -> Graph:
        splice = Splice(self.body)
        splice.env.update(self.early)
        for n in self.body.nodes:
            if n in live and n not in self.early:
                splice.keep(n)
        gives = tuple([splice.env.get(o, o) for o in outputs])
        return Graph(self.body.name, params, tuple(splice.nodes), gives)

    def _apply(
        self, op: ForLoop, operands: Sequence[Node], starts: Sequence[Node], rows: Sequence[Node]
    ) -> None:
        b = self.builder
        whole = b.apply(op, *operands, hint=self.name)
        results: list[Result] = [("end", p) for p in starts]
        results += [("row", v) for v in rows]
        results += [("saved", p) for p in starts] if op.saves else []
        for k, result in enumerate(results):
            kind, v = result
            if kind == "row" or result in self.read:
                self.made[result] = item = b.apply(Item(k), whole, hint=v.name)
                if kind != "end":
                    self.sweep.lanes[v] = Lane(Expr(b, item), batched=True)

    def replaced(self) -> Iterator[tuple[Node, Node]]:
        """Items of the loop that was, and what stands for them, but sums that were given up."""
        for result, items in self.read.items():
            kind, v = result
            if result not in self.made and (kind == "row" or v in self.known):
                lane = self.over_steps(v)
                value = lane.value if kind == "end" else lane.whole(self.op.length)
                self.made[result] = value.value
            for item in items if result in self.made else ():
                yield item, self.made[result]


def movable(node: Node) -> bool:
    """Whether ``node`` may be computed outside, for all steps at once: it raises nothing, and is
    not run example by example.
    """
    op = node.op
    if not isinstance(node.type, TensorType):
        return False
    if isinstance(op, Composite):
        own = type(op).batch is not Composite.batch
        return not op.draws and (own or op.lifted(1, *(i.type for i in node.inputs)) is not None)
    return isinstance(op, MOVABLE) and not op.draws


def _results(op: ForLoop, body: Graph) -> list[Result]:
    found: list[Result] = [("end", p) for p in body.params[: op.carried]]
    found += [("row", v) for v in body.outputs[op.carried :]]
    found += [("saved", p) for p in body.params[: op.carried]] if op.saves else []
    return found
