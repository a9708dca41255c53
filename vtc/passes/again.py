"""What gradients read of a checkpointed segment: copies of it, computed when they are needed.

    x1: f32[4] = checkpoint(x, segment=0, inward=True)
    h: f32[4] = exp(x1)                                h: f32[4] = exp(x)
    y: f32[4] = sin(h)                                 y: f32[4] = sin(h)
    y1: f32[4] = checkpoint(y, segment=0, inward=False)   x1: f32[4] = after(x, d_y)
    g: (f32[4],) = gradient(y1, d_y, x, ...)     ==>   h_1: f32[4] = exp(x1)
                                                       ...

A value lies in a segment if it depends on what was marked ``inward``; segments nest. Who reads a
value from its own segment reads the copy; who reads it from outside reads the value itself. A copy
of a segment begins once the first cotangent that reaches the segment is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.ops.control import After, Checkpoint, Gradient
from vtc.ir.types import TensorType

Path = tuple[int, ...]
"""The segments a value lies in, the outermost first."""


@final
@dataclass(slots=True)
class Segments:
    """Where the values of a graph lie. ``paths`` is about nodes as recorded, marks included;
    ``inside`` about what stands for them without marks.
    """

    paths: dict[Node, Path] = field(default_factory=dict)
    inside: dict[Node, Path] = field(default_factory=dict)
    constant: set[Node] = field(default_factory=set)

    def cross(self, node: Node, mark: Checkpoint) -> None:
        """``node`` is the mark of a value."""
        path = self.paths.get(node.inputs[0], ())
        if mark.inward:
            self.paths[node] = (*path, mark.segment)
        else:
            self.paths[node] = tuple(p for p in path if p != mark.segment)

    def place(self, node: Node, kept: Node) -> None:
        """``kept`` stands for ``node`` from now on."""
        if isinstance(node.op, Gradient):
            return
        if all(i in self.constant for i in kept.inputs):
            self.constant.add(kept)
        path = max((self.paths.get(i, ()) for i in node.inputs), key=len, default=())
        if path:
            self.paths[node] = self.inside[kept] = path


@final
@dataclass(slots=True)
class Again:
    """The values that one reverse sweep reads. ``enter`` says where it is."""

    segments: Segments
    builder: GraphBuilder
    hints: dict[Node, str]
    path: Path = ()
    _since: dict[int, Node] = field(default_factory=dict)
    _copies: dict[tuple[Node, Path], Node] = field(default_factory=dict)

    def enter(self, node: Node, cotangent: Node) -> None:
        """From now on the gradient of ``node`` is built; ``cotangent`` is its own."""
        self.path = self.segments.inside.get(node, ())
        for segment in self.path:
            self._since.setdefault(segment, cotangent)

    def value(self, node: Node) -> Node:
        """What stands for ``node`` where the sweep is."""
        stack = [(node, self.path)]
        while stack:
            n, path = stack[-1]
            if not path or (n, path) in self._copies:
                stack.pop()
                continue
            needed = self._reads(n, path)
            waiting = [r for r in needed if r[1] and r not in self._copies]
            if waiting:
                stack.extend(waiting)
            else:
                self._copies[stack.pop()] = self._copy(n, path)
        return self._seen(node, self.path)

    def _reads(self, node: Node, path: Path) -> list[tuple[Node, Path]]:
        if self._within(node, path):
            return [(i, path) for i in node.inputs]
        return [(node, path[:-1])]

    def _copy(self, node: Node, path: Path) -> Node:
        """``node`` seen from ``path``; what it reads is seen already."""
        if self._within(node, path):
            copy = self.builder.copy(node, [self._seen(i, path) for i in node.inputs])
            self.hints[copy] = node.name
            return copy
        outer = self._seen(node, path[:-1])
        if node in self.segments.constant or not isinstance(outer.type, TensorType):
            return outer
        held = self.builder.apply(After(), outer, self._since[path[-1]], loc=node.loc)
        self.hints[held] = node.name
        return held

    def _within(self, node: Node, path: Path) -> bool:
        return path[-1] in self.segments.inside.get(node, ())

    def _seen(self, node: Node, path: Path) -> Node:
        return self._copies[node, path] if path else node
