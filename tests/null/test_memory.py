"""The memory plan, run on bytes as it says: a value in the wrong place breaks another one."""

from dataclasses import replace

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtc.codegen.c import generate
from vtc.ir.dims import Dim, Sym, substitute
from vtc.ir.evaluate import bind, evaluate, run_graph
from vtc.ir.graph import Fact, GraphBuilder, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.pieces import pieces
from vtc.ir.target import cpu
from vtc.ir.text import parse
from vtc.ir.types import TensorType, TupleType, f32
from vtc.ir.verify import verify
from vtc.passes.fuse import fuse
from vtc.passes.memory import Reading, memory
from vtc.passes.pipeline import Context
from vtc.passes.schedule import cost, schedule
from vtc.passes.slots import Slot, stack

CONTEXT = Context()


def planned(program):
    for run in (fuse, schedule, memory):
        program = run(program, CONTEXT)
        verify(program)
    return program


class Machine:
    """Memory of a plan, and the calls that work on it as ``vtc.ir.plan`` says."""

    def __init__(self, program, arrays):
        self.program = program
        self.entry = program.entry
        self.sizes = bind(self.entry.params, [a.shape for a in arrays])
        self.inputs = [a.copy() for a in arrays]
        over = {f.overwritten: p for p, f in enumerate(program.facts)}
        self.outputs = [
            self.inputs[over[i]]
            if i in over
            else np.full(self.shape(o), np.nan, o.tensor.dtype.numpy)
            for i, o in enumerate(self.entry.outputs)
        ]
        self.arena = np.full(1 << 16, 0xFF, np.uint8)
        self.used = 0
        self.where = {p: a for p, a in zip(self.entry.params, self.inputs, strict=True)}
        self.launches = 0

    def shape(self, node):
        return tuple(substitute(s, self.sizes) for s in node.tensor.shape)

    def place(self, at, node_type):
        shape = tuple(substitute(s, self.sizes) for s in node_type.shape)
        at = substitute(at, self.sizes) if isinstance(at, Sym) else at
        n = len(self.outputs)
        if -1 - n < at < 0:
            memory = self.outputs[-1 - at]
        elif at < 0:
            memory = self.inputs[-1 - at - n]
        else:
            nbytes = int(np.prod(shape)) * node_type.dtype.itemsize
            assert at % 64 == 0
            self.used = max(self.used, at + nbytes)
            memory = self.arena[at : at + nbytes].view(node_type.dtype.numpy)
        assert memory.size == np.prod(shape)
        return memory.reshape(shape)

    def call(self, node):
        op = node.op
        types = op.type.items if isinstance(op.type, TupleType) else (op.type,)
        targets = [self.place(at, t) for at, t in zip(op.at, types, strict=True)]
        args = [self.where[i] for i in node.inputs]
        graph = self.program.by_name[op.graph]
        source = Reading(graph).source
        if source is not None and same(targets[0], args[source]):
            return targets
        if (at := pieces(graph)) and all(map(lies_at, args, targets * len(at), at)):
            return targets
        self.launches += 1
        for k, a in enumerate(args):
            for t in targets:
                if np.shares_memory(a, t):
                    assert same(a, t)
                    assert self.elementwise(graph, args, k)
        for group in components(graph):  # no order among them is promised
            now = [a.copy() for a in args]
            results = run_graph(self.program, graph, now, self.sizes, "own")
            for k in group:
                targets[k][...] = results[k]
        return targets

    def elementwise(self, graph, args, k):
        """Whether what is at an index depends on no other element of argument ``k``."""
        old = args[k]
        want = run_graph(self.program, graph, [a.copy() for a in args], self.sizes, "own")
        for place in range(old.size):
            changed = [a.copy() for a in args]
            changed[k] = np.full_like(old, 12345)
            changed[k].reshape(-1)[place] = old.reshape(-1)[place]
            got = run_graph(self.program, graph, changed, self.sizes, "own")
            for w, g in zip(want, got, strict=True):
                at = place if w.size == old.size else slice(None)
                if np.any(w.reshape(-1)[at] != g.reshape(-1)[at]):
                    return False
        return True

    def run(self):
        for node in self.entry.nodes:
            if isinstance(node.op, Item):
                self.where[node] = self.where[node.inputs[0]][node.op.index]
            else:
                targets = self.call(node)
                several = isinstance(node.type, TupleType)
                self.where[node] = targets if several else targets[0]
        for out, o in zip(self.outputs, self.entry.outputs, strict=True):
            if not same(out, self.where[o]):
                assert not np.shares_memory(out, self.where[o])
                out[...] = self.where[o]
        return self.outputs


