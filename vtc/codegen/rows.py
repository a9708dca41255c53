"""The kernel of a row region, down to its text: all that ``reduction.c.jinja`` may mention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.accumulate import State
from vtc.codegen.spec import Head, Level
from vtc.codegen.trace import Statement

Statements = tuple[Statement, ...]


@final
@dataclass(frozen=True, slots=True)
class Lanes:
    """The kept axis whose elements are accumulated side by side, ``width`` at a time from
    ``first``.
    """

    level: Level
    width: int


@final
@dataclass(frozen=True, slots=True)
class Array:
    """Memory of the kernel's own, of a static size."""

    ctype: str
    name: str
    count: int


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """What is written around the cache, ``bytes`` from array ``source`` to ``target``."""

    target: str
    source: str
    bytes: str


@final
@dataclass(frozen=True, slots=True)
class Again:
    """A second walk through a block: ``before`` it, then ``states``, the loop, and ``joins``."""

    before: tuple[str, ...]
    states: tuple[State, ...]
    lets: Statements
    updates: tuple[str, ...]
    joins: tuple[str, ...]
    pragma: str


@final
@dataclass(frozen=True, slots=True)
class Block:
    """The inner loop runs ``size`` iterations at a time, from ``b`` to ``e``: ``states`` begin
    anew, and then come ``joins``, ``again`` and ``streams``.
    """

    size: int
    states: tuple[State, ...]
    joins: tuple[str, ...]
    again: Again | None
    streams: tuple[Stream, ...]


@final
@dataclass(frozen=True, slots=True)
class Pass:
    """A stage: scalars of the row ``before`` the loops, of which lanes ``save`` some; loops
    ``around`` and then ``inner`` over reduced axes (no ``inner``: one element), with ``lets`` and
    ``updates`` innermost; then what becomes of the ``results``.

    Lanes compute their ``lane`` and ``load`` accumulators, visit ``ways`` elements, and ``put``
    them back.
    """

    before: Statements
    saves: tuple[str, ...]
    states: tuple[State, ...]
    block: Block | None
    around: tuple[Level, ...]
    inner: Level | None
    lane: Statements
    loads: tuple[str, ...]
    lets: Statements
    updates: tuple[str, ...]
    puts: tuple[str, ...]
    results: tuple[str, ...]
    pragma: str
    ways: int


@final
@dataclass(frozen=True, slots=True)
class ReductionSpec:
    """What ``reduction.c.jinja`` may mention.

    ``outer`` loops over kept axes, and over ``first`` if there are lanes; inside, the ``passes`` in
    order, then ``after`` and ``stores``. With ``lanes``, states are arrays, and what is innermost
    runs for each lane.
    """

    template = "reduction"
    head: Head
    before: Statements
    arrays: tuple[Array, ...]
    outer: tuple[Level, ...]
    lanes: Lanes | None
    passes: tuple[Pass, ...]
    after: Statements
    stores: tuple[str, ...]
    streams: bool
