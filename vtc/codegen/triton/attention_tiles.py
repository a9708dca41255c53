"""How large the blocks of attention are, by target, type and columns.

    forward(Sizes(64, 1024, 1024, 128), bf16, cuda(90))[0] == Tile(queries=128, keys=128, warps=8)

Candidates are what a tuner may measure; the first is what is taken without. The tables hold what
compiles with few spills: a Hopper has wgmma for 64 queries to 4 warps, whose scores, sums and
probabilities lie in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.triton.head import power
from vtc.ir.dims import Size
from vtc.ir.target import Target
from vtc.ir.types import DType

LEAST = 16
"""Elements of a block along each axis that ``tl.dot`` takes."""
MOST = 128
"""Rows of the largest block."""
WGMMA = 64
"""Queries below which Hopper multiplies as older ones do."""
HOPPER = 90
FEW = 64
"""Most queries of a group of heads whose keys are divided."""
LONG, TYPICAL = 512, 4096
"""Keys from which on a second kernel, which puts parts together, is worth while; what stands for a
symbol.
"""
ROUNDS = 2
"""Parts at a time on a processor."""
MOST_PARTS = 128


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Blocks of ``queries`` and ``keys``, and how their kernel is built. In several ``parts``, each
    of which has some of the keys, ``queries`` are those of all heads that share them.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2
    parts: int = 1

    def __str__(self) -> str:
        parts = f" in {self.parts} parts" if self.parts > 1 else ""
        return f"{self.queries}x{self.keys}{parts} in {self.warps} warps, {self.stages} stages"


@final
@dataclass(frozen=True, slots=True)
class Sizes:
    """Heads of all batches, queries and keys of a head, and the widest block of columns; keys serve
    a ``group`` of heads.
    """

    heads: Size
    queries: Size
    keys: Size
    columns: int
    group: Size = 1


def _tile(queries: int, keys: int, warps: int, stages: int) -> Tile:
    return Tile(queries=queries, keys=keys, warps=warps, stages=stages)


FORWARD = {
    "new": {64: _tile(128, 64, 8, 3), 128: _tile(128, 128, 8, 2), 256: _tile(128, 64, 8, 2)},
    "old": {64: _tile(128, 64, 4, 3), 128: _tile(128, 64, 8, 3), 256: _tile(64, 64, 8, 2)},
    "wide": {64: _tile(64, 32, 4, 2), 128: _tile(32, 32, 4, 2), 256: _tile(32, 16, 4, 2)},
    "double": {64: _tile(32, 32, 4, 1), 128: _tile(16, 32, 4, 1), 256: _tile(16, 16, 4, 1)},
}
"""By kind of target and type, and columns: 16 bits on Hopper and before, 32 and 64 bits."""
OF_KEYS = {
    "new": {64: _tile(64, 128, 8, 2), 128: _tile(64, 128, 8, 2), 256: _tile(32, 64, 8, 2)},
    "old": {64: _tile(64, 64, 4, 2), 128: _tile(64, 64, 8, 2), 256: _tile(32, 32, 8, 2)},
    "wide": {64: _tile(32, 32, 4, 1), 128: _tile(32, 32, 4, 1), 256: _tile(16, 16, 4, 1)},
    "double": {64: _tile(32, 32, 4, 1), 128: _tile(16, 16, 4, 1), 256: _tile(16, 16, 4, 1)},
}
OF_QUERIES = {
    "new": {64: _tile(128, 64, 8, 2), 128: _tile(128, 64, 8, 2), 256: _tile(64, 64, 8, 2)},
    "old": {64: _tile(64, 64, 4, 2), 128: _tile(64, 64, 8, 2), 256: _tile(32, 32, 8, 2)},
    "wide": OF_KEYS["wide"],
    "double": OF_KEYS["double"],
}


def forward(sizes: Sizes, dtype: DType, target: Target) -> list[Tile]:
    """Tiles of attention."""
    kind = _kind(dtype, target)
    first = _enough(FORWARD[kind][_columns(sizes)], sizes, target)
    others = (first, *_near(first)) if kind in ("new", "old") else (first,)
    if kind == "new" and first.keys < MOST:
        others += (replace(first, keys=MOST, stages=2), replace(first, queries=WGMMA, warps=4))
    fitted = (_fitted(t, sizes, dtype, target, of_keys=False) for t in others)
    return list(dict.fromkeys(fitted))


def divided(sizes: Sizes, dtype: DType, target: Target) -> list[Tile]:
    """Tiles of few queries whose keys are divided; none where there are enough programs without."""
    heads, queries, group = sizes.heads, sizes.queries, sizes.group
    if not (isinstance(heads, int) and isinstance(queries, int) and isinstance(group, int)):
        return []
    rows, keys = queries * group, sizes.keys if isinstance(sizes.keys, int) else TYPICAL
    if dtype.itemsize > 4 or not 0 < rows <= FEW:  # Triton 3.6 fails on some such blocks of f64
        return []
    if not 0 < heads // group < target.processors or keys < LONG:
        return []
    each = min(FORWARD[_kind(dtype, target)][_columns(sizes)].keys, WGMMA)
    wanted = ROUNDS * target.processors // (heads // group)
    blocks = -(-keys // each)
    found = []
    for least, stages in ((1, 3), (1, 2), (2, 3), (4, 3)):
        parts = min(wanted, MOST_PARTS, blocks // least)
        if parts > 1:
            tile = _tile(max(LEAST, power(rows)), each, 4, stages)
            found.append(_in_shared(replace(tile, parts=parts), sizes, dtype, target))
    return list(dict.fromkeys(found))


def backward(sizes: Sizes, dtype: DType, target: Target) -> list[tuple[Tile, Tile]]:
    """Tiles of programs that have keys, and of those that have queries."""
    kind, width = _kind(dtype, target), _columns(sizes)
    keys, queries = OF_KEYS[kind][width], OF_QUERIES[kind][width]
    pairs = [(keys, queries)]
    if kind in ("new", "old"):
        pairs += zip(_near(keys), _near(queries), strict=True)
    return list(
        dict.fromkeys(
            (
                _fitted(a, sizes, dtype, target, of_keys=True),
                _fitted(b, sizes, dtype, target, of_keys=False),
            )
            for a, b in pairs
        )
    )


def _kind(dtype: DType, target: Target) -> str:
    if dtype.itemsize > 2:
        return "wide" if dtype.itemsize == 4 else "double"
    return "new" if target.arch == HOPPER else "old"


def _columns(sizes: Sizes) -> int:
    return max(64, sizes.columns)


def _near(tile: Tile) -> Iterator[Tile]:
    """Tiles like ``tile``: with other warps, another number of stages, half the rows."""
    for queries, keys in (
        (tile.queries, tile.keys),
        (tile.queries, tile.keys // 2),
        (tile.queries // 2, tile.keys),
        (tile.queries // 2, tile.keys // 2),
    ):
        for warps in (4, 8):
            for stages in (2, 3):
                yield _tile(queries, keys, warps, stages)


def _enough(tile: Tile, sizes: Sizes, target: Target) -> Tile:
    """``tile`` with fewer queries, where there would be fewer programs than processors."""
    heads, queries = sizes.heads, sizes.queries
    if not isinstance(heads, int) or not isinstance(queries, int):
        return tile
    while tile.queries > WGMMA and heads * -(-queries // tile.queries) < target.processors:
        tile = replace(tile, queries=tile.queries // 2, warps=4)
    return tile


def _fitted(tile: Tile, sizes: Sizes, dtype: DType, target: Target, *, of_keys: bool) -> Tile:
    """``tile`` without rows that there are not, in the shared memory of ``target``. With few
    queries all time goes into loads: more of them are under way.
    """
    queries = max(LEAST, min(tile.queries, _rows(sizes.queries)))
    keys = max(LEAST, min(tile.keys, _rows(sizes.keys)))
    if queries < tile.queries or keys < tile.keys:
        tile = replace(tile, warps=4, stages=tile.stages + (queries == LEAST))
    tile = replace(tile, queries=queries, keys=keys)
    return _in_shared(tile, sizes, dtype, target, of_keys=of_keys)


def _in_shared(
    tile: Tile, sizes: Sizes, dtype: DType, target: Target, *, of_keys: bool = False
) -> Tile:
    """``tile`` in the shared memory of ``target``."""

    def shared(tile: Tile) -> int:
        own, others = tile.queries, tile.keys
        if of_keys:
            own, others = others, own
        rows = (own + tile.stages * others * 2) * sizes.columns + own * others
        return rows * dtype.itemsize

    while tile.stages > 1 and target.shared and shared(tile) > target.shared:
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def _rows(extent: Size) -> int:
    """The least block that has all rows."""
    return power(extent) if isinstance(extent, int) else MOST
