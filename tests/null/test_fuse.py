"""Which nodes become one kernel, and why. What the pass writes: tests/golden/fuse_*."""

from dataclasses import replace

import pytest

from vtc.ir.graph import GraphBuilder, Loc, Program
from vtc.ir.ops.attention import ScaledDotProductAttention
from vtc.ir.ops.expr import Expr
from vtc.ir.text import parse
from vtc.ir.types import TensorType, f32
from vtc.ir.verify import verify
from vtc.passes.fuse import chosen, fuse
from vtc.passes.group import LARGEST
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
    "r": "inline r: taken, 96 bytes: it only says where to read",
    "h": "epilogue h: taken, 96 bytes: computed where the result is stored",
    "e": "merge e: refused, 96 bytes: matmul does not have whole rows at hand",
    "s": "merge s: taken, 80 bytes: read where it is computed",
    "t": "inline t: taken, 96 bytes: it only says where to read",
    "y": "merge y: taken, 128 bytes: read where it is computed",
    "n": "merge n: taken, 32 bytes: read where it is computed",
    "o": "merge o: refused, 96 bytes: it is an output",
}


@pytest.mark.parametrize("name", WHY)
def test_each_decision_is_explained(name):
    said = {str(d) for d in chosen(parse(SOFTMAX), Context()).decisions}
    assert WHY[name] in said


