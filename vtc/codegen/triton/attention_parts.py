"""Attention of few queries in Triton: keys are divided, so that all processors have some.

    part = e%32                        # of the keys; queries of all heads that share them are rows
    tl.store(s0 + at, top)             # the largest score of a row, the sum and the result so far
    ...
    top = tl.max(tops, 0)              # the second kernel puts parts together
    a0 = tl.sum(outs*exp2(tops - top), 0)/tl.sum(totals*exp2(tops - top), 0)

The method is that of Dao et al. ("Flash-Decoding", 2023). What follows the result is computed by
the second kernel. Rows of a part are numbered by head of the group and query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.attention import RESULT, ROW_RESULT, masked
from vtc.codegen.attention_rows import Tracer
from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.sizes import Facts
from vtc.codegen.triton.attention_blocks import (
    Axis,
    Code,
    Walk,
    columns,
    conditions,
    count,
    known,
    operand,
    programs,
    stores,
    uses,
    walked,
)
from vtc.codegen.triton.attention_scores import Scores, hole, scores_of
from vtc.codegen.triton.attention_tiles import Tile
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type, power
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.pointwise import decomposed
from vtc.codegen.triton.scalars import POINTERS, TritonScalars
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node

WIDE = 8192
"""Elements of all parts of a row from which on it takes more threads to add them."""


@final
@dataclass(frozen=True, slots=True)
class PartSpec:
    """What ``attention_part.py.jinja`` may mention: a program has ``rows`` rows, ``queries`` of
    each head, and ``each`` keys of which it takes those before ``stop``; a row of its result has
    ``height`` columns.
    """

    template = "attention_part"
    head: Head
    index: str
    tile: Tile
    columns: tuple[int, int]
    height: int
    rows: int
    queries: int
    each: str
    stop: str
    scores: Scores
    programs: tuple[str, ...]
    before: tuple[str, ...]
    inside: tuple[str, ...]
    walk: Walk
    grid: tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class WholeSpec:
    """What ``attention_whole.py.jinja`` may mention: a row has ``parts``, which lie at ``place``;
    ``block`` is what covers them.
    """

    template = "attention_whole"
    head: Head
    index: str
    columns: int
    height: int
    parts: int
    block: int
    place: str
    scores: Scores
    programs: tuple[str, ...]
    hole: str
    with_sum: bool
    stores: tuple[str, ...]
    grid: tuple[Size, ...]


def in_parts(region: Region, root: Node, tile: Tile) -> tuple[Phase, Phase]:
    """The launches of a region about ``root``, attention of few queries."""
    part, whole = _part(region, root, tile), _whole(region, root, tile)
    heads = product(region.shape(root.inputs[1])[:-2])
    kept = root.inputs[0].tensor.dtype.accumulate
    sums = heads * tile.parts * part.rows * kept.itemsize
    scratch = (sums, sums, sums * part.height)
    params = tuple(range(len(region.graph.params)))
    return Phase(part, args=params, scratch=scratch), Phase(whole, scratch=scratch)


def _part(region: Region, root: Node, tile: Tile) -> PartSpec:
    """The kernel that computes parts."""
    elements = Elements(region, TritonScalars)
    tracer = Tracer.of(elements, root)
    (*_, queries, width), (*_, keys, height) = tracer.shape(0), tracer.shape(2)
    group = _group(tracer)
    lead = elements.loops("i", tracer.shape(1)[:-2])
    q0, g0, k0, k1 = (
        tracer.loop(n, x) for n, x in (("q0", queries), ("g0", group), ("k0", keys), ("k1", keys))
    )
    c0, c1 = tracer.loop("c0", width), tracer.loop("c1", height)
    own = (*lead[:-1], lead[-1] * group + g0) if lead else ()
    tracer.read(0, (*own, q0, c0))
    tracer.read(1, (*lead, k0, c0))
    tracer.read(2, (*lead, k0, c1))
    if len(root.inputs) > 3:
        tracer.read(3, masked(tracer, 3, (*own, q0, k1)))
    body = tracer.body()
    loops = body.loops(lead)
    tracer.outer += [v.name for v in loops]
    return _part_spec(tracer, body, tile, loops)


def _part_spec(tracer: Tracer, body: Body, tile: Tile, loops: Sequence[Loop]) -> PartSpec:
    elements, facts = tracer.elements, body.facts
    (*_, queries, width), (*_, keys, height) = tracer.shape(0), tracer.shape(2)
    assert isinstance(queries, int)
    assert isinstance(height, int)
    rows = queries * _group(tracer)
    r0, k0, k1 = Axis("r0", tile.queries, rows), *(Axis(n, tile.keys, keys) for n in ("k0", "k1"))
    c0, c1 = Axis("c0", columns(width), width), Axis("c1", columns(height), height)
    cond = conditions(facts, (r0, k0, k1, c0, c1))
    if "r0" in cond:
        cond |= dict.fromkeys(("g0", "q0"), cond["r0"])
    reads = [operand(tracer, body, "k", 1, 1, k0, c0), operand(tracer, body, "v", 2, 2, k0, c1)]
    if len(tracer.root.inputs) > 3:
        reads.append(known(tracer, body, "mask", 3, "0.0", r0, k1))
    code = Code(body, frozenset(("k0", "k1")), set())
    fixed = {name: c for name, c in cond.items() if name not in ("k0", "k1")}
    before = code.before([operand(tracer, body, "q", 0, 0, r0, c0), *reads], fixed)
    each, stop = _share(facts, keys, tile)
    return PartSpec(
        head=_beside(head(elements, warps=tile.warps, stages=tile.stages), tracer, results=False),
        index=index_type(elements),
        tile=tile,
        columns=(c0.length, c1.length),
        height=height,
        rows=rows,
        queries=queries,
        each=each,
        stop=stop,
        scores=scores_of(tracer, 3),
        programs=tuple(decomposed(Block(facts, {}, {}), "e", loops)),
        before=before,
        inside=code.inside(reads, cond),
        walk=walked(facts, k1, tile, is_causal=False),
        grid=(count(loops, tile.parts),),
    )


def _share(facts: Facts, keys: Size, tile: Tile) -> tuple[str, str]:
    """How many keys are those of a part, and how many of these there are."""
    printer = Block(facts, {}, {})
    each = ceil_div(ceil_div(keys, tile.keys), tile.parts) * tile.keys
    text = printer.size(each)
    if isinstance(each, int) and each * tile.parts == keys:
        return text, text
    return text, f"tl.minimum({text}, {printer.size(keys)} - part*({text}))"


def _whole(region: Region, root: Node, tile: Tile) -> WholeSpec:
    """The kernel that puts parts together: a row to a program."""
    elements = Elements(region, TritonScalars)
    tracer = Tracer.of(elements, root)
    (*_, queries, _), (*_, height) = tracer.shape(0), tracer.shape(2)
    assert isinstance(height, int)
    lead = elements.loops("i", tracer.shape(0)[:-2])
    q0, c1 = tracer.loop("q0", queries), tracer.loop("c1", height)
    stored = tracer.write({0: ((*lead, q0, c1), RESULT), 1: ((*lead, q0), ROW_RESULT)})
    body = tracer.body()
    loops = body.loops(lead)
    tracer.outer += [v.name for v in loops]
    row, column = Axis("q0", 1, queries), Axis("c1", columns(height), height)
    results = [*stores(tracer, body, stored.get(1, ()), row)]
    results += stores(tracer, body, stored.get(0, ()), row, column)
    code = Code(body, frozenset(), set())
    group, parts = _group(tracer), power(tile.parts)
    first = f"(e//{group}*{tile.parts} + n)*{queries * group} + e%{group}*{queries} + block"
    warps = 8 if parts * column.length > WIDE else 4
    return WholeSpec(
        head=_beside(head(elements, warps=warps), tracer, results=True),
        index=index_type(elements),
        columns=column.length,
        height=height,
        parts=tile.parts,
        block=parts,
        place=first if loops else f"n*{queries} + block",
        scores=scores_of(tracer, 3),
        programs=tuple(programs(body.facts, loops, queries, last=False)),
        hole=hole(tracer, Block(body.facts, {}, {})),
        with_sum=uses(body, ROW_RESULT),
        stores=code.before(results, conditions(body.facts, (row, column))),
        grid=(count(loops, queries),),
    )


def _group(tracer: Tracer) -> int:
    """How many heads share keys."""
    group = tracer.group()
    assert isinstance(group, int)
    return group


def _beside(plain: Head, tracer: Tracer, *, results: bool) -> Head:
    """``plain`` with pointers to what parts are kept in after those to params and ``results``."""
    graph = tracer.elements.region.graph
    end = len(graph.params) + len(graph.outputs)
    first = end if results else len(graph.params)
    names, kinds = ("s0", "s1", "s2"), (POINTERS[tracer.dtype.name],) * 3
    return replace(
        plain,
        args=(*plain.args[:first], *names, *plain.args[end:]),
        signature=(*plain.signature[:first], *kinds, *plain.signature[end:]),
    )
