"""Loops and branches on a GPU: kernels of bodies, slices that are not aligned, both branches."""

import numpy as np
import pytest
from plans import lowered, near, normal, run_plan

import vtc
from vtc.errors import CodegenError
from vtc.ir.plan import Copy, Loop, flat

ROWS = {"aligned": 4, "not aligned": 3}


@pytest.mark.parametrize("width", ROWS.values(), ids=ROWS)
def test_a_scan_and_its_gradient(width):
    w = vtc.from_numpy(normal(width, seed=1))

    def both(xs):
        def loss(xs):
            def step(h, x):
                h = vtc.tanh(h * w + x)
                return h, h * h

            h, ys = vtc.scan(step, vtc.zeros(width), xs)
            return h.sum() + ys.sum()

        return vtc.value_and_grad(loss)(xs)

    xs = normal(5, width)
    plan = lowered(both, vtc.from_numpy(xs))
    loops = [s for s in plan.steps if isinstance(s, Loop)]
    assert len(loops) == 2
    moved = [s for s in flat(loops) if isinstance(s, Copy)]
    assert len(moved) > 2 if width % 4 else len(moved) <= 2
    for got, want in zip(run_plan(plan, [xs, w.numpy()]), both(vtc.from_numpy(xs)), strict=True):
        near(got, want.numpy())


def test_a_branch_runs_both_ways():
    def f(p, x):
        return vtc.cond(p > 0, lambda: x * 2, lambda: vtc.exp(x))

    x = normal(8)
    for p in (np.float32(1), np.float32(-1)):
        plan = lowered(f, vtc.tensor(float(p)), vtc.from_numpy(x))
        (got,) = run_plan(plan, [np.asarray(p), x])
        near(got, f(vtc.tensor(float(p)), vtc.from_numpy(x)).numpy())


def test_a_while_loop_has_no_plan():
    def f(x):
        return vtc.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, (x,))[0]

    with pytest.raises(CodegenError, match=r"got a while_loop or a cond \(at .*test_flow_kernels"):
        lowered(f, vtc.ones(4))
