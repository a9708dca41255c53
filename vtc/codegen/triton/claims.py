"""Scattering writes of many elements: each claims its place, and the last one gets it.

A claim is the number of an element, in memory beside the result. Three launches follow each other::

    tl.store(s0 + e, -1, e < 4096)                                    # nobody's
    tl.atomic_max(s0 + j, r, r < 100000, sem="relaxed")
    tl.store(y0 + j, t, (r < 100000) & (tl.load(s0 + j, ...) == r))
"""

from __future__ import annotations

from dataclasses import replace

from vtc.codegen.trace import Cell, Let, Value
from vtc.codegen.triton.head import Block, Head, ceil_div, head
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.scatter_trace import Scattered, ScatterSpec
from vtc.ir.dims import Size, product
from vtc.ir.types import bool_


def claims(work: Scattered, block: int, warps: int) -> tuple[Phase, ...]:
    """The launches that write the elements of ``work``, once the first input is copied."""
    wide = work.index_type() == "tl.int64"
    bits = 64 if wide else 32
    _, places = _place(work)
    scratch = (places * (bits // 8),)
    made = _nobodys(work, places, bits, block), _claimed(work, bits, block, warps)
    write = _written(work, bits, block, warps)
    return (
        Phase(made[0], args=(), scratch=scratch),
        *(Phase(spec, scratch=scratch) for spec in (made[1], write)),
    )


def _place(work: Scattered) -> tuple[Cell, Size]:
    """The claim on the place of an element, or of a whole row; how many there are."""
    columns = work.columns if work.whole else []
    shape = work.region.shape(work.root)
    own = [(n, i) for n, i in zip(shape, work.at, strict=True) if str(i) not in columns]
    sizes, at = [n for n, _ in own], tuple(i for _, i in own)
    return work.elements.cell("s0", sizes, at), product(sizes)


def _nobodys(work: Scattered, places: Size, bits: int, block: int) -> ScatterSpec:
    """All places are claimed by nobody."""
    count = Block(work.elements.trace.facts, {}, {}).size(places)
    lines = (
        f"e = tl.program_id(0).to({work.index_type()})*{block} + tl.arange(0, {block})",
        f"tl.store(s0 + e, tl.full(({block},), -1, tl.int{bits}), e < {count})",
    )
    plain = head(work.elements)
    sizes = [f"n{k}" for k in range(len(work.region.symbols))]
    signature = (f"*i{bits}", *("i64" for _ in sizes))
    own = Head(("s0", *sizes), signature, (), False, plain.warps, plain.stages)
    return ScatterSpec(own, lines, (ceil_div(places, block),))


def _claimed(work: Scattered, bits: int, block: int, warps: int) -> ScatterSpec:
    """Each place is claimed by the last element that goes there."""
    own = Scattered(work.region, work.root, work.op)
    lets = own.elements.trace.lets
    lets.update({e: replace(lets[e], raises=False) for e in own.wrong})
    cell, _ = _place(own)
    number = ("tl.cast(", own.number, f", tl.int{bits})")
    root = Let("", "", ("tl.atomic_max(", cell, ", ", *number, ", ", *own.placed, _RELAXED))
    spec = own.spec(root, block, warps, flat=own.whole)
    return replace(spec, head=_beside(spec.head, own, bits))


def _written(work: Scattered, bits: int, block: int, warps: int) -> ScatterSpec:
    """Elements whose claim it is go to their place."""
    cell, _ = _place(work)
    claim = ("tl.load(", cell, ", ", *work.placed, ") == ", work.number)
    mine = Value(bool_, work.elements.trace.let("tl.int1", *claim))
    spec = work.spec(work.store(work.value(work.index), " & ", mine), block, warps)
    return replace(spec, head=_beside(spec.head, work, bits))


def _beside(plain: Head, work: Scattered, bits: int) -> Head:
    """``plain`` with a pointer to the claims after all others."""
    graph = work.region.graph
    end = len(graph.params) + len(graph.outputs)
    return replace(
        plain,
        args=(*plain.args[:end], "s0", *plain.args[end:]),
        signature=(*plain.signature[:end], f"*i{bits}", *plain.signature[end:]),
    )


_RELAXED = ', sem="relaxed")'
