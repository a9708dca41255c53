"""Split products along their common axis where a GPU has more processors than the result has tiles.

    d_w: bf16[768, 3072] = matmul(x, d_y, transpose_x=True)              # x: bf16[8192, 768]
        ==>
    x_wide: f32[8192, 768] = cast(x, dtype=f32)
    d_y_wide: f32[8192, 3072] = cast(d_y, dtype=f32)
    x_parts: f32[2, 4096, 768] = reshape(x_wide, shape=(2, 4096, 768))
    d_y_parts: f32[2, 4096, 3072] = reshape(d_y_wide, shape=(2, 4096, 3072))
    d_w_parts: f32[2, 768, 3072] = matmul(x_parts, d_y_parts, transpose_x=True)
    d_w_sum: f32[768, 3072] = sum(d_w_parts, axes=(0,))
    d_w: bf16[768, 3072] = cast(d_w_sum, dtype=bf16)

The casts become part of the product's kernel, which multiplies bf16 and keeps parts as wide as they
add up. The sum is always of the same parts in the same order: results do not vary.
"""

from __future__ import annotations

from itertools import product as pairs
from math import ceil, prod

from vtc.ir.dims import Size
from vtc.ir.graph import GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.reduce import Sum
from vtc.ir.ops.view import Permute, Reshape
from vtc.ir.target import Target
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context

COMMON = 128
"""The side of a tile; where there are enough of them for all processors nothing is split."""

PARTS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
TILES = (256, 128, 64, 32, 16)
LARGEST = 65536
"""Bytes of elements like those of the operands that make the largest tile."""
UNIT = 64
"""Of what the length of a part is a multiple: steps of a kernel, and aligned loads."""
LATENCY, LAUNCH = 4, 4000
"""Clocks that an element of the common axis takes at least, and a second kernel."""
NEAR, FAR = 40, 12
"""Bytes that come to a processor in a clock from the cache and from memory."""
WORTH = 1.15
"""How much faster the model must find parts."""


@nested
def partial(program: Program, context: Context) -> Program:
    """See the module."""
    target = context.target
    if target.kind != "cuda":
        return program
    found = {n: k for n in program.entry.nodes if (k := parts(n, target)) > 1}
    if not found:
        return program

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if node not in found or not isinstance(node.op, Matmul):
            return b.copy(node, inputs)
        return _summed(b, node, node.op, inputs, found[node])

    return program.with_entry(rebuild(program.entry, visit))


def parts(node: Node, target: Target) -> int:
    """How many parts of the common axis are worth a kernel that adds them up."""
    if not isinstance(node.op, Matmul) or node.tensor.dtype.kind != "float":
        return 1
    x, op = node.inputs[0].tensor, node.op
    known = _known((*node.tensor.shape, x.shape[-2 if op.transpose_x else -1]))
    if known is None or min(known) == 0:
        return 1
    *batch, m, n, k = known
    if 1 in (m, n):
        return 1
    sizes = (prod(batch), m, n, k)
    if prod(batch) * ceil(m / COMMON) * ceil(n / COMMON) >= target.processors:
        return 1
    fitting = [s for s in PARTS if s == 1 or k % (s * UNIT) == 0]
    return min(fitting, key=lambda s: _clocks(sizes, s, node.tensor.dtype.itemsize, target))


def _clocks(sizes: tuple[int, int, int, int], parts: int, itemsize: int, target: Target) -> float:
    """Clocks of the products and the sum, in tiles of the best size."""
    batch, m, n, k = sizes
    processors = max(target.processors, 1)
    best = float("inf")
    for rows, columns in pairs(TILES, TILES):
        if rows * columns * max(itemsize, 2) > LARGEST:
            continue
        rounds = ceil(batch * parts * ceil(m / rows) * ceil(n / columns) / processors)
        rate = (2048 if itemsize <= 2 else 240 if itemsize == 4 else 48) * min(1, rows / 64)
        step = max(rows * columns / rate, (rows + columns) * itemsize / NEAR, LATENCY)
        best = min(best, rounds * (k / parts * step + rows * columns / 16))
    if parts == 1:
        return best
    wide = max(itemsize, 4)
    moved = 2 * batch * parts * m * n * wide
    return WORTH * (best + LAUNCH + moved / (FAR * processors))


def _summed(b: GraphBuilder, node: Node, op: Matmul, inputs: tuple[Node, ...], count: int) -> Node:
    """``node`` as a sum of ``count`` products."""
    stem, dtype, last = node.name, node.tensor.dtype, (not op.transpose_x, op.transpose_y)
    cut = [_cut(b, x, count, last=at) for x, at in zip(inputs, last, strict=True)]
    each = b.apply(op, *cut, hint=f"{stem}_parts")
    whole = b.apply(Sum(axes=(each.tensor.rank - 3,)), each, hint=f"{stem}_sum")
    if whole.tensor.dtype is not dtype:
        whole = b.apply(Cast(dtype=dtype), whole, hint=stem)
    return whole


def _cut(b: GraphBuilder, x: Node, count: int, *, last: bool) -> Node:
    """``x`` with its common axis, the last one or the one before, in ``count`` parts, which are an
    axis before its matrices.
    """
    *batch, rows, columns = x.tensor.shape
    hint, wide = f"{x.name}_parts", x.tensor.dtype.accumulate
    if wide is not x.tensor.dtype:
        x = b.apply(Cast(dtype=wide), x, hint=f"{x.name}_wide")
    if not last:
        return b.apply(Reshape(shape=(*batch, count, rows // count, columns)), x, hint=hint)
    cut = b.apply(Reshape(shape=(*batch, rows, count, columns // count)), x, hint=hint)
    at = len(batch)
    return b.apply(Permute(axes=(*range(at), at + 1, at, at + 2)), cut, hint=hint)


def _known(sizes: tuple[Size, ...]) -> tuple[int, ...] | None:
    """``sizes`` if none of them is a symbol."""
    found = tuple(n for n in sizes if isinstance(n, int))
    return found if len(found) == len(sizes) else None
