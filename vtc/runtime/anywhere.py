"""Arrays of the host and of GPUs, where the half of the runtime that knows GPUs need not be loaded.

It takes as long to import as all that a package of a CPU needs, so it loads when it is first used::

    is_device(array)              # loads nothing
    arrays.index_of(array)        # vtc.runtime.cuda.array
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from vtc import lazy
from vtc.ir.types import Array
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.runtime.cuda import array as arrays
    from vtc.runtime.cuda import copies
    from vtc.runtime.cuda import device as devices
    from vtc.runtime.cuda import driver as drivers
    from vtc.runtime.cuda import executable as executables
else:
    arrays = lazy.module("vtc.runtime.cuda.array")
    copies = lazy.module("vtc.runtime.cuda.copies")
    devices = lazy.module("vtc.runtime.cuda.device")
    drivers = lazy.module("vtc.runtime.cuda.driver")
    executables = lazy.module("vtc.runtime.cuda.executable")

__all__ = [
    "CPU",
    "arrays",
    "copies",
    "device_of",
    "devices",
    "drivers",
    "executables",
    "is_device",
]

CPU = Device("cpu")


def is_device(array: object) -> TypeGuard[arrays.DeviceArray]:
    """Whether the memory of an array is on a GPU."""
    if type(array) is np.ndarray or "vtc.runtime.cuda.array" not in sys.modules:
        return False
    return type(array) is arrays.DeviceArray


def device_of(array: Array) -> Device:
    """The device an array is on."""
    return arrays.device_of(array) if is_device(array) else CPU
