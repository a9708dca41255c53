"""Plans to layouts: what becomes of the steps of a plan at given sizes, of loops and branches too.

    layout = lay_out(fit, (64,), binaries)                 # nodes of a CUDA graph
    layout = lay_out(fit, (64,), binaries, flow="host")    # launched one by one

There are three ways with loops and branches:

* ``spelled``: loops that count are spelled out, turn by turn; nothing else is known.
* ``graph``: long ones (:mod:`vtc.ir.unroll`) are conditional nodes, and so are loops and branches
  that wait for a value on the device. Before such a node, and at the end of each turn, a kernel of
  :mod:`vtc.runtime.cuda.control` sets its handle. A loop that counts has a cell in the arena for
  its turn, with which copies may move. All nodes of bodies are kernels, copies too: drivers could
  not change others there.
* ``host``: the host goes through the steps, knows all turns, and waits for each byte that decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from vtc.errors import RunError
from vtc.ir.plan import (
    Arena,
    Binary,
    Branch,
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
    parts,
)
from vtc.ir.unroll import long, moves
from vtc.runtime.cuda.control import BINARIES, KERNELS, LEVELS, THREADS, WIDE
from vtc.runtime.cuda.steps import (
    ALIGNMENT,
    POINTER,
    Fork,
    HostBranch,
    HostLoop,
    Item,
    Layout,
    Move,
    Node,
    Place,
    Run,
    blocks,
    checking,
    grid_of,
    happens,
    number_cells,
    ordered,
    rounded,
)
from vtc.runtime.fit import Fit, shape_at, size_at

Way = Literal["spelled", "graph", "host"]
Values = dict[str, Any]
MOVERS = 4096
"""Blocks of one copy in a loop, at most."""


def lay_out(
    fit: Fit, key: tuple[int, ...], binaries: Mapping[str, Binary], flow: Way = "spelled"
) -> Layout:
    """The steps of the plan of ``fit`` with the dims ``key``; ``binaries`` are by symbol.

    RunError where ``flow`` is ``spelled`` and a step waits for a value on the device.
    """
    plan, values = fit.plan, fit.values(key)
    room = _Room(fit, values, binaries)
    items: tuple[Item, ...] | None = None
    if flow == "host":
        host = _Host(room)
        items = host.all(plan.steps, None)
        nodes = tuple(host.nodes)
    else:
        writer = _Graph(room, conditional=flow == "graph")
        for i, step in enumerate(plan.steps):
            writer.step(step, _Where(i))
        nodes = ordered(plan, writer.nodes)
    numbers = rounded(room.end)
    tables = numbers + ALIGNMENT * len(number_cells(fit))
    return Layout(
        key=key,
        nodes=nodes,
        slots=room.arena + 1,
        arena=tables + room.table,
        numbers=numbers,
        tables=tables,
        table_bytes=room.table,
        inputs=tuple(size_at(b.nbytes, values) for b in plan.inputs),
        outputs=tuple(shape_at(b.shape, values) for b in plan.outputs),
        items=items,
    )


def loops_or_branches(plan: Plan) -> bool:
    """Whether there is any."""
    return any(parts(s) for s in plan.steps)


def waiting(steps: Iterable[Step]) -> Loop | Branch | None:
    """The first of ``steps`` where what runs next depends on a value on the device."""
    for step in steps:
        if isinstance(step, Branch) or (isinstance(step, Loop) and step.condition is not None):
            return step
        for inner in parts(step):
            if found := waiting(inner):
                return found
    return None


@final
@dataclass(frozen=True, slots=True)
class _Where:
    """Where a step is: in which step of the plan, in which turns of loops that are spelled out, in
    which graph, and in which loops that are not, each with the place of its turn.
    """

    top: int
    turns: Mapping[int, int] = field(default_factory=dict)
    graph: int = 0
    counters: Mapping[int, Place] = field(default_factory=dict)

    def turn(self, loop: int, k: int) -> _Where:
        return replace(self, turns={**self.turns, loop: k})

    def inside(self, graph: int, counters: Mapping[int, Place] | None = None) -> _Where:
        return replace(self, graph=graph, counters={**self.counters, **(counters or {})})


@final
class _Room:
    """Memory behind what the plan keeps in the arena, and the nodes of single steps."""

    def __init__(self, fit: Fit, values: Values, binaries: Mapping[str, Binary]) -> None:
        plan = fit.plan
        self.fit, self.values, self._binaries = fit, values, binaries
        self.arena = len(plan.inputs) + len(plan.outputs)
        self.end, self.table = size_at(plan.arena, values), 0
        self._kernels = {k.name: k for k in plan.kernels}
        self._cells = {step: cell for cell, step in enumerate(checking(fit))}
        self._scratch: dict[int, Place] = {}  # by launch: all turns of a loop share it

    def take(self, nbytes: int, alignment: int = ALIGNMENT) -> Place:
        """Memory behind all that was taken before."""
        at = rounded(self.end, max(ALIGNMENT, alignment))
        self.end = at + nbytes
        return Place(self.arena, at)

    def place(self, ref: Ref, turns: Mapping[int, int]) -> Place:
        """What ``ref`` means in ``turns``; it moves with the loops that have none."""
        first = len(self.fit.plan.inputs)
        match ref:
            case Input(p):
                return Place(p)
            case Output(i):
                over = self.fit.over[i]
                return Place(first + i if over is None else over)
            case Arena(offset):
                return Place(self.arena, size_at(offset, self.values))
            case Moving(base, loop, step):
                start, by = self.place(base, turns), size_at(step, self.values)
                if loop in turns:
                    return replace(start, add=start.add + turns[loop] * by)
                return replace(start, moves=(*start.moves, (loop, by)))

    def order(self, loop: Loop) -> range:
        """The turns of a loop that counts."""
        turns = range(size_at(loop.count, self.values))
        return turns[::-1] if loop.reverse else turns

    def run(self, step: Launch, where: _Where) -> Run:
        """The node of a launch."""
        kernel, top = self._kernels[step.kernel], where.top
        checks = kernel.build is not None and kernel.build.checks
        node = Run(
            step=top,
            kernel=kernel,
            binary=self._binaries[kernel.symbol],
            grid=grid_of(shape_at(step.grid, self.values)),
            places=tuple([self.place(ref, where.turns) for ref in step.args]),
            sizes=shape_at(step.sizes, self.values),
            note=step.note,
            cell=self._cells.get(top) if checks else None,
            graph=where.graph,
        )
        if node.binary.scratch and happens(node):
            if id(step) not in self._scratch:
                nbytes = node.binary.scratch * blocks(node.grid)
                self._scratch[id(step)] = self.take(nbytes, node.binary.alignment)
            node = replace(node, scratch=self._scratch[id(step)])
        if kernel.build is not None and kernel.build.table:
            node = replace(node, table=self.table)
            self.table += POINTER * len(node.places)
        return node

    def move(self, step: Copy, where: _Where) -> Move:
        """The node of a copy."""
        target, source = (self.place(r, where.turns) for r in (step.target, step.source))
        nbytes = size_at(step.nbytes, self.values)
        return Move(where.top, target, source, nbytes, graph=where.graph)


@final
class _Graph:
    """The nodes of a graph, and of the bodies of its conditional nodes where it may have them."""

    def __init__(self, room: _Room, *, conditional: bool) -> None:
        self.room = room
        self.nodes: list[Node] = []
        self._conditional = conditional
        self._graphs = self._handles = 0

    def step(self, step: Step, where: _Where) -> None:
        """The nodes of ``step``."""
        match step:
            case Launch():
                self.nodes.append(self.room.run(step, where))
            case Copy():
                move = self.room.move(step, where)
                self.nodes.append(self._mover(move, where) if where.graph else move)
            case Loop(condition=None):
                self._counted(step, where)
            case Loop() | Branch() if not self._conditional:
                want = "expected no step that waits for a value on the device"
                raise RunError(f"{want}, got {step}")
            case Loop():
                self._repeated(step, where)
            case Branch():
                self._branch(step, where)

    def _counted(self, loop: Loop, where: _Where) -> None:
        order = self.room.order(loop)
        if not self._kept(loop, where):
            for k in order:
                self._all(loop.steps, where.turn(loop.number, k))
            return
        turn, handle, note = self.room.take(POINTER), self._handle(), loop.note
        self._set("begin", where, note, turn, handle, order.start)
        inner = where.inside(self._fork(where, handle, loop=True), {loop.number: turn})
        self._all(loop.steps, inner)
        self._set("next", inner, note, turn, handle, order.step, order.stop)

    def _kept(self, loop: Loop, where: _Where) -> bool:
        """Whether it stays a loop."""
        few = len(where.counters) < LEVELS
        return self._conditional and few and long(loop, self.room.values) and not moves(loop)

    def _repeated(self, loop: Loop, where: _Where) -> None:
        assert loop.condition is not None
        cell, handle = self.room.place(loop.condition, where.turns), self._handle()
        self._all(loop.test, where)
        self._set("test", where, loop.note, cell, handle, 1)
        inner = where.inside(self._fork(where, handle, loop=True))
        self._all((*loop.steps, *loop.test), inner)
        self._set("test", inner, loop.note, cell, handle, 1)

    def _branch(self, branch: Branch, where: _Where) -> None:
        """Both handles are set before anything is written: the byte may be overwritten then."""
        cell = self.room.place(branch.condition, where.turns)
        sides = [(s, k, self._handle()) for s, k in ((branch.then, 1), (branch.otherwise, 0)) if s]
        for _, wanted, handle in sides:
            self._set("test", where, branch.note, cell, handle, wanted)
        for steps, _, handle in sides:
            first = len(self.nodes)
            self._all(steps, where.inside(self._fork(where, handle, loop=False)))
            if not any(happens(n) for n in self.nodes[first + 1 :]):
                self._drop(handle)

    def _drop(self, handle: int) -> None:
        """Leave out the last conditional node: its body is empty."""
        self.nodes = [n for n in self.nodes if isinstance(n, Move) or n.handle != handle]

    def _all(self, steps: Iterable[Step], where: _Where) -> None:
        for step in steps:
            self.step(step, where)

    def _handle(self) -> int:
        self._handles += 1
        return self._handles - 1

    def _fork(self, where: _Where, handle: int, *, loop: bool) -> int:
        """A conditional node; the number of its body."""
        self._graphs += 1
        self.nodes.append(Fork(where.top, handle, self._graphs, loop, graph=where.graph))
        return self._graphs

    def _set(
        self, kind: str, where: _Where, note: str, at: Place, handle: int, *numbers: int
    ) -> None:
        """A kernel that sets a handle."""
        if at.moves:
            raise RunError(f"expected a byte that does not move with a loop to decide, got {at}")
        node = _control(kind, where, (at,), (0, *numbers), note)
        self.nodes.append(replace(node, handle=handle))

    def _mover(self, move: Move, where: _Where) -> Run:
        """A copy in a body, which may move with the loops around."""
        ends = replace(move.target, moves=()), replace(move.source, moves=())
        to, source = _steps(move.target), _steps(move.source)
        turns = [*where.counters.values(), *[ends[0]] * LEVELS][:LEVELS]
        by = [(to[k], source[k]) for k in where.counters]
        steps = [n for pair in [*by, *[(0, 0)] * LEVELS][:LEVELS] for n in pair]
        node = _control("move", where, (*ends, *turns), (move.nbytes, *steps), "")
        count = min(-(-move.nbytes // (THREADS * WIDE)), MOVERS)
        return replace(node, grid=(count, 1, 1))


def _steps(place: Place) -> Counter[int]:
    """The bytes that ``place`` moves by, by the number of the loop; it may move with one twice."""
    found: Counter[int] = Counter()
    for loop, by in place.moves:
        found[loop] += by
    return found


def _control(
    kind: str, where: _Where, places: tuple[Place, ...], numbers: Sequence[int], note: str
) -> Run:
    kernel: Kernel = KERNELS[kind]
    return Run(
        step=where.top,
        kernel=kernel,
        binary=BINARIES[kind],
        grid=(1, 1, 1),
        places=places,
        sizes=tuple(numbers),
        note=note,
        graph=where.graph,
    )


@final
class _Host:
    """Each launch and copy once, and what the host does with them."""

    def __init__(self, room: _Room) -> None:
        self.room = room
        self.nodes: list[Node] = []

    def all(self, steps: Sequence[Step], top: int | None) -> tuple[Item, ...]:
        """Those of ``steps``; ``top`` is the step of the plan that they are in."""
        found = [self._item(s, i if top is None else top) for i, s in enumerate(steps)]
        return tuple([item for item in found if item is not None])

    def _item(self, step: Step, top: int) -> Item | None:
        where = _Where(top)
        match step:
            case Launch():
                return self._node(self.room.run(step, where))
            case Copy():
                return self._node(self.room.move(step, where))
            case Loop(condition=None):
                return HostLoop(step.number, self.all(step.steps, top), self.room.order(step))
            case Loop(condition=cell):
                assert cell is not None
                body, test = self.all(step.steps, top), self.all(step.test, top)
                return HostLoop(step.number, body, test=test, cell=self.room.place(cell, {}))
            case Branch(cell, then, otherwise):
                sides = self.all(then, top), self.all(otherwise, top)
                return HostBranch(self.room.place(cell, {}), *sides)

    def _node(self, node: Run | Move) -> int | None:
        if not happens(node):
            return None
        self.nodes.append(node)
        return len(self.nodes) - 1
