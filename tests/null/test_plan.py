"""Plans as data: what prints, serialises and comes back; what is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtc.errors import ParseError
from vtc.ir.dims import Dim, Sym, floordiv, maximum, minimum, mod, parse_size
from vtc.ir.plan import (
    Arena,
    Buffer,
    Build,
    Copy,
    Input,
    Kernel,
    Launch,
    Output,
    Plan,
    check,
)
from vtc.ir.saved import from_json, to_json
from vtc.ir.types import bf16, f32, i64

B, T = Sym.var("B"), Sym.var("T")
BUILD = Build(("*fp32", "*fp32", "i64"), warps=8, stages=2, checks=True)
GPU = Kernel("k1", "vtc_k1", "import triton\n", "", BUILD)
PLAN = Plan(
    name="mlp",
    dims=(Dim("B", 1, 64), Dim("T", 0, None, 8)),
    inputs=(
        Buffer(f32, (B, 784), "x"),
        Buffer(bf16, (784, 10), "up.weight", overwritten=1),
        Buffer(i64, (T,)),
    ),
    outputs=(Buffer(f32, (B, 10)), Buffer(bf16, (784, 10))),
    arena=64 * B * T + 4096,
    kernels=(
        Kernel("k0", "vtc_k0", 'void vtc_k0(void);\n// "quoted" \u2713\n', "mlp.py:14 up"),
        GPU,
    ),
    steps=(
        Launch("k0", (Input(0), Input(1), Arena(0)), (B, (B * T) // 3), "mlp.py:14 up", 8 * B),
        Launch("k0", (Arena(0), Output(1), Arena(64 * B))),
        Launch("k1", (Arena(0), Output(1)), (B,), grid=(floordiv(B + 3, 4), 1)),
        Copy(Arena(4096), Output(0), 40 * B),
    ),
    host="int vtc_run;",
)
TEXT = """\
plan mlp
  B: Dim(1, 64)
  T: Dim(0, None, 8)
  in0 x: f32[B, 784]
  in1 up.weight: bf16[784, 10], overwritten by out1
  in2: i64[T]
  out0: f32[B, 10]
  out1: bf16[784, 10]
  arena: 64*B*T + 4096 bytes
  0: k0(in0, in1, arena+0; B, ((B*T)//3))  # mlp.py:14 up
  1: k0(arena+0, out1, arena+(64*B))
  2: k1(arena+0, out1; B) on ((B + 3)//4) x 1
  3: copy arena+4096 -> out0, 40*B bytes"""


def test_it_prints():
    assert str(PLAN) == TEXT


def test_it_comes_back():
    assert from_json(to_json(PLAN)) == PLAN
    assert to_json(from_json(to_json(PLAN))) == to_json(PLAN)


def test_an_empty_plan_comes_back():
    plan = Plan("nothing", (), (), (), 0, (), ())
    assert from_json(to_json(plan)) == plan


BROKEN = {
    "kernel": replace(PLAN, steps=(Launch("k9", ()),)),
    "input": replace(PLAN, steps=(Launch("k0", (Input(3),)),)),
    "negative input": replace(PLAN, steps=(Launch("k0", (Input(-1),)),)),
    "output": replace(PLAN, steps=(Copy(Output(2), Output(0), 4),)),
    "arena": replace(PLAN, arena=64, steps=(Copy(Arena(128), Output(0), 4),)),
    "copy beyond the arena": replace(PLAN, arena=64, steps=(Copy(Arena(32), Output(0), 64),)),
    "copy beyond an output": replace(PLAN, steps=(Copy(Arena(0), Output(1), 15681),)),
    "negative offset": replace(PLAN, steps=(Copy(Arena(-64), Output(0), 4),)),
    "unknown dim in a size": replace(PLAN, steps=(Launch("k0", (), (Sym.var("N"),)),)),
    "unknown dim in a grid": replace(PLAN, steps=(Launch("k1", (), grid=(Sym.var("N"),)),)),
    "unknown dim in a shape": replace(PLAN, outputs=(Buffer(f32, (Sym.var("N"),)),) * 2),
    "unknown dim in the arena": replace(PLAN, arena=Sym.var("N")),
    "a dim no input has": replace(PLAN, dims=(*PLAN.dims, Dim("N"))),
    "dims twice": replace(PLAN, dims=PLAN.dims * 2),
    "kernels twice": replace(PLAN, kernels=PLAN.kernels * 2),
    "no such overwriting output": replace(PLAN, inputs=(Buffer(f32, (B, T), "x", 5),)),
    "another type overwrites": replace(PLAN, inputs=(Buffer(f32, (B, T), "x", 1),)),
    "one output overwrites two": replace(
        PLAN, inputs=(*PLAN.inputs, Buffer(bf16, (784, 10), "b", 1))
    ),
}
MESSAGES = {
    "kernel": "plan mlp, step 0: expected a kernel, got 'k9'",
    "input": "plan mlp, step 0: expected memory of the plan, got in3",
    "negative input": "expected memory of the plan, got in-1",
    "output": "expected memory of the plan, got 4 bytes at out2",
    "arena": r"expected memory of the plan, got 4 bytes at arena\+128",
    "copy beyond the arena": r"expected memory of the plan, got 64 bytes at arena\+32",
    "copy beyond an output": "expected memory of the plan, got 15681 bytes at out1",
    "negative offset": "expected a size of at least 0, got -64",
    "unknown dim in a size": "expected a declared dim, got N in size N",
    "unknown dim in a grid": "expected a declared dim, got N in size N",
    "unknown dim in a shape": "expected a declared dim, got N in size N",
    "unknown dim in the arena": "expected a declared dim, got N in size N",
    "a dim no input has": "expected an input axis of size N, got none",
    "dims twice": "expected distinct names, got dim 'B' twice",
    "kernels twice": "expected distinct names, got kernel 'k0' twice",
    "no such overwriting output": "in0: expected an output, got out5",
    "another type overwrites": r"out1 overwrites in0: expected f32\[B, T\], got bf16\[784, 10\]",
    "one output overwrites two": "got overwriting output '1' twice",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plan_is_refused(what):
    with pytest.raises(ParseError, match=MESSAGES[what]):
        check(BROKEN[what])
    with pytest.raises(ParseError, match=MESSAGES[what]):
        from_json(to_json(BROKEN[what]))


def changed(**fields):
    return json.dumps({**json.loads(to_json(PLAN)), **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected format 4, got 'list'"),
        ("{}", "expected format 4, got None"),
        (changed(format=1), "expected format 4, got 1"),
        (changed(name=3), "expected text, got 3"),
        (changed(dims={}), "expected a list, got {}"),
        (changed(dims=[["B", 1]]), "expected a dim"),
        (changed(dims=[["B", 1, 0, 1]]), "expected 0 <= min <= max"),
        (changed(inputs=[["f33", [], "", None]]), 'expected a dtype, got "f33"'),
        (changed(inputs=[[["f32"], [], "", None]]), "expected a dtype"),
        (changed(arena=1.5), "expected a size, got 1.5"),
        (changed(arena=True), "expected a size, got true"),
        (changed(arena="B.real"), "expected a size, got 'B.real'"),
        (changed(kernels=[["k0", "a b", "", "", None]]), 'expected a symbol, got "a b"'),
        (changed(steps=[["jump"]]), "expected a launch, a copy, a loop or a branch"),
        (changed(steps=[["copy", ["heap", 0], ["in", 0], 4]]), "expected in, out, arena or moving"),
        (changed(steps=[["copy", ["in", "0"], ["in", 0], 4]]), "expected an integer"),
        (changed(steps=["x" * 100]), r"xxx\.\.\."),
    ],
)
def test_what_is_no_plan_is_refused(text, message):
    with pytest.raises(ParseError, match=message):
        from_json(text)


def sizes():
    leaves = st.integers(-3, 70) | st.sampled_from([B, T, Sym.var("n_1")])

    def grow(inner):
        divisors = st.integers(1, 9) | st.sampled_from([B, B + 1, 2 * T])
        return st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: a - b, inner, inner),
            st.builds(lambda a, b: a * b, inner, inner),
            st.builds(floordiv, inner, divisors),
            st.builds(mod, inner, divisors),
            st.builds(minimum, inner, inner),
            st.builds(maximum, inner, inner),
        )

    return st.recursive(leaves, grow, max_leaves=6)


@given(sizes())
def test_sizes_come_back(size):
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    "text", ["", "B +", "B.x", "f(B)", "min(B)", "max(B, 1, 2)", "1.5", "True", "'B'", "B / 2"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ParseError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1 // 0", "1 % 0"])
def test_a_division_by_zero_is_no_size(text):
    with pytest.raises(ParseError, match="expected a size"):
        parse_size(text)
