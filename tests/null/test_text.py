"""Program text: what prints parses, what is wrong is pointed at."""

import math
import random
import time
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import ParseError
from vtc.ir.dims import Dim, Size, Sym, floordiv, maximum, minimum, mod
from vtc.ir.graph import Fact, Graph, GraphBuilder, Loc, Program
from vtc.ir.op import REGISTRY, Op
from vtc.ir.ops.control import Call
from vtc.ir.ops.elementwise import Add, Exp
from vtc.ir.ops.fill import Full
from vtc.ir.text import excerpt, parse, show, show_node
from vtc.ir.types import DType, TensorType, TupleType, Type, bf16, f32, f64, i64

MLP = """\
B: Dim(1, 64)
T: Dim(8, None, 8)
def k0(a: f32[B, 4]) -> f32[B, 4]:
    c: f32[B, 4] = exp(a)
    return c

def mlp(x: f32[B, 784], w: f32[784, 4] = param("up"), t: i64[()] = param()) -> (f32[B, 4], i64[()]):
    h: f32[B, 4] = matmul(x, w)
    y: f32[B, 4] = call(h, graph="k0", type=f32[B, 4])
    return y, t
"""

PLACES = """\
def f(
    x: f32[4] = param("x"),  # train.py:3
    y: f32[4] = param(),
) -> f32[4]:
    z: f32[4] = add(x, y)  # train.py:14 blocks.3.attn
    w: f32[4] = mul(z, z)
    return w
"""

B, T = Sym.var("B"), Sym.var("T")
SCALAR = TensorType(f32, ())


