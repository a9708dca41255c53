"""The rewrite engine: peepholes, patterns, names, fixpoints, cost."""

import time

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import PassError
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Loc, Program
from vtc.ir.op import Pointwise
from vtc.ir.ops.elementwise import Add, Div, Exp, Mul, Neg, Sub, Tanh
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.fill import Full
from vtc.ir.ops.reduce import Max, Sum
from vtc.ir.ops.view import Expand
from vtc.ir.rules import anything, either_way, match, of, rewrite, rule, spelled
from vtc.ir.text import parse, show
from vtc.ir.types import TensorType, f32
from vtc.ir.verify import verify

V4 = TensorType(f32, (4,))


@rule(Neg)
def double_negation(b, node, inputs):
    (x,) = inputs
    return x.inputs[0] if isinstance(x.op, Neg) else None


@rule(Sub)
def subtraction_is_addition(b, node, inputs):
    x, y = inputs
    return b.apply(Add(), x, b.apply(Neg(), y))


@rule(Mul)
def twice(b, node, inputs):
    x, y = inputs
    return (Expr(b, x) + Expr(b, x)).value if isinstance(y.op, Full) and y.op.value == 2 else None


x = anything()
top = of(Max, x)
e = of(Exp, of(Sub, x, of(Expand, top)))
total = of(Sum, e)


@spelled(of(Div, e, of(Expand, total)))
def softmax(b, m):
    """Into something of the same type: this engine does not know softmax."""
    return b.apply(Tanh(), m[x]) if m.op(total).axes == m.op(top).axes else None


SOFTMAX = """\
def f(a: f32[3, 4]) -> f32[3, 4]:
    m: f32[3] = max(a, axes=(1,))
    wide: f32[3, 4] = expand(m, axes=(1,), sizes=(4,))
    d: f32[3, 4] = sub(a, wide)
    p: f32[3, 4] = exp(d)
    s: f32[3] = sum(p, axes=(1,))
    n: f32[3, 4] = expand(s, axes=(1,), sizes=(4,))
    y: f32[3, 4] = div(p, n)  # train.py:3
    z: f32[3, 4] = neg(y)
    return z
"""


def after(text, *rules):
    p = parse(text)
    q = p.with_entry(rewrite(p.entry, rules))
    verify(q)
    return q


def shown(text, *rules):
    """The body after the rules, without types."""
    lines = show(after(text, *rules), loc=True).splitlines()[1:]
    return [line.strip().replace(": f32[4]", "").replace(": f32[3, 4]", "") for line in lines]


def vector(*lines, last):
    body = "".join(f"    {line}\n" for line in (*lines, f"return {last}"))
    return "def f(x: f32[4], y: f32[4]):\n" + body


def test_a_chain_falls_in_one_sweep():
    names = [f"n{i}" for i in range(9)]
    lines = [f"{n} = neg({i})" for n, i in zip(names, ["x", *names], strict=False)]
    assert shown(vector(*lines, last="n7, n8"), double_negation) == ["n8 = neg(x)", "return x, n8"]


def test_what_a_rule_records_goes_through_the_rules():
    text = vector("a = neg(y)", "d = sub(x, a)", "t = tanh(d)", last="t")
    assert shown(text, double_negation, subtraction_is_addition) == [
        "d = add(x, y)",
        "t = tanh(d)",
        "return t",
    ]


def test_replacements_take_name_and_place():
    text = vector("neg_1 = exp(x)", "d = sub(neg_1, y)  # a.py:7 up", last="d, neg_1")
    assert shown(text, subtraction_is_addition) == [
        "neg_1 = exp(x)",
        "neg_2 = neg(y)  # a.py:7 up",
        "d = add(neg_1, neg_2)  # a.py:7 up",
        "return d, neg_1",
    ]


def test_rules_may_speak_in_expressions():
    text = vector("two = full(shape=(4,), value=2.0, dtype=f32)", "d = mul(x, two)", last="d")
    assert shown(text, twice) == ["d = add(x, x)", "return d"]


def test_the_meaning_is_kept():
    text = vector("a = neg(y)", "d = sub(x, a)", "q = neg(d)", "r = neg(q)", last="r, q")
    p, q = parse(text), after(text, double_negation, subtraction_is_addition)
    arrays = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    for want, have in zip(evaluate(p, *arrays), evaluate(q, *arrays), strict=True):
        np.testing.assert_array_equal(want, have)


def test_the_same_graph_comes_back_when_nothing_applies():
    g = parse(vector("d = add(x, y)", "unused = exp(x)", last="d")).entry
    assert rewrite(g, (double_negation, subtraction_is_addition)) is g
    assert rewrite(g, ()) is g


def test_outputs_may_become_params():
    text = vector("a = neg(x)", "b = neg(a)", last="b, b")
    assert shown(text, double_negation) == ["return x, x"]


def test_earlier_rules_win_and_roots_may_be_abstract():
    @rule(Pointwise)
    def gone(b, node, inputs):
        return inputs[0]

    text = vector("a = neg(x)", "b = exp(a)", last="b")
    assert shown(text, gone) == ["return x"]

    @rule(Exp)
    def kept(b, node, inputs):
        return b.apply(Tanh(), *inputs)

    assert shown(text, kept) == ["a = neg(x)", "b = tanh(a)", "return b"]