def components(graph):
    """The outputs of ``graph``, those together that depend on each other; the last first."""
    links = networkx.Graph()
    links.add_nodes_from(graph.outputs)
    links.add_edges_from((n, i) for n in graph.nodes for i in n.inputs if i.op is not None)
    groups = networkx.connected_components(links)
    return [[k for k, o in enumerate(graph.outputs) if o in g] for g in groups][::-1]


def lies_at(part, whole, offset):
    """Whether ``part`` begins at byte ``offset`` of ``whole``."""
    return part.ctypes.data == whole.ctypes.data + offset


def same(a, b):
    return a.ctypes.data == b.ctypes.data and a.nbytes == b.nbytes


def judge(program, arrays=None):
    """Plan ``program``, run the plan, compare with the meaning; the machine."""
    rng = np.random.default_rng(0)
    if arrays is None:
        arrays = [
            rng.normal(size=[3 if isinstance(s, Sym) else s for s in p.tensor.shape]).astype(
                np.float32
            )
            for p in program.entry.params
        ]
    want = evaluate(program, *arrays)
    machine = Machine(planned(program), arrays)
    for w, h in zip(want, machine.run(), strict=True):
        np.testing.assert_allclose(h, w, rtol=1e-6)
    return machine


def program(text, **over):
    """The program in ``text``; ``over`` says which output overwrites which param."""
    p = parse(text)
    facts = (Fact(overwritten=over.get(n.name)) for n in p.entry.params)
    return replace(p, facts=tuple(facts))


CHAIN = """
def f(x: f32[8, 8], w: f32[8, 8]) -> f32[8, 8]:
    a: f32[8, 8] = matmul(x, w)
    b: f32[8, 8] = tanh(a)
    c: f32[8, 8] = matmul(b, w)
    d: f32[8, 8] = tanh(c)
    e: f32[8, 8] = matmul(d, w)
    f_1: f32[8, 8] = tanh(e)
    return f_1
"""


def test_a_chain_needs_two_buffers_of_which_the_output_is_one():
    machine = judge(program(CHAIN))
    assert machine.used == 2 * 256  # a = b, c = d, e = f_1 is the output


def test_offsets_are_reused_once_a_value_is_dead():
    text = CHAIN.replace("f32[8, 8]", "f32[3, 3]")
    assert judge(program(text)).used == 64 + 36


SUM_BOTH = """
def f(x: f32[4, 4]) -> f32[4, 4]:
    a: f32[4, 4] = matmul(x, x)
    b: f32[4, 4] = permute(a, axes=(1, 0))
    c: f32[4, 4] = add(a, b)
    return c
"""


def test_an_operand_read_at_two_indices_is_not_overwritten():
    machine = judge(program(SUM_BOTH))
    assert machine.used == 64


UPDATE = """
def step(w: f32[4, 4], x: f32[4, 4], lr: f32[4, 4]) -> (f32[4, 4], f32[4, 4]):
    y: f32[4, 4] = matmul(x, w)
    g: f32[4, 4] = mul(y, lr)
    v: f32[4, 4] = sub(w, g)
    return y, v
"""


def test_a_param_is_overwritten_in_place():
    machine = judge(program(UPDATE.replace("matmul(x, w)", "matmul(x, x)"), w=1))
    assert machine.used == 0
    assert {at for n in machine.entry.nodes if isinstance(n.op, Call) for at in n.op.at} == {-1, -2}


def test_a_param_read_later_is_overwritten_at_the_end():
    late = UPDATE.replace("return y, v", "z: f32[4, 4] = matmul(w, v)\n    return z, v")
    machine = judge(program(late, w=1))
    assert machine.used > 0


def test_a_param_read_elsewhere_by_its_successor_is_overwritten_at_the_end():
    text = """
def f(w: f32[4, 4]) -> f32[4, 4]:
    v: f32[4, 4] = matmul(w, w)
    return v
"""
    machine = judge(program(text, w=0))
    assert machine.used == 64


