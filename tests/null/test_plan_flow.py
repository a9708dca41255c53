"""Plans with loops and branches: what prints and comes back, and what is refused."""

import pytest

from vtc.errors import ParseError
from vtc.ir.dims import Dim, Sym
from vtc.ir.plan import Arena, Branch, Buffer, Copy, Input, Loop, Moving, Output, Plan, check, flat
from vtc.ir.saved import from_json, to_json
from vtc.ir.types import f32

T = Sym.var("T")


def row(k, ref=None):
    """The row of input 0 that is next in loop ``k``."""
    return Moving(Input(0) if ref is None else ref, k, 16)


def plan(*steps, rows=T):
    dims = (Dim("T", 0),) if rows is T else ()
    matrix = Buffer(f32, (rows, 4))
    return Plan("loops", dims, (matrix,), (matrix, Buffer(f32, (4,))), 256, (), steps)


INNER = Loop(1, (Copy(Moving(row(0), 1, 4), Arena(64), 4),), count=4)
PLAN = plan(
    Loop(0, (INNER, Copy(row(0), row(0, Output(0)), 16)), count=T, reverse=True, note="a.py:3"),
    Loop(2, (Copy(Output(1), Arena(0), 16),), test=(Copy(Arena(0), Output(1), 16),),
         condition=Arena(128)),
    Branch(Arena(128), (Copy(Arena(0), Output(1), 16),), (), "a.py:4"),
)  # fmt: skip
TEXT = """\
  0: for i0 < T, the last first  # a.py:3
       for i1 < 4
         copy in0+i0*16+i1*4 -> arena+64, 4 bytes
       copy in0+i0*16 -> out0+i0*16, 16 bytes
  1: while arena+128
       copy arena+0 -> out1, 16 bytes
     do
       copy out1 -> arena+0, 16 bytes
  2: if arena+128  # a.py:4
       copy arena+0 -> out1, 16 bytes
     else"""


def test_plans_with_loops_print_and_come_back():
    assert str(check(PLAN)).endswith(TEXT)
    assert from_json(to_json(PLAN)) == PLAN
    assert len(list(flat(PLAN.steps))) == 5


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Copy(row(0), Arena(0), 16), "expected a loop around it that counts, got i0"),
        (Loop(0, (Copy(row(1), Arena(0), 16),), count=3), "got i1"),
        (Loop(0, (Copy(row(0), Arena(0), 16),), count=4), "expected memory of the plan, got 16"),
        (Loop(0, (Loop(0, ()),), count=3), "got loop '0' twice"),
        (Loop(0, (), count=-1), "expected a size of at least 0, got -1"),
        (Loop(0, (), count=Sym.var("N")), "expected a declared dim, got N"),
        (Loop(0, (), test=(Copy(Arena(0), Arena(64), 4),)), "expected a condition for a test"),
        (Loop(0, (), condition=Arena(256)), "expected memory of the plan, got 1 bytes at"),
        (Branch(Input(3), (), ()), "expected memory of the plan"),
        (Branch(Input(0), (Copy(Input(2), Arena(0), 4),), ()), "expected memory of the plan"),
    ],
)
def test_refused(step, message):
    with pytest.raises(ParseError, match=message):
        check(plan(step, rows=3))


def test_steps_nested_too_deeply_are_no_plan():
    step = '["loop", 0, [], 1, false, [], null, ""]'
    for _ in range(400):
        step = f'["loop", 0, [{step}], 1, false, [], null, ""]'
    text = to_json(plan(rows=3)).replace('"steps": []', f'"steps": [{step}]')
    with pytest.raises(ParseError):
        from_json(text)
