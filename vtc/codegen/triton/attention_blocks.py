"""What attention and its gradient share in Triton: blocks of operands, results and programs.

Index variables have one shape each: ``q0``, ``k0`` are columns of a block (``[:, None]``), their
twins ``q1``, ``k1`` and the variables of columns ``c0``, ``c1`` are rows (``[None, :]``). So a
scalar that is traced once has one shape wherever it is used, and lies outside the loops whose
variables it does not read::

    q = tl.load(x0 + (4096*i0) + (64*q0 + c0), (q0 < n0), other=0.0)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.attention_rows import Tracer
from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Region
from vtc.codegen.sizes import Facts
from vtc.codegen.trace import INSIDE, Cell, Let, Part, Value, needed, reads
from vtc.codegen.triton.attention_tiles import LEAST, Sizes, Tile
from vtc.codegen.triton.head import Block, ceil_div, power
from vtc.codegen.triton.pointwise import decomposed
from vtc.codegen.triton.scalars import NAMES
from vtc.ir.dims import Size, Sym, floordiv, product, symbols
from vtc.ir.graph import Node
from vtc.ir.types import DType, bool_, f32, f64

CACHED = 16 << 20
"""Bytes of operands that programs read at a time: the cache of an H100 has 50 MB, in two halves."""


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """A variable of a block of ``length``, of all those that cover ``extent``."""

    name: str
    length: int
    extent: Size

    @property
    def whole(self) -> bool:
        """Whether blocks end where the axis does."""
        return isinstance(self.extent, int) and self.extent % self.length == 0 != self.extent


def columns(extent: Size) -> int:
    """The length of a block that has whole rows of ``extent``."""
    assert isinstance(extent, int)
    return max(LEAST, power(extent))


def sizes_of(region: Region, root: Node) -> Sizes:
    """What tiles of attention, or its gradient, are chosen by."""
    q, k, v = (region.shape(n) for n in root.inputs[:3])
    widest = max(columns(q[-1]), columns(v[-1]))
    group = floordiv(q[-3], k[-3]) if len(q) > 2 and k[-3] != 0 else 1
    return Sizes(product(q[:-2]), q[-2], k[-2], widest, group)


def conditions(facts: Facts, axes: Iterable[Axis]) -> dict[str, str]:
    """When variables are inside."""
    printer = Block(facts, {}, {})
    return {a.name: f"{a.name} < {printer.size(a.extent)}" for a in axes if not a.whole}


def inside(known: dict[str, str], axes: Iterable[Axis]) -> str:
    """When all of ``axes`` are inside; "" if always."""
    return " & ".join(f"({known[a.name]})" for a in axes if a.name in known)


@final
@dataclass(frozen=True, slots=True)
class Read:
    """A block of an operand: ``let`` has its name, ``axes`` its shape."""

    let: Let
    axes: tuple[Axis, ...]


def operand(tracer: Tracer, body: Body, name: str, root: int, node: int, *axes: Axis) -> Read:
    """Operand ``node`` of attention, traced as ``root``, as it goes into a product: in its own type
    and zero outside.
    """
    (value,) = body.roots[root].parts
    assert isinstance(value, Value)
    dtype = tracer.root.inputs[node].tensor.dtype
    found = _in_memory(tracer, body, value)
    if found is not None:
        cell, stored = found
        cast = "" if stored is dtype else f".to({NAMES[dtype.name]})"
        place = address(tracer, cell, axes)
        return Read(Let(name, "", ("tl.load(", *place, ", ", INSIDE, f", other=0.0){cast}")), axes)
    shape = ", ".join(str(a.length) for a in axes)
    block = ("tl.broadcast_to(tl.where(", INSIDE, ", ", value, f", 0.0), ({shape}))")
    return Read(Let(name, "", (*block, f".to({NAMES[dtype.name]})")), axes)


def known(tracer: Tracer, body: Body, name: str, root: int, outside: str, *axes: Axis) -> Read:
    """What is known of each row (or score), traced as ``root``; ``outside`` where there is none."""
    (value,) = body.roots[root].parts
    assert isinstance(value, Value)
    if value.dtype is bool_:
        literal = value.text in ("0", "1")
        text: Part = f"tl.full((), {value.text}, tl.int1)" if literal else value
        return Read(Let(name, "", (text,)), axes)
    kept = tracer.dtype
    cast = "" if value.dtype is kept else f".to({NAMES[kept.name]})"
    return Read(Let(name, "", ("tl.where(", INSIDE, ", ", value, f", {outside}){cast}")), axes)


def stores(tracer: Tracer, body: Body, roots: Iterable[int], *axes: Axis) -> list[Read]:
    """The stores of results, which are blocks of ``axes``."""
    found = []
    for k in roots:
        parts: list[Part] = []
        for part in body.roots[k].parts:
            parts += address(tracer, part, axes) if isinstance(part, Cell) else [part]
        found.append(Read(Let("", "", tuple(parts)), axes))
    return found


def address(tracer: Tracer, cell: Cell, axes: Iterable[Axis]) -> list[Part]:
    """Pointers to a block of elements: what is the same for all of them first, so that it is added
    once.
    """
    outer = {*tracer.outer, *tracer.elements.region.ranges}
    base: Size = 0
    rest: Size = 0
    for term in cell.offset.terms if isinstance(cell.offset, Sym) else ():
        one = Sym((term,))
        if symbols(one) <= outer:
            base = base + one
        else:
            rest = rest + one
    if isinstance(cell.offset, int):
        base = cell.offset
    spread = [f" + 0*{a.name}" for a in axes if a.name not in symbols(rest)]
    return [f"{cell.buffer} + ", base, " + ", rest, *spread]


@final
@dataclass
class Code:
    """Prints blocks: each scalar once, before the loops or inside."""

    body: Body
    deep: frozenset[str]
    printed: set[str]

    def before(self, wanted: Sequence[Read], cond: dict[str, str]) -> tuple[str, ...]:
        """What does not depend on the loops; ``wanted`` that do not, too."""
        return self._lines(wanted, cond, deep=False)

    def inside(self, wanted: Sequence[Read], cond: dict[str, str]) -> tuple[str, ...]:
        """What depends on the loops."""
        return self._lines(wanted, cond, deep=True)

    def _lines(
        self, wanted: Sequence[Read], cond: dict[str, str], *, deep: bool
    ) -> tuple[str, ...]:
        printer = Block(self.body.facts, self.body.lets, cond)
        below = set(self.deep)
        names = []
        for let in needed(self.body.lets, [w.let for w in wanted]):
            if reads(let) & below:
                below.add(let.name)
            if (let.name in below) is deep and let.name not in self.printed:
                names.append(let.name)
        if not deep:
            self.printed.update(names)
        lines = list(printer.lines(names))
        for read in wanted:
            loops = bool((reads(read.let) | {a.name for a in read.axes}) & below)
            if loops is deep:
                text = printer.text(read.let.parts, inside(cond, read.axes))
                lines.append(f"{read.let.name} = {text}" if read.let.name else text)
        return tuple(lines)


@final
@dataclass(frozen=True, slots=True)
class Walk:
    """How a block of queries goes over keys: to ``middle`` blocks are ``whole`` (if there are such
    blocks), from there to ``end`` it attends where ``limit`` says.
    """

    whole: bool
    limit: str
    middle: str
    end: str


def walked(facts: Facts, k1: Axis, tile: Tile, *, is_causal: bool) -> Walk:
    """The way of a block of queries over keys."""
    printer = Block(facts, {}, {})
    keys, each = k1.extent, tile.keys
    limits = ["(q0 >= k1)"] if is_causal else []
    limits += [] if k1.whole else [f"(k1 < {printer.size(keys)})"]
    middle, end = printer.size(floordiv(keys, each) * each), printer.size(keys)
    if is_causal:
        middle = f"tl.minimum((q_first + 1)//{each}*{each}, {middle})"
        end = f"tl.minimum(q_first + {tile.queries}, {end})"
    return Walk(not isinstance(keys, int) or keys >= each, " & ".join(limits), middle, end)


def uses(body: Body, name: str) -> bool:
    """Whether something that is stored is computed from ``name``."""
    return any(name in reads(let) for let in (*body.lets.values(), *body.roots))


def programs(
    facts: Facts, loops: Sequence[Loop], blocks: Size, *, last: bool, together: int = 1
) -> list[str]:
    """The statements that find ``block`` and the variables of ``loops`` from the number ``e`` of a
    program; with ``last``, the last block comes first. A block is that of ``together`` heads before
    another one follows.
    """
    printer = Block(facts, {}, {})
    count, each = printer.size(blocks), f"//{together}" if together > 1 else ""
    block = f"e{each}%({count})" if loops else "e"
    lines = [f"block = {count} - 1 - {block}" if last else f"block = {block}"]
    if loops and together > 1:
        lines.append(f"e = e//({count}*{together})*{together} + e%{together}")
    elif loops:
        lines.append(f"e = e//({count})")
    if loops:
        lines += decomposed(printer, "e", loops)
    return lines


def together(loops: Sequence[Loop], operands: Sequence[tuple[Size, ...]], dtype: DType) -> int:
    """How many heads take turns: the longest programs of all of them start first, and what they
    read, the ``operands`` of a head, stays in the cache.
    """
    heads, size = product(v.extent for v in loops), sum(product(s[-2:]) for s in operands)
    if not isinstance(heads, int) or not isinstance(size, int):
        return 1
    most = min(heads, CACHED // max(1, size * dtype.itemsize))
    return next((n for n in range(most, 1, -1) if heads % n == 0), 1)


def count(loops: Sequence[Loop], blocks: Size) -> Size:
    """How many programs there are."""
    return product((*(v.extent for v in loops), blocks))


def blocks(axis: Axis) -> Size:
    """How many blocks cover an axis."""
    return ceil_div(axis.extent, axis.length)


def precision(dtype: DType) -> str:
    """The argument of ``tl.dot`` that says how f32 are multiplied, or f64 added."""
    return {f32: ', input_precision="tf32x3"', f64: ", out_dtype=tl.float64"}.get(dtype, "")


def _in_memory(tracer: Tracer, body: Body, value: Value) -> tuple[Cell, DType] | None:
    """Where an element lies, if it is computed by a load alone, and its type there."""
    let = body.lets.get(value.text)
    match let.parts if let else ():
        case ("tl.load(", Cell() as cell, ", ", part, ")", *_) if part is INSIDE:
            params = tracer.elements.region.graph.params
            return cell, params[int(cell.buffer[1:])].tensor.dtype
    return None
