"""An H100 that computes nothing, as a plugin of pytest: tests here start, build and launch.

    PYTHONPATH=tests/gpu VTC_CACHE_DIR=kernels python -m pytest -p pretended tests/gpu

Kernels are compiled for it and then do nothing, so most tests fail: numbers differ. What fails in
another way is a mistake that shows before there is a GPU; and the kernels in ``VTC_CACHE_DIR`` need
not be compiled where there is one. It needs Triton.
"""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from vtc.runtime.cuda.driver import Facts, install

sys.path.append(str(Path(__file__).parents[1] / "cuda"))
simulated = import_module("simulated")

H100 = Facts(
    name="NVIDIA H100 80GB HBM3", capability=(9, 0), memory=84_900_000_000, shared=232_448,
    multiprocessors=132, l2=50 << 20,
)  # fmt: skip
NOTHING = simulated.Kernel((), lambda grid: None)
MEMORY = 4 << 30


class Pretended(simulated.Simulated):
    """See the module. Kernels that steer graphs run, but no loop is entered, as none would end."""

    def facts(self, device):
        self._region_of(device)
        return H100

    def module(self, device, binary):
        if binary.name.startswith("vtc_flow_"):
            return super().module(device, binary)
        assert binary.cubin.startswith((b"\x7fELF", b".version")), "no machine code"
        self.kernels[binary.name] = NOTHING
        return super().module(device, replace(binary, cubin=b""))

    def copy(self, device, target, source, nbytes, stream):
        super().copy(device, target, source, nbytes, stream)
        if nbytes == 1 and not self._is_async(target):
            simulated.ctypes.memset(target, 0, 1)  # what the host reads to decide

    def _set_conditional(self, handle, value):
        super()._set_conditional(handle, 0)


install(Pretended(memory=MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Nothing is skipped for want of a GPU."""
    for item in items:
        skips = [m for m in item.own_markers if "NVIDIA" in str(m.kwargs.get("reason"))]
        item.own_markers = [m for m in item.own_markers if m not in skips]
