"""Split reductions of long axes to few results in two, so that each has work for many threads.

    s: f32[()] = sum(x, axes=(0, 1))                  # x: f32[1024, 1024]
        ==>
    s_parts: f32[64, 16384] = reshape(x, shape=(64, 16384))
    s_part: f32[64] = sum(s_parts, axes=(1,))
    s: f32[()] = sum(s_part, axes=(0,))

A part is the same for any number of threads, and so is the result. On a GPU sums of columns are
divided, too, as a program has several of them. What is left over when the axis
does not divide is padded with the value that changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtc.ir.graph import GraphBuilder, Node, Program, rebuild
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.fill import Pad
from vtc.ir.ops.reduce import Reduction
from vtc.ir.ops.view import Reshape
from vtc.ir.target import Target
from vtc.passes.nested import nested
from vtc.passes.pipeline import Context
from vtc.passes.space import Space, space

PARTS = 64
"""On a CPU: how many parts there are; also the results from which on there is enough to divide
without.
"""
LONGEST = 65536
"""Elements of one result that are not worth dividing."""

LANES = 64
"""On a GPU: results side by side in memory that one program of the grid computes."""
SHARE = 8192
"""Elements that a program should have at least, if there is to be one more kernel."""
ROUNDS = 2
"""Programs for each processor."""


@nested
def split(program: Program, context: Context) -> Program:
    """See the module."""
    counts = {n: k for n in program.entry.nodes if (k := _parts(n, context.target))}
    if not counts:
        return program

    def visit(b: GraphBuilder, node: Node, inputs: tuple[Node, ...]) -> Node:
        if not isinstance(node.op, Reduction) or node not in counts:
            return b.copy(node, inputs)
        return _halves(b, node, node.op, inputs[0], counts[node])

    return program.with_entry(rebuild(program.entry, visit))


def _parts(node: Node, target: Target) -> int:
    """Into how many parts ``node``, which reduces a long run of memory to few results, is divided;
    0 if it is not.
    """
    if not isinstance(node.op, Reduction):
        return 0
    walked = space(node.inputs[0].tensor.shape, node.op.axes)
    sizes = [n for _, n in walked if isinstance(n, int)]
    if len(sizes) < len(walked) or 0 in sizes:
        return 0
    if target.kind == "cuda":
        return _of_programs(walked, sizes, target)
    kept = math.prod(n for (reduced, _), n in zip(walked, sizes, strict=True) if not reduced)
    runs = [n for (reduced, _), n in zip(walked, sizes, strict=True) if reduced]
    if len(runs) != 1 or kept >= PARTS or runs[0] <= LONGEST:
        return 0
    return _near(runs[0], PARTS)


def _of_programs(walked: Space, sizes: Sequence[int], target: Target) -> int:
    """Parts that make enough programs for all processors, none of them too short."""
    kinds = [reduced for reduced, _ in walked]
    kept = math.prod(n for reduced, n in zip(kinds, sizes, strict=True) if not reduced)
    count = math.prod(sizes) // kept
    lanes = 1 if not kinds or kinds[-1] else min(LANES, sizes[-1])
    programs = kept // lanes
    if programs >= target.processors or True not in kinds:
        return 0
    wanted = -(-ROUNDS * target.processors // max(1, programs))
    longest = max(n for reduced, n in zip(kinds, sizes, strict=True) if reduced)
    most = min(wanted, count * lanes // SHARE, longest // 2)
    return _near(sizes[_cut(walked, most)], most) if most > 1 else 0


def _cut(walked: Space, parts: int) -> int:
    """Which run is cut: the first one that is long enough, as its parts lie together."""
    long = [isinstance(n, int) and n >= parts for _, n in walked]
    return next(k for k, (reduced, _) in enumerate(walked) if reduced and long[k])


def _near(length: int, parts: int) -> int:
    """As many parts or a few more, so that they are of one length if possible."""
    return next((d for d in range(parts, 2 * parts) if length % d == 0), parts)


def _halves(b: GraphBuilder, node: Node, op: Reduction, x: Node, parts: int) -> Node:
    """``node`` in two steps; the parts of narrow floats are kept as wide as they add up."""
    walked = space(x.tensor.shape, op.axes)
    at = _cut(walked, parts)
    length = walked[at][1]
    assert isinstance(length, int)
    each, stem, wide = -(-length // parts), node.name, x.tensor.dtype.accumulate
    before, after = (tuple(n for _, n in part) for part in (walked[:at], walked[at + 1 :]))
    others = (k + (k > at) for k, (reduced, _) in enumerate(walked) if reduced and k != at)
    if wide is not x.tensor.dtype:
        x = b.apply(Cast(dtype=wide), x, hint=f"{stem}_wide")
    run = b.apply(Reshape(shape=(*before, length, *after)), x, hint=f"{stem}_run")
    if each * parts > length:
        more = (0, each * parts - length, 0)
        pads = (*((0, 0, 0) for _ in before), more, *((0, 0, 0) for _ in after))
        run = b.apply(Pad(pads=pads, value=op.identity(wide)), run, hint=f"{stem}_run")
    cut = b.apply(Reshape(shape=(*before, parts, each, *after)), run, hint=f"{stem}_parts")
    axes = tuple(sorted((at + 1, *others)))
    part = b.apply(type(op)(axes=axes), cut, hint=f"{stem}_part")
    kept = sum(not reduced for reduced, _ in walked[:at])
    whole = b.apply(type(op)(axes=(kept,)), part, hint=stem)
    if whole.tensor.dtype is not node.tensor.dtype:
        whole = b.apply(Cast(dtype=node.tensor.dtype), whole, hint=stem)
    if whole.type != node.type:
        whole = b.apply(Reshape(shape=node.tensor.shape), whole, hint=stem)
    return whole
