"""How large the blocks of a matrix product are: a model of what it costs, to rank candidates.

    sizes = Sizes(1, 8192, 50304, 768)
    ways = [Way(b) for b in fitting(sizes, bf16, cuda(90))]
    ranked(ways, sizes, bf16, "", cuda(90))[0].blocks == Blocks(128, 256, 64, 8, 4)

A product takes as long as the longest of these. The multiplications of the tiles of one processor,
and what comes after each. A tile alone, whose loads take their time to come, as often as all
processors are filled with tiles. And the bytes of all tiles, which the L2 cache gives only so fast.
With descriptors, the loads of a tile come while the one before is finished.

Figures are those of an H100, in clocks; they are fitted to the measured times of 70 candidates of
the products of a GPT-2 step. What the model is wrong about it is wrong about in all tiles of one
size, so a few candidates are of several sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import final

from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, substitute, symbols
from vtc.ir.target import Target
from vtc.ir.types import DType, f64

TYPICAL = 1024
"""What stands for a symbolic size."""
LEAST = 16
"""The least block of each axis that ``tl.dot`` takes everywhere."""
LATENCY, START = 2100, 1600
"""Clocks that loads take to come while all processors load, and a tile beside its steps."""
BYTES, FAR = 38, 20
"""Bytes that come to a processor in a clock from the L2 cache, and from memory."""
LANES, FEW = 56, 1.1
"""Operations on elements that a processor does in a clock, and how many times as long they take
with less than 16 warps."""
DESCRIBE = 2500
"""Clocks that it takes to make descriptors."""
ALIKE = 0.1
"""How much worse a way counts for each better one with tiles of its size."""
REGISTERS, MOST = 65536, 255
"""Registers of a processor, and those that a thread may have."""
WGMMA = 64
"""Rows from which on Hopper multiplies straight from shared memory."""
WIDE = 256
"""Most columns that it multiplies at once."""


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """A tile of the result, what a step along k takes, and how the kernel is compiled; ``group``
    rows of tiles are computed together, so that what they read stays in the L2 cache.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8


@final
@dataclass(frozen=True, slots=True)
class Sizes:
    """How many products there are, of which sizes; typical ones of symbols. ``moved`` are the bytes
    read and written for an element of the result, ``work`` the operations on it after the sum.
    """

    batch: int
    m: int
    n: int
    k: int
    moved: int = 2
    work: int = 2


@final
@dataclass(frozen=True, slots=True)
class Way:
    """How a product may be computed: with ``described`` operands or not. ``staged`` is shared
    memory that is taken beside that of blocks.
    """

    blocks: Blocks
    described: bool = False
    staged: int = 0


HALF = (
    Blocks(128, 256, 64, 8, 3),
    Blocks(128, 256, 64, 8, 4),
    Blocks(256, 128, 64, 8, 3),
    Blocks(128, 128, 64, 8, 3),
    Blocks(128, 128, 64, 4, 3),
    Blocks(64, 256, 64, 4, 3),
    Blocks(128, 64, 64, 4, 4),
    Blocks(64, 128, 64, 4, 4),
    Blocks(64, 64, 64, 4, 4),
    Blocks(64, 32, 64, 4, 5),
    Blocks(32, 64, 64, 4, 5),
    Blocks(32, 32, 128, 4, 4),
    Blocks(16, 128, 64, 4, 5),
    Blocks(16, 64, 128, 4, 4),
    Blocks(16, 32, 128, 2, 5),
    Blocks(64, 16, 128, 4, 4),
    Blocks(32, 16, 128, 2, 5),
    Blocks(16, 16, 256, 2, 4),
)
SINGLE = (
    Blocks(128, 128, 32, 8, 3),
    Blocks(128, 64, 32, 4, 3),
    Blocks(64, 128, 32, 4, 3),
    Blocks(64, 64, 32, 4, 4),
    Blocks(64, 32, 32, 4, 4),
    Blocks(32, 64, 32, 4, 4),
    Blocks(32, 32, 32, 4, 5),
    Blocks(16, 64, 32, 4, 5),
    Blocks(64, 16, 32, 4, 5),
    Blocks(16, 32, 32, 2, 5),
    Blocks(32, 16, 32, 2, 5),
    Blocks(16, 16, 32, 1, 5),
)
"""Of f32. Tensor cores cut off what they add to a sum, so steps are short: Triton adds the sums of
steps in f32.
"""
DOUBLE = (
    Blocks(64, 64, 16, 4, 3),
    Blocks(64, 32, 16, 4, 3),
    Blocks(32, 32, 32, 4, 3),
    Blocks(16, 32, 32, 2, 3),
    Blocks(32, 16, 32, 2, 3),
    Blocks(16, 16, 32, 1, 3),
)


def typical(size: Size) -> int:
    """``size`` with typical symbols."""
    if isinstance(size, Sym):
        size = substitute(size, dict.fromkeys(symbols(size), TYPICAL))
    return size if isinstance(size, int) else TYPICAL


