"""How code uses a name: to add to what it is, or in any other way.

uses([f.__code__])      # {"calls": {"n += k"}, "log": {"n.append(k)"}, "x": {"other"}}

An addition is told by bytecode. An augmented assignment is what loads and stores one stretch of
source; a method that is loaded to be called has an opcode of its own.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import CodeType

from vtc.frontend.codes import inner_codes

NUMBER, LIST, DICT, PRESENT = "n += k", "n.append(k)", "n[key] += k", "n is None"
OTHER = "other"
UNUSED = ("CACHE", "EXTENDED_ARG", "NOP")
KEYS = ("LOAD_CONST", "LOAD_FAST")
ELSEWHERE = ("LOAD_FAST", "STORE_FAST", "DELETE_FAST", "LOAD_CONST")
METHODS_ARE_MARKED = sys.version_info >= (3, 12)


def uses(codes: Iterable[CodeType]) -> dict[str, set[str]]:
    """The ways in which ``codes``, and functions inside them, use each global, attribute and
    variable of a function around.
    """
    found: dict[str, set[str]] = {}
    for code in codes:
        for name, way in _uses(code):
            found.setdefault(name, set()).add(way)
    return found


@lru_cache(maxsize=4096)
def _uses(code: CodeType) -> frozenset[tuple[str, str]]:
    names = {*code.co_names, *code.co_freevars, *code.co_cellvars}
    steps = [s for s in dis.get_instructions(code) if s.opname not in UNUSED]
    stored: set[int] = set()
    found = set()
    for k, step in enumerate(steps):
        if step.argval in names and not step.opname.startswith(ELSEWHERE) and k not in stored:
            way = _way(steps, k, stored)
            if way is not None:
                found.add((str(step.argval), way))
    for value in code.co_consts:  # keywords, and attributes in patterns of match
        if isinstance(value, tuple):
            found |= {(text, OTHER) for text in value if isinstance(text, str)}
    return frozenset(found).union(*map(_uses, inner_codes(code)))


def _way(steps: Sequence[dis.Instruction], k: int, stored: set[int]) -> str | None:
    """How the name of step ``k`` is used; None where it is only called. What an addition stores
    goes into ``stored``.
    """
    step = steps[k]
    if _is_method(step):
        return None
    if not step.opname.startswith("LOAD_") or not isinstance(step.argval, str):
        return OTHER
    if _is_method(steps[k + 1]) and steps[k + 1].argval in ("append", "extend"):
        return LIST
    if steps[k + 1].opname.endswith(("IF_NONE", "IF_NOT_NONE")):
        return PRESENT
    if (end := _stored(steps, k)) is not None:
        stored.add(end)
        return NUMBER
    start = [s.opname for s in steps[k + 1 : k + 5]]
    if start[:1] and start[0] in KEYS and start[1:] == ["COPY", "COPY", "BINARY_SUBSCR"]:
        return OTHER if _stored(steps, k + 4) is None else DICT
    return OTHER


def _is_method(step: dis.Instruction) -> bool:
    """Whether an attribute is loaded to be called."""
    marked = METHODS_ARE_MARKED and step.opname == "LOAD_ATTR" and bool((step.arg or 0) & 1)
    return marked or step.opname == "LOAD_METHOD"


def _stored(steps: Sequence[dis.Instruction], k: int) -> int | None:
    """Which step stores what step ``k`` loads, after ``+=`` or ``-=``; None for none."""
    loaded, at = steps[k], steps[k].positions
    if at is None or None in at:
        return None
    store = loaded.opname.replace("LOAD_", "STORE_").replace("BINARY_", "STORE_")
    ends = (
        j
        for j in range(k + 1, len(steps))
        if steps[j].opname == store and steps[j].argval == loaded.argval
        if steps[j].positions == at
    )
    end = next(ends, None)
    adds = [s.argrepr for s in steps[k:end] if s.opname == "BINARY_OP" and _starts(s, at)]
    return end if end is not None and adds in (["+="], ["-="]) else None


def _starts(step: dis.Instruction, at: dis.Positions) -> bool:
    """Whether the source of ``step`` begins where ``at`` does, and is not part of it."""
    here = step.positions
    if here is None or here == at:
        return False
    return (here.lineno, here.col_offset) == (at.lineno, at.col_offset)
