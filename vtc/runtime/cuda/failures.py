"""What went wrong in the CUDA driver, as errors that say what to do.

    raise failure("cuMemAlloc", 2, "CUDA_ERROR_OUT_OF_MEMORY: out of memory")

Codes are those of ``CUresult``.
"""

from __future__ import annotations

from typing import Final

from vtc.errors import DeviceError, OutOfMemoryError, RunError

OUT_OF_MEMORY: Final = 2
NOT_INITIALIZED: Final = 3
NO_DEVICE: Final = 100
NOT_READY: Final = 600
UNAVAILABLE: Final = 46
_NO_DEVICES = frozenset([UNAVAILABLE, NO_DEVICE, 101, 802, 803, 804])
"""Errors of a device that cannot be used: taken by another process, wrong number, mismatches."""
_LOST = frozenset([214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719])
"""Errors after which a context is dead: CUDA answers every later call with the same one."""
_NOT_FOR_THIS = {
    209: "the GPU is of another architecture than the kernels",
    222: "the driver is older than what made the kernels",
    200: "the driver is older than what made the kernels, or a kept kernel is damaged",
    218: "the driver does not understand the kernels",
}
"""Errors of code that a GPU, or its driver, cannot take."""
_TAKEN = (
    "expected a GPU that this process may use, got one that another process has alone: "
    "nvidia-smi shows processes and the compute mode"
)
_FULL = (
    "expected memory for a context, a few hundred MB, got none: other processes have it, "
    "nvidia-smi shows them"
)


def failure(words: str, code: int, *, blamed: str = "", forked: bool = False) -> Exception:
    """The error for ``code``. ``blamed``: more lines where any work before may have failed."""
    if code == OUT_OF_MEMORY:
        return OutOfMemoryError(words)
    if code == NOT_INITIALIZED and forked:
        return DeviceError(
            f"{words}: expected the process that began to use CUDA, got a fork of it: "
            "start processes with the method 'spawn'"
        )
    if code in _NO_DEVICES:
        return DeviceError(words)
    if code in _LOST:
        return RunError(
            f"{words}\n  work that was given to the device before failed, and the device can do "
            f"no more for this process: restart it{blamed}"
        )
    return RunError(words)


def no_context(device: int, words: str, code: int) -> Exception:
    """Why a process cannot use ``device`` at all."""
    if code == UNAVAILABLE:
        return DeviceError(f"cuda:{device}: {_TAKEN}\n  {words}")
    if code == OUT_OF_MEMORY:
        return DeviceError(f"cuda:{device}: {_FULL}\n  {words}")
    return failure(words, code)


def no_module(words: str, code: int, device: str, version: int) -> Exception | None:
    """Why a kernel cannot be loaded on ``device``, whose driver has this ``version`` of CUDA; None
    where it is not the kernel's code that is wrong.
    """
    why = _NOT_FOR_THIS.get(code)
    if why is None:
        return None
    major, minor = version // 1000, version % 1000 // 10
    return DeviceError(
        f"{words}\n  expected code for {device}, with a driver for CUDA {major}.{minor}: {why}; "
        "update the driver, or empty VTC_CACHE_DIR if it was made elsewhere"
    )
