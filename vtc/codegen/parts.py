"""Dividing a kernel: each part runs through a share of the outermost loops.

A kernel is ``int k(p, n, part, parts)``; its parts may run at once and in any order, and together
they do what one part does alone, bit for bit: a sum is never divided. Loops
that are too short by themselves are run as one::

    for (int64_t item = begin; item < end; item += 1) {
        const int64_t i0 = item / 12;
        const int64_t i1 = item % 12;
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vtc.codegen.region import Elements
from vtc.codegen.spec import Level, Parts
from vtc.codegen.trace import Statement
from vtc.ir.dims import Size

ENOUGH = 256
"""Iterations that can be shared evenly by any number of threads."""

LINE = 64
"""Elements that stay together in a loop that vectorises, so that its rest is where it was."""

COST = {"math": 4, "random": 8}
"""What an element costs if it needs this part of the prelude, in loads."""

BEGIN, END, ITEM = "begin", "end", "item"


def divide(
    levels: Sequence[Level], work: Size, *, vector: bool
) -> tuple[Parts | None, tuple[Level, ...]]:
    """How ``levels`` are shared, and the levels of one part; None where there is no loop.

    With ``vector`` the innermost level is kept whole, unless it is the only one.
    """
    if not levels:
        return None, ()
    if vector and len(levels) == 1:
        (level,) = levels
        return Parts(level.extent, LINE, work), (replace(level, start=BEGIN, extent=END),)
    taken = _taken([v for v in levels if v.start == "0"][: len(levels) - vector])
    rest = tuple(levels[len(taken) :])
    if len(taken) == 1 and taken[0].step == "1":
        outer = replace(taken[0], start=BEGIN, extent=END)
        return Parts(taken[0].extent, 1, work), (outer, *rest)
    return Parts(_count(taken), 1, work), (Level(ITEM, END, _lets(taken), start=BEGIN), *rest)


def work(elements: Elements, count: Size) -> Size:
    """What ``count`` elements cost, in loads."""
    return count * max((COST.get(need, 1) for need in elements.trace.needs), default=1)


def _taken(levels: list[Level]) -> list[Level]:
    """The outermost levels that are enough together; a size that is not known may be 1."""
    total = 1
    for k, level in enumerate(levels):
        if level.step == "1" and level.extent.isdecimal():
            total *= int(level.extent)
        if total >= ENOUGH:
            return levels[: k + 1]
    return levels


def _count(levels: Sequence[Level]) -> str:
    """How often ``levels`` iterate together."""
    known, others = 1, []
    for level in levels:
        if level.extent.isdecimal() and level.step.isdecimal():
            known *= -(-int(level.extent) // int(level.step))
        elif level.step == "1":
            others.append(f"({level.extent})")
        else:
            others.append(f"(({level.extent} + {level.step} - 1)/{level.step})")
    return "*".join([*others, str(known)] if known != 1 or not others else others)


def _lets(levels: Sequence[Level]) -> tuple[Statement, ...]:
    """The variables of ``levels`` and their scalars, from the number of the item."""
    found: list[Statement] = []
    for k, level in enumerate(levels):
        inner = levels[k + 1 :]
        at = f"{ITEM}/({_count(inner)})" if inner else ITEM
        if k:
            at = f"{at}%({_count([level])})"
        if level.step != "1":
            at = f"({at})*{level.step}"
        found += [Statement("int64_t", level.var, at, raises=False), *level.lets]
    return tuple(found)
