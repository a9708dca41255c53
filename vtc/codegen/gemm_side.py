"""The two operands of a matrix product: where elements are read, or how they are computed.

One operand is the *vector* side: registers hold neighbours along its own axis. Of the other, the
*row* side, one element at a time is broadcast. What memory holds in the order the registers want is
read in place; anything else is packed, and what an operand is computed from is computed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from vtc.codegen.loops import Body, raises, simd
from vtc.codegen.sizes import c_text, divisors, linear
from vtc.codegen.trace import Cell, Statement, Value
from vtc.ir.dims import Size, floordiv, substitute, symbols
from vtc.ir.types import DType, bf16

PLACE, ROWS, COLUMNS = "place", "rows", "columns"

SHORTEST = 8
"""Elements that are worth a loop."""


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of the product: its variable and its extent."""

    var: str
    extent: str


@final
@dataclass(frozen=True, slots=True)
class Side:
    """How an operand is read.

    ``form`` is ``place``, ``rows`` (packed along the common axis) or ``columns`` (packed along its
    own). ``base`` is a pointer to its first element, with strides ``own`` and ``step`` (along the
    common axis); it is "" where elements are computed: ``lets`` in the outer of the two loops,
    ``inner`` and ``value`` in the other. With a ``run``, memory is walked along the own axis for
    that many elements at a time: its variable is split, and ``middle`` depends on the first half.
    """

    axis: Axis
    form: str
    base: str
    own: str
    step: str
    run: int
    lets: tuple[Statement, ...]
    middle: tuple[Statement, ...]
    inner: tuple[Statement, ...]
    value: str
    pragma: str


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of how an operand is read: from ``base`` with strides ``own`` and ``step``
    (along the common axis) where it is just loaded, else None. ``narrow``: as bf16.
    ``along``: the common axis is the one that memory is walked along. ``run``: if not, it is walked
    along the own axis for so many elements; 0 is all of them.
    """

    base: str
    own: Size | None
    step: Size | None
    along: bool
    narrow: bool = False
    run: int = 0

    @property
    def loaded(self) -> bool:
        """Whether elements lie in memory as they are multiplied."""
        return self.own is not None and not self.narrow

    @property
    def rows(self) -> bool:
        """Whether neighbours along the common axis are neighbours in memory."""
        return self.step == 1

    @property
    def columns(self) -> bool:
        """Whether neighbours along its own axis are neighbours in memory."""
        return self.own == 1


def reading(body: Body, root: int, dtype: DType, own: str, common: str) -> Reading:
    """How root ``root`` of ``body`` is read along its own and the common axis."""
    along = body.contiguous(common, root) >= body.contiguous(own, root)
    cell = _loaded(body, root, dtype)
    computed = _computed(body, root, own, common)
    if cell is None or symbols(cell.offset) & body.lets.keys():  # at an index that is loaded itself
        return computed
    stride, step = linear(cell.offset, own), linear(cell.offset, common)
    loops = body.facts.extents.keys() & {own, common}
    if stride is None or step is None or (symbols(stride) | symbols(step)) & loops:
        return computed
    rest = body.facts.simplify(substitute(cell.offset, {own: 0, common: 0}))
    base = f"{cell.buffer} + {c_text(rest, body.facts)}"
    return Reading(base, stride, step, along, dtype is bf16)


def paired(how: Reading, depth: Size) -> Reading:
    """``how`` in pairs of neighbours along the common axis."""
    own = how.own
    even = isinstance(depth, int) and depth % 2 == 0 and isinstance(own, int) and own % 2 == 0
    if how.rows and even and own is not None:
        return replace(how, own=floordiv(own, 2), narrow=False)
    return replace(how, base="", own=None, step=None, narrow=False)


def _computed(body: Body, root: int, own: str, common: str) -> Reading:
    """How elements are read that are more than loaded."""
    along = body.contiguous(common, root) >= body.contiguous(own, root)
    run = _run(body, root, own) if along else 0
    if run:
        parts = _split(body, root, own, run)
        along = parts.contiguous(common, 0) >= parts.contiguous(f"{own}b", 0)
    return Reading("", None, None, along, run=0 if along else run)


def _run(body: Body, root: int, own: str) -> int:
    """The least of what index expressions divide ``own`` by, if it divides its extent; else 0."""
    lets = Body(body.trace, [body.roots[root]]).lets.values()
    found = {d for let in lets for size in let.sizes for d in divisors(size, own)}
    extent = body.facts.extents.get(own, 1)
    whole = [d for d in found if isinstance(d, int) and floordiv(extent, d) * d == extent]
    least = min(whole, default=0)
    return least if least >= SHORTEST and len(whole) == len(found) else 0


def _split(body: Body, root: int, own: str, run: int) -> Body:
    """Root ``root`` alone, in loops over runs and within one."""
    facts = body.facts
    high = facts.loop(f"{own}a", floordiv(facts.extents[own], run))
    whole = high * run + facts.loop(f"{own}b", run)
    found = Body(body.trace, [body.roots[root]])

    def change(size: Size) -> Size:
        return facts.simplify(substitute(size, {own: whole}))

    found.lets = {name: let.rewrite(change) for name, let in found.lets.items()}
    found.roots = [found.roots[0].rewrite(change)]
    return found


def _loaded(body: Body, root: int, dtype: DType) -> Cell | None:
    """The cell an operand is loaded from, if that is all."""
    if dtype is not bf16 and dtype.itemsize < 4:
        return None
    match body.roots[root].parts:
        case (Value(text=name),) if name in body.lets:
            match body.lets[name].parts:
                case (Cell() as cell,):
                    return cell
    return None


def side(
    body: Body, root: int, axes: tuple[Axis, Axis], outer: Sequence[str], how: Reading, form: str
) -> Side:
    """The spec of an operand that is read in ``form``."""
    own, common = axes
    plain = Side(own, form, "", "0", "0", 0, (), (), (), "", "")
    if how.own is not None and how.step is not None and (form == PLACE or not how.narrow):
        strides = c_text(how.own, body.facts), c_text(how.step, body.facts)
        plain = replace(plain, base=how.base, own=strides[0], step=strides[1])
    if form == PLACE:
        return plain
    loops = [common.var, own.var] if form == COLUMNS else [own.var, common.var]
    run = how.run if form == COLUMNS else 0
    if run:
        body, root = _split(body, root, own.var, run), 0
        loops = [common.var, f"{own.var}a", f"{own.var}b"]
    lets, *between, inner = body.place([*outer, *loops], [body.roots[root]])[len(outer) + 1 :]
    middle = tuple(s for part in between for s in part)
    pragma = simd(raises((*middle, *inner)))
    return replace(
        plain, run=run, lets=lets, middle=middle, inner=inner, value=body.text(root), pragma=pragma
    )
