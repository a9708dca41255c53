"""Programs of one launch: called with addresses, and nothing else."""

import numpy as np
import pytest
import small_plans
from small_kernels import equal, vector
from small_plans import VECTOR, B, plan, run

from vtc.errors import RunError
from vtc.ir.plan import Buffer, Copy, Input, Output
from vtc.ir.types import f32
from vtc.runtime.buffer import address
from vtc.runtime.cuda.copies import to_device
from vtc.runtime.cuda.stream import Stream, stream


def one(name, inputs, *args):
    return plan([VECTOR] * inputs, [VECTOR], [run(name, *args)])


def added():
    return one("add", 2, Input(1), Input(0), Output(0))


def test_the_output_in_its_shape(make, sim):
    x, y = (to_device(vector(6, seed), 0) for seed in (1, 2))
    single = make(added()).single([x, y], (2, 3))
    made = [single.call(address(x), address(y)) for _ in range(3)]
    assert [place for _, place in made] == [address(a) for a, _ in made]
    assert len({place for _, place in made}) == 3
    for array, _ in made:
        assert (array.shape, array.dtype) == ((2, 3), np.dtype("f4"))
        equal(array, (vector(6, 1) + vector(6, 2)).reshape(2, 3))
    assert sim.calls["launch"] == 3


def test_pointers_go_where_the_kernel_wants_them(make):
    inputs = [VECTOR, Buffer(f32, ()), VECTOR]
    steps = [run("step", Input(2), Input(0), Input(1), Output(0))]
    g, rate, w = vector(5, 1), np.array(0.5, "f4"), vector(5, 2)
    there = [to_device(a, 0) for a in (g, rate, w)]
    single = make(plan(inputs, [VECTOR], steps)).single(there, (5,))
    array, _ = single.call(*map(address, there))
    equal(array, w - np.float32(0.5) * g)


def test_memory_comes_back(make):
    x = to_device(vector(6), 0)
    single = make(one("add_one", 1, Input(0), Output(0))).single([x], (6,))
    first = single.call(address(x))[1]
    for _ in range(20):
        assert single.call(address(x))[1] == first


def test_it_runs_on_the_current_stream(make, sim):
    x, side = to_device(vector(6), 0), Stream()
    single = make(one("double", 1, Input(0), Output(0))).single([x], (6,))
    sim.synchronize(0)
    with stream(side):
        array, place = single.call(address(x))
    assert sim.queued(0, side.cuda_stream) == 1
    assert sim.queued(0, 0) == 0
    side.synchronize()
    equal(array, vector(6) * 2)
    del array
    assert single.call(address(x))[1] != place


def test_a_launch_that_fails_names_kernel_and_line(make, sim):
    x = to_device(vector(6), 0)
    single = make(one("add_one", 1, Input(0), Output(0))).single([x], (6,))
    sim.broken = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(RunError, match=r"(?s)ILLEGAL.*in kernel add_one.*model.py:7 in add_one"):
        single.call(address(x))
    sim.broken = ""
    equal(single.call(address(x))[0], vector(6) + 1)


@pytest.mark.parametrize(
    "other",
    [
        small_plans.chain,
        small_plans.copied,
        small_plans.update,
        small_plans.gathered,
        small_plans.tabled,
        lambda: plan([VECTOR], [VECTOR], [Copy(Output(0), Input(0), B * 4)]),
    ],
)
def test_what_takes_more_than_a_launch_is_none(make, other):
    made = other()
    arrays = [to_device(np.zeros((5,) if b.shape else (), b.dtype.numpy), 0) for b in made.inputs]
    assert make(made).single(arrays, (5,)) is None


def test_no_elements_are_no_launch(make):
    x = to_device(vector(0), 0)
    made = plan([VECTOR], [VECTOR], [run("double", Input(0), Output(0), grid=(B,))])
    assert make(made).single([x], (0,)) is None
