"""How large the blocks of a matrix product are: a model of what a tile costs, to rank candidates.

    ranked(Sizes(1, 8192, 3072, 768), bf16, "", cuda(90))[0] == Blocks(128, 256, 64, 8, 3)

A step of a tile takes as long as its multiplications or its bytes, whichever is more, and a tile
alone on a processor not less than loads take to come. What comes after the sum is bound by memory,
and hidden where a processor has more tiles than one. Then there are as many rounds as tiles need.
Figures are those of an H100, in clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import final

from vtc.ir.dims import Size, Sym, substitute, symbols
from vtc.ir.target import Target
from vtc.ir.types import DType, f64

TYPICAL = 1024
"""What stands for a symbolic size."""
LEAST = 16
"""The least block of each axis that ``tl.dot`` takes everywhere."""
LATENCY, START = 700, 1500
"""Clocks that a load takes, and a tile beside its steps."""
BYTES, FAR = 40, 14
"""Bytes that come to a processor in a clock from the L2 cache, and from memory."""
REGISTERS, MOST = 65536, 255
"""Registers of a processor, and those that a thread may have."""
WGMMA = 64
"""Rows from which on Hopper multiplies straight from shared memory."""


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
    read and written for an element of the result.
    """

    batch: int
    m: int
    n: int
    k: int
    moved: int = 2


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


def ranked(sizes: Sizes, dtype: DType, precision: str, target: Target) -> list[Blocks]:
    """Blocks that fit the target, the best first."""
    table = HALF if dtype.itemsize <= 2 else DOUBLE if dtype is f64 else SINGLE
    found = dict.fromkeys(_fitting(table, sizes, dtype, target))
    return sorted(found, key=lambda b: _clocks(b, sizes, dtype, precision, target))


def room(b: Blocks, dtype: DType, precision: str, target: Target) -> int:
    """Registers that a thread may take while as many programs run at once as otherwise fit."""
    return min(MOST, REGISTERS // (32 * b.warps * resident(b, dtype, precision, target)))


def resident(b: Blocks, dtype: DType, precision: str, target: Target) -> int:
    """Programs that a processor holds at once."""
    threads = 32 * b.warps
    own = b.m * b.n // threads + 64
    if precision == "tf32x3":  # high and low parts of both operands
        own += 2 * (b.m + b.n) * b.k // threads
    held = REGISTERS // (threads * min(MOST, own))
    return max(1, min(target.shared // _shared(b, dtype), held))


def _fitting(
    table: Sequence[Blocks], sizes: Sizes, dtype: DType, target: Target
) -> Iterator[Blocks]:
    """``table`` without blocks of which most would be empty, nor longer than k."""
    for b in table:
        if (b.m > LEAST and b.m >= 2 * sizes.m) or (b.n > LEAST and b.n >= 2 * sizes.n):
            continue
        k = b.k
        while k >= 2 * max(sizes.k, LEAST // 2 + 1):
            k //= 2
        b = replace(b, k=max(k, LEAST))
        if _shared(b, dtype) <= target.shared:
            yield b


def _shared(b: Blocks, dtype: DType) -> int:
    return b.stages * (b.m + b.n) * b.k * dtype.itemsize + 1024


def _clocks(b: Blocks, sizes: Sizes, dtype: DType, precision: str, target: Target) -> float:
    """Clocks of the whole product."""
    tiles = sizes.batch * ceil(sizes.m / b.m) * ceil(sizes.n / b.n)
    steps = ceil(sizes.k / b.k)
    step = max(
        b.m * b.n * b.k / _rate(b, dtype, precision, target),
        (b.m + b.n) * b.k * dtype.itemsize / BYTES,
    )
    finish = b.m * b.n * (1 / 16 + max(0, sizes.moved - 2) / FAR)
    alone = steps * max(step, LATENCY / (b.stages - 1)) + START + finish
    busy = max(steps * step, finish) + START / 4
    at_once = resident(b, dtype, precision, target)
    processors = target.processors or 1
    return max(ceil(tiles / processors) * busy, ceil(tiles / (processors * at_once)) * alone)


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
    return most * sqrt(max(narrow, 1 / 8))
