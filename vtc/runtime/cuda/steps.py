"""The steps of a plan at given sizes: what runs where, after what, on which memory.

Memory is named by slots: the inputs, the outputs, then the arena. An output that overwrites an
input has that input's slot. Behind what the plan keeps in the arena lie, each 16-byte aligned, the
scratch memory of kernels, a cell for each 0-d input (a number given with a call) and the tables of
kernels that take their pointers from one::

    layout = lay_out(fit, (64,), binaries)
    layout.nodes[1]       # Run(kernel=..., grid=(8, 1, 1), places=(Place(0), Place(3, 256)), ...)
    layout.nodes[1].after # (0,): it reads what node 0 writes

Steps without bytes or blocks are left out. What waits for what, the plan says. Loops are spelled
out, turn by turn, one step after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

from vtc.errors import RunError
from vtc.ir.plan import (
    Arena,
    Binary,
    Copy,
    Input,
    Kernel,
    Launch,
    Loop,
    Moving,
    Output,
    Plan,
    Ref,
    Step,
    flat,
)
from vtc.runtime.cuda.interface import Grid
from vtc.runtime.fit import Fit, shape_at, size_at

Values = dict[str, Any]
Turns = Mapping[int, int]
"""The turn that each loop is in, by its number."""

ALIGNMENT = 16
"""Of every pointer that a kernel gets."""
POINTER = 8


@final
@dataclass(frozen=True, slots=True)
class Place:
    """The memory ``add`` bytes after the address in a slot."""

    slot: int
    add: int = 0


@final
@dataclass(frozen=True, slots=True)
class Run:
    """A launch. ``table`` is where its pointers lie in the tables, if it takes them from there;
    ``cell`` the number of its error cell; ``scratch`` its memory for what each block needs.
    """

    step: int
    kernel: Kernel
    binary: Binary
    grid: Grid
    places: tuple[Place, ...]
    sizes: tuple[int, ...]
    note: str
    table: int | None = None
    cell: int | None = None
    scratch: Place | None = None
    after: tuple[int, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Move:
    """A copy."""

    step: int
    target: Place
    source: Place
    nbytes: int
    after: tuple[int, ...] = ()


Node = Run | Move


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """See the module. ``numbers`` and ``tables`` are where these begin in the arena."""

    key: tuple[int, ...]
    nodes: tuple[Node, ...]
    slots: int
    arena: int
    numbers: int
    tables: int
    table_bytes: int
    inputs: tuple[int, ...]
    """Bytes."""
    outputs: tuple[tuple[int, ...], ...]
    """Shapes."""


def lay_out(fit: Fit, key: tuple[int, ...], binaries: Mapping[str, Binary]) -> Layout:
    """The steps of the plan of ``fit`` with the dims ``key``; ``binaries`` are by symbol."""
    plan, values = fit.plan, fit.values(key)
    arena = len(plan.inputs) + len(plan.outputs)
    kernels = {k.name: k for k in plan.kernels}
    cells = {step: cell for cell, step in enumerate(checking(fit))}
    end, table, nodes = size_at(plan.arena, values), 0, list[Node]()
    scratch: dict[int, Place] = {}  # by launch: all turns of a loop share it
    for i, step, turns in spelled(plan, values):
        if isinstance(step, Copy):
            target, source = (_place(fit, r, values, turns) for r in (step.target, step.source))
            nodes.append(Move(i, target, source, size_at(step.nbytes, values)))
            continue
        kernel = kernels[step.kernel]
        node = Run(
            step=i,
            kernel=kernel,
            binary=binaries[kernel.symbol],
            grid=_grid(shape_at(step.grid, values)),
            places=tuple(_place(fit, ref, values, turns) for ref in step.args),
            sizes=shape_at(step.sizes, values),
            note=step.note,
            cell=cells.get(i) if kernel.build is not None and kernel.build.checks else None,
        )
        if node.binary.scratch and _happens(node):
            if id(step) not in scratch:
                at = _rounded(end, max(ALIGNMENT, node.binary.alignment))
                end = at + node.binary.scratch * _blocks(node.grid)
                scratch[id(step)] = Place(arena, at)
            node = replace(node, scratch=scratch[id(step)])
        if kernel.build is not None and kernel.build.table:
            node, table = replace(node, table=table), table + POINTER * len(node.places)
        nodes.append(node)
    numbers = _rounded(end)
    tables = numbers + ALIGNMENT * len(number_cells(fit))
    return Layout(
        key=key,
        nodes=_ordered(plan, nodes),
        slots=arena + 1,
        arena=tables + table,
        numbers=numbers,
        tables=tables,
        table_bytes=table,
        inputs=tuple(size_at(b.nbytes, values) for b in plan.inputs),
        outputs=tuple(shape_at(b.shape, values) for b in plan.outputs),
    )


def spelled(plan: Plan, values: Values) -> Iterator[tuple[int, Launch | Copy, Turns]]:
    """The launches and copies in order, each with the step of the plan that it is part of."""
    for i, step in enumerate(plan.steps):
        for one, turns in _turned(step, values, {}):
            yield i, one, turns


def checking(fit: Fit) -> tuple[int, ...]:
    """The steps that have an error cell, in the order of the cells."""
    checks = {k.name for k in fit.plan.kernels if k.build is not None and k.build.checks}
    return tuple(
        i
        for i, step in enumerate(fit.plan.steps)
        if any(isinstance(s, Launch) and s.kernel in checks for s in flat((step,)))
    )


def number_cells(fit: Fit) -> dict[int, int]:
    """For each 0-d input, the offset of its cell among the numbers."""
    scalars = [p for p, b in enumerate(fit.plan.inputs) if not b.shape]
    return {p: ALIGNMENT * k for k, p in enumerate(scalars)}


def _turned(step: Step, values: Values, turns: Turns) -> Iterator[tuple[Launch | Copy, Turns]]:
    match step:
        case Launch() | Copy():
            yield step, turns
        case Loop(number=number, steps=steps, condition=None):
            order = range(size_at(step.count, values))
            for k in reversed(order) if step.reverse else order:
                for inner in steps:
                    yield from _turned(inner, values, {**turns, number: k})
        case _:
            raise RunError(f"expected no step that waits for a value on the device, got {step}")


def _place(fit: Fit, ref: Ref, values: Values, turns: Turns) -> Place:
    first = len(fit.plan.inputs)
    match ref:
        case Input(p):
            return Place(p)
        case Output(i):
            over = fit.over[i]
            return Place(first + i if over is None else over)
        case Arena(offset):
            return Place(first + len(fit.plan.outputs), size_at(offset, values))
        case Moving(base, loop, step):
            start = _place(fit, base, values, turns)
            return Place(start.slot, start.add + turns[loop] * size_at(step, values))


def _grid(blocks: Sequence[int]) -> Grid:
    return cast("Grid", (*blocks, 1, 1, 1)[:3])


def _blocks(grid: Grid) -> int:
    x, y, z = grid
    return x * y * z


def _happens(node: Node) -> bool:
    return node.nbytes > 0 if isinstance(node, Move) else _blocks(node.grid) > 0


def _rounded(n: int, to: int = ALIGNMENT) -> int:
    return -(-n // to) * to


def _ordered(plan: Plan, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The ``nodes`` that happen, with the numbers of those that each runs after.

    What waits for a step that does not happen waits for what that would have waited for.
    """
    found: list[Node] = []
    ends: list[tuple[int, ...]] = []  # of each step, the nodes after which it is done
    waiting = deque(nodes)
    for step in range(len(plan.steps)):
        before = plan.after[step] if plan.after else range(step)[-1:]
        after = tuple(dict.fromkeys(k for j in before for k in ends[j]))
        while waiting and waiting[0].step == step:
            node = waiting.popleft()
            if _happens(node):
                found.append(replace(node, after=after))
                after = (len(found) - 1,)
        ends.append(after)
    return tuple(found)
