"""Rows that are read again and again: what the cache should keep.

    for u in range(0, 50304, 8192):
        t0 = tl.load(x0 + (i*50304 + r), (r < 50304), eviction_policy="evict_last")
    ...
    for u in range(0, 50304, 8192):
        t0 = tl.load(x0 + (i*50304 + r), (r < 50304), eviction_policy="evict_first")
        tl.store(y0 + (i*50304 + r), t4, (r < 50304), cache_modifier=".cs")

The first walk along a row wants it kept until the last one has read it, and nobody waits for what
is stored. Only rows of the program itself are meant: a weight serves all programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vtc.codegen.tiles import Stage
from vtc.codegen.trace import Cell, Let, needed
from vtc.ir.dims import symbols


def hinted(
    lets: Mapping[str, Let], stages: Sequence[Stage], stage: Stage
) -> tuple[dict[str, Let], Stage]:
    """The scalars and ``stage`` itself with what loads and stores tell the cache."""
    later = stages[stages.index(stage) + 1 :]
    again = {let.name for s in later for let in needed(dict(lets), s.roots)}
    found = dict(lets)
    for let in needed(found, stage.roots):
        if _is_load(let) and _own(let, ["i"], ["r"]):
            policy = "evict_last" if let.name in again else "evict_first"
            found[let.name] = _with(let, f', eviction_policy="{policy}")')
    stores = tuple(_with(s, ', cache_modifier=".cs")') for s in stage.stores)
    return found, replace(stage, stores=stores)


def read_again(
    lets: Mapping[str, Let], stages: Sequence[Stage], kept: Iterable[str], reduced: Iterable[str]
) -> frozenset[str]:
    """The buffers whose rows several of ``stages`` read; loops are ``kept`` and ``reduced``."""
    seen: set[str] = set()
    again: set[str] = set()
    kept, reduced = list(kept), list(reduced)
    for stage in stages:
        loads = [n for n in needed(dict(lets), stage.roots) if _is_load(n)]
        rows = {_cell(n).buffer for n in loads if _own(n, kept, reduced)}
        again |= rows & seen
        seen |= rows
    return frozenset(again)


def _is_load(let: Let) -> bool:
    return let.parts[0] == "tl.load("


def _own(let: Let, kept: Sequence[str], reduced: Sequence[str]) -> bool:
    """Whether a load reads what belongs to one row, all along it."""
    names = symbols(_cell(let).offset)
    return not names.isdisjoint(kept) and not names.isdisjoint(reduced)


def _cell(let: Let) -> Cell:
    """The place that a load reads."""
    (cell,) = (part for part in let.parts if isinstance(part, Cell))
    return cell


def _with(let: Let, ending: str) -> Let:
    """With another end of the call of a load or store."""
    last = len(let.parts) - 1 - let.parts[::-1].index(")")
    return replace(let, parts=(*let.parts[:last], ending, *let.parts[last + 1 :]))