def test_a_param_read_through_a_reshape_is_read():
    text = """
def f(w: f32[4, 4], x: f32[16, 1]) -> (f32[4, 4], f32[1, 1]):
    v: f32[4, 4] = neg(w)
    flat: f32[1, 16] = reshape(w, shape=(1, 16))
    y: f32[1, 1] = matmul(flat, x)
    return v, y
"""
    machine = judge(program(text, w=0))
    assert machine.used == 0  # v is computed last
    assert machine.launches == 2


SCATTER = """
def f(x: f32[5, 3], v: f32[2, 3], i: i64[2]) -> f32[5, 3]:
    y: f32[5, 3] = index_put(x, v, i, axes=(0,), accumulate=True)
    return y
"""


def test_elements_are_written_into_a_param_in_place():
    x, v, i = np.ones((5, 3), np.float32), np.ones((2, 3), np.float32), np.array([1, 3])
    assert judge(program(SCATTER, x=0), [x, v, i]).used == 0


def test_elements_that_come_from_the_same_memory_are_not_written_in_place():
    text = SCATTER.replace("v: f32[2, 3], ", "").replace("x, v, i", "x, x, i")
    text = text.replace("i64[2]", "i64[5]")
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    machine = judge(program(text, x=0), [x, np.array([1, 2, 3, 4, 0])])
    assert machine.used == 60


def test_params_that_trade_places():
    text = """
def f(x: f32[4], y: f32[4]) -> (f32[4], f32[4]):
    return y, x
"""
    judge(program(text, x=0, y=1))
    judge(program(text, x=0))
    judge(program(text))
    judge(program(text, x=1, y=0))


def test_params_that_trade_places_in_a_ring():
    text = """
def f(x: f32[4], y: f32[4], z: f32[4]) -> (f32[4], f32[4], f32[4], f32[4]):
    s: f32[4] = add(x, y)
    return y, z, x, s
"""
    judge(program(text, x=0, y=1, z=2))


def test_an_output_returned_twice():
    text = """
def f(x: f32[4], y: f32[4]) -> (f32[4], f32[4], f32[4], f32[2, 2]):
    s: f32[4] = exp(x)
    r: f32[2, 2] = reshape(s, shape=(2, 2))
    return s, s, y, r
"""
    assert judge(program(text)).launches == 1
    assert judge(program(text, x=1)).launches == 1


def test_a_reshape_of_a_param_launches_nothing():
    text = """
def f(x: f32[2, 8], w: f32[4, 4]) -> f32[4, 4]:
    r: f32[4, 4] = reshape(x, shape=(4, 4))
    y: f32[4, 4] = matmul(r, w)
    return y
"""
    machine = judge(program(text))
    assert machine.launches == 1
    assert machine.used == 0


def test_a_reshape_that_is_the_output():
    text = """
def f(x: f32[2, 8]) -> (f32[4, 4], f32[16]):
    r: f32[4, 4] = reshape(x, shape=(4, 4))
    t: f32[2, 8] = tanh(x)
    s: f32[16] = reshape(t, shape=(16,))
    return r, s
"""
    assert judge(program(text)).used == 0
    assert judge(program(text, x=None)).launches <= 2


def test_aliased_params_are_overwritten_at_the_end():
    text = """
def f(x: f32[4], y: f32[4]) -> (f32[4], f32[4]):
    a: f32[4] = neg(x)
    b: f32[4] = add(x, y)
    return a, b
"""
    p = replace(parse(text), facts=(Fact(overwritten=0, alias="s"), Fact(alias="s")))
    assert judge(p).used > 0


def test_symbolic_sizes_are_planned_at_their_bound():
    text = "B: Dim(1, 10)\n" + CHAIN.strip().replace("[8, 8]", "[B, 8]").replace(
        "w: f32[B, 8]", "w: f32[8, 8]"
    )
    machine = judge(program(text))
    assert {at for n in machine.entry.nodes for at in n.op.at} == {0, 320, -1}


