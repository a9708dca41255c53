"""Values that are put one after another are computed where they are to lie."""

import pytest
from test_memory import judge, planned

from vtc.codegen.cuda import generate
from vtc.ir.ops.control import Call
from vtc.ir.ops.pieces import pieces
from vtc.ir.target import cuda
from vtc.ir.text import parse

HEAD = "x: f32[4, 16], w: f32[16, 16], v: f32[16, 16]"


def program(*lines, result="y, s", types="(f32[8, 16], f32[8, 16])"):
    body = "".join(f"    {line}\n" for line in lines)
    return parse(f"def f({HEAD}) -> {types}:\n{body}    return {result}\n")


PARTS = "q = matmul(x, w)", "k = matmul(x, v)"
READ = "y = matmul(r, w)", "s = matmul(r, v)"


def places(program):
    """Where each result lies, by name."""
    calls = [n for n in planned(program).entry.nodes if isinstance(n.op, Call)]
    return {n.name: n.op.at[0] for n in calls if len(n.op.at) == 1}


def test_parts_lie_in_the_whole():
    joined = program(*PARTS, "r = concat(q, k, axis=0)", *READ)
    at = places(joined)
    assert (at["q"], at["k"]) == (at["r"], at["r"] + 256)
    assert judge(joined).launches == 4  # four products: none joins


def test_a_plan_has_no_step_for_it():
    joined = program(*PARTS, "r = concat(q, k, axis=0)", *READ)
    assert len(generate(planned(joined), cuda()).steps) == 4


def test_axes_of_size_one_may_come_before():
    lines = "a = reshape(q, shape=(1, 4, 16))", "b = reshape(k, shape=(1, 4, 16))"
    joined = program(
        *PARTS, *lines, "c = concat(a, b, axis=1)", "r = reshape(c, shape=(8, 16))", *READ
    )
    assert judge(joined).launches == 4


@pytest.mark.parametrize(
    "lines",
    [
        (*PARTS, "c = concat(q, k, axis=1)", "r = reshape(c, shape=(8, 16))"),  # not whole
        ("q = matmul(x, w)", "r = concat(q, x, axis=0)"),  # a param
        ("q = matmul(x, w)", "r = concat(q, q, axis=0)"),  # twice the same
        (*PARTS, "t = exp(q)", "r = concat(t, k, axis=0)", "u = mul(q, q)"),
    ],
)
def test_what_else_is_joined_is_right(lines):
    judge(program(*lines, *READ))


def test_a_part_that_is_an_output_stays_one():
    lines = *PARTS, "r = concat(q, k, axis=0)", *READ
    joined = program(*lines, result="y, s, q", types="(f32[8, 16], f32[8, 16], f32[4, 16])")
    assert judge(joined).launches == 5


def test_a_part_may_be_read_later():
    lines = *PARTS, "r = concat(q, k, axis=0)", "y = matmul(r, w)", "z = matmul(r, v)"
    more = "p = matmul(q, v)", "t = concat(p, p, axis=0)", "s = add(z, t)"
    assert judge(program(*lines, *more)).launches >= 5


def test_a_part_that_waits_for_long_does_not_hold_the_whole():
    wait = [f"k{n + 1} = matmul(k{n}, w)" for n in range(6)]
    lines = "q = matmul(x, w)", "k0 = matmul(q, v)", *wait
    joined = program(*lines, "r = concat(q, k6, axis=0)", *READ)
    at = places(joined)
    assert at["q"] != at["r"]


def test_offsets_are_bytes():
    three = "p: f32[2, 4], q: f32[3, 4], r: f32[1, 4]"
    two = "p: f32[1, 4], q: f32[1, 4]"
    for params, of, order, axis, want in (
        (three, "p, q, r", "f32[6, 4]", 0, (0, 32, 80)),
        (three, "q, p, r", "f32[6, 4]", 0, (48, 0, 80)),
        (two, "p, q", "f32[1, 8]", 1, (0, 16)),
        ("p: f32[2, 4], q: f32[2, 4]", "p, q", "f32[2, 8]", 1, ()),
        (two, "p, p", "f32[2, 4]", 0, ()),
        ("p: f32[1, 4]", "p", "f32[1, 4]", 0, ()),
    ):
        body = f"    whole = concat({of}, axis={axis})\n    return whole\n"
        assert pieces(parse(f"def f({params}) -> {order}:\n{body}").entry) == want
