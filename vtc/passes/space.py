"""How values that one kernel computes line up: spaces, and the ways in which one value reads
another.

A reduction walks a space: its input's axes, those it keeps and those it reduces, adjacent ones of a
kind merged and those of size 1 dropped. A sum over the last axis of ``f32[4, 128, 256]`` walks
``((False, 512), (True, 256))``. In a region over that space a value is *full* (131072 elements) or
a *row* (512), whatever its shape: both are walked in row-major order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from vtc.ir.dims import Size, product
from vtc.ir.graph import Node
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.elementwise import Elementwise
from vtc.ir.ops.fill import Full, Iota, Pad, Triangle
from vtc.ir.ops.flow import Flow
from vtc.ir.ops.index import Gather, Index
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.ops.view import Expand, IndexMap, Reshape
from vtc.ir.ops.window import Window

INDEX_FUNCTIONS = (IndexMap, Full, Iota, Pad)
"""They only say where to read, or what is there: whoever reads them computes them."""

Space = tuple[tuple[bool, Size], ...]
"""Whether each axis is reduced, and its size."""


def space(shape: Sequence[Size], reduced: Collection[int]) -> Space:
    """The space of ``shape`` of which the axes ``reduced`` are reduced."""
    found: list[tuple[bool, Size]] = []
    for axis, size in enumerate(shape):
        kind = axis in reduced
        if size == 1:
            continue
        if found and found[-1][0] is kind:
            found[-1] = (kind, found[-1][1] * size)
        else:
            found.append((kind, size))
    return tuple(found)


def full(space: Space) -> Size:
    """How many elements a full value has."""
    return product(size for _, size in space)


def rows(space: Space) -> Size:
    """How many elements a row value has."""
    return product(size for reduced, size in space if not reduced)


def space_of(node: Node) -> Space | None:
    """The space a reduction walks; None for other nodes."""
    match node.op:
        case Reduction(axes=axes):
            return space(node.inputs[0].tensor.shape, axes)
        case ArgReduction(axis=axis):
            return space(node.inputs[0].tensor.shape, (axis,))
    return None


@final
@dataclass(frozen=True, slots=True)
class Edge:
    """``reader`` reads ``source``, through index functions.

    Where both are walked in row-major order, it reads the element at its own place
    (``same``), that of its row in ``spread``, or one that it picks from its row in ``picks``;
    otherwise at ``other`` places. ``repeats`` says that an element is read several times.
    """

    source: Node
    reader: Node
    same: bool = False
    spread: Space | None = None
    picks: Space | None = None
    repeats: bool = False


def edges(reader: Node) -> Iterator[Edge]:
    """What ``reader`` reads, by way of index functions: computed nodes and params."""
    if isinstance(reader.op, INDEX_FUNCTIONS):
        yield from _edge(reader, reader, aligned=True)
        return
    if isinstance(reader.op, Flow):  # its operands lie in memory
        yield from (Edge(i, reader) for i in reader.inputs)
        return
    for k, i in enumerate(reader.inputs):
        yield from _edge(reader, i, aligned=_in_place(reader, k), picks=_picks(reader, k))


def _edge(
    reader: Node, start: Node, *, aligned: bool, picks: Space | None = None
) -> Iterator[Edge]:
    moved = not aligned
    spread: Space | None = None
    repeats = isinstance(reader.op, (Index, Gather)) and picks is None
    node = start
    while isinstance(node.op, INDEX_FUNCTIONS):
        if not node.inputs:
            return
        if isinstance(node.op, Expand) and any(n != 1 for n in node.op.sizes):
            moved, repeats = moved or spread is not None, True
            spread = space(node.tensor.shape, node.op.axes)
        elif not isinstance(node.op, (Reshape, Expand)) and not _only_dtype(node):
            several = isinstance(node.op, Window) or _splits(node)
            moved, repeats = True, repeats or several
        (node,) = node.inputs
    same = not moved and spread is None
    if picks is not None and spread is None and _only_reshapes(start, node):
        yield Edge(node, reader, picks=picks)
    else:
        yield Edge(node, reader, same, None if moved else spread, None, repeats)


def _only_dtype(node: Node) -> bool:
    """Whether ``node`` is its input, each element in another dtype."""
    return isinstance(node.op, Bitcast) and node.tensor.shape == node.inputs[0].tensor.shape


def _splits(node: Node) -> bool:
    """Whether ``node`` shows each element of its input as several."""
    if not isinstance(node.op, Bitcast):
        return False
    return node.op.dtype.itemsize < node.inputs[0].tensor.dtype.itemsize


def _only_reshapes(node: Node, source: Node) -> bool:
    while node is not source:
        if not isinstance(node.op, Reshape):
            return False
        (node,) = node.inputs
    return True


def _in_place(reader: Node, k: int) -> bool:
    """Whether input ``k`` is read at the index that is computed, or along a reduction."""
    if isinstance(reader.op, Gather):
        return k == 1
    return isinstance(reader.op, (Elementwise, Triangle, Reduction, ArgReduction))


def _picks(reader: Node, k: int) -> Space | None:
    """The space from each of whose rows ``reader`` picks one element of input ``k``."""
    if not isinstance(reader.op, Gather) or k != 0 or reader.tensor.shape[reader.op.axis] != 1:
        return None
    shape, axis = reader.inputs[0].tensor.shape, reader.op.axis
    alike = all(
        m == n for a, (m, n) in enumerate(zip(shape, reader.tensor.shape, strict=True)) if a != axis
    )
    return space(shape, (axis,)) if alike else None
