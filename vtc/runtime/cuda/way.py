"""Which way a plan goes with its loops and branches on a device: see ``nodes.lay_out``.

way_of(plan, gpu(0), graphs=True)   # "graph" with a driver for CUDA 12.4; or "host", said once
"""

from __future__ import annotations

import warnings

from vtc.config import config
from vtc.errors import VtcWarning
from vtc.ir.plan import Branch, Loop, Plan
from vtc.runtime.cuda.control import why_not
from vtc.runtime.cuda.device import Gpu
from vtc.runtime.cuda.nodes import Way, loops_or_branches, waiting

_said: set[str] = set()


def way_of(plan: Plan, gpu: Gpu, *, graphs: bool) -> Way:
    """The way of ``plan``, which is launched as a graph if there are ``graphs``."""
    if not loops_or_branches(plan):
        return "spelled"
    if not (graphs and config().cuda_graphs):
        return "host"
    why = why_not(gpu)
    if not why:
        return "graph"
    step = waiting(plan.steps)
    if step is None:
        return "spelled"
    _say_once(plan.name, step, why)
    return "host"


def _say_once(name: str, step: Loop | Branch, why: str) -> None:
    if why not in _said:
        _said.add(why)
        at = f" (at {step.note})" if step.note else ""
        what = "a branch" if isinstance(step, Branch) else "a loop"
        warnings.warn(
            f"{name}: {what}{at} is launched kernel by kernel, and the host waits for "
            f"each value that decides, since CUDA graphs cannot: {why}",
            VtcWarning,
            stacklevel=2,
        )
