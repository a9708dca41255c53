"""Which checkpointed segments the values of a trace lie in, and marks where they cross a border.

Within ``vtc.checkpoint(block, x)`` every value read from outside, parameters included, is read
through a mark; so is, outside, what was made within. The pass ``differentiate`` reads the marks::

    x1: f32[B, 64] = checkpoint(x, segment=0, inward=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from vtc.ir.graph import Node
from vtc.ir.ops.control import Checkpoint, Gradient, Item

Path = tuple[int, ...]
Mark = Callable[[Checkpoint, Node], Node]


@final
@dataclass(eq=False)
class Borders:
    """``path`` says where the trace is: the segments around it, the outermost first."""

    path: Path = ()
    count: int = 0
    _home: dict[Node, Path] = field(default_factory=dict)
    _crossed: dict[tuple[Node, Checkpoint], Node] = field(default_factory=dict)

    @contextmanager
    def segment(self) -> Iterator[None]:
        """What is recorded inside lies in a new segment."""
        before, self.path = self.path, (*self.path, self.count)
        self.count += 1
        try:
            yield
        finally:
            self.path = before

    def place(self, node: Node) -> None:
        """``node`` was recorded here; gradients, and projections, lie where their operands do."""
        if not self.count:
            return
        home = self.path
        if isinstance(node.op, Item):
            home = self._home.get(node.inputs[0], ())
        if home and not isinstance(node.op, Gradient):
            self._home[node] = home

    def across(self, node: Node, mark: Mark) -> Node:
        """``node`` as it is read here; ``mark`` records the marks on the way."""
        home = self._home.get(node, ())
        if home == self.path or (node.op is not None and not node.inputs):
            return node
        common = 0
        while home[common : common + 1] == self.path[common : common + 1] != ():
            common += 1
        for segment in reversed(home[common:]):
            node = self._cross(node, Checkpoint(segment=segment, inward=False), mark)
        for segment in self.path[common:]:
            node = self._cross(node, Checkpoint(segment=segment, inward=True), mark)
        return node

    def _cross(self, node: Node, op: Checkpoint, mark: Mark) -> Node:
        if (node, op) not in self._crossed:
            self._crossed[node, op] = mark(op, node)
        return self._crossed[node, op]
