"""After an error on the device: which programs may have caused it."""

import ctypes
import gc

import numpy as np
import pytest
import small_plans as plans
from simulated import Kernel, Simulated
from small_kernels import vector

from vtc.errors import RunError
from vtc.ir.plan import Input, Output
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.launches import HINT, SHOWN, Launches, blame


def crashing(grid, *values):
    raise ValueError("beyond the end")


def crash():
    steps = [plans.run("crash", Input(0), Output(0))]
    return plans.plan([plans.VECTOR], [plans.VECTOR], steps, name="broken")


def named(name):
    steps = [plans.run("double", Input(0), Output(0))]
    return plans.plan([plans.VECTOR], [plans.VECTOR], steps, name=name)


@pytest.fixture
def programs(make, sim):
    """By name; ``broken`` accesses what it may not."""
    sim.kernels["crash"] = Kernel(("*fp32", "*fp32", "i64"), crashing)
    yield lambda name: make(crash() if name == "broken" else named(name))
    sim.broken = ""


def message(work):
    with pytest.raises(RunError) as caught:
        work()
    return str(caught.value)


def test_what_was_launched_since_the_host_waited_is_named(programs, sim):
    early, late, broken = map(programs, ("early", "late", "broken"))
    x = to_device(vector(), 0)
    early.run([x])
    gpu(0).synchronize()
    kept = [broken.run([x]), late.run([x]), late.run([x])]
    said = message(gpu(0).synchronize)
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in said
    assert "\n  launched since the host last waited, the newest last: broken, late\n" in said
    assert said.endswith(HINT)
    assert "broken" in message(lambda: to_host(x))
    assert len(kept) == 3


def test_a_copy_to_the_host_waits_too(programs):
    first, broken = programs("first"), programs("broken")
    x = to_device(vector(), 0)
    to_host(first.run([x])[0])
    made = broken.run([x])
    assert "the newest last: broken\n" in message(lambda: to_host(made[0]))


def test_one_stream_waits_for_itself():
    launches = Launches(7)
    here, there = ctypes.c_uint64(1), ctypes.c_uint64(2)
    a, b = launches.mark("a", here), launches.mark("b", there)
    launches.note(a)
    launches.note(b)
    launches.waited(2, stream=1)
    assert launches.since() == ["b"]
    launches.note(a)
    assert launches.since() == ["b", "a"]
    launches.waited(3)
    assert launches.since() == []
    assert blame(7) == f"\n  {HINT}"


def test_a_long_list_is_cut():
    launches = Launches(7)
    marks = [launches.mark(f"p{k}", ctypes.c_uint64(0)) for k in range(SHOWN + 2)]
    for mark in marks:
        launches.note(mark)
    assert "p2, p3" in blame(7)
    assert " and 2 more before" in blame(7)
    assert "p1," not in blame(7)
    del marks, mark
    gc.collect()
    assert launches.since() == []


def test_another_driver_knows_nothing_of_it():
    with installed(Simulated()):
        here = gpu(0)
        mark = here.launches.mark("old", ctypes.c_uint64(0))
        here.launches.note(mark)
        assert "old" in blame(0)
    with installed(Simulated()):
        assert gpu(0).launches.since() == []
        assert "old" not in blame(0)
        np.testing.assert_array_equal(to_host(to_device(vector(), 0)), vector())
