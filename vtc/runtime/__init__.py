"""Runs a :class:`~vtc.ir.plan.Plan`: devices, buffers, disk cache, executables. Knows no graph.

model = vtc.runtime.load("mlp.vtc")        # a package needs nothing else of vtc
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """``load``, which imports what it needs when it is first used."""
    if name != "load":
        raise AttributeError(f"module 'vtc.runtime' has no attribute {name!r}")
    return importlib.import_module("vtc.runtime.package").load
