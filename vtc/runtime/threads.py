"""The threads that kernels run on: one pool per process, whoever calls.

A kernel with enough work runs in as many parts as there are threads; the calling thread is one of
them, so with one thread nothing is started. Results do not depend on the number. While one call is
in a kernel that has the pool, kernels of other Python threads run alone in their own::

    set_num_threads(4)                # or VTC_NUM_THREADS=4
    get_num_threads()                 # 4
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import final

from vtc.config import MOST_THREADS, config
from vtc.errors import ArgumentError, RunError

SYMBOL = "vtc_pool_of_process"


@final
class _Pool(ctypes.Structure):
    """``vtc_pool`` in C; see :mod:`vtc.ir.plan`."""

    _fields_ = (("run", ctypes.c_void_p), ("threads", ctypes.c_int64))


@final
class _Threads:
    """How many threads are wanted, and the pool once it is loaded."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.chosen: int | None = None
        self.pool: _Pool | None = None


_STATE = _Threads()


def get_num_threads() -> int:
    """How many threads a kernel may run on."""
    return _STATE.chosen or config().num_threads


def set_num_threads(n: int) -> None:
    """Let kernels run on ``n`` threads, from their next call on; by default one per core."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_THREADS:
        want = f"expected an int from 1 to {MOST_THREADS}"
        raise ArgumentError(f"set_num_threads: {want}, got {n!r}")
    with _STATE.lock:
        _STATE.chosen = n
        if _STATE.pool is not None:
            _STATE.pool.threads = n


def pool(library: Callable[[], Path]) -> ctypes.c_void_p:
    """The pool as an argument; the first call loads it from ``library()``. RunError if it cannot
    be loaded.
    """
    with _STATE.lock:
        if _STATE.pool is None:
            _STATE.pool = _load(library())
            _STATE.pool.threads = get_num_threads()
        return ctypes.c_void_p(ctypes.addressof(_STATE.pool))


def _load(path: Path) -> _Pool:
    try:
        return _Pool.in_dll(ctypes.CDLL(str(path)), SYMBOL)
    except (OSError, ValueError) as error:
        raise RunError(f"load: expected a library with {SYMBOL}, got {error}") from error
