"""Which values the kernels write to memory: what others read, less what those others compute again.

A value that takes a few operations from what is in memory anyway is computed by each kernel that
reads it: a normalized input from the input and two numbers a row, a gradient times a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vtc.ir.graph import Node
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.passes.group import Graphwide, Group, cost

OPERATIONS = 6
"""Simple operations per element that may be done again rather than kept in memory."""


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """How ``value`` is computed again: ``steps`` from ``sources``."""

    value: Node
    steps: tuple[Node, ...]
    sources: tuple[Node, ...]
    saved: int


@final
@dataclass
class Stored:
    """``groups`` in the order in which they run; those that read a value compute what
    ``recipes`` say."""

    groups: list[Group]
    graph: Graphwide
    bytes: Mapping[Node, int]
    home: dict[Node, int] = field(init=False)
    recipes: list[Recipe] = field(default_factory=list)
    copies: dict[int, dict[Node, None]] = field(default_factory=dict)
    again: set[Node] = field(default_factory=set)
    needed: set[Node] = field(default_factory=set)
    """What recipes take from memory, and so must be there."""
    reads: list[set[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.home = {n: k for k, g in enumerate(self.groups) for n in g.members}
        self.reads = [
            {e.source for n in g.members for e in self.graph.reads[n]} for g in self.groups
        ]
        for k, g in enumerate(self.groups):
            for node in g.members:
                self._again(k, node)

    def results(self) -> list[tuple[Group, tuple[Node, ...]]]:
        """Each group with all it computes, and what it writes."""
        read: set[Node] = set(self.graph.outputs)
        found: list[tuple[Group, tuple[Node, ...]]] = []
        for k in reversed(range(len(self.groups))):
            group = self.groups[k]
            members = (*self.copies.get(k, ()), *group.members)
            results = tuple(n for n in group.members if n in read)
            inside = set(members)
            for node in _alive(results, inside, self.graph):
                read.update(e.source for e in self.graph.reads[node] if e.source not in inside)
            if results:  # else others compute all of it again
                found.append((replace(group, members=members), results))
        return found[::-1]

    def _again(self, k: int, node: Node) -> None:
        """Let the readers of ``node`` compute it, if that saves traffic."""
        read = self.graph.readers[node]
        readers = {self.home[e.reader] for e in read} - {k}
        if not readers or node in self.graph.outputs or node in self.needed:
            return
        if any(self._loads(e.reader) for e in read):
            return
        recipe = self._recipe(k, node, readers)
        if recipe is None or recipe.saved <= 0:
            return
        self.recipes.append(recipe)
        self.again.add(node)
        self.needed.update(recipe.sources)
        for r in readers:
            self.copies.setdefault(r, {}).update(dict.fromkeys(recipe.steps))
            self.reads[r].update(recipe.sources)

    def _loads(self, reader: Node) -> bool:
        """Whether ``reader`` wants what it reads in memory."""
        group = self.groups[self.home[reader]]
        return reader is group.heavy or group.kind == "alone"

    def _recipe(self, k: int, node: Node, readers: Collection[int]) -> Recipe | None:
        steps: dict[Node, None] = {}
        sources: dict[Node, None] = {}
        stack, work = [node], 0.0
        while stack:
            n = stack.pop()
            if n in steps:
                continue
            steps[n] = None
            work += cost(n) * self.bytes[n] / max(self.bytes[node], 1)
            if work > OPERATIONS or not isinstance(n.op, Elementwise):
                return None
            for e in self.graph.reads[n]:
                if self._stays(e.source):
                    sources[e.source] = None
                else:
                    stack.append(e.source)
        saved = self.bytes[node] * (1 + len(readers))
        for source in sources:
            saved -= 0 if self._is_stored(source) else self.bytes[source]
            saved -= sum(self.bytes[source] for r in readers if source not in self.reads[r])
        return Recipe(node, tuple(steps), tuple(sources), saved)

    def _stays(self, source: Node) -> bool:
        """Whether a recipe takes ``source`` from memory.

        What is a step of another recipe and nothing else is not there.
        """
        if source in self.again:
            return False
        return not isinstance(source.op, Elementwise) or self._is_stored(source)

    def _is_stored(self, node: Node) -> bool:
        """Whether ``node`` is in memory whatever happens."""
        if node.op is None or node in self.graph.outputs or node in self.needed:
            return True
        k = self.home[node]
        outside = any(self.home[e.reader] != k for e in self.graph.readers[node])
        return outside and node not in self.again


def _alive(results: Iterable[Node], inside: set[Node], graph: Graphwide) -> dict[Node, None]:
    """The nodes ``inside`` that ``results`` are computed from."""
    done: dict[Node, None] = {}
    stack = list(results)
    while stack:
        n = stack.pop()
        if n in done:
            continue
        done[n] = None
        stack += [e.source for e in graph.reads[n] if e.source in inside]
        if isinstance(n.op, Item):
            stack += [i for i in n.inputs if i in inside]
    return done
