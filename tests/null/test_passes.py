"""The pipeline: order, checks, observers, errors; and what passes do beyond their golden files."""

from itertools import pairwise

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.config import override
from vtc.errors import GradientError, PassError, VerifyError
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Graph, GraphBuilder, Loc, Program
from vtc.ir.ops.control import Gradient, Item
from vtc.ir.ops.elementwise import Exp, Mul, Neg
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.reduce import Sum
from vtc.ir.target import Target, cpu
from vtc.ir.text import parse, show
from vtc.ir.types import TensorType, f32
from vtc.passes import PIPELINE, joint, lowered
from vtc.passes.canonicalize import canonicalize
from vtc.passes.check import Check, difference, random_inputs
from vtc.passes.cost import elements, nbytes, nominal
from vtc.passes.cse import cse
from vtc.passes.dce import dce
from vtc.passes.decompose import decompose
from vtc.passes.differentiate import differentiate
from vtc.passes.fold import fold
from vtc.passes.pipeline import Context, Stage, pass_name, run

CONTEXT = Context()
SIMPLE = parse("def f(x: f32[4]) -> f32[4]:\n    a = exp(x)\n    b = exp(a)\n    return b\n")


def drop_outputs(program, context):
    entry = program.entry
    return program.with_entry(Graph(entry.name, entry.params, (), entry.outputs))


def change_value(program, context):
    return parse("def f(x: f32[4]) -> f32[4]:\n    b = neg(x)\n    return b\n")


def same(program, context):
    return program


def fail(program, context):
    raise ZeroDivisionError("oh")


def refuse(program, context):
    raise GradientError("sort: expected a differentiable op, got sort")


def test_stages_are_named_in_order():
    assert [s.name for s in PIPELINE] == ["captured", "joint", "lowered", "fused", "planned"]
    assert [pass_name(p) for p in PIPELINE[1].passes] == [
        "differentiate",
        "canonicalize",
        "fold",
        "cse",
        "dce",
    ]


def test_observers_see_every_pass_and_every_stage():
    steps = []
    after = run(SIMPLE, PIPELINE[:3], CONTEXT, observe=steps.append)
    assert [s.name for s in steps[:3]] == ["", "differentiate", "canonicalize"]
    assert {s.stage for s in steps} == {"captured", "joint", "lowered"}
    assert steps[0].before is steps[0].after is SIMPLE
    assert all(a.after is b.before for a, b in pairwise(steps))
    assert steps[-1].after is after
    assert all(s.seconds >= 0 for s in steps)


def test_a_pass_that_raises_is_named_and_its_input_kept():
    with pytest.raises(PassError) as info:
        run(SIMPLE, (Stage("joint", (same, fail)),), CONTEXT)
    assert str(info.value) == (
        "fail: expected pass 'fail' of stage 'joint' to finish, got ZeroDivisionError: oh"
    )
    assert info.value.program is SIMPLE
    assert isinstance(info.value.__cause__, ZeroDivisionError)


def test_a_pass_that_breaks_the_program_is_named():
    with pytest.raises(PassError, match=r"^drop_outputs: expected .* a sound program, got Verify"):
        run(SIMPLE, (Stage("joint", (drop_outputs,)),), CONTEXT)


def test_a_program_that_is_broken_from_the_start_is_no_pass_error():
    with pytest.raises(VerifyError):
        run(drop_outputs(SIMPLE, CONTEXT), PIPELINE, CONTEXT)


def test_nothing_is_verified_where_check_is_0():
    with override(check=0):
        assert run(SIMPLE, (Stage("joint", (drop_outputs,)),), CONTEXT).entry.nodes == ()


def test_a_gradient_that_does_not_exist_is_the_users_error():
    with pytest.raises(GradientError, match=r"^sort: ") as info:
        run(SIMPLE, (Stage("joint", (refuse,)),), CONTEXT)
    assert info.value.__notes__ == ["in pass 'refuse' of stage 'joint'"]


def test_a_pass_that_changes_the_value_is_found_by_check_2():
    stages = (Stage("joint", (change_value,)),)
    with override(check=1):
        run(SIMPLE, stages, CONTEXT)
    with (
        override(check=2),
        pytest.raises(PassError, match=r"^change_value: expected b to keep its value, got a rel"),
    ):
        run(SIMPLE, stages, CONTEXT)


def test_a_stage_promises_what_is_gone():
    marked = parse(
        "def f(x: f32[4]) -> f32[4]:\n    a = stop_gradient(x)\n    b = silu(a)\n    return b\n"
    )
    with pytest.raises(PassError, match="expected gradients to be taken by now, got StopGradient"):
        run(marked, (Stage("joint", (same,), joint),), CONTEXT)
    with pytest.raises(PassError, match="expected no composite that cpu does not keep, got Silu"):
        run(marked, (Stage("lowered", (canonicalize,), lowered),), CONTEXT)
    kept = Context(Target(name="toy", kind="cpu", keeps=frozenset({"silu"})))
    run(marked, (Stage("lowered", (canonicalize,), lowered),), kept)


def test_large_programs_are_not_evaluated():
    large = parse("def f(x: f32[4096, 4096]) -> f32[4096, 4096]:\n    a = exp(x)\n    return a\n")
    check = Check(large)
    check("any", large, SIMPLE)  # other inputs would not even fit


def test_inputs_the_program_refuses_are_let_through():
    refusing = parse(
        "def f(x: f32[1], i: i64[8]) -> f32[8]:\n    a = index(x, i, axes=(0,))\n    return a\n"
    )
    Check(refusing)("any", refusing, SIMPLE)