REFUSED = {
    "it is an output": """
def f(x: f32[4]) -> (f32[4], f32[4]):
    v: f32[4] = exp(x)
    w: f32[4, 2] = expand(v, axes=(1,), sizes=(2,))
    s: f32[4] = sum(w, axes=(1,))
    return v, s
""",
    "matmul and matmul are a kernel each": """
def f(x: f32[4, 4]) -> f32[4, 4]:
    v: f32[4, 4] = matmul(x, x)
    y: f32[4, 4] = matmul(v, x)
    return y
""",
    "matmul does not have whole rows at hand": """
def f(x: f32[4, 4]) -> f32[4]:
    v: f32[4, 4] = matmul(x, x)
    y: f32[4] = sum(v, axes=(1,))
    return y
""",
    "they reduce other axes": """
def f(x: f32[4, 3]) -> f32[()]:
    v: f32[4] = sum(x, axes=(1,))
    y: f32[()] = sum(v, axes=(0,))
    return y
""",
    "it would be computed again for each panel, 12 operations an element": """
def f(x: f32[4, 4]) -> f32[4, 4]:
    v: f32[4, 4] = exp(x)
    y: f32[4, 4] = matmul(v, x)
    return y
""",
    "it would be computed again, 4800 operations in all": """
def f(x: f32[4], y: f32[100, 4]) -> f32[100, 4]:
    v: f32[4] = exp(x)
    w: f32[100, 4] = expand(v, axes=(0,), sizes=(100,))
    z: f32[100, 4] = add(w, y)
    return z
""",
    "index_put stores its result itself": """
def f(x: f32[4], i: i64[2], g: f32[2]) -> f32[4]:
    v: f32[4] = index_put(x, g, i, axes=(0,), accumulate=True)
    y: f32[4] = neg(v)
    return y
""",
    "neg a reads v at another index": """
def f(x: f32[4, 4]) -> (f32[4, 4], f32[4]):
    m: f32[4] = max(x, axes=(1,))
    m1: f32[4, 4] = expand(m, axes=(1,), sizes=(4,))
    d: f32[4, 4] = sub(x, m1)
    v: f32[4, 4] = exp(d)
    t: f32[4, 4] = permute(v, axes=(1, 0))
    a: f32[4, 4] = neg(t)
    s: f32[4] = sum(v, axes=(1,))
    return a, s
""",
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_says_why(why):
    program = parse(REFUSED[why])
    said = {d.why for d in chosen(program, Context()).decisions if d.node.name == "v"}
    assert why in said
    fused = fuse(program, Context())
    verify(fused)
    assert len(fused.graphs) > 2 or why == "it is an output"


def test_no_region_waits_for_itself():
    """``a`` and ``c`` would be one region but for ``h``, which lies between them."""
    program = parse("""
def f(x: f32[4, 4], w: f32[4, 4]) -> f32[4, 4]:
    a: f32[4, 4] = exp(x)
    h: f32[4, 4] = matmul(a, w)
    s: f32[4] = sum(h, axes=(1,))
    e: f32[4, 4] = expand(s, axes=(1,), sizes=(4,))
    c: f32[4, 4] = add(a, e)
    return c
""")
    fused = fuse(program, Context())
    verify(fused)
    assert [d.why for d in chosen(program, Context()).decisions if d.node.name == "a"] == [
        "another kernel reads it at its own index; matmul is needed first, and reads it"
    ]


@pytest.mark.parametrize(("queries", "inside"), [(1, True), (64, True), (65, False)])
def test_keys_that_many_blocks_of_queries_read_are_computed_once(queries, inside):
    q, k = TensorType(f32, (queries, 8)), TensorType(f32, (90, 8))
    b = GraphBuilder()
    query, key = Expr(b, b.param("q", q)), Expr(b, b.param("k", k))
    both = query.apply(ScaledDotProductAttention(is_causal=False, scale=1.0), -key, key)
    graph = b.graph("f", [query.value, key.value], [both.item(0).value])
    fused = fuse(Program((graph,)), Context())
    assert len(fused.entry.nodes) == (1 if inside else 2)


def test_what_takes_little_is_computed_again_where_it_is_read():
    program = parse("""
def f(x: f32[64, 64], w: f32[64]) -> (f32[64, 64], f32[64], f32[64]):
    d: f32[64, 64] = matmul(x, x)
    w1: f32[64, 64] = expand(w, axes=(0,), sizes=(64,))
    h: f32[64, 64] = mul(d, w1)
    r: f32[64] = sum(h, axes=(1,))
    c: f32[64] = sum(h, axes=(0,))
    return d, r, c
""")
    fused = fuse(program, Context())
    verify(fused)
    again = [d for d in chosen(program, Context()).decisions if d.rule == "again"]
    assert [(d.node.name, d.bytes) for d in again] == [("h", 3 * 16384 - 2 * (16384 + 256))]
    assert [n.name for n in fused.entry.nodes] == ["d", "r", "c"]


def test_a_step_of_what_is_computed_again_is_computed_again():
    """``h`` is a step of ``d``, and ``g`` of ``u`` and ``v``: no kernel writes ``h``."""
    program = parse("""
def f(x: f32[3, 4]) -> (f32[3, 2], f32[3, 4], f32[2, 4]):
    s: f32[2, 4] = slice(x, starts=(1, 0), stops=(3, 4), steps=(1, 1))
    h: f32[2, 4] = mul(s, s)
    a: f32[3, 2, 4] = expand(x, axes=(1,), sizes=(2,))
    b: f32[3, 2, 4] = expand(h, axes=(0,), sizes=(3,))
    d: f32[3, 2, 4] = sub(a, b)
    y: f32[3, 2] = max(d, axes=(2,))
    t: f32[3, 2, 4] = expand(y, axes=(2,), sizes=(4,))
    e: bool[3, 2, 4] = eq(d, t)
    c: f32[3, 2, 4] = cast(e, dtype=f32)
    n: f32[3, 2] = sum(c, axes=(2,))
    m: f32[3, 2, 4] = expand(n, axes=(2,), sizes=(4,))
    z: f32[3, 2, 4] = full(shape=(3, 2, 4), value=0.0, dtype=f32)
    w: f32[3, 2, 4] = where(e, m, z)
    i: f32[3, 2, 4] = sign(d)
    g: f32[3, 2, 4] = mul(w, i)
    o: f32[3, 2, 4] = neg(g)
    u: f32[2, 4] = sum(o, axes=(0,))
    v: f32[3, 4] = sum(g, axes=(1,))
    return y, v, u
""")
    fused = fuse(program, Context())
    verify(fused)
    assert "h" not in {n.name for n in fused.entry.nodes}


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
    assert [n.name for n in fused.entry.nodes] == ["e", "o"]
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
    whys = [d.why for d in chosen(program, Context()).decisions if not d.taken]
    assert whys == [f"the kernel would have more than {LARGEST} nodes", "it is an output"]


def test_values_that_nothing_reads_are_dropped():
    program = parse(SOFTMAX)
    graph = program.entry
    kept = replace(graph, outputs=(graph.nodes[1],))
    fused = fuse(Program((kept,)), Context())
    assert [n.name for n in fused.entry.nodes] == ["h"]


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
