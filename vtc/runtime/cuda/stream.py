"""Streams and events as PyTorch has them.

    side = Stream(priority=-1)
    side.wait_stream(current_stream())
    with side:                                 # or: with stream(side)
        y = f(x)
    current_stream().wait_stream(side)

    start, end = Event(enable_timing=True), Event(enable_timing=True)
    start.record(); f(x); end.record(); end.synchronize()
    start.elapsed_time(end)                    # milliseconds

Streams come from a pool of ``POOL`` per device and priority and are never destroyed, as memory
belongs to them. They do not wait for the default stream by themselves.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

from vtc.errors import ArgumentError, RunError
from vtc.runtime.cuda.device import Gpu, current_device, gpu, resolve, set_device
from vtc.runtime.cuda.driver import Driver
from vtc.runtime.device import Device

POOL = 32
Where = Device | str | int | None


@final
class Stream:
    """A queue of work of a device; as a context manager it is the current one inside."""

    __slots__ = ("_index", "cuda_stream", "priority")

    def __init__(self, device: Where = None, priority: int = 0) -> None:
        self._index = resolve(device)
        here = gpu(self._index)
        least, greatest = here.driver.priorities(self._index)
        self.priority = min(max(priority, greatest), least)
        self.cuda_stream = _pooled(here, self.priority)
        """The handle, a ``cudaStream_t``."""

    @property
    def device(self) -> Device:
        """The device it belongs to."""
        return Device("cuda", self._index)

    def wait_stream(self, stream: Stream) -> None:
        """Let later work here wait for all that ``stream`` has now."""
        self.wait_event(stream.record_event())

    def wait_event(self, event: Event) -> None:
        """Let later work here wait for an event."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """An event (``event`` itself, if given) that is done when all work is that is here now."""
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        """Wait for all work; raises what went wrong in it."""
        gpu(self._index).synchronize(self.cuda_stream)

    def query(self) -> bool:
        """Whether no work is left."""
        return gpu(self._index).driver.stream_done(self._index, self.cuda_stream)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.cuda_stream

    def __enter__(self) -> Stream:
        here = gpu(self._index)
        _entered().append((current_device(), here.stream))
        here.stream = self.cuda_stream
        set_device(self._index)
        return self

    def __exit__(self, *_: object) -> None:
        device, before = _entered().pop()
        gpu(self._index).stream = before
        set_device(device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<vtc.cuda.Stream device={self.device} cuda_stream={self.cuda_stream:#x}>"

    def _key(self) -> tuple[int, int]:
        return self._index, self.cuda_stream


@final
class Event:
    """A point in the work of a stream. ``blocking`` and ``interprocess`` are PyTorch's, unused."""

    __slots__ = ("_driver", "_handle", "_index", "_timing")

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        del blocking
        if interprocess:
            raise ArgumentError("Event: expected interprocess=False, got True: not supported")
        self._timing = enable_timing
        self._handle = 0  # made when first recorded: only then the device is known
        self._index = 0
        self._driver: Driver | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Be done when all work is that ``stream`` (or the current one) has now."""
        stream = stream or current_stream()
        if self._driver is None:
            self._index = stream._index
            self._driver = gpu(self._index).driver
            self._handle = self._driver.event(self._index, timing=self._timing)
        elif self._index != stream._index:
            raise ArgumentError(
                f"Event: expected a stream of cuda:{self._index}, got one of {stream.device}"
            )
        self._driver.record(self._index, self._handle, stream.cuda_stream)

    def wait(self, stream: Stream | None = None) -> None:
        """Let later work of ``stream`` (or the current one) wait for this."""
        stream = stream or current_stream()
        if self._driver is not None:
            self._driver.wait_event(stream._index, stream.cuda_stream, self._handle)

    def query(self) -> bool:
        """Whether it is done; one that was never recorded is."""
        return self._driver is None or self._driver.event_done(self._index, self._handle)

    def synchronize(self) -> None:
        """Wait for it; raises what went wrong before it."""
        if self._driver is None:
            return
        self._driver.synchronize_event(self._index, self._handle)
        gpu(self._index).settle()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this to ``end_event``; both are done and were made with timing."""
        for event in (self, end_event):
            if not event._timing:
                raise ArgumentError("elapsed_time: expected events with enable_timing=True")
            if event._driver is None:
                raise ArgumentError("elapsed_time: expected a recorded event, got a new one")
            if not event.query():
                raise ArgumentError("elapsed_time: expected an event that is done; synchronize it")
        return gpu(self._index).driver.elapsed(self._index, self._handle, end_event._handle)

    @property
    def cuda_event(self) -> int:
        """The handle, a ``cudaEvent_t``; 0 before it is first recorded."""
        return self._handle

    def __repr__(self) -> str:
        return f"<vtc.cuda.Event {self._handle:#x}>"

    def __del__(self) -> None:
        driver = getattr(self, "_driver", None)
        if driver is None or sys is None or sys.is_finalizing():
            return
        with suppress(RunError):  # the device is lost; whoever uses it next is told
            driver.destroy_event(self._index, self._handle)


def current_stream(device: Where = None) -> Stream:
    """The stream that work of this thread goes to."""
    index = resolve(device)
    return external_stream(gpu(index).stream, index)


def default_stream(device: Where = None) -> Stream:
    """The stream that work goes to where no other was chosen."""
    return external_stream(0, resolve(device))


def external_stream(handle: int, device: Where = None) -> Stream:
    """The stream of another library, by its handle; it must outlive all memory used on it."""
    made = Stream.__new__(Stream)
    made._index, made.cuda_stream, made.priority = resolve(device), handle, 0
    return made


def set_stream(stream: Stream) -> None:
    """Make ``stream`` the current one of this thread, and its device the current device."""
    set_device(stream._index)
    gpu(stream._index).stream = stream.cuda_stream


@contextmanager
def stream(stream: Any) -> Iterator[None]:
    """Another current stream inside: a Stream, or anything with ``__cuda_stream__``; None: none."""
    if stream is None:
        yield
        return
    if not isinstance(stream, Stream):
        stream = external_stream(stream.__cuda_stream__()[1])
    with stream:
        yield


_making = threading.RLock()
_here = threading.local()


def _pooled(here: Gpu, priority: int) -> int:
    """The next stream of the pool, round and round."""
    with _making:
        pool = here.pools.get(priority)
        if pool is None:
            pool = here.pools[priority] = _fresh(here.driver, here.index, priority)
        return next(pool)


def _fresh(driver: Driver, device: int, priority: int) -> Iterator[int]:
    made = []
    for _ in range(POOL):
        made.append(driver.stream(device, priority))
        yield made[-1]
    yield from itertools.cycle(made)


def _entered() -> list[tuple[int, int]]:
    stack: list[tuple[int, int]] | None = getattr(_here, "stack", None)
    if stack is None:
        stack = _here.stack = []
    return stack
