"""Copies between host and devices: what is waited for, and what is not."""

import numpy as np
import pytest

from vtc.errors import ArgumentError, DeviceError, RunError
from vtc.runtime.buffer import address
from vtc.runtime.cuda import copies
from vtc.runtime.cuda.array import device_of, empty, used_by
from vtc.runtime.cuda.copies import clone, dense, fill_bytes, to_device, to_host, write
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.cuda.pinned import is_pinned, pinned_empty
from vtc.runtime.cuda.stream import Stream, current_stream

F4 = np.dtype("f4")


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(F4)


def test_there_and_back(sim):
    for host in (numbers(3, 4), numbers(), numbers(0, 3), numbers(6, 4)[::2, ::-1], numbers(2).T):
        got = to_host(to_device(host, 0))
        np.testing.assert_array_equal(got, host)
        assert got.flags.c_contiguous
        assert got.shape == host.shape


def test_a_plain_source_may_change_at_once(sim):
    host = numbers(100)
    want = host.copy()
    x = to_device(host, 0)
    host[:] = 7
    np.testing.assert_array_equal(to_host(x), want)


def test_a_pinned_source_is_read_later(sim):
    host = pinned_empty((100,), F4)
    host[:] = 1
    x = to_device(host, 0, non_blocking=True)
    host[:] = 2  # a mistake of the user, that shows: the copy had not run
    assert to_host(x)[0] == 2
    y = to_device(host, 0)
    host[:] = 3
    assert to_host(y)[0] == 2


def test_pinned_memory_waits_for_the_copy_that_reads_it(sim):
    host = pinned_empty((100,), F4)
    host[:] = 5
    place = address(host)
    x = to_device(host[10:], 0, non_blocking=True)
    del host
    other = pinned_empty((100,), F4)
    assert address(other) != place
    other[:] = 9
    np.testing.assert_array_equal(to_host(x), np.full(90, 5, F4))
    assert address(pinned_empty((100,), F4)) == place


def test_a_copy_to_the_host_that_does_not_wait(sim):
    x = to_device(numbers(50), 0)
    y = to_host(x, non_blocking=True)
    assert is_pinned(y)
    assert y.view(np.uint8)[0] == 0xCD  # not yet
    current_stream().synchronize()
    np.testing.assert_array_equal(y, numbers(50))


def test_pinned_arrays_are_ordinary(sim):
    x = pinned_empty((4, 6), F4)
    x[:] = 2
    assert type(x) is np.ndarray
    assert (x @ x.T)[0, 0] == 24
    assert is_pinned(x[1:].T)
    assert not is_pinned(x.copy())
    assert not is_pinned(np.zeros(3))


def test_copies_keep_the_order_of_their_stream(sim):
    side = Stream()
    with side:
        x = to_device(numbers(10), 0)
    with side:
        np.testing.assert_array_equal(to_host(x), numbers(10))


def test_between_devices(two):
    x = to_device(numbers(4, 6), 0)
    y = to_device(x.T, 1)
    assert str(device_of(y)) == "cuda:1"
    assert to_device(y, 1) is y
    np.testing.assert_array_equal(to_host(y), numbers(4, 6).T)


def test_between_devices_the_streams_wait_for_each_other(two):
    x = to_device(numbers(1000), 0)
    y = to_device(x, 1)
    del x
    fill_bytes(empty((1000,), F4, 0), 0)  # the memory of x, used again
    np.testing.assert_array_equal(to_host(y), numbers(1000))


def test_clone_and_dense(sim):
    x = to_device(numbers(4, 6), 0)
    assert dense(x) is x
    y = clone(x)
    fill_bytes(x, 0)
    np.testing.assert_array_equal(to_host(y), numbers(4, 6))
    np.testing.assert_array_equal(to_host(dense(y[::-1, ::2])), numbers(4, 6)[::-1, ::2])


@pytest.mark.parametrize("kernel", [False, True])
def test_writes_through_views(sim, kernel, monkeypatch):
    seen = []
    if kernel:

        def strided(target, source):
            seen.append(target.shape)
            copies._scatter(target, copies._gathered(source))

        monkeypatch.setattr(copies, "strided", strided)
    host = numbers(6, 8)
    x = to_device(host, 0)
    steps = [
        (lambda a: a[1:3], numbers(2, 8)),
        (lambda a: a[:, ::-2], numbers(6, 4)),
        (lambda a: a.T, numbers(8, 6)),
        (lambda a: a[2, 3, ...], numbers()),
        (lambda a: a[4], to_device(numbers(16)[::2], 0)),
        (lambda a: a[3:3], numbers(0, 8)),
    ]
    for view, value in steps:
        write(view(x), value)
        view(host)[...] = _host(value)
        np.testing.assert_array_equal(to_host(x), host)
    assert bool(seen) == kernel


def _host(value):
    return to_host(value) if device_of(value).type == "cuda" else value


def test_a_write_of_another_shape(sim):
    with pytest.raises(ArgumentError, match=r"expected float32\[3\], got float64\[3\]"):
        write(empty((3,), F4, 0), np.zeros(3))
    with pytest.raises(ArgumentError, match="fill_bytes: expected a dense array"):
        fill_bytes(empty((3, 4), F4, 0).T, 0)


def test_memory_that_another_stream_uses_waits(sim):
    side = Stream()
    x = to_device(numbers(100), 0)
    place = address(x)
    side.wait_stream(current_stream())
    with side:
        y = clone(x)
    used_by(x, side.cuda_stream)
    del x
    again = empty((100,), F4, 0)
    assert address(again) != place
    with side:
        np.testing.assert_array_equal(to_host(y), numbers(100))
    gpu(0).synchronize()
    assert address(empty((100,), F4, 0)) == place


def test_what_went_wrong_shows_at_the_copy(sim):
    left = [False, True]

    def check():
        if not left.pop():
            raise RunError("softmax: went wrong")
        return False

    gpu(0).pending.append(check)
    x = to_device(numbers(3), 0)
    to_host(x)
    assert gpu(0).pending == [check], "it had not ended"
    with pytest.raises(RunError, match="softmax: went wrong"):
        to_host(x)
    assert gpu(0).pending == []
    assert to_host(x).shape == (3,)


def test_a_lost_device_says_so_and_lets_go(sim):
    x = to_device(numbers(3), 0)
    sim.broken = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
    with pytest.raises(RunError, match="ILLEGAL_ADDRESS"):
        to_host(x)
    del x  # no noise from destructors
    assert allocator(0).stats()["active.all.current"] == 0


def test_arrays_of_the_host_are_no_arrays_of_a_device(sim):
    with pytest.raises(DeviceError):
        to_host(np.zeros(3))
