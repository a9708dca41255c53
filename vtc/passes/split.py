"""Split reductions of long axes to few results in two, so that each has work for many threads.

    s: f32[()] = sum(x, axes=(0, 1))                  # x: f32[1024, 1024]
        ==>
    s_parts: f32[64, 16384] = reshape(x, shape=(64, 16384))
    s_part: f32[64] = sum(s_parts, axes=(1,))
    s: f32[()] = sum(s_part, axes=(0,))

A part is the same for any number of threads, and so is the result. What is left over when the axis
does not divide is padded with the value that changes nothing.
"""

from __future__ import annotations

import math

from vtc.ir.dims import product
from vtc.ir.graph import GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.fill import Pad
from vtc.ir.ops.reduce import Reduction
from vtc.ir.ops.view import Reshape
from vtc.passes.pipeline import Context
from vtc.passes.space import space

PARTS = 64
"""How many parts there are; also the results from which on there is enough to divide without."""
LONGEST = 65536
"""Elements of one result that are not worth dividing."""


def split(program: Program, context: Context) -> Program:
    """See the module."""
    del context
    if not any(_splits(n) for n in program.entry.nodes):
        return program

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if not isinstance(node.op, Reduction) or not _splits(node):
            return b.copy(node, inputs)
        return _halves(b, node, node.op, inputs[0])

    return program.with_entry(rebuild(program.entry, visit))


def _splits(node: Node) -> bool:
    """Whether ``node`` reduces a long run of memory to few results."""
    if not isinstance(node.op, Reduction):
        return False
    walked = space(node.inputs[0].tensor.shape, node.op.axes)
    kept = product(n for reduced, n in walked if not reduced)
    runs = [n for reduced, n in walked if reduced]
    if not isinstance(kept, int) or len(runs) != 1:
        return False
    (length,) = runs
    return 0 < kept < PARTS and isinstance(length, int) and length > LONGEST


def _halves(b: GraphBuilder, node: Node, op: Reduction, x: Node) -> Node:
    """``node`` in two steps; the parts of narrow floats are kept as wide as they add up."""
    walked = space(x.tensor.shape, op.axes)
    at = next(k for k, (reduced, _) in enumerate(walked) if reduced)
    length = math.prod(n for reduced, n in walked if reduced and isinstance(n, int))
    parts = next((d for d in range(PARTS, 2 * PARTS) if length % d == 0), PARTS)
    each, stem, wide = -(-length // parts), node.name, x.tensor.dtype.accumulate
    before, after = (tuple(n for _, n in part) for part in (walked[:at], walked[at + 1 :]))
    if wide is not x.tensor.dtype:
        x = b.apply(Cast(dtype=wide), x, hint=f"{stem}_wide")
    run = b.apply(Reshape(shape=(*before, length, *after)), x, hint=f"{stem}_run")
    if each * parts > length:
        more = (0, each * parts - length, 0)
        pads = (*((0, 0, 0) for _ in before), more, *((0, 0, 0) for _ in after))
        run = b.apply(Pad(pads=pads, value=op.identity(wide)), run, hint=f"{stem}_run")
    cut = b.apply(Reshape(shape=(*before, parts, each, *after)), run, hint=f"{stem}_parts")
    part = b.apply(type(op)(axes=(at + 1,)), cut, hint=f"{stem}_part")
    whole = b.apply(type(op)(axes=(at,)), part, hint=stem)
    if whole.tensor.dtype is not node.tensor.dtype:
        whole = b.apply(Cast(dtype=node.tensor.dtype), whole, hint=stem)
    if whole.type != node.type:
        whole = b.apply(Reshape(shape=node.tensor.shape), whole, hint=stem)
    return whole
