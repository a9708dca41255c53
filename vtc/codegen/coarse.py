"""Which f32 values of a region are seen only after rounding to a narrow float.

A few units in the last place of such a value do not show, so a target may compute it by shorter
instructions. Here that is all but ``x`` and ``s``, which is an output::

    e: f32[8] = exp(x)
    s: f32[8] = add(x, x)
    p: f32[8] = div(e, s)
    y: bf16[8] = cast(p, dtype=bf16)

Values of a narrow dtype are kept in f32 within a kernel, and are coarse themselves. The list of ops
that pass the question on is short: none of them makes much of a small error, as a comparison or a
sine of a large number would.
"""

from __future__ import annotations

from vtc.ir.graph import Graph, Node
from vtc.ir.types import TensorType, f32

_THROUGH = frozenset(
    {
        *("add", "sub", "mul", "div", "neg", "abs", "maximum", "minimum", "cast", "where", "sum"),
        *("expand", "reshape", "permute", "slice", "concat", "pad", "flip", "stop_gradient"),
    }
)


def coarse(graph: Graph) -> frozenset[Node]:
    """The nodes of ``graph`` that may be computed in a coarse way."""
    readers: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        for read in node.inputs:
            readers.setdefault(read, []).append(node)
    found: set[Node] = set()
    outputs = frozenset(graph.outputs)
    for node in reversed(graph.nodes):
        if not isinstance(node.type, TensorType) or not node.type.dtype.is_floating_point:
            continue
        if node.type.dtype.itemsize < f32.itemsize:
            found.add(node)
        elif node.type.dtype is f32 and node not in outputs:
            own = readers.get(node, ())
            if all(r in found and r.op is not None and r.op.name in _THROUGH for r in own):
                found.add(node)
    return frozenset(found)
