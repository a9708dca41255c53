"""The device runtime on hardware: what the simulated device only pretends."""

import gc
import os
import random
import threading

import ml_dtypes
import numpy as np
import pytest

import vtc
from vtc.errors import DeviceError, OutOfMemoryError, RunError
from vtc.ir.plan import Binary
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import empty, used_by
from vtc.runtime.cuda.copies import clone, dense, fill_bytes, to_device, to_host, write
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.cuda.driver import driver
from vtc.runtime.cuda.pinned import is_pinned, pinned_empty
from vtc.runtime.cuda.stream import Event, Stream, current_stream, default_stream

pytestmark = pytest.mark.gpu
F4 = np.dtype("f4")
MIB = 1 << 20
GUARD = 4096


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F4)


def busy(mib=512, times=20):
    """Work on the current stream that takes some milliseconds."""
    x = empty((mib * MIB,), np.dtype(np.uint8), 0)
    for k in range(times):
        fill_bytes(x, k)


def test_what_the_device_is():
    facts = vtc.cuda.get_device_properties()
    assert facts.name == vtc.cuda.get_device_name()
    assert facts.capability >= (8, 0)
    assert facts.shared >= 96 << 10
    assert facts.multiprocessors > 0
    assert facts.l2 > 0
    free, total = vtc.cuda.mem_get_info()
    assert 0 < free <= total
    assert abs(total - facts.memory) < facts.memory / 10


@pytest.mark.parametrize("kind", ["f4", "i1", "c16", "?", ml_dtypes.bfloat16])
def test_there_and_back(kind):
    for shape in ((), (0, 3), (7,), (33, 65), (1 << 22,)):
        host = (numbers(*shape) * 10).astype(kind)
        got = to_host(to_device(host, 0))
        assert got.shape == shape
        assert got.tobytes() == host.tobytes()


def test_strided_arrays_by_way_of_the_host():
    host = numbers(64, 48)
    x = to_device(host, 0)
    np.testing.assert_array_equal(to_host(x.T[::-2]), host.T[::-2])
    np.testing.assert_array_equal(to_host(dense(x[::3, 1:])), host[::3, 1:])
    write(x[:, ::2], numbers(64, 24))
    host[:, ::2] = numbers(64, 24)
    np.testing.assert_array_equal(to_host(x), host)


def test_a_plain_source_may_change_at_once():
    """The driver has read pageable memory when it returns, also behind a busy stream."""
    for n in (100, 1 << 14, 1 << 22):
        host = numbers(n)
        want = host.copy()
        busy()
        x = to_device(host, 0)
        host[:] = 7
        np.testing.assert_array_equal(to_host(x), want)


def test_pinned_memory():
    host = pinned_empty((1 << 20,), F4)
    host[:] = numbers(1 << 20)
    assert is_pinned(host)
    busy()
    x = to_device(host, 0, non_blocking=True)
    event = current_stream().record_event()
    assert not event.query(), "an asynchronous copy waited"
    y = to_host(x, non_blocking=True)
    current_stream().synchronize()
    np.testing.assert_array_equal(y, host)


def test_pinned_memory_waits_for_the_copy_that_reads_it():
    host = pinned_empty((1 << 20,), F4)
    host[:] = 5
    busy()
    x = to_device(host, 0, non_blocking=True)
    del host
    other = pinned_empty((1 << 20,), F4)
    other[:] = 9
    assert (to_host(x) == 5).all()


def test_streams_run_beside_each_other_and_wait_when_told():
    side = Stream(priority=-1)
    assert side.priority < 0
    x = empty((MIB,), np.dtype(np.uint8), 0)
    gpu(0).synchronize()
    busy()
    fill_bytes(x, 3)
    assert not default_stream().query()
    with side:
        quick = empty((8,), np.dtype(np.uint8), 0)
        fill_bytes(quick, 1)
    side.synchronize()
    assert not default_stream().query(), "streams waited for each other by themselves"
    side.wait_stream(default_stream())
    with side:
        y = clone(x)
        assert (to_host(y) == 3).all()
    assert default_stream().query()


def test_events_measure_time():
    start, end = Event(enable_timing=True), Event(enable_timing=True)
    start.record()
    busy()
    end.record()
    assert not end.query()
    end.synchronize()
    assert end.query()
    assert 0.1 < start.elapsed_time(end) < 1000


def test_memory_that_another_stream_uses_is_not_handed_out():
    side = Stream()
    x = empty((64 * MIB,), np.dtype(np.uint8), 0)
    fill_bytes(x, 1)
    side.wait_stream(current_stream())
    with side:
        busy()
        y = clone(x)
    used_by(x, side.cuda_stream)
    place = address(x)
    del x
    again = empty((64 * MIB,), np.dtype(np.uint8), 0)
    assert address(again) != place
    fill_bytes(again, 2)
    with side:
        assert (to_host(y) == 1).all()


