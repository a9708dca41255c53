"""The gradient of attention: probabilities are computed again, block by block.

A head of keys is one item of work: its gradients are summed over blocks of queries (and over the
heads that share it) in memory of the kernel's own, while those of a block of queries are summed
over blocks of keys. Where there are more threads than heads, blocks of queries and blocks of keys
are items instead; scores are computed twice then, but every sum is added in the same order, so
results are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.attention import masked, work
from vtc.codegen.attention_rows import (
    KEYS,
    QUERIES,
    Block,
    Mask,
    Results,
    Rows,
    Tile,
    Tracer,
    blocks,
    mask,
    results,
    rows,
    tile,
)
from vtc.codegen.loops import Body
from vtc.codegen.parts import BEGIN, END, divide
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head, Level, Parts, head
from vtc.codegen.trace import Statement
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node

Q_INPUT, K_INPUT, V_INPUT, G_INPUT, LSE_INPUT, DELTA_INPUT, MASK_INPUT = range(7)
DQ, DK, DV = range(3)
Levels = tuple[Level, ...]


@final
@dataclass(frozen=True, slots=True)
class AttentionGradientSpec:
    """What ``attention_gradient.c.jinja`` may mention: as for attention, and ``g``, the gradient of
    its result. ``loads`` inside ``sums`` are what is known of each query. Items are heads
    (``by_head``), or where there are more parts than ``heads``, ``by_queries`` and ``by_keys``.
    """

    template = "attention_gradient"
    head: Head
    before: tuple[Statement, ...]
    by_head: Levels
    by_queries: Levels
    by_keys: Levels
    heads: str
    group: str
    tile: Tile
    q: Rows
    k: Rows
    v: Rows
    g: Rows
    mask: Mask | None
    sums: Level
    loads: tuple[str, ...]
    dq: Results
    dk: Results
    dv: Results


def attention_gradient(region: Region, root: Node) -> AttentionGradientSpec | PointwiseSpec:
    """The spec of a region about ``root``, the gradient of attention."""
    elements = Elements(region)
    if all(0 in region.shape(o) for o in region.graph.outputs):
        return empty(elements, region.shape(region.graph.outputs[0]))
    tracer = Tracer.of(elements, root)
    lead = elements.loops("i", tracer.shape(K_INPUT)[:-2])
    group = tracer.group()
    g0 = tracer.loop("g0", group)
    many = (*lead[:-1], lead[-1] * group + g0) if lead else ()
    q0, k0 = (tracer.loop(n, tracer.shape(x)[-2]) for n, x in (("q0", Q_INPUT), ("k0", K_INPUT)))
    c0, c1 = (tracer.loop(n, tracer.shape(x)[-1]) for n, x in (("c0", Q_INPUT), ("c1", V_INPUT)))
    tracer.read(Q_INPUT, (*many, q0, c0))
    tracer.read(K_INPUT, (*lead, k0, c0))
    tracer.read(V_INPUT, (*lead, k0, c1))
    tracer.read(G_INPUT, (*many, q0, c1))
    tracer.read(LSE_INPUT, (*many, q0))
    tracer.read(DELTA_INPUT, (*many, q0))
    if len(root.inputs) > MASK_INPUT:
        tracer.read(MASK_INPUT, masked(tracer, MASK_INPUT, (*many, q0, k0)))
    own = {
        DQ: ((*many, q0, c0), "a0"),
        DK: ((*lead, k0, c0), "a1"),
        DV: ((*lead, k0, c1), "a2"),
    }
    stores = tracer.write(own)
    body = tracer.body()
    loops = body.loops(lead)
    tracer.outer += [v.name for v in loops]
    names = [*tracer.outer, "g0", "q0", "k0", "c0", "c1", "a0", "a1", "a2"]
    before, *inside = body.place(names, body.roots)[: len(loops) + 1]
    levels = [body.level(v, lets) for v, lets in zip(loops, inside, strict=True)]
    return _spec(tracer, body, before, levels, stores)


def _spec(
    tracer: Tracer,
    body: Body,
    before: tuple[Statement, ...],
    levels: list[Level],
    stores: dict[int, list[int]],
) -> AttentionGradientSpec:
    q, k, v, g = _operands(tracer, body)
    found = mask(tracer, body, MASK_INPUT, MASK_INPUT) if len(tracer.root.inputs) > 6 else None
    sums, loads = _loads(tracer, body)
    dq, dk, dv = (
        results(tracer, body, ([], stores.get(i, [])), names, (x.columns, x.width))
        for i, x, names in (
            (DQ, q, ("q0", "", "c0", "a0")),
            (DK, k, ("k0", "", "c0", "a1")),
            (DV, v, ("k0", "", "c1", "a2")),
        )
    )
    lets = [s.lets for x in (q, k, v, g) for s in x.levels]
    lets += [s.lets for s in (*levels, *(found.levels if found else ()), sums)]
    heads = c_text(product(tracer.shape(K_INPUT)[:-2]), body.facts)
    parts, items = _items(tracer, levels, heads)
    shape = tracer.elements.region.shape(tracer.elements.region.graph.outputs[0])
    lets += [dq.lets, dk.lets, dv.lets, dq.row_lets, dk.row_lets, dv.row_lets]
    return AttentionGradientSpec(
        head=head(tracer.elements, shape, before, *lets, parts=parts),
        before=before,
        by_head=items[0],
        by_queries=items[1],
        by_keys=items[2],
        heads=heads,
        group=c_text(tracer.group(), body.facts),
        tile=tile(tracer, [q.width, g.width]),
        q=q,
        k=k,
        v=v,
        g=g,
        mask=found,
        sums=sums,
        loads=loads,
        dq=dq,
        dk=dk,
        dv=dv,
    )


def _operands(tracer: Tracer, body: Body) -> list[Rows]:
    """Queries, keys, values and the gradient of the result."""
    queries = ("q0", "q_first", "q_end", QUERIES)
    keys = ("k0", "k_first", "k_end", KEYS)
    return [
        rows(tracer, body, operand, operand, column, Block(name, *place), whole=name != "v")
        for name, operand, column, place in (
            ("q", Q_INPUT, "c0", queries),
            ("k", K_INPUT, "c0", keys),
            ("v", V_INPUT, "c1", keys),
            ("g", G_INPUT, "c1", queries),
        )
    ]


def _loads(tracer: Tracer, body: Body) -> tuple[Level, tuple[str, ...]]:
    """The loop over the queries of a block, and the statements that load what is known of each."""
    roots = [body.roots[LSE_INPUT], body.roots[DELTA_INPUT]]
    parts = body.place([*tracer.outer, "g0", "q0"], roots)[len(tracer.outer) + 1 :]
    level = Level("q0", "q_end", (*parts[0], *parts[1]), start="q_first")
    names = ("lse", LSE_INPUT), ("delta", DELTA_INPUT)
    return level, tuple(f"{name}[q0 - q_first] = {body.text(k)}" for name, k in names)


def _items(
    tracer: Tracer, levels: list[Level], heads: str
) -> tuple[Parts, tuple[Levels, Levels, Levels]]:
    """How items are counted, and the loops over each kind of item."""
    cost = work(tracer, 3)
    one, by_head = _divided([*levels] or [Level("item", "1", ())], cost)
    group = tracer.group()
    shared = [Level("g0", c_text(group, tracer.elements.trace.facts), ())] if group != 1 else []
    queries = blocks(tracer, "q_first", tracer.shape(Q_INPUT)[-2], QUERIES)
    keys = blocks(tracer, "k_from", tracer.shape(K_INPUT)[-2], KEYS)
    few, by_queries = _divided([*levels, *shared, queries], cost)
    more, by_keys = _divided([*levels, keys], cost)
    by_queries = _between(by_queries, BEGIN, f"vtc_minimum({END}, {few})")
    by_keys = _between(by_keys, f"vtc_maximum({BEGIN} - {few}, 0)", f"{END} - {few}")
    count = f"(parts > {heads} ? {few} + {more} : {one})"
    return Parts(count, 1, cost), (by_head, by_queries, by_keys)


def _divided(levels: Sequence[Level], cost: Size) -> tuple[str, Levels]:
    parts, found = divide(levels, cost, vector=False)
    assert parts is not None
    return parts.count, found


def _between(levels: Levels, start: str, end: str) -> Levels:
    return (replace(levels[0], start=start, extent=end), *levels[1:])
