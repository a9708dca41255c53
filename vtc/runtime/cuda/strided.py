"""Copies on a device between arrays with any strides, by the kernel of :mod:`vtc.codegen.strided`.

    copy = Strided(gpu(0), kernel)       # kernel(2, 4): its binary for two axes of four bytes
    copy(target, source)                 # in the order of the current stream

Axes that both arrays step through alike are one, so most copies have two or three.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import final

from vtc.ir.plan import Binary
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import DeviceArray
from vtc.runtime.cuda.device import Gpu

ALIGNMENT = 16
WIDEST = 8
"""Bytes of the widest element that a kernel has; a wider one is several."""
Axis = tuple[int, int, int]
"""Size, and the strides of both arrays in elements."""


@final
class Strided:
    """See the module. ``block`` is how many elements one block copies."""

    def __init__(self, gpu: Gpu, kernel: Callable[[int, int], Binary], block: int) -> None:
        self._gpu, self._kernel, self._block = gpu, kernel, block
        self._loaded: dict[tuple[int, int], tuple[int, Binary]] = {}

    def __call__(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy ``source`` to ``target``, of the same shape and dtype."""
        width = min(target.itemsize, WIDEST)
        axes, total = axes_of(target, source, width), target.size * (target.itemsize // width)
        if not total:
            return
        function, binary = self._function(len(axes), width)
        places = [address(target), address(source)]
        values = [
            *(p - p % ALIGNMENT for p in places),
            *(p % ALIGNMENT // width for p in places),
            total,
            *(v for k in range(3) for v in [axis[k] for axis in axes]),
            0,  # no scratch memory
            0,
        ]
        cells = (ctypes.c_int64 * len(values))(*values)
        at = ctypes.addressof(cells)
        params = (ctypes.c_void_p * len(values))(*range(at, at + 8 * len(values), 8))
        grid = (-(-total // self._block), 1, 1)
        here = self._gpu
        here.driver.launch(
            here.index, function, grid, binary.warps, binary.shared, ctypes.addressof(params),
            here.stream,
        )  # fmt: skip

    def _function(self, axes: int, width: int) -> tuple[int, Binary]:
        key = axes, width
        if key not in self._loaded:
            binary = self._kernel(*key)
            self._loaded[key] = self._gpu.driver.module(self._gpu.index, binary), binary
        return self._loaded[key]


def axes_of(target: DeviceArray, source: DeviceArray, width: int) -> list[Axis]:
    """The axes to step through, at least one."""
    parts = zip(target.shape, target.strides, source.strides, strict=True)
    axes = [(n, t // width, s // width) for n, t, s in parts if n != 1]
    if target.itemsize != width:
        axes.append((target.itemsize // width, 1, 1))
    merged: list[Axis] = []
    for n, t, s in axes:
        if merged and merged[-1][1:] == (t * n, s * n):
            merged[-1] = merged[-1][0] * n, t, s
        else:
            merged.append((n, t, s))
    return merged or [(1, 0, 0)]
