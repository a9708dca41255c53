"""Streams and events as PyTorch's."""

import threading

import numpy as np
import pytest

from vtc.errors import ArgumentError, RunError
from vtc.runtime.cuda.array import empty
from vtc.runtime.cuda.copies import clone, fill_bytes, to_device, to_host
from vtc.runtime.cuda.device import current_device, current_stream, gpu, on_device, set_device
from vtc.runtime.cuda.stream import (
    POOL,
    Event,
    Stream,
    default_stream,
    external_stream,
    set_stream,
    stream,
)
from vtc.runtime.cuda.stream import current_stream as current

F4 = np.dtype("f4")


def zeros(n=100):
    x = empty((n,), F4, 0)
    fill_bytes(x, 0)
    return x


def test_a_stream_is_current_inside(sim):
    side, other = Stream(), Stream(priority=-1)
    assert current() == default_stream()
    with side as entered:
        assert entered is side
        assert current_stream(0) == side.cuda_stream
        with stream(other), stream(None), side:
            assert current() == side
        assert current() == side
    assert current_stream(0) == 0


def test_a_stream_is_current_on_its_thread_alone(sim):
    seen = []
    with Stream():
        thread = threading.Thread(target=lambda: seen.append(current_stream(0)))
        thread.start()
        thread.join()
    assert seen == [0]


def test_a_stream_takes_its_device_along(two):
    side = Stream("cuda:1")
    with side:
        assert current_device() == 1
        assert current() == side
    assert current_device() == 0
    with on_device(1):
        assert str(Stream().device) == "cuda:1"
    set_stream(side)
    assert (current_device(), current_stream(0), current_stream(1)) == (1, 0, side.cuda_stream)
    set_device(0)
    assert current() == default_stream("cuda:0")


def test_streams_do_not_wait_by_themselves(sim):
    x = zeros()
    with Stream():
        early = clone(x)  # the fill has not run
        assert to_host(early).view(np.uint8)[0] == 0xCD


def test_wait_stream(sim):
    x, side = zeros(), Stream()
    side.wait_stream(current())
    with side:
        assert to_host(clone(x)).sum() == 0


def test_wait_event(sim):
    x, side = zeros(), Stream()
    done = current().record_event()
    fill_bytes(x, 1)
    side.wait_event(done)
    with side:
        assert to_host(clone(x)).sum() == 0, "the event was recorded before the second fill"


def test_query_and_synchronize(sim):
    side = Stream()
    event = Event()
    assert event.query()
    event.synchronize()
    event.wait(side)
    with side:
        zeros()
        event.record()
    assert not side.query()
    assert not event.query()
    side.synchronize()
    assert side.query()
    assert event.query()
    assert sim.queued(0, side.cuda_stream) == 0


def test_elapsed_time(sim):
    start, end = Event(enable_timing=True), Event(enable_timing=True)
    with pytest.raises(ArgumentError, match="expected a recorded event, got a new one"):
        start.elapsed_time(end)
    start.record()
    zeros()
    end.record()
    with pytest.raises(ArgumentError, match="expected an event that is done"):
        start.elapsed_time(end)
    end.synchronize()
    assert start.elapsed_time(end) >= 0
    with pytest.raises(ArgumentError, match="expected events with enable_timing=True"):
        start.elapsed_time(Event())


def test_events_are_destroyed(sim):
    event = Event()
    event.record()
    assert event.cuda_event
    del event
    assert sim.calls["destroy_event"] == 1


def test_an_event_stays_on_its_device(two):
    event = Event()
    event.record()
    with pytest.raises(ArgumentError, match="expected a stream of cuda:0, got one of cuda:1"):
        event.record(Stream("cuda:1"))
    with pytest.raises(ArgumentError, match="interprocess"):
        Event(interprocess=True)


def test_streams_come_from_a_pool(sim):
    made = [Stream().cuda_stream for _ in range(POOL)]
    assert len(set(made)) == POOL
    assert [Stream().cuda_stream for _ in range(POOL)] == made
    assert Stream(priority=-1).cuda_stream not in made
    assert Stream(priority=-100).priority == -5
    assert Stream(priority=3).priority == 0


def test_the_protocol_of_other_libraries(sim):
    side = Stream()
    assert side.__cuda_stream__() == (0, side.cuda_stream)

    class Foreign:
        def __cuda_stream__(self):
            return 0, side.cuda_stream

    with stream(Foreign()):
        assert current() == side
    assert external_stream(side.cuda_stream) == side
    assert len({side, external_stream(side.cuda_stream)}) == 1
    assert "device=cuda:0 cuda_stream=0x" in repr(side)


def test_what_went_wrong_shows_at_synchronize(sim):
    def check():
        raise RunError("went wrong")

    for wait in (Stream().synchronize, current().record_event().synchronize, gpu(0).synchronize):
        gpu(0).pending.append(check)
        with pytest.raises(RunError, match="went wrong"):
            wait()
        wait()


def test_memory_belongs_to_its_stream(sim):
    side = Stream()
    x = to_device(np.ones(100, F4), 0)
    place = x.__array_interface__["data"][0]
    del x
    with side:
        assert empty((100,), F4, 0).__array_interface__["data"][0] != place
    assert empty((100,), F4, 0).__array_interface__["data"][0] == place
