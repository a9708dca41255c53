"""Loops and branches on a GPU: kernels of bodies, slices that lie still, branches taken or not."""

import numpy as np
import pytest
from plans import lowered, near, normal, run_plan

import vtc
from vtc.ir import unroll
from vtc.ir.plan import Branch, Copy, Loop, flat

ROWS = {"aligned": 4, "not aligned": 3}


def scanned(width):
    """A scan of rows so wide, and its gradient."""
    w = vtc.from_numpy(normal(width, seed=1))

    def both(xs):
        def loss(xs):
            def step(h, x):
                h = vtc.tanh(h * w + x)
                return h, h * h

            h, ys = vtc.scan(step, vtc.zeros(width), xs)
            return h.sum() + ys.sum()

        return vtc.value_and_grad(loss)(xs)

    return both, w


@pytest.mark.parametrize("width", ROWS.values(), ids=ROWS)
def test_a_scan_and_its_gradient(width):
    both, w = scanned(width)
    xs = normal(5, width)
    plan = lowered(both, vtc.from_numpy(xs))
    loops = [s for s in plan.steps if isinstance(s, Loop)]
    assert len(loops) == 2
    moved = [s for s in flat(loops) if isinstance(s, Copy)]
    assert len(moved) > 2 if width % 4 else len(moved) <= 2
    for got, want in zip(run_plan(plan, [xs, w.numpy()]), both(vtc.from_numpy(xs)), strict=True):
        near(got, want.numpy())


def test_kernels_of_a_long_scan_take_slices_that_lie_still(monkeypatch):
    monkeypatch.setattr(unroll, "SPELLED", 3)
    both, w = scanned(4)
    xs = normal(5, 4)
    plan = lowered(both, vtc.from_numpy(xs))
    loops = [s for s in plan.steps if isinstance(s, Loop)]
    assert [unroll.moves(s) for s in loops] == [False, False]
    assert all(unroll.long(s) for s in loops)
    for got, want in zip(run_plan(plan, [xs, w.numpy()]), both(vtc.from_numpy(xs)), strict=True):
        near(got, want.numpy())


def test_a_cheap_branch_runs_both_ways():
    def f(p, x):
        return vtc.cond(p > 0, lambda: x * 2, lambda: vtc.exp(x))

    x = normal(8)
    for p in (np.float32(1), np.float32(-1)):
        plan = lowered(f, vtc.tensor(float(p)), vtc.from_numpy(x))
        assert not any(isinstance(s, Branch) for s in plan.steps)
        (got,) = run_plan(plan, [np.asarray(p), x])
        near(got, f(vtc.tensor(float(p)), vtc.from_numpy(x)).numpy())


def test_another_branch_is_taken_or_not():
    def f(p, x):
        return vtc.cond(p > 0, lambda: x.softmax(0), lambda: x - x.sum())

    x = normal(8)
    for p in (np.float32(1), np.float32(-1)):
        plan = lowered(f, vtc.tensor(float(p)), vtc.from_numpy(x))
        assert [type(s) for s in plan.steps].count(Branch) == 1
        (got,) = run_plan(plan, [np.asarray(p), x])
        near(got, f(vtc.tensor(float(p)), vtc.from_numpy(x)).numpy())


def test_a_while_loop():
    def f(x):
        return vtc.while_loop(lambda n, x: x.sum() < 90, lambda n, x: (n + 1, x * 2), (0, x))

    x = np.abs(normal(4)) + 1
    got = run_plan(lowered(f, vtc.from_numpy(x)), [x])
    for a, b in zip(got, f(vtc.from_numpy(x)), strict=True):
        near(a, b.numpy())
