"""``vtc.cuda``: NVIDIA GPUs, under PyTorch's names.

    if vtc.cuda.is_available():
        vtc.set_default_device("cuda")
    print(vtc.cuda.memory_summary())

A ``device`` is ``"cuda:1"``, a number, or None for the current one. Where there is no GPU,
``is_available`` is False, statistics are zeros, and everything else raises DeviceError saying why.
"""

from __future__ import annotations

from typing import Any

from vtc.errors import ArgumentError
from vtc.runtime.cuda import device as devices
from vtc.runtime.cuda import instance
from vtc.runtime.cuda.device import count as device_count
from vtc.runtime.cuda.device import current_device, on_device, set_device
from vtc.runtime.cuda.driver import Facts, driver
from vtc.runtime.cuda.stream import (
    Event,
    Stream,
    current_stream,
    default_stream,
    external_stream,
    set_stream,
    stream,
)
from vtc.runtime.device import Device

__all__ = [
    "Event",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "external_stream",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "is_available",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_snapshot",
    "memory_stats",
    "memory_summary",
    "reset_peak_memory_stats",
    "set_device",
    "set_per_process_memory_fraction",
    "set_stream",
    "stream",
    "synchronize",
    "why_unavailable",
]
Where = Device | str | int | None
device = on_device


def is_available() -> bool:
    """Whether there is a GPU that works."""
    return driver().count() > 0


def why_unavailable() -> str:
    """Why there is no GPU; empty where there is one."""
    return driver().why()


def get_device_properties(device: Where = None) -> Facts:
    """Name, compute capability, memory, shared memory, multiprocessors and cache of a GPU."""
    return driver().facts(devices.resolve(device))


def get_device_name(device: Where = None) -> str:
    """What a GPU is called: ``NVIDIA H100 80GB HBM3``."""
    return get_device_properties(device).name


def get_device_capability(device: Where = None) -> tuple[int, int]:
    """The compute capability: ``(9, 0)``."""
    return get_device_properties(device).capability


def synchronize(device: Where = None) -> None:
    """Wait for all work of a GPU; raises what went wrong in it."""
    devices.gpu(devices.resolve(device)).synchronize()


def mem_get_info(device: Where = None) -> tuple[int, int]:
    """Bytes that are free on a GPU, for all processes, and bytes that it has."""
    index = devices.resolve(device)
    return devices.gpu(index).driver.mem_info(index)


def memory_stats(device: Where = None) -> dict[str, int]:
    """Counters of the allocator: ``allocated_bytes.all.current`` and so on; none before its use."""
    used = devices.used(device)
    return {} if used is None else used.allocator.stats()


def memory_allocated(device: Where = None) -> int:
    """Bytes that tensors and running programs have."""
    return memory_stats(device).get("allocated_bytes.all.current", 0)


def max_memory_allocated(device: Where = None) -> int:
    """The most that :func:`memory_allocated` was since :func:`reset_peak_memory_stats`."""
    return memory_stats(device).get("allocated_bytes.all.peak", 0)


def memory_reserved(device: Where = None) -> int:
    """Bytes that are kept from the device, used or free."""
    return memory_stats(device).get("reserved_bytes.all.current", 0)


def max_memory_reserved(device: Where = None) -> int:
    """The most that :func:`memory_reserved` was since :func:`reset_peak_memory_stats`."""
    return memory_stats(device).get("reserved_bytes.all.peak", 0)


def reset_peak_memory_stats(device: Where = None) -> None:
    """Let peaks start again from what is in use now."""
    if (used := devices.used(device)) is not None:
        used.allocator.reset_peak()


def memory_snapshot(device: Where = None) -> list[dict[str, Any]]:
    """Every segment with its blocks, each with the line that allocated it."""
    used = devices.used(device)
    return [] if used is None else used.allocator.snapshot()


def memory_summary(device: Where = None, abbreviated: bool = False) -> str:
    """The counters as a table; also the largest owners, unless ``abbreviated``."""
    used = devices.used(device)
    if used is None:
        return "no memory is in use on this device"
    stats = used.allocator.stats()
    lines = [f"{used.allocator.memory.name}", f"{'':24}{'current':>14}{'peak':>14}"]
    for name, counted in _ROWS:
        values = [stats[f"{name}.all.{which}"] for which in ("current", "peak")]
        shown = [f"{_size(v) if counted == 'bytes' else v:>14}" for v in values]
        lines.append(f"{name:24}{''.join(shown)}")
    lines.append(
        f"{'inactive_split_bytes':24}{_size(stats['inactive_split_bytes.all.current']):>14}"
    )
    lines += [f"{name:24}{stats[name]:>14}" for name in ("num_alloc_retries", "num_ooms")]
    if not abbreviated:
        lines += [f"  {_size(n):>12} at {where}" for where, n in used.allocator.owners()]
    return "\n".join(lines)


def empty_cache() -> None:
    """Give all memory that is free back to the devices, the arenas of programs that are not running
    among it: their next call takes new ones.
    """
    instance.trim()
    for used in devices.all_used():
        used.allocator.empty_cache()


def set_per_process_memory_fraction(fraction: float, device: Where = None) -> None:
    """Never take more than this part of the memory of a GPU."""
    if not 0 <= fraction <= 1:
        raise ArgumentError(f"set_per_process_memory_fraction: expected 0 to 1, got {fraction}")
    devices.gpu(devices.resolve(device)).allocator.set_fraction(fraction)


_ROWS = (
    ("allocated_bytes", "bytes"),
    ("requested_bytes", "bytes"),
    ("reserved_bytes", "bytes"),
    ("active", "number"),
    ("segment", "number"),
)


def _size(nbytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"
