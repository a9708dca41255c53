"""Attention: scores and probabilities of a block of queries and keys at a time, never all of them.

The method is that of Dao et al. ("FlashAttention", 2022) with the queries of a vector side by side,
so that the largest score and the sum of a row need no reduction across lanes: a block of queries is
turned once, keys and values are read as they lie in memory, and a block of scores stays in the
cache. The largest score so far and the sum are corrected as blocks of keys go by. With
``is_causal`` blocks above the diagonal are left out, whatever is there.

What follows the result is computed where a row of it is stored; it must read it in its own order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.attention_rows import (
    KEYS,
    Block,
    Mask,
    Results,
    Rows,
    Tile,
    Tracer,
    blocks,
    mask,
    padded,
    results,
    rows,
    tile,
)
from vtc.codegen.loops import Body
from vtc.codegen.parts import divide
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.scalar import literal
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head, Level, Parts, head
from vtc.codegen.trace import Statement
from vtc.ir.dims import Size, floordiv, product
from vtc.ir.graph import Node
from vtc.ir.types import f32

CHEAP = 8
"""Multiplications that take as long as a load."""

RESULT, ROW_RESULT = "a0", "a1"


@final
@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What ``attention.c.jinja`` may mention. ``hole`` is the result of a row that attends to
    nothing.
    """

    template = "attention"
    head: Head
    before: tuple[Statement, ...]
    outer: tuple[Level, ...]
    tile: Tile
    q: Rows
    k: Rows
    v: Rows
    mask: Mask | None
    hole: str
    logsumexp: str
    row_result: str
    out: Results


def attention(region: Region, root: Node) -> AttentionSpec | PointwiseSpec:
    """The spec of a region about ``root``, attention."""
    elements = Elements(region)
    if all(0 in region.shape(o) for o in region.graph.outputs):
        return empty(elements, region.shape(region.graph.outputs[0]))
    tracer = Tracer.of(elements, root)
    lead = elements.loops("i", tracer.shape(0)[:-2])
    q0, k0 = tracer.loop("q0", tracer.shape(0)[-2]), tracer.loop("k0", tracer.shape(1)[-2])
    c0, c1 = tracer.loop("c0", tracer.shape(0)[-1]), tracer.loop("c1", tracer.shape(2)[-1])
    shared = (*lead[:-1], floordiv(lead[-1], tracer.group())) if lead else ()
    tracer.read(0, (*lead, q0, c0))
    tracer.read(1, (*shared, k0, c0))
    tracer.read(2, (*shared, k0, c1))
    if len(root.inputs) > 3:
        tracer.read(3, masked(tracer, 3, (*lead, q0, k0)))
    own = {0: ((*lead, q0, c1), RESULT), 1: ((*lead, q0), ROW_RESULT)}
    stores = tracer.write(own)
    body = tracer.body()
    loops = body.loops(lead)
    tracer.outer += [v.name for v in loops]
    before, *inside = body.place(
        [*tracer.outer, "q0", "k0", ROW_RESULT, "c0", "c1", RESULT], body.roots
    )[: len(loops) + 1]
    levels = [body.level(v, lets) for v, lets in zip(loops, inside, strict=True)]
    return _spec(tracer, body, before, levels, stores)


def masked(tracer: Tracer, operand: int, index: tuple[Size, ...]) -> tuple[Size, ...]:
    """Where a mask that broadcasts is read for the score at ``index``."""
    shape = tracer.shape(operand)
    last = index[len(index) - len(shape) :]
    return tuple(0 if n == 1 else i for n, i in zip(shape, last, strict=True))


def work(tracer: Tracer, products: int) -> Size:
    """What a kernel that multiplies ``products`` times with the scores costs, in loads."""
    shape, keys = tracer.shape(0), tracer.shape(1)[-2]
    columns = products * (shape[-1] + tracer.shape(2)[-1])
    return product((*shape[:-1], keys)) * columns // (2 * CHEAP if tracer.op.is_causal else CHEAP)


def _spec(
    tracer: Tracer,
    body: Body,
    before: tuple[Statement, ...],
    levels: list[Level],
    stores: dict[int, list[int]],
) -> AttentionSpec:
    elements = tracer.elements
    shape = tracer.shape(0)
    shapes = tile(tracer, [padded(shape[-1])], shape[-2])
    block = Block("q", "q0", "q_first", "q_end", shapes.queries)
    q = rows(tracer, body, 0, 0, "c0", block, whole=True)
    block = Block("k", "k0", "k_first", "k_end", KEYS)
    k = rows(tracer, body, 1, 1, "c0", block, whole=shapes.few)
    block = Block("v", "k0", "k_first", "k_end", KEYS)
    v = rows(tracer, body, 2, 2, "c1", block, whole=True)
    found = mask(tracer, body, 3, 3) if len(tracer.root.inputs) > 3 else None
    names = ("q0", ROW_RESULT, "c1", RESULT)
    both = (stores.get(1, []), stores.get(0, []))
    out = results(tracer, body, both, names, (v.columns, v.width), " * scaling")
    logarithm = "vtc_logf" if tracer.dtype is f32 else "log"
    if both[0]:
        elements.trace.needs.add("math")
    tiles = [*levels, blocks(tracer, "q_first", shape[-2], shapes.queries)]
    parts, outer = divide(tiles, work(tracer, 1), vector=False)
    lets = [s.lets for s in (*levels, *q.levels, *k.levels, *v.levels)]
    lets += [s.lets for s in (found.levels if found else ())]
    return AttentionSpec(
        head=_head(elements, [before, *lets, out.row_lets, out.lets], parts),
        before=before,
        outer=outer,
        tile=shapes,
        q=q,
        k=k,
        v=v,
        mask=found,
        hole=_hole(tracer, body),
        logsumexp=logarithm if both[0] else "",
        row_result=ROW_RESULT,
        out=out,
    )


def _head(elements: Elements, statements: list[tuple[Statement, ...]], parts: Parts | None) -> Head:
    """Nothing is read where the first output has no elements."""
    shape = elements.region.shape(elements.region.graph.outputs[0])
    return head(elements, shape, *statements, parts=parts)


def _hole(tracer: Tracer, body: Body) -> str:
    """Zero if there is a mask or nothing to attend to; else such a row has no finite score."""
    keys, dtype = tracer.shape(1)[-2], tracer.dtype
    nan = literal(float("nan"), dtype)
    if len(tracer.root.inputs) > 3 or keys == 0:
        return "0"
    return nan if isinstance(keys, int) else f"({c_text(keys, body.facts)} > 0 ? {nan} : 0)"
