"""Scattering ops in Triton: a copy of the first input, then a kernel that writes or adds.

Atomics add, in any order, unless the target is to be deterministic. Where elements may go to one
place and their order counts, see :mod:`vtc.codegen.triton.owners`, and where there are many of
them, :mod:`vtc.codegen.triton.claims`::

    r = (tl.program_id(0)%(2048))*4 + tl.arange(0, 4)
    j = tl.load(x1 + r, r < 8192)
    j = j[:, None]
    c = ((tl.program_id(0)//(2048))*256 + tl.arange(0, 256))[None, :]
    tl.atomic_add(y0 + (j*768 + c), tl.load(x0 + (r*768 + c), ...), (r < 8192) & (c < 768), ...)
"""

from __future__ import annotations

from vtc.codegen.region import Region
from vtc.codegen.triton.claims import claims
from vtc.codegen.triton.owners import owners
from vtc.codegen.triton.phases import Phase, cut_out
from vtc.codegen.triton.pointwise import pointwise
from vtc.codegen.triton.scatter_trace import Scattered
from vtc.errors import CodegenError
from vtc.ir.graph import Node
from vtc.ir.ops.index import Scattering
from vtc.ir.target import Target

BLOCK, WARPS = 1024, 4
"""Elements of a program, and its warps."""
FEW_ROWS, FEW = 2048, 128
"""Rows, and elements, among which it is quicker to look for the last one than to let them claim."""
ATOMIC = ("f32", "f64", "i32", "i64")


def candidates(region: Region, root: Node, target: Target) -> list[dict[str, int]]:
    """What may be tried; the first is the default."""
    del region, root, target
    return [{"block": b, "warps": w} for b, w in ((BLOCK, WARPS), (2 * BLOCK, 8), (BLOCK // 2, 4))]


def scatter(
    region: Region, root: Node, target: Target, *, block: int = BLOCK, warps: int = WARPS
) -> tuple[Phase, ...]:
    """The launches of a region about ``root``, a scattering op, which is its output."""
    op = region.op(root)
    if not isinstance(op, Scattering) or region.graph.outputs != (root,):
        got = f"got outputs {', '.join(o.name for o in region.graph.outputs)}"
        raise CodegenError(f"{op.name}: expected a region that gives {root.name} alone, {got}")
    if op.accumulate and root.tensor.dtype.name not in ATOMIC:
        want = f"expected sums of {', '.join(ATOMIC)} after the pass widen"
        raise CodegenError(f"{op.name}: {want}, got {root.type}")
    params, x = region.graph.params, root.inputs[0]
    own, read = cut_out(region, x)
    copies = params.index(x) if x in params else None
    copy = Phase(pointwise(own), (*read, len(params)), own.symbols, copies)
    if 0 in (*region.shape(root.inputs[op.values]), *region.shape(root)):
        return (copy,)
    work = Scattered(region, root, op)
    if not work.free:
        value = work.value(work.index)
        if op.accumulate:
            held = work.elements.scalars.load(work.cell, root.tensor.dtype, 0)
            value = work.elements.scalars.binary(op.joined, held, value)
        return copy, Phase(work.spec(work.store(value), block, warps))
    if op.accumulate and op.joined == "add" and not target.deterministic:
        store = work.store(work.value(work.index), atomic=True)
        return copy, Phase(work.spec(store, block, warps))
    if op.accumulate or _few(work):
        return copy, Phase(owners(work, block, warps))
    return copy, *claims(work, block, warps)


def _few(work: Scattered) -> bool:
    """Whether each element may look at all others that may go where it goes."""
    most = FEW_ROWS if work.by_row else FEW
    return isinstance(work.count, int) and work.count <= most