def test_sizes_without_bound_lie_one_after_the_other():
    text = "B: Dim(1, None)\n" + CHAIN.strip().replace("[8, 8]", "[B, 8]").replace(
        "w: f32[B, 8]", "w: f32[8, 8]"
    )
    machine = judge(program(text))
    places = {str(at) for n in machine.entry.nodes for at in n.op.at}
    assert places == {"0", "64*((32*B + 63)//64)", "-1"}


def test_several_results():
    text = """
def two(x: f32[4]) -> (f32[4], f32[4]):
    a: f32[4] = neg(x)
    b: f32[4] = exp(x)
    return a, b

def f(x: f32[4]) -> f32[4]:
    t: (f32[4], f32[4]) = call(x, graph="two", type=(f32[4], f32[4]))
    a: f32[4] = item(t, index=0)
    b: f32[4] = item(t, index=1)
    c: f32[4] = call(a, b, graph="one", type=f32[4])
    return c
"""
    one = "def one(x: f32[4], y: f32[4]) -> f32[4]:\n    z: f32[4] = sub(x, y)\n    return z\n\n"
    p = memory(parse(one + text.strip()), CONTEXT)
    x = np.arange(4, dtype=np.float32)
    machine = Machine(p, [x])
    np.testing.assert_allclose(machine.run()[0], -x - np.exp(x))
    (first, second), _, _, (third,) = (
        n.op.at if isinstance(n.op, Call) else () for n in machine.entry.nodes
    )
    assert len({first, second}) == 2
    assert third == -1


def test_scheduling_computes_late_what_is_needed_late():
    text = """
def k0(w: f32[8, 8]) -> f32[8, 8]:
    t: f32[8, 8] = permute(w, axes=(1, 0))
    return t

def k1(x: f32[8, 8], y: f32[8, 8]) -> f32[8, 8]:
    a: f32[8, 8] = matmul(x, y)
    return a

def k2(b: f32[8, 8], t: f32[8, 8]) -> f32[8]:
    s: f32[8] = sum(b, axes=(0,))
    r: f32[8, 1] = reshape(s, shape=(8, 1))
    m: f32[8, 1] = matmul(t, r)
    c: f32[8] = reshape(m, shape=(8,))
    return c

def f(x: f32[8, 8], w: f32[8, 8]) -> f32[8]:
    t: f32[8, 8] = call(w, graph="k0", type=f32[8, 8])
    a: f32[8, 8] = call(x, x, graph="k1", type=f32[8, 8])
    b: f32[8, 8] = call(a, a, graph="k1", type=f32[8, 8])
    c: f32[8] = call(b, t, graph="k2", type=f32[8])
    return c
"""
    p = parse(text.strip())
    ordered = schedule(p, CONTEXT)
    assert [n.name for n in ordered.entry.nodes] == ["a", "b", "t", "c"]
    assert cost(p, {})[:2] == (0, 3 * 256)
    assert cost(ordered, {})[:2] == (0, 2 * 256)
    assert schedule(ordered, CONTEXT) is ordered


ADAM = """
def k0(
    x: f32[4, 4], g: f32[4, 4], w: f32[4, 4], m: f32[4, 4], v: f32[4, 4]
) -> (f32[4, 4], f32[4, 4], f32[4, 4]):
    dw: f32[4, 4] = matmul(x, g, transpose_x=True)
    m1: f32[4, 4] = add(m, dw)
    s: f32[4, 4] = mul(dw, dw)
    v1: f32[4, 4] = add(v, s)
    u: f32[4, 4] = mul(m1, v1)
    w1: f32[4, 4] = sub(w, u)
    return m1, w1, v1

def k1(g: f32[4, 4], w: f32[4, 4]) -> f32[4, 4]:
    dx: f32[4, 4] = matmul(g, w, transpose_y=True)
    return dx

def step(
    x: f32[4, 4], g: f32[4, 4],
    w: f32[4, 4] = param("up.weight", overwritten=1),
    m: f32[4, 4] = param("up.m", overwritten=2),
    v: f32[4, 4] = param("up.v", overwritten=3),
) -> (f32[4, 4], f32[4, 4], f32[4, 4], f32[4, 4]):
    t: (f32[4, 4], f32[4, 4], f32[4, 4]) = call(
        x, g, w, m, v, graph="k0", type=(f32[4, 4], f32[4, 4], f32[4, 4])
    )
    m1: f32[4, 4] = item(t, index=0)
    w1: f32[4, 4] = item(t, index=1)
    v1: f32[4, 4] = item(t, index=2)
    dx: f32[4, 4] = call(g, w, graph="k1", type=f32[4, 4])
    return dx, w1, m1, v1
"""


