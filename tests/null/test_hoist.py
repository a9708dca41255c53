"""What is taken out of loops: gradients of layers, what is said of it, rounding."""

import re

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.config import override
from vtc.ir.text import parse
from vtc.passes.hoist import hoisted
from vtc.passes.pipeline import Context, Options

RNG = np.random.default_rng(0)

WIDE = """
B: Dim(1, 1024)
def step(c: f32[4, 4], d: f32[B, 4], x: f32[B, 4], w: f32[4, 4]) -> (f32[4, 4], f32[B, 4]):
    p: f32[B, 4] = matmul(x, w)
    q: f32[B, 4] = mul(p, d)
    r: f32[4, 4] = matmul(x, q, transpose_x=True)
    s: f32[4, 4] = add(c, r)
    return s, q

def f(c: f32[4, 4], d: f32[B, 4], xs: f32[8, B, 4], w: f32[4, 4]) -> f32[4, 4]:
    t: (f32[4, 4], f32[B, 4]) = for_loop(c, d, xs, w, body="step", length=8, carried=2, sliced=1, stacked=())
    s: f32[4, 4] = item(t, index=0)
    return s
"""  # noqa: E501


def normal(*shape):
    return vtc.from_numpy(RNG.normal(size=shape).astype(np.float32) / 2)


def loops(text):
    """How many values each loop of a program carries."""
    return [int(n) for n in re.findall(r"for_loop\(.*carried=(\d+)", text)]


def training_step(layer):
    @vtc.compile
    def run(x):
        loss = layer(x)[0].square().sum()
        loss.backward()
        return loss

    return run


@pytest.mark.parametrize(("name", "states"), [("LSTM", 2), ("GRU", 1), ("RNN", 1)])
def test_loops_of_layers_carry_states_alone(name, states):
    lowered = training_step(getattr(nn, name)(3, 8)).lower(vtc.ones(16, 2, 3))
    assert loops(lowered.ir("joint")) == [states, states + 2]
    assert loops(lowered.ir("lowered")) == [states, states]


def test_loops_of_lengths_that_vary_too():
    @vtc.compile(dynamic=True)
    def run(w, h, xs):
        return vtc.grad(rnn)(w, h, xs)

    lowered = run.lower(normal(6, 6), normal(2, 6), normal(4, 2, 6))
    assert re.search(r"length=\w+_0, carried=1,.*reverse=True", lowered.ir("lowered"))


def rnn(w, h, xs):
    def step(h, x):
        h = vtc.tanh(h @ w + x)
        return h, h

    return vtc.scan(step, h, xs)[1].square().sum()


def test_gradients_of_gradients_carry_states_alone():
    def penalty(w, h, xs):
        return vtc.grad(rnn)(w, h, xs).square().sum()

    lowered = vtc.compile(vtc.grad(penalty)).lower(normal(6, 6), normal(2, 6), normal(4, 2, 6))
    assert max(loops(lowered.ir("joint"))) > 2
    assert loops(lowered.ir("lowered")) == [1, 1, 1, 1]


def test_each_example_has_its_own_sums():
    each = vtc.compile(vtc.vmap(vtc.grad(rnn), (None, 0, 0)))
    text = each.lower(normal(6, 6), normal(3, 2, 6), normal(3, 4, 2, 6)).ir("lowered")
    assert loops(text) == [1, 1]
    assert re.search(r"f32\[3, 6, 6\] = matmul\(", text)


def test_sums_of_half_types_are_rounded_once():
    def narrow(w, h, xs):
        def step(h, x):
            product = h.to(vtc.bfloat16) @ w.to(vtc.bfloat16)
            return vtc.tanh(product.float() + x), None

        return vtc.scan(step, h, xs)[0].square().sum()

    with override(check=2):
        text = vtc.compile(vtc.grad(narrow)).lower(normal(6, 6), normal(2, 6), normal(4, 2, 6))
        assert loops(text.ir("lowered")) == [1, 1]
    entry = text.ir("lowered").split("def narrow")[1]
    assert "bf16[6, 6] = cast(w" in entry  # once, not in each step
    assert "bf16[6, 6] = matmul(" in entry


def test_what_is_done_and_why_not_is_told():
    few = hoisted(parse(WIDE), Context(options=Options(nominal=1)))[1]
    assert [(d.node.name, d.taken, d.bytes) for d in few] == [
        ("p", True, 8 * (64 - 2 * 16)),
        ("c", True, 8 * 2 * (64 - 16)),
    ]
    many = hoisted(parse(WIDE), Context(options=Options(nominal=64)))[1]
    assert [(d.node.name, d.taken, d.why) for d in many] == [
        ("p", False, "all it gives is more than what steps read again"),
        ("c", False, "what it is made of takes more to stack"),
    ]


def test_explain_tells_of_loops():
    told = training_step(nn.LSTM(3, 8)).explain(vtc.ones(16, 2, 3))
    assert "    taken out of loops\n      sum_weight_hh_l0: it is added up after the loop; " in told
    assert re.search(r"matmul_\d: it is one product for all steps; saves 0.01 MB; at \S+:\d+", told)
    assert "left in loops" not in told
