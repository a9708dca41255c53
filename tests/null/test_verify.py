"""Every invariant of a program, broken once; messages name the node and show its neighbours."""

from dataclasses import replace

import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import VerifyError
from vtc.ir.dims import Dim, Sym
from vtc.ir.graph import Fact, Graph, GraphBuilder, Loc, Node, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.elementwise import Add, Cast, Exp
from vtc.ir.ops.fill import Full
from vtc.ir.ops.reduce import Sum
from vtc.ir.text import parse
from vtc.ir.types import TensorType, TupleType, f32, i64
from vtc.ir.verify import verify

TEXT = """\
B: Dim(1, 64)
def k0(a: f32[B, 4]) -> f32[B, 4]:
    c: f32[B, 4] = exp(a)
    return c

def f(x: f32[B, 4], s: f32[B] = param("s", overwritten=1)) -> (f32[B, 4], f32[B]):
    y: f32[B, 4] = exp(x)  # train.py:14 up
    z: f32[B, 4] = call(y, graph="k0", type=f32[B, 4])
    r: f32[B] = sum(z, axes=(1,))
    t: f32[B] = add(r, s)
    return z, t
"""
P = parse(TEXT)
X, S = P.entry.params
Y, Z, R, T = P.entry.nodes
V4 = TensorType(f32, (4,))
B = Sym.var("B")


def with_nodes(*nodes: Node, outputs=None, params=None) -> Program:
    """The program with another entry; ``outputs`` by name where they were replaced."""
    named = {n.name: n for n in (X, S, *nodes)}
    outputs = tuple(named[o.name] for o in P.entry.outputs) if outputs is None else outputs
    entry = Graph("f", P.entry.params if params is None else params, nodes, outputs)
    return replace(P, graphs=(P.graphs[0], entry))


def body(*nodes: Node, params=None) -> Program:
    """The program with another entry that returns nothing."""
    return with_nodes(*nodes, outputs=(), params=params)


def overwriting(x: int | None, s: int | None) -> Program:
    return replace(P, facts=(Fact(overwritten=x), Fact(overwritten=s)))


def with_call(**changes) -> Program:
    z = replace(Z, **changes)
    r = replace(R, inputs=(z,))
    return with_nodes(Y, z, r, replace(T, inputs=(r, S)))


def test_a_sound_program_passes():
    verify(P)
    verify(parse("def f() -> ():\n    return ()"))


def test_the_whole_message():
    y = replace(Y, type=TensorType(f32, (B, 5)))
    with pytest.raises(VerifyError) as e:
        verify(with_nodes(y, replace(Z, inputs=(y,)), R, T, outputs=(Z, T)))
    assert (
        str(e.value)
        == """\
exp: expected y to be f32[B, 4], got f32[B, 5]
  at train.py:14 in up
  in graph f:
       x: f32[B, 4]
       s: f32[B]
     > y: f32[B, 5] = exp(x)
       z: f32[B, 4] = call(y, graph="k0", type=f32[B, 4])
       r: f32[B] = sum(z, axes=(1,))
       t: f32[B] = add(r, s)"""
    )


