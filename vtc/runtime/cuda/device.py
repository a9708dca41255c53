"""The state of each GPU: its memory, the current device and stream of each thread, what is pending.

>>> gpu(0).allocator.stats()["allocated_bytes.all.current"]
0
>>> current_device(), current_stream(0)
(0, 0)

``gpu(i)`` is made at its first use. ``where`` is a hook: the frontend sets it to what names the
user's line, and allocations remember that. ``pending`` are checks of work whose errors only show
when it has run: they run at every synchronising call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from vtc.config import config
from vtc.errors import DeviceError
from vtc.runtime.allocator import Allocator
from vtc.runtime.cuda.driver import Driver, Facts, driver
from vtc.runtime.cuda.launches import Launches
from vtc.runtime.device import Device

OLDEST = (8, 0)
"""The oldest compute capability that kernels are made for."""

Check = Callable[[], bool]
"""Whether the work it looks at has ended; raises if that work went wrong."""

where: Callable[[], str] = str
"""What names the user's line; the frontend sets it (``device.where = ...``)."""


@final
class _Here(threading.local):
    current = 0


@final
class Gpu:
    """One device. ``stream`` is the current one of the calling thread."""

    def __init__(self, driver: Driver, index: int) -> None:
        self.driver = driver
        self.index = index
        self.facts: Facts = driver.facts(index)
        if self.facts.capability < OLDEST:
            raise DeviceError(
                f"cuda:{index}: expected compute capability {_dotted(OLDEST)} or newer, "
                f"got {_dotted(self.facts.capability)} ({self.facts.name})"
            )
        self.allocator = Allocator(_Memory(driver, index, self.facts), exact=config().cuda_guard)
        self.pending: list[Check] = []
        """A check is called again until it gives True; one that raises is dropped."""
        self.pools: dict[int, Iterator[int]] = {}
        """Streams to hand out, by priority."""
        self.launches = Launches(index)
        self.here = _Here()
        """``current``: the current stream of this thread."""

    @property
    def stream(self) -> int:
        """The current stream of this thread."""
        return self.here.current

    @stream.setter
    def stream(self, stream: int) -> None:
        self.here.current = stream

    def where(self) -> str:
        """The user's line."""
        return where()

    def synchronize(self, stream: int | None = None) -> None:
        """Wait for a stream, or for everything; then raise what went wrong."""
        turn = self.launches.turn.value
        if stream is None:
            self.driver.synchronize(self.index)
        else:
            self.driver.synchronize_stream(self.index, stream)
        self.launches.waited(turn, stream)
        if self.pending:
            self.settle()

    def settle(self) -> None:
        """Run the checks of work that may have ended; raises the first error."""
        checks, self.pending = self.pending, []
        errors: list[Exception] = []
        for check in checks:
            try:
                if not check():
                    self.pending.append(check)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


def gpu(index: int) -> Gpu:
    """The state of device ``index``; DeviceError if there is none."""
    found = _gpus.get(index)
    if found is None or found.driver is not driver():
        return _first_use(index)
    return found


def all_used() -> list[Gpu]:
    """The devices that were used so far."""
    return [g for g in list(_gpus.values()) if g.driver is driver()]


def used(device: Device | str | int | None) -> Gpu | None:
    """The state of a device, if it was used so far; nothing is loaded to tell."""
    known = {g.index: g for g in all_used()}
    if not known:
        return None
    return known.get(resolve(device))


def count() -> int:
    """Devices that can be used."""
    return driver().count()


def resolve(device: Device | str | int | None) -> int:
    """The number of a CUDA device; None and ``cuda`` are the current one. DeviceError if absent."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        return _existing(device)
    device = Device.parse(device)
    if device.type != "cuda":
        raise DeviceError(f"device: expected cuda or cuda:<index>, got {str(device)!r}")
    return current_device() if device.index is None else _existing(device.index)


def current_device() -> int:
    """The current device of this thread."""
    index: int = getattr(_here, "device", 0)
    return index


def set_device(device: Device | str | int) -> None:
    """Make another device the current one of this thread."""
    _here.device = resolve(device)


@contextmanager
def on_device(device: Device | str | int | None) -> Iterator[None]:
    """Another current device inside."""
    before = current_device()
    set_device(resolve(device))
    try:
        yield
    finally:
        _here.device = before


def current_stream(device: int) -> int:
    """The current stream of this thread on ``device``; 0 is the default one."""
    return gpu(device).stream


def allocator(device: int) -> Allocator:
    """The allocator of ``device``."""
    return gpu(device).allocator


def synchronize(device: int) -> None:
    """Wait for all work of ``device``; raises what went wrong."""
    gpu(device).synchronize()


_gpus: dict[int, Gpu] = {}
_making = threading.RLock()
_here = threading.local()


def _first_use(index: int) -> Gpu:
    with _making:
        found = _gpus.get(index)
        if found is None or found.driver is not driver():
            found = _gpus[index] = Gpu(driver(), _existing(index))
        return found


def _existing(index: int) -> int:
    here = driver().count()
    if not here:
        raise DeviceError(f"cuda: {driver().why()}")
    if not 0 <= index < here:
        names = "cuda:0" if here == 1 else f"cuda:0 to cuda:{here - 1}"
        raise DeviceError(f"device: expected {names}, got 'cuda:{index}'")
    return index


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


@final
class _Memory:
    """What the allocator needs of a device. Events are used again."""

    def __init__(self, driver: Driver, index: int, facts: Facts) -> None:
        self.name = f"cuda:{index} ({facts.name})"
        self.total = facts.memory
        self._driver = driver
        self._index = index
        self._idle: list[int] = []

    def reserve(self, nbytes: int) -> int | None:
        return self._driver.reserve(self._index, nbytes)

    def release(self, address: int) -> None:
        self._driver.release(self._index, address)

    def record(self, stream: int) -> Any:
        event = self._idle.pop() if self._idle else self._driver.event(self._index, timing=False)
        self._driver.record(self._index, event, stream)
        return event

    def done(self, event: Any) -> bool:
        done = self._driver.event_done(self._index, event)
        if done:
            self._idle.append(event)
        return done

    def wait(self, event: Any) -> None:
        self._driver.synchronize_event(self._index, event)
        self._idle.append(event)
