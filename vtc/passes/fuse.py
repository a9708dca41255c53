"""Group nodes into regions: each becomes one kernel, and the entry calls them.

    m: f32[8] = max(x, axes=(1,))
    d: f32[8, 4] = sub(x, expand(m))
    e: f32[8, 4] = exp(d)
        ==>
    def k0(x: f32[8, 4]) -> f32[8, 4]: ...
    e: f32[8, 4] = call(x, graph="k0", type=f32[8, 4])

:mod:`vtc.passes.regions` chooses what goes together, by the memory traffic that it saves. Index
functions (views, padding, constants) cost nothing: every region takes its own copy. Regions of one
form share one graph. A region may have several results, which the entry takes apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from vtc.ir.graph import Form, Graph, GraphBuilder, Node, Program
from vtc.ir.ops.control import Call, Control, Item
from vtc.ir.ops.view import Reshape
from vtc.ir.types import TupleType
from vtc.passes.cost import nominal
from vtc.passes.dce import trimmed
from vtc.passes.group import Group, reads_through
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context
from vtc.passes.regions import Regions, regions
from vtc.passes.space import INDEX_FUNCTIONS


@nested
def fuse(program: Program, context: Context) -> Program:
    """See the module."""
    entry = trimmed(program.entry)
    writer = _Writer(entry, {g.name for g in program.graphs})
    for p in kept_params(program):
        writer.copy(p)
    for group, results in chosen(program, context).groups:
        writer.group(group, results)
    return program.with_entry(writer.result(), *writer.graphs.values())


def chosen(program: Program, context: Context) -> Regions:
    """The regions of ``program`` and why they are what they are: ``explain`` prints it."""
    entry = trimmed(program.entry)
    over = {f.overwritten for f in program.facts}
    updates = {o for k, o in enumerate(entry.outputs) if k in over}
    return regions(entry, nominal(program, context.options.nominal), updates)


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


@final
@dataclass
class _Writer:
    """Writes the graphs of regions and the entry that calls them."""

    entry: Graph
    taken: set[str]
    graphs: dict[Form, Graph] = field(default_factory=dict)
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    env: dict[Node, Node] = field(default_factory=dict)
    copies: dict[Node, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for p in self.entry.params:
            self.env[p] = self.builder.param(p.name, p.type, p.loc)

    def group(self, group: Group, results: Sequence[Node]) -> None:
        """What the entry does for a group: it calls the region, or copies a control op."""
        (node, *_) = group.members
        if isinstance(node.op, (Control, Item)):
            self.env[node] = self.builder.copy(node, [self.env[i] for i in node.inputs])
            return
        reads, body = region(group.members, results)
        self.env.update(zip(results, self.call(reads, body, results), strict=True))

    def copy(self, param: Node) -> None:
        """Call a region that copies ``param``; outputs take the copy."""
        if param in self.copies:
            return
        b = GraphBuilder()
        p = b.param(param.name, param.type, param.loc)
        out = b.apply(Reshape(shape=param.tensor.shape), p, hint=param.name, loc=param.loc)
        (self.copies[param],) = self.call([param], b.graph("", [p], [out]), [param])

    def call(self, reads: Sequence[Node], body: Graph, results: Sequence[Node]) -> list[Node]:
        """The results of a call of the graph that has the form of ``body``."""
        graph = self.graphs.get(body.form)
        if graph is None:
            name = self.fresh()
            graph = self.graphs[body.form] = Graph(name, body.params, body.nodes, body.outputs)
        inputs = [self.env[r] for r in reads]
        first = results[0]
        if len(results) == 1:  # one tensor, or the tuple of an op that is computed by itself
            op = Call(graph=graph.name, type=first.type)
            return [self.builder.apply(op, *inputs, hint=first.name, loc=first.loc)]
        types = TupleType(tuple(r.tensor for r in results))
        op = Call(graph=graph.name, type=types)
        made = self.builder.apply(op, *inputs, hint=f"{graph.name}_call", loc=first.loc)
        return [
            self.builder.apply(Item(index=i), made, hint=r.name, loc=r.loc)
            for i, r in enumerate(results)
        ]

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


def region(members: Collection[Node], results: Sequence[Node]) -> tuple[list[Node], Graph]:
    """The values that a region of ``members`` reads, and its graph, which gives ``results``."""
    inside = _inside(members, results)
    reads = list(dict.fromkeys(i for n in inside for i in n.inputs if i not in inside))
    b = GraphBuilder()
    env = {r: b.param(r.name, r.type, r.loc) for r in reads}
    params = tuple(env.values())
    for n in inside:
        env[n] = b.copy(n, [env[i] for i in n.inputs])
    outputs = [o for r in results for o in _tensors(b, env[r])]
    return reads, b.graph("", params, outputs)


def _tensors(b: GraphBuilder, node: Node) -> list[Node]:
    """``node``, or its results one by one."""
    if not isinstance(node.type, TupleType):
        return [node]
    return [b.apply(Item(index=k), node, loc=node.loc) for k in range(len(node.type.items))]


def _inside(members: Collection[Node], results: Iterable[Node]) -> dict[Node, None]:
    """The nodes of a region, index functions included, in an order that depends on its form
    alone.
    """
    own = set(members)

    def inner(node: Node) -> list[Node]:
        if not (reads_through(node.op) or isinstance(node.op, Item)):
            return []
        return [i for i in node.inputs if i in own or isinstance(i.op, INDEX_FUNCTIONS)]

    done: dict[Node, None] = {}
    for result in results:
        stack = [result]
        while stack:
            node = stack[-1]
            waiting = [] if node in done else [i for i in inner(node) if i not in done]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                done.setdefault(stack.pop())
    return done