def test_the_users_line_is_shown(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("\n    h = x @ self.w\n")
    y = replace(Y, name="exp", loc=Loc(str(file), 2, "Mlp.forward"))
    with pytest.raises(VerifyError, match="new name") as e:
        verify(body(y))
    assert str(e.value).splitlines()[1:3] == [
        f"  at {file}:2 in Mlp.forward",
        "       h = x @ self.w",
    ]


def tuple_valued() -> Program:
    a = Node("a", V4)
    k = Graph("k", (a,), (), (a, a))
    t = Node("t", TupleType((V4, V4)), Call("k", TupleType((V4, V4))), (a,))
    return Program((k, Graph("f", (a,), (t,), (t,))))


def call_of(callee: Graph, type, *inputs) -> Program:
    """A program that calls ``callee``."""
    params = tuple(Node(f"x{i}", t) for i, t in enumerate(inputs))
    y = Node("y", type, Call(callee.name, type), params)
    return Program((callee, Graph("f", params, (y,), ())))


ONE = Node("a", V4)
SELF = Node("y", V4, Call("f", V4), (ONE,))
FLIPPED = replace(P, graphs=(P.graphs[1], P.graphs[0]), facts=(Fact(),))
ONCE, TWICE = Graph("k", (ONE,), (), (ONE,)), Graph("k", (ONE,), (), (ONE, ONE))
EARLY = Node("e", V4, Add(), (ONE, replace(ONE, name="later")))

NEW = "expected a new name, not reserved, got"
TENSORS = "expected a param that is one tensor, got"
UNKNOWN = TensorType(f32, (Sym.var("N"),))

BROKEN = [
    # names
    (replace(P, dims=(Dim("B"), Dim("B"))), "expected a new name for a dim, got B: Dim(1, None)"),
    (replace(P, dims=(Dim("f32"),)), "expected a new name for a dim, got f32: Dim(1, None)"),
    (replace(P, dims=(Dim("\ufb01"),)), "expected a new name for a dim"),
    (replace(P, graphs=(P.graphs[0], *P.graphs)), "expected a new name for a graph, got 'k0'"),
    (Program((replace(P.entry, name="a b"),)), "expected a new name for a graph, got 'a b'"),
    (body(Y, replace(Z, name="y")), f"call: {NEW} 'y'"),
    (body(replace(Y, name="x")), f"exp: {NEW} 'x'"),
    (body(replace(Y, name="exp")), f"exp: {NEW} 'exp'"),
    (body(replace(Y, name="nan")), f"exp: {NEW} 'nan'"),
    (body(replace(Y, name="b.c")), f"exp: {NEW} 'b.c'"),
    (body(Y, Y), f"exp: {NEW} 'y'"),
    # order
    (body(Z, Y), "call: expected inputs defined above, got y"),
    (body(EARLY), "add: expected inputs defined above, got a"),
    (body(replace(X, name="q")), "param: expected an op, got the param q inside the body"),
    (body(params=(X, Y)), f"exp: {TENSORS} y: f32[B, 4] = exp(x)"),
    (body(params=(X, replace(S, type=TupleType((V4,))))), f"param: {TENSORS} s: (f32[4],)"),
    (with_nodes(Y, outputs=(Z,)), "return: expected a tensor, got z, which is not defined"),
    (tuple_valued(), "return: expected a tensor, got t, (f32[4], f32[4])"),
    # types and attributes
    (body(replace(Y, type=V4)), "exp: expected y to be f32[B, 4], got f32[4]"),
    (body(replace(Y, op=Add())), "add: "),
    (body(replace(Y, op=Item(0))), "item: no result 0 in f32[B, 4]"),
    (body(replace(Y, op=Sum([0]))), "sum: expected axes: tuple[int, ...], got axes=[0]"),
    (body(replace(Y, op=Cast("f32"))), 'cast: expected dtype: DType, got dtype="f32"'),
    (replace(P, dims=()), "param: expected declared dims, got B"),
    (body(Node("y", UNKNOWN, Full(UNKNOWN.shape, 0, f32))), "full: expected declared dims, got N"),
    (body(params=(Node("x", TensorType(f32, (-1,))),)), "param: expected sizes of at least 0, got"),
    # calls
    (with_call(op=Call("k1", Z.type)), "call: expected a graph defined above, got 'k1'"),
    (FLIPPED, "call: expected a graph defined above, got 'k0'"),
    (Program((Graph("f", (ONE,), (SELF,), ()),)), "call: expected a graph defined above, got 'f'"),
    (with_call(inputs=(Y, Y)), "call: k0 expected (f32[B, 4]), got (f32[B, 4], f32[B, 4])"),
    (with_call(inputs=(S,)), "call: k0 expected (f32[B, 4]), got (f32[B])"),
    (with_call(inputs=()), "call: k0 expected (f32[B, 4]), got ()"),
    (call_of(TWICE, V4, V4), "call: k returns (f32[4], f32[4]), expected f32[4]"),
    (call_of(ONCE, V4.with_dtype(i64), V4), "call: k returns (f32[4]), expected i64[4]"),
    # facts
    (replace(P, facts=(Fact(),)), "f: expected one fact per param, got 1 for 2 params"),
    (overwriting(None, 2), "param: expected s overwritten by one of 2 outputs, got 2"),
    (overwriting(None, -1), "param: expected s overwritten by one of 2 outputs, got -1"),
    (overwriting(1, None), "param: expected x overwritten by f32[B, 4], got t: f32[B]"),
]


@pytest.mark.parametrize(("program", "message"), BROKEN, ids=[m for _, m in BROKEN])
def test_broken(program, message):
    with pytest.raises(VerifyError) as e:
        verify(program)
    assert str(e.value).splitlines()[0].startswith(message)


def test_an_output_overwrites_one_param():
    b = GraphBuilder()
    x, y = b.param("x", V4), b.param("y", V4)
    p = Program((b.graph("f", [x, y], [x]),), facts=(Fact(overwritten=0), Fact(overwritten=0)))
    with pytest.raises(VerifyError, match="expected output x to overwrite one param, got x and y"):
        verify(p)


def test_an_op_that_trips_is_a_verify_error(monkeypatch):
    monkeypatch.setattr(Exp, "infer", lambda self, *inputs: inputs[3])
    with pytest.raises(VerifyError, match="exp: tuple index out of range"):
        verify(body(Y))


def test_a_stage_says_which_nodes_it_allows():
    def no_sums(node: Node) -> str | None:
        return "reductions are fused by now" if isinstance(node.op, Sum) else None

    seen = []
    verify(P, lambda n: seen.append(n.name))
    assert seen == ["c", "y", "z", "r", "t"]
    with pytest.raises(VerifyError, match="sum: reductions are fused by now") as e:
        verify(P, no_sums)
    assert "     > r: f32[B] = sum(z, axes=(1,))" in str(e.value)
