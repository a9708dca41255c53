"""One trace of a user function.

From arguments to a program, and how to put its results together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtc.errors import ArgumentError, LeakError, at_line
from vtc.frontend.capture import Capture, Cell, Input, Restart, Source
from vtc.frontend.dispatch import state
from vtc.frontend.guards import Guards, Recorder
from vtc.frontend.sizes import SizeGuard, SymInt
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.dims import Dim, Size, Sym
from vtc.ir.graph import Fact, Graph, Node, Program
from vtc.ir.op import Op
from vtc.ir.ops.control import Gradient, Item, StopGradient
from vtc.ir.ops.elementwise import Add
from vtc.ir.ops.view import Reshape
from vtc.ir.types import TensorType

MAX_RESTARTS = 64


@dataclass(frozen=True, slots=True)
class Made:
    """A result (or gradient) that is output ``output`` of the program."""

    output: int
    requires: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A result that is an input, or a view of one: ``ops`` applied to the tensor of ``source``."""

    source: Source
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Plain:
    """A result that is not a tensor."""

    value: object


Part = Made | Given | Plain


@dataclass(frozen=True, slots=True)
class GradWrite:
    """``tensor.grad`` becomes ``value`` at every call.

    ``had`` is whether it was set before (a guard).
    """

    tensor: Tensor
    value: Part
    had: bool


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
    wrt: tuple[int, ...] = ()
    tangents: int = 0
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


class _Trace:
    def __init__(self, request: Request, by_base: set[int]) -> None:
        self.request = request
        self.capture = Capture(by_base=set(by_base))
        self.capture.sizes.ranges.update({d.name: (d.min, d.max) for d in request.dims})
        self.capture.sizes.values.update(request.values)
        self.capture.sizes.may_guard = request.may_guard

    def run(self) -> Traced:
        recorder = Recorder()
        before, state.capture = state.capture, self.capture
        try:
            owner = getattr(self.request.fn, "__self__", self.request.fn)
            if hasattr(owner, "named_parameters"):
                self.capture.name_modules(owner)
            args, kwargs = unflatten(self.request.form, self.arguments())
            with recorder.active():
                result = self.request.fn(*args, **kwargs)
            del args, kwargs
            return self.finish(result, recorder)
        finally:
            state.capture = before

    def arguments(self) -> list[Any]:
        """The leaves, tensors and floats among them traced."""
        return [self.argument(i, leaf) for i, leaf in enumerate(self.request.leaves)]

    def argument(self, i: int, leaf: Any) -> Any:
        name = self.request.names[i]
        if isinstance(leaf, Tensor):
            if (
                leaf._storage is not None
                and id(leaf._storage) not in self.capture.cells
                and (id(leaf._storage) not in self.capture.by_base)
            ):
                self.capture.enter(leaf, Source("argument", i), self.request.types[i], name)
            return leaf
        if isinstance(leaf, float):
            return self.capture.number(name, Source("number", i))
        if hasattr(leaf, "named_parameters"):
            self.capture.name_modules(leaf)
        return leaf

    def finish(self, result: Any, recorder: Recorder) -> Traced:
        leaves, form = flatten(result)
        outputs: dict[Node, int] = {}
        parts = tuple([self.part(leaf, outputs) for leaf in leaves])
        grads = tuple(
            [
                GradWrite(
                    s.tensor,
                    Plain(None) if s.value is None else self.part(s.value, outputs),
                    s.before is not None,
                )
                for s in self.capture.grads.values()
            ]
        )
        results = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        del result, leaves
        self.refuse_leaks(results)
        facts = self.facts(outputs)
        wrt, tangents, gradients = self.gradients(parts, outputs)
        graph = Graph(
            self.request.name,
            (*(i.node for i in self.capture.inputs), *tangents),
            tuple(self.capture.builder.nodes),
            (*outputs, *gradients),
        )
        graph = self.capture.final_names().rename(graph)
        program = Program((graph,), self.request.dims, (*facts, *(Fact(),) * len(tangents)))
        return Traced(
            program=program,
            sources=tuple(i.source for i in self.capture.inputs),
            parts=parts,
            form=form,
            grads=grads,
            outputs=len(outputs),
            guards=self.guards(recorder),
            size_guards=tuple(self.capture.sizes.guards),
            wrt=wrt,
            tangents=len(tangents),
            keep=tuple(self.capture.kept),
        )

    def guards(self, recorder: Recorder) -> Guards:
        """What the code read, the attributes of object arguments included."""
        found = recorder.guards(self.request.fn)
        for name, leaf in zip(self.request.names, self.request.leaves, strict=True):
            found.add(name, leaf)
        return found

    # results

    def part(self, leaf: Any, outputs: dict[Node, int]) -> Part:
        if isinstance(leaf, SymInt):
            return Plain(int(leaf))
        if not isinstance(leaf, Tensor):
            return Plain(leaf)
        given = self.given(leaf)
        if given is not None:
            return given
        node = self.capture.node(leaf)
        requires = self.capture.requires(leaf) and node not in self.capture.consumed
        return Made(outputs.setdefault(node, len(outputs)), requires)

    def given(self, leaf: Tensor) -> Given | None:
        """``leaf`` as an input or a view of one, if that is what it is."""
        ops: list[Op] = []
        at = leaf
        while (cell := self.capture.cell(at)) is None:
            at, op = self.capture.parent(at)
            if isinstance(op, StopGradient) or _symbolic(op):
                return None
            ops.insert(0, op)
        if cell.initial is None or (source := self.source_of(cell)) is None or source.made_here:
            return None
        return Given(source, tuple(ops))

    def source_of(self, cell: Cell) -> Source | None:
        found = next((i.source for i in self.capture.inputs if i.cell is cell), None)
        return found if found is not None and found.kind in ("argument", "tensor", "grad") else None

    # facts

    def facts(self, outputs: dict[Node, int]) -> tuple[Fact, ...]:
        """A fact per input; written inputs get the output that overwrites them."""
        return tuple([self.fact(i, outputs) for i in self.capture.inputs])

    def fact(self, i: Input, outputs: dict[Node, int]) -> Fact:
        tensor = i.cell.tensor
        path = "" if tensor is None else self.capture.named.get(id(tensor), "")
        written = (
            i.cell.node is not i.node
            and i.source.kind in ("argument", "tensor", "grad")
            and not i.source.made_here
        )
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
    ) -> tuple[tuple[int, ...], list[Node], list[Node]]:
        """Where results require grad.

        The inputs they flow to, a tangent param per result, the gradients.
        """
        made = sorted({p.output for p in parts if isinstance(p, Made) and p.requires})
        nodes = list(outputs)
        inputs = {i.node: k for k, i in enumerate(self.capture.inputs)}
        below = {n for o in made for n, _ in self.capture.reachable(nodes[o])[0]}
        wrt = [n for n in inputs if n in below]
        if not wrt:
            return (), [], []
        tangents = [self.capture.builder.param(f"d_{nodes[o].name}", nodes[o].type) for o in made]
        total: list[Node] = []
        for o, tangent in zip(made, tangents, strict=True):
            marker = self.capture.apply(Gradient(seeded=True), nodes[o], tangent, *wrt)
            items = [
                self.capture.apply(Item(i), marker, hint=f"d_{w.name}") for i, w in enumerate(wrt)
            ]
            add = Add()
            total = (
                [self.capture.apply(add, a, b) for a, b in zip(total, items, strict=True)]
                if total
                else items
            )
        return tuple(inputs[n] for n in wrt), tangents, total

    # leaks

    def refuse_leaks(self, results: Sequence[Tensor]) -> None:
        """LeakError if a traced value was left in an object."""
        known = {id(t) for t in (*results, *self.capture.kept, *self.capture.hypers.values())}
        queue = [
            *results,
            *self.capture.kept,
            *(s.value for s in self.capture.grads.values() if s.value is not None),
        ]
        for t in queue:
            known.add(id(t))
            if t._link is not None and id(t._link[0]) not in known:
                queue.append(t._link[0])
        if not [t for t in self.capture.made if id(t) not in known]:
            return
        gc.collect()
        for t in self.capture.made:
            if id(t) not in known and (where := _holder(t)) is not None:
                raise _leak(t, self.capture.node(t), where)


