"""Which of the targets of a package this machine runs: by the flags of its CPU, by its GPU.

>>> best_cuda((9, 0), ["sm_80", "sm_90", "sm_100"])
'sm_90'
>>> best_cuda((8, 6), ["sm_80", "sm_90"])
'sm_80'

Code for a GPU runs on GPUs of the same major version that are as new or newer; from 9.0 on, where
it uses instructions of one architecture (sm_90a), on that alone. Code for a CPU level runs on CPUs
of that level and above.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
V4 = V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
_CPUINFO = Path("/proc/cpuinfo")
_SM = re.compile(r"sm_([1-9][0-9]{1,3})")
_SPECIFIC = 90
"""From here on kernels are for one architecture: Triton compiles them for sm_90a, not sm_90."""


@cache
def cpu_targets() -> tuple[str, ...]:
    """What this CPU runs, the fastest first."""
    machine = platform.machine().lower()
    if platform.system() != "Linux":
        return ()
    if machine in ("aarch64", "arm64"):
        return ("cpu-aarch64",)
    if machine not in ("x86_64", "amd64"):
        return ()
    flags = _flags()
    levels = (("cpu-x86-64-v4", V4), ("cpu-x86-64-v3", V3))
    return tuple(name for name, needs in levels if needs <= flags)


def best_cpu(targets: Iterable[str]) -> str | None:
    """The fastest of ``targets`` that this CPU runs; None if it runs none."""
    there = set(targets)
    return next((name for name in cpu_targets() if name in there), None)


def best_cuda(capability: tuple[int, int], targets: Iterable[str]) -> str | None:
    """The one of ``targets`` for a GPU; None if there is none.

    The GPU's own, else the newest that is older and of the same major version, below 9.
    """
    here = 10 * capability[0] + capability[1]
    archs = [int(found[1]) for name in targets if (found := _SM.fullmatch(name))]
    fitting = [
        arch
        for arch in archs
        if arch == here or (arch < here < _SPECIFIC and arch // 10 == here // 10)
    ]
    return f"sm_{max(fitting)}" if fitting else None


def host() -> str:
    """The folder of libraries that serve the host of a GPU: ``host-x86-64``."""
    machine = platform.machine().lower()
    return f"host-{'x86-64' if machine in ('x86_64', 'amd64') else machine}"


def _flags() -> frozenset[str]:
    try:
        text = _CPUINFO.read_text("utf-8", errors="replace")
    except OSError:
        return frozenset()
    line = next((x for x in text.splitlines() if x.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
