"""The gradient of attention in Triton: probabilities are computed again, block by block.

Two launches, so that every sum has one owner and is added in one order: in the first a program has
a block of keys and goes over the blocks of queries that attend to it (of all heads that share it),
in the second a program has a block of queries and goes over blocks of keys. A launch none of whose
results are wanted is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.attention import masked
from vtc.codegen.attention_gradient import (
    DELTA_INPUT,
    DK,
    DQ,
    DV,
    G_INPUT,
    K_INPUT,
    LSE_INPUT,
    MASK_INPUT,
    Q_INPUT,
    V_INPUT,
)
from vtc.codegen.attention_rows import Tracer
from vtc.codegen.loops import Body
from vtc.codegen.region import Elements, Region
from vtc.codegen.triton.attention_blocks import (
    Axis,
    Code,
    Read,
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
    walked,
)
from vtc.codegen.triton.attention_scores import Scores, scores_of
from vtc.codegen.triton.attention_tiles import Tile, backward
from vtc.codegen.triton.head import Block, Head, head, index_type
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.pointwise import empty
from vtc.codegen.triton.scalars import TritonScalars
from vtc.ir.dims import Size
from vtc.ir.graph import Node
from vtc.ir.target import Target

INFINITY = 'float("inf")'


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """What kinds of programs differ in. They have blocks of ``own``; a loop goes from ``first`` to
    ``end``, and its blocks are limited if they are ``partial``, which tells by ``middle`` ("": all
    are).
    """

    own: Axis
    before: tuple[str, ...]
    inside: tuple[str, ...]
    limit: str
    partial: str
    first: str
    middle: str
    end: str
    stores: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class AttentionGradientSpec:
    """What ``attention_gradient.py.jinja`` may mention: as for attention, for programs that have
    keys (``of_keys``) or queries.
    """

    template = "attention_gradient"
    head: Head
    index: str
    tile: Tile
    columns: tuple[int, int]
    scores: Scores
    scale: float
    of_keys: bool
    group: str
    programs: tuple[str, ...]
    part: _Part
    results: tuple[int, ...]
    grid: tuple[Size, ...]


def attention_gradient(
    region: Region, root: Node, target: Target, tiles: tuple[Tile, Tile] | None = None
) -> tuple[Phase, ...]:
    """The launches of a region about ``root``, the gradient of attention."""
    if all(0 in region.shape(o) for o in region.graph.outputs):
        return (Phase(empty(Elements(region, TritonScalars))),)
    tiles = tiles or candidates(region, root, target)[0]
    made = (_traced(region, root, tile, of_keys=k == 0) for k, tile in enumerate(tiles))
    return tuple(Phase(spec) for spec in made if spec is not None)


def candidates(region: Region, root: Node, target: Target) -> list[tuple[Tile, Tile]]:
    """Tiles worth measuring for programs that have keys and that have queries; those to take
    without first.
    """
    return backward(sizes_of(region, root), root.inputs[0].tensor.dtype, target)


def _traced(
    region: Region, root: Node, tile: Tile, *, of_keys: bool
) -> AttentionGradientSpec | None:
    """The spec of one kind of program; None if it has no results."""
    elements = Elements(region, TritonScalars)
    tracer = Tracer.of(elements, root)
    lead = elements.loops("i", tracer.shape(K_INPUT)[:-2])
    group = tracer.group()
    g0 = tracer.loop("g0", group)
    wide = (*lead[:-1], lead[-1] * group + g0) if lead else ()
    rows = ("q0", Q_INPUT), ("q1", Q_INPUT), ("k0", K_INPUT), ("k1", K_INPUT)
    q0, q1, k0, k1 = (tracer.loop(n, tracer.shape(x)[-2]) for n, x in rows)
    c0, c1 = (tracer.loop(n, tracer.shape(x)[-1]) for n, x in (("c0", Q_INPUT), ("c1", V_INPUT)))
    tracer.read(Q_INPUT, (*wide, q0, c0))
    tracer.read(K_INPUT, (*lead, k0, c0))
    tracer.read(V_INPUT, (*lead, k0, c1))
    tracer.read(G_INPUT, (*wide, q0, c1))
    at = q1 if of_keys else q0
    tracer.read(LSE_INPUT, (*wide, at))
    tracer.read(DELTA_INPUT, (*wide, at))
    if len(root.inputs) > MASK_INPUT:
        score = (*wide, q1, k0) if of_keys else (*wide, q0, k1)
        tracer.read(MASK_INPUT, masked(tracer, MASK_INPUT, score))
    own = {
        DQ: ((*wide, q0, c0), "a0"),
        DK: ((*lead, k0, c0), "a1"),
        DV: ((*lead, k0, c1), "a2"),
    }
    stored = tracer.write(own)
    if not any(stored.get(k) for k in ((DK, DV) if of_keys else (DQ,))):
        return None
    body = tracer.body()
    loops = body.loops((*lead, *(() if of_keys else (g0,))))
    tracer.outer += [*(v.name for v in loops), "g0"]
    part = (_of_keys if of_keys else _of_queries)(tracer, body, tile, stored)
    many, causal = blocks(part.own), tracer.op.is_causal
    shapes = [tracer.shape(n) for n in (Q_INPUT, K_INPUT, V_INPUT, G_INPUT)]
    turns = together(loops, shapes, root.inputs[0].tensor.dtype) if causal else 1
    last = causal and not of_keys
    return AttentionGradientSpec(
        head=head(elements, warps=tile.warps, stages=tile.stages),
        index=index_type(elements),
        tile=tile,
        columns=(columns(tracer.shape(Q_INPUT)[-1]), columns(tracer.shape(V_INPUT)[-1])),
        scores=scores_of(tracer, MASK_INPUT),
        scale=tracer.op.scale,
        of_keys=of_keys,
        group=Block(body.facts, {}, {}).size(group) if of_keys else "1",
        programs=tuple(programs(body.facts, loops, many, last=last, together=turns)),
        part=part,
        results=tuple(k for k in (DQ, DK, DV) if k in stored),
        grid=(count(loops, many),),
    )


@final
@dataclass(frozen=True, slots=True)
class _Axes:
    """The variables of a block."""

    q0: Axis
    q1: Axis
    k0: Axis
    k1: Axis
    c0: Axis
    c1: Axis

    @staticmethod
    def of(tracer: Tracer, tile: Tile) -> _Axes:
        (*_, queries, width), (*_, keys, height) = tracer.shape(Q_INPUT), tracer.shape(V_INPUT)
        return _Axes(
            q0=Axis("q0", tile.queries, queries),
            q1=Axis("q1", tile.queries, queries),
            k0=Axis("k0", tile.keys, keys),
            k1=Axis("k1", tile.keys, keys),
            c0=Axis("c0", columns(width), width),
            c1=Axis("c1", columns(height), height),
        )

    def all(self) -> tuple[Axis, ...]:
        return self.q0, self.q1, self.k0, self.k1, self.c0, self.c1


def _of_keys(tracer: Tracer, body: Body, tile: Tile, stored: dict[int, list[int]]) -> _Part:
    """Programs that have a block of keys. Queries that there are not attend to nothing: their sums
    of exponentials are infinite.
    """
    x, facts, causal = _Axes.of(tracer, tile), body.facts, tracer.op.is_causal
    cond = conditions(facts, x.all())
    own, others = _operands(tracer, body, x)[::-1]
    reads = [*others, *_known(tracer, body, x.q1, (x.k0, x.q1))]
    code = Code(body, frozenset(("g0", "q0", "q1")), set())
    before = code.before([*own, *reads], cond)
    each, end = tile.queries, Block(facts, {}, {}).size(x.q0.extent)
    middle = f"tl.minimum((k_first + {tile.keys + each - 2})//{each}*{each}, {end})"
    results = stores(tracer, body, stored.get(DK, ()), x.k0, x.c0)
    results += stores(tracer, body, stored.get(DV, ()), x.k0, x.c1)
    return _Part(
        own=x.k0,
        before=before,
        inside=code.inside(reads, cond),
        limit="(q1 >= k0)" if causal else "",
        partial="q_first < middle" if causal else "",
        first=f"k_first//{each}*{each}" if causal else "0",
        middle=middle,
        end=end,
        stores=code.before(results, cond),
    )


def _of_queries(tracer: Tracer, body: Body, tile: Tile, stored: dict[int, list[int]]) -> _Part:
    """Programs that have a block of queries."""
    x, facts = _Axes.of(tracer, tile), body.facts
    fixed, cond = conditions(facts, (x.q0, x.c0, x.c1)), conditions(facts, x.all())
    own, others = _operands(tracer, body, x)
    reads = [*others, *_known(tracer, body, x.q0, (x.q0, x.k1))]
    code = Code(body, frozenset(("k0", "k1")), set())
    before = code.before([*own, *reads], fixed)
    walk = walked(facts, x.k1, tile, is_causal=tracer.op.is_causal)
    results = stores(tracer, body, stored.get(DQ, ()), x.q0, x.c0)
    return _Part(
        own=x.q0,
        before=before,
        inside=code.inside(reads, cond),
        limit=walk.limit,
        partial="k_first >= middle" if walk.limit and walk.whole else "",
        first="0",
        middle=walk.middle,
        end=walk.end,
        stores=code.before(results, cond),
    )


def _operands(tracer: Tracer, body: Body, x: _Axes) -> tuple[list[Read], list[Read]]:
    """Blocks of what there is for each query, and for each key."""
    queries = ("q", Q_INPUT, x.q0, x.c0), ("g", G_INPUT, x.q0, x.c1)
    keys = ("k", K_INPUT, x.k0, x.c0), ("v", V_INPUT, x.k0, x.c1)
    one, other = (
        [operand(tracer, body, name, k, k, *axes) for name, k, *axes in side]
        for side in (queries, keys)
    )
    return one, other


def _known(tracer: Tracer, body: Body, row: Axis, score: tuple[Axis, Axis]) -> list[Read]:
    """What is known of each query, and of each score."""
    found = [
        known(tracer, body, "lse", LSE_INPUT, INFINITY, row),
        known(tracer, body, "delta", DELTA_INPUT, "0.0", row),
    ]
    if len(tracer.root.inputs) > MASK_INPUT:
        found.append(known(tracer, body, "mask", MASK_INPUT, "0.0", *score))
    return found
