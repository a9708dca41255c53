"""Attention in Triton: a program has a block of queries and goes over blocks of keys.

The method is that of Dao et al. ("FlashAttention", 2022): the largest score so far and the sum of a
row are corrected as blocks of keys go by, in powers of two, so that scaling a score costs nothing.
Blocks in which every query attends to every key come first and mask nothing; with ``is_causal``
blocks above the diagonal are left out. What follows the result is computed where it is stored; it
must read it in its own order. Keys of few queries are divided
(:mod:`~vtc.codegen.triton.attention_parts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.attention import RESULT, ROW_RESULT, masked
from vtc.codegen.attention_rows import Tracer
from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.triton.attention_blocks import (
    Axis,
    Code,
    Walk,
    blocks,
    columns,
    conditions,
    count,
    known,
    operand,
    programs,
    sizes_of,
    stores,
    together,
    uses,
    walked,
)
from vtc.codegen.triton.attention_parts import in_parts
from vtc.codegen.triton.attention_scores import Scores, hole, scores_of
from vtc.codegen.triton.attention_tiles import Tile, divided, forward
from vtc.codegen.triton.head import Block, Head, head, index_type
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.pointwise import PointwiseSpec, empty
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size, floordiv
from vtc.ir.graph import Node
from vtc.ir.ops.attention import Attention
from vtc.ir.target import Target


@final
@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What ``attention.py.jinja`` may mention: ``inside`` are the statements of a block of keys,
    ``hole`` is the result of a row that attends to nothing.
    """

    template = "attention"
    head: Head
    index: str
    tile: Tile
    columns: tuple[int, int]
    scores: Scores
    programs: tuple[str, ...]
    before: tuple[str, ...]
    inside: tuple[str, ...]
    walk: Walk
    hole: str
    with_sum: bool
    stores: tuple[str, ...]
    grid: tuple[Size, ...]


def attention(
    region: Region, root: Node, target: Target, tile: Tile | None = None
) -> AttentionSpec | PointwiseSpec | tuple[Phase, Phase]:
    """The spec of a region about ``root``, attention."""
    elements = Elements(region, TritonScalars)
    if all(0 in region.shape(o) for o in region.graph.outputs):
        return empty(elements)
    tile = tile or candidates(region, root, target)[0]
    if tile.parts > 1:
        return in_parts(region, root, tile)
    tracer = Tracer.of(elements, root)
    lead = elements.loops("i", tracer.shape(0)[:-2])
    q0, k0, k1 = (tracer.loop(n, tracer.shape(x)[-2]) for n, x in (("q0", 0), ("k0", 1), ("k1", 1)))
    c0, c1 = tracer.loop("c0", tracer.shape(0)[-1]), tracer.loop("c1", tracer.shape(2)[-1])
    shared = (*lead[:-1], floordiv(lead[-1], tracer.group())) if lead else ()
    tracer.read(0, (*lead, q0, c0))
    tracer.read(1, (*shared, k0, c0))
    tracer.read(2, (*shared, k0, c1))
    if len(root.inputs) > 3:
        tracer.read(3, masked(tracer, 3, (*lead, q0, k1)))
    own = {0: ((*lead, q0, c1), RESULT), 1: ((*lead, q0), ROW_RESULT)}
    stored = tracer.write(own)
    body = tracer.body()
    loops = body.loops(lead)
    tracer.outer += [v.name for v in loops]
    return _spec(tracer, body, tile, loops, stored)


def candidates(region: Region, root: Node, target: Target) -> list[Tile]:
    """Tiles worth measuring, the one to take without first."""
    sizes, dtype, op = sizes_of(region, root), root.inputs[0].tensor.dtype, region.op(root)
    causal = isinstance(op, Attention) and op.is_causal  # then few queries have few keys
    few = [] if causal else divided(sizes, dtype, target)
    return [*few, *forward(sizes, dtype, target)]


def _spec(
    tracer: Tracer, body: Body, tile: Tile, loops: Sequence[Loop], stored: dict[int, list[int]]
) -> AttentionSpec:
    elements, facts = tracer.elements, body.facts
    (*_, queries, width), (*_, keys, height) = tracer.shape(0), tracer.shape(2)
    q0 = Axis("q0", tile.queries, queries)
    k0, k1 = (Axis(n, tile.keys, keys) for n in ("k0", "k1"))
    c0, c1 = Axis("c0", columns(width), width), Axis("c1", columns(height), height)
    reads = [
        operand(tracer, body, "k", 1, 1, k0, c0),
        operand(tracer, body, "v", 2, 2, k0, c1),
    ]
    if len(tracer.root.inputs) > 3:
        reads.append(known(tracer, body, "mask", 3, "0.0", q0, k1))
    results = [*stores(tracer, body, stored.get(1, ()), q0)]
    results += stores(tracer, body, stored.get(0, ()), q0, c1)
    code = Code(body, frozenset(("k0", "k1")), set())
    fixed, cond = conditions(facts, (q0, c0, c1)), conditions(facts, (q0, k0, k1, c0, c1))
    before = code.before([operand(tracer, body, "q", 0, 0, q0, c0), *reads], fixed)
    causal = tracer.op.is_causal
    walk = walked(facts, k1, tile, is_causal=causal)
    shapes = [tracer.shape(1), tracer.shape(2)]
    turns = together(loops, shapes, tracer.root.inputs[0].tensor.dtype) if causal else 1
    return AttentionSpec(
        head=head(elements, warps=tile.warps, stages=tile.stages),
        index=index_type(elements),
        tile=tile,
        columns=(c0.length, c1.length),
        scores=scores_of(tracer, 3),
        programs=tuple(programs(facts, loops, blocks(q0), last=causal, together=turns)),
        before=before,
        inside=code.inside(reads, cond),
        walk=walk,
        hole=hole(tracer, Block(facts, {}, {})),
        with_sum=uses(body, ROW_RESULT),
        stores=code.before(results, fixed),
        grid=(count(loops, blocks(q0)),),
    )
