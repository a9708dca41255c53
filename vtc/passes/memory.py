"""Say where every value lies: ``Call.at`` for the results of each call, as in :mod:`vtc.ir.plan`.

    h: f32[8, 64] = call(x, w, graph="k0", type=f32[8, 64], at=(0,))
    r: f32[8, 64] = call(h, graph="k1", type=f32[8, 64], at=(0,))     # in place: h dies here
    f: f32[512] = call(r, graph="k2", type=f32[512], at=(0,))         # a reshape: the same bytes
    y: f32[512] = call(f, b, graph="k3", type=f32[512], at=(-1,))     # the first output

Values share a *slot* where they can: a reshape with what it reshapes, a result with an operand that
nobody reads later and that its region reads only where it writes that result (:class:`Reading`).
Values that are put one after another are parts of the slot of what they become. A slot lies in the
memory of an output, or of the param that an output overwrites, or in the arena, where slots alive
at one time do not overlap. Symbolic sizes are planned at their upper bound; those without one come
last, and share memory where one is certain to be the larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, final

from vtc.ir.dims import Size, Sym
from vtc.ir.graph import Graph, GraphBuilder, Node, Program, rebuild, users
from vtc.ir.op import Pointwise
from vtc.ir.ops.control import Call, Item, StopGradient
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.flow import Flow
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.pieces import pieces
from vtc.ir.ops.view import Reshape
from vtc.ir.types import TensorType, tensors
from vtc.passes.cost import value
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context
from vtc.passes.slots import ALIGNMENT, Slot, bounded, pack, stack

VAIN = 1.5
"""How much more memory, times how long, values may take to lie at once where they are joined."""


@nested
def memory(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    layout = Layout(program).place()
    fixed, growing = bounded(layout.in_arena(), program.ranges)
    stack(growing, pack(fixed), program.ranges)
    for p, param in enumerate(program.entry.params):
        layout.slots[param].at = -1 - len(program.entry.outputs) - p

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if not isinstance(node.op, Call | Flow):
            return b.copy(node, inputs)
        op: Any = node.op
        placed = replace(op, at=layout.at(node))
        return b.apply(placed, *inputs, hint=node.name, loc=node.loc)

    return program.with_entry(rebuild(program.entry, visit))


def largest(program: Program, sizes: Mapping[str, int], count: int = 5) -> list[str]:
    """The values of a planned program that take most of the arena, with the user's lines."""
    found: list[tuple[int, str]] = []
    for node in program.entry.nodes:
        if not isinstance(node.op, Call | Flow):
            continue
        for at, type in zip(node.op.places, tensors(node.type), strict=True):
            if isinstance(at, Sym) or at >= 0:
                nbytes = value(type.nbytes, sizes)
                where = f" at {node.loc}" if node.loc else ""
                found.append((nbytes, f"{node.name}: {type}, {nbytes:,} bytes{where}"))
    found.sort(key=lambda f: -f[0])
    return [text for _, text in found[:count]]


