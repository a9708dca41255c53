"""Sorting in Triton: a key and the place of an element are one integer: equal keys stay in order.

A row that fits into registers is sorted there by a bitonic network::

    t0 = tl.load(x0 + (i*300 + r), ...)
    t = (vtc_order_f32(t0).to(tl.int64) << 9) | r
    t = tl.sort(tl.where(r < 300, t, 9223372036854775807), 1)
    found = t & 511

Longer rows are sorted chunk by chunk, and then runs are merged: each element finds its place among
those of the other run by bisection, until there is one run. Keys of 64 bits have no room beside
them: chunks are sorted by the low half and then, in order, by the high one, and runs are of pairs.
Of the best few of a long row each launch keeps those of each chunk, until there is one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

from vtc.codegen.loops import Body, Loop
from vtc.codegen.region import Elements, Region
from vtc.codegen.sizes import Facts
from vtc.codegen.sort import FOUND, READ, WRITE, Sorted
from vtc.codegen.trace import Let, needed
from vtc.codegen.triton.flat import flattened
from vtc.codegen.triton.head import Block, Head, ceil_div, head, index_type, power
from vtc.codegen.triton.phases import Phase
from vtc.codegen.triton.pointwise import PointwiseSpec, empty
from vtc.codegen.triton.scalars import TritonScalars, typed
from vtc.ir.dims import Size, Sym, bounds
from vtc.ir.graph import Node
from vtc.ir.ops.sort import Topk
from vtc.ir.target import Target

CHUNK, TILE = 2048, 1024
"""The longest row that is sorted in registers, and elements of a program of shorter ones."""
BLOCK = 1024
"""Elements of a program that merges."""
RANKED = 512
"""The chunks of keys of 64 bits: their elements are counted, not exchanged."""
FARTHEST = 31
"""The bits of an index along a row of unknown length."""

Lines = tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class SortSpec:
    """What ``sort.py.jinja`` may mention."""

    template = "sort"
    head: Head
    lines: Lines
    grid: tuple[Size, ...]


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """``chunk`` elements of a row in registers."""

    chunk: int
    warps: int


def sort(
    region: Region, root: Node, target: Target, choice: Choice | None = None
) -> SortSpec | PointwiseSpec | tuple[Phase, ...]:
    """The launches of a region about ``root``, an op that sorts."""
    if 0 in region.shape(root):
        return empty(Elements(region, TritonScalars))
    choice = choice or candidates(region, root, target)[0]
    return _Writer(Sorted(Elements(region, TritonScalars), root), choice).phases()


def candidates(region: Region, root: Node, target: Target) -> list[Choice]:
    """What may be tried, the best guess first."""
    axis = getattr(root.op, "axis", 0)
    length = region.shape(root.inputs[0])[axis]
    chunk = min(power(length), CHUNK) if isinstance(length, int) else CHUNK
    warps = max(1, min(8, max(chunk, TILE) // 256))
    return [Choice(chunk, warps), Choice(chunk, max(1, warps // 2))]


@final
@dataclass
class _Writer:
    """Writes launches. ``n`` elements of a row have ``shift`` bits for a place; keys have ``bits``
    bits, and with a place are of type ``wide``, unless they are ``pairs``.
    """

    work: Sorted
    choice: Choice
    value: Let = field(init=False)
    stores: list[Let] = field(init=False)
    lets: dict[str, Let] = field(init=False)
    kept: Loop | None = None

    def __post_init__(self) -> None:
        work = self.work
        body = Body(work.elements.trace, [Let("", "", (typed(work.value),)), *work.stores])
        roots, lets = body.roots, body.lets
        loops = body.loops(work.rows)
        if loops:
            self.kept, change = flattened(self.facts, loops, "i")
            roots = [r.rewrite(change) for r in roots]
            lets = {n: let.rewrite(change) for n, let in lets.items()}
        self.value, *self.stores = roots
        names = [Sym.var(n) for n in (*(["i"] if self.kept else []), WRITE)]
        self.lets = {FOUND: Let(FOUND, "", tuple(names)), **lets}
        work.elements.trace.needs.add("order")

    @property
    def facts(self) -> Facts:
        """What is known of indices."""
        return self.work.elements.trace.facts

    @property
    def rows(self) -> Size:
        """How many rows there are."""
        return self.kept.extent if self.kept else 1

    @property
    def bits(self) -> int:
        """The bits of a key."""
        size = self.work.root.inputs[0].tensor.dtype.itemsize
        return 8 * max(size, 2)

    @property
    def pairs(self) -> bool:
        """Whether a key leaves no room for a place."""
        return self.bits == 64

    def places(self) -> int:
        """The bits of a place in a row."""
        most = bounds(self.work.length, self.work.elements.region.ranges)[1]
        return FARTHEST if most is None else max(1, (most - 1).bit_length())

    def packed(self, places: int) -> str:
        """The type of a key with a place of so many bits."""
        return "tl.int32" if self.bits + places <= 31 else "tl.int64"

    # launches

    def phases(self) -> tuple[Phase, ...]:
        """All launches."""
        length = self.work.length
        if not self.pairs and isinstance(length, int) and length <= self.choice.chunk:
            return (Phase(self.whole()),)
        op = self.work.op
        if not isinstance(op, Topk) or not isinstance(length, int) or self.pairs:
            return self.merged()
        few = 2 * power(op.k) <= self.choice.chunk
        return self.narrowed(length, power(op.k)) if few else self.merged()

    def whole(self) -> SortSpec:
        """Rows that fit into registers."""
        length = self.work.length
        assert isinstance(length, int)
        rows = max(1, min(TILE // self.choice.chunk, _most(self.rows)))
        width = self.choice.chunk
        lines = [f"{READ} = tl.arange(0, {width})[None, :]", *self.own(rows)]
        lines += self.keys(READ, {READ: f"{READ} < {length}"} | self.inside(rows))
        shift = width.bit_length() - 1
        lines += [*self.pack(READ, shift, length), *self.order(width)]
        lines.append(f"{FOUND} = (t & {width - 1}).to(tl.int64)")
        count = self.result_width(width)
        lines.append(f"{WRITE} = tl.arange(0, {count})[None, :]")
        kept = self.printed(self.work.kept)
        conditions = self.inside(rows) | (
            {WRITE: f"{WRITE} < {kept}"} if kept != str(count) else {}
        )
        lines += self.results(conditions)
        return self.spec(tuple(lines), (ceil_div(self.rows, rows),))

    def merged(self) -> tuple[Phase, ...]:
        """Chunks, runs of two, four, ... of them, and what is made of the only one."""
        most = bounds(self.work.length, self.work.elements.region.ranges)[1]
        limit = 1 << FARTHEST if most is None else most
        total = self.rows * self.work.length
        each = [8, 8] if self.pairs else [8]
        scratch = tuple(total * b for b in (*each, *each))
        count = len(each)
        names = [[f"z{k}" for k in range(count)], [f"z{k}" for k in range(count, 2 * count)]]
        run = RANKED if self.pairs else self.choice.chunk
        if self.pairs:
            specs = [self.plain_keys("z0"), self.ranked("z0", names[1])]
            names = names[::-1]
        else:
            specs = [self.chunks("z0")]
        while run < limit:
            specs.append(self.merge(run, names[0], names[1]))
            names, run = names[::-1], 2 * run
        specs.append(self.emit(names[0][-1], self.work.length))
        return self.sharing(specs, 2 * count, scratch)

    def narrowed(self, length: int, width: int) -> tuple[Phase, ...]:
        """The best ``width`` of each chunk, again and again."""
        chunk, names = self.choice.chunk, ["z0", "z1"]
        left = first = -(-length // chunk) * width
        specs = [self.best(length, width, None, names[0])]
        while left > width:
            specs.append(self.best(left, width, names[0], names[1]))
            names, left = names[::-1], -(-left // chunk) * width
        specs.append(self.emit(names[0], width))
        scratch = (self.rows * first * 8, self.rows * first * 8)
        return self.sharing(specs, 2, scratch)

    def sharing(
        self, specs: Sequence[SortSpec], count: int, scratch: tuple[Size, ...]
    ) -> tuple[Phase, ...]:
        """Launches that share memory."""
        shared = [replace(s, head=self.beside(s.head, count)) for s in specs]
        return tuple(Phase(s, scratch=scratch) for s in shared)

    def beside(self, plain: Head, count: int) -> Head:
        """``plain`` with ``count`` pointers to what is kept between launches after all others."""
        graph = self.work.elements.region.graph
        end = len(graph.params) + len(graph.outputs)
        return replace(
            plain,
            args=(*plain.args[:end], *(f"z{k}" for k in range(count)), *plain.args[end:]),
            signature=(*plain.signature[:end], *["*i64"] * count, *plain.signature[end:]),
        )

    # kernels of long rows

    def chunks(self, target: str) -> SortSpec:
        """Chunks of rows, sorted."""
        chunk, size = self.choice.chunk, self.printed(self.work.length)
        programs = ceil_div(self.work.length, chunk)
        lines = [*self.part(programs), f"{READ} = b*{chunk} + tl.arange(0, {chunk})[None, :]"]
        lines += self.keys(READ, {READ: f"{READ} < {size}"})
        lines += [*self.pack(READ, self.places(), size, wide=True), *self.order(chunk)]
        lines.append(f"tl.store({target} + {self.at(READ)}, t, {READ} < {size})")
        return self.spec(tuple(lines), self.grid(programs))

    def plain_keys(self, target: str) -> SortSpec:
        """Keys alone, in the order of the elements."""
        inside = f"{READ} < {self.printed(self.work.length)}"
        programs = ceil_div(self.work.length, BLOCK)
        lines = [*self.part(programs), f"{READ} = b*{BLOCK} + tl.arange(0, {BLOCK})"]
        lines += self.keys(READ, {READ: inside})
        lines.append(f"tl.store({target} + {self.at(READ)}, key, {inside})")
        return self.spec(tuple(lines), self.grid(programs), warps=4)

    def ranked(self, source: str, target: Sequence[str]) -> SortSpec:
        """Chunks of keys in order, with their places: each counts those before it."""
        size, end = self.printed(self.work.length), f"begin + {RANKED}"
        end = f"tl.minimum({end}, {size})"
        first = "(o < a) | ((o == a) & (q < r))"
        programs = ceil_div(self.work.length, RANKED)
        lines = (
            *self.part(programs),
            f"begin = b*{RANKED}",
            f"{READ} = begin + tl.arange(0, {RANKED})[:, None]",
            f"a = tl.load({source} + {self.at(READ)}, {READ} < {size}, 0)",
            f"rank = tl.zeros([{RANKED}, 1], tl.int32)",
            f"for u in range(begin, {end}, 16):",
            "    q = u + tl.arange(0, 16)[None, :]",
            f"    o = tl.load({source} + {self.at('q')}, q < {size}, 0)",
            f"    before = (q < {size}) & ({first})",
            "    rank += tl.sum(before.to(tl.int32), 1, keep_dims=True)",
            "place = begin + rank",
            f"tl.store({target[0]} + {self.at('place')}, a, {READ} < {size})",
            f"tl.store({target[1]} + {self.at('place')}, {READ}.to(tl.int64), {READ} < {size})",
        )
        return self.spec(lines, self.grid(programs), warps=8)

    def merge(self, run: int, source: Sequence[str], target: Sequence[str]) -> SortSpec:
        """Runs of ``run`` elements become runs of twice as many."""
        size = self.printed(self.work.length)
        conditions, programs = f"{READ} < {size}", ceil_div(self.work.length, BLOCK)
        lines = [*self.part(programs), f"{READ} = b*{BLOCK} + tl.arange(0, {BLOCK})"]
        for k, name in enumerate(source):
            lines.append(f"a{k} = tl.load({name} + {self.at(READ)}, {conditions}, 0)")
        lines += [
            f"other = ({READ}//{run} ^ 1)*{run}",
            f"count = tl.maximum(tl.minimum({size} - other, {run}), 0)",
            "low = count*0",
            "high = count",
            f"for _ in range({run.bit_length()}):",
            "    middle = (low + high)//2",
            f"    inside = ({conditions}) & (low < high)",
        ]
        for k, name in enumerate(source):
            place = self.at("(other + middle)")
            lines.append(f"    b{k} = tl.load({name} + {place}, inside, 0)")
        less = "(b0 < a0) | ((b0 == a0) & (b1 < a1))" if self.pairs else "b0 < a0"
        lines += [
            f"    less = inside & ({less})",
            "    low = tl.where(less, middle + 1, low)",
            "    high = tl.where(inside & ~less, middle, high)",
            f"place = tl.minimum(other, {READ}//{run}*{run}) + {READ}%{run} + low",
        ]
        for k, name in enumerate(target):
            lines.append(f"tl.store({name} + {self.at('place')}, a{k}, {conditions})")
        return self.spec(tuple(lines), self.grid(programs), warps=4)

    def best(self, length: int, width: int, source: str | None, target: str) -> SortSpec:
        """The best ``width`` of each chunk of ``length`` elements of a row."""
        chunk = self.choice.chunk
        count = -(-length // chunk)
        lines = [*self.part(count), f"{READ} = b*{chunk} + tl.arange(0, {chunk})[None, :]"]
        if source is None:
            lines += self.keys(READ, {READ: f"{READ} < {length}"})
            lines += self.pack(READ, self.places(), str(length), wide=True)
        else:
            place = self.at(READ, str(length))
            lines.append(f"t = tl.load({source} + {place}, {READ} < {length}, {2**63 - 1})")
        lines.append(f"t = ~tl.topk(~t, {width}, 1)")
        lines.append(f"{WRITE} = b*{width} + tl.arange(0, {width})[None, :]")
        lines.append(f"tl.store({target} + {self.at(WRITE, str(count * width))}, t)")
        return self.spec(tuple(lines), self.grid(count))

    def emit(self, source: str, stride: Size) -> SortSpec:
        """What is made of sorted rows, which begin ``stride`` elements apart."""
        kept, programs = self.printed(self.work.kept), ceil_div(self.work.kept, BLOCK)
        lines = [*self.part(programs), f"{WRITE} = b*{BLOCK} + tl.arange(0, {BLOCK})"]
        at = self.at(WRITE, self.printed(stride))
        mask = "" if self.pairs else f" & {(1 << self.places()) - 1}"
        held = f"tl.load({source} + {at}, {WRITE} < {kept}, 0)"
        lines.append(f"{FOUND} = {held}{mask}")
        lines += self.results({WRITE: f"{WRITE} < {kept}"})
        return self.spec(tuple(lines), self.grid(programs), warps=4)

    # what they are made of

    def own(self, rows: int) -> Lines:
        """The rows of a program."""
        if not self.kept:
            return ()
        number = f"tl.program_id(0).to({self.wide})*{rows} + tl.arange(0, {rows})"
        return (f"i = ({number})[:, None]",)

    def part(self, programs: Size) -> Lines:
        """The row ``i`` of a program, and its number ``b`` among the ``programs`` of that row."""
        first = f"b = tl.program_id(0).to({self.wide})"
        if not self.kept:
            return (first,)
        many = self.printed(programs)
        return first, f"i = b//({many})", f"b = b%({many})"

    def grid(self, programs: Size) -> tuple[Size, ...]:
        """So many programs for each row. Other axes of a grid are short, so there is but one."""
        return (programs * self.rows,)

    def inside(self, rows: int) -> dict[str, str]:
        """When rows are inside, where they may not be."""
        count = self.rows
        if not self.kept or (isinstance(count, int) and count % rows == 0):
            return {}
        return {"i": f"i < {self.printed(count)}"}

    def at(self, place: str, length: str | None = None) -> str:
        """An element of the row in memory."""
        length = length or self.printed(self.work.length)
        return f"(i.to(tl.int64)*({length}) + {place})" if self.kept else place

    def keys(self, name: str, conditions: dict[str, str]) -> Lines:
        """The keys of elements ``name``, in ascending order."""
        block = Block(self.facts, self.lets, conditions)
        names = [let.name for let in needed(self.lets, [self.value])]
        dtype = self.work.root.inputs[0].tensor.dtype
        kind = dtype.name if dtype.kind == "float" else f"i{max(32, 8 * dtype.itemsize)}"
        kind = kind if kind in ("f64", "f32", "f16", "i32", "i64") else "bf16"
        key = f"vtc_order_{kind}({block.statement(self.value)})"
        shape = f" + tl.zeros_like({name}).to(tl.int32)"
        return *block.lines(names), f"key = {'~' if self.work.op.downward else ''}{key}{shape}"

    def pack(self, place: str, shift: int, size: int | str, *, wide: bool = False) -> Lines:
        """Keys and places as one; those outside come last."""
        kind = "tl.int64" if wide else self.packed(shift)
        last = 2**31 - 1 if kind == "tl.int32" else 2**63 - 1
        both = f"(key.to({kind}) << {shift}) | {place}.to({kind})"
        return (f"t = tl.where({place} < {size}, {both}, {last}).to({kind})",)

    def order(self, width: int) -> Lines:
        """A chunk in order; the first of it where no others are wanted."""
        count = self.result_width(width)
        if width == 1:
            return ()
        return ("t = tl.sort(t, 1)",) if count == width else (f"t = ~tl.topk(~t, {count}, 1)",)

    def result_width(self, width: int) -> int:
        """How many elements of a chunk are in order."""
        op, length = self.work.op, self.work.length
        if isinstance(op, Topk) and isinstance(length, int) and length <= width:
            return min(width, power(op.k))
        return width

    def results(self, conditions: dict[str, str]) -> Lines:
        """What is stored at ``WRITE``, where ``FOUND`` is the index."""
        block = Block(self.facts, self.lets, conditions)
        names = [n.name for n in needed(self.lets, self.stores) if n.name != FOUND]
        return *block.lines(names), *map(block.store, self.stores)

    def spec(self, lines: Lines, grid: tuple[Size, ...], *, warps: int | None = None) -> SortSpec:
        """The spec of a kernel."""
        own = head(self.work.elements, warps=warps or self.choice.warps)
        return SortSpec(own, lines, grid)

    @property
    def wide(self) -> str:
        """The type of indices."""
        return index_type(self.work.elements, self.rows * self.work.length)

    def printed(self, size: Size) -> str:
        """An index expression."""
        return Block(self.facts, {}, {}).size(size)


def _most(rows: Size) -> int:
    return power(rows) if isinstance(rows, int) else TILE
