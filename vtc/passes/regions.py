"""Which nodes become one kernel: the best pair of groups is joined, again and again.

The best pair saves the most memory traffic: what one writes and the other reads is not read, and
not even written where nobody else needs it; what both read is read once. A pair may join if
:mod:`vtc.passes.group` says so and no third group lies between the two. At last, updates of params
that have nothing to do with each other become one kernel.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.ir.graph import Graph, Node
from vtc.ir.ops.control import Item
from vtc.passes.cost import nbytes
from vtc.passes.group import (
    HEAVY,
    LARGEST,
    Graphwide,
    Group,
    group_of,
    reads_through,
    together,
    union,
)
from vtc.passes.space import INDEX_FUNCTIONS, Edge, edges
from vtc.passes.stored import Stored

SHARED = 65536
"""Bytes from which on it pays to let kernels of different kinds that read a value become one."""
SHARERS = 16
"""Readers of one value among which such pairs are looked for."""

_WHY = {
    "inline": "it only says where to read",
    "merge": "read where it is computed",
    "sibling": "both read the same",
    "prologue": "computed where the operand is packed",
    "epilogue": "computed where the result is stored",
    "again": "computed again by each that reads it, from what is in memory anyway",
    "horizontal": "it updates a param, as others do that it has nothing to do with",
}


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """A choice about ``node``: ``bytes`` is the memory traffic it saves, or would have saved."""

    rule: str
    node: Node
    taken: bool
    bytes: int
    why: str

    def __str__(self) -> str:
        verdict = "taken" if self.taken else "refused"
        return f"{self.rule} {self.node.name}: {verdict}, {self.bytes} bytes: {self.why}"


@final
@dataclass(frozen=True, slots=True)
class Regions:
    """The groups in an order in which they can run, with the members of each that others, or the
    outputs, need.
    """

    groups: tuple[tuple[Group, tuple[Node, ...]], ...]
    decisions: tuple[Decision, ...]


def regions(graph: Graph, sizes: Mapping[str, int], updates: Collection[Node] = ()) -> Regions:
    """The regions of ``graph``, which computes nothing in vain. ``updates`` overwrite params."""
    search = _Search(graph, sizes)
    search.join()
    search.join_apart(updates)
    stored = Stored(search.ordered(), search.graph, search.bytes)
    groups = stored.results()
    return Regions(tuple(groups), tuple(search.explained(stored, groups)))


@final
class _Search:
    """Groups that grow. A group is known by a number: the place of one of its members."""

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.entry = graph
        self.outputs = frozenset(graph.outputs)
        self.written = _written(graph)
        self.position = {n: k for k, n in enumerate(self.written)}
        reads = {n: tuple(edges(n)) for n in self.written}
        readers: dict[Node, list[Edge]] = {n: [] for n in (*graph.params, *self.written)}
        for n in self.written:
            for e in reads[n]:
                readers[e.source].append(e)
        self.graph = Graphwide(reads, readers, self.outputs, sizes)
        self.bytes = {n: nbytes(n.type, sizes) for n in (*graph.params, *self.written)}
        self.groups: dict[int, Group] = {}
        self.home: dict[Node, int] = {}
        self.before: dict[int, int] = {}
        """Of each group, those that must run before it: a set of bits."""
        self.sources: dict[int, set[Node]] = {}
        self.sinks: dict[int, set[Node]] = {}
        self.heap: list[tuple[int, int, int]] = []
        self.refused: dict[tuple[Group, Group], str] = {}
        self.taken: list[Decision] = []
        last = self._chains()
        for n in self.written:
            self._start(self.position[last[n]], n)

    def _chains(self) -> dict[Node, Node]:
        """The last node of the chain that each node is part of: it is read by that chain alone, at
        the place where it is computed. That no other group is worth more to it is plain.
        """
        last: dict[Node, Node] = {}
        count: dict[Node, int] = defaultdict(int)
        for n in reversed(self.written):
            last[n] = n
            read = self.graph.readers[n]
            ends = {last[e.reader] for e in read}
            if group_of(n).kind == "flat" and len(ends) == 1 and all(e.same for e in read):
                (end,) = ends
                if group_of(end).kind == "flat" and count[end] < LARGEST:
                    last[n] = end
                    self._take("merge", n, self.bytes[n] * (1 if n in self.outputs else 2))
            count[last[n]] += 1
        return last

    def _start(self, k: int, node: Node) -> None:
        """Put ``node`` in group ``k``; several results are taken apart where they are made."""
        if isinstance(node.op, Item) and isinstance(node.inputs[0].op, HEAVY):
            k = self.home[node.inputs[0]]
        else:
            sources = [e.source for e in self.graph.reads[node]]
            before = self.before.setdefault(k, 0)
            for h in {self.home[s] for s in sources if s in self.home} - {k}:
                before |= self.before[h] | 1 << h
            self.before[k] = before
        group = self.groups.get(k)
        more = replace(group, members=(*group.members, node)) if group else group_of(node)
        self.home[node], self.groups[k] = k, more
        self.sources.setdefault(k, set()).update(e.source for e in self.graph.reads[node])
        self.sinks.setdefault(k, set()).update(e.reader for e in self.graph.readers[node])

    def _take(self, rule: str, node: Node, saved: int) -> None:
        self.taken.append(Decision(rule, node, taken=True, bytes=saved, why=_WHY[rule]))

    # joining

    def join(self) -> None:
        """Join pairs, the one that saves the most first, until none may."""
        for k in list(self.groups):
            self._suggest(k)
        while self.heap:
            saved, a, b = heapq.heappop(self.heap)
            if a in self.groups and b in self.groups and -saved == self._saved(a, b):
                self._try(a, b, -saved)

    def _suggest(self, k: int) -> None:
        """Put the pairs of group ``k`` that would save traffic on the heap."""
        for a, b in self._pairs(k):
            saved = self._saved(a, b)
            if saved and (self.groups[a], self.groups[b]) not in self.refused:
                heapq.heappush(self.heap, (-saved, a, b))

    def _pairs(self, k: int) -> set[tuple[int, int]]:
        home = self.home
        found = {(k, home[r]) for r in self.sinks[k]}
        for source in self.sources[k]:
            if source in home:
                found.add((home[source], k))
            others = {home[e.reader] for e in self.graph.readers[source]}
            if len(others) <= SHARERS:
                large = self.bytes[source] >= SHARED
                found |= {self._in_order(k, o) for o in others if large or self._alike(k, o)}
        return {(a, b) for a, b in found if a != b}

    def _in_order(self, a: int, b: int) -> tuple[int, int]:
        """The pair with the one first that the other needs."""
        if self.before[a] >> b & 1:
            return b, a
        return (a, b) if self.before[b] >> a & 1 else (min(a, b), max(a, b))

    def _saved(self, a: int, b: int) -> int:
        """Bytes that are not moved if groups ``a`` and ``b`` are one."""
        saved = 0
        for source in self.sources[b]:
            if self.home.get(source) == a:
                saved += self.bytes[source]
                if source not in self.outputs and self._only(source, (a, b)):
                    saved += self.bytes[source]
            elif source in self.sources[a]:
                saved += self.bytes[source]
        return saved

    def _alike(self, a: int, b: int) -> bool:
        """Whether two groups walk the same."""
        one, two = self.groups[a], self.groups[b]
        return (one.kind, one.size, one.space) == (two.kind, two.size, two.space)

    def _only(self, node: Node, groups: tuple[int, int]) -> bool:
        return all(self.home[e.reader] in groups for e in self.graph.readers[node])

    def _try(self, a: int, b: int, saved: int) -> None:
        """Join ``a`` and ``b`` if that is right."""
        a, b = self._in_order(a, b)  # it may have changed since they were suggested
        one, two = self.groups[a], self.groups[b]
        if (one, two) in self.refused:
            return
        joined = self._between(a, b) or union(one, two, self.graph)
        if isinstance(joined, str):
            self.refused[one, two] = joined
            return
        rule, node = self._rule(one, two)
        self._take(rule, node, saved)
        self._merge(a, b, joined)
        self._suggest(a)

    def _rule(self, one: Group, two: Group) -> tuple[str, Node]:
        read = self.graph.between(one, two)
        if not read:
            return "sibling", two.members[-1]
        if two.heavy and any(e.reader is two.heavy for e in read):
            return "prologue", read[0].source
        return "epilogue" if one.heavy else "merge", read[0].source

    def _between(self, a: int, b: int) -> str:
        """Why a third group would have to run between ``a`` and ``b``; empty if none."""
        for reader in self.sinks[a]:
            c = self.home[reader]
            if c not in (a, b) and self.before[b] >> c & 1:
                return (
                    f"{reader.op.name if reader.op else reader.name} is needed first, and reads it"
                )
        return ""

    def _merge(self, a: int, b: int, joined: Group) -> None:
        """Let ``joined`` stand for both, under the number of ``a``."""
        self.groups[a] = joined
        self.home.update(dict.fromkeys(self.groups.pop(b).members, a))
        self.sources[a] |= self.sources.pop(b)
        self.sinks[a] |= self.sinks.pop(b)
        pair = 1 << a | 1 << b
        self.before[a] = before = (self.before[a] | self.before.pop(b)) & ~pair
        for k, known in self.before.items():
            if known & pair:
                self.before[k] = (known | before | 1 << a) & ~(1 << b)

    # updates

    def join_apart(self, updates: Collection[Node]) -> None:
        """Make one kernel of the flat groups that give nothing but ``updates``."""
        chosen: list[int] = []
        for k, group in self.groups.items():
            flat = group.kind == "flat" and all(r in updates for r in self.results(k))
            if flat and not any(self._ordered(c, k) for c in chosen):
                chosen.append(k)
        if len(chosen) < 2:
            return
        for c in chosen:
            self._take("horizontal", self.groups[c].members[-1], 0)
        joined = together(self.groups[c] for c in chosen)
        first, *others = chosen
        for c in others:
            self._merge(first, c, joined)

    def _ordered(self, a: int, b: int) -> bool:
        """Whether one of two groups needs the other."""
        return bool(self.before[a] >> b & 1 or self.before[b] >> a & 1)

    # what came out

    def results(self, k: int) -> list[Node]:
        """The members of a group that other groups or the outputs need, as the graph orders
        them.
        """
        found = [
            n
            for n in self.groups[k].members
            if n in self.outputs or any(self.home[e.reader] != k for e in self.graph.readers[n])
        ]
        return sorted(found, key=self.position.__getitem__)

    def ordered(self) -> list[Group]:
        """The groups so that each comes after what it reads, else as late as its last member."""
        last = {k: max(map(self.position.__getitem__, g.members)) for k, g in self.groups.items()}
        needs = {k: {self.home[s] for s in self.sources[k] if s in self.home} - {k} for k in last}
        after: dict[int, list[int]] = defaultdict(list)
        for k, needed in needs.items():
            for n in needed:
                after[n].append(k)
        ready = [(last[k], k) for k, needed in needs.items() if not needed]
        heapq.heapify(ready)
        found: list[Group] = []
        while ready:
            _, k = heapq.heappop(ready)
            found.append(self.groups[k])
            for n in after[k]:
                needs[n].discard(k)
                if not needs[n]:
                    heapq.heappush(ready, (last[n], n))
        return found

    def explained(
        self, stored: Stored, groups: Iterable[tuple[Group, Sequence[Node]]]
    ) -> Iterator[Decision]:
        """What was decided about index functions, what was joined, and why the rest was not."""
        for node in self.entry.nodes:
            if isinstance(node.op, INDEX_FUNCTIONS):
                why = self._why_whole(node) if node in self.position else ""
                saved = 2 * nbytes(node.type, self.graph.sizes)
                yield Decision("inline", node, not why, saved, why or _WHY["inline"])
        yield from self.taken
        for r in stored.recipes:
            yield Decision("again", r.value, True, r.saved, _WHY["again"])
        for _, results in groups:
            for node in results:
                saved = 2 * self.bytes[node]
                yield Decision("merge", node, False, saved, self._why_apart(node))

    def _why_whole(self, node: Node) -> str:
        """Why an index function is written to memory."""
        if node in self.outputs:
            return "it is an output"
        return "one that reads it reads whole buffers"

    def _why_apart(self, node: Node) -> str:
        """Why a value is written to memory."""
        if node in self.outputs:
            return "it is an output"
        k = self.home[node]
        others = {self.home[e.reader]: None for e in self.graph.readers[node]}
        whys = {self._why_two(k, h): None for h in others if h != k}
        return "; ".join(whys) or "others compute from it again what it was needed for"

    def _why_two(self, a: int, b: int) -> str:
        """Why two groups are two."""
        one, two = self.groups[a], self.groups[b]
        why = self.refused.get((one, two)) or self._between(a, b) or union(one, two, self.graph)
        return why if isinstance(why, str) else "it saves nothing"


def _written(graph: Graph) -> list[Node]:
    """The nodes that some kernel computes: all but index functions that only say where others
    read.
    """
    needed = set(graph.outputs)
    for node in graph.nodes:
        if not reads_through(node.op):
            needed.update(node.inputs)
    return [n for n in graph.nodes if n in needed or not isinstance(n.op, INDEX_FUNCTIONS)]
