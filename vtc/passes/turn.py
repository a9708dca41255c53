"""Where a program turns from values that are kept to those who read them late, and what to keep.

    x ... h = matmul(x, w)  a = gelu(h)  y = matmul(a, v)  |  d_a  d_v = matmul(a, d_y)  ...
                                                           turn: h or a must be kept across

Late readers that are close together make a *place*. A value that is computed again is computed for
each of its places: for those of its own readers, and of all that is computed from it again. So a
long chain (a residual stream) is not had from its beginning at every place: its values are kept.

All is priced in bytes. To keep a value costs its bytes. To move ``RATE`` bytes costs as much as to
keep one, and a kernel as much as ``LAUNCH``. What is computed again is written only for readers
that want it in memory (products), and is loaded by none of the others; what it is made of is
loaded, if the kernels at that place do not read it anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from vtc.ir.graph import Graph, Node, Program
from vtc.ir.op import Pointwise
from vtc.ir.ops.control import Item
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.target import Target
from vtc.passes.cost import elements, nbytes
from vtc.passes.cut import cheap, cut
from vtc.passes.space import INDEX_FUNCTIONS

NEAR = 32
"""A value read for the last time so few nodes after it was made (or a quarter of all) lives shortly
anyway. Late readers so close together share what is computed again; a product counts as ``LONG``
nodes."""
LONG = 8
DEPTH = 32
"""Elementwise values in a row that may be computed again: the copies of a longer chain would all
live at once."""
POINT = (Pointwise, Reduction, ArgReduction)
"""What can compute what it reads; all others want it in memory."""
RATE = 3
"""Bytes moved that are worth a byte kept. A GPU moves about 3 GB in a ms: to save a GB may take
that long, which is a twentieth of a step that needs a few of them."""
PASSES = 2
"""Kernels at a place that read a value: they reduce it, and use it again with what came out."""
LAUNCH = 2 << 20
"""Bytes that are worth a kernel on a GPU: its 2 us at the same rate. On a CPU it is a call."""


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
            if takes_none(n) and all(i in free for i in n.inputs):
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

    def kept(self, target: Target) -> set[Node]:
        """The values to keep, of those computed early and not free."""
        shallow = self._shallow()
        prices = _Prices.of(self, shallow, LAUNCH if target.kind == "cuda" else 0)
        kept = {r for r in self.read if r not in shallow}
        known = prices.plain(kept)
        rest = [r for r in self.read if r not in known]
        return kept | cut(rest, known, prices.keep, prices.again, prices.loads)

    def _shallow(self) -> set[Node]:
        """What may be computed again."""
        depth: dict[Node, int] = {}
        for n in self.early:
            if n in self.free or not cheap(n):
                continue
            below = max((depth.get(i, 0) for i in n.inputs), default=0)
            reached = below if takes_none(n) else below + 1
            if reached <= DEPTH:
                depth[n] = reached
        return set(depth)


@final
@dataclass(frozen=True, slots=True)
class _Prices:
    """What it costs to keep values and to compute ``shallow`` ones again.

    Places are bits: nodes that are ``NEAR`` each other late have one in common. ``fused`` are those
    where kernels read a value that could compute it, ``loaded`` those where they want it in memory,
    ``wanted`` both and those of all that may be computed from it again, ``joined`` those where
    kernels read something that it is made of.
    """

    turn: Turn
    shallow: set[Node]
    launch: int
    fused: Mapping[Node, int]
    loaded: Mapping[Node, int]
    wanted: Mapping[Node, int]
    joined: Mapping[Node, int]
    stored: frozenset[Node]
    """What early kernels write to memory in any case."""

    @classmethod
    def of(cls, turn: Turn, shallow: set[Node], launch: int) -> _Prices:
        fused, loaded = _late_reads(turn)
        wanted: dict[Node, int] = {}
        for n in reversed(turn.early):
            here = wanted[n] = wanted.get(n, 0) | fused.get(n, 0) | loaded.get(n, 0)
            for i in n.inputs if n in shallow else ():
                wanted[i] = wanted.get(i, 0) | here
        joined: dict[Node, int] = {}
        for n in turn.early:
            below = n.inputs if n in shallow else ()
            joined[n] = fused.get(n, 0)
            for i in below:
                joined[n] |= joined.get(i, 0)
        return cls(turn, shallow, launch, fused, loaded, wanted, joined, _stored(turn))

    def plain(self, kept: set[Node]) -> set[Node]:
        """``kept``, what is free, and what is better computed from those than kept."""
        known = kept | self.turn.free
        total: dict[Node, int] = {}
        for n in self.turn.early:
            again = self.again(n)
            if again is None or n in known or not all(i in known for i in n.inputs):
                continue
            total[n] = again + sum(price for _, price in self.loads(n))
            total[n] += sum(total.get(i, 0) for i in n.inputs)
            price = self.keep(n)
            if price is None or total[n] < price:
                known.add(n)
        return known

    def keep(self, node: Node) -> int | None:
        """The price of keeping ``node``, of writing it where this was not needed, and of loading
        it; None if it takes no memory.
        """
        if takes_none(node):
            return None
        size = self.turn.weight(node)
        moves = PASSES * _places(self.fused.get(node, 0)) + (node not in self.stored)
        return max(1, size + size * moves // RATE)

    def again(self, node: Node) -> int | None:
        """The price of computing ``node`` again, loads of what is not free apart."""
        if node not in self.shallow:
            return None
        if takes_none(node):
            return 0
        loaded = self.loaded.get(node, 0)
        alone = loaded & ~_around(self.joined[node])
        written = _places(loaded) * self.turn.weight(node)
        times = _places(self.wanted[node])
        read = sum(self._share(s, node) * times for s in _computed(node) if s in self.turn.free)
        return (written + read) // RATE + _places(alone) * self.launch

    def loads(self, node: Node) -> Iterator[tuple[Node, int]]:
        """What ``node`` is made of, and the price of loading that where nobody reads it anyway."""
        if takes_none(node):
            return
        for source in _computed(node):
            if source not in self.turn.free:
                more = self.wanted[node] & ~_around(self.fused.get(source, 0))
                yield source, self._share(source, node) * PASSES * _places(more) // RATE

    def _share(self, source: Node, node: Node) -> int:
        """The bytes of ``source`` that ``node`` reads: no more elements than it has itself."""
        count = elements(source.type, self.turn.sizes)
        least = min(count, elements(node.type, self.turn.sizes))
        return self.turn.weight(source) * least // max(1, count)


def only_index(node: Node) -> bool:
    """Whether ``node`` only says where to read, or is a constant."""
    return isinstance(node.op, INDEX_FUNCTIONS)


def takes_none(node: Node) -> bool:
    """Whether ``node`` takes no memory of its own; that of an item is its tuple's."""
    return only_index(node) or isinstance(node.op, Item)


