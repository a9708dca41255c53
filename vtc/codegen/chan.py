"""The second meeting of a pair in C: see :mod:`vtc.codegen.pairs`.

In the block from ``b`` to ``e`` the first meeting has been accumulated already. The result is as
exact as that of a second walk: what joins blocks is f64, and sums of squares are kept about the
mean of the first block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.accumulate import Meeting, State
from vtc.codegen.pairs import Pair
from vtc.codegen.scalar import literal
from vtc.codegen.sizes import Facts
from vtc.codegen.trace import Let, Statement
from vtc.ir.types import f32

CACHED = 1 << 17
"""Elements of a row that are read again at no great cost."""


@final
@dataclass(frozen=True, slots=True)
class Second:
    """``states`` of the row; in each block what comes ``before`` (and gives scalar ``about``),
    ``inner`` states, updates and ``joins``; then the result, given ``about`` of the row.
    """

    about: str
    states: tuple[State, ...]
    before: tuple[str, ...]
    inner: tuple[State, ...]
    roots: tuple[Let, ...]
    updates: tuple[str, ...]
    joins: tuple[str, ...]
    result: Statement
    clauses: tuple[str, ...]


def second(pair: Pair, meetings: Sequence[Meeting], facts: Facts) -> Second:
    """How the second meeting of ``pair`` is accumulated."""
    (meeting,) = (m for m in meetings if m.number == pair.second)
    how = meeting.in_row(facts, long=False)
    write = _exponentials if pair.kind == "exponentials" else _squares
    (own,) = how.states
    (update,) = how.updates
    return write(pair, meeting, own, Let("", "", how.roots[0].parts), update)


def _exponentials(pair: Pair, meeting: Meeting, own: State, root: Let, update: str) -> Second:
    """Relative to the largest so far, ``m``; where there is only -inf, to 0."""
    first, k = pair.first, pair.second
    lowest, nan = literal(-math.inf, f32), literal(math.nan, f32)
    nothing = f"q{first} || s{first} == {lowest}"
    return Second(
        about=pair.about,
        states=(State("float", f"m{k}", lowest), State("double", f"d{k}", "0.0")),
        before=(
            f"const float {pair.about} = s{first} == {lowest} ? 0.0f : s{first}",
            f"if (m{k} != {pair.about}) d{k} *= exp((double)m{k} - {pair.about})",
            f"m{k} = {pair.about}",
        ),
        inner=(own,),
        roots=(root,),
        updates=(update,),
        joins=(f"d{k} += {own.name}",),
        result=Statement("float", meeting.name, f"{nothing} ? {nan} : (float)d{k}", raises=False),
        clauses=(f"reduction(+:{own.name})",),
    )


def _squares(pair: Pair, meeting: Meeting, own: State, root: Let, update: str) -> Second:
    """About the mean of the block; ``u`` and ``d`` are sums of deviations from ``m`` and of their
    squares, of ``c`` elements.
    """
    k, about = pair.second, pair.about
    off = f"((double){about} - m{k})"
    # Rounding may leave less than nothing; a NaN stays.
    total = f"d{k} - {off} * (2 * u{k} - {off} * (double)c{k})"
    return Second(
        about=about,
        states=(
            State("float", f"m{k}", "0.0f"),
            State("double", f"u{k}", "0.0"),
            State("double", f"d{k}", "0.0"),
            State("int64_t", f"c{k}", "0"),
        ),
        before=(
            f"const float {about} = s{pair.first} / (float)(e - b)",
            f"m{k} = c{k} ? m{k} : {about}",
        ),
        inner=(own, State("float", f"w{k}", "0.0f")),
        roots=(root,),
        updates=(f"w{k} += {pair.centred}", update),
        joins=(
            f"d{k} += {own.name} + {off} * (2 * w{k} + {off} * (double)(e - b))",
            f"u{k} += w{k} + {off} * (double)(e - b)",
            f"c{k} += e - b",
        ),
        result=Statement(
            "float", meeting.name, f"{total} < 0.0 ? 0.0f : (float)({total})", raises=False
        ),
        clauses=(f"reduction(+:{own.name})", f"reduction(+:w{k})"),
    )
