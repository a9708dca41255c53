"""Say where every value lies: ``Call.at`` for the results of each call, as in :mod:`vtc.ir.plan`.

    h: f32[8, 64] = call(x, w, graph="k0", type=f32[8, 64], at=(0,))
    r: f32[8, 64] = call(h, graph="k1", type=f32[8, 64], at=(0,))     # in place: h dies here
    f: f32[512] = call(r, graph="k2", type=f32[512], at=(0,))         # a reshape: the same bytes
    y: f32[512] = call(f, b, graph="k3", type=f32[512], at=(-1,))     # the first output

Values share a *slot* where they can: a reshape with what it reshapes, an elementwise result with an
operand of its type that nobody reads later. A slot lies in the memory of an output, or of the param
that an output overwrites, or in the arena, where slots alive at one time do not overlap. Symbolic
sizes are planned at their upper bound; those without one come last, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir.dims import Ranges, Size, bounds
from vtc.ir.graph import Graph, GraphBuilder, Node, Program, rebuild, users
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.view import Reshape
from vtc.ir.types import TensorType, TupleType
from vtc.passes.pipeline import Context

ALIGNMENT = 64


@final
@dataclass(eq=False)
class Slot:
    """Memory that values share, in use from call ``birth`` to call ``death``, both included."""

    size: Size
    birth: int
    death: int
    param: int | None = None
    at: Size | None = None
    reads: list[tuple[int, bool]] = field(default_factory=list)
    """The calls that read it, and whether only at the index where they write."""
    _whole: Slot | None = field(init=False, default=None)

    def whole(self) -> Slot:
        """The slot this one has become part of."""
        slot = self
        while slot._whole is not None:
            slot = slot._whole
        return slot

    def join(self, later: Slot) -> None:
        """Become part of ``later``, which begins earlier then."""
        later.birth = self.birth
        later.reads = self.reads + later.reads
        self._whole = later


def memory(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    layout = Layout(program)
    layout.place_outputs()
    layout.reuse()
    fixed, growing = _split(layout.in_arena(), program.ranges)
    top = _pack(fixed)
    for slot in growing:
        slot.at, top = top, top + _aligned(slot.size)
    for p, param in enumerate(program.entry.params):
        layout.slots[param].at = -1 - len(program.entry.outputs) - p

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if not isinstance(node.op, Call):
            return b.copy(node, inputs)
        at = layout.at(node)
        return b.apply(replace(node.op, at=at), *inputs, hint=node.name, loc=node.loc)

    return program.with_entry(rebuild(program.entry, visit))


@final
class Layout:
    """Which values share a slot, and how long each is needed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.slots: dict[Node, Slot] = {}
        self.results: dict[Node, list[Slot]] = {}
        self._regions = {g.name: Reading(g) for g in program.graphs[:-1]}
        entry = program.entry
        for p, param in enumerate(entry.params):
            self.slots[param] = Slot(param.tensor.nbytes, -1, -1, param=p)
        for position, node in enumerate(entry.nodes):
            if isinstance(node.op, Call):
                self._call(position, node, node.op)
            elif isinstance(node.op, Item):
                self.slots[node] = self.results[node.inputs[0]][node.op.index]
        for o in entry.outputs:
            self.slots[o].death = len(entry.nodes)

    def place_outputs(self) -> None:
        """Write outputs where they belong at once, where nothing reads the old content later."""
        entry = self.program.entry
        over = {f.overwritten: p for p, f in enumerate(self.program.facts)}
        for i, o in enumerate(entry.outputs):
            slot = self.slots[o]
            if slot.param is not None or slot.at is not None:
                continue
            if i not in over or self._may_replace(over[i], slot):
                slot.at = -1 - i

    def reuse(self) -> None:
        """Let elementwise results take the slot of an operand that is read for the last time."""
        for position, node in enumerate(self.program.entry.nodes):
            if not isinstance(node.op, Call) or not isinstance(node.type, TensorType):
                continue
            (slot,) = self.results[node]
            if slot.birth != position:
                continue
            for i in node.inputs:
                old = self.slots[i].whole()
                if i.type == node.type and self._may_share(old, slot, position):
                    old.join(slot)
                    break

    def in_arena(self) -> list[Slot]:
        """The slots that lie nowhere yet, in order of birth."""
        found = dict.fromkeys(s.whole() for slots in self.results.values() for s in slots)
        return [s for s in found if s.param is None and s.at is None]

    def at(self, node: Node) -> tuple[Size, ...]:
        """Where the results of a call lie, once all slots have a place."""
        return tuple(s.at for slot in self.results[node] if (s := slot.whole()).at is not None)

    def _call(self, position: int, node: Node, op: Call) -> None:
        region = self._regions[op.graph]
        for i, aligned in zip(node.inputs, region.aligned, strict=True):
            slot = self.slots[i]
            slot.death = max(slot.death, position)
            slot.reads.append((position, aligned))
        if region.reshapes and self._may_alias(node):
            self.results[node] = [self.slots[node.inputs[0]]]
        else:
            types = node.type.items if isinstance(node.type, TupleType) else (node.type,)
            self.results[node] = [Slot(t.nbytes, position, position) for t in types]
        if isinstance(node.type, TensorType):
            (self.slots[node],) = self.results[node]

    def _may_alias(self, node: Node) -> bool:
        """A param's bytes cannot be an output's: it is written instead of copied at the end."""
        return self.slots[node.inputs[0]].param is None or node not in self.program.entry.outputs

    def _may_replace(self, p: int, slot: Slot) -> bool:
        facts = self.program.facts
        if facts[p].alias and sum(f.alias == facts[p].alias for f in facts) > 1:
            return False
        old = self.slots[self.program.entry.params[p]]
        return all(at < slot.birth or (at == slot.birth and same) for at, same in old.reads)

    def _may_share(self, old: Slot, slot: Slot, position: int) -> bool:
        if old is slot or old.param is not None or old.at is not None or old.death != position:
            return False
        if not all(same for at, same in old.reads if at == position):
            return False
        # An output that overwrites a param must not begin earlier than was checked.
        i = -1 - slot.at if isinstance(slot.at, int) else None
        return i is None or all(f.overwritten != i for f in self.program.facts)


