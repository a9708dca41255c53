"""What the CUDA driver says where a GPU cannot be used, and what vtc makes of it."""

import enum
import sys
from types import ModuleType

import pytest
from simulated import Simulated

from vtc.errors import DeviceError, OutOfMemoryError, RunError
from vtc.ir.plan import Binary
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import installed
from vtc.runtime.cuda.native import MODULE, CudaDriver


class CUresult(enum.IntEnum):
    """Some of NVIDIA's."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_DEVICE_UNAVAILABLE = 46
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class Names:
    """Any name is a number."""

    def __getattr__(self, name):
        return name


class Bindings(ModuleType):
    """``cuda.bindings.driver`` of a machine with one GPU; ``codes`` are what functions answer."""

    CUresult = CUresult
    CUDA_VERSION = 12090
    CUdevice_attribute = Names()

    def __init__(self, version=12090, **codes):
        super().__init__(MODULE)
        self.version, self.codes = version, codes

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        given = {
            "cuDriverGetVersion": self.version,
            "cuDeviceGetCount": 1,
            "cuDeviceGetName": b"NVIDIA Toy\0",
            "cuDeviceGetAttribute": 9,
            "cuGetErrorString": b"in words",
        }
        code = CUresult(self.codes.get(name, 0))
        more = (7,) if name == "cuMemGetInfo" else ()
        return lambda *_: (code, given.get(name, 7), *more)


@pytest.fixture
def machine(monkeypatch):
    def made(**facts):
        for name in ("cuda", "cuda.bindings"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(sys.modules, MODULE, Bindings(**facts))
        return CudaDriver()

    return made


def said(kind, work):
    with pytest.raises(kind) as caught:
        work()
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_gpu_that_another_process_has_alone(machine):
    driver = machine(cuDevicePrimaryCtxRetain=46)
    text = said(DeviceError, lambda: driver.mem_info(0))
    assert text.startswith("cuda:0: expected a GPU that this process may use, got one that another")
    assert "nvidia-smi" in text
    assert "CUDA_ERROR_DEVICE_UNAVAILABLE: in words" in text


def test_no_memory_for_a_context(machine):
    driver = machine(cuDevicePrimaryCtxRetain=2)
    text = said(DeviceError, lambda: driver.mem_info(0))
    assert text.startswith("cuda:0: expected memory for a context, a few hundred MB, got none")
    assert driver.count() == 1


@pytest.mark.parametrize(
    ("version", "got", "advice"),
    [
        (11080, "CUDA 11.8", "update the driver"),
        (12020, "CUDA 12.2", "update the driver, or pip install 'vtc[cuda12]'"),
    ],
)
def test_an_old_driver(machine, monkeypatch, version, got, advice):
    monkeypatch.setattr(Bindings, "CUDA_VERSION", 13000)
    driver = machine(version=version)
    assert driver.count() == 0
    assert driver.why() == (
        f"expected an NVIDIA driver for CUDA 13 or newer, got one for {got}: {advice}"
    )
    with installed(driver):
        assert "expected an NVIDIA driver for CUDA 13" in said(DeviceError, lambda: gpu(0))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (209, "the GPU is of another architecture than the kernels"),
        (222, "the driver is older than what made the kernels"),
        (200, "or a kept kernel is damaged"),
    ],
)
def test_code_that_the_gpu_cannot_take(machine, code, why):
    driver = machine(cuModuleLoadData=code)
    text = said(DeviceError, lambda: driver.module(0, Binary("k0", b"", 4)))
    assert text.startswith(f"loading k0: {CUresult(code).name}")
    assert (
        "expected code for compute capability 9.9 (NVIDIA Toy), with a driver for CUDA 12.9" in text
    )
    assert why in text


def test_other_failures_of_loading_stay_what_they_are(machine):
    for code, kind in ((2, OutOfMemoryError), (500, RunError)):
        driver = machine(cuModuleLoadData=code)
        assert "loading k0" in said(kind, lambda d=driver: d.module(0, Binary("k0", b"", 4)))


def test_an_error_of_earlier_work_says_how_to_find_it(machine):
    driver = machine(cuCtxSynchronize=700)
    text = said(RunError, lambda: driver.synchronize(0))
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in text
    assert "restart it" in text
    assert "VTC_CUDA_GRAPHS=0 CUDA_LAUNCH_BLOCKING=1 names the kernel" in text


def test_a_gpu_that_is_too_old():
    with installed(Simulated(capability=(7, 5))):
        text = said(DeviceError, lambda: gpu(0))
    assert text == ("cuda:0: expected compute capability 8.0 or newer, got 7.5 (Simulated GPU)")


def test_no_driver_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda", None)
    driver = CudaDriver()
    assert driver.count() == 0
    assert "vtc[cuda13]" in driver.why() or "NVIDIA driver" in driver.why()
