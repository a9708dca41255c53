"""Building a graph out of nodes that stay and nodes that take the place of others.

Nodes are immutable, so those whose inputs stay are kept as they are; what a pass records elsewhere
is copied in under names that say what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vtc.errors import VerifyError
from vtc.ir.graph import Graph, Names, Node, Program


@final
@dataclass
class Splice:
    """``env`` says what stands for a node of ``graph`` (itself where absent)."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    env: dict[Node, Node] = field(default_factory=dict)
    names: Names = field(init=False)

    def __post_init__(self) -> None:
        self.names = names_of(self.graph)

    def inputs(self, node: Node) -> tuple[Node, ...]:
        """What stands for the inputs of ``node``."""
        env = self.env
        return tuple([env.get(i, i) for i in node.inputs])

    def keep(self, node: Node) -> None:
        """``node``, on what stands for its inputs."""
        kept = on(node, self.inputs(node))
        if kept is not node:
            self.env[node] = kept
        self.nodes.append(kept)

    def insert(
        self, recorded: Iterable[Node], hints: Mapping[Node, str], heirs: Mapping[Node, str]
    ) -> dict[Node, Node]:
        """Copies of ``recorded``; which copy is whose.

        They are named after ``hints``, or after their op; ``heirs`` take the name of a node that
        goes.
        """
        copies: dict[Node, Node] = {}
        for n in recorded:
            if n.op is None:
                raise VerifyError(f"{n.name} is a parameter and cannot be copied into a body")
            name = heirs.get(n) or self.names.fresh(hints.get(n) or f"{n.op.name}_1")
            inputs = tuple([copies.get(i, i) for i in n.inputs])
            copies[n] = new = Node(name, n.type, n.op, inputs, n.loc)
            self.nodes.append(new)
        return copies

    def result(self) -> Graph:
        """The graph; outputs that were replaced follow."""
        outputs = tuple(self.env.get(o, o) for o in self.graph.outputs)
        return replace(self.graph, nodes=tuple(self.nodes), outputs=outputs)


def each_graph(program: Program, change: Callable[[Graph], Graph]) -> Program:
    """``program`` with ``change`` done to its graphs; itself where that changes none."""
    graphs = tuple(map(change, program.graphs))
    same = all(a is b for a, b in zip(graphs, program.graphs, strict=True))
    return program if same else replace(program, graphs=graphs)


def names_of(graph: Graph) -> Names:
    """Names that avoid those of ``graph``."""
    names = Names()
    for n in (*graph.params, *graph.nodes):
        names.fresh(n.name)
    return names


def on(node: Node, inputs: tuple[Node, ...]) -> Node:
    """``node`` on inputs of the same types: itself where they are the same."""
    return node if inputs == node.inputs else replace(node, inputs=inputs)
