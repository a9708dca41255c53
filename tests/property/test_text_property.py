"""The laws of text and of the verifier, on random programs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import inputs, programs

from vtc.errors import VerifyError
from vtc.ir.dims import Sym, floordiv, maximum, minimum, mod, parse_size
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Program
from vtc.ir.rules import rewrite
from vtc.ir.text import parse, show
from vtc.ir.types import TupleType
from vtc.ir.verify import verify


def nodes(program: Program):
    return [n for g in program.graphs for n in (*g.params, *g.nodes)]


@given(programs())
def test_programs_are_sound(program):
    verify(program)


@given(programs())
def test_what_prints_parses(program):
    text = show(program)
    again = parse(text)
    assert again == program
    assert hash(again) == hash(program)
    assert again.facts == program.facts
    assert show(again) == text


@given(programs())
def test_places_print_and_parse(program):
    text = show(program, loc=True)
    again = parse(text)
    assert again == program
    assert [n.loc for n in nodes(again)] == [n.loc for n in nodes(program)]
    assert show(again, loc=True) == text


@given(programs(nodes=6))
def test_text_keeps_the_meaning(program):
    arrays = inputs(program)
    again = parse(show(program))
    for x, y in zip(evaluate(program, *arrays), evaluate(again, *arrays), strict=True):
        np.testing.assert_array_equal(x, y)


@given(programs())
def test_rewriting_by_no_rule_changes_nothing(program):
    for g in program.graphs:
        assert rewrite(g, ()) is g


@given(programs(), st.data())
def test_a_node_moved_up_is_noticed(program, data):
    """Two nodes of which one reads the other, swapped."""
    pairs = [
        (g, i)
        for g in program.graphs
        for i in range(len(g.nodes) - 1)
        if g.nodes[i] in g.nodes[i + 1].inputs
    ]
    if not pairs:
        return
    g, i = data.draw(st.sampled_from(pairs))
    swapped = (*g.nodes[:i], g.nodes[i + 1], g.nodes[i], *g.nodes[i + 2 :])
    changed = replace(g, nodes=swapped)
    graphs = tuple(changed if h is g else h for h in program.graphs)
    with pytest.raises(VerifyError, match="expected inputs defined above"):
        verify(replace(program, graphs=graphs))


def sizes():
    leaves = st.integers(-5, 5) | st.sampled_from([Sym.var(n) for n in ("B", "T", "N_1")])
    binary = (
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: 7 if b == 0 else floordiv(a, b),
        lambda a, b: 7 if b == 0 else mod(a, b),
        minimum,
        maximum,
    )

    def grown(smaller):
        return st.builds(lambda f, a, b: f(a, b), st.sampled_from(binary), smaller, smaller)

    return st.recursive(leaves, grown, max_leaves=8)


@given(sizes())
def test_sizes_print_and_parse(size):
    assert parse_size(str(size)) == size
    program = parse(f"def f(x: f32[{size}]) -> f32[{size}]:\n    return x\n")
    assert program.entry.params[0].tensor.shape == (size,)


def ops(program: Program):
    return [n.op.name for n in program.entry.nodes]


INTERESTING = {
    "several results of a call": lambda p: any(
        n.op.name == "call" and isinstance(n.type, TupleType) for n in p.entry.nodes
    ),
    "sums of symbols": lambda p: "B + T" in show(p),
    "an overwritten param": lambda p: any(f.overwritten is not None for f in p.facts),
    "graphs that call graphs": lambda p: any("call(" in show(g) for g in p.graphs[:-1]),
    "both kinds of softmax": lambda p: {"softmax", "scaled_dot_product_attention"} <= {*ops(p)},
    "many ops": lambda p: len({*ops(p)}) > 7,
}


def test_programs_are_varied():
    seen = set()

    @settings(max_examples=200)
    @given(programs())
    def look(program):
        seen.update(what for what, has in INTERESTING.items() if has(program))

    look()
    assert seen == INTERESTING.keys()
