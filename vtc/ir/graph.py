"""Programs: named graphs of single-value nodes in SSA order. Immutable; passes build new ones.

Equality is structural and ignores ``loc``; nothing recurses over depth. A node's ``op`` is None
for a parameter. The last graph of a program is its entry; the others are named by its control ops.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from vtc.errors import VerifyError
from vtc.ir.dims import Dim
from vtc.ir.op import REGISTRY, Op, infer
from vtc.ir.types import DTYPES, TensorType, Type

RESERVED = frozenset({"item", "param", "inf", "nan", "min", "max", "Dim", *DTYPES, *keyword.kwlist})


@dataclass(frozen=True, slots=True)
class Loc:
    """Where a value came from.

    The user's file and line, and the module path (``blocks.3.attn``).
    """

    file: str
    line: int
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file.rsplit('/', 1)[-1]}:{self.line}"
        return f"{place} {self.module}" if self.module else place


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One value. ``op is None`` for a parameter."""

    name: str
    type: Type
    op: Op | None = None
    inputs: tuple[Node, ...] = ()
    loc: Loc | None = None

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's."""
        if not isinstance(self.type, TensorType):
            raise VerifyError(f"{self.name} is {self.type}, not one tensor")
        return self.type

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type}>"


Form = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """``nodes`` in execution order; ``params`` and ``outputs`` are nodes too."""

    name: str
    params: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @cached_property
    def form(self) -> Form:
        """The structure without names and places: equal forms are the same computation."""
        number = {n: i for i, n in enumerate((*self.params, *self.nodes))}
        return (
            tuple(p.type for p in self.params),
            tuple((n.op, n.type, tuple(number[i] for i in n.inputs)) for n in self.nodes),
            tuple(number[o] for o in self.outputs),
        )

    @cached_property
    def _key(self) -> Form:
        return self.name, tuple(n.name for n in (*self.params, *self.nodes)), self.form

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @property
    def result(self) -> tuple[Type, ...]:
        """The types of the outputs."""
        return tuple(o.type for o in self.outputs)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one parameter of the entry.

    ``path`` is the user's name for it (``blocks.0.weight``); ``overwritten`` the output that
    replaces its content after the run; params of one ``alias`` group may share memory, all others
    never do.
    """

    path: str = ""
    overwritten: int | None = None
    alias: str = ""
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Program:
    """Named graphs, the declared dims, and one fact per parameter of the entry (the last graph)."""

    graphs: tuple[Graph, ...]
    dims: tuple[Dim, ...] = ()
    facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        if not self.facts:
            object.__setattr__(self, "facts", (Fact(),) * len(self.entry.params))

    @property
    def entry(self) -> Graph:
        """The graph that runs."""
        return self.graphs[-1]

    @cached_property
    def by_name(self) -> Mapping[str, Graph]:
        """Graphs by name."""
        return {g.name: g for g in self.graphs}

    @cached_property
    def ranges(self) -> dict[str, tuple[int, int | None]]:
        """The range of each declared dim, for :func:`vtc.ir.dims.bounds`."""
        return {d.name: (d.min, d.max) for d in self.dims}

    def with_entry(self, entry: Graph, *more: Graph) -> Program:
        """This program with another entry and, before it, ``more`` graphs."""
        return replace(self, graphs=(*self.graphs[:-1], *more, entry))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.graphs, self.dims, self.facts) == (
            other.graphs,
            other.dims,
            other.facts,
        )

    def __hash__(self) -> int:
        return hash((self.graphs, self.dims, self.facts))


@dataclass
class Names:
    """Hands out unique, deterministic names; never an op's, a dtype's or a keyword."""

    _next: dict[str, int] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def fresh(self, hint: str) -> str:
        """``hint`` if free, else ``hint_1``, ``hint_2``, ..."""
        if hint not in self._taken and hint not in REGISTRY and hint not in RESERVED:
            self._taken.add(hint)
            return hint
        stem, _, tail = hint.rpartition("_")
        stem = stem if stem and tail.isdigit() else hint
        while True:
            self._next[stem] = k = self._next.get(stem, 0) + 1
            if (name := f"{stem}_{k}") not in self._taken:
                self._taken.add(name)
                return name


@dataclass
class GraphBuilder:
    """Records nodes; the only way nodes are made. ``loc`` is given to nodes that bring none."""

    nodes: list[Node] = field(default_factory=list)
    loc: Loc | None = None
    names: Names = field(default_factory=Names)

    def param(self, name: str, type: Type, loc: Loc | None = None) -> Node:
        """A new parameter."""
        return Node(self.names.fresh(name), type, loc=loc)

    def apply(self, op: Op, *inputs: Node, hint: str = "", loc: Loc | None = None) -> Node:
        """Record ``op``; TypeCheckError if it does not take ``inputs``."""
        type = infer(op, [i.type for i in inputs])
        node = Node(self.names.fresh(hint or f"{op.name}_1"), type, op, inputs, loc or self.loc)
        self.nodes.append(node)
        return node

    def type_of(self, value: Node) -> Type:
        """The type of a recorded value."""
        return value.type

    def copy(self, node: Node, inputs: Sequence[Node]) -> Node:
        """``node`` again, on other inputs."""
        if node.op is None:
            raise VerifyError(f"{node.name} is a parameter and cannot be copied into a body")
        return self.apply(node.op, *inputs, hint=node.name, loc=node.loc)

    def graph(self, name: str, params: Iterable[Node], outputs: Iterable[Node]) -> Graph:
        """What was recorded."""
        return Graph(name, tuple(params), tuple(self.nodes), tuple(outputs))


Visitor = Callable[[GraphBuilder, Node, tuple[Node, ...]], Node]


def rebuild(graph: Graph, visit: Visitor) -> Graph:
    """The one traversal passes use: visit nodes in order with inputs already replaced."""
    b = GraphBuilder()
    env: dict[Node, Node] = {p: b.param(p.name, p.type, p.loc) for p in graph.params}
    params = tuple(env.values())
    for node in graph.nodes:
        b.loc = node.loc
        env[node] = visit(b, node, tuple(env[i] for i in node.inputs))
    return b.graph(graph.name, params, (env[o] for o in graph.outputs))


def users(graph: Graph) -> dict[Node, list[Node]]:
    """Who reads each node."""
    found: dict[Node, list[Node]] = {n: [] for n in (*graph.params, *graph.nodes)}
    for node in graph.nodes:
        for i in node.inputs:
            found[i].append(node)
    return found