def fitting(sizes: Sizes, dtype: DType, target: Target) -> list[Blocks]:
    """Blocks of which most is not empty, no longer than k, that have room on the target; at least
    one. CodegenError if there is room for none.
    """
    table = HALF if dtype.itemsize <= 2 else DOUBLE if dtype is f64 else SINGLE
    whole = list(dict.fromkeys(_useful(table, sizes)))
    found = [b for b in whole if _shared(b, dtype) <= target.shared]
    return found or [_narrowed(whole[-1], dtype, target)]


def ranked(
    ways: Sequence[Way], sizes: Sizes, dtype: DType, precision: str, target: Target
) -> list[Way]:
    """``ways`` from the best to the worst; some that are alike come later."""
    better: Counter[int] = Counter()
    found: list[tuple[float, Way]] = []
    clocks = [(_clocks(way, sizes, dtype, precision, target), way) for way in ways]
    for cost, way in sorted(clocks, key=lambda pair: pair[0]):
        tile = way.blocks.m * way.blocks.n
        found.append((cost * (1 + ALIKE * better[tile]), way))
        better[tile] += 1
    return [way for _, way in sorted(found, key=lambda pair: pair[0])]


def room(b: Blocks, dtype: DType, precision: str, target: Target) -> int:
    """Registers that a thread may take while as many programs run at once as otherwise fit."""
    return min(MOST, REGISTERS // (32 * b.warps * resident(b, dtype, precision, target)))


def resident(b: Blocks, dtype: DType, precision: str, target: Target, staged: int = 0) -> int:
    """Programs that a processor holds at once, if each takes ``staged`` bytes beside its blocks."""
    threads = 32 * b.warps
    own = b.m * b.n // threads + 64
    if precision == "tf32x3":  # high and low parts of both operands
        own += 2 * (b.m + b.n) * b.k // threads
    held = REGISTERS // (threads * min(MOST, own))
    return max(1, min(target.shared // (_shared(b, dtype) + staged), held))


def has_room(way: Way, dtype: DType, target: Target) -> bool:
    """Whether the target has the shared memory that ``way`` takes."""
    return _shared(way.blocks, dtype) + way.staged <= target.shared


def _useful(table: Sequence[Blocks], sizes: Sizes) -> Iterator[Blocks]:
    """``table`` without blocks of which most would be empty, nor longer than k."""
    for b in table:
        if (b.m > LEAST and b.m >= 2 * sizes.m) or (b.n > LEAST and b.n >= 2 * sizes.n):
            continue
        k = b.k
        while k >= 2 * max(sizes.k, LEAST // 2 + 1):
            k //= 2
        yield replace(b, k=max(k, LEAST))


def _narrowed(b: Blocks, dtype: DType, target: Target) -> Blocks:
    """``b`` with fewer and shorter steps in shared memory."""
    while _shared(b, dtype) > target.shared:
        if b.stages > 1:
            b = replace(b, stages=b.stages - 1)
        elif b.k > LEAST:
            b = replace(b, k=b.k // 2)
        else:
            want = f"matmul: expected a GPU with {_shared(b, dtype)} bytes of shared memory or more"
            raise CodegenError(f"{want}, got {target.name} with {target.shared}")
    return b


def _shared(b: Blocks, dtype: DType) -> int:
    return b.stages * (b.m + b.n) * b.k * dtype.itemsize + 1024


def _clocks(way: Way, sizes: Sizes, dtype: DType, precision: str, target: Target) -> float:
    """Clocks of the whole product."""
    b, processors = way.blocks, target.processors or 1
    tiles = sizes.batch * ceil(sizes.m / b.m) * ceil(sizes.n / b.n)
    steps = ceil(sizes.k / b.k)
    step = b.m * b.n * b.k / _rate(b, dtype, precision, target)
    at_once = resident(b, dtype, precision, target, way.staged)
    memory = b.m * b.n * sizes.moved / FAR
    work = b.m * b.n * sizes.work / LANES * (FEW if b.warps * at_once < 16 else 1.0)
    latency = LATENCY / max(1, b.stages - 1)
    alone = steps * max(step, latency) + memory + work + (0 if way.described else START)
    busy = max(steps * step + work, memory)
    near = max(steps * (b.m + b.n) * b.k * dtype.itemsize / BYTES, memory)
    rounds = ceil(tiles / processors) * busy, ceil(tiles / (processors * at_once)) * alone
    return max(*rounds, tiles / processors * near + START) + way.described * (START + DESCRIBE)


def _rate(b: Blocks, dtype: DType, precision: str, target: Target) -> float:
    """Multiplications that a processor does in a clock, with blocks as wide as that."""
    if dtype is f64:
        return 48.0
    if dtype.itemsize > 2 and precision == "ieee":
        return 90.0
    hopper = target.arch >= 90 and b.m >= WGMMA and b.warps % 4 == 0
    most = 2048.0 if hopper else 900.0
    if dtype.itemsize > 2:
        most = 240.0 if hopper else 160.0
    narrow = min(1.0, b.m / 64) * min(1.0, b.n / 64)
    # An instruction reads 64 rows and all columns from shared memory, which is just fast enough.
    wide = 1.0 if b.n >= WIDE else 0.9
    return most * sqrt(max(narrow, 1 / 8)) * wide
