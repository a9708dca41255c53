"""Compute cheap values again where they are read late, instead of keeping them for so long.

    a: f32[B, 64] = gelu(h, ...)                a: f32[B, 64] = gelu(h, ...)
    ...                                         ...
    d_w: ... = matmul(a, d_y, ...)      ==>     h_1: f32[B, 64] = after(h, d_y)
                                                a_1: f32[B, 64] = gelu(h_1, ...)
                                                d_w: ... = matmul(a_1, d_y, ...)

The program is cut in two where most bytes are alive; of a training step that is between forward and
backward. What is read beyond and can be had cheaply from less is computed again: the least bytes to
keep are a minimum cut (:mod:`vtc.passes.cut`). ``after`` ties a copy to a value known late, so that
it is fused with what reads it, not with what computed it first. Nothing changes unless enough bytes
are saved (``Options.recompute``, and a sixteenth of what is alive).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import final

from vtc.ir.graph import Graph, Node, Program
from vtc.ir.op import Pointwise
from vtc.ir.ops.control import After, Item
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.passes.cost import nbytes, nominal
from vtc.passes.cut import cheap, cut
from vtc.passes.dce import trimmed
from vtc.passes.pipeline import Context
from vtc.passes.space import INDEX_FUNCTIONS
from vtc.passes.splice import Splice, on

NEAR = 32
"""A value read for the last time so few nodes after it was made (or a quarter of all) lives shortly
anyway."""
DEPTH = 32
"""Elementwise values in a row that may be computed again: the copies of a longer chain would all
live at once."""
SHARE = 16
"""What is saved must be at least this part of what is alive."""


def recompute(program: Program, context: Context) -> Program:
    """See the module."""
    graph, waits = _bare(program.entry)
    bare = program.with_entry(graph)
    sizes = nominal(program, context.options.nominal)
    at, kept = len(graph.nodes), set(graph.params)
    least = context.options.recompute
    if least is not None:
        turn = Turn.of(bare, sizes)
        chosen = turn.kept()
        saved = sum(map(turn.weight, turn.read)) - sum(map(turn.weight, chosen))
        if saved >= max(1, least, turn.alive // SHARE):
            at, kept = turn.at, kept | chosen | turn.near | turn.free
    if at == len(graph.nodes) and not waits:
        return program if graph is program.entry else bare
    return program.with_entry(_Writer(graph, waits, at, kept).written())


@final
@dataclass(frozen=True, slots=True)
class Turn:
    """Where the program is cut: ``alive`` bytes are needed across.

    ``free`` are early values that are there later anyway. Of the others, late nodes read ``read``,
    and ``near``, which are read for the last time soon.
    """

    graph: Graph
    sizes: Mapping[str, int]
    at: int
    alive: int
    free: frozenset[Node]
    read: tuple[Node, ...]
    near: frozenset[Node]

    @classmethod
    def of(cls, program: Program, sizes: Mapping[str, int]) -> Turn:
        """Where ``program`` is cut."""
        graph = program.entry
        when = _times(program)
        last = _last_reads(graph, when)
        at, alive = _fullest(graph, when, last, sizes)
        free = _lasting(program, last, at)
        for n in graph.nodes[:at]:
            if _takes_none(n) and all(i in free for i in n.inputs):
                free.add(n)
        early = set(graph.nodes[:at]) - free
        wide = [i for n in graph.nodes[at:] for i in n.inputs if i in early]
        made = {n: k for k, n in enumerate(graph.nodes[:at])}
        sources = sorted(_sources(wide, free), key=made.__getitem__)
        soon = min(NEAR, len(graph.nodes) // 4)
        near = frozenset(s for s in sources if last[s] - made[s] < soon)
        read = tuple(s for s in sources if s not in near)
        return cls(graph, sizes, at, alive, frozenset(free), read, near)

    @property
    def early(self) -> Sequence[Node]:
        """The nodes before the cut."""
        return self.graph.nodes[: self.at]

    def weight(self, node: Node) -> int:
        """The bytes it takes to keep a value."""
        return nbytes(node.type, self.sizes)

    def kept(self) -> set[Node]:
        """The values to keep, of those computed early and not free."""
        shallow = self._shallow()
        kept = {r for r in self.read if r not in shallow}
        known = kept | self.free
        for n in self.early:
            if n in shallow and all(i in known for i in n.inputs):
                known.add(n)
        rest = [r for r in self.read if r not in known]
        return kept | cut(rest, known, self._cost, shallow.__contains__)

    def _cost(self, node: Node) -> int | None:
        return None if _takes_none(node) else max(1, self.weight(node))

    def _shallow(self) -> set[Node]:
        """What may be computed again."""
        depth: dict[Node, int] = {}
        for n in self.early:
            if n in self.free or not cheap(n):
                continue
            below = max((depth.get(i, 0) for i in n.inputs), default=0)
            reached = below if _takes_none(n) else below + 1
            if reached <= DEPTH:
                depth[n] = reached
        return set(depth)


def _only_index(node: Node) -> bool:
    """Whether ``node`` only says where to read, or is a constant."""
    return isinstance(node.op, INDEX_FUNCTIONS)


def _takes_none(node: Node) -> bool:
    """Whether ``node`` takes no memory of its own; that of an item is its tuple's."""
    return _only_index(node) or isinstance(node.op, Item)


def _times(program: Program) -> dict[Node, int]:
    """When each node runs: in order, but updates of params as soon as what they need is known."""
    graph = program.entry
    updates = {graph.outputs[f.overwritten] for f in program.facts if f.overwritten is not None}
    others = set(graph.outputs) - updates
    for n in reversed(graph.nodes):
        if n in updates and n not in others and isinstance(n.op, Pointwise):
            updates.update(i for i in n.inputs if isinstance(i.op, Pointwise))
        else:
            others.update(n.inputs)
    times: dict[Node, int] = {}
    for k, n in enumerate(graph.nodes):
        soon = max((times.get(i, 0) for i in n.inputs), default=0)
        times[n] = soon if n in updates and n not in others else k
    return times


