"""One trace of a user function.

From arguments to a program, and how to put its results together.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from vtc.errors import ArgumentError, CaptureError, DeviceError, LeakError, VersionError
from vtc.frontend import dispatch
from vtc.frontend.additions import Effect
from vtc.frontend.capture import Capture
from vtc.frontend.dispatch import state
from vtc.frontend.guards import Guards, Recorder
from vtc.frontend.inputs import (
    KEPT,
    Cell,
    Input,
    Restart,
    Source,
    device_of_inputs,
    layout,
    origins,
    place,
)
from vtc.frontend.keys import read_apart
from vtc.frontend.leaks import let_go, refuse_leaks
from vtc.frontend.notes import with_notes
from vtc.frontend.sizes import SizeGuard, SymInt
from vtc.frontend.source import located
from vtc.frontend.tensor import CPU, Tensor
from vtc.frontend.traced_gradient import from_outside
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.dims import Dim, Size, Sym
from vtc.ir.graph import Fact, Graph, Node, Program
from vtc.ir.op import Op
from vtc.ir.ops.view import Reshape
from vtc.ir.text import show_node
from vtc.ir.types import TensorType
from vtc.runtime.device import Device

MAX_RESTARTS = 64


@dataclass(frozen=True, slots=True)
class Made:
    """A result (or gradient) that is output ``output`` of the program, or the view ``ops`` of it.

    ``leaf``: one that was asked to require grad; ``number``: arithmetic on numbers, so a number;
    ``stale``: why no gradient can be taken of one that requires grad.
    """

    output: int
    requires: bool = False
    ops: tuple[Op, ...] = ()
    leaf: bool = False
    number: bool = False
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """A result that is an input, or a view of one: ``ops`` applied to what ``source`` gives."""

    source: Source
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Plain:
    """A result that is not a tensor."""

    value: object


Part = Made | Given | Plain


@dataclass(frozen=True, slots=True)
class GradWrite:
    """``.grad`` of the tensor of ``owner`` becomes ``value`` at every call.

    ``had`` is whether it was set before (a guard); None where that does not matter.
    """

    owner: Source
    value: Part
    had: bool | None


@dataclass(frozen=True, slots=True)
class Pin:
    """Argument ``index`` shares memory with ``tensor``, which the function holds: a guard."""

    index: int
    tensor: Tensor
    at: tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Traced:
    """A program, where its inputs come from, and what its outputs become."""

    program: Program
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    form: Form | None
    grads: tuple[GradWrite, ...]
    outputs: int
    guards: Guards
    size_guards: tuple[SizeGuard, ...]
    wrt: tuple[Source, ...] = ()
    tangents: int = 0
    pinned: tuple[Pin, ...] = ()
    changes: tuple[Effect, ...] = ()
    placed: bool = False
    """Whether it matters which parts of their memory arguments that share some are."""
    asked: tuple[tuple[Source, bool], ...] = ()
    """Tensors that the function makes require grad, or not, and which."""
    device: Device = CPU
    keep: tuple[Tensor, ...] = field(default=(), repr=False)


@dataclass
class Request:
    """What to trace.

    The function, its argument leaves, and the types the tensors among them are given.
    """

    name: str
    fn: Callable[..., Any]
    leaves: Sequence[Any]
    names: Sequence[str]
    form: Form | None
    types: dict[int, TensorType]
    dims: tuple[Dim, ...] = ()
    values: dict[str, Size] = field(default_factory=dict)
    may_guard: bool = True
    decide: frozenset[int] = frozenset()
    """Leaves, floats, that are their values in the trace."""


def trace(request: Request) -> Traced:
    """Run the function on traced arguments.

    CaptureError and LeakError say what cannot be traced.
    """
    by_base: set[int] = set()
    kept: list[object] = []
    for _ in range(MAX_RESTARTS):
        try:
            return _Trace(request, by_base).run()
        except Restart as again:
            by_base.add(id(again.storage))
            kept.append(again.storage)
    raise located(
        ArgumentError, f"{request.name}: more than {MAX_RESTARTS} storages with overlapping views"
    )


@final
class Whole(Capture):
    """The trace of a compiled function."""

    def device_of(self, x: Tensor) -> Device:
        """Where ``x`` is, or will be."""
        return place(x) or device_of_inputs(self.inputs)


class _Trace:
    def __init__(self, request: Request, by_base: set[int]) -> None:
        self.request = request
        apart = frozenset(read_apart(request.leaves) - by_base)
        self.capture = Whole(by_base=set(by_base), apart=apart, notes=[])
        self.capture.frames.names.fresh(request.name)
        self.capture.sizes.ranges.update({d.name: (d.min, d.max) for d in request.dims})
        self.capture.sizes.values.update(request.values)
        self.capture.sizes.may_guard = request.may_guard

    def run(self) -> Traced:
        changed = self.capture.changed
        for switches, name in dispatch.switches():
            changed.note(switches, name)
        recorder = Recorder(changed, self.request.fn, self.objects())
        before, state.capture = state.capture, self.capture
        try:
            owner = getattr(self.request.fn, "__self__", self.request.fn)
            if hasattr(owner, "named_parameters"):
                self.capture.name_modules(owner)
            traced = self.finish(self.call(recorder), recorder)
            changed.forget()
            return traced
        finally:
            state.capture = before
            recorder.tell()
            changed.restore()
            let_go(self.capture)
            self.capture.sizes.ended = True

    def excerpt(self) -> str:
        """The last lines recorded, for errors."""
        lines = [show_node(n) for n in self.capture.builder.nodes[-3:]]
        shown = [f"       {line}" for line in lines or ["nothing yet"]]
        return "\n".join([f"  traced so far in {self.request.name}:", *shown])

    def call(self, recorder: Recorder) -> Any:
        """What the function returns."""
        given = self.arguments()
        args, kwargs = unflatten(self.request.form, given)
        with recorder.active():
            result = self.request.fn(*args, **kwargs)
        self.refuse_changed(given, (args, kwargs))
        return result

    def arguments(self) -> list[Any]:
        """The leaves, tensors and floats among them traced."""
        return [self.argument(i, leaf) for i, leaf in enumerate(self.request.leaves)]

    def refuse_changed(self, given: Sequence[Any], arguments: Any) -> None:
        """LeakError if a container among the arguments was changed."""
        leaves, form = flatten(arguments)
        if form == self.request.form and all(map(operator.is_, leaves, given)):
            return
        raise located(
            LeakError,
            f"{self.request.name} changed a list, dict or dataclass among its arguments; a "
            "compiled function gets a copy of it, so return what is new, or change a copy",
        )

    def argument(self, i: int, leaf: Any) -> Any:
        name = self.request.names[i]
        if isinstance(leaf, Tensor):
            self.capture.arguments.setdefault(id(leaf), i)
            self.capture.argument_storages.setdefault(id(leaf._storage), i)
            self.capture.origins.update(map(id, origins(leaf)))
            if (
                leaf._storage is not None
                and self.capture.place_of(leaf) not in self.capture.cells
                and (id(leaf._storage) not in self.capture.by_base)
            ):
                self.capture.enter(leaf, Source("argument", i), self.request.types[i], name)
            elif not all(isinstance(n, int) for n in self.request.types[i].shape) and (
                id(leaf._storage) in self.capture.by_base
            ):
                raise located(CaptureError, f"{name} shares memory with another tensor")
            return leaf
        if isinstance(leaf, float) and i not in self.request.decide:
            return self.capture.number(name, Source("number", i))
        if hasattr(leaf, "named_parameters"):
            self.capture.name_modules(leaf)
        return leaf

    def finish(self, result: Any, recorder: Recorder) -> Traced:
        leaves, form = flatten(result)
        form = with_notes(leaves, form, self.capture.notes or [])
        self.capture.notes = None
        outputs: dict[Node, int] = {}
        self.shared = self.roots_of_several(leaves)
        parts = tuple([self.part(leaf, outputs) for leaf in leaves])
        grads = self.gradient_writes(outputs)
        device = self.device(leaves)
        del result, leaves
        wrt, tangents, gradients = self.gradients(parts, outputs)
        self.capture.watched.end()
        changes = recorder.settle()
        refuse_leaks(self.capture)
        facts = self.facts(outputs)
        graph = Graph(
            self.request.name,
            (*(i.node for i in self.capture.inputs), *tangents),
            tuple(self.capture.builder.nodes),
            (*outputs, *gradients),
        )
        self.capture.sizes.keep_positive(n.type for n in graph.nodes)
        graph = self.capture.final_names().rename(graph)
        graphs = (*self.capture.frames.graphs, graph)
        program = Program(graphs, self.request.dims, (*facts, *(Fact(),) * len(tangents)))
        guards = recorder.guards()
        return Traced(
            program=program,
            sources=tuple(i.source for i in self.capture.inputs),
            parts=parts,
            form=form,
            grads=grads,
            outputs=len(outputs),
            guards=guards,
            size_guards=tuple(self.capture.sizes.guards),
            wrt=wrt,
            tangents=len(tangents),
            pinned=tuple(self.pins(guards)),
            changes=changes,
            placed=not self.capture.by_base.isdisjoint(self.capture.argument_storages),
            asked=tuple(self.capture.asked.values()),
            device=device,
            keep=tuple(self.capture.kept),
        )

    def objects(self) -> list[tuple[str, object]]:
        """The arguments that are no tensors, and their names."""
        named = zip(self.request.names, self.request.leaves, strict=True)
        return [(name, leaf) for name, leaf in named if not isinstance(leaf, Tensor)]

    def pins(self, guards: Guards) -> Iterator[Pin]:
        """The arguments that share memory with tensors the function can reach otherwise."""
        met = {id(w.value._storage): w.value for w in guards.heavy if isinstance(w.value, Tensor)}
        met.update(self.capture.met)
        for i, leaf in enumerate(self.request.leaves):
            if isinstance(leaf, Tensor) and id(leaf._storage) in met:
                yield Pin(i, met[id(leaf._storage)], layout(leaf))

    # the device

    def device(self, results: Sequence[Any]) -> Device:
        """Where the program runs: DeviceError unless inputs and results are on one device.

        0-d inputs that are only read may be on the CPU.
        """
        found: dict[Device, str] = {}
        for i in self.capture.inputs:
            x = i.cell.tensor
            if x is not None and not (x.device is CPU and not x.ndim and i.cell.node is i.node):
                at = "" if i.source.kind == "argument" else _met(i.node)
                found.setdefault(x.device, f"input {i.node.name}: {i.node.type}{at}")
        for x in results:
            if isinstance(x, Tensor) and x._storage is None:
                there = place(x)
                if there is not None:
                    found.setdefault(there, f"result {x.type}{_met(self.capture.node(x))}")
        if len(found) > 1:
            shown = " and ".join(f"{d} ({what})" for d, what in found.items())
            message = f"{self.request.name}: expected inputs and results on one device, got {shown}"
            hint = "make them there (device=x.device), or use .to(device) outside of it"
            raise located(DeviceError, f"{message}; {hint}")
        return next(iter(found), CPU)

    # results

    def roots_of_several(self, leaves: Sequence[Any]) -> frozenset[Cell]:
        """The cells that more than one result is, or is a view of."""
        tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor)}
        count = Counter([self.origin(leaf)[0] for leaf in tensors.values()])
        return frozenset([cell for cell, n in count.items() if n > 1])

    def origin(self, x: Tensor) -> tuple[Cell, tuple[Op, ...]]:
        """The cell that ``x`` was cut from, and how."""
        ops: list[Op] = []
        while (cell := self.capture.cell(x)) is None:
            x, op = self.capture.parent(x)
            ops.insert(0, op)
        return cell, tuple(ops)

    def gradient_writes(self, outputs: dict[Node, int]) -> tuple[GradWrite, ...]:
        """The ``.grad`` that outlive the call."""
        return tuple(
            [
                GradWrite(
                    s.owner,
                    Plain(None) if s.value is None else self.part(s.value, outputs),
                    s.had,
                )
                for s in self.capture.grads.values()
                if not s.owner.made_here
            ]
        )

    def part(self, leaf: Any, outputs: dict[Node, int]) -> Part:
        if isinstance(leaf, SymInt):
            return Plain(int(leaf) if self.request.may_guard else leaf.size_expr)
        if not isinstance(leaf, Tensor):
            return Plain(leaf)
        cell, ops = self.origin(leaf)
        fixed = not any(map(_symbolic, ops))
        if fixed and (source := self.source_of(cell)) is not None:
            return Given(source, ops)
        node, requires = self.capture.node(leaf), self.capture.requires(leaf)
        if fixed and cell in self.shared:
            node, requires = cell.node, cell.requires
        else:
            ops = ()
        leaf_here = requires and node in self.capture.leaves
        requires = requires and not leaf_here and node not in self.capture.consumed
        stale = self.stale(node) if requires else ""
        output = outputs.setdefault(node, len(outputs))
        return Made(output, requires and not stale, ops, leaf_here, leaf._weak, stale)

    def stale(self, node: Node) -> str:
        """Why no gradient of ``node`` can be taken, which nobody may ever ask for; or nothing."""
        try:
            self.capture.reachable(node)
        except VersionError as error:
            return str(error).partition("\n")[0]
        return ""

    def source_of(self, cell: Cell) -> Source | None:
        """The input that ``cell`` is, where a result may be that very input."""
        if cell.initial is None:
            return None
        source = next((i.source for i in self.capture.inputs if i.cell is cell), None)
        if source is None or source.made_here:
            return None
        return source if source.kind in KEPT or cell.node is cell.initial else None

    # facts

    def facts(self, outputs: dict[Node, int]) -> tuple[Fact, ...]:
        """A fact per input; written inputs get the output that overwrites them."""
        return tuple([self.fact(i, outputs) for i in self.capture.inputs])

    def fact(self, i: Input, outputs: dict[Node, int]) -> Fact:
        tensor = i.cell.tensor
        path = "" if tensor is None else self.capture.named.get(id(tensor), "")
        written = i.cell.node is not i.node and i.source.kind in KEPT and not i.source.made_here
        if not written:
            return Fact(path)
        node = i.cell.node
        if node in outputs or any(node is p.node for p in self.capture.inputs):
            node = self.capture.apply(_same(node), node)
        outputs[node] = len(outputs)
        return Fact(path, overwritten=outputs[node])

    # differentiation from outside

    def gradients(
        self, parts: Sequence[Part], outputs: dict[Node, int]
    ) -> tuple[tuple[Source, ...], list[Node], list[Node]]:
        """Where results require grad.

        The tensors from outside they flow to, a tangent param per result, the gradients.
        """
        made = sorted({p.output for p in parts if isinstance(p, Made) and p.requires})
        nodes = list(outputs)
        below = {n for o in made for n, _ in self.capture.reachable(nodes[o])[0]}
        owners = {n: self.capture.owner(x) for n, x in self.capture.leaves.items() if n in below}
        wrt = [n for n, owner in owners.items() if not owner.made_here]
        if not wrt:
            return (), [], []
        tangents = [self.capture.builder.param(f"d_{nodes[o].name}", nodes[o].type) for o in made]
        before = {i.cell: i.cell.node for i in self.capture.inputs}
        found = from_outside(self.capture, [nodes[o] for o in made], tangents, wrt)
        for i in self.capture.inputs:
            if i.cell.node is not before.get(i.cell, i.node):
                raise located(
                    CaptureError,
                    f"a hook on a gradient writes {i.node.type} in place, but backward() is called "
                    "outside the compiled function; call it inside, or register the hook outside",
                )
        return tuple(owners[n] for n in wrt), tangents, found


def _met(node: Node) -> str:
    """Where a value was met first, or made."""
    return "" if node.loc is None else f", at {node.loc.file}:{node.loc.line}"


def _same(node: Node) -> Op:
    """An op that gives its input again, so that one value can be two outputs."""
    if not isinstance(node.type, TensorType):
        raise ArgumentError(f"{node.name} is {node.type}, not one tensor")
    return Reshape(node.type.shape)


def _symbolic(op: Op) -> bool:
    return any(
        isinstance(s, Sym) for v in vars(op).values() for s in (v if isinstance(v, tuple) else (v,))
    )