@final
@dataclass(frozen=True)
class Probe(Op):
    """An attribute of every kind."""

    required: int
    number: float = 0.0
    flag: bool = False
    word: str = ""
    mode: Literal["none", "tanh"] = "none"
    maybe: int | None = None
    dtype: DType = f32
    size: Size = 1
    shape: tuple[Size, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    type: Type = SCALAR
    types: tuple[TensorType, ...] = ()

    def infer(self, *inputs):
        return TensorType(f32, ())

    def reference(self, *inputs):
        return np.float32(0)

    @classmethod
    def samples(cls, rng):
        yield from ()


del REGISTRY["probe"]  # only where a test asks for it


@pytest.fixture
def probe(monkeypatch):
    monkeypatch.setitem(REGISTRY, "probe", Probe)


@pytest.mark.parametrize("text", [MLP, PLACES])
def test_canonical_text_survives(text):
    p = parse(text)
    assert show(p, loc=True) == text
    assert parse(show(p)) == p


def test_places_are_restored():
    p = parse(PLACES)
    z, w = p.entry.nodes
    assert z.loc == Loc("train.py", 14, "blocks.3.attn")
    assert w.loc is None
    assert [q.loc for q in p.entry.params] == [Loc("train.py", 3), None]
    assert "#" not in show(p)
    assert parse(show(p)) == p


@pytest.mark.parametrize(
    ("comment", "loc"),
    [
        ("# a.py:1", Loc("a.py", 1)),
        ("# <stdin>:7 up", Loc("<stdin>", 7, "up")),
        ("# my file.py:12 blocks.0", Loc("my file.py", 12, "blocks.0")),
        ("# ünï.py:12 äh", Loc("ünï.py", 12, "äh")),
        ("# not a place", None),
        ("# later: 3", None),
        ("# a.py:" + "9" * 5000, None),
        ("", None),
    ],
)
def test_comments_that_are_places(comment, loc):
    p = parse(f"def f(é: f32[4]) -> f32[4]:\n    y: f32[4] = exp(é)  {comment}\n    return y")
    assert p.entry.nodes[0].loc == loc
    assert parse(show(p, loc=True)).entry.nodes[0].loc == loc


def test_a_place_that_would_break_the_text_is_left_out():
    p = parse("def f(x: f32[4]) -> f32[4]:\n    y: f32[4] = exp(x)\n    return y\n")
    (y,) = p.entry.nodes
    y = replace(y, loc=Loc("a.py", 1, "evil\n    z = exp(x)"))
    g = replace(p.entry, nodes=(y,), outputs=(y,))
    assert parse(show(Program((g,)), loc=True)) == p


def test_a_hash_in_a_string_is_no_comment(probe):
    text = 'def f() -> f32[()]:\n    y: f32[()] = probe(required=1, word="# a:3")\n    return y\n'
    assert parse(text).entry.nodes[0].loc is None
    assert show(parse(text)) == text


ATTRIBUTES = [
    {},
    *({"number": v} for v in (0.1, -2.5, 1e300, 5e-324, -0.0, 3, 1e16)),
    *({"number": v} for v in (math.inf, -math.inf, math.nan)),
    *({"word": v} for v in ("it's", 'say "x"', "both '\"", "\\", "a\nb", "é", "\ud800", "#")),
    {"flag": True, "mode": "tanh", "maybe": -3, "dtype": bf16},
    *({"size": v} for v in (-1, B, 2 * B * T + 4, B - T, -B, floordiv(B, 2), mod(B * T + 1, 3))),
    *({"size": v} for v in (minimum(B, 4), maximum(B - 1, minimum(T, 2)) * 3, floordiv(5, B - T))),
    {"size": floordiv(mod(B, 7) + floordiv(2 * T, 3 * B), maximum(B, T)) * -2 - 1},
    {"shape": (B, 4), "pads": ((0, 1), (-2, 3)), "pair": (1, math.inf)},
    {"shape": (7,), "pads": ((1, 2),)},
    {"type": TensorType(f64, (B, 2 * T))},
    {"type": TupleType(())},
    {"type": TupleType((TensorType(f32, (B,)),))},
    {"type": TupleType((TensorType(f32, ()), TensorType(i64, (4, 4))))},
    {"types": (TensorType(f32, (B,)), TensorType(bf16, ()))},
]


@pytest.mark.parametrize("attributes", ATTRIBUTES, ids=str)
def test_attributes_survive(attributes, probe):
    b = GraphBuilder()
    y = b.apply(Probe(1, **attributes))
    p = Program((b.graph("f", (), [y]),))
    text = show(p)
    again = parse(text)
    assert again == p
    assert show(again) == text
    for name, value in attributes.items():
        assert type(getattr(again.entry.nodes[0].op, name)) is type(value)
    assert text.count("=") == 2 + len(attributes)  # defaults are left out


def test_zeros_of_both_signs_are_two_values_and_nan_is_one():
    minus, zero = (Full((), v, f32) for v in (-0.0, 0.0))
    assert minus != zero
    assert Full((), float("nan"), f32) == Full((), float("nan"), f32)
    assert hash(Full((), float("nan"), f32)) == hash(Full((), float("nan"), f32))


def test_no_outputs_no_params_one_element_tuples():
    text = """\
def k() -> ():
    return ()

def f() -> f32[()]:
    t: () = call(graph="k", type=())
    z: f32[()] = full(shape=(), value=nan, dtype=f32)
    return z
"""
    p = parse(text)
    assert p.entry.nodes[0].type == TupleType(())
    assert show(p) == text


def test_long_signatures_take_a_line_per_param():
    b = GraphBuilder()
    params = [b.param(f"a_long_name_for_a_param_{i}", TensorType(f32, (4, 4))) for i in range(4)]
    p = Program((b.graph("f", params, params[:1]),))
    assert show(p).splitlines()[1] == "    a_long_name_for_a_param_0: f32[4, 4],"
    assert parse(show(p)) == p


def test_facts_survive():
    b = GraphBuilder()
    params = [b.param(n, TensorType(f32, (4,))) for n in "xyz"]
    fact = Fact("blocks.0.weight", overwritten=0, alias="a b", device="cuda:1")
    p = Program((b.graph("f", params, params),), facts=(Fact(), fact, Fact()))
    assert parse(show(p)) == p
    whole = 'param("blocks.0.weight", overwritten=0, alias="a b", device="cuda:1")'
    assert whole in show(p)
    assert "x: f32[4]," in show(p)
    assert "z: f32[4] = param()" in show(p)


def test_one_graph_shows_alone():
    p = parse(MLP)
    assert show(p.graphs[0]) in MLP
    assert show_node(p.entry.nodes[0]) == "h: f32[B, 4] = matmul(x, w)"
    assert show_node(p.entry.params[0]) == "x: f32[B, 784]"


def test_by_hand_annotations_of_results_may_be_left_out():
    short = MLP.replace("h: f32[B, 4] =", "h =").replace(" -> f32[B, 4]", "")
    assert show(parse(short)) == MLP


def test_excerpt_shows_neighbours():
    p = parse(MLP)
    h = p.entry.nodes[0]
    expected = """\
  in graph mlp:
       x: f32[B, 784]
       w: f32[784, 4]
       t: i64[()]
     > h: f32[B, 4] = matmul(x, w)
       y: f32[B, 4] = call(h, graph="k0", type=f32[B, 4])
       return y, t"""
    assert excerpt(p.entry, h) == expected
    assert excerpt(p.entry, None, reach=1).splitlines()[1:] == [
        '       y: f32[B, 4] = call(h, graph="k0", type=f32[B, 4])',
        "     > return y, t",
    ]


def body(*lines, header="def f(x: f32[4, 2], y: f32[4]) -> f32[4]:", last="return y"):
    return "\n".join([header, *(f"    {line}" for line in (*lines, last))])


WRONG = [
    ("", "line 1: expected a graph, got the end of the text"),
    ("B: Dim(1, 2)\n", "line 2: expected a graph, got the end of the text"),
    ("x = 1", "line 1: expected a graph or a dim like 'B: Dim(1, 64)'"),
    ("B: Dim(4, 2)\ndef f(): return ()", "line 1: Dim B: expected 0 <= min <= max"),
    ("B: Dim(1, 2.5)\ndef f(): return ()", "line 1: Dim B: max: expected int | None, got 2.5"),
    ("B: Dim(1, 2, 3, 4)\ndef f(): return ()", "line 1: Dim B: expected at most 3 arguments"),
    ("def f(x):\n  return x", "line 1: expected the type of x, got none"),
    ("def f(*x: f32[4]):\n  return x", "line 1: expected a graph like"),
    ("@f\ndef f():\n  return ()", "expected a graph like"),
    ("def f(): return ()\nx = 1", "line 2: expected a graph like"),
    ("def f(x: f32[4] = 3): return x", "line 1: expected a fact like 'param(\"up.weight\")'"),
    ("def f(x: f32[4] = param(3)): return x", "line 1: param: path: expected str, got 3"),
    ("def f(x: f32[4] = param(size=3)): return x", "line 1: param: expected attributes of path, "),
    (
        'def k(x: f32[4] = param("a")): return x\ndef f(): return ()',
        "line 1: expected facts on the last graph only, got some on k",
    ),
    ("def f(x: f32[4], x: f32[4]): return x", "line 1: expected a new name, got x, "),
    ("def f(exp: f32[4]): return exp", "line 1: expected a name for a value, got exp, "),
    (body("z = expp(x)"), "line 2: expected an op, got expp"),
    (body("z = exp(x).y()"), "line 2: expected an op, got exp(x).y"),
    (body("z = x"), "line 2: expected a node like 'y: f32[4] = exp(x)'"),
    (body("exp(x)"), "line 2: expected a node like"),
    (body("z = exp(q)"), "line 2: expected a value bound above, got q"),
    (body("z = exp(*x)"), "line 2: expected a value bound above, got *x"),
    (body("z = exp(x, **y)"), "line 2: exp: expected attributes of none, got None"),
    (body("y = exp(x)"), "line 2: expected a new name, got y, which is bound already"),
    (body("tanh = exp(x)"), "line 2: expected a name for a value, got tanh, which is reserved"),
    (body("f32 = exp(x)"), "line 2: expected a name for a value, got f32, which is reserved"),
    (body("z = sum(x)"), "line 2: sum: expected axes, got none"),
    (body("z = sum(x, axes=1)"), "line 2: sum: axes: expected tuple[int, ...], got 1"),
    (body("z = sum(x, axes=(B,))"), "line 2: sum: axes: expected tuple[int, ...], got (B,)"),
    (body("z = sum(x, axes=(7,))"), "line 2: sum: "),
    (body("z = sum(x, axes=(0,), axes=(0,))"), "line 2: sum: expected attributes twice, got axes"),
    (body("z = sum(x, axis=(0,))"), "line 2: sum: expected attributes of axes, got axis"),
    (body("z = cast(x, dtype=float)"), "line 2: cast: dtype: expected DType, got float"),
    (body("z = exp(x, y)"), "line 2: exp: "),
    (body("z = add(x, y)"), "line 2: add: "),
    (body("z: f32[4] = exp(x)"), "line 2: z is f32[4, 2], but written as f32[4]"),
    (body("z: f33[4] = exp(x)"), "line 2: expected a type like f32[B, 4], got f33[4]"),
    (body("z: f32[0.5] = exp(x)"), "line 2: expected a size, got 0.5"),
    (body("z: f32[4 // 0] = exp(x)"), "line 2: expected a size, got 4 // 0"),
    (body("z: f32[f32] = exp(x)"), "line 2: expected a size, got f32"),
    (body("z: f32[min(1, 2, 3)] = exp(x)"), "line 2: expected a size, got min(1, 2, 3)"),
    (body("z: f32[" + "9" * 30 + "] = exp(x)"), "line 2: expected integers of at most 64 bits"),
    (body("z = sum(x, axes=[0])"), "line 2: expected a number, text, dtype, size or type, got [0]"),
    (body("z = exp(x", last="return z"), "line 2: '(' was never closed"),
    (body(last="return x"), "line 1: f is f32[4, 2], but written as f32[4]"),
    (body(last="return x + y"), "line 2: expected a return of values at the end of the graph"),
    (body(last="return y, q"), "line 2: expected a value bound above, got q"),
    (body(last="z = exp(x)"), "line 2: expected a return"),
    ("def f():\n    return ()\n  x", "line 3: unindent does not match"),
    ("\0", "source code"),
    ("'\ud800'", "expected a program, got text with"),
    ("-" * 100_000 + "1", "expected a program, got text nested too deeply"),
    ("x: Dim(" + "-" * 2500 + "1)", "expected a program, got text nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_errors_point_at_what_is_wrong(text, message):
    with pytest.raises(ParseError) as e:
        parse(text)
    first, *rest = str(e.value).splitlines()
    assert message in first or first.startswith(message)
    if first.startswith("line"):
        number = int(first.split(":")[0].removeprefix("line "))
        assert rest[0] == "  " + text.split("\n")[number - 1]
        assert rest[1].strip() == "^"


def test_the_caret_counts_characters():
    with pytest.raises(ParseError) as e:
        parse("def f(é: f32[4]) -> f32[4]:\n\ty: f32[4] = exp(é, é, z)\n\treturn y\n")
    _, line, caret = str(e.value).splitlines()
    assert line[2:] == "\ty: f32[4] = exp(é, é, z)"
    assert caret.index("^") == line.index("z")
    assert caret[2] == "\t"


ALPHABET = "()[]{}:,.=*-+/%#'\"\\\n\t\r\x0c \x00é\u2028\ufb010aBinf_f32@~!<>&|^"
WORDS = ("inf", "nan", "None", "True", "param", "Dim", "call", "f32", "min(", "1e999", "lambda")


def mutated(text: str, rng: random.Random) -> str:
    """``text`` after a few random edits of the kind people and broken files make."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        j = min(j, i + 12)
        k = rng.randrange(len(text) + 1)
        edits = (
            text[:i] + text[j:],
            text[:i] + rng.choice(ALPHABET) + text[i:],
            text[:i] + rng.choice(WORDS) + text[j:],
            text[:k] + text[i:j] + text[k:],
            text[:i] + text[i:j] * 3 + text[j:],
        )
        text = rng.choice(edits)
    return text


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_broken_text_raises_parse_errors_only():
    rng = random.Random(0)
    wrong = 0
    for i in range(1500):
        text = mutated((MLP, PLACES)[i % 2], rng)
        try:
            p = parse(text)
        except ParseError:
            wrong += 1
        else:
            assert parse(show(p, loc=True)) == p
    assert 700 < wrong < 1500


def test_six_thousand_nodes_take_about_a_second():
    b = GraphBuilder()
    x = y = b.param("x", TensorType(f32, (4, B)))
    for i in range(3000):
        y = b.apply(Exp(), y, loc=Loc("train.py", i + 1, "blocks.0"))
        y = b.apply(Add(), x, y)
    p = Program((b.graph("f", [x], [y]),), (Dim("B"),))
    start = time.process_time()
    text = show(p, loc=True)
    shown = time.process_time()
    assert parse(text) == p
    assert shown - start < 1
    assert time.process_time() - shown < 4  # a shared machine


def test_calls_name_graphs_and_several_results():
    inner = GraphBuilder()
    a = inner.param("a", TensorType(f32, (4,)))
    pair = TupleType((a.tensor, a.tensor))
    k = inner.graph("k", [a], [a, inner.apply(Exp(), a)])
    b = GraphBuilder()
    x = b.param("x", a.tensor)
    t = b.apply(Call("k", pair, at=(B * 4, -1)), x)
    y = b.apply(REGISTRY["item"](1), t)
    p = Program((k, Graph("f", (x,), tuple(b.nodes), (y,))), (Dim("B"),))
    assert parse(show(p)) == p
    call = 'call_1: (f32[4], f32[4]) = call(x, graph="k", type=(f32[4], f32[4]), at=(4*B, -1))'
    assert call in show(p)


def test_complex_constants_round_trip():
    text = """
def f() -> c64[2]:
    y: c64[2] = full(shape=(2,), value=complex(-0.0, inf), dtype=c64)
    return y
"""
    program = parse(text)
    assert parse(show(program)) == program
    assert show(program).strip() == text.strip()
    with pytest.raises(ParseError, match="full: expected a value of f32"):
        parse(text.replace("c64", "f32"))


@pytest.mark.parametrize(
    ("call", "message"),
    [("sum(x, x, axes=(0,))", "sum: expected 1 operand, got 2"), ("gather(x, axis=0)", "got 1")],
)
def test_another_number_of_operands_is_refused(call, message):
    with pytest.raises(ParseError, match=message):
        parse(f"def f(x: f32[2]) -> f32[2]:\n    y = {call}\n    return y\n")
