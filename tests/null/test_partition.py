"""Cutting a joint program in two: what is saved, and that the halves compute what the whole did."""

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import VerifyError
from vtc.ir.evaluate import evaluate
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.check import random_inputs
from vtc.passes.cost import nominal
from vtc.passes.partition import partition
from vtc.passes.pipeline import Context, Options, run

CONTEXT = Context()


def cut(text, outputs=1, tangents=1, context=CONTEXT):
    """The pair of a captured program, after it was checked against the whole."""
    whole = run(parse(text), PIPELINE[:2], context)
    pair = partition(whole, outputs, tangents, context)
    verify(pair.forward)
    verify(pair.backward)
    arrays = random_inputs(whole, nominal(whole, 3), np.random.default_rng(0))
    count = len(arrays) - tangents
    results = evaluate(pair.forward, *arrays[:count])
    back = evaluate(pair.backward, *pair.arguments(arrays[:count], results, arrays[count:]))
    have = (*results[:outputs], *back)
    for a, b in zip(evaluate(whole, *arrays), have, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return pair


def ops(program):
    return [n.op.name for n in program.entry.nodes]


def test_a_product_needs_its_operands():
    pair = cut(
        "def f(x: f32[3, 4], w: f32[4, 5], d_y: f32[3, 5]) -> (f32[3, 5], f32[3, 4], f32[4, 5]):\n"
        "    y = matmul(x, w)\n"
        "    g = gradient(y, d_y, x, w, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    dw = item(g, index=1)\n"
        "    return y, dx, dw\n"
    )
    assert pair.saved == ("x", "w")
    assert show(pair.forward) == (
        "def f_forward(x: f32[3, 4], w: f32[4, 5]) -> f32[3, 5]:\n"
        "    y: f32[3, 5] = matmul(x, w)\n"
        "    return y\n"
    )
    assert show(pair.backward) == (
        "def f_backward(x: f32[3, 4], w: f32[4, 5], d_y: f32[3, 5]) -> (f32[3, 4], f32[4, 5]):\n"
        "    d_x: f32[3, 4] = matmul(d_y, w, transpose_y=True)\n"
        "    d_w: f32[4, 5] = matmul(x, d_y, transpose_x=True)\n"
        "    return d_x, d_w\n"
    )


def test_elementwise_values_are_computed_again():
    pair = cut(
        "def f(x: f32[3, 4], w: f32[4, 5], d_y: f32[3, 5]) -> (f32[3, 5], f32[4, 5]):\n"
        "    h = matmul(x, w)\n"
        "    a = sin(h)\n"
        "    b = exp(a)\n"
        "    y = cos(b)\n"
        "    g = gradient(y, d_y, w, seeded=True)\n"
        "    dw = item(g, index=0)\n"
        "    return y, dw\n"
    )
    assert pair.saved == ("x", "h")
    assert "exp" in ops(pair.backward)
    assert "matmul" not in ops(pair.backward)[:-1]


def test_the_narrowest_place_is_cut():
    pair = cut(
        "def f(x: f32[8, 8], w: f32[8, 8], d_y: f32[8, 8]) -> (f32[8, 8], f32[8, 8]):\n"
        "    h = matmul(x, w)\n"
        "    n = cast(h, dtype=bf16)\n"
        "    a = cast(n, dtype=f32)\n"
        "    y = sin(a)\n"
        "    g = gradient(y, d_y, w, seeded=True)\n"
        "    dw = item(g, index=0)\n"
        "    return y, dw\n"
    )
    assert pair.saved == ("x", "n")


def test_random_numbers_are_saved_as_the_mask_they_make():
    pair = cut(
        "def f(x: f32[4], state: i64[2], d_y: f32[4]) -> (f32[4], f32[4]):\n"
        "    u = uniform(state, shape=(4,), dtype=f32, offset=0)\n"
        "    half = full(shape=(4,), value=0.5, dtype=f32)\n"
        "    keep = lt(u, half)\n"
        "    zero = full(shape=(4,), value=0.0, dtype=f32)\n"
        "    y = where(keep, x, zero)\n"
        "    g = gradient(y, d_y, x, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    return y, dx\n"
    )
    assert pair.saved == ("keep",)
    assert "uniform" not in ops(pair.backward)


def test_norms_save_their_statistics():
    pair = cut(
        "def f(x: f32[4, 64], w: f32[64], v: f32[64, 64], d_y: f32[4, 64])"
        " -> (f32[4, 64], f32[4, 64], f32[64], f32[64, 64]):\n"
        "    h = rms_norm(x, w, count=1, eps=1e-06)\n"
        "    y = matmul(h, v)\n"
        "    g = gradient(y, d_y, x, w, v, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    dw = item(g, index=1)\n"
        "    dv = item(g, index=2)\n"
        "    return y, dx, dw, dv\n"
    )
    forward = pair.forward.entry
    assert {p.name for p in forward.params} - {"w"} < set(pair.saved)
    assert [str(o.type) for o in forward.outputs[1:]] == ["f32[4]"]


def test_attention_saves_no_scores():
    pair = cut(
        "def f(q: f32[8, 2], k: f32[8, 2], v: f32[8, 2], d_y: f32[8, 2])"
        " -> (f32[8, 2], f32[8, 2]):\n"
        "    t = scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)\n"
        "    y = item(t, index=0)\n"
        "    g = gradient(y, d_y, q, seeded=True)\n"
        "    dq = item(g, index=0)\n"
        "    return y, dq\n"
    )
    assert set(pair.saved) >= {"q", "k", "v", "y"}
    assert all(o.type.rank < 2 or o.name == "y" for o in pair.forward.entry.outputs)


def test_what_is_an_output_is_not_returned_twice():
    pair = cut(
        "def f(x: f32[4], d_y: f32[4]) -> (f32[4], f32[4]):\n"
        "    s = sum(x, axes=(0,))\n"
        "    w = expand(s, axes=(0,), sizes=(4,))\n"
        "    e = mul(x, w)\n"
        "    y = exp(e)\n"
        "    g = gradient(y, d_y, x, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    return y, dx\n"
    )
    names = [o.name for o in pair.forward.entry.outputs]
    assert len(names) == len(set(names))


def test_a_param_that_is_overwritten_is_saved_by_value():
    pair = cut(
        "def f(x: f32[4], m: f32[4] = param(overwritten=1), d_y: f32[4] = param())"
        " -> (f32[4], f32[4], f32[4]):\n"
        "    y = mul(x, m)\n"
        "    n = add(m, x)\n"
        "    g = gradient(y, d_y, x, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    return y, n, dx\n",
        outputs=2,
    )
    assert [o.name for o in pair.forward.entry.outputs] == ["y", "n", "m"]
    assert pair.forward.facts[1].overwritten == 1
    assert all(f.overwritten is None for f in pair.backward.facts)


def test_symbols_are_bound_by_a_param_of_backward():
    pair = cut(
        "B: Dim(1, 64)\n"
        "def f(x: f32[B, 4], d_y: f32[()]) -> (f32[()], f32[B, 4]):\n"
        "    y = sum(x, axes=(0, 1))\n"
        "    g = gradient(y, d_y, x, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    return y, dx\n"
    )
    assert pair.saved == ("x",)


def test_the_nominal_size_decides_between_symbolic_and_static_sizes():
    text = (
        "B: Dim(1, None)\n"
        "def f(x: f32[B, 8], w: f32[8, 1], d_y: f32[B, 100]) -> (f32[B, 100], f32[8, 1]):\n"
        "    h = matmul(x, w)\n"
        "    r = reshape(h, shape=(B,))\n"
        "    a = expand(r, axes=(1,), sizes=(100,))\n"
        "    y = exp(a)\n"
        "    g = gradient(y, d_y, w, seeded=True)\n"
        "    dw = item(g, index=0)\n"
        "    return y, dw\n"
    )
    for size in (1, 1000):
        pair = cut(text, context=Context(options=Options(nominal=size)))
        wide = [o for o in pair.forward.entry.outputs[1:] if o.type.rank == 2]
        assert not any(o.type.shape[1] == 100 for o in wide)


def test_gradients_that_need_no_tangent():
    pair = cut(
        "def f(x: f32[4], w: f32[4], d_y: f32[4]) -> (f32[4], f32[4], f32[4]):\n"
        "    y = exp(x)\n"
        "    g = gradient(y, d_y, x, w, seeded=True)\n"
        "    dx = item(g, index=0)\n"
        "    dw = item(g, index=1)\n"
        "    return y, dx, dw\n"
    )
    assert "full" in ops(pair.backward)


def test_no_tangents_and_no_gradients():
    pair = cut("def f(x: f32[4]) -> f32[4]:\n    y = exp(x)\n    return y\n", tangents=0)
    assert pair.saved == ()
    assert pair.backward.entry.outputs == ()


def test_an_output_that_needs_a_tangent_is_refused():
    p = parse("def f(x: f32[4], d_y: f32[4]) -> f32[4]:\n    y = mul(x, d_y)\n    return y\n")
    with pytest.raises(VerifyError, match=r"^partition: expected outputs that need no tangents"):
        partition(p, 1, 1, CONTEXT)
