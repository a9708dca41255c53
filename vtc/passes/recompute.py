"""Compute cheap values again where they are read late, instead of keeping them for so long.

    a: f32[B, 64] = gelu(h, ...)                a: f32[B, 64] = gelu(h, ...)
    ...                                         ...
    d_w: ... = matmul(a, d_y, ...)      ==>     h_1: f32[B, 64] = after(h, d_y)
                                                a_1: f32[B, 64] = gelu(h_1, ...)
                                                d_w: ... = matmul(a_1, d_y, ...)

The program is cut in two where most bytes are alive; of a training step that is between forward and
backward. What is read beyond is kept, or computed again from what is kept: what costs less, in
bytes kept and moved (:mod:`vtc.passes.turn`), is a minimum cut (:mod:`vtc.passes.cut`). ``after``
ties a copy to a value known just before what reads it, so that it is fused with that, not with what
computed it first. Readers far apart have copies of their own. Nothing changes unless enough bytes
are saved (``Options.recompute``, and a sixteenth of what is alive).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir.graph import Graph, Node, Program
from vtc.ir.op import Pointwise
from vtc.ir.ops.control import After, Item
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.passes.cost import nominal
from vtc.passes.cut import cheap
from vtc.passes.dce import trimmed
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context
from vtc.passes.splice import Splice, on
from vtc.passes.turn import NEAR, Turn, clock, only_index, source, takes_none

SHARE = 16
"""What is saved must be at least this part of what is alive."""


@nested
def recompute(program: Program, context: Context) -> Program:
    """See the module."""
    graph, waits = _bare(program.entry)
    bare = program.with_entry(graph)
    sizes = nominal(program, context.options.nominal)
    at, kept = len(graph.nodes), set(graph.params)
    least = context.options.recompute
    if least is not None:
        turn = Turn.of(bare, sizes)
        chosen = turn.kept(context.target)
        saved = sum(map(turn.weight, turn.read)) - sum(map(turn.weight, chosen))
        if saved >= max(1, least, turn.alive // SHARE):
            at, kept = turn.at, kept | chosen | turn.near | turn.free
    if at == len(graph.nodes) and not waits:
        return program if graph is program.entry else bare
    return program.with_entry(_Writer(graph, waits, at, kept).written())


def _bare(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """``graph`` without ``after``, and for what read through it the event that it waits for."""
    splice = Splice(graph)
    events: dict[Node, Node] = {}
    waits: dict[Node, Node] = {}
    for n in graph.nodes:
        if isinstance(n.op, After):
            splice.env[n], events[n] = splice.inputs(n)
            continue
        splice.keep(n)
        event = next((events[i] for i in n.inputs if i in events), None)
        if event is not None and only_index(n):
            events[n] = event
        elif event is not None and source(event).inputs:  # others are known from the start
            waits[splice.env.get(n, n)] = source(event)
    return (splice.result() if events else graph), waits


@final
@dataclass
class _Writer:
    """Writes the graph in which late nodes, from ``at`` on, read copies of what is not ``kept``.

    A copy, and a node in ``waits``, reads one computed value through ``after``.
    """

    graph: Graph
    waits: Mapping[Node, Node]
    at: int
    kept: set[Node]
    splice: Splice = field(init=False)
    early: set[Node] = field(init=False)
    copies: dict[Node, Node] = field(default_factory=dict)
    held: dict[Node, Node] = field(default_factory=dict)
    tied: set[Node] = field(default_factory=set)
    """What cannot run early."""
    made: dict[Node, int] = field(default_factory=dict)
    """When each copy, and what is held, was made; it serves readers close by."""
    time: int = 0
    event: Node | None = None
    """A value that is known now, and was not known early."""

    def __post_init__(self) -> None:
        self.splice = Splice(self.graph)
        self.early = set(self.graph.nodes[: self.at])

    def written(self) -> Graph:
        for n in self.graph.nodes[: self.at]:
            if takes_none(n) and all(i in self.kept for i in n.inputs):
                self.kept.add(n)
            self.keep(n, self.waits.get(n))
        late = self.graph.nodes[self.at :]
        for n, self.time in zip(late, clock(late), strict=True):
            self.late(n)
        return trimmed(self.splice.result())

    def late(self, node: Node) -> None:
        """``node``, on copies of what is not kept; what only reads early values waits too."""
        if not isinstance(node.op, Pointwise | Reduction | ArgReduction | Item):
            self.event = self.latest(node) or self.event
        for i in node.inputs:
            if i in self.early and i not in self.kept:
                self.again(i)
        local = cheap(node) and any(source(i) in self.early for i in node.inputs)
        self.keep(node, self.waits.get(node, self.event if local else None))
        if not cheap(node):
            self.tied.add(self.now(node))

    def latest(self, node: Node) -> Node | None:
        """What ``node`` reads that was not known early; failing that, what was not known first."""
        there = [i for i in node.inputs if i in self.kept or i not in self.early]
        read = [i for i in there if source(i).inputs]
        tied = [i for i in read if self.now(i) in self.tied]
        found = tied or ([] if self.event is not None else read)
        return source(self.now(found[0])) if found else None

    def keep(self, node: Node, event: Node | None) -> None:
        """``node``, on what stands for its inputs now, once ``event`` is known."""
        kept = on(node, self.inputs(node, event))
        if kept is not node:
            self.splice.env[node] = kept
        self.add(kept)

    def again(self, node: Node) -> None:
        """Compute the early ``node`` once more, and what it is made of."""
        stack = [node]
        while stack:
            n = stack[-1]
            made = [i for i in n.inputs if i in self.early and i not in self.kept]
            waiting = [i for i in made if not self.fresh(i, self.copies)]
            there = self.fresh(n, self.copies)
            if waiting and not there:
                stack.extend(waiting)
                continue
            if not there:
                name = self.splice.names.fresh(n.name)
                inputs = self.inputs(n, self.event)
                self.copies[n] = self.add(replace(n, name=name, inputs=inputs))
            stack.pop()

    def fresh(self, node: Node, among: Mapping[Node, Node]) -> bool:
        """Whether ``among`` has a copy of ``node`` for readers here."""
        copy = among.get(node)
        return copy is not None and self.time - self.made.get(copy, 0) <= 2 * NEAR

    def now(self, node: Node) -> Node:
        """What stands for ``node`` where the writer is."""
        return self.copies.get(node) or self.splice.env.get(node, node)

    def inputs(self, node: Node, event: Node | None) -> tuple[Node, ...]:
        """What ``node`` reads now: nothing changes before ``event``, if it is given."""
        inputs = tuple(map(self.now, node.inputs))
        if event is None or takes_none(node) or any(i in self.tied for i in inputs):
            return inputs
        sources = {i: s for i in inputs if (s := source(i)).op is None or s.inputs}
        if not sources:
            return inputs
        main = max(sources, key=lambda i: (sources[i].op is not None, sources[i].tensor.rank))
        return tuple(self.hold(main, event) if i is main else i for i in inputs)

    def hold(self, node: Node, event: Node) -> Node:
        """``node``, but not before ``event``; of an index function, what it reads is held."""
        if not self.fresh(node, self.held):
            if only_index(node):
                inputs: tuple[Node, ...] = (self.hold(node.inputs[0], event),)
                held = replace(node, inputs=inputs)
            else:
                inputs = node, self.now(event)
                held = Node(node.name, node.type, After(), inputs, node.loc)
            self.held[node] = self.add(replace(held, name=self.splice.names.fresh(node.name)))
            self.tied.add(self.held[node])
        return self.held[node]

    def add(self, node: Node) -> Node:
        """``node`` is next."""
        self.splice.nodes.append(node)
        self.made[node] = self.time
        if any(i in self.tied for i in node.inputs):
            self.tied.add(node)
        return node