def _last_reads(graph: Graph, times: Mapping[Node, int]) -> dict[Node, int]:
    """When each value is read for the last time; a read of an index function reads through it."""
    last: dict[Node, int] = dict.fromkeys(graph.outputs, len(graph.nodes))
    for n in reversed(graph.nodes):
        at = last.get(n, times[n]) if _takes_none(n) else times[n]
        for i in n.inputs:
            last[i] = max(last.get(i, at), at)
    return last


def _fullest(
    graph: Graph, times: Mapping[Node, int], last: Mapping[Node, int], sizes: Mapping[str, int]
) -> tuple[int, int]:
    """Before which node most bytes of values that are no outputs are alive, and how many."""
    change = [0] * (len(graph.nodes) + 2)
    outputs = set(graph.outputs)
    for k, n in enumerate(graph.nodes):
        if n in outputs or _takes_none(n) or times[n] != k:
            continue
        size = nbytes(n.type, sizes)
        change[k + 1] += size
        change[max(last.get(n, 0), k) + 1] -= size
    alive = list(accumulate(change[: len(graph.nodes)]))
    at = max(range(len(alive)), key=alive.__getitem__, default=0)
    return at, alive[at] if alive else 0


def _lasting(program: Program, last: Mapping[Node, int], at: int) -> set[Node]:
    """Outputs, and params but those that the program overwrites early and does not read later."""
    entry = program.entry
    made = {n: k for k, n in enumerate(entry.nodes)}
    lasting = set(entry.outputs)
    for p, fact in zip(entry.params, program.facts, strict=True):
        written = None if fact.overwritten is None else entry.outputs[fact.overwritten]
        if written is None or made.get(written, -1) >= at or last.get(p, -1) >= at:
            lasting.add(p)
    return lasting


def _sources(read: Sequence[Node], free: set[Node]) -> set[Node]:
    """What index functions among ``read`` read."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = list(read)
    while waiting:
        n = waiting.pop()
        if n in seen or n in free or n.op is None:
            continue
        seen.add(n)
        if _takes_none(n):
            waiting.extend(n.inputs)
        else:
            found.add(n)
    return found


def _source(node: Node) -> Node:
    """What index functions down from ``node`` read in the end."""
    while _only_index(node) and node.inputs:
        (node,) = node.inputs
    return node


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
        if event is not None and _only_index(n):
            events[n] = event
        elif event is not None and _source(event).inputs:  # others are known from the start
            waits[splice.env.get(n, n)] = _source(event)
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
    event: Node | None = None
    """A value that is known now, and was not known early."""

    def __post_init__(self) -> None:
        self.splice = Splice(self.graph)
        self.early = set(self.graph.nodes[: self.at])

    def written(self) -> Graph:
        for n in self.graph.nodes[: self.at]:
            if _takes_none(n) and all(i in self.kept for i in n.inputs):
                self.kept.add(n)
            self.keep(n, self.waits.get(n))
        for n in self.graph.nodes[self.at :]:
            self.late(n)
        return trimmed(self.splice.result())

    def late(self, node: Node) -> None:
        """``node``, on copies of what is not kept; what only reads early values waits too."""
        if not isinstance(node.op, Pointwise | Reduction | ArgReduction | Item):
            self.event = self.latest(node) or self.event
        for i in node.inputs:
            if i in self.early and i not in self.kept:
                self.again(i)
        local = cheap(node) and any(_source(i) in self.early for i in node.inputs)
        self.keep(node, self.waits.get(node, self.event if local else None))
        if not cheap(node):
            self.tied.add(self.now(node))

    def latest(self, node: Node) -> Node | None:
        """What ``node`` reads that was not known early; failing that, what was not known first."""
        there = [i for i in node.inputs if i in self.kept or i not in self.early]
        read = [i for i in there if _source(i).inputs]
        tied = [i for i in read if self.now(i) in self.tied]
        found = tied or ([] if self.event is not None else read)
        return _source(self.now(found[0])) if found else None

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
            waiting = [i for i in made if i not in self.copies]
            if waiting and n not in self.copies:
                stack.extend(waiting)
                continue
            if n not in self.copies:
                name = self.splice.names.fresh(n.name)
                inputs = self.inputs(n, self.event)
                self.copies[n] = self.add(replace(n, name=name, inputs=inputs))
            stack.pop()

    def now(self, node: Node) -> Node:
        """What stands for ``node`` where the writer is."""
        return self.copies.get(node) or self.splice.env.get(node, node)

    def inputs(self, node: Node, event: Node | None) -> tuple[Node, ...]:
        """What ``node`` reads now: nothing changes before ``event``, if it is given."""
        inputs = tuple(map(self.now, node.inputs))
        if event is None or _takes_none(node) or any(i in self.tied for i in inputs):
            return inputs
        sources = {i: s for i in inputs if (s := _source(i)).op is None or s.inputs}
        if not sources:
            return inputs
        main = max(sources, key=lambda i: (sources[i].op is not None, sources[i].tensor.rank))
        return tuple(self.hold(main, event) if i is main else i for i in inputs)

    def hold(self, node: Node, event: Node) -> Node:
        """``node``, but not before ``event``; of an index function, what it reads is held."""
        if node not in self.held:
            if _only_index(node):
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
        if any(i in self.tied for i in node.inputs):
            self.tied.add(node)
        return node
