"""The one reverse sweep: ``evaluate``, ``differentiate`` and eager autograd all call it.

It walks a tape backwards and asks each op for the cotangents of its inputs. What a value is (a
node, an array, a tensor) is the caller's business: keys are hashable, ``expr(key)`` gives the Expr
of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from vtc.ir.op import Op
from vtc.ir.types import TupleType, Type

K = TypeVar("K", bound=Hashable)
E = TypeVar("E", bound="Cotangent")


class Cotangent(Protocol):
    """What accumulates: an Expr."""

    @property
    def type(self) -> Type:
        """Its type."""

    def __add__(self, other: Self) -> Self: ...


@dataclass(frozen=True)
class Entry(Generic[K]):
    """One application of an op.

    ``output = op(*inputs)``. ``index`` is set for projections of a tuple.
    """

    op: Op
    output: K
    inputs: tuple[K, ...]
    index: int | None = None


def _unwatched(key: object, found: object, active: object) -> None:
    pass


def reverse(
    tape: Sequence[Entry[K]],
    seeds: Mapping[K, E],
    wrt: Collection[K],
    expr: Callable[[K], E],
    enter: Callable[[Entry[K], Any], None] = lambda entry, g: None,
    watch: Callable[[K, dict[K, E], Collection[K]], None] = _unwatched,
) -> dict[K, E]:
    """The cotangents of ``wrt`` (absent where there is none), given those of ``seeds``.

    ``tape`` is in execution order; before the gradient of an op is built, ``enter`` is called with
    its entry and the cotangent of its output. ``watch`` is called with each value on the way as
    soon as its cotangent is complete, with the cotangents known so far, in which it may put
    another, and with the values that cotangents are needed for.
    """
    active = set(wrt)
    for e in tape:
        if any(i in active for i in e.inputs):
            active.add(e.output)
    found: dict[K, E] = {k: g for k, g in seeds.items() if k in active}
    parts: dict[K, dict[int, E]] = {}
    ends = _Ends.of(tape, active) if watch is not _unwatched else _Ends({}, set())
    for k in [k for k in found if k not in ends.read]:
        watch(k, found, active)
    for e in reversed(tape):
        if e.output not in active:
            continue
        watch(e.output, found, active)
        g = _cotangent(e, found, parts, expr)
        if g is not None:
            enter(e, g)
            _spread(e, g, found, parts, active, expr)
        for k in ends.at.get(e.output, ()):
            watch(k, found, active)
    return {k: found[k] for k in wrt if k in found}


def _spread(
    e: Entry[K],
    g: Any,
    found: dict[K, E],
    parts: dict[K, dict[int, E]],
    active: Collection[K],
    expr: Callable[[K], E],
) -> None:
    """Add the cotangents of the inputs of ``e``, whose output has ``g``."""
    if e.index is not None:
        _add(parts.setdefault(e.inputs[0], {}), e.index, g)
        return
    needs = tuple(i in active for i in e.inputs)
    inputs = tuple(expr(i) for i in e.inputs)
    for i, needed, gi in zip(
        e.inputs, needs, e.op.vjp(g, expr(e.output), inputs, needs), strict=True
    ):
        if needed and gi is not None:
            _add(found, i, gi)


@dataclass(frozen=True, slots=True)
class _Ends(Generic[K]):
    """The values that no entry makes, under the one that reads them first: going back, their
    cotangents are complete after that. ``read`` are all values that are made or read.
    """

    at: dict[K, list[K]]
    read: set[K]

    @classmethod
    def of(cls, tape: Sequence[Entry[K]], active: Collection[K]) -> _Ends[K]:
        steps = [e for e in tape if e.output in active]
        read = {e.output for e in steps}
        at: dict[K, list[K]] = {}
        for e in steps:
            for i in e.inputs:
                if i not in read and i in active:
                    read.add(i)
                    at.setdefault(e.output, []).append(i)
        return cls(at, read)


def _cotangent(
    e: Entry[K], found: Mapping[K, E], parts: Mapping[K, Mapping[int, E]], expr: Callable[[K], E]
) -> Any:
    if e.output in parts:
        type = expr(e.output).type
        if not isinstance(type, TupleType):
            raise TypeError(f"{e.op.name}: a projection of one tensor")
        return tuple(parts[e.output].get(i) for i in range(len(type.items)))
    return found.get(e.output)


def _add(table: dict[Any, E], key: object, g: E) -> None:
    table[key] = table[key] + g if key in table else g
