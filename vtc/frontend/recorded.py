"""A function as a graph: what ``vmap``, ``vjp`` and ``jvp`` transform, and running it on tensors.

The function runs once on stand-ins for its arguments. Tensors it meets otherwise, concrete or of a
trace around it, become further params; gradients it takes are spelled out. Running the graph
applies its ops to tensors, so it is eager, traced or recorded again, and differentiable, as the
caller is::

    recorded = record(fn, [Slot(x.type, requires=False, device=x.device)])
    values = recorded.run([x])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from vtc.errors import CaptureError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.applied import Applier
from vtc.frontend.autograd import ENGINE
from vtc.frontend.capture import Capture
from vtc.frontend.changed import Changed
from vtc.frontend.dispatch import state
from vtc.frontend.inputs import Cell, GradSlot, Input, Source, place
from vtc.frontend.leaks import let_go, refuse_leaks
from vtc.frontend.sizes import Sizes
from vtc.frontend.source import located, user_loc
from vtc.frontend.tape import Saved as Kept
from vtc.frontend.tape import restore, running
from vtc.frontend.tensor import CPU, Tensor
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.graph import Graph, Node, Program
from vtc.ir.ops.control import Library
from vtc.ir.types import DType, TensorType, f32, f64
from vtc.passes.dce import trimmed
from vtc.passes.differentiate import differentiate
from vtc.passes.pipeline import Context
from vtc.runtime.device import Device


@final
class Recording(Capture):
    """The trace of a function inside ``outer``, another one, or inside eager code."""

    def __init__(self, outer: Capture | None) -> None:
        super().__init__(
            sizes=Sizes() if outer is None else outer.sizes,
            changed=Changed() if outer is None else outer.changed,
        )
        self.outer = outer
        self.own: set[int] = set()
        self.outside: dict[int, Cell] = {}

    def note(self, x: Tensor) -> None:
        """The trace made ``x``."""
        super().note(x)
        self.own.add(id(x))

    def cell(self, x: Tensor) -> Cell | None:
        """The cell of ``x``; None for a view that was made here."""
        if x._storage is None and id(x) in self.own:
            found: Cell | None = x._cell
            return found
        return self.outside[id(x)] if id(x) in self.outside else self.meet(x)

    def type_of_tensor(self, x: Tensor) -> TensorType:
        """The type of ``x``; from outside it has the sizes that vary in the trace there."""
        if x._array is None or self.outer is None:
            return super().type_of_tensor(x)
        with _around(self.outer):
            return x.type

    def meet(self, x: Tensor) -> Cell:
        """Make ``x``, which is from outside, a parameter."""
        with _around(self.outer):
            type, requires = x.type, x.requires_grad
        node = self.builder.param(x._kind or "captured", type, user_loc())
        cell = Cell(node, requires, node, x)
        if requires:
            self.mark_leaf(node, x)
        self.outside[id(x)] = cell
        self.inputs.append(Input(node, Source("tensor", tensor=x), cell))
        self.kept.append(x)
        return cell

    def stand_in(self, slot: Slot) -> Tensor:
        """A tensor for the argument of ``slot``."""
        node = self.builder.param("x", slot.type, user_loc())
        x = self.tensor(node, requires=slot.requires, device=slot.device)
        if x._cell.requires:
            self.mark_leaf(node, x)
        self.kept.append(x)
        return x

    def end(self) -> None:
        """The trace is over; that around it, if there is one, goes on."""
        let_go(self)
        if self.outer is None:
            self.changed.restore()
            self.sizes.ended = True

    def device_of(self, x: Tensor) -> Device:
        """Where ``x`` is, or will be."""
        found = place(x)
        if found is None and self.outer is not None:
            return self.outer.device_of(x)
        places = [found, *(place(t) for t in self.kept)]
        return next((d for d in places if d is not None and d is not CPU), CPU)

    def born(self, x: Tensor) -> None:
        """A concrete tensor made meanwhile."""
        super().born(x)
        if self.outer is not None:
            self.outer.born(x)

    def number(self, name: str, source: Source, dtype: DType = f64) -> Tensor:
        """A number from outside, as the trace around this one has it."""
        if self.outer is not None:
            return self.outer.number(name, source, dtype)
        value = source.read() if source.read is not None else 0.0
        return dispatch.constant(value, f32)

    def backward(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        *,
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """GradientError: ``.grad`` of what would it be?"""
        raise _no_backward()

    def slot(self, x: Tensor) -> GradSlot:
        """GradientError, as for ``backward``."""
        raise _no_backward()


def _no_backward() -> GradientError:
    return located(
        GradientError,
        "backward() and .grad: expected none inside a function that vtc.func transforms; use "
        "vtc.func.grad there",
    )


@contextmanager
def _around(capture: Capture | None) -> Iterator[None]:
    """Outside of the trace that runs: in ``capture``."""
    before, state.capture = state.capture, capture
    try:
        yield
    finally:
        state.capture = before


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """An argument that is a tensor. ``device`` None: wherever it is needed."""

    type: TensorType
    requires: bool
    device: Device | None

    @classmethod
    def like(cls, x: Tensor, *, requires: bool | None = None) -> Slot:
        """For ``x``; ``requires`` whether gradients flow to it, if that is to be otherwise."""
        return cls(x.type, x.requires_grad if requires is None else requires, place(x))


@final
@dataclass(frozen=True, slots=True)
class Change:
    """What was written in place: argument ``index``, or ``tensor``, is ``node`` in the end."""

    index: int
    tensor: Tensor | None
    node: Node


@final
@dataclass(frozen=True)
class Recorded:
    """A graph over arguments, then ``outside``; its results are ``leaves`` (nodes, or anything).

    ``graphs`` are those that its control flow names.
    """

    graph: Graph
    graphs: tuple[Graph, ...]
    outside: tuple[Tensor, ...]
    leaves: tuple[Any, ...]
    form: Form | None
    changes: tuple[Change, ...]

    def run(self, arguments: Sequence[Tensor]) -> dict[Node, Any]:
        """The values of all nodes: tensors, and tuples of them."""
        given = [*arguments, *self.outside]
        env: dict[Node, Any] = dict(zip(self.graph.params, given, strict=True))
        b = Applier(Library(self.graphs))
        with applying(given):
            for node in self.graph.nodes:
                if node.op is not None:
                    env[node] = b.apply(node.op, *(env[i] for i in node.inputs))
        return env

    def result(self, value: Callable[[Node], Any]) -> Any:
        """The tree of results, with ``value`` of the nodes among them."""
        found = [value(leaf) if isinstance(leaf, Node) else leaf for leaf in self.leaves]
        return unflatten(self.form, found)

    def write(self, arguments: Sequence[Tensor], value: Callable[[Change], Tensor]) -> None:
        """Do to tensors what the function did in place."""
        for c in self.changes:
            target = arguments[c.index] if c.tensor is None else c.tensor
            dispatch.write(target, value(c))


def record(fn: Callable[[list[Tensor]], Any], slots: Sequence[Slot]) -> Recorded:
    """Run ``fn`` on stand-ins for its arguments. LeakError if it leaves one of them somewhere."""
    recording = Recording(state.capture)
    try:
        with _around(recording):
            params, found, form, changes = _recorded(recording, fn, slots)
        if recording.outer is None:
            recording.changed.forget()
    finally:
        recording.end()
    outside = [i.source.tensor for i in recording.inputs]
    graph = Graph(
        "recorded",
        (*params, *(i.node for i in recording.inputs)),
        tuple(recording.builder.nodes),
        (*(n for n in found if isinstance(n, Node)), *(c.node for c in changes)),
    )
    program = differentiate(Program((*recording.frames.graphs, graph)), Context())
    done = trimmed(program.entry)
    now = dict(zip(graph.outputs, done.outputs, strict=True))
    return Recorded(
        done,
        program.graphs[:-1],
        tuple([x for x in outside if x is not None]),
        tuple([now[x] if isinstance(x, Node) else x for x in found]),
        form,
        tuple([Change(c.index, c.tensor, now[c.node]) for c in changes]),
    )


def _recorded(
    recording: Recording, fn: Callable[[list[Tensor]], Any], slots: Sequence[Slot]
) -> tuple[list[Node], tuple[Any, ...], Form | None, list[Change]]:
    """The params, the results with nodes for tensors, their form, and what was written."""
    stand_ins = [recording.stand_in(s) for s in slots]
    params = [recording.node(x) for x in stand_ins]
    leaves, form = flatten(fn(list(stand_ins)))
    found = tuple([recording.node(x) if isinstance(x, Tensor) else x for x in leaves])
    del leaves
    recording.watched.refuse_unreached()
    recording.watched.end()
    changes = _changes(recording, stand_ins, params)
    del stand_ins
    refuse_leaks(recording)
    return params, found, form, changes


def _changes(
    recording: Recording, stand_ins: Sequence[Tensor], params: Sequence[Node]
) -> list[Change]:
    """What was written in place. CaptureError where what it shares memory with was used too."""
    found = [
        Change(k, None, recording.node(x))
        for k, (x, p) in enumerate(zip(stand_ins, params, strict=True))
        if recording.node(x) is not p
    ]
    written = [i for i in recording.inputs if i.cell.node is not i.node]
    roots = [_root(i.cell.tensor) for i in recording.inputs]
    for i in written:
        if roots.count(_root(i.cell.tensor)) > 1:
            raise located(
                CaptureError,
                f"{i.node.type} was written in place, and shares memory with another tensor that "
                "the function uses; use one of them",
            )
        found.append(Change(-1, i.cell.tensor, i.cell.node))
    return found


def _root(x: Tensor | None) -> int:
    while x is not None and x._storage is None and x._link is not None:
        x = x._link[0]
    return id(x if x is None or x._storage is None else x._storage)


@contextmanager
def applying(given: Sequence[Tensor]) -> Iterator[None]:
    """Inside, recorded ops may be applied to tensors: casts are among them, devices as given."""
    autocast, device = state.autocast, running.device
    places = [d for d in map(place, given) if d is not None]
    state.autocast = None
    if state.capture is None:
        running.device = next((d for d in places if d is not CPU), CPU)
    else:
        running.device = None
    try:
        yield
    finally:
        state.autocast, running.device = autocast, device


def keep(value: Any) -> Any:
    """``value`` as it is now, for later: what is written to it meanwhile is noticed, or harmless.

    Values are tensors, and tuples of them. :func:`kept` gives them back.
    """
    if isinstance(value, tuple):
        return tuple([keep(v) for v in value])
    capture: Capture | None = state.capture
    if capture is None:
        return ENGINE.save(value)
    return capture.tensor(
        capture.node(value), requires=capture.requires(value), device=place(value)
    )


def kept(value: Any) -> Any:
    """What :func:`keep` kept. VersionError if it was written since."""
    if isinstance(value, tuple):
        return tuple([kept(v) for v in value])
    return restore(value) if isinstance(value, Kept) else value
