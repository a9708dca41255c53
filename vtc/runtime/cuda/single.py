"""A program of one launch at one size: what eager code runs again and again.

All that stays (the kernel, its grid, its sizes) is written down once. A call takes memory for the
output, and gives the addresses to a C function that launches (``patch.c.jinja``)::

    single = executable.single([x, y], (8, 5))
    array, place = single.call(address(x), address(y))

Where there is no C function, and to say in words what went wrong, Python does it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np

from vtc.ir.types import Array
from vtc.runtime.allocator import NOTES
from vtc.runtime.cuda.array import DeviceArray, lease
from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.graph import blaming
from vtc.runtime.cuda.steps import Layout, Run
from vtc.runtime.shelf import Shelf

ENTRY = "vtc_single_run"
DRIVER = ("cuLaunchKernel", "cuCtxSetCurrent", "cuCtxGetCurrent")
"""What the C function calls, in the order of its fields."""
INPUTS = 3
WORDS = 16
"""Arguments of a kernel that the C function has room for."""
_GIVEN = INPUTS + 2
_array: Any = np.ndarray.__new__
Launch = Callable[..., int]
Ready = tuple[Any, Callable[[], int]]
"""Where a call writes the addresses of inputs and output, and the stream; then what launches."""


@final
class Single:
    """See the module. ``inputs`` is how many there are, ``made`` shape and dtype of the output, and
    ``where`` what its memory is for; None is the user's line. ``name`` is the program's.
    """

    __slots__ = (
        "_calls", "_function", "_gpu", "_here", "_idle", "_made", "_mark", "_nbytes", "_node",
        "_notes", "_order", "_patcher", "_shelves", "_where",
    )  # fmt: skip

    def __init__(
        self,
        gpu: Gpu,
        node: Run,
        function: int,
        inputs: int,
        made: tuple[tuple[int, ...], np.dtype[Any]],
        *,
        name: str,
        where: str | None,
        patcher: Path | None,
    ) -> None:
        shape, dtype = made
        self._gpu, self._here, self._notes = gpu, gpu.here, gpu.allocator.notes
        self._node, self._function, self._made, self._where = node, function, made, where
        self._nbytes = prod(shape) * dtype.itemsize
        self._order = [p.slot if p.slot < inputs else INPUTS for p in node.places]
        self._shelves: dict[int, Shelf] = {}
        self._mark = gpu.launches.mark(name, ctypes.c_uint64(0))
        self._calls = [0] if patcher is None else [gpu.driver.symbol(call) for call in DRIVER]
        self._patcher = patcher if all(self._calls) else None
        self._idle: list[Ready] = []

    def call(self, a: int = 0, b: int = 0, c: int = 0) -> tuple[Array, int]:
        """The output and its address, given the addresses of the inputs, 16-byte aligned."""
        gpu, stream, notes = self._gpu, self._here.current, self._notes
        where, nbytes = self._where, self._nbytes
        if where is None:
            where = gpu.where()
        if len(notes) > NOTES:
            gpu.allocator.settle()
        try:  # ``lease``, written out: a step is a tenth of a small call
            loan: Any = self._shelves[stream].pop()
            block = loan.base.block
            notes.append((block, nbytes, where))
        except (KeyError, IndexError):
            self._shelves[stream] = gpu.allocator.shelf(nbytes, stream)
            loan = lease(nbytes, gpu, stream, where)
            block = loan.block
        out = block.address
        if self._patcher is None:
            self._slowly(stream, (a, b, c, out))
            return _array(DeviceArray, *self._made, loan), out
        idle = self._idle
        ready = idle.pop() if idle else self._ready(self._patcher)
        given, launch = ready
        given[0], given[1], given[2], given[3], given[4] = a, b, c, out, stream
        failed = launch()
        idle.append(ready)
        if failed:
            self._slowly(stream, (a, b, c, out))
        return _array(DeviceArray, *self._made, loan), out

    def _ready(self, patcher: Path) -> Ready:
        """``vtc_single`` of ``patch.c.jinja``, for one call at a time."""
        node, mark = self._node, self._mark
        words = [*self._order, *node.sizes]
        head = [
            *self._calls,
            0,
            *map(ctypes.addressof, (self._gpu.launches.turn, mark.last, mark.stream)),
            self._function,
            *node.grid,
            node.binary.warps,
            node.binary.shared,
            len(self._order),
            *words,
            *[0] * (WORDS - len(words)),
        ]
        fields = (ctypes.c_uint64 * (len(head) + _GIVEN))(*head)
        given = (ctypes.c_uint64 * _GIVEN).from_buffer(fields, 8 * len(head))
        return given, partial(_entry(patcher), ctypes.byref(fields))

    def _slowly(self, stream: int, places: tuple[int, ...]) -> None:
        node, gpu = self._node, self._gpu
        words = (ctypes.c_uint64 * WORDS)(*[places[k] for k in self._order], *node.sizes)
        at = ctypes.addressof(words)
        params = (ctypes.c_uint64 * WORDS)(*range(at, at + 8 * WORDS, 8))
        self._mark.stream.value = stream
        gpu.launches.note(self._mark)
        with blaming(node.kernel, node.note):
            gpu.driver.launch(
                gpu.index, self._function, node.grid, node.binary.warps, node.binary.shared,
                ctypes.addressof(params), stream,
            )  # fmt: skip


def fitting(layout: Layout, inputs: int) -> Run | None:
    """The launch of ``layout`` if it is all there is, and takes nothing but inputs, an output and
    sizes.
    """
    (node, *more) = layout.nodes or (None,)
    if more or not isinstance(node, Run) or inputs > INPUTS or len(layout.outputs) != 1:
        return None
    own = all(not p.add and p.slot <= inputs for p in node.places)
    # Two words of scratch memory come after the sizes.
    short = len(node.places) + len(node.sizes) + 2 <= WORDS
    special = (node.table, node.cell, node.scratch)
    return node if own and short and special == (None, None, None) else None


@cache
def _entry(patcher: Path) -> Launch:
    # The interpreter lock is kept, so that a call is one step.
    function = getattr(ctypes.PyDLL(str(patcher)), ENTRY)
    function.restype = ctypes.c_int
    found: Launch = function
    return found