@final
class Layout:
    """Which values share a slot, and how long each is needed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.slots: dict[Node, Slot] = {}
        self.results: dict[Node, list[Slot]] = {}
        entry = program.entry
        called = {n.op.graph for n in entry.nodes if isinstance(n.op, Call)}
        regions = [g for g in program.graphs if g.name in called]
        self._regions = {g.name: _reading(g) for g in regions}
        self._pieces = {g.name: pieces(g) for g in regions}
        for p, param in enumerate(entry.params):
            self.slots[param] = Slot(param.tensor.nbytes, -1, -1, param=p)
        for position, node in enumerate(entry.nodes):
            if isinstance(node.op, Call):
                self._call(position, node, node.op)
            elif isinstance(node.op, Flow):
                self._flow(position, node, node.op)
            elif isinstance(node.op, Item):
                self.slots[node] = self.results[node.inputs[0]][node.op.index]
        for o in entry.outputs:
            self.slots[o].death = len(entry.nodes)

    def place(self) -> Layout:
        """Decide what shares memory; this layout."""
        self._place_outputs()
        self._join_pieces()
        self._reuse()
        return self

    def overwriting(self) -> Iterable[tuple[Slot, Slot]]:
        """Params and computed outputs that are to lie in them, before memory is shared."""
        program = self.program
        for p, fact in enumerate(program.facts):
            if fact.overwritten is not None and not _aliased(program, p):
                made = self.slots[program.entry.outputs[fact.overwritten]]
                if made.param is None:
                    yield self.slots[program.entry.params[p]], made

    def copied(self) -> list[Node]:
        """The outputs that are not where they belong, and are copied there at the end."""
        facts, found = self.program.facts, []
        for i, o in enumerate(self.program.entry.outputs):
            slot = self.slots[o].whole()
            there = slot.at == -1 - i and slot.param is None
            if not there and (slot.param is None or facts[slot.param].overwritten != i):
                found.append(o)
        return found

    def _place_outputs(self) -> None:
        """Write outputs where they belong at once, where nothing reads the old content later."""
        entry = self.program.entry
        over = {f.overwritten: p for p, f in enumerate(self.program.facts)}
        for i, o in enumerate(entry.outputs):
            slot = self.slots[o]
            if slot.param is not None or slot.at is not None:
                continue
            if i not in over or self._may_replace(over[i], slot):
                slot.at = -1 - i

    def _join_pieces(self) -> None:
        """Compute what is put one after another where it is to lie."""
        for position, node in enumerate(self.program.entry.nodes):
            if not isinstance(node.op, Call) or not (places := self._pieces[node.op.graph]):
                continue
            (joined,) = self.results[node]
            parts = [self.slots[i] for i in node.inputs]
            if self._may_join(joined, parts, places, position):
                for slot, offset in zip(parts, places, strict=True):
                    slot.part(joined, offset)

    def _may_join(
        self, joined: Slot, parts: Sequence[Slot], places: Sequence[int], position: int
    ) -> bool:
        """Whether ``parts`` may lie in ``joined``, without holding much memory in vain."""
        if len(set(parts)) < len(parts) or not all(s.free for s in (joined, *parts)):
            return False
        if not isinstance(joined.size, int) or any(at % ALIGNMENT for at in places):
            return False
        held = sum(value(s.size, {}) * (position - s.birth) for s in parts)
        return joined.size * (position - min(s.birth for s in parts)) <= VAIN * held

    def _reuse(self) -> None:
        """Let results take the slot of an operand that is read for the last time."""
        for position, node in enumerate(self.program.entry.nodes):
            if not isinstance(node.op, Call | Flow):
                continue
            own = (s for s in self.results[node] if s.birth == position and s.param is None)
            made = [s for s in own if s.whole() is s]
            olds = dict.fromkeys(self.slots[i].whole() for i in node.inputs)
            for slot in made:
                old = next((o for o in olds if self._may_share(o, slot, position)), None)
                if old is not None:
                    del olds[old]
                    old.join(slot)

    def in_arena(self) -> list[Slot]:
        """The slots that lie nowhere yet, in order of birth."""
        found = dict.fromkeys(s.whole() for slots in self.results.values() for s in slots)
        return [s for s in found if s.param is None and s.at is None]

    def at(self, node: Node) -> tuple[Size, ...]:
        """Where the results of a call lie, once all slots have a place."""
        return tuple(at for slot in self.results[node] if (at := slot.place()) is not None)

    def _call(self, position: int, node: Node, op: Call) -> None:
        region = self._regions[op.graph]
        for p, i in enumerate(node.inputs):
            slot = self.slots[i]
            slot.death = max(slot.death, position)
            slot.reads.append((position, region.shares[p]))
        source = None if region.source is None else node.inputs[region.source]
        if source is not None and self._may_alias(node, source):
            self.results[node] = [self.slots[source]]
        else:
            types = enumerate(tensors(node.type))
            self.results[node] = [Slot(t.nbytes, position, position, r) for r, t in types]
        if isinstance(node.type, TensorType):
            (self.slots[node],) = self.results[node]

    def _flow(self, position: int, node: Node, op: Flow) -> None:
        """The graphs it runs have a part of the arena of their own."""
        for k, i in enumerate(node.inputs):
            slot = self.slots[i]
            slot.death = max(slot.death, position)
            slot.reads.append((position, op.may_replace(k)))
        types = enumerate(tensors(node.type))
        self.results[node] = [Slot(t.nbytes, position, position, r) for r, t in types]

    def _may_alias(self, node: Node, source: Node) -> bool:
        """A param's bytes cannot be an output's: it is written instead of copied at the end."""
        return self.slots[source].param is None or node not in self.program.entry.outputs

    def _may_replace(self, p: int, slot: Slot) -> bool:
        if _aliased(self.program, p):
            return False
        return _done(self.slots[self.program.entry.params[p]], slot)

    def _may_share(self, old: Slot, slot: Slot, position: int) -> bool:
        if old is slot or old.param is not None or old.at is not None or old.death != position:
            return False
        if old.birth == position or old.size != slot.size or not _done(old, slot):
            return False
        # An output that overwrites a param must not begin earlier than was checked.
        i = -1 - slot.at if isinstance(slot.at, int) else None
        return i is None or all(f.overwritten != i for f in self.program.facts)


def _aliased(program: Program, p: int) -> bool:
    """Whether the memory of param ``p`` may be another one's too."""
    alias = program.facts[p].alias
    return bool(alias) and sum(f.alias == alias for f in program.facts) > 1