def test_patterns_find_what_is_spelled_over_many_nodes():
    assert shown(SOFTMAX, softmax) == ["y = tanh(a)  # train.py:3", "z = neg(y)", "return z"]


@pytest.mark.parametrize("outside", ["m", "d", "p", "s"])
def test_patterns_leave_what_is_used_outside(outside):
    g = parse(SOFTMAX.replace("-> f32[3, 4]", "").replace("return z", f"return z, {outside}")).entry
    assert rewrite(g, (softmax,)) is g

    @spelled(of(Div, e, of(Expand, total)), shared=True)
    def anyway(b, m):
        return softmax_of(b, m)

    def softmax_of(b, m):
        return b.apply(Tanh(), m[x])

    assert any(n.op == Tanh() for n in rewrite(g, (anyway,)).nodes)


def test_uses_that_die_stop_counting():
    """The second user of ``p`` is replaced first, which frees the pattern."""

    @rule(Mul)
    def first_factor(b, node, inputs):
        return b.apply(Neg(), b.apply(Neg(), inputs[1]))

    text = SOFTMAX.replace("    z:", "    q: f32[3, 4] = mul(p, y)\n    z:")
    text = text.replace("neg(y)", "neg(q)")
    assert "tanh" not in show(after(text))
    assert shown(text, first_factor, double_negation, softmax) == [
        "y = tanh(a)  # train.py:3",
        "z = neg(y)",
        "return z",
    ]


def test_one_pattern_is_one_value():
    a = anything()
    square = of(Mul, a, a)
    b = GraphBuilder()
    p, q = b.param("p", V4), b.param("q", V4)
    assert match(square, b.apply(Mul(), p, q)) is None
    found = match(square, b.apply(Mul(), p, p))
    assert found is not None
    assert found[a] is p
    assert found.inside == []


def test_either_way_tries_again_when_a_later_part_fails():
    a, c = anything(), anything()
    pattern = of(Sub, either_way(Add, a, c), a)
    b = GraphBuilder()
    p, q = b.param("p", V4), b.param("q", V4)
    total = b.apply(Add(), p, q)
    for taken, left in ((p, q), (q, p)):
        found = match(pattern, b.apply(Sub(), total, taken))
        assert found is not None
        assert (found[a], found[c]) == (taken, left)
        assert found.inside == [total]
    assert match(pattern, b.apply(Sub(), total, total)) is None


def test_attributes_select():
    b = GraphBuilder()
    m = b.param("m", TensorType(f32, (2, 3)))
    s = b.apply(Sum((1,)), m)
    assert match(of(Sum, axes=(1,)), s) is not None
    assert match(of(Sum, axes=(0,)), s) is None
    assert match(of(Sum, anything(), anything()), s) is None


@rule(Add)
def swap(b, node, inputs):
    return b.apply(Add(), *inputs[::-1])


def test_rules_that_undo_each_other_are_named():
    with pytest.raises(PassError, match="rules that come to an end, got swap without one"):
        after(vector("a = add(x, y)", last="a"), swap)


def test_rules_that_need_ever_more_sweeps_are_named():
    sweeps = []

    @rule(Exp)
    def once_a_sweep(b, node, inputs):
        if b in sweeps:
            return None
        sweeps.append(b)
        return b.apply(Exp(), *inputs)

    with pytest.raises(PassError, match="in 16 sweeps, got once_a_sweep still at work"):
        after(vector("a = exp(x)", last="a"), once_a_sweep)


def test_a_replacement_keeps_the_type():
    @rule(Exp)
    def wrong(b, node, inputs):
        return b.apply(Sum((0,)), *inputs)

    with pytest.raises(PassError) as error:
        after(vector("a = exp(x)", last="a"), wrong)
    assert str(error.value) == "wrong: expected f32[4], got f32[()] for a: f32[4] = exp(x)"


def test_a_rule_uses_values_of_the_sweep():
    stray = GraphBuilder().param("stray", V4)

    @rule(Exp)
    def wrong(b, node, inputs):
        return b.apply(Neg(), stray)

    with pytest.raises(PassError, match="expected inputs made by the sweep, got stray: f32"):
        after(vector("a = exp(x)", last="a"), wrong)


def test_the_cost_is_linear():
    def seconds(count):
        b = GraphBuilder()
        first = y = b.param("x", V4)
        for i in range(count):
            y = b.apply(Neg(), b.apply(Neg(), b.apply(Exp(), y)), loc=Loc("a.py", i))
        graph = Program((b.graph("f", [first], [y]),)).entry
        start = time.process_time()
        rewritten = rewrite(graph, (double_negation, subtraction_is_addition, twice, softmax))
        assert len(rewritten.nodes) == count
        return time.process_time() - start

    small, large = (min(seconds(count) for _ in range(3)) for count in (500, 4000))
    assert large < 40 * max(small, 0.005)  # 8 times the nodes; quadratic would be 64
