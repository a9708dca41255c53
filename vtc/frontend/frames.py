"""Bodies of loops and branches while a function is traced: each is recorded as a graph of its own.

What a body reads from outside becomes an operand of the op that runs it. A body changes nothing
outside but the states of generators, which the loop or the branch carries on::

    with inside(capture, "scan") as frame:
        out = f(carry, x)
    graph = frame.graph(...)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from vtc.errors import CaptureError, VersionError
from vtc.frontend.borders import Borders
from vtc.frontend.inputs import Cell
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.graph import Graph, Names, Node

NO_DRAWS = (
    "while_loop: expected a condition that draws no random numbers, got one that does; draw them "
    "in the step and carry them"
)


@final
@dataclass(eq=False)
class Frame:
    """A body being traced for ``vtc.<name>``. ``states``: of each generator that it draws from, the
    state that it began with.
    """

    name: str
    nodes: list[Node] = field(default_factory=list)
    params: list[Node] = field(default_factory=list)
    states: dict[Cell, Node] = field(default_factory=dict)

    def live(self, outputs: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        """The nodes that ``outputs`` need, and what these read from outside; constants from outside
        are made again.
        """
        own, needed = set(self.nodes), set(outputs)
        kept: list[Node] = []
        for n in reversed(self.nodes):
            if n in needed:
                kept.append(n)
                needed.update(n.inputs)
        kept.reverse()
        there = own.union(self.params)
        order = dict.fromkeys([i for n in kept for i in n.inputs] + list(outputs))
        read = [n for n in order if n not in there]
        constant = [n for n in read if n.op is not None and not n.inputs]
        return [*constant, *kept], [n for n in read if n not in constant]


@final
@dataclass(eq=False)
class Frames:
    """The bodies that a trace is in, the outermost first, and the graphs of those that ended."""

    stack: list[Frame] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    ended: dict[Node, str] = field(default_factory=dict)
    """Values of bodies that ended, and of what."""
    born: dict[int, Frame | None] = field(default_factory=dict)

    @property
    def current(self) -> Frame | None:
        """The innermost body."""
        return self.stack[-1] if self.stack else None

    def refuse_ended(self, node: Node) -> None:
        """CaptureError if ``node`` is a value of a body that ended."""
        if node in self.ended:
            raise located(
                CaptureError,
                f"{self.ended[node]}: a value that a function made inside, {node.type}, is used "
                "outside; return it from the function",
            )

    def writing(self, x: Tensor, cell: Cell) -> None:
        """The root ``x`` is about to be written. CaptureError if the body did not make it."""
        frame = self.current
        if frame is None or cell.frame is frame:
            return
        if not is_state(x):
            raise located(CaptureError, wrong_write(frame.name, cell.node.type))
        frame.states.setdefault(cell, cell.node)

    def refuse_backward(self) -> None:
        """CaptureError within a body: ``.grad`` is outside."""
        if self.current is not None:
            raise located(
                CaptureError,
                f"{self.current.name}: backward() inside a function writes .grad, which is "
                "outside; use vtc.grad there, or call backward() on what it returns",
            )

    def add(self, name: str, graph: Graph) -> str:
        """Keep ``graph``, called ``name`` or so; its name."""
        found = self.names.fresh(name if name.isidentifier() else "body")
        self.graphs.append(Graph(found, graph.params, graph.nodes, graph.outputs))
        return found


@contextmanager
def inside(capture: Any, name: str) -> Iterator[Frame]:
    """What is traced meanwhile is a body of ``vtc.<name>``. Afterwards generators have the states
    that they had.
    """
    frames: Frames = capture.frames
    frame = Frame(name)
    nodes, capture.builder.nodes = capture.builder.nodes, frame.nodes
    borders, capture.borders = capture.borders, Borders()
    frames.stack.append(frame)
    try:
        yield frame
    finally:
        frames.stack.pop()
        capture.builder.nodes, capture.borders = nodes, borders
        frames.ended.update(dict.fromkeys([*frame.nodes, *frame.params], name))
        capture.stops = {k: v for k, v in capture.stops.items() if v not in frames.ended}
        for cell, node in frame.states.items():
            cell.node = node
            cell.version += 1


def is_state(x: Tensor) -> bool:
    """Whether ``x`` is the state of a generator."""
    return x._storage is not None and x._storage.born == -1


def wrong_write(name: str, type: object) -> str:
    """What to say when a body writes ``type``, which is outside."""
    way = "carry it and return its new value" if name != "cond" else "return its new value"
    return (
        f"{name}: a function writes a tensor in place that it did not make, {type}; {way}, or "
        "write to a clone()"
    )


def reachable(
    node: Node,
    hot: Collection[Node],
    leaves: Mapping[Node, Tensor],
    current: Mapping[int, Node],
) -> tuple[list[tuple[Node, Tensor]], set[Node]]:
    """The ``leaves`` below ``node``, in the order they came, and every ``hot`` node between.

    VersionError unless these are the ``current`` versions of the leaves.
    """
    seen, queue, found = {node}, [node], []
    while queue:
        n = queue.pop()
        if n in leaves:
            found.append(n)
            continue
        for i in n.inputs:
            if i in hot and i not in seen:
                seen.add(i)
                queue.append(i)
    for n in found:
        if current[id(leaves[n])] is not n:
            raise located(
                VersionError,
                f"a value needed for the gradient was changed in place: {n.name}: "
                f"{n.type} was written after it was used",
            )
    order = {n: i for i, n in enumerate(leaves)}
    below = seen - set(found)
    return [(n, leaves[n]) for n in sorted(found, key=order.__getitem__)], below


def free(found: Sequence[Sequence[Node]]) -> list[Node]:
    """What several bodies read from outside, each once."""
    return list(dict.fromkeys(n for nodes in found for n in nodes))
