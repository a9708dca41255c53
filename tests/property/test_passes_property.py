"""Passes keep the meaning of random programs, and have nothing left to do a second time."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from programs import inputs, programs

from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Graph, GraphBuilder, Node, Program
from vtc.ir.op import REGISTRY
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import Gradient, Item
from vtc.ir.target import Target
from vtc.ir.text import parse, show
from vtc.ir.types import TupleType
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.canonicalize import canonicalize
from vtc.passes.check import TOLERANCE, difference
from vtc.passes.cse import cse
from vtc.passes.dce import dce
from vtc.passes.decompose import decompose
from vtc.passes.differentiate import differentiate
from vtc.passes.fold import fold
from vtc.passes.partition import partition
from vtc.passes.pipeline import Context, run
from vtc.passes.recognize import recognize

COMPOSITES = frozenset(name for name, op in REGISTRY.items() if issubclass(op, Composite))
KEEPS_ALL = Context(Target(name="all", kind="cpu", keeps=COMPOSITES))
KEEPS_NONE = Context()
PASSES = (canonicalize, fold, cse, dce, decompose, recognize)


def assert_same(before, after, arrays):
    want, have = evaluate(before, *arrays), evaluate(after, *arrays)
    for a, b in zip(want, have, strict=True):
        assert difference(a, b) <= TOLERANCE[a.dtype.itemsize]


@pytest.mark.parametrize("one_pass", PASSES, ids=lambda p: p.__name__)
@given(program=programs(nodes=8))
def test_a_pass_keeps_meaning(one_pass, program):
    after = one_pass(program, KEEPS_ALL if one_pass is recognize else KEEPS_NONE)
    verify(after)
    assert after.facts == program.facts
    assert parse(show(after)) == after
    assert_same(program, after, inputs(program))


@pytest.mark.parametrize("one_pass", PASSES, ids=lambda p: p.__name__)
@given(program=programs())
def test_a_pass_has_nothing_left_to_do(one_pass, program):
    once = one_pass(program, KEEPS_NONE)
    assert one_pass(once, KEEPS_NONE) is once


@given(programs(nodes=8))
def test_lowering_keeps_meaning(program):
    after = run(program, PIPELINE[:3], KEEPS_NONE)
    assert_same(program, after, inputs(program))


@given(programs(nodes=6, callees=0), st.randoms(use_true_random=False))
def test_differentiate_agrees_with_evaluate(program, random):
    marked = with_gradient(program, random)
    after = differentiate(marked, KEEPS_NONE)
    verify(after)
    assert not any(isinstance(n.op, Gradient) for n in after.entry.nodes)
    assert_same(marked, after, inputs(marked))


@given(programs(nodes=6, callees=0), st.randoms(use_true_random=False))
def test_a_pair_computes_what_the_whole_did(program, random):
    whole = run(with_gradient(program, random), PIPELINE[:2], KEEPS_NONE)
    pair = partition(whole, len(program.entry.outputs), 1, KEEPS_NONE)
    verify(pair.forward)
    verify(pair.backward)
    *arrays, tangent = inputs(whole)
    results = evaluate(pair.forward, *arrays)
    back = evaluate(pair.backward, *pair.arguments(arrays, results, [tangent]))
    have = (*results[: len(program.entry.outputs)], *back)
    for a, b in zip(evaluate(whole, *arrays, tangent), have, strict=True):
        assert difference(a, b) <= TOLERANCE[a.dtype.itemsize]


def with_gradient(program: Program, random) -> Program:
    """``program``, also returning cotangents of its float params, given one of a float value."""
    entry = program.entry
    floats = [n for n in (*entry.params, *entry.nodes) if is_float(n)]
    wrt = [p for p in entry.params if is_float(p)]
    assume(floats and wrt)
    y = random.choice(floats)
    b = GraphBuilder()
    for n in (*entry.params, *entry.nodes):
        b.names.fresh(n.name)
    seed = b.param("seed", y.type)
    g = b.apply(Gradient(seeded=True), y, seed, *wrt)
    cotangents = [b.apply(Item(i), g) for i in range(len(wrt))]
    params, nodes = (*entry.params, seed), (*entry.nodes, *b.nodes)
    outputs = (*entry.outputs, *cotangents)
    marked = Graph(entry.name, params, nodes, outputs)
    facts = tuple(replace(f, overwritten=None) for f in program.facts)
    return replace(program, graphs=(marked,), facts=(*facts, replace(facts[0])))


def is_float(n: Node) -> bool:
    return not isinstance(n.type, TupleType) and n.tensor.dtype.kind == "float"