def _leak(x: Tensor, node: Node, where: str) -> LeakError:
    """Names the value's own line: the function that left it has already returned."""
    message = (
        f"a traced value {x.type} was left in {where}; return it, or write into a tensor that "
        "exists before the call"
    )
    if node.loc is None:
        return LeakError(message)
    return LeakError(at_line(message, node.loc.file, node.loc.line, node.loc.module))


def _same(node: Node) -> Op:
    """An op that gives its input again, so that one value can be two outputs."""
    if not isinstance(node.type, TensorType):
        raise ArgumentError(f"{node.name} is {node.type}, not one tensor")
    return Reshape(node.type.shape)


def _symbolic(op: Op) -> bool:
    return any(
        isinstance(s, Sym) for v in vars(op).values() for s in (v if isinstance(v, tuple) else (v,))
    )


def _holder(x: Tensor) -> str | None:
    """The attribute, element or variable that still holds ``x``."""
    for holder in gc.get_referrers(x):
        if isinstance(holder, dict):
            name = _key_of(holder, x)
            if name is not None:
                return _named_by(holder, name) or f"a dict, under {name!r}"
        elif isinstance(holder, (list, set)):
            return _attribute_of(holder) or f"a {type(holder).__name__}"
        elif type(holder).__name__ == "cell":
            return "a closure variable"
        elif (name := _key_of(getattr(holder, "__dict__", {}), x)) is not None:
            return f"{type(holder).__name__}.{name}"
    return None


def _key_of(mapping: dict[Any, Any], value: object) -> Any:
    for k, v in mapping.items():
        if v is value:
            return k
    return None


def _named_by(attributes: dict[Any, Any], name: Any) -> str | None:
    """``Class.name`` where ``attributes`` is the ``__dict__`` of an object.

    The name of a global.
    """
    for owner in gc.get_referrers(attributes):
        if getattr(owner, "__dict__", None) is attributes:
            return f"{type(owner).__name__}.{name}"
    return f"the global {name}" if "__builtins__" in attributes else None


def _attribute_of(container: object) -> str | None:
    for holder in gc.get_referrers(container):
        attributes = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
        name = _key_of(attributes, container)
        if name is None:
            continue
        if not isinstance(holder, dict):
            return f"{type(holder).__name__}.{name}"
        return _named_by(attributes, name)
    return None
