"""Random words by the block: a counter makes four, so drawing one at a time does four times the
work.

Where word ``i`` of a generator is read at the innermost loop's own step, the words of a block are
drawn into a buffer before it::

    const int64_t lead0 = vtc_draw(d0, t0, t1, first, last - first);
    for (int64_t i0 = first; i0 < last; i0 += 1) ... d0[i0 - first + lead0] ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.loops import Body
from vtc.codegen.sizes import c_text, linear
from vtc.codegen.trace import Cell, Let, Value, needed, reads
from vtc.ir.dims import Size, Sym, substitute


@final
@dataclass(frozen=True, slots=True)
class Draw:
    """The buffer ``name`` of a block's words, which begin at ``lead`` once ``fill`` is called."""

    name: str
    size: int
    lead: str
    fill: str


def draws(body: Body, name: str, block: int, ends: tuple[str, str]) -> list[tuple[Draw, Let]]:
    """The words that loop ``name`` reads in order, and what they are made from; reads go to the
    buffers of blocks between ``ends``.
    """
    found: list[tuple[Draw, Let]] = []
    first, last = ends
    for let in list(body.lets.values()):
        generator = _generator(body, let)
        if generator is None:
            continue
        key, state, place = generator
        begin = substitute(place, {name: Sym.var(first)})
        source = Let("", "", (key, state, substitute(place, {name: 0})))
        moves = any(name in reads(one) for one in needed(body.lets, [source]))
        if linear(place, name) != 1 or moves or not _fixed(body, (key, state)):
            continue
        draw = f"d{len(found)}"
        start = c_text(begin, body.facts)
        whence = f"{key.text}, {state.text}, {start}, {last} - {first}"
        made = Draw(draw, block + 8, f"lead{len(found)}", f"vtc_draw({draw}, {whence})")
        at = Sym.var(name) - Sym.var(first) + Sym.var(made.lead)
        body.lets[let.name] = replace(let, parts=(Cell(draw, at),))
        found.append((made, source))
    return found


def _generator(body: Body, let: Let) -> tuple[Value, Value, Size] | None:
    """The key and the state of the generator that ``let`` reads, and the word's place in all."""
    match let.parts:
        case ("vtc_philox(", Value() as key, _, Value() as counter, _, Sym() as word, _):
            source = body.lets.get(counter.text)
            match source.parts if source else ():
                case (_, Value(text=text) as state, " + (uint64_t)", Value(size=Sym() as at), _):
                    place = body.facts.simplify(at * 4 + word)
                    return (key, state, place) if text else None
    return None


def _fixed(body: Body, values: Sequence[Value]) -> bool:
    """Whether ``values`` are the same in every iteration."""
    roots = [body.lets[v.text] for v in values if v.text in body.lets]
    lets = [*needed(body.lets, roots), *roots]
    return len(roots) == len(values) and not any(
        reads(let) & body.facts.extents.keys() for let in lets
    )
