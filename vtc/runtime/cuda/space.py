"""Arrays at any address, without owning or touching what is there.

>>> array_at(np.ndarray, 0x7F2A00000000, 4096).size
4096
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeVar

import numpy as np

A = TypeVar("A", bound=np.ndarray[Any, np.dtype[Any]])
_FROM = 1 << 12
_SPACE: Any = (ctypes.c_uint8 * ((1 << 48) - _FROM)).from_address(_FROM)
"""All that a process or a device can address. It cannot begin at 0, which means no buffer."""
_BYTES = np.dtype(np.uint8)


def array_at(kind: type[A], address: int, nbytes: int) -> A:
    """``nbytes`` bytes at ``address`` as an array of ``kind``."""
    return kind.__new__(kind, (nbytes,), _BYTES, _SPACE, address - _FROM)
