"""Which scalars of a row are kept in arrays from one stage to the next, instead of computed again.

What a stage shares with one before it and hands on is worth keeping if it takes more than storing
and loading it: the exponentials of a softmax are, ``x - mean`` of a norm is not. A row must be of a
known length, and its arrays stay in the cache.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.loops import Loop
from vtc.codegen.trace import Cell, Let, reads
from vtc.ir.dims import Size, Sym, product, symbols

LONGEST = 1 << 16
"""Elements of the rows of one kernel that are kept, in all: they lie on the stack."""

WORTH = 8
"""Operations that take longer than storing and loading a value."""

_COST = {"vtc_from_bf16(": 1, "__builtin_sqrtf": 4, "__builtin_sqrt": 6, " / ": 3}
_FUNCTION, _GATHER = 12, 8
_CALL = re.compile(
    r"(vtc_\w+|sinf?|cosf?|exp|exp2|expm1|log|log1p|tanh|erf|erfc|lgamma|atan2|powf?)\(?"
    r"|\(\w+\)vtc_\w+\("
)


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """The stage that computes each kept scalar; later ones read it at ``offset`` of ``count``."""

    stage: Mapping[str, int]
    offset: Size
    count: int

    def known(self, stage: int) -> list[str]:
        """The scalars that ``stage`` reads instead of computing them."""
        return [name for name, k in self.stage.items() if k < stage]

    def new(self, stage: int) -> list[str]:
        """The scalars that ``stage`` keeps."""
        return [name for name, k in self.stage.items() if k == stage]


def keep(
    lets: Mapping[str, Let],
    stages: Sequence[Sequence[Let]],
    inside: Collection[str],
    loops: Sequence[Loop],
) -> Kept:
    """What to keep of the scalars ``inside`` the innermost of ``loops``, given the roots of all
    stages.
    """
    count = product(v.extent for v in loops)
    found: dict[str, int] = {}
    offset: Size = 0
    for v in loops:
        offset = offset * v.extent + Sym.var(v.name)
    if not loops or not isinstance(count, int) or count > LONGEST:
        return Kept(found, offset, 0)
    before: dict[str, int] = {}
    for k, roots in enumerate(stages):
        mine = wanted(lets, roots, found)
        for name in mine:
            shared = name in before and name in inside
            if (
                shared
                and _handed_on(name, lets, roots, mine, before)
                and _worth(name, lets, inside)
            ):
                room = (len(found) + 1) * count <= LONGEST
                found |= {name: before[name]} if room else {}
        for name in mine:
            before.setdefault(name, k)
    return Kept(found, offset, count)


def wanted(
    lets: Mapping[str, Let], roots: Sequence[Let], known: Collection[str]
) -> dict[str, None]:
    """The scalars that ``roots`` are computed from, up to those that are ``known``, in order."""
    found: set[str] = set()
    stack = list(roots)
    while stack:
        for name in reads(stack.pop()):
            if name in lets and name not in found and name not in known:
                found.add(name)
                stack.append(lets[name])
    return dict.fromkeys(name for name in lets if name in found)


def cost(lets: Mapping[str, Let], names: Iterable[str]) -> int:
    """Operations that these scalars take."""
    return sum(_cost(lets[n], lets) for n in names)


def _handed_on(
    name: str,
    lets: Mapping[str, Let],
    roots: Sequence[Let],
    mine: Collection[str],
    before: Mapping[str, int],
) -> bool:
    """Whether something new reads ``name``."""
    new = [lets[n] for n in mine if n not in before]
    return any(name in reads(let) for let in (*new, *roots))


def _worth(name: str, lets: Mapping[str, Let], inside: Collection[str]) -> bool:
    parts = [n for n in wanted(lets, [lets[name]], ()) if n in inside]
    return cost(lets, (*parts, name)) >= WORTH


def _cost(let: Let, lets: Mapping[str, Let]) -> int:
    total = 1
    for part in let.parts:
        if isinstance(part, Cell) and symbols(part.offset) & lets.keys():
            total += _GATHER
        elif isinstance(part, str):
            total += _COST.get(part, _FUNCTION if _CALL.fullmatch(part) else 0)
    return total