def random(program):
    rng = np.random.default_rng(0)
    return [rng.normal(size=p.tensor.shape).astype(np.float32) for p in program.entry.params]


def judge_calls(text):
    """Schedule and plan a program that brings its own calls, run it; the machine."""
    p = parse(text.strip())
    verify(p)
    arrays = random(p)
    q = schedule(p, CONTEXT)
    verify(q)
    machine = Machine(memory(q, CONTEXT), arrays)
    for w, h in zip(evaluate(p, *arrays), machine.run(), strict=True):
        np.testing.assert_allclose(h, w, rtol=1e-6)
    return machine


def test_a_weight_and_its_moments_are_overwritten_by_the_call_that_makes_the_gradient():
    p = parse(ADAM.strip())
    assert cost(p, {})[0] == 64  # the weight is read after it was updated
    assert cost(schedule(p, CONTEXT), {})[0] == 0
    machine = judge_calls(ADAM)
    assert machine.used == 0
    assert machine.launches == 2
    assert [n.name for n in machine.entry.nodes] == ["dx", "t", "m1", "w1", "v1"]
    assert machine.entry.nodes[1].op.at == (-3, -2, -4)


def test_a_reader_that_depends_on_the_new_weight_costs_a_copy():
    machine = judge_calls(ADAM.replace("call(g, w, graph", "call(w1, w, graph"))
    assert machine.used == 64
    assert machine.entry.nodes[0].name == "t"


def test_updates_that_read_each_others_params_cost_one_copy():
    text = """
def k0(a: f32[4, 4], b: f32[4, 4]) -> f32[4, 4]:
    p: f32[4, 4] = matmul(b, b)
    c: f32[4, 4] = sub(a, p)
    return c

def f(
    w: f32[4, 4] = param(overwritten=0), v: f32[4, 4] = param(overwritten=1)
) -> (f32[4, 4], f32[4, 4]):
    w1: f32[4, 4] = call(w, v, graph="k0", type=f32[4, 4])
    v1: f32[4, 4] = call(v, w, graph="k0", type=f32[4, 4])
    return w1, v1
"""
    assert judge_calls(text).used == 64


def horizontal(body, *, read="b"):
    return f"""
def k0(a: f32[4], b: f32[2, 3], c: f32[6], s: f32[()]) -> (f32[4], f32[2, 3], f32[6]):
    s1: f32[4] = expand(s, axes=(0,), sizes=(4,))
    a1: f32[4] = mul(a, s1)
    s2: f32[2, 3] = expand(s, axes=(0, 1), sizes=(2, 3))
    b1: f32[2, 3] = mul({read}, s2)
    {body}
    return a1, b1, c1

def f(
    a: f32[4] = param(overwritten=2), b: f32[2, 3] = param(overwritten=1),
    c: f32[6] = param(overwritten=0), s: f32[()] = param("lr"),
) -> (f32[6], f32[2, 3], f32[4]):
    t: (f32[4], f32[2, 3], f32[6]) = call(a, b, c, s, graph="k0", type=(f32[4], f32[2, 3], f32[6]))
    a1: f32[4] = item(t, index=0)
    b1: f32[2, 3] = item(t, index=1)
    c1: f32[6] = item(t, index=2)
    return c1, b1, a1
"""


def test_components_of_several_sizes_are_each_overwritten():
    assert judge_calls(horizontal("c1: f32[6] = tanh(c)")).used == 0
    # One component, of two shapes.
    both = "d: f32[6] = reshape(b1, shape=(6,))\n    c1: f32[6] = sub(c, d)"
    assert judge_calls(horizontal(both)).used == 0


def test_a_param_of_two_components_is_overwritten_by_neither():
    two = "d: f32[6] = reshape(b, shape=(6,))\n    c1: f32[6] = sub(c, d)"
    machine = judge_calls(horizontal(two))
    assert machine.used == 24
    assert judge_calls(horizontal("c1: f32[6] = flip(c, axes=(0,))")).used == 24


