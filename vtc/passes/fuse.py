"""Group nodes into regions: each becomes one kernel, and the entry calls them.

    b1: f32[8, 4] = expand(b, axes=(0,), sizes=(8,))
    s: f32[8, 4] = add(x, b1)
    y: f32[8, 4] = tanh(s)
        ==>
    def k0(x: f32[8, 4], b: f32[4]) -> f32[8, 4]: ...
    y: f32[8, 4] = call(x, b, graph="k0", type=f32[8, 4])

Index functions (views, padding, constants) cost nothing: every region that can takes its own copy.
A value read only by one region, at the index where it is computed, joins that region, so nothing is
computed twice and no cycle can arise. Products and scatters read whole buffers. Regions of one form
share one graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from vtc.ir.dims import Size
from vtc.ir.graph import Form, Graph, GraphBuilder, Node, Program, users
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.control import Call, Control, Item
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.fill import Full, Iota, Pad
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.view import IndexMap, Reshape
from vtc.ir.types import TupleType, Type
from vtc.passes.cost import tensors
from vtc.passes.dce import trimmed
from vtc.passes.pipeline import Context

INDEX_FUNCTIONS = (IndexMap, Full, Iota, Pad)
LARGEST = 128
"""Nodes in one region: compilers take more than linear time."""


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """A choice about ``node``: ``bytes`` is the memory traffic it saves, or would have saved."""

    rule: str
    node: Node
    taken: bool
    bytes: Size
    why: str

    def __str__(self) -> str:
        verdict = "taken" if self.taken else "refused"
        return f"{self.rule} {self.node.name}: {verdict}, {self.bytes} bytes: {self.why}"


@final
@dataclass(frozen=True, slots=True)
class Regions:
    """``home`` maps each computed node to the last node of its region; index functions that are
    computed nowhere by themselves have none.
    """

    home: Mapping[Node, Node]
    decisions: tuple[Decision, ...]


def fuse(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    entry = trimmed(program.entry)
    writer = _Writer(entry, regions(entry).home, {g.name for g in program.graphs})
    for p in kept_params(program):
        writer.copy(p)
    for node in entry.nodes:
        writer.node(node)
    return program.with_entry(writer.result(), *writer.graphs.values())


def regions(graph: Graph) -> Regions:
    """Which nodes go together, and why; ``explain`` prints the decisions."""
    graph = trimmed(graph)
    readers = users(graph)
    kept = set(graph.outputs)
    home: dict[Node, Node] = {}
    count: dict[Node, int] = {}
    decisions: list[Decision] = []
    for node in reversed(graph.nodes):
        if isinstance(node.op, INDEX_FUNCTIONS):
            rule, why = "inline", _why_whole(node, readers[node], node in kept)
            if why:
                home[node] = node
        else:
            rule, why = "merge", _why_alone(node, readers[node], node in kept, home, count)
            root = node if why else home[readers[node][0]]
            home[node] = root
            count[root] = count.get(root, 0) + 1
        saved = 2 * _nbytes(node.type)
        decisions.append(Decision(rule, node, not why, saved, why or _GOOD[rule]))
    return Regions(home, tuple(reversed(decisions)))


def kept_params(program: Program) -> list[Node]:
    """Params returned as they were although another output overwrites them: copied at the start."""
    facts = dict(zip(program.entry.params, program.facts, strict=True))
    writers: dict[str, set[int]] = {}
    for p, fact in facts.items():
        if fact.overwritten is not None:
            writers.setdefault(fact.alias or p.name, set()).add(fact.overwritten)
    return [
        o
        for i, o in enumerate(program.entry.outputs)
        if o in facts and writers.get(facts[o].alias or o.name, set()) - {i}
    ]


_GOOD = {"inline": "it only says where to read", "merge": "read once, where it is computed"}


def _why_whole(node: Node, readers: list[Node], kept: bool) -> str:
    """Why an index function must be written to memory; empty where it need not."""
    if kept:
        return "it is an output"
    for r in readers:
        if not inlines(r.op):
            return f"{_name(r.op)} {r.name} reads whole buffers"
    return ""


def _why_alone(
    node: Node,
    readers: list[Node],
    kept: bool,
    home: Mapping[Node, Node],
    count: Mapping[Node, int],
) -> str:
    """Why ``node`` ends a region; empty where it joins that of its readers."""
    if not isinstance(node.op, Pointwise):
        return f"{_name(node.op)} ends a region"
    if kept:
        return "it is an output"
    for r in readers:
        if not isinstance(r.op, (Elementwise, Reduction, ArgReduction)):
            where = "it at another index" if inlines(r.op) else "whole buffers"
            return f"{_name(r.op)} {r.name} reads {where}"
    root = home[readers[0]]
    if any(home[r] is not root for r in readers):
        return "several regions read it"
    if count[root] >= LARGEST:
        return f"the region of {root.name} has {LARGEST} nodes"
    return ""


def inlines(op: Op | None) -> bool:
    """Whether a region that ends in ``op`` can compute what ``op`` reads instead of loading it."""
    return isinstance(op, (Pointwise, Reduction, ArgReduction))


@final
@dataclass
class _Writer:
    """Writes the graphs of regions and the entry that calls them."""

    entry: Graph
    home: Mapping[Node, Node]
    taken: set[str]
    graphs: dict[Form, Graph] = field(default_factory=dict)
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    env: dict[Node, Node] = field(default_factory=dict)
    copies: dict[Node, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for p in self.entry.params:
            self.env[p] = self.builder.param(p.name, p.type, p.loc)

    def node(self, node: Node) -> None:
        """What the entry does for ``node``: nothing unless it ends a region."""
        if isinstance(node.op, (Control, Item)):
            if node in self.home:
                self.env[node] = self.builder.copy(node, [self.env[i] for i in node.inputs])
        elif self.home.get(node) is node:
            reads, body = self.region(node)
            self.env[node] = self.call(reads, body, node)

    def copy(self, param: Node) -> None:
        """Call a region that copies ``param``; outputs take the copy."""
        if param in self.copies:
            return
        b = GraphBuilder()
        p = b.param(param.name, param.type, param.loc)
        out = b.apply(Reshape(shape=param.tensor.shape), p, hint=param.name, loc=param.loc)
        self.copies[param] = self.call([param], b.graph("", [p], [out]), param)

    def region(self, root: Node) -> tuple[list[Node], Graph]:
        """The values a region reads, and its graph."""
        inside = self.members(root)
        reads = list(dict.fromkeys(i for n in inside for i in n.inputs if i not in inside))
        b = GraphBuilder()
        env = {r: b.param(r.name, r.type, r.loc) for r in reads}
        params = tuple(env.values())
        for n in inside:
            env[n] = b.copy(n, [env[i] for i in n.inputs])
        outputs = [env[root]]
        if isinstance(root.type, TupleType):
            outputs = [
                b.apply(Item(index=i), env[root], loc=root.loc) for i in range(len(root.type.items))
            ]
        return reads, b.graph("", params, outputs)

    def members(self, root: Node) -> dict[Node, None]:
        """The nodes of a region in an order that depends on its form alone."""
        done: dict[Node, None] = {}
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [] if node in done else [i for i in self.inner(root, node) if i not in done]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                done.setdefault(stack.pop())
        return done

    def inner(self, root: Node, node: Node) -> list[Node]:
        """The inputs of ``node`` that the region computes itself."""
        if not inlines(root.op):
            return []
        return [
            i
            for i in node.inputs
            if isinstance(i.op, INDEX_FUNCTIONS) or (i.op is not None and self.home[i] is root)
        ]

    def call(self, reads: list[Node], body: Graph, root: Node) -> Node:
        """A call of the graph that has the form of ``body``."""
        graph = self.graphs.get(body.form)
        if graph is None:
            name = self.fresh()
            graph = self.graphs[body.form] = Graph(name, body.params, body.nodes, body.outputs)
        op = Call(graph=graph.name, type=root.type)
        inputs = [self.env[r] for r in reads]
        return self.builder.apply(op, *inputs, hint=root.name, loc=root.loc)

    def fresh(self) -> str:
        """The name of a new region."""
        index = len(self.graphs)
        while (name := f"k{index}") in self.taken:
            index += 1
        self.taken.add(name)
        return name

    def result(self) -> Graph:
        """The entry."""
        params = [self.env[p] for p in self.entry.params]
        outputs = [self.copies.get(o, self.env[o]) for o in self.entry.outputs]
        return self.builder.graph(self.entry.name, params, outputs)


def _name(op: Op | None) -> str:
    return op.name if op is not None else "param"


def _nbytes(type: Type) -> Size:
    total: Size = 0
    for t in tensors(type):
        total = total + t.nbytes
    return total
