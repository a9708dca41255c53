"""Host memory that is 64-byte aligned and comes back: fresh pages cost more than most kernels.

``empty`` gives an ordinary NumPy array. When the last view of it dies its block is kept and handed
out again, so a loop that drops its outputs touches no new page::

    y = empty((64, 512), np.dtype("f4"))
    address(y) % ALIGNMENT            # 0

There is no lock: arrays die whenever the collector runs, also in the middle of ``empty``. Lists of
free blocks change by single appends and pops, which Python does not interrupt.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np

from vtc.ir.types import Array

ALIGNMENT = 64
SMALL = 1024
LARGE = 1 << 20
PAGE = 1 << 12
KEPT = 1 << 30
"""Bytes of free large blocks that are kept; those beyond go back to the system."""
KEPT_SMALL = 1 << 22
"""Bytes of free blocks that are kept of each size below ``LARGE``."""

Spare = tuple[Array, int]
"""An array nobody uses, and its address."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array with undefined elements, from the cache; 64-byte aligned if it is not small."""
    return lease(shape, dtype, prod(shape) * dtype.itemsize)


def lease(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Array:
    """:func:`empty` where the caller has counted the bytes.

    Up to ``SMALL`` bytes it is NumPy's own, aligned for its dtype: NumPy keeps such blocks itself.
    """
    if nbytes <= SMALL:
        return np.empty(shape, dtype)
    size = size_class(nbytes)
    try:
        block = _FREE[size].pop()
    except (KeyError, IndexError):
        block = aligned(size).view(_Block)
    return np.ndarray(shape, dtype, block.view(_Lease))


def spares(spare: list[Spare], shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Spare:
    """What :func:`lease` gives, with its address; if it is small, more of them go to ``spare``.

    Made many at a time they cost far less. They are 64-byte aligned parts of one page, which is
    kept until the last of them dies.
    """
    step = size_class(max(nbytes, 1))
    if nbytes > SMALL or not shape:
        array = lease(shape, dtype, nbytes)
        return array, address(array)
    count, inner = PAGE // step, np.empty(shape, dtype).strides
    block = aligned(PAGE)
    parts = np.ndarray((count, *shape), dtype, block.view(_Block).view(_Page), 0, (step, *inner))
    spare += zip(parts, range(address(block), address(block) + PAGE, step), strict=False)
    return spare.pop()


def aligned(nbytes: int) -> Array:
    """``nbytes`` bytes, 64-byte aligned, outside the cache."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    return raw[start : start + nbytes]


def whole(array: Array) -> Array:
    """All the memory that ``array`` shares with views of it, and with nothing else.

    It is the same object each time, as long as somebody keeps it.
    """
    owner = array
    while type(owner.base) is np.ndarray:
        owner = owner.base
    if type(owner.base) is not _Page:
        return owner
    k = (address(array) - address(owner)) // owner.strides[0]
    part = owner[k]
    return _PARTS.setdefault(address(part), part)


def seen(owner: Array, start: int, like: Array) -> Array:
    """The memory of ``owner``, which is dense, from the byte ``start`` on, as ``like`` is seen."""
    memory = owner.reshape(-1, order="A").view(np.uint8)
    found: Array = np.ndarray(like.shape, like.dtype, memory, start, like.strides)
    return found


def copied(array: Array, memo: dict[int, Any]) -> Array:
    """A copy of ``array`` for ``copy.deepcopy``: what shared memory with it does so again."""
    owner = whole(array)
    if not owner.size or not (owner.flags.c_contiguous or owner.flags.f_contiguous):
        return array.copy()
    if id(owner) not in memo:
        memo[id(owner)] = owner.copy(order="K")
        memo.setdefault(id(memo), []).append(owner)  # as long as it lives, nothing else has its id
    there: Array = memo[id(owner)]
    return there if array is owner else seen(there, address(array) - address(owner), array)


def cached_bytes() -> int:
    """Free bytes that wait to be handed out again."""
    return sum(size * len(blocks) for size, blocks in list(_FREE.items()))


def trim() -> None:
    """Give all free blocks back to the system."""
    _FREE.clear()


def size_class(nbytes: int) -> int:
    """``nbytes`` rounded up to a size blocks come in: at most a quarter too large."""
    step = max(ALIGNMENT, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return -(-nbytes // step) * step


@final
class _Block(np.ndarray[Any, np.dtype[Any]]):
    """Memory that is handed out again and again."""

    __slots__ = ()


@final
class _Page(np.ndarray[Any, np.dtype[Any]]):
    """Memory of small arrays that have nothing to do with each other."""

    __slots__ = ()


@final
class _Lease(np.ndarray[Any, np.dtype[Any]]):
    """One use of a block: the base of every array over it, so it dies with the last of them.

    Array, lease and block have three types because NumPy shortens chains of bases of one type: the
    lease would be left out, and the block handed out again under a living view. Pages are so, too.
    """

    __slots__ = ()

    def __del__(self) -> None:
        if _Block is None:  # the interpreter is ending, and has cleared this module
            return
        if isinstance(self.base, _Block):
            _keep(self.base)


def _keep(block: _Block) -> None:
    size = block.size
    free = _FREE.get(size)
    if free is None:
        free = _FREE.setdefault(size, [])
    kept = size * len(free) < KEPT_SMALL if size < LARGE else cached_bytes() + size <= KEPT
    if kept:
        free.append(block)


def _by_interface(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _by_field(array: Array) -> int:
    """The field ``data`` of the C struct, part of NumPy's binary interface: ten times faster."""
    return _MEMORY[(id(array) + _HEADER) >> 3]


def _fastest() -> Callable[[Array], int]:
    probe = np.zeros(8, np.uint8)[3:]
    try:
        works = _by_field(probe) == _by_interface(probe)
    except (IndexError, ValueError):
        works = False
    return _by_field if works else _by_interface


_HEADER = object.__basicsize__
_WORDS = 1 << 45 if ctypes.sizeof(ctypes.c_void_p) == 8 else 0
"""All that a process can address: 48 bits of bytes."""
_MEMORY = (ctypes.c_uint64 * _WORDS).from_address(0)
address: Callable[[Array], int] = _fastest()
"""Where the first element of an array lies."""

_FREE: dict[int, list[_Block]] = {}
_PARTS: WeakValueDictionary[int, Array] = WeakValueDictionary()
"""Of pages, by address, as far as :func:`whole` was asked for them."""
