"""Groups of nodes that one kernel computes, and whether two of them may become one.

A group is one of four kinds. *Flat*: all its results have the same number of elements. *Rows*:
reductions over one space, and full and row values of it. *Heavy*: about one product, attention,
scatter, scan or sort; what reads its result at its own place joins it (an epilogue), what only it
reads is computed where it is read (a prologue). *Apart*: several flat groups that have nothing to
do with each other. A *free* member is computed wherever a member of its group reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from vtc.ir.dims import Size
from vtc.ir.graph import Node
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.attention import Attention, AttentionGradient
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Item
from vtc.ir.ops.elementwise import Cast, Div, Division, Elementwise, Pow, Transcendental
from vtc.ir.ops.formula import Formula
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.random import Random
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.scan import Scan
from vtc.ir.ops.sort import Sorting
from vtc.ir.types import TensorType
from vtc.passes.cost import nbytes, value
from vtc.passes.space import INDEX_FUNCTIONS, Edge, Space, full, rows, space_of

Kind = Literal["flat", "rows", "heavy", "apart", "alone"]
LARGEST = 128
"""Nodes in one group: compilers take more than linear time."""

HEAVY = (Matmul, Attention, Scattering, Scan, Sorting)
STORING = (Attention, Scattering)
"""Those that store their result themselves."""
CHEAP = 3
"""Simple operations per element that a product may compute again each time it packs an operand."""

BLOCK = 64
"""Queries of which a block of attention has no more."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """See the module. ``size`` is the number of elements of a full value."""

    kind: Kind
    members: tuple[Node, ...]
    size: Size = 0
    space: Space | None = None
    heavy: Node | None = None
    free: frozenset[Node] = frozenset()


@final
@dataclass(frozen=True, slots=True)
class Graphwide:
    """What a verdict needs of the graph: who reads each value, outputs, and typical sizes."""

    reads: Mapping[Node, Sequence[Edge]]
    readers: Mapping[Node, Sequence[Edge]]
    outputs: frozenset[Node]
    sizes: Mapping[str, int]

    def between(self, a: Group, b: Group) -> list[Edge]:
        """How members of ``b`` read members of ``a``."""
        inside = set(b.members)
        return [e for n in a.members for e in self.readers[n] if e.reader in inside]

    def absorbed(self, a: Group, b: Group) -> bool:
        """Whether ``b`` alone reads what ``a`` computes."""
        inside = {*a.members, *b.members}
        return not self.outputs.intersection(a.members) and all(
            e.reader in inside for n in a.members for e in self.readers[n]
        )


def reads_through(op: Op | None) -> bool:
    """Whether the kernel of ``op`` can compute what it reads instead of loading it."""
    return isinstance(op, (Pointwise, Reduction, ArgReduction, *HEAVY))


def group_of(node: Node) -> Group:
    """The group that a node is before any joins it."""
    if isinstance(node.op, HEAVY):
        size = node.type.numel if isinstance(node.type, TensorType) else 0
        return Group("heavy", (node,), size, heavy=node)
    if (walked := space_of(node)) is not None:
        return Group("rows", (node,), full(walked), walked)
    if isinstance(node.op, Pointwise):
        return Group("flat", (node,), node.tensor.numel)
    return Group("alone", (node,))


def union(a: Group, b: Group, graph: Graphwide) -> Group | str:
    """``a`` and ``b``, which reads ``a`` or what it reads, as one group; or why not."""
    if "alone" in (a.kind, b.kind) or "apart" in (a.kind, b.kind):
        return "it is computed by itself"
    if a.heavy and b.heavy:
        return f"{_name(a.heavy)} and {_name(b.heavy)} are a kernel each"
    if len(a.members) + len(b.members) > LARGEST:
        return f"the kernel would have more than {LARGEST} nodes"
    read = graph.between(a, b)
    one = _aligned(a, b, read)
    if isinstance(one, str) and a.kind == "flat" and read:
        why = _why_not_inline(a, b, read, graph)
        return why if why else _joined(b, b, a.members, free=(*a.free, *b.free, *a.members))
    return one


def together(groups: Iterable[Group]) -> Group:
    """Flat groups that have nothing to do with each other, as one."""
    return Group("apart", tuple(n for g in groups for n in g.members))


def _aligned(a: Group, b: Group, read: Sequence[Edge]) -> Group | str:
    """The two as one group whose members are computed at the place where they are read."""
    one = _line_up(a, b)
    if isinstance(one, str):
        return one
    if one.kind == "heavy" and not read:
        return "nothing of it is read by the other"
    joined = _joined(one, a, b.members, free=(*a.free, *b.free))
    return next(filter(None, (_why_elsewhere(e, joined) for e in read)), joined)


def _joined(like: Group, first: Group, more: Sequence[Node], *, free: Iterable[Node]) -> Group:
    members = (*first.members, *more)
    return Group(like.kind, members, like.size, like.space, like.heavy, frozenset(free))


def _line_up(a: Group, b: Group) -> Group | str:
    """Which of the two says how both are walked."""
    match a.kind, b.kind:
        case "rows", "rows":
            return a if a.space == b.space else "they reduce other axes"
        case ("rows", "flat") | ("flat", "rows"):
            one, other = (a, b) if a.kind == "rows" else (b, a)
            fits = one.space is not None and other.size in (one.size, rows(one.space))
            return one if fits else f"{other.size} elements are neither rows nor all of its space"
        case "flat", "flat":
            return a if a.size == b.size else f"they have {a.size} and {b.size} elements"
        case ("heavy", "flat") | ("flat", "heavy"):
            one, other = (a, b) if a.kind == "heavy" else (b, a)
            if isinstance(one.heavy and one.heavy.op, STORING):
                return f"{_name(one.heavy)} stores its result itself"
            return one if one.size == other.size else f"they have {a.size} and {b.size} elements"
    heavy = a.heavy or b.heavy
    return f"{_name(heavy)} does not have whole rows at hand"


def _why_elsewhere(e: Edge, one: Group) -> str:
    """Why ``e`` reads its source at another place than where ``one`` computes it."""
    at = f"{_name(e.reader)} {e.reader.name} reads {e.source.name}"
    if e.reader in one.free or e.source in one.free:
        return f"{at} at another index"
    if e.reader is one.heavy:
        return f"{at} again and again"
    if one.space is None:
        return "" if e.same else f"{at} at another index"
    if isinstance(e.reader.op, (Reduction, ArgReduction)):
        good = e.same
    else:
        whole = e.reader.tensor.numel == one.size
        good = e.same or (e.spread if whole else e.picks) == one.space
    return "" if good else f"{at} at another index"


def _why_not_inline(a: Group, b: Group, read: Sequence[Edge], graph: Graphwide) -> str:
    """Why ``b`` may not compute what it reads of ``a`` wherever it reads it; empty if it may."""
    if not graph.absorbed(a, b):
        return "another kernel reads it at its own index"
    work = sum(cost(n) for n in a.members)
    if any(isinstance(n.op, Random) for n in a.members) and len(read) > 1:
        return "random numbers would be drawn again"
    operand = any(e.reader is b.heavy for e in read)
    if operand and isinstance(b.heavy and b.heavy.op, (Matmul, Attention)):
        return _why_no_prologue(a, read, work, graph)
    saved = 2 * sum(nbytes(n.type, graph.sizes) for n in {e.source for e in read})
    extra = 0
    for k, e in enumerate(read):
        times = value(e.reader.tensor.numel, graph.sizes) if e.repeats else 0
        again = value(e.source.tensor.numel, graph.sizes) if k else 0
        if value(e.source.tensor.numel, graph.sizes) > 1:
            extra += work * max(times, again)
    return "" if extra <= saved else f"it would be computed again, {extra} operations in all"


def _why_no_prologue(a: Group, read: Sequence[Edge], work: int, graph: Graphwide) -> str:
    if work > CHEAP:
        return f"it would be computed again for each panel, {work} operations an element"
    if work and any(_is_read_by_blocks(e, graph) for e in read):
        return "each block of queries would compute it again"
    inside = set(a.members)
    sources = {e.source for n in a.members for e in graph.reads[n]} - inside
    comes = sum(nbytes(n.type, graph.sizes) for n in sources)
    made = sum(nbytes(n.type, graph.sizes) for n in {e.source for e in read})
    return "" if comes <= made else f"its operands are {comes} bytes and itself {made}"


def _is_read_by_blocks(e: Edge, graph: Graphwide) -> bool:
    """Whether several blocks of attention go over what ``e`` reads: those of queries over keys and
    values; in the gradient those of keys over queries, too.
    """
    op, inputs = e.reader.op, e.reader.inputs
    if not isinstance(op, Attention):
        return False
    q, k, v, *more = inputs
    walked = [(k, q), (v, q)]
    walked += [(q, k), (more[0], k)] if isinstance(op, AttentionGradient) else []
    long = (x for x, by in walked if value(by.tensor.shape[-2], graph.sizes) > BLOCK)
    return any(_origin(x) is e.source for x in long)


def _origin(node: Node) -> Node:
    """What ``node`` is read from by index functions alone."""
    while isinstance(node.op, INDEX_FUNCTIONS) and node.inputs:
        (node,) = node.inputs
    return node


def cost(node: Node) -> int:
    """Simple operations that take as long as an element of ``node``."""
    if isinstance(node.op, (Transcendental, Formula, Pow, Division, Random)):
        return 12
    if isinstance(node.op, (Item, Cast)):
        return 0
    if isinstance(node.op, Div):
        return 4
    return 1 if isinstance(node.op, Elementwise) else 2


def _name(node: Node | None) -> str:
    return node.op.name if node is not None and node.op is not None else "param"
