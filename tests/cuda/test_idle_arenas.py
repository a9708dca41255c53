"""``empty_cache`` gives the arenas of programs back that are not running."""

import small_plans as plans
from small_kernels import equal, vector

import vtc
from vtc.runtime.buffer import address
from vtc.runtime.cuda.copies import to_device
from vtc.runtime.cuda.device import allocator
from vtc.runtime.cuda.stream import Stream

MIB = 1 << 20
N = MIB // 4


def test_an_idle_arena_goes_and_comes_back(make):
    executable = make(plans.chain())
    x = to_device(vector(N), 0)
    made = executable.run([x])
    before = vtc.cuda.memory_allocated()
    vtc.cuda.empty_cache()
    assert vtc.cuda.memory_allocated() == before - MIB
    equal(made[0], 2 * (vector(N) + 1))
    again = executable.run([x])
    equal(again[1], vector(N) + 2 * (vector(N) + 1))
    assert vtc.cuda.memory_allocated() == before + 2 * MIB


def test_bound_calls_take_another(make):
    executable = make(plans.chain())
    x = to_device(vector(N), 0)
    bound = executable.bind([x], {0: 0})
    first = bound.run((address(x),))
    for _ in range(2):
        vtc.cuda.empty_cache()
        kept = to_device(vector(N, seed=3), 0)  # where the arena was
        made = bound.run((address(x),))
        equal(made[1][0], vector(N) + 2 * (vector(N) + 1))
        equal(kept, vector(N, seed=3))
    equal(first[0][0], 2 * (vector(N) + 1))


def test_arenas_of_all_streams_go(make):
    executable = make(plans.chain())
    x = to_device(vector(N), 0)
    for stream in (Stream(), Stream()):
        with stream:
            executable.run([x])
    del stream
    vtc.cuda.synchronize()
    vtc.cuda.empty_cache()
    assert vtc.cuda.memory_allocated() == MIB
    assert allocator(0).stats()["active.all.current"] == 1
