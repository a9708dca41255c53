"""Plans measured on the simulated GPU, whose clock is turned by its kernels."""

import numpy as np
import pytest
from simulated import MIB, Kernel, Simulated
from small_plans import kernel

from vtc.errors import ArgumentError, IndexRangeError, OutOfMemoryError, RunError
from vtc.ir.plan import Binary, Buffer, Input, Launch, Output, Plan
from vtc.ir.types import bf16, bool_, f32, i64
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.measure import PATTERN, SAMPLE, SAMPLES, Bench

KERNEL = kernel("probe")
BINARIES = {KERNEL.symbol: Binary("probe", b"", 4)}


def plan_of(inputs, outputs, own=KERNEL):
    over = [Buffer(b.dtype, b.shape, overwritten=k) for k, b in enumerate(outputs)]
    args = (*map(Input, range(len(inputs))), *map(Output, range(len(outputs))))
    step = Launch(own.name, args, (), grid=(1,))
    return Plan("k0", (), (*inputs, *over), tuple(outputs), 0, (own,), (step,))


class Turned:
    """A simulated GPU, with time."""

    def __init__(self, gpu):
        self.gpu, self.now = gpu, 0.0
        gpu.clock = lambda: self.now

    def probe(self, pointers, call):
        self.gpu.kernels["probe"] = Kernel(pointers, call)


@pytest.fixture
def turned(sim):
    return Turned(sim)


def copying(turned, n, seconds):
    """y = x, which takes so long."""

    def probe(grid, x, y):
        turned.now += seconds()
        turned.gpu.array(y, (n,), np.float32)[:] = turned.gpu.array(x, (n,), np.float32)

    turned.probe(("*fp32", "*fp32"), probe)
    return plan_of([Buffer(f32, (n,))], [Buffer(f32, (n,))])


def test_results_and_times(turned):
    seconds = iter([0, 0.003, 0.004, 0])
    plan = copying(turned, 1000, lambda: next(seconds))
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        trial = room.trial(plan, BINARIES)
        (y,) = trial.results()
        assert abs(y.std() - 1) < 0.1
        assert [trial.time(), trial.time()] == pytest.approx([3.0, 4.0])
        (again,) = room.trial(plan, BINARIES).results()
        np.testing.assert_array_equal(y, again)


def test_caches_are_flushed_before_each_run(turned):
    plan = copying(turned, 10, lambda: 0.001)
    fills = []
    fill = turned.gpu.fill
    turned.gpu.fill = lambda *a: fills.append(a[3]) or fill(*a)
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        trial = room.trial(plan, BINARIES)
        for _ in range(3):
            trial.time()
    assert fills == [2 * MIB] * 3 * 8


def test_what_a_kernel_leaves_out_is_no_number(turned):
    turned.probe(("*fp32", "*i64"), lambda grid, x, y: None)
    plan = plan_of([], [Buffer(f32, (5,)), Buffer(i64, ())])
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        x, y = room.trial(plan, BINARIES).results()
    assert np.isnan(x).all()
    assert y.tolist() == [-1]


def test_the_data(turned):
    """Floats are normal, integers zero, bools both; empty and large ones too."""
    n = 2 * PATTERN + 5
    buffers = [
        Buffer(f32, (n,)), Buffer(bf16, (1000,)), Buffer(i64, (70,)), Buffer(bool_, (300,)),
        Buffer(f32, (0, 3)), Buffer(f32, ()),
    ]  # fmt: skip
    found = []

    def probe(grid, *at):
        for k, b in enumerate(buffers):
            if 0 not in b.shape:
                found.append(turned.gpu.array(at[k], b.shape, b.dtype.numpy).copy())

    turned.probe(("*fp32", "*bf16", "*i64", "*u8", "*fp32", "*fp32", "*fp32"), probe)
    plan = plan_of(buffers, [Buffer(f32, (1,))])
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        room.trial(plan, BINARIES).results()
    large, half, zero, both, scalar = found
    assert np.isfinite(large).all()
    np.testing.assert_array_equal(large[:PATTERN], large[PATTERN : 2 * PATTERN])
    np.testing.assert_array_equal(large[:5], large[-5:])
    assert abs(large.std() - 1) < 0.01
    assert abs(half.astype(np.float32).std() - 1) < 0.1
    assert not zero.any()
    assert 100 < both.sum() < 200
    assert np.isfinite(scalar)


def test_large_results_are_sampled_at_both_ends(turned):
    n = SAMPLES * SAMPLE * 3

    def probe(grid, y):
        turned.gpu.array(y, (n,), np.float32)[:] = np.arange(n)

    turned.probe(("*fp32",), probe)
    plan = plan_of([], [Buffer(f32, (n,))])
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        (y,) = room.trial(plan, BINARIES).results()
    assert y.size == SAMPLES * SAMPLE
    assert (y[0], y[-1]) == (0, n - 1)
    assert (np.diff(y) > 0).all()


def test_nothing_is_left(turned):
    plan = copying(turned, 100_000, lambda: 0.0)
    before = gpu(0).allocator.stats()["reserved_bytes.all.current"]
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        trial = room.trial(plan, BINARIES)
        trial.results()
        trial.time()
        del trial, room
    assert gpu(0).allocator.stats()["allocated_bytes.all.current"] == 0
    assert gpu(0).allocator.stats()["reserved_bytes.all.current"] == before


def test_errors_are_those_of_the_candidate(turned):
    def probe(grid, x, error):
        turned.gpu.array(error, (1,), np.int32)[0] = 1

    turned.probe(("*fp32", "*i32"), probe)
    own = kernel("probe", checks=True)
    plan = plan_of([], [Buffer(f32, (1,))], own)
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        trial = room.trial(plan, BINARIES)
        with pytest.raises(IndexRangeError):
            trial.results()
        bench.check()
        other = kernel("unknown")
        unknown = plan_of([], [Buffer(f32, (1,))], other)
        trial = room.trial(unknown, {other.symbol: Binary("unknown", b"", 4)})
        with pytest.raises(RunError, match="CUDA_ERROR_NOT_FOUND"):
            trial.results()
        bench.check()


def test_a_device_that_is_lost(turned):
    def probe(grid, x):
        raise RuntimeError("illegal")

    turned.probe(("*fp32",), probe)
    plan = plan_of([], [Buffer(f32, (1,))])
    with Bench(gpu(0)) as bench, bench.room(plan) as room:
        with pytest.raises(RunError, match="ILLEGAL_ADDRESS"):
            room.trial(plan, BINARIES).results()
        with pytest.raises(RunError, match="ILLEGAL_ADDRESS"):
            bench.check()
        turned.gpu.broken = ""


def test_no_memory():
    with installed(Simulated(memory=4 * MIB)):
        plan = plan_of([Buffer(f32, (4 * MIB,))], [])
        with Bench(gpu(0)) as bench, pytest.raises(OutOfMemoryError), bench.room(plan):
            pass


def test_only_plans_of_fixed_sizes(sim):
    plan = Plan("k0", (), (), (Buffer(f32, (1,)),), 0, (), ())
    with (
        Bench(gpu(0)) as bench,
        pytest.raises(ArgumentError, match="expected a plan of fixed sizes"),
        bench.room(plan),
    ):
        pass