ROWS = """
def k0(x: f32[4, 3], z: f32[4, 3]) -> (f32[4, 3], f32[4], f32[4, 3]):
    m: f32[4] = max(x, axes=(1,))
    m1: f32[4, 3] = expand(m, axes=(1,), sizes=(3,))
    d: f32[4, 3] = sub(x, m1)
    e: f32[4, 3] = mul(d, z)
    s: f32[4] = sum(d, axes=(1,))
    s1: f32[4, 3] = expand(s, axes=(1,), sizes=(3,))
    y: f32[4, 3] = div({z}, s1)
    return e, s, y
"""


@pytest.mark.parametrize(("z", "stage"), [("z", 2), ("d", 0)])
def test_rows_lie_in_what_neither_a_reduction_nor_a_later_stage_reads(z, stage):
    x, found = Reading(parse(ROWS.format(z=z).strip()).entry).shares
    assert x == frozenset()
    assert found == {stage}


def test_a_result_lies_in_a_dead_operand_of_another_shape():
    text = """
def k0(x: f32[4, 4], y: f32[4, 4]) -> f32[4, 4]:
    p: f32[4, 4] = matmul(x, y)
    return p

def k1(x: f32[4, 4], y: f32[4, 4]) -> (f32[16], f32[4, 4]):
    a: f32[4, 4] = add(x, y)
    b: f32[16] = reshape(a, shape=(16,))
    c: f32[4, 4] = sub(x, y)
    return b, c

def k2(x: f32[16], y: f32[4, 4]) -> f32[4, 4]:
    r: f32[4, 4] = reshape(x, shape=(4, 4))
    p: f32[4, 4] = matmul(r, y)
    return p

def f(x: f32[4, 4]) -> f32[4, 4]:
    a: f32[4, 4] = call(x, x, graph="k0", type=f32[4, 4])
    b: f32[4, 4] = call(a, x, graph="k0", type=f32[4, 4])
    t: (f32[16], f32[4, 4]) = call(a, b, graph="k1", type=(f32[16], f32[4, 4]))
    c: f32[16] = item(t, index=0)
    d: f32[4, 4] = item(t, index=1)
    e: f32[4, 4] = call(c, d, graph="k2", type=f32[4, 4])
    return e
"""
    # a and b are read by two outputs that do not depend on each other: nothing is shared.
    assert judge_calls(text).used == 4 * 64
    together = text.replace("sub(x, y)", "sub(a, y)")
    assert judge_calls(together).used == 2 * 64


@pytest.mark.parametrize("second", ["x", "y"])
def test_several_reshapes_in_a_call_of_ones_own(second):
    text = f"""
def k0(x: f32[4], y: f32[4]) -> (f32[2, 2], f32[4, 1]):
    a: f32[2, 2] = reshape(x, shape=(2, 2))
    b: f32[4, 1] = reshape({second}, shape=(4, 1))
    return a, b

def k1(x: f32[2, 2], y: f32[4]) -> f32[4, 1]:
    b: f32[4, 1] = reshape(y, shape=(4, 1))
    return b

def f(x: f32[4], y: f32[4]) -> (f32[2, 2], f32[4, 1], f32[4, 1]):
    t: (f32[2, 2], f32[4, 1]) = call(x, y, graph="k0", type=(f32[2, 2], f32[4, 1]))
    a: f32[2, 2] = item(t, index=0)
    b: f32[4, 1] = item(t, index=1)
    c: f32[4, 1] = call(a, y, graph="k1", type=f32[4, 1])
    return a, b, c
"""
    assert judge_calls(text).used == 0


SHAPES = ((4, 4), (16,), (4,), (2, 8))