def _done(old: Slot, slot: Slot) -> bool:
    """Whether all that reads ``old`` has done so when ``slot`` is written."""
    born, result = slot.birth, slot.result
    return all(at < born or (at == born and result in shares) for at, shares in old.reads)


@final
class Reading:
    """How a region reads its params. ``shares`` says of each param which outputs may be written
    over it; ``source`` is the param that the one output is a reshape of, if it is no more.

    Kernels compute an element of a component (nodes that depend on each other, reductions before
    what follows them) from all it reads at that index, then store it in all outputs at once. So an
    output may lie in a param of its dtype and number of elements that it depends on, that is read
    at that index only, and by nothing that a later reduction or another component computes.
    """

    def __init__(self, graph: Graph) -> None:
        self.source = _reshaped(graph)
        readers = users(graph)
        component, level = _components(graph), _levels(graph)
        free: dict[Node, bool] = {}
        reached: dict[Node, frozenset[int]] = {}
        for n in (*reversed(graph.nodes), *graph.params):
            free[n] = all(_in_step(r, n) and free[r] for r in readers[n])
            own = (i for i, o in enumerate(graph.outputs) if o is n)
            reached[n] = frozenset(own).union(*(reached[r] for r in readers[n]))
        none: frozenset[int] = frozenset()
        self.shares = []
        for p in graph.params:
            found = [graph.outputs[i] for i in reached[p]]
            together = len({component[o] for o in found}) == 1
            last = max((level[o] for o in found), default=0)
            self.shares.append(
                frozenset(
                    i
                    for i in reached[p]
                    if level[graph.outputs[i]] == last
                    and graph.outputs[i].tensor.dtype == p.tensor.dtype
                )
                if free[p] and together
                else none
            )


@lru_cache(1024)
def _reading(graph: Graph) -> Reading:
    return Reading(graph)


def _reshaped(graph: Graph) -> int | None:
    """The param that the only output is a reshape of; None if there is more to it."""
    if len(graph.outputs) != 1 or not graph.nodes:
        return None
    (value,) = graph.outputs
    while isinstance(value.op, Reshape):
        (value,) = value.inputs
    return graph.params.index(value) if value.op is None else None


def _components(graph: Graph) -> dict[Node, Node]:
    """For each node one that stands for all it is connected to by computed values."""
    parent: dict[Node, Node] = {n: n for n in (*graph.params, *graph.nodes)}

    def root(n: Node) -> Node:
        while parent[n] is not n:
            parent[n] = n = parent[parent[n]]
        return n

    for n in graph.nodes:
        for i in n.inputs:
            if i.op is not None:
                parent[root(n)] = root(i)
    return {n: root(n) for n in parent}


def _levels(graph: Graph) -> dict[Node, int]:
    """How many ops that read whole rows or buffers lie one behind the other before each node."""
    level: dict[Node, int] = dict.fromkeys(graph.params, 0)
    for n in graph.nodes:
        here = max((level[i] for i in n.inputs), default=0)
        level[n] = here + (not isinstance(n.op, Pointwise | StopGradient | Item))
    return level


def _in_step(reader: Node, value: Node) -> bool:
    """Whether ``reader`` reads ``value`` only where it writes, or before it writes at all."""
    if isinstance(reader.op, Scattering):
        return reader.inputs.index(value) == 0 and value not in reader.inputs[1:]
    return isinstance(reader.op, Elementwise | Reshape | StopGradient)
