"""The graphs that flow ops run, as programs of their own: passes and kernels are made for these.

def step(c: f32[4], x: f32[4]) -> f32[4]: ...          # the body of a loop that carries c

body_program(program, "step", 1)                       # step(c = param(overwritten=0), x)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vtc.ir.graph import Fact, Graph, GraphBuilder, Node, Program
from vtc.ir.ops.flow import Flow
from vtc.ir.ops.view import Reshape


def bodies(program: Program) -> Mapping[str, int]:
    """The graphs that flow ops run, in order; of each, how many params it overwrites."""
    found: dict[str, int] = {}
    for graph in program.graphs:
        for n in graph.nodes:
            if isinstance(n.op, Flow):
                found.update({name: n.op.overwritten.get(name, 0) for name in n.op.graphs})
    return {g.name: found[g.name] for g in program.graphs if g.name in found}


def body_program(program: Program, name: str, carried: int) -> Program:
    """The program whose entry is the graph called ``name``: its first ``carried`` outputs overwrite
    the first params.
    """
    body = _distinct(program.by_name[name])
    others = (g for g in program.graphs if g.name != name)
    over = (Fact(overwritten=k if k < carried else None) for k in range(len(body.params)))
    return replace(program, graphs=(*others, body), facts=tuple(over))


def _distinct(graph: Graph) -> Graph:
    """``graph`` whose outputs are computed, each for itself: params and values that are output
    already are copied.
    """
    if len({*graph.params, *graph.outputs}) == len(graph.params) + len(graph.outputs):
        return graph
    b = GraphBuilder()
    env = {p: b.param(p.name, p.type, p.loc) for p in graph.params}
    params = tuple(env.values())
    for n in graph.nodes:
        env[n] = b.copy(n, [env[i] for i in n.inputs])
    taken = set(graph.params)
    outputs: list[Node] = []
    for o in graph.outputs:
        out = env[o]
        if o in taken:
            out = b.apply(Reshape(o.tensor.shape), out, hint=o.name, loc=o.loc)
        taken.add(o)
        outputs.append(out)
    return b.graph(graph.name, params, outputs)
