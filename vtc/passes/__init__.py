"""What the compiler does to a program, in order: one verb a file, one Program in, one out.

``partition`` is not here: it makes a pair of programs, and the frontend calls it.
"""

from __future__ import annotations

from vtc.ir.graph import Node
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import After, Checkpoint, Custom, Gradient, StopGradient
from vtc.passes.canonicalize import canonicalize
from vtc.passes.cse import cse
from vtc.passes.dce import dce
from vtc.passes.decompose import decompose
from vtc.passes.differentiate import differentiate
from vtc.passes.fold import fold
from vtc.passes.fuse import fuse
from vtc.passes.hoist import hoist
from vtc.passes.memory import memory
from vtc.passes.partial import partial
from vtc.passes.pipeline import Context, Stage
from vtc.passes.recognize import recognize
from vtc.passes.recompute import recompute
from vtc.passes.release import release
from vtc.passes.schedule import schedule
from vtc.passes.select import select
from vtc.passes.split import split
from vtc.passes.widen import widen


def joint(node: Node, context: Context) -> str | None:
    """Gradients are spelled out."""
    del context
    marks = isinstance(node.op, (Gradient, StopGradient, Checkpoint, Custom))
    return f"expected gradients to be taken by now, got {node.op}" if marks else None


def lowered(node: Node, context: Context) -> str | None:
    """Composites are gone, but those the target keeps."""
    if isinstance(node.op, Composite) and node.op.name not in context.target.keeps:
        return f"expected no composite that {context.target.name} does not keep, got {node.op}"
    return joint(node, context)


def ordered(node: Node, context: Context) -> str | None:
    """What happens when is the order of calls."""
    if isinstance(node.op, After):
        return f"expected the order of calls to say what comes after what, got {node.op}"
    return lowered(node, context)


PIPELINE = (
    Stage("captured"),
    Stage("joint", (differentiate, canonicalize, fold, cse, dce), joint),
    Stage("lowered", (select, hoist, recognize, decompose, widen, canonicalize, cse, dce), lowered),
    Stage("fused", (recompute, partial, split, fuse, release), ordered),
    Stage("planned", (schedule, memory), ordered),
)
"""From what the user wrote to what is turned into kernels."""

__all__ = ["PIPELINE"]
