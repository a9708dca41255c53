"""What attention and its gradient share: blocks of rows, masks, and where results go.

Rows of an operand that lie in memory as they are used are read there; others (a cast, a rotation,
an axis that is no multiple of a vector) are computed once per block, in memory of the kernel's own.
Index variables are ``i0, i1`` (batches and heads), ``g0`` (heads that share keys), ``q0``
(queries), ``k0`` (keys), ``c0`` (columns of queries and keys), ``c1`` (columns of values).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, final

from vtc.codegen.loops import Body, raises, simd
from vtc.codegen.region import Elements
from vtc.codegen.scalar import REGISTER, literal
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.spec import Level
from vtc.codegen.trace import Cell, Let, Statement, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Size, floordiv, mod, product, substitute, symbols
from vtc.ir.graph import Node
from vtc.ir.ops.attention import Attention
from vtc.ir.ops.control import Item
from vtc.ir.scalar import Index
from vtc.ir.types import DType, TupleType, bool_, f64

QUERIES, KEYS = 64, 64
"""Rows of a block."""

ONE_VECTOR, FEW = 16, 2
"""Queries up to which one vector of them lies side by side, and up to which none does."""

PADDING = 16
"""Elements in the widest vector: what rows are padded to."""

HEIGHTS = (8, 4, 1)
"""Rows of a register tile that is two vectors wide, the largest first."""

Statements = tuple[Statement, ...]


@final
@dataclass(frozen=True, slots=True)
class Lanes:
    """Vectors of ``bytes`` under the preprocessor's ``test``; ``low`` and ``high`` are how two of
    them are woven.
    """

    test: str
    bytes: int
    low: str
    high: str


@final
@dataclass(frozen=True, slots=True)
class Tile:
    """What ``attention_tile.c.jinja`` may mention beside operands: a block has ``queries`` and
    ``keys``, and ``vectors`` of queries lie side by side; ``heights`` are rows of register tiles,
    the largest first; no row is longer than ``widest``. With ``few`` queries their scores are
    computed one by one, along the columns.
    """

    ctype: str
    bits: str
    infinity: str
    lanes: tuple[Lanes, ...]
    heights: tuple[int, ...]
    vectors: int
    queries: int
    few: bool
    keys: int
    widest: int
    is_causal: bool
    scale: str


@final
@dataclass(frozen=True, slots=True)
class Rows:
    """Rows ``row`` of ``columns`` elements: at ``pointer``, ``stride`` apart, or packed by
    ``store`` inside ``levels``, ``width`` apart, into ``room`` elements. ``first`` is the first of
    a block.
    """

    name: str
    rows: str
    columns: str
    width: int
    first: str
    pointer: str
    stride: str
    room: int
    levels: tuple[Level, ...]
    store: str


@final
@dataclass(frozen=True, slots=True)
class Mask:
    """How a mask of a block is computed; if ``turned``, query by query."""

    added: bool
    turned: bool
    levels: tuple[Level, ...]
    store: str


@final
@dataclass(frozen=True, slots=True)
class Results:
    """What is stored for each ``row``, and for each ``column`` of it given ``result``, an element
    of rows that are ``width`` apart, times ``factor``.
    """

    row: str
    column: str
    columns: str
    width: int
    result: str
    factor: str
    row_lets: Statements
    row_stores: tuple[str, ...]
    pragma: str
    lets: Statements
    stores: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Block:
    """The rows of a block that are packed: ``var`` from ``first`` to ``end``, ``most`` of them."""

    name: str
    var: str
    first: str
    end: str
    most: int


@final
@dataclass
class Tracer:
    """Traces what a kernel of attention reads and writes; :meth:`body` comes after all tracing."""

    elements: Elements
    op: Attention
    root: Node
    roots: list[Let]
    outer: list[str]

    @staticmethod
    def of(elements: Elements, root: Node) -> Tracer:
        """For the op of ``root``."""
        op = elements.region.op(root)
        if not isinstance(op, Attention):
            raise CodegenError(f"{op.name}: expected attention, got {root.name}: {root.type}")
        for node in root.inputs[:3]:
            width = elements.region.shape(node)[-1]
            if not isinstance(width, int):
                raise CodegenError(f"{op.name}: expected columns of known size, got {node.type}")
        return Tracer(elements, op, root, [], [])

    @property
    def dtype(self) -> DType:
        """What is computed in."""
        return self.root.inputs[0].tensor.dtype.accumulate

    def shape(self, operand: int) -> tuple[Size, ...]:
        """The shape of an operand."""
        return self.elements.region.shape(self.root.inputs[operand])

    def group(self) -> Size:
        """How many heads of queries share one of keys."""
        queries, keys = self.shape(0), self.shape(1)
        return 1 if len(queries) < 3 else floordiv(queries[-3], keys[-3])

    def loop(self, name: str, extent: Size) -> Size:
        """A loop variable; 0 where it has one value."""
        return 0 if extent == 1 else self.elements.trace.facts.loop(name, extent)

    def read(self, operand: int, index: Index) -> int:
        """Trace an element of an operand; the number of the root."""
        node, s = self.root.inputs[operand], self.elements.scalars
        shape = self.elements.region.shape(node)
        if 0 in shape:
            value = s.const(0, node.tensor.dtype)
        else:
            self.elements.prepare(shape, index, self.root)
            value = self.elements.at(node, index)
        self.roots.append(Let("", "", (value,)))
        return len(self.roots) - 1

    def write(self, own: dict[int, tuple[Index, str]]) -> dict[int, list[int]]:
        """Trace the stores of all outputs; by the result (of ``own``, with its index and name) they
        follow, the numbers of their roots.
        """
        graph, elements = self.elements.region.graph, self.elements
        items = {n: n.op.index for n in graph.nodes if isinstance(n.op, Item)}
        for node, k in items.items():
            elements.fixed[node] = _reader(node, *own[k])
        several = cast("TupleType", self.root.type).items
        shapes = [tuple(substitute(n, elements.region.names) for n in t.shape) for t in several]
        found: dict[int, list[int]] = {}
        for k, node in enumerate(graph.outputs):
            results = sorted({items[n] for n in _before(node) if n in items})
            if not results:
                raise CodegenError(f"{self.op.name}: expected {node.name} to follow its results")
            size = product(elements.region.shape(node))
            fits = (i for i in (*results, *own) if product(shapes[i]) == size)
            first = next(fits, results[0])
            index = self._at(node, own[first][0], shapes[first])
            store = elements.store(k, index, elements.at(node, index))
            self.roots.append(store)
            found.setdefault(first, []).append(len(self.roots) - 1)
        return found

    def _at(self, node: Node, own: Index, shape: tuple[Size, ...]) -> Index:
        """Where in ``node`` the element ``own`` of a result of ``shape`` goes."""
        to = self.elements.region.shape(node)
        if to == shape:
            return own
        if product(to) != product(shape):
            got = f"expected as many elements as its result has, got {node.name}: {node.type}"
            raise CodegenError(f"{self.op.name}: {got}")
        flat: Size = 0
        for i, n in zip(own, shape, strict=True):
            flat = flat * n + i
        index: list[Size] = []
        for n in reversed(to):
            index.append(0 if n == 1 else mod(flat, n))
            flat = floordiv(flat, n) if n != 0 else 0
        simplify = self.elements.trace.facts.simplify
        return tuple(simplify(i) for i in reversed(index))

    def body(self) -> Body:
        """All that was traced."""
        return Body(self.elements.trace, self.roots)


def rows(
    tracer: Tracer, body: Body, operand: int, root: int, column: str, block: Block, *, whole: bool
) -> Rows:
    """The rows of an operand, traced as ``root``; ``whole`` vectors of them are read."""
    shape, facts = tracer.shape(operand), body.facts
    columns = shape[-1]
    assert isinstance(columns, int)
    width = padded(columns)
    place = None if whole and width != columns else _place(tracer, body, root, block.var, column)
    levels: tuple[Level, ...] = ()
    store = ""
    if place is None:
        ends = {block.var: (block.first, block.end), column: ("0", str(columns))}
        across = body.contiguous(block.var, root) > body.contiguous(column, root)
        order = (column, block.var) if across else (block.var, column)
        levels = _levels(tracer, body, root, ends, order)
        at = f"({block.var} - {block.first}) * {width} + {column}"
        store = f"{block.name}_rows[{at}] = (scalar)({body.text(root)});"
    pointer, stride = place or ("", "")
    return Rows(
        name=block.name,
        rows=c_text(shape[-2], facts),
        columns=str(columns),
        width=width,
        first=block.first,
        pointer=pointer,
        stride=stride,
        room=block.most * width,
        levels=levels,
        store=store,
    )


def mask(tracer: Tracer, body: Body, operand: int, root: int) -> Mask:
    """The mask, traced as ``root``."""
    turned = body.contiguous("k0", root) > body.contiguous("q0", root)
    ends = {"q0": ("q_at", "q_stop"), "k0": ("k_first", "k_stop")}
    order = ("q0", "k0") if turned else ("k0", "q0")
    levels = _levels(tracer, body, root, ends, order)
    to = "mask_rows[(q0 - q_at) * K + k0 - k_first]"
    if not turned:
        to = "mask[(k0 - k_first) * W + q0 - q_at]"
    added = tracer.root.inputs[operand].tensor.dtype is not bool_
    return Mask(added, turned, levels, f"{to} = (scalar)({body.text(root)});")


def results(
    tracer: Tracer,
    body: Body,
    stores: tuple[list[int], list[int]],
    names: tuple[str, str, str, str],
    columns: tuple[str, int],
    factor: str = "",
) -> Results:
    """What is stored per row, and per element. ``names`` are those of the row, of the result of a
    row, of the column and of the result of an element.
    """
    row, row_result, column, result = names
    order = [*tracer.outer, "g0", row, row_result, column, result]
    wanted = [body.roots[k] for part in stores for k in part]
    parts = body.place(order, wanted)[len(tracer.outer) + 1 :]
    lets = (*parts[3], *parts[4])
    return Results(
        row=row,
        column=column,
        columns=columns[0],
        width=columns[1],
        result=result,
        factor=factor,
        row_lets=(*parts[0], *parts[1], *parts[2]),
        row_stores=tuple(body.text(k) for k in stores[0]),
        pragma=simd(raises(lets)),
        lets=lets,
        stores=tuple(body.text(k) for k in stores[1]),
    )


def blocks(tracer: Tracer, var: str, extent: Size, each: int) -> Level:
    """The loop over blocks of ``each`` rows, of which ``var`` is the first. Causal ones are not
    equally long: the first and the last take turns, so that any share of them is a fair one.
    """
    count = c_text(floordiv(extent + (each - 1), each), tracer.elements.trace.facts)
    place = "block"
    if tracer.op.is_causal:
        place = f"(block % 2 ? {count} - 1 - block / 2 : block / 2)"
    first = Statement("int64_t", var, f"{place} * {each}", raises=False)
    return Level("block", count, (first,))


def padded(columns: Size) -> int:
    """``columns`` in whole vectors, at least one."""
    assert isinstance(columns, int)
    return max(PADDING, -(-columns // PADDING) * PADDING)


def tile(tracer: Tracer, widths: Sequence[int], most: Size | None = None) -> Tile:
    """The tile of a kernel whose rows are ``widths`` long, for ``most`` queries."""
    dtype = tracer.dtype
    some = most if isinstance(most, int) else QUERIES
    tests = (("if defined(__AVX512F__)", 64), ("elif defined(__AVX__)", 32), ("else", 16))
    return Tile(
        ctype=REGISTER[dtype.name],
        bits="int64_t" if dtype is f64 else "int32_t",
        infinity=literal(math.inf, dtype),
        lanes=tuple(Lanes(test, b, *_weave(b // dtype.itemsize)) for test, b in tests),
        heights=HEIGHTS,
        vectors=1 if some <= ONE_VECTOR else 2,
        queries=ONE_VECTOR if some <= ONE_VECTOR else QUERIES,
        few=some <= FEW,
        keys=KEYS,
        widest=max(*widths, KEYS),
        is_causal=tracer.op.is_causal,
        scale=literal(tracer.op.scale, dtype),
    )


def _weave(count: int) -> tuple[str, str]:
    low = [f"{i}, {count + i}" for i in range(count // 2)]
    high = [f"{i}, {count + i}" for i in range(count // 2, count)]
    return ", ".join(low), ", ".join(high)


def _reader(node: Node, own: Index, name: str) -> Callable[[Index], Value]:
    def read(index: Index) -> Value:
        if index != own:
            got = f"got {node.name} read at {list(map(str, index))}"
            raise CodegenError(f"attention: expected results to be read in their own order, {got}")
        return Value(node.tensor.dtype.accumulate, name)

    return read


def _before(node: Node) -> set[Node]:
    found, stack = {node}, [node]
    while stack:
        for i in stack.pop().inputs:
            if i not in found:
                found.add(i)
                stack.append(i)
    return found


def _place(tracer: Tracer, body: Body, root: int, row: str, column: str) -> tuple[str, str] | None:
    """Where the rows lie, if it is in memory as they are used: row 0, and the stride."""
    (value,) = body.roots[root].parts
    let = body.lets.get(value.text) if isinstance(value, Value) else None
    if let is None or len(let.parts) != 1 or not isinstance(let.parts[0], Cell):
        return None
    cell, facts = let.parts[0], body.facts
    stride = linear(cell.offset, row)
    if stride is None or linear(cell.offset, column) != 1:
        return None
    base = facts.simplify(substitute(cell.offset, {row: 0, column: 0}))
    if not symbols(base) | symbols(stride) <= {*tracer.outer, "g0", *tracer.elements.region.ranges}:
        return None
    return f"({cell.buffer} + {c_text(base, facts)})", c_text(stride, facts)


def _levels(
    tracer: Tracer,
    body: Body,
    root: int,
    ends: dict[str, tuple[str, str]],
    order: tuple[str, str],
) -> tuple[Level, ...]:
    """Loops that compute ``root``, from and to ``ends``."""
    outer, inner = order
    names = [*tracer.outer, "g0", outer, inner]
    parts = body.place(names, [body.roots[root]])[len(tracer.outer) + 1 :]
    first, last = ends[outer], ends[inner]
    return (
        Level(outer, first[1], (*parts[0], *parts[1]), start=first[0]),
        Level(inner, last[1], parts[2], simd(raises(parts[2])), start=last[0]),
    )
