"""Graphs of the simulated driver: nodes, conditional nodes and their handles.

    graph.handles.append(handle)
    graph.nodes[1] = Node((), Conditional(handle, loop=True, body.nodes))
    made = instantiated(graph, {graph, body})
    Running(made, random).run()

A handle that no kernel of the launch has set decides nothing: that is an error, as is a handle that
no node uses, and a loop that does not end. A graph with such nodes is instantiated once.
"""

from dataclasses import dataclass, field
from typing import Any

TURNS = 10_000
"""After so many turns a loop is one that does not end."""


@dataclass
class Node:
    after: tuple
    run: Any


@dataclass
class Conditional:
    """What a conditional node does: ``nodes`` are those of its body."""

    handle: int
    loop: bool
    nodes: dict


@dataclass(eq=False)
class Graph:
    """``handles`` are those made for it; ``outer`` is the graph that it is a body in."""

    nodes: dict = field(default_factory=dict)
    handles: list = field(default_factory=list)
    outer: Any = None
    instantiated: bool = False

    def known(self):
        """The handles that its conditional nodes may have."""
        return self.handles + ([] if self.outer is None else self.outer.known())


@dataclass
class Executable:
    nodes: dict
    handles: frozenset
    last: Any = None

    def change(self, node, run):
        """Let ``node``, also one inside of another, do something else."""
        for nodes in (self.nodes, *(c.nodes for c in conditionals(self.nodes))):
            if node in nodes:
                nodes[node] = Node(nodes[node].after, run)
                return
        raise AssertionError("no node of this graph")


def conditionals(nodes):
    """The conditional nodes among ``nodes`` and inside of these."""
    for node in nodes.values():
        if isinstance(node.run, Conditional):
            yield node.run
            yield from conditionals(node.run.nodes)


def instantiated(graph, others):
    """What can be launched of ``graph``; its bodies are among ``others``."""
    found = list(conditionals(graph.nodes))
    bodies = [g for g in others if any(g.nodes is c.nodes for c in found)]
    made = sorted(h for g in {graph, *bodies} for h in g.handles)
    used = sorted(c.handle for c in found)
    assert used == made, "CUDA_ERROR_INVALID_VALUE: handles without a node"
    assert not (found and graph.instantiated), "CUDA_ERROR_NOT_SUPPORTED: instantiated twice"
    graph.instantiated = True
    return Executable(copied(graph.nodes), frozenset(used))


def copied(nodes):
    """``nodes``, and those inside of them, which may change by themselves from now on."""
    return {k: Node(n.after, _copied(n.run)) for k, n in nodes.items()}


def _copied(run):
    if isinstance(run, Conditional):
        return Conditional(run.handle, run.loop, copied(run.nodes))
    return run


class Running:
    """One launch, in any order that the nodes allow."""

    def __init__(self, executable, random):
        self.nodes, self.handles = copied(executable.nodes), executable.handles
        self.random = random
        self.values = {}
        """Of the handles that are set."""

    def set(self, handle, value):
        """What ``cudaGraphSetConditional`` does."""
        assert handle in self.handles, "cudaGraphSetConditional: a handle of another graph"
        self.values[handle] = value

    def run(self, nodes=None):
        """All nodes, or ``nodes``."""
        nodes, done = self.nodes if nodes is None else nodes, set()
        while len(done) < len(nodes):
            ready = [n for n in nodes if n not in done and done.issuperset(nodes[n].after)]
            node = self.random.choice(ready)
            if isinstance(nodes[node].run, Conditional):
                self._decide(nodes[node].run)
            else:
                nodes[node].run()
            done.add(node)

    def _decide(self, node):
        turns = 0
        while self.values[node.handle]:
            self.run(node.nodes)
            turns += 1
            assert turns < TURNS, "a loop that does not end"
            if not node.loop:
                return
