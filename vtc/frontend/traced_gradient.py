"""Gradients in a trace: markers in its program, and the hooks that run between them.

    loss.backward()                            # g = gradient(loss, w, b)

Without hooks one marker says all. With them there is one for each stretch between values that are
watched, and it ends there (``cut``); hooks are plain code on the values of the trace, called in
the order that an eager backward would call them in::

    h.register_hook(lambda g: g * 2)           # g = gradient(loss, h, cut=True)
    loss.backward()                            # d_h = item(g, index=0) * 2
                                               # k = gradient(h, d_h, w, b, seeded=True, cut=True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from vtc.errors import GradientError
from vtc.frontend import dispatch, hooks
from vtc.frontend.hooks import Group
from vtc.frontend.inputs import place
from vtc.frontend.source import located
from vtc.frontend.sweep import seed_of
from vtc.ir.graph import Node
from vtc.ir.ops.control import Gradient, Item
from vtc.ir.ops.elementwise import Add
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from vtc.frontend.capture import Capture
    from vtc.frontend.tensor import Tensor

Leaf = Callable[[Node, "Tensor"], "Tensor"]
"""What is done with the gradient of a leaf; it gives what its hooks leave of it."""
Moment = tuple[float, int, int]
"""When something happens in a sweep: later in the program comes first."""


def backward(
    capture: Capture,
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor | None],
    inputs: Sequence[Tensor] | None,
    *,
    consume: bool,
    create_graph: bool,
) -> None:
    """Add the gradients of ``roots`` to ``.grad`` of the leaves below them, or of ``inputs``."""
    for x in inputs or ():
        if not x.is_leaf:
            hooks.retain(x)
    leaves: dict[Node, Tensor] = {}
    for x in roots:
        leaves.update(_entered(capture, x, consume=consume))
    if inputs is not None:
        leaves = {capture.node(x): x for x in inputs}
    mode = dispatch.grad_enabled()

    def at_leaf(node: Node, g: Tensor) -> Tensor:
        x = leaves[node]
        before, after = hooks.hooks_of(x)
        g = hooks.through(before, g)
        with dispatch.set_grad_enabled(mode):
            _add(capture, x, g, create_graph=create_graph)
        hooks.call_after(after, x)
        return g

    sweep = TracedSweep(
        capture, list(leaves), create_graph=create_graph, at_leaf=at_leaf, device=place(roots[0])
    )
    sweep.run([capture.node(x) for x in roots], _seeds(capture, roots, seeds))


def gradients(
    capture: Capture,
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor | None],
    wrt: Sequence[Tensor],
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    """The gradients of ``roots`` with respect to ``wrt``, None where there is none."""
    for x in roots:
        if not capture.requires(x):
            message = f"{x.type} does not depend on anything that requires grad"
            raise located(GradientError, f"grad: {message}")
    asked = {capture.node(x): x for x in wrt}

    def at_leaf(node: Node, g: Tensor) -> Tensor:
        return hooks.through(hooks.hooks_of(asked[node])[0], g)

    sweep = TracedSweep(
        capture, list(asked), create_graph=create_graph, at_leaf=at_leaf, device=place(roots[0])
    )
    found = sweep.run([capture.node(x) for x in roots], _seeds(capture, roots, seeds))
    return [found.get(node) for node in map(capture.node, wrt)]


def from_outside(
    capture: Capture, roots: Sequence[Node], tangents: Sequence[Node], wrt: Sequence[Node]
) -> list[Node]:
    """The gradients of results with respect to leaves, whose hooks run when the user asks."""
    sweep = TracedSweep(capture, wrt, create_graph=False, at_leaf=None)
    with dispatch.no_grad():
        found = sweep.run(roots, tangents)
    return [capture.node(found[w]) for w in wrt]


def _entered(capture: Capture, x: Tensor, *, consume: bool) -> list[tuple[Node, Tensor]]:
    """The leaves below the root ``x``, through which no other backward may go."""
    node = capture.node(x)
    if not capture.requires(x):
        raise located(
            GradientError, f"backward: {x.type} does not depend on anything that requires grad"
        )
    if node in capture.consumed:
        raise located(
            GradientError,
            "backward a second time through the same graph; pass retain_graph=True "
            "to the first backward",
        )
    leaves, below = capture.reachable(node)
    if consume:
        capture.consumed |= below
    return leaves


def _seeds(
    capture: Capture, roots: Sequence[Tensor], seeds: Sequence[Tensor | None]
) -> list[Node | None]:
    """The nodes of ``seeds``, None for 1 of a scalar."""
    return [
        None if seed is None and x.type.shape == () else capture.node(seed_of(x, seed))
        for x, seed in zip(roots, seeds, strict=True)
    ]


def _add(capture: Capture, x: Tensor, g: Tensor, *, create_graph: bool) -> None:
    """Add ``g`` to ``.grad``."""
    old = capture.get_grad(x)
    if old is None or create_graph or capture.requires(old):
        capture.set_grad(x, g if old is None else old + g)
        return
    with dispatch.no_grad():
        capture.write(old, old + g)


@final
class TracedSweep:
    """The gradients with respect to ``wrt``; ``at_leaf`` is called with those of leaves."""

    def __init__(
        self,
        capture: Capture,
        wrt: Sequence[Node],
        *,
        create_graph: bool,
        at_leaf: Leaf | None,
        device: Device | None = None,
    ) -> None:
        self.capture, self.wrt = capture, wrt
        self.create_graph, self.at_leaf, self.device = create_graph, at_leaf, device
        self.retained = capture.watched.retained(capture)
        self.active: set[Node] = set()
        self.cut: set[Node] = set()
        self.total: dict[Node, Node] = {}
        self.found: dict[Node, Tensor] = {}

    def run(self, roots: Sequence[Node], seeds: Sequence[Node | None]) -> dict[Node, Tensor]:
        """The gradients by node, absent where there is none; ``seeds`` are those of ``roots``."""
        between = _between(roots, self.wrt, self.capture)
        self.active = set(between)
        points = self.capture.watched.points
        watched = [n for n in between if n in points or n in self.retained]
        if not watched and not any(self._has_hooks(w) for w in self.wrt):
            return self._at_once(roots, seeds)
        self.cut = {*watched, *(w for w in self.wrt if w in self.active)}
        with dispatch.set_grad_enabled(self.create_graph):
            self._start(roots, seeds)
            for step in self._steps(between):
                self._at_values(step) if step.values else self._at_leaf(step.node)
        return self.found

    def _has_hooks(self, w: Node) -> bool:
        leaf = self.capture.leaves.get(w)
        return self.at_leaf is not None and leaf is not None and any(hooks.hooks_of(leaf))

    # markers

    def _at_once(self, roots: Sequence[Node], seeds: Sequence[Node | None]) -> dict[Node, Tensor]:
        items = self._marker(roots, seeds, self.wrt, cut=False)
        for w, g in [(w, self._tensor(w, i)) for w, i in zip(self.wrt, items, strict=True)]:
            if w in self.active or w not in self.capture.hot:
                self.found[w] = g if self.at_leaf is None else self.at_leaf(w, g)
        return self.found

    def _marker(
        self, roots: Sequence[Node], seeds: Sequence[Node | None], wrt: Sequence[Node], *, cut: bool
    ) -> list[Node]:
        """The cotangents of ``wrt``: items of a new marker."""
        seeded = any(s is not None for s in seeds)
        given: list[Node] = []
        if seeded:
            given = [self._one(r) if s is None else s for r, s in zip(roots, seeds, strict=True)]
        op = Gradient(seeded=seeded, roots=len(roots), cut=cut)
        marker = self.capture.apply(op, *roots, *given, *wrt)
        return [self.capture.apply(Item(i), marker, hint=f"d_{w.name}") for i, w in enumerate(wrt)]

    def _one(self, root: Node) -> Node:
        one = dispatch.constant(1.0, root.tensor.dtype, device=self.device)
        return self.capture.node(one)

    def _tensor(self, of: Node, g: Node) -> Tensor:
        leaf = self.capture.leaves.get(of)
        device = self.device if leaf is None else place(leaf)
        return self.capture.tensor(g, requires=self.create_graph, device=device)

    # from one value that is watched to the next

    def _start(self, roots: Sequence[Node], seeds: Sequence[Node | None]) -> None:
        plain = [k for k, r in enumerate(roots) if r not in self.cut]
        self._flow([roots[k] for k in plain], [seeds[k] for k in plain])
        for root, seed in zip(roots, seeds, strict=True):
            if root in self.cut:
                self._add(root, self._one(root) if seed is None else seed)

    def _flow(self, roots: Sequence[Node], seeds: Sequence[Node | None]) -> None:
        """Add what flows from ``roots`` to the next values that are watched, or asked for."""
        wrt = [n for n in _until(roots, self.active, self.cut) if n not in roots]
        if wrt:
            for n, item in zip(wrt, self._marker(roots, seeds, wrt, cut=True), strict=True):
                self._add(n, item)

    def _add(self, n: Node, g: Node) -> None:
        self.total[n] = self.capture.apply(Add(), self.total[n], g) if n in self.total else g

    def _at_values(self, step: _Step) -> None:
        """The gradients of ``step.values`` are complete."""
        grads = {n: self._hooked(n) for n in step.values if n in self.total}
        if step.group is not None:
            for m in filter(None, step.group.members):
                self.capture.watched.points[m].reached = True
            members = step.group.members
            given = [grads.get(m) for m in members]
            for m, g in zip(members, step.group.call(given), strict=True):
                if g is not None:
                    grads[m] = g
                else:
                    grads.pop(m, None)
        on = [n for n in step.values if n in grads and self._goes_on(n)]
        self._flow(on, [self.capture.node(grads[n]) for n in on])

    def _hooked(self, n: Node) -> Tensor:
        """The gradient of ``n`` after its hooks."""
        g = self._tensor(n, self.total[n])
        if n in self.wrt and self._goes_on(n):
            self.found[n] = g  # as PyTorch: hooks come first only where the way ends
        if (point := self.capture.watched.points.get(n)) is not None:
            point.reached = True
            g = hooks.through(point.hooks, g)
        for x in self.retained.get(n, ()):
            old = self.capture.get_grad(x)
            self.capture.set_grad(x, g if old is None else old + g)
        if n in self.wrt:
            self.found.setdefault(n, g)
        return g

    def _goes_on(self, n: Node) -> bool:
        return any(i in self.active for i in n.inputs)

    def _at_leaf(self, n: Node) -> None:
        if n in self.total:
            g = self._tensor(n, self.total[n])
            self.found[n] = g if self.at_leaf is None else self.at_leaf(n, g)

    def _steps(self, between: Sequence[Node]) -> list[_Step]:
        """Who is complete when, as in an eager sweep: values in the reverse of the order that they
        came in; a leaf once all that read it are done.
        """
        order = {n: i for i, n in enumerate(self.capture.builder.nodes)}
        found: list[tuple[Moment, _Step]] = []
        groups: set[Group] = set()
        for n in between:
            if n not in self.cut or n in self.capture.leaves:
                continue
            point = self.capture.watched.points.get(n)
            group = None if point is None else point.group
            if group in groups:
                continue
            values = (n,)
            if group is not None:
                groups.add(group)
                values = tuple([m for m in group.members if m in self.active])
            last = max(order.get(v, -1) for v in values)
            found.append(((last, 1, 0), _Step(n, values, group)))
        first = _first_reads(between, order)
        for w in self.wrt:
            if w in self.active and w in self.capture.leaves:
                found.append((first.get(w, (math.inf, 0, 0)), _Step(w)))
        return [step for _, step in sorted(found, key=lambda pair: pair[0], reverse=True)]


@final
@dataclass(frozen=True, slots=True)
class _Step:
    """Values whose gradients are handed on together; none where ``node`` is a leaf."""

    node: Node
    values: tuple[Node, ...] = ()
    group: Group | None = None


def _first_reads(between: Sequence[Node], order: Mapping[Node, int]) -> dict[Node, Moment]:
    """When the gradients of values are complete: after the first that reads them."""
    found: dict[Node, Moment] = {}
    for n in sorted(between, key=lambda n: order.get(n, -1)):
        for k, i in enumerate(n.inputs):
            found.setdefault(i, (order.get(n, -1), 0, -k))
    return found


def _between(roots: Sequence[Node], wrt: Sequence[Node], capture: Capture) -> list[Node]:
    """The nodes on the ways from ``roots`` down to ``wrt``, these last, operands first."""
    ends, seen = set(wrt), set[Node]()
    found: dict[Node, None] = {}
    stack = [(r, False) for r in roots]
    while stack:
        n, done = stack.pop()
        inputs = () if n in capture.leaves else n.inputs
        if done:
            if n in ends or any(i in found for i in inputs):
                found[n] = None
        elif n not in seen:
            seen.add(n)
            stack.append((n, True))
            stack += [(i, False) for i in inputs if i in capture.hot and i not in seen]
    return list(found)


def _until(roots: Sequence[Node], active: Collection[Node], cut: Collection[Node]) -> list[Node]:
    """Those of ``cut`` that gradients of ``roots`` reach first.

    What another marker stands for may read anything below it.
    """
    found: dict[Node, None] = {}
    queue = [(r, False) for r in roots]
    seen = set(queue)
    while queue:
        n, anything = queue.pop()
        anything = anything or isinstance(n.op, Gradient)
        for i in n.inputs:
            if i not in active or (i, anything) in seen:
                continue
            seen.add((i, anything))
            if i in cut:
                found[i] = None
            if anything or i not in cut:
                queue.append((i, anything))
    return list(found)
