"""The compiled library of a plan: loaded once, called through one C function.

A call passes five pointers that were made beforehand, so it costs a fraction of a microsecond; the
interpreter lock is released while it runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtc.errors import RunError

ENTRY = "vtc_run"
Arguments = tuple[Any, Any, Any, Any, Any]
Entry = Callable[[Any, Any, Any, Any, Any], int]
"""``entry(inputs, outputs, arena, dims, pool)``, pointers as ctypes has them; see
:mod:`vtc.ir.plan`.
"""


def load(path: Path) -> Entry:
    """The entry of the library at ``path``; RunError if it cannot be loaded."""
    try:
        function = getattr(ctypes.CDLL(str(path)), ENTRY)
    except (OSError, AttributeError) as error:
        raise RunError(f"load: expected a library with {ENTRY}, got {error}") from error
    # No argtypes: converting arguments costs more than the call.
    function.restype = ctypes.c_int64
    entry: Entry = function
    return entry


def pointers(count: int) -> ctypes.Array[ctypes.c_void_p]:
    """An array of ``count`` null pointers."""
    return (ctypes.c_void_p * count)()


def pointer(address: int) -> ctypes.c_void_p:
    """An address as an argument."""
    return ctypes.c_void_p(address)


def reference(values: Any, start: int = 0) -> Any:
    """A C array of 64-bit values, from ``start`` on, as an argument; nothing costs ctypes less."""
    return ctypes.byref(values, start * ctypes.sizeof(ctypes.c_void_p))


def integers(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    """64-bit integers as an argument."""
    return (ctypes.c_int64 * len(values))(*values)
