"""Sorting rows: elements become unsigned keys of the same order, sorted with their places.

Few elements are inserted one by one; many are sorted by the bytes of their keys, from the last to
the first, and bytes that all keys share are left out: a pass takes two nanoseconds for each
element. The best few of many are kept in a heap. Equal keys stay in order either way, so results
are always the same. What follows (the values at these places) is computed where it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.parts import divide, work
from vtc.codegen.pointwise import PointwiseSpec, empty
from vtc.codegen.region import Elements, Region
from vtc.codegen.scan import stores
from vtc.codegen.sizes import c_text
from vtc.codegen.spec import Head, Level, head
from vtc.codegen.trace import Let, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, bounds, product
from vtc.ir.graph import Node
from vtc.ir.ops.sort import Sorting, Topk
from vtc.ir.scalar import Index
from vtc.ir.types import i64

READ, WRITE, FOUND = "r", "o", "found"
PASSES = 12
"""What sorting an element costs, in loads."""
FEW = 8
"""The best of a row are kept in a heap if it is this many times as long."""


@final
@dataclass
class Sorted:
    """A region about ``root``, traced: ``rows`` are the loops over rows, element ``r`` of a row is
    ``value``, and place ``o`` of the result gets ``FOUND``, an index along the row.
    """

    elements: Elements
    root: Node
    op: Sorting = field(init=False)
    rows: Index = field(init=False)
    length: Size = field(init=False)
    kept: Size = field(init=False)
    value: Value = field(init=False)
    stores: list[Let] = field(init=False)

    def __post_init__(self) -> None:
        elements, root = self.elements, self.root
        region, op = elements.region, elements.region.op(root)
        if not isinstance(op, Sorting):
            raise CodegenError(f"{op.name}: expected an op that sorts")
        self.op, axis = op, op.axis
        shape, source = region.shape(root), region.shape(root.inputs[0])
        self.length, self.kept = source[axis], shape[axis]
        loops = elements.loops("i", shape)
        self.rows = (*loops[:axis], *loops[axis + 1 :])
        facts = elements.trace.facts
        walks = (facts.loop(READ, self.length), facts.loop(WRITE, self.kept))
        r, o = (0 if facts.extents[str(v)] == 1 else v for v in walks)
        before, after = loops[:axis], loops[axis + 1 :]
        elements.prepare(source, (*before, r, *after), before=root)
        self.value = elements.at(root.inputs[0], (*before, r, *after))
        facts.ranges[FOUND] = (0, _last(self.length, region))
        facts.extents[FOUND] = self.length
        found = Value(i64, FOUND, Sym.var(FOUND))
        self.stores = stores(elements, root, shape, (*before, o, *after), found)


def _last(length: Size, region: Region) -> int | None:
    most = bounds(length, region.ranges)[1]
    return None if most is None else max(most - 1, 0)


@final
@dataclass(frozen=True, slots=True)
class SortSpec:
    """What ``sort.c.jinja`` may mention: the key of element ``r`` comes of ``value``, which is of
    ``dtype``; ``kept`` of ``length`` places are wanted, in a heap if ``few``.
    """

    template = "sort"
    head: Head
    before: tuple[Statement, ...]
    outer: tuple[Level, ...]
    dtype: str
    key: str
    place: str
    downward: bool
    few: bool
    length: str
    kept: str
    read: Level
    value: str
    write: Level
    stores: tuple[str, ...]


def sort(region: Region, root: Node) -> SortSpec | PointwiseSpec:
    """The spec of a region about ``root``, an op that sorts."""
    elements = Elements(region)
    if 0 in region.shape(root):
        return empty(elements, region.shape(root))
    work_ = Sorted(elements, root)
    body = Body(elements.trace, [Let("", "", (work_.value,)), *work_.stores])
    rows = body.merge(body.loops(work_.rows))
    names = [v.name for v in rows]
    before, *inside = body.place([*names, READ, WRITE, FOUND], body.roots)
    read, write = inside[-3], (*inside[-2], *inside[-1])
    levels = [body.level(v, lets) for v, lets in zip(rows, inside, strict=False)]
    source = region.shape(root.inputs[0])
    parts, outer = divide(levels, work(elements, product(source) * PASSES), vector=False)
    dtype = root.inputs[0].tensor.dtype.accumulate
    last = bounds(work_.length, region.ranges)[1]
    return SortSpec(
        head=head(elements, source, before, *(v.lets for v in levels), read, write, parts=parts),
        before=before,
        outer=outer,
        dtype=dtype.name,
        key=f"uint{8 * dtype.itemsize}_t",
        place="int32_t" if last is not None and last < 2**31 else "int64_t",
        downward=work_.op.downward,
        few=_few(work_),
        length=c_text(work_.length, body.facts),
        kept=c_text(work_.kept, body.facts),
        read=body.level(Loop(READ, work_.length), read),
        value=body.text(0),
        write=body.level(Loop(WRITE, work_.kept), write),
        stores=tuple(body.text(k) for k in range(1, len(body.roots))),
    )


def _few(work_: Sorted) -> bool:
    long = not isinstance(work_.length, int) or work_.length > FEW * _count(work_.kept)
    return isinstance(work_.op, Topk) and long


def _count(kept: Size) -> int:
    return kept if isinstance(kept, int) else 1