def test_difference_knows_what_is_not_a_number():
    nan, inf = np.array([np.nan, 1.0]), np.array([np.inf, 1.0])
    assert difference(nan, nan) == difference(inf, inf) == 0
    assert difference(nan, inf) == difference(inf, -inf) == np.inf
    assert difference(np.ones(2), np.array([1.0, np.nan])) == np.inf
    assert difference(np.ones(2), np.ones(3)) == np.inf
    assert difference(np.zeros((0,)), np.zeros((0,))) == 0
    assert difference(np.array([100.0]), np.array([101.0])) == pytest.approx(0.01)


def test_random_inputs_fit_the_params():
    p = parse(
        "B: Dim(1, 64)\ndef f(x: f32[B, 4], i: i64[B], m: bool[()]) -> f32[B, 4]:\n    return x\n"
    )
    x, i, m = random_inputs(p, nominal(p, 3), np.random.default_rng(0))
    assert (x.shape, i.shape, m.shape) == ((3, 4), (3,), ())
    assert (x.dtype, i.dtype, m.dtype) == (np.float32, np.int64, np.bool_)


@pytest.mark.parametrize(
    ("dim", "size"),
    [("Dim(1, 2)", 2), ("Dim(100, None)", 100), ("Dim(1, 64, 8)", 8), ("Dim(1, None)", 7)],
)
def test_a_nominal_size_lies_in_its_range(dim, size):
    p = parse(f"B: {dim}\ndef f(x: bf16[B, 4]) -> bf16[B, 4]:\n    return x\n")
    sizes = nominal(p, 7)
    assert sizes == {"B": size}
    assert elements(p.entry.params[0].type, sizes) == 4 * size
    assert nbytes(p.entry.params[0].type, sizes) == 8 * size


@pytest.mark.parametrize("one_pass", [differentiate, canonicalize, fold, cse, dce, decompose])
def test_a_pass_without_work_returns_the_same_program(one_pass):
    assert one_pass(SIMPLE, CONTEXT) is SIMPLE


def test_passes_keep_places():
    place = Loc("net.py", 7, "head")
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (4,)))
    b.loc = place
    y = Expr(b, x).op("silu").op("silu")
    p = Program((b.graph("f", (x,), (y.value,)),))
    after = run(p, PIPELINE[:3], CONTEXT)
    assert len(after.entry.nodes) > 6
    assert {n.loc for n in after.entry.nodes} == {place}


def test_nodes_of_a_gradient_lie_where_their_forward_lies():
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (4,)))
    a = b.apply(Exp(), x, hint="a", loc=Loc("net.py", 1))
    c = b.apply(Mul(), a, a, hint="c", loc=Loc("net.py", 2))
    s = b.apply(Sum(axes=(0,)), c, hint="s", loc=Loc("net.py", 3))
    g = b.apply(Gradient(), s, x)
    dx = b.apply(Item(0), g)
    after = differentiate(Program((b.graph("f", (x,), (dx,)),)), CONTEXT)
    lines = {n.name: n.loc.line for n in after.entry.nodes}
    assert (lines["d_s"], lines["d_c"], lines["d_a"], lines["d_x"]) == (3, 3, 2, 1)


def test_gradients_of_gradients():
    p = parse(
        "def f(x: f32[3]) -> (f32[3], f32[3], f32[3]):\n"
        "    a = exp(x)\n"
        "    b = mul(a, x)\n"
        "    y = sum(b, axes=(0,))\n"
        "    g = gradient(y, x)\n"
        "    dx = item(g, index=0)\n"
        "    z = sum(dx, axes=(0,))\n"
        "    h = gradient(z, x)\n"
        "    ddx = item(h, index=0)\n"
        "    w = sum(ddx, axes=(0,))\n"
        "    i = gradient(w, x)\n"
        "    dddx = item(i, index=0)\n"
        "    return dx, ddx, dddx\n"
    )
    x = np.array([0.5, -1.0, 2.0], np.float32)
    after = run(p, PIPELINE[:3], CONTEXT)
    for order, have in enumerate(evaluate(after, x), start=1):  # d^n (x e^x) = (x + n) e^x
        np.testing.assert_allclose(have, (x + order) * np.exp(x), rtol=1e-5)


def test_gradients_in_callees_are_expanded_too():
    p = parse(
        "def inner(x: f32[3]) -> f32[3]:\n"
        "    a = mul(x, x)\n"
        "    y = sum(a, axes=(0,))\n"
        "    g = gradient(y, x)\n"
        "    dx = item(g, index=0)\n"
        "    return dx\n"
        "\n"
        "def f(x: f32[3]) -> f32[3]:\n"
        '    r = call(x, graph="inner", type=f32[3])\n'
        "    return r\n"
    )
    (have,) = evaluate(run(p, PIPELINE[:3], CONTEXT), np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(have, [0, 2, 4])


def test_what_is_built_twice_is_built_once():
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (4,)))
    twice = [b.apply(Neg(), b.apply(Exp(), x)) for _ in range(2)]
    p = Program((b.graph("f", (x,), twice),))
    assert len(cse(p, CONTEXT).entry.nodes) == 2


def test_a_target_is_a_value():
    assert cpu() == cpu()
    assert cpu(vector=64) != cpu()
    assert cpu().keeps == {"attention_gradient", "scaled_dot_product_attention"}
    assert show(SIMPLE) == show(run(SIMPLE, (), CONTEXT))