@st.composite
def programs(draw):
    """Small programs over a few shapes, with params that outputs overwrite."""
    b = GraphBuilder()
    params = [
        b.param(f"p{i}", TensorType(f32, draw(st.sampled_from(SHAPES))))
        for i in range(draw(st.integers(1, 4)))
    ]
    values = [Expr(b, p) for p in params]
    for _ in range(draw(st.integers(0, 12))):
        x = draw(st.sampled_from(values))
        values.append(draw(st.sampled_from(steps(x, values))))
    pool = [v.value for v in values]
    outputs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=5))
    free = list(range(len(outputs)))
    facts = []
    for p in params:
        fits = [i for i in free if outputs[i].type == p.type]
        over = draw(st.sampled_from([None, *fits]))
        if over is not None:
            free.remove(over)
        facts.append(Fact(overwritten=over))
    used = set(outputs)
    for n in reversed(b.nodes):
        if n in used:
            used.update(n.inputs)
    b.nodes = [n for n in b.nodes if n in used]
    return Program((b.graph("f", params, outputs),), (), tuple(facts))


def steps(x, values):
    """Values that follow from ``x``; those that are not taken are dropped later."""
    found = [x.tanh(), -x]
    found += [x + y for y in values if y.type == x.type]
    if x.rank == 2 and x.shape == (4, 4):
        found += [x.matmul(x), x.permute((1, 0)), x.sum((0,)), x.sum((1,)), x.reshape((2, 8))]
    if x.shape == (4,):
        found += [x.expand((0,), (4,)), x.expand((1,), (4,))]
    if x.shape in ((16,), (2, 8)):
        found += [x.reshape((4, 4)), x.reshape((16,))]
    return found


@given(programs())
def test_random_programs_keep_their_meaning(p):
    verify(p)
    judge(p)


def test_the_declared_dims_bound_offsets():
    n = Sym.var("N")
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (n, 2)))
    w = b.param("w", TensorType(f32, (2, 2)))
    y = Expr(b, x).matmul(Expr(b, w)).matmul(Expr(b, w)).value
    graph = b.graph("f", [x, w], [y])
    for top, first in ((100, 0), (None, 0)):
        p = planned(Program((graph,), (Dim("N", 1, top),)))
        assert [node.op.at for node in p.entry.nodes] == [(first,), (-1,)]


@pytest.mark.parametrize("top", [8, None])
def test_symbolic_programs_keep_their_meaning(top):
    n = Sym.var("N")
    b = GraphBuilder()
    x = Expr(b, b.param("x", TensorType(f32, (n, 4))))
    w = Expr(b, b.param("w", TensorType(f32, (4, 4))))
    h = x
    for _ in range(3):
        h = (h.matmul(w) + h).tanh().reshape((2 * n, 2)).reshape((n, 4))
        w = w.matmul(w)
    graph = b.graph("f", [x.value, b.nodes[0].inputs[1]], [h.value, w.value])
    judge(Program((graph,), (Dim("N", 1, top),), (Fact(), Fact(overwritten=1))))


def test_values_without_a_bound_share_memory_and_the_arena_stays_a_plain_sum():
    n, widths = Sym.var("N"), (4, 8, 6)
    b = GraphBuilder()
    x = h = Expr(b, b.param("x", TensorType(f32, (n, 4))))
    weights = []
    for k in range(30):  # one after the other, in memory of three sizes
        size = widths[k % 3], widths[(k + 1) % 3]
        weights.append(Expr(b, b.param(f"w{k}", TensorType(f32, size))))
        h = h.matmul(weights[-1])
    graph = b.graph("f", [x.value, *(w.value for w in weights)], [h.value])
    program = Program((graph,), (Dim("N", 1, None),))
    machine = judge(program)
    rows = machine.sizes["N"]
    assert machine.used <= 2 * (rows * max(widths) * 4 + 64) + 64
    assert "max" not in str(generate(machine.program, cpu()).arena)


def test_blocks_of_slots_without_a_bound():
    n = Sym.var("N")
    sizes = [16 * n, 32 * n, 64 * n, 16 * n + 16 * Sym.var("M")]
    slots = [Slot(size * 4, birth, birth) for birth, size in enumerate(sizes)]
    stack(slots, 64, {"N": (1, None), "M": (1, None)})
    assert [s.at for s in slots[:3]] == [64, 64, 64]  # the block grows
    assert slots[3].at == 64 + 256 * n  # nobody knows which is larger
    alive = [Slot(64 * n, 0, 1), Slot(64 * n, 1, 2), Slot(64 * n, 2, 3)]
    stack(alive, 0, {"N": (1, None)})
    assert [s.at for s in alive] == [0, 64 * n, 0]
