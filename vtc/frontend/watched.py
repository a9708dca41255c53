"""What happens in a trace to gradients on their way: hooks, by the values that they watch.

Hooks on traced values belong to the trace and end with it. A leaf keeps its hooks itself, and they
are guarded; those of tensors from outside have to be the same after the trace as before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from vtc.errors import CaptureError, GradientError
from vtc.frontend import hooks
from vtc.frontend.hooks import Gradients, Group, Hooks, Point
from vtc.frontend.source import located
from vtc.ir.graph import Node
from vtc.ir.ops.view import Reshape

if TYPE_CHECKING:
    from vtc.frontend.capture import Capture
    from vtc.frontend.tensor import Tensor


@final
@dataclass(eq=False)
class Watched:
    """``points``: the hooks of values; ``retaining``: values that get a ``.grad``; ``found``: the
    hooks that leaves from outside had when the trace first asked for them.
    """

    points: dict[Node, Point] = field(default_factory=dict)
    retaining: list[Tensor] = field(default_factory=list)
    found: list[tuple[Tensor, tuple[Hooks, Hooks]]] = field(default_factory=list)

    def owner(self, capture: Capture, x: Tensor) -> tuple[object, str]:
        """Who keeps the hooks on the gradient of ``x``, and under what name."""
        node = self._own_node(capture, x)
        if node not in capture.leaves:
            return self.point(capture, node), "hooks"
        leaf = capture.leaves[node]
        outside = leaf._storage is not None and id(leaf) not in capture.born_here
        if outside and all(leaf is not known for known, _ in self.found):
            self.found.append((leaf, hooks.hooks_of(leaf)))
        return hooks.of(leaf), "before"

    def _own_node(self, capture: Capture, x: Tensor) -> Node:
        """The node of ``x``, made anew where another value was written into ``x`` whole."""
        node, cell = capture.node(x), capture.cell(x)
        if cell is None or node in capture.leaves:
            return node
        others = [t._cell for t in capture.made if t._cell is not None and t._cell is not cell]
        if any(c.node is node for c in others):
            cell.node = capture.apply(Reshape(node.tensor.shape), node)
            cell.version += 1
        return cell.node

    def point(self, capture: Capture, node: Node) -> Point:
        """What happens to the gradient of ``node``. CaptureError in a body: it is swept outside."""
        if (frame := capture.frames.current) is not None:
            raise located(
                CaptureError,
                f"{frame.name}: a hook on a gradient inside a function is never called, since the "
                "gradient is taken of all steps at once; register it on what goes in or comes out",
            )
        return self.points.setdefault(node, Point())

    def join(
        self, capture: Capture, xs: Sequence[Tensor], call: Callable[[Gradients], Gradients]
    ) -> None:
        """Hand the gradients of ``xs`` to ``call`` together."""
        nodes = [capture.node(x) if capture.requires(x) else None for x in xs]
        group = Group(tuple(nodes), call)
        for node in nodes:
            if node is not None:
                self.point(capture, node).group = group

    def retain(self, capture: Capture, x: Tensor) -> None:
        """Give ``x`` its ``.grad`` when a gradient comes by."""
        self.point(capture, capture.node(x))
        self.retaining.append(x)
        capture.kept.append(x)

    def written(self, capture: Capture, x: Tensor, node: Node) -> Node:
        """What ``x`` is after ``node`` was written into it: where it has a ``.grad`` of its own, a
        value of its own, as gradients of another may come to ``node``.
        """
        if all(x is not known for known in self.retaining):
            return node
        return capture.apply(Reshape(node.tensor.shape), node)

    def retained(self, capture: Capture) -> dict[Node, list[Tensor]]:
        """Who gets a ``.grad`` from which value, as things are now."""
        found: dict[Node, list[Tensor]] = {}
        for x in self.retaining:
            found.setdefault(capture.node(x), []).append(x)
        return found

    def refuse_unreached(self) -> None:
        """GradientError if there are hooks that no gradient came by: it is taken outside."""
        if any(not p.reached for p in self.points.values()):
            raise located(
                GradientError,
                "a hook on a gradient, retain_grad() or an autograd.Function, inside a function "
                "that vtc.func transforms: expected the gradient to be taken inside, too, by "
                "vtc.func.grad; register hooks on what goes in or comes out, or run it under "
                "vtc.no_grad()",
            )

    def end(self) -> None:
        """Forget all. CaptureError if a tensor from outside has other hooks now than before."""
        for x, before in self.found:
            if hooks.hooks_of(x) != before:
                raise located(
                    CaptureError,
                    f"a compiled function registers a hook on {x.type}, which is from outside, and "
                    "leaves it there; register it once, outside, or remove() it before it returns",
                )
        self.points.clear()
        self.retaining.clear()
        self.found.clear()
