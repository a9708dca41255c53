"""The steps of a plan at given sizes: what runs where, after what, on which memory.

Memory is named by slots: the inputs, the outputs, then the arena. An output that overwrites an
input has that input's slot. Behind what the plan keeps in the arena lie, each 16-byte aligned, the
scratch memory of kernels, a cell for each 0-d input (a number given with a call) and the tables of
kernels that take their pointers from one::

    layout = lay_out(fit, (64,), binaries)
    layout.nodes[1]       # Run(kernel=..., grid=(8, 1, 1), places=(Place(0), Place(3, 256)), ...)
    layout.nodes[1].after # (0,): it reads what node 0 writes

Steps without bytes or blocks are left out. What waits for what, the plan says. What becomes of
loops and branches, :mod:`vtc.runtime.cuda.nodes` says; what is in them runs one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast, final

from vtc.ir.plan import Binary, Kernel, Launch, Plan, flat
from vtc.runtime.cuda.interface import Grid
from vtc.runtime.fit import Fit

ALIGNMENT = 16
"""Of every pointer that a kernel gets."""
POINTER = 8


@final
@dataclass(frozen=True, slots=True)
class Place:
    """The memory ``add`` bytes after the address in a slot. ``moves``: loops by number, each with
    the bytes that it is further at each turn.
    """

    slot: int
    add: int = 0
    moves: tuple[tuple[int, int], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Run:
    """A launch. ``table`` is where its pointers lie in the tables, if it takes them from there;
    ``cell`` the number of its error cell; ``scratch`` its memory for what each block needs. One
    that sets a ``handle`` has it in place of the first of its sizes. ``graph`` is the number of the
    graph that it is a node of: 0, or the body of a fork.
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
    handle: int | None = None
    graph: int = 0


@final
@dataclass(frozen=True, slots=True)
class Move:
    """A copy."""

    step: int
    target: Place
    source: Place
    nbytes: int
    after: tuple[int, ...] = ()
    graph: int = 0


@final
@dataclass(frozen=True, slots=True)
class Fork:
    """A conditional node: it runs the graph ``body`` if its ``handle`` is set, or as long as it is,
    for a ``loop``.
    """

    step: int
    handle: int
    body: int
    loop: bool
    after: tuple[int, ...] = ()
    graph: int = 0


Node = Run | Move | Fork


@final
@dataclass(frozen=True, slots=True)
class HostLoop:
    """A loop of the host: its ``order`` of turns; or ``test``, and then a turn as long as the byte
    at ``cell`` is not 0.
    """

    number: int
    body: tuple[Item, ...]
    order: range = range(0)
    test: tuple[Item, ...] = ()
    cell: Place | None = None


@final
@dataclass(frozen=True, slots=True)
class HostBranch:
    """A branch of the host: ``then`` if the byte at ``cell`` is not 0."""

    cell: Place
    then: tuple[Item, ...]
    otherwise: tuple[Item, ...]


Item = int | HostLoop | HostBranch
"""What the host does when it launches one by one: a node by its number, or more of these."""


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """See the module. ``numbers`` and ``tables`` are where these begin in the arena. With ``items``
    the host launches these one by one; nodes then wait for nothing.
    """

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
    items: tuple[Item, ...] | None = None

    @property
    def forks(self) -> bool:
        """Whether it has loops or branches that only a graph can run."""
        return any(isinstance(n, Fork) for n in self.nodes)


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


def grid_of(shape: Sequence[int]) -> Grid:
    """A grid of three axes."""
    return cast("Grid", (*shape, 1, 1, 1)[:3])


def blocks(grid: Grid) -> int:
    """The blocks of a grid."""
    x, y, z = grid
    return x * y * z


def happens(node: Node) -> bool:
    """Whether there is anything to do."""
    if isinstance(node, Fork):
        return True
    return node.nbytes > 0 if isinstance(node, Move) else blocks(node.grid) > 0


def rounded(n: int, to: int = ALIGNMENT) -> int:
    """The next multiple."""
    return -(-n // to) * to


def ordered(plan: Plan, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The ``nodes`` that happen, with the numbers of those that each runs after.

    What waits for a step that does not happen waits for what that would have waited for. In the
    body of a loop or a branch each waits for the one before.
    """
    found: list[Node] = []
    last: dict[int, int] = {}  # of each body, its last node
    ends: list[tuple[int, ...]] = []  # of each step, the nodes after which it is done
    waiting = deque(nodes)
    for step in range(len(plan.steps)):
        before = plan.after[step] if plan.after else range(step)[-1:]
        after = tuple(dict.fromkeys(k for j in before for k in ends[j]))
        while waiting and waiting[0].step == step:
            node = waiting.popleft()
            if not happens(node):
                continue
            inside = (last[node.graph],) if node.graph in last else ()
            found.append(replace(node, after=inside if node.graph else after))
            if node.graph:
                last[node.graph] = len(found) - 1
            else:
                after = (len(found) - 1,)
        ends.append(after)
    return tuple(found)
