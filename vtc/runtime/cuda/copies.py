"""Copies between host and devices, in the order of the current stream.

    x = to_device(np.ones((64, 512), "f4"), 0)
    y = to_host(x)                                    # waits for what the stream was given

A copy with ``non_blocking`` returns before it is done where the host memory is pinned; the memory
stays until then. Dense arrays are copied by the driver. For others ``strided`` copies on the
device, a hook that the frontend sets; without it they go by way of the host.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vtc.errors import ArgumentError
from vtc.ir.types import Array
from vtc.runtime.buffer import address
from vtc.runtime.buffer import empty as empty_on_host
from vtc.runtime.cuda.array import DeviceArray, empty, index_of, is_device
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.pinned import lease_of, pinned_empty

strided: Callable[[DeviceArray, DeviceArray], None] | None = None
"""``strided(target, source)`` copies between arrays of one device, shape and dtype, with any
strides."""


def to_device(
    array: Array, device: int, *, non_blocking: bool = False, where: str | None = None
) -> DeviceArray:
    """``array`` on ``device``: itself if it is there, else a dense copy."""
    if isinstance(array, DeviceArray):
        return array if index_of(array) == device else _between(array, device, where)
    target = empty(array.shape, array.dtype, device, where)
    if target.size:
        _send(target, array, non_blocking=non_blocking)
    return target


def to_host(array: DeviceArray, *, non_blocking: bool = False) -> Array:
    """A dense copy on the host; errors of the work before it are raised here.

    With ``non_blocking`` it is pinned memory that is only filled once the stream is synchronised.
    """
    here = gpu(index_of(array))
    if not array.size:
        target = empty_on_host(array.shape, array.dtype)
    elif not array.flags.c_contiguous and strided is None:
        target = _gathered(array)
    else:
        source = dense(array)
        make = pinned_empty if non_blocking else empty_on_host
        target = make(array.shape, array.dtype)
        turn = here.launches.turn.value
        here.driver.copy(here.index, address(target), address(source), source.nbytes, here.stream)
        if non_blocking:
            _hold(target, here.index, here.stream)
            return target
        here.launches.waited(turn, here.stream)
    if here.pending:
        here.settle()
    return target


def dense(array: DeviceArray) -> DeviceArray:
    """``array`` itself if it is dense and row-major, else a dense copy."""
    return array if array.flags.c_contiguous else clone(array)


def clone(array: DeviceArray, where: str | None = None) -> DeviceArray:
    """A dense copy on the same device."""
    target = empty(array.shape, array.dtype, index_of(array), where)
    write(target, array)
    return target


def fill_bytes(array: DeviceArray, value: int) -> None:
    """Set every byte of a dense array; what makes zeros."""
    if not array.flags.c_contiguous:
        raise ArgumentError(f"fill_bytes: expected a dense array, got strides {array.strides}")
    here = gpu(index_of(array))
    if array.nbytes:
        here.driver.fill(here.index, address(array), value, array.nbytes, here.stream)


def write(target: DeviceArray, source: Array, *, non_blocking: bool = False) -> None:
    """Copy the elements of ``source``, of the same shape and dtype, into ``target``."""
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ArgumentError(
            f"write: expected {target.dtype}{list(target.shape)}, "
            f"got {source.dtype}{list(source.shape)}"
        )
    if not target.size:
        return
    if not is_device(source) and target.flags.c_contiguous:
        _send(target, source, non_blocking=non_blocking)
        return
    device = index_of(target)
    there = to_device(source, device)
    if target.flags.c_contiguous and there.flags.c_contiguous:
        here = gpu(device)
        here.driver.copy(device, address(target), address(there), target.nbytes, here.stream)
    elif strided is not None:
        strided(target, there)
    elif target.flags.c_contiguous:
        _send(target, _gathered(there), non_blocking=False)
    else:
        _scatter(target, to_host(there))


def _send(target: DeviceArray, source: Array, *, non_blocking: bool) -> None:
    """Fill a dense array from the host."""
    here = gpu(index_of(target))
    source = np.ascontiguousarray(source)
    here.driver.copy(here.index, address(target), address(source), source.nbytes, here.stream)
    if non_blocking:
        _hold(source, here.index, here.stream)
    elif lease_of(source) is not None:
        here.synchronize(here.stream)


def _hold(array: Array, device: int, stream: int) -> None:
    """Keep pinned memory until the stream has got past what it has now."""
    lease = lease_of(array)
    if lease is not None:
        lease.uses.add((device, stream))


def _between(array: DeviceArray, device: int, where: str | None) -> DeviceArray:
    """A dense copy on another device. The streams of both wait for each other."""
    source = dense(array)
    target = empty(array.shape, array.dtype, device, where)
    if target.size:
        mine, other = gpu(index_of(source)), gpu(device)
        _follow(mine.index, mine.stream, other.index, other.stream)
        mine.driver.copy(mine.index, address(target), address(source), source.nbytes, mine.stream)
        _follow(other.index, other.stream, mine.index, mine.stream)
    return target


def _follow(device: int, stream: int, before_device: int, before: int) -> None:
    """Let a stream wait for all that another one has now."""
    driver = gpu(device).driver
    event = driver.event(before_device, timing=False)
    driver.record(before_device, event, before)
    driver.wait_event(device, stream, event)
    driver.destroy_event(before_device, event)


def _span(array: DeviceArray) -> tuple[int, int]:
    """Where the bytes of an array begin and how many there are, gaps included."""
    reach = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    return address(array) + low, high - low + array.itemsize


def _bytes_of(array: DeviceArray) -> tuple[Array, Array]:
    """The bytes of an array on the host, gaps included, and the array in them."""
    here = gpu(index_of(array))
    start, nbytes = _span(array)
    raw = np.empty(nbytes, np.uint8)
    here.driver.copy(here.index, address(raw), start, nbytes, here.stream)
    offset = address(array) - start
    return raw, np.ndarray(array.shape, array.dtype, raw, offset, array.strides)


def _gathered(array: DeviceArray) -> Array:
    _, view = _bytes_of(array)
    return np.ascontiguousarray(view)


def _scatter(target: DeviceArray, source: Array) -> None:
    here = gpu(index_of(target))
    raw, view = _bytes_of(target)
    view[...] = source
    start, nbytes = _span(target)
    here.driver.copy(here.index, start, address(raw), nbytes, here.stream)