@final
class Reading:
    """How a region reads: ``aligned`` says of each param whether it is read only at the index that
    is written; ``reshapes`` whether the region does nothing but reshape.
    """

    def __init__(self, graph: Graph) -> None:
        readers = users(graph)
        self.reshapes = bool(graph.nodes) and all(isinstance(n.op, Reshape) for n in graph.nodes)
        free: dict[Node, bool] = {}
        for n in (*reversed(graph.nodes), *graph.params):
            free[n] = all(_in_step(r, n) and free[r] for r in readers[n])
        types = {o.tensor.shape for o in graph.outputs}
        self.aligned = [free[p] and types == {p.tensor.shape} for p in graph.params]


def _in_step(reader: Node, value: Node) -> bool:
    """Whether ``reader`` reads ``value`` only where it writes, or before it writes at all."""
    if isinstance(reader.op, Scattering):
        return reader.inputs.index(value) == 0 and value not in reader.inputs[1:]
    return isinstance(reader.op, Elementwise)


def _split(slots: Iterable[Slot], ranges: Ranges) -> tuple[list[tuple[Slot, int]], list[Slot]]:
    """The slots of bounded size, with it, and the others."""
    fixed: list[tuple[Slot, int]] = []
    growing: list[Slot] = []
    for slot in slots:
        most = bounds(slot.size, ranges)[1]
        if most is None:
            growing.append(slot)
        else:
            fixed.append((slot, -(-most // ALIGNMENT) * ALIGNMENT))
    return fixed, growing


def _pack(slots: Iterable[tuple[Slot, int]]) -> Size:
    """Give each slot an offset, the largest first, in the tightest gap; the bytes in all."""
    placed: list[tuple[int, int, Slot]] = []
    for slot, size in sorted(slots, key=lambda s: (-s[1], s[0].birth)):
        taken = sorted(
            (start, stop)
            for start, stop, other in placed
            if other.birth <= slot.death and slot.birth <= other.death
        )
        start = _tightest(taken, size)
        slot.at = start
        placed.append((start, start + size, slot))
    return max((stop for _, stop, _ in placed), default=0)


def _tightest(taken: list[tuple[int, int]], size: int) -> int:
    """Where ``size`` bytes fit best between (or after) sorted intervals."""
    end = 0
    best: tuple[int, int] | None = None
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = gap, end
        end = max(end, stop)
    return end if best is None else best[1]


def _aligned(size: Size) -> Size:
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT
