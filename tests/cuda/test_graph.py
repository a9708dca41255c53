"""What follows from a plan at given sizes: places, order, what is left out; the C side of it."""

import re
from dataclasses import replace

import small_plans as plans

from vtc.codegen.render import render
from vtc.ir.plan import Arena, Binary, Buffer, Copy, Input, Output
from vtc.ir.types import f32
from vtc.runtime.cuda.graph import DRIVER
from vtc.runtime.cuda.nodes import lay_out
from vtc.runtime.cuda.steps import Move, Place, Run, number_cells
from vtc.runtime.fit import Fit


def layout(plan, *key, **binaries):
    return lay_out(Fit(plan), key, plans.BINARIES | binaries)


def test_places_and_order_of_a_chain():
    found = layout(plans.chain(), 100)
    first, second, third = found.nodes
    assert first.places == (Place(0), Place(3, 0))
    assert second.places == (Place(3, 0), Place(1))
    assert third.places == (Place(0), Place(1), Place(2))
    assert [n.after for n in found.nodes] == [(), (0,), (1,)]
    assert (found.slots, found.arena, found.outputs) == (4, 448, ((100,), (100,)))
    assert third.sizes == (100,)


def test_an_output_that_overwrites_has_the_slot_of_the_input():
    first, second = layout(plans.update(), 7).nodes
    assert first.places[-1] == first.places[0] == second.places[0] == Place(0)
    assert second.after == (0,)


def test_a_plan_says_what_waits_for_what():
    steps = [plans.run("add_one", Input(0), Output(i)) for i in range(3)]
    steps.append(plans.run("add", Output(0), Output(2), Output(3)))
    made = plans.plan([plans.VECTOR], [plans.VECTOR] * 4, steps)
    after = ((), (), (), (2, 0))
    assert [n.after for n in layout(replace(made, after=after), 7).nodes] == list(after)
    assert [n.after for n in layout(made, 7).nodes] == [(), (0,), (1,), (2,)]


def test_what_waits_for_a_step_that_is_left_out_waits_for_what_that_waits_for():
    steps = [
        plans.run("add_one", Input(0), Output(0)),
        plans.run("double", Output(0), Output(1), grid=(plans.B - 7,)),
        plans.run("add", Output(0), Output(1), Output(2)),
    ]
    made = plans.plan([plans.VECTOR], [plans.VECTOR] * 3, steps)
    made = replace(made, after=((), (0,), (1,)))
    assert [n.after for n in layout(made, 8).nodes] == [(), (0,), (1,)]
    assert [(n.step, n.after) for n in layout(made, 7).nodes] == [(0, ()), (2, (0,))]


def test_loops_are_spelled_out():
    found = layout(plans.added_up(), 4).nodes
    assert [(n.step, n.after) for n in found] == [(0, ()), *((1, (k,)) for k in range(9))]
    runs = [n for n in found if isinstance(n, Run)]
    assert [n.places[1] for n in runs] == [Place(1, 32), Place(1, 16), Place(1, 0)]
    moves = [n.target for n in found if isinstance(n, Move) and n.target.slot == 2]
    assert moves == [Place(2, 32), Place(2, 16), Place(2, 0)]


def test_steps_without_bytes_or_blocks_are_left_out():
    steps = [
        Copy(Input(0), Output(0), plans.B * 4),
        plans.run("double", Input(0), Output(1), grid=(plans.B, 2)),
        plans.run("double", Input(0), Output(2), grid=()),
    ]
    plan = plans.plan([plans.VECTOR], [plans.VECTOR] * 3, steps)
    assert [n.step for n in layout(plan, 0).nodes] == [2]
    copy, wide, one = layout(plan, 3).nodes
    assert isinstance(copy, Move)
    assert copy.nbytes == 12
    assert isinstance(wide, Run)
    assert (wide.grid, one.grid) == ((3, 2, 1), (1, 1, 1))


def test_scratch_numbers_and_tables_lie_behind_the_arena():
    steps = [
        plans.run("add_one", Input(0), Arena(0), grid=(3, 2)),
        plans.run("add_all", Input(0), Arena(0), Output(0)),
        plans.run("step", Output(0), Input(0), Input(1), Output(0)),
    ]
    inputs = [plans.VECTOR, Buffer(f32, ()), Buffer(f32, ())]
    plan = plans.plan(inputs, [plans.VECTOR], steps, plans.room(1))
    scratch = Binary("add_one", b"", 4, scratch=100, alignment=128)
    found = layout(plan, 9, add_one_symbol=scratch)
    first, second, _ = found.nodes
    assert first.scratch == Place(4, 128)
    assert found.numbers == 128 + 6 * 100 + 8
    assert number_cells(Fit(plan)) == {1: 0, 2: 16}
    assert found.tables == found.numbers + 32
    assert (second.table, found.table_bytes, found.arena) == (0, 24, found.tables + 24)


def test_two_kernels_that_take_tables_have_their_own():
    twice = replace(plans.tabled(), steps=plans.tabled().steps[:1] + plans.tabled().steps[1:] * 2)
    found = layout(twice, 5)
    assert [n.table for n in found.nodes] == [None, 0, 24]
    assert found.table_bytes == 48


def test_the_fields_of_c_are_those_python_fills_in():
    text = render("patch")
    (body,) = re.findall(r"typedef struct \{((?:(?!typedef).)*)\} vtc_graph;", text, re.S)
    plain = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    calls = re.findall(r"\(\*(\w+)\)", plain)
    assert len(calls) == len(DRIVER)
    rest = [
        name.strip(" *")
        for line in plain.split(";")
        if line.strip() and "(*" not in line
        for name in re.sub(r"^\s*(const |volatile )*\w+", "", line).split(",")
    ]
    assert rest == [
        "context", "executable", "stream", "table", "known", "slots", "first", "sites", "nodes",
        "count", "queue", "cells", "cell_count", "number_bytes", "numbers", "numbers_at", "tables",
        "table_bytes", "tables_at", "turn", "last", "held", "number",
    ]  # fmt: skip
