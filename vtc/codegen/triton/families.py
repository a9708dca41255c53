"""The table: from the op that a region is about to the family of Triton kernels that computes it.

The twin of :mod:`vtc.codegen.families`, whose rules about roots hold here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtc.codegen.families import root
from vtc.codegen.region import Region
from vtc.codegen.triton.pointwise import PointwiseSpec, pointwise
from vtc.errors import CodegenError
from vtc.ir.graph import Node
from vtc.ir.target import Target

Spec = PointwiseSpec
Family = Callable[[Region, Node, Target], Spec]

# Parents of ops are abstract, which mypy does not let be a type[Op].
FAMILIES: dict[Any, Family] = {}


def spec_of(region: Region, target: Target) -> Spec:
    """The spec of the kernel of ``region``; CodegenError if no family has one."""
    node = root(region.graph)
    if node is None:
        return pointwise(region)
    for parent, family in FAMILIES.items():
        if isinstance(node.op, parent):
            return family(region, node, target)
    name = node.op.name if node.op else "param"
    raise CodegenError(f"{name}: expected an op with a kernel, got {node.name}: {node.type}")
