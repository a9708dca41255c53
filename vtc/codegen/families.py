"""The table: from the op that a region is about to the family of kernels that computes it.

A region has at most one op that is not pointwise, its root, or several reductions. Without one it
is pointwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vtc.codegen.attention import AttentionSpec, attention
from vtc.codegen.attention_gradient import AttentionGradientSpec, attention_gradient
from vtc.codegen.matmul import MatmulSpec, matmul
from vtc.codegen.pointwise import HorizontalSpec, PointwiseSpec, pointwise
from vtc.codegen.reduction import reduction
from vtc.codegen.region import Region
from vtc.codegen.rows import ReductionSpec
from vtc.codegen.scan import ScanSpec, scan
from vtc.codegen.scatter import ScatterSpec, scatter
from vtc.codegen.sort import SortSpec, sort
from vtc.codegen.spec import Several
from vtc.errors import CodegenError
from vtc.ir.graph import Graph, Node
from vtc.ir.op import Pointwise
from vtc.ir.ops.attention import AttentionGradient, ScaledDotProductAttention
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item, StopGradient
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.scan import Scan
from vtc.ir.ops.sort import Sorting

Spec = (
    PointwiseSpec
    | HorizontalSpec
    | ReductionSpec
    | MatmulSpec
    | AttentionSpec
    | AttentionGradientSpec
    | ScatterSpec
    | ScanSpec
    | SortSpec
    | Several
)
Family = Callable[[Region, Node], Spec]

# Parents of ops are abstract, which mypy does not let be a type[Op].
FAMILIES: dict[Any, Family] = {
    Reduction: reduction,
    ArgReduction: reduction,
    Matmul: matmul,
    ScaledDotProductAttention: attention,
    AttentionGradient: attention_gradient,
    Scattering: scatter,
    Scan: scan,
    Sorting: sort,
}


def root(graph: Graph) -> Node | None:
    """The node ``graph`` is about, or one of its reductions; None if all its ops are pointwise."""
    found = [n for n in graph.nodes if not isinstance(n.op, Pointwise | StopGradient | Item)]
    rows = all(isinstance(n.op, Reduction | ArgReduction) for n in found)
    if len(found) > 1 and not rows:
        got = ", ".join(f"{n.op.name} {n.name}" for n in found if n.op)
        raise CodegenError(f"region {graph.name}: expected one op that is not pointwise, got {got}")
    return found[0] if found else None


def spec_of(region: Region) -> Spec:
    """The spec of the kernel of ``region``; CodegenError if no family has one."""
    node = root(region.graph)
    if node is None:
        return pointwise(region)
    for parent, family in FAMILIES.items():
        if isinstance(node.op, parent):
            return family(region, node)
    name = node.op.name if node.op else "param"
    raise CodegenError(f"{name}: expected an op with a C kernel, got {node.name}: {node.type}")
