"""Merge nodes that compute the same thing; the first stays.

    a: f32[4] = exp(x)
    b: f32[4] = exp(x)              a: f32[4] = exp(x)
    c: f32[4] = mul(a, b)   ==>     c: f32[4] = mul(a, a)

Random ops merge too: they are functions of the generator's state.
"""

from __future__ import annotations

from dataclasses import replace

from vtc.ir.graph import Graph, Node, Program
from vtc.passes.pipeline import Context
from vtc.passes.splice import each_graph, on


def cse(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    return each_graph(program, merged)


def merged(graph: Graph) -> Graph:
    """``graph`` with equal nodes merged; itself where there are none."""
    seen: dict[object, Node] = {}
    env: dict[Node, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple([env.get(i, i) for i in node.inputs]) if env else node.inputs
        key = node.op, inputs
        first = seen.get(key)
        if first is None:
            seen[key] = kept = on(node, inputs)
            nodes.append(kept)
            if kept is not node:
                env[node] = kept
        else:
            env[node] = first
    if not env:
        return graph
    outputs = tuple(env.get(o, o) for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