def test_blocks_do_not_touch_their_neighbours():
    """Guard regions at both ends of every block, on two streams, stay as they are."""
    own = random.Random(0)
    streams = [default_stream(), Stream()]
    living = []
    for k in range(400):
        if own.random() < 0.6 or not living:
            stream = own.choice(streams)
            n = own.choice([1, 700, 5000, MIB, 3 * MIB]) + own.randrange(100)
            with stream:
                x = empty((n + 2 * GUARD,), np.dtype(np.uint8), 0)
                fill_bytes(x, k % 251)
                fill_bytes(x[GUARD:-GUARD], 255)
            living.append((x, k % 251, stream))
        else:
            x, value, stream = living.pop(own.randrange(len(living)))
            with stream:
                got = to_host(x)
            assert (got[:GUARD] == value).all()
            assert (got[-GUARD:] == value).all()
            assert (got[GUARD:-GUARD] == 255).all()


def test_out_of_memory_and_going_on():
    free, _ = vtc.cuda.mem_get_info()
    kept = empty((free // 2,), np.dtype(np.uint8), 0, where="train.py:1")
    with pytest.raises(OutOfMemoryError, match=r"at train\.py:1"):
        empty((free,), np.dtype(np.uint8), 0)
    x = to_device(numbers(1000), 0)
    np.testing.assert_array_equal(to_host(x), numbers(1000))
    del kept
    fill_bytes(empty((free // 4 * 3,), np.dtype(np.uint8), 0), 0)
    vtc.cuda.empty_cache()
    vtc.cuda.synchronize()
    assert vtc.cuda.mem_get_info()[0] > free // 2


def test_memory_is_given_back():
    gc.collect()
    vtc.cuda.empty_cache()
    before = vtc.cuda.mem_get_info()[0]
    x = empty((1 << 30,), np.dtype(np.uint8), 0)
    assert before - vtc.cuda.mem_get_info()[0] >= 1 << 30
    del x
    vtc.cuda.empty_cache()
    assert vtc.cuda.mem_get_info()[0] >= before - (64 << 20)
    assert allocator(0).stats()["reserved_bytes.all.current"] < 1 << 30


def test_threads():
    errors = []

    def work(k):
        try:
            with Stream():
                for _ in range(50):
                    host = np.full(1000 + k, k, F4)
                    assert (to_host(clone(to_device(host, 0))) == k).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_a_graph_of_copies_and_fills():
    d = driver()
    x, y = empty((256,), np.dtype(np.uint8), 0), empty((256,), np.dtype(np.uint8), 0)
    host = pinned_empty((256,), np.dtype(np.uint8))
    graph = d.create_graph(0)
    a = d.add_fill(0, graph, [], address(x), 7, 256)
    b = d.add_copy(0, graph, [a], address(y), address(x), 256)
    d.add_copy(0, graph, [b], address(host), address(y), 256)
    run = d.instantiate(0, graph)
    stream = Stream().cuda_stream
    d.upload(0, run, stream)
    for value in (7, 9):
        d.graph_launch(0, run, stream)
        d.synchronize_stream(0, stream)
        assert (host == value).all()
        d.set_fill_params(0, run, a, address(x), 9, 256)
    d.set_copy_params(0, run, b, address(y), address(x) + 128, 128)
    fill_bytes(y, 1)
    gpu(0).synchronize()
    d.graph_launch(0, run, stream)
    d.synchronize_stream(0, stream)
    assert (host[:128] == 9).all()
    assert (host[128:] == 1).all()
    d.destroy_executable(0, run)
    d.destroy_graph(0, graph)


def test_kernels_that_cannot_be_loaded():
    with pytest.raises(DeviceError, match="loading k: CUDA_ERROR_"):
        driver().module(0, Binary(name="k", cubin=b"not a cubin", warps=1))
    with pytest.raises(
        RunError, match=r"k: expected at most \d+ bytes of shared memory, got 1048576"
    ):
        driver().module(0, Binary(name="k", cubin=b"", warps=1, shared=MIB))


def test_errors_have_the_words_of_the_driver():
    with pytest.raises(RunError, match="CUDA_ERROR_INVALID_VALUE: "):
        driver().copy(0, 0, 0, 16, 0)
    assert (to_host(to_device(numbers(3), 0)) == numbers(3)).all()


def test_a_fork_is_told():
    """In a child that was forked: the words, not a hang."""
    gpu(0).synchronize()
    read, send = os.pipe()
    child = os.fork()
    if not child:
        try:
            gpu(0).synchronize()
            said = "nothing"
        except vtc.errors.VtcError as error:
            said = str(error)
        os.write(send, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(read, 4096).decode()
    assert "'spawn'" in said or "CUDA_ERROR" in said
