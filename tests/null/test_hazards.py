"""What waits for what, beside a record of every byte."""

from hypothesis import given
from hypothesis import strategies as st

from vtc.build import stage_program
from vtc.codegen.cuda import generate
from vtc.codegen.hazards import Hazards, Use
from vtc.ir.target import cuda
from vtc.ir.text import parse
from vtc.passes.pipeline import Context

USES = st.builds(
    lambda memory, start, length, writes: Use(memory, start, start + length, writes),
    st.sampled_from(["arena", "in0"]),
    st.integers(0, 12),
    st.integers(1, 8),
    st.booleans(),
)


def conflict(a, b):
    return a.memory == b.memory and a.start < b.end and b.start < a.end and (a.writes or b.writes)


@given(st.lists(st.lists(USES, min_size=1, max_size=4), max_size=12))
def test_a_step_waits_for_all_that_it_conflicts_with_and_for_nothing_else(steps):
    hazards = Hazards()
    found = [hazards.add(uses) for uses in steps]
    waits = []  # of each step, all that it waits for
    for k, uses in enumerate(steps):
        direct = {j for j in range(k) if any(conflict(a, b) for a in uses for b in steps[j])}
        everything = direct.union(*(waits[j] for j in direct))
        waits.append(everything)
        assert set(found[k]) <= direct
        assert set(found[k]).union(*(waits[j] for j in found[k])) == everything
        for j in found[k]:  # nothing is said twice
            assert not any(j in waits[i] for i in found[k])


def test_independent_products_do_not_wait_for_each_other():
    program = parse("""
def f(
    x: f32[256, 256], a: f32[256, 256], b: f32[256, 256]
) -> (f32[256, 256], f32[256, 256], f32[256, 256]):
    p: f32[256, 256] = matmul(x, a)
    q: f32[256, 256] = matmul(x, b)
    r: f32[256, 256] = matmul(p, q)
    s: f32[256, 256] = matmul(r, x)
    t: f32[256, 256] = matmul(s, q)
    u: f32[256, 256] = matmul(t, p)
    return r, s, u
""")
    target = cuda(90)
    plan = generate(stage_program(program, "planned", Context(target)), target)
    products = [k for k, s in enumerate(plan.steps) if not str(s).startswith("copy")]
    assert plan.after[products[0]] == plan.after[products[1]] == ()
    assert sorted(plan.after[products[2]]) == products[:2]
