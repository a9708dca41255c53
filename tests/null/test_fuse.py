"""Which nodes become one kernel, and why. What the pass writes: tests/golden/fuse_*."""

from dataclasses import replace

import pytest

from vtc.ir.graph import GraphBuilder, Loc, Program
from vtc.ir.ops.expr import Expr
from vtc.ir.text import parse
from vtc.ir.types import TensorType, f32
from vtc.ir.verify import verify
from vtc.passes.fuse import LARGEST, fuse, regions
from vtc.passes.pipeline import Context

SOFTMAX = """
def f(x: f32[4, 3], w: f32[3, 3]) -> f32[4, 3]:
    r: f32[4, 3] = reshape(x, shape=(4, 3))
    h: f32[4, 3] = matmul(r, w)
    d: f32[4, 3] = neg(h)
    e: f32[4, 3] = exp(d)
    s: f32[4] = sum(e, axes=(1,))
    t: f32[4, 3] = expand(s, axes=(1,), sizes=(3,))
    y: f32[4, 3] = div(e, t)
    n: f32[4] = sum(y, axes=(1,))
    m: f32[4] = neg(n)
    z: f32[4, 3] = expand(m, axes=(1,), sizes=(3,))
    o: f32[4, 3] = sub(y, z)
    return o
"""
WHY = {
    "r": "inline r: refused, 96 bytes: matmul h reads whole buffers",
    "h": "merge h: refused, 96 bytes: matmul ends a region",
    "d": "merge d: taken, 96 bytes: read once, where it is computed",
    "e": "merge e: refused, 96 bytes: several regions read it",
    "s": "merge s: refused, 32 bytes: sum ends a region",
    "t": "inline t: taken, 96 bytes: it only says where to read",
    "m": "merge m: refused, 32 bytes: expand z reads it at another index",
    "o": "merge o: refused, 96 bytes: it is an output",
}


@pytest.mark.parametrize("name", WHY)
def test_each_decision_is_explained(name):
    said = {d.node.name: str(d) for d in regions(parse(SOFTMAX).entry).decisions}
    assert said[name] == WHY[name]


def test_places_and_names_are_kept():
    program = parse(SOFTMAX)
    lines = {n.name: Loc("model.py", i) for i, n in enumerate(program.entry.nodes)}
    b = GraphBuilder()
    params = [b.param(p.name, p.type) for p in program.entry.params]
    env = dict(zip(program.entry.params, params, strict=True))
    for n in program.entry.nodes:
        inputs = [env[i] for i in n.inputs]
        env[n] = b.apply(n.op, *inputs, hint=n.name, loc=lines[n.name])
    graph = b.graph("f", params, [env[o] for o in program.entry.outputs])
    fused = fuse(Program((graph,)), Context())
    assert [n.name for n in fused.entry.nodes] == ["r", "h", "e", "s", "y", "n", "m", "o"]
    for g in fused.graphs:
        for n in g.nodes:
            assert n.loc == lines[n.name]


def test_regions_have_a_largest_size():
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (4,)))
    y = Expr(b, x)
    for _ in range(LARGEST + 40):
        y = y.tanh()
    program = Program((b.graph("f", [x], [y.value]),))
    fused = fuse(program, Context())
    verify(fused)
    assert sorted(len(g.nodes) for g in fused.graphs[:-1]) == [40, LARGEST]
    whys = [d.why for d in regions(program.entry).decisions if not d.taken]
    assert whys == [f"the region of {y.value.name} has {LARGEST} nodes", "it is an output"]


def test_values_that_nothing_reads_are_dropped():
    program = parse(SOFTMAX)
    graph = program.entry
    kept = replace(graph, outputs=(graph.nodes[1],))
    fused = fuse(Program((kept,)), Context())
    assert [n.name for n in fused.entry.nodes] == ["r", "h"]


def test_region_names_avoid_those_of_other_graphs():
    text = """
def k0(x: f32[4]) -> f32[4]:
    y: f32[4] = neg(x)
    return y

def f(x: f32[4]) -> f32[4]:
    y: f32[4] = call(x, graph="k0", type=f32[4])
    z: f32[4] = exp(y)
    return z
"""
    fused = fuse(parse(text), Context())
    verify(fused)
    assert [g.name for g in fused.graphs] == ["k0", "k1", "f"]
