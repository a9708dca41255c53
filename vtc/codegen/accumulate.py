"""How elements meet in accumulators, in C.

An op says how by ``combine``; that is one accumulator and one update. Two cases do better. A long
sum of floats is made of blocks that meet in f64, so its error does not grow with its length. And a
compiler vectorises the maximum of floats only without NaN, so NaNs are looked for beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from vtc.codegen.scalar import REGISTER, literal
from vtc.codegen.sizes import Facts
from vtc.codegen.trace import Let, Statement, statement
from vtc.ir.ops.reduce import Reduction
from vtc.ir.types import DType, f32

ROW_BLOCK, LANE_BLOCK = 1024, 128
"""Elements summed in f32 before they join an f64 sum; a vectorised row has 16 sums."""

_CLAUSES = {"sum": "+", "prod": "*", "max": "max", "min": "min"}
_LOGIC = {"max": "|", "min": "&"}


@final
@dataclass(frozen=True, slots=True)
class State:
    """An accumulator and its value before any element."""

    ctype: str
    name: str
    init: str


@final
@dataclass(frozen=True, slots=True)
class Accumulation:
    """How the elements of a meeting are accumulated: one update each, then ``result``.

    ``states`` last as long as the meeting; ``inner`` ones begin anew in each block of elements, and
    then ``joins`` add them to ``states``. ``roots`` are the scalars that updates mention; ``signs``
    say how two accumulators of each kind become one.
    """

    states: tuple[State, ...]
    inner: tuple[State, ...]
    joins: tuple[str, ...]
    roots: tuple[Let, ...]
    updates: tuple[str, ...]
    result: Statement
    signs: tuple[str, ...]

    @property
    def running(self) -> tuple[State, ...]:
        """What the updates change."""
        return self.inner or self.states

    @property
    def clauses(self) -> tuple[str, ...]:
        """What makes a simd loop of the updates."""
        pairs = zip(self.signs, self.running, strict=True)
        return tuple(f"reduction({sign}:{state.name})" for sign, state in pairs)


@final
@dataclass(frozen=True, slots=True)
class Meeting:
    """What is known before loops are ordered: an element of dtype ``source``, and ``s0`` (of
    meeting 0) ``combined`` with it; the result is ``a0``.
    """

    op: Reduction
    source: DType
    element: Let
    combined: tuple[Let, ...]
    number: int = 0

    @property
    def name(self) -> str:
        """The scalar that is the result."""
        return f"a{self.number}"

    def in_row(self, facts: Facts, *, long: bool) -> Accumulation:
        """Accumulated one element after the other."""
        own = self._state(f"s{self.number}")
        if self.op.name in ("max", "min") and self.source.kind == "float":
            return self._extreme(facts, own)
        (text,) = _texts(self.combined, facts)
        updates = (f"{own.name} = {text}",)
        if not long or not self._sums():
            result = self._result(own.name)
            return Accumulation((own,), (), (), self.combined, updates, result, self._signs())
        total = State("double", f"d{self.number}", "0.0")
        joins = (f"{total.name} += {own.name}",)
        result = self._result(f"(float){total.name}")
        return Accumulation((total,), (own,), joins, self.combined, updates, result, self._signs())

    def in_lanes(self, facts: Facts, *, long: bool) -> Accumulation:
        """Accumulated in an array ``v0``, of which ``s0`` is an element."""
        (text,) = _texts(self.combined, facts)
        own = self._state(f"v{self.number}")
        updates = (f"s{self.number} = {text}",)
        if not long or not self._sums():
            result = self._result(f"{own.name}[l]")
            return Accumulation((own,), (), (), self.combined, updates, result, self._signs())
        total = State("double", f"d{self.number}", "0.0")
        joins = (f"{total.name}[l] += {own.name}[l]",)
        result = self._result(f"(float){total.name}[l]")
        return Accumulation((total,), (own,), joins, self.combined, updates, result, self._signs())

    def _extreme(self, facts: Facts, own: State) -> Accumulation:
        (value,) = _texts([self.element], facts)
        sign, seen = ">" if self.op.name == "max" else "<", f"q{self.number}"
        nan = literal(math.nan, self.source.accumulate)
        return Accumulation(
            states=(own, State("int", seen, "0")),
            inner=(),
            joins=(),
            roots=(self.element,),
            updates=(
                f"{seen} |= {value} != {value}",
                f"{own.name} = {value} {sign} {own.name} ? {value} : {own.name}",
            ),
            result=self._result(f"{seen} ? {nan} : {own.name}"),
            signs=(self.op.name, "|"),
        )

    def _state(self, name: str) -> State:
        identity = literal(self.op.identity(self.source), self.source.accumulate)
        return State(_wide(self.source.accumulate), name, identity)

    def _result(self, text: str) -> Statement:
        ctype = REGISTER[self.source.accumulate.name]
        return Statement(ctype, self.name, text, raises=False)

    def _signs(self) -> tuple[str, ...]:
        return ((_LOGIC if self.source.kind == "bool" else _CLAUSES)[self.op.name],)

    def _sums(self) -> bool:
        return self.op.name == "sum" and self.source.accumulate is f32


def _texts(lets: Sequence[Let], facts: Facts) -> list[str]:
    return [statement(let, facts).value for let in lets]


def _wide(dtype: DType) -> str:
    """The type of an accumulator: bools are ints, which vectorise."""
    return "int" if dtype.kind == "bool" else REGISTER[dtype.name]
