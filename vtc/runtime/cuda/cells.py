"""Cells in which kernels say that an index was out of its range.

They lie in host memory that the device writes. They are looked at before each launch, and when the
host waits for the device::

    cells = Cells(gpu, fit)
    cells.look()                      # IndexRangeError, naming the step, if one is set
    cells.leave(stream)               # no launch follows: they go when those before are done
"""

from __future__ import annotations

import ctypes
from typing import final

from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.steps import ALIGNMENT, checking
from vtc.runtime.fit import Fit

CELL = ALIGNMENT
"""Bytes from one cell to the next."""
_WORDS = CELL // ctypes.sizeof(ctypes.c_int32)


@final
class Cells:
    """One cell for each step that checks indices. See the module."""

    def __init__(self, gpu: Gpu, fit: Fit) -> None:
        self._gpu, self._fit, self._steps = gpu, fit, checking(fit)
        self.count = len(self._steps)
        self.address = gpu.driver.pinned(CELL * self.count)
        ctypes.memset(self.address, 0, CELL * self.count)
        self._values = (ctypes.c_int32 * (_WORDS * self.count)).from_address(self.address)
        self._last: int | None = None
        gpu.pending.append(self)

    def look(self) -> None:
        """Raise what a launch has met, once."""
        for k, step in enumerate(self._steps):
            if self._values[_WORDS * k]:
                ctypes.memset(self.address, 0, CELL * self.count)
                raise self._fit.out_of_range(step)

    def leave(self, stream: int) -> None:
        """Nothing more is launched; ``stream`` has what was."""
        driver, device = self._gpu.driver, self._gpu.index
        event = driver.event(device, timing=False)
        driver.record(device, event, stream)
        self._last = event

    def __call__(self) -> bool:
        """:meth:`look`, where the host has waited; whether these cells are gone."""
        driver, device, last = self._gpu.driver, self._gpu.index, self._last
        done = last is not None and driver.event_done(device, last)
        try:
            self.look()
        except BaseException:
            self._gpu.pending.append(self)
            raise
        if last is None or not done:
            return False
        driver.destroy_event(device, last)
        driver.free_pinned(self.address)
        return True