def source(node: Node) -> Node:
    """What index functions down from ``node`` read in the end."""
    while only_index(node) and node.inputs:
        (node,) = node.inputs
    return node


def _computed(node: Node) -> dict[Node, None]:
    """What ``node`` reads, through index functions."""
    return {s: None for i in node.inputs if (s := source(i)).op is None or s.inputs}


def _late_reads(turn: Turn) -> tuple[dict[Node, int], dict[Node, int]]:
    """Where late nodes read each value: those that could compute it, and those that load it."""
    fused: dict[Node, int] = {}
    loaded: dict[Node, int] = {}
    late = turn.graph.nodes[turn.at :]
    for n, at in zip(late, clock(late), strict=True):
        if takes_none(n):
            continue
        found = fused if isinstance(n.op, POINT) else loaded
        for s in _computed(n):
            found[s] = found.get(s, 0) | 1 << at // NEAR
    return fused, loaded


def clock(nodes: Sequence[Node]) -> Iterator[int]:
    """How far each of ``nodes`` is from the first."""
    at = 0
    for n in nodes:
        yield at
        at += 1 if takes_none(n) or isinstance(n.op, POINT) else LONG


def _stored(turn: Turn) -> frozenset[Node]:
    """Early values that a product reads, or that are read both before and after one."""
    stored: set[Node] = set()
    reader: dict[Node, int] = {}
    products = 0
    for n in turn.early:
        whole = not isinstance(n.op, POINT) and not takes_none(n)
        products += whole
        for s in () if takes_none(n) else _computed(n):
            if whole or reader.setdefault(s, products) != products:
                stored.add(s)
    return frozenset(stored)


def _around(places: int) -> int:
    """``places`` and those next to them."""
    return places | places << 1 | places >> 1


def _places(bits: int) -> int:
    """How many places there are: two next to each other count as one."""
    count = 0
    while bits:
        lowest = bits & -bits
        bits &= ~(lowest | lowest << 1)
        count += 1
    return count


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
        at = last.get(n, times[n]) if takes_none(n) else times[n]
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
        if n in outputs or takes_none(n) or times[n] != k:
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
        if takes_none(n):
            waiting.extend(n.inputs)
        else:
            found.add(n)
    return found
