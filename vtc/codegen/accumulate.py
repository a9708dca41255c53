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
from vtc.codegen.trace import Let, statement
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.types import DType, f32, i64

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
class Block:
    """Every ``size`` iterations ``joins`` add ``states`` to what is accumulated."""

    size: int
    states: tuple[State, ...]
    joins: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Accumulation:
    """``states`` (or those of ``block``), one update per element, and the ``result`` from
    ``states``.

    ``roots`` are the scalars that updates mention; ``clauses`` make a simd loop of it, None: no
    such loop.
    """

    states: tuple[State, ...]
    block: Block | None
    roots: tuple[Let, ...]
    updates: tuple[str, ...]
    result: str
    clauses: tuple[str, ...] | None


@final
@dataclass(frozen=True, slots=True)
class Meeting:
    """What is known before loops are ordered: an element of dtype ``source``, and ``s0`` (and
    ``s1``, for an index) ``combined`` with it.
    """

    op: Reduction | ArgReduction
    source: DType
    element: Let
    combined: tuple[Let, ...]

    def in_row(self, facts: Facts, *, long: bool) -> Accumulation:
        """Accumulated one element after the other."""
        (value,) = _texts([self.element], facts)
        states = self._states()
        if self.op.name in ("max", "min") and self.source.kind == "float":
            sign = ">" if self.op.name == "max" else "<"
            return Accumulation(
                states=(*states, State("int", "s1", "0")),
                block=None,
                roots=(self.element,),
                updates=(f"s1 |= {value} != {value}", f"s0 = {value} {sign} s0 ? {value} : s0"),
                result=f"s1 ? {literal(math.nan, self.source.accumulate)} : s0",
                clauses=(f"reduction({self.op.name}:s0)", "reduction(|:s1)"),
            )
        texts = _texts(self.combined, facts)
        updates = tuple(f"{s.name} = {t}" for s, t in zip(states, texts, strict=True))
        clauses = self._clauses()
        if not long or not self._sums():
            return Accumulation(states, None, self.combined, updates, states[-1].name, clauses)
        block = Block(ROW_BLOCK, states, ("d0 += s0",))
        total = (State("double", "d0", "0.0"),)
        return Accumulation(total, block, self.combined, updates, "(float)d0", clauses)

    def in_lanes(self, facts: Facts, *, long: bool) -> Accumulation:
        """Accumulated in arrays ``v0``, ``v1``, of which ``s0``, ``s1`` are elements."""
        texts = _texts(self.combined, facts)
        states = tuple(State(s.ctype, f"v{k}", s.init) for k, s in enumerate(self._states()))
        updates = tuple(f"{s.name}[l] = {t}" for s, t in zip(states, texts, strict=True))
        if not long or not self._sums():
            return Accumulation(states, None, self.combined, updates, f"{states[-1].name}[l]", None)
        block = Block(LANE_BLOCK, states, ("d0[l] += v0[l]",))
        total = (State("double", "d0", "0.0"),)
        return Accumulation(total, block, self.combined, updates, "(float)d0[l]", None)

    def _states(self) -> tuple[State, ...]:
        identity = self.op.identity(self.source)
        inits = identity if isinstance(identity, tuple) else (identity,)
        dtypes = (self.source.accumulate, i64)
        return tuple(
            State(_wide(d), f"s{k}", literal(v, d))
            for k, (v, d) in enumerate(zip(inits, dtypes, strict=False))
        )

    def _sums(self) -> bool:
        return self.op.name == "sum" and self.source.accumulate is f32

    def _clauses(self) -> tuple[str, ...] | None:
        table = _LOGIC if self.source.kind == "bool" else _CLAUSES
        sign = table.get(self.op.name)
        return (f"reduction({sign}:s0)",) if sign else None


def _texts(lets: Sequence[Let], facts: Facts) -> list[str]:
    return [statement(let, facts).value for let in lets]


def _wide(dtype: DType) -> str:
    """The type of an accumulator: bools are ints, which vectorise."""
    return "int" if dtype.kind == "bool" else REGISTER[dtype.name]
