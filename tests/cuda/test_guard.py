"""``VTC_CUDA_GUARD=1``: each block is memory of its own, of just the bytes that were asked for."""

import gc

import pytest
import small_kernels
import small_plans as plans
from simulated import Simulated
from small_kernels import equal, vector

import vtc
from vtc import config
from vtc.config import Config
from vtc.errors import ConfigError, OutOfMemoryError
from vtc.runtime.cuda.array import allocate
from vtc.runtime.cuda.copies import to_device
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.cuda.stream import Stream

MIB = 1 << 20


@pytest.fixture
def guarded():
    with config.override(cuda_guard=True), installed(Simulated(memory=4 * MIB)) as gpu:
        yield gpu
        gc.collect()


def held(gpu):
    """The bytes of each piece of memory that was taken from the device."""
    return sorted(gpu._regions[0].held.values())


def test_blocks_are_as_large_as_asked_for(guarded):
    some = [allocate(n, 0, "here") for n in (5, 5, 4096, MIB + 3)]
    assert held(guarded) == [5, 5, 4096, MIB + 3]
    assert len(some) == 4


def test_what_is_free_goes_back_at_once(guarded):
    some = [allocate(100, 0, "here") for _ in range(3)]
    del some[1]
    last = allocate(7, 0, "here")  # deaths are only noted
    assert held(guarded) == [7, 100, 100]
    del some, last
    assert vtc.cuda.memory_allocated() == vtc.cuda.memory_reserved() == 0
    assert held(guarded) == []


def test_memory_of_another_stream_waits_for_it(guarded):
    side = Stream()
    block = allocate(100, 0, "here")
    block.used_by(side.cuda_stream)
    del block
    vtc.cuda.empty_cache()
    vtc.cuda.synchronize()
    kept = allocate(7, 0, "here")
    assert held(guarded) == [7]
    del kept


def test_programs_run_and_memory_ends(guarded):
    small_kernels.install(guarded)
    executable = CudaExecutable(plans.chain(), plans.BINARIES, 0)
    x = to_device(vector(), 0)
    for _ in range(3):
        made = executable.run([x])
        equal(made[0], 2 * (vector() + 1))
    with pytest.raises(OutOfMemoryError):
        allocate(8 * MIB, 0, "here")
    equal(made[0], 2 * (vector() + 1))


def test_the_variable():
    assert not Config.read({}).cuda_guard
    assert Config.read({}).cuda_graphs
    assert Config.read({"VTC_CUDA_GUARD": "1"}).cuda_guard
    with pytest.raises(ConfigError, match="VTC_CUDA_GUARD: expected 0 or 1, got 'yes'"):
        Config.read({"VTC_CUDA_GUARD": "yes"})
