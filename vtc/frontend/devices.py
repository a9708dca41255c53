"""Which device is meant, where an array lies, and how its elements get somewhere else.

resolve("cuda")            # Device("cuda:0"): the current one, checked to be there
home(array)                # the device of an array
moved(array, device)       # its elements there
host(array)                # its elements in NumPy; waits for them

Nothing here knows tensors. The cpu never asks the driver for anything.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from vtc.errors import DeviceError
from vtc.frontend.source import is_user_file, located
from vtc.ir.types import Array
from vtc.runtime.cuda import copies, pinned
from vtc.runtime.cuda import device as cuda
from vtc.runtime.cuda.array import DeviceArray, index_of, used_by
from vtc.runtime.device import Device

CPU = Device("cpu")


def resolve(device: Device | str) -> Device:
    """The device called so; ``cuda`` is the current one. DeviceError if it is not there."""
    try:
        found = Device.parse(device)
        if found.type == "cpu":
            return CPU
        wanted = cuda.current_device() if found.index is None else found.index
        return gpu(cuda.resolve(wanted))
    except DeviceError as error:
        raise located(DeviceError, str(error)) from None


@lru_cache
def gpu(index: int) -> Device:
    """``cuda:index``, one object for all."""
    return Device("cuda", index)


def index(device: Device) -> int:
    """The number of a device that is resolved; 0 for the cpu."""
    return device.index or 0


def home(array: Array) -> Device:
    """Where ``array`` lies."""
    return gpu(index_of(array)) if isinstance(array, DeviceArray) else CPU


def host(array: Array) -> Array:
    """``array``, or its elements copied to the host, which waits for what computes them."""
    if not isinstance(array, DeviceArray):
        return array
    return copies.to_host(array)


def moved(array: Array, device: Device, *, non_blocking: bool = False) -> Array:
    """The elements of ``array`` in memory of ``device``; ``array`` itself if it lies there."""
    if home(array) == device:
        return array
    if device.type == "cpu":
        assert isinstance(array, DeviceArray)
        return copies.to_host(array, non_blocking=non_blocking)
    return copies.to_device(array, index(device), non_blocking=non_blocking)


def pin(array: Array) -> Array:
    """The elements of a host array in pinned memory."""
    out = pinned.pinned_empty(array.shape, array.dtype)
    np.copyto(out, array)
    return out


def is_pinned(array: Array) -> bool:
    """Whether copies of ``array`` to a device run beside the host."""
    return not isinstance(array, DeviceArray) and pinned.is_pinned(array)


def use(array: Array, stream: int) -> None:
    """Say that ``stream`` works with the memory of ``array``."""
    if isinstance(array, DeviceArray):
        used_by(array, stream)


def _line() -> str:
    """The user's line, as the allocator remembers it. Each array of eager code asks."""
    frame = sys._getframe(1)
    while (file := frame.f_code.co_filename) in _OURS or _is_ours(file):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f"{file}:{frame.f_lineno}"


def _is_ours(file: str) -> bool:
    ours = not is_user_file(file)
    if ours:
        _OURS.add(file)
    return ours


_OURS: set[str] = set()
cuda.where = _line
