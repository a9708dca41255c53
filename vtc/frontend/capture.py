"""Tracing: user code runs on tensors whose values are nodes of a program being recorded.

Views and mutation are made functional. A :class:`Cell` holds the current node of a root tensor; a
view replays how it was cut from its root; a write through a view writes the root. Concrete tensors
that the code meets become parameters; those it changed become outputs that overwrite them.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtc.errors import CaptureError
from vtc.frontend import dispatch, traced_gradient
from vtc.frontend.borders import Borders
from vtc.frontend.changed import Changed
from vtc.frontend.dispatch import Rest, Result, state
from vtc.frontend.ended import ended
from vtc.frontend.frames import Frames, reachable
from vtc.frontend.grad_fn import Next, traced_step
from vtc.frontend.hooks import Gradients
from vtc.frontend.inputs import (
    Cell,
    GradSlot,
    Input,
    Restart,
    Source,
    base_of,
    common_place,
    is_number_node,
    same_view,
)
from vtc.frontend.naming import Names, Site, site
from vtc.frontend.refused import into_leaf, into_view_without_history, through_detach
from vtc.frontend.sizes import Sizes
from vtc.frontend.source import located, user_loc
from vtc.frontend.tensor import Tensor, concrete_type, write_through
from vtc.frontend.watched import Watched
from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.op import Op
from vtc.ir.ops.control import Gradient, Item, StopGradient
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import Reshape
from vtc.ir.types import DType, TensorType, TupleType, Type, f64
from vtc.runtime.device import Device

_UNRECORDED = StopGradient()  # what views that are made under no_grad are cut from, by identity


@dataclass(eq=False)
class Capture(abc.ABC):
    """One trace. It is also a :class:`~vtc.ir.op.Builder` of nodes."""

    by_base: set[int] = field(default_factory=set)
    apart: frozenset[int] = frozenset()  # memory that arguments share, as long as it is only read
    sizes: Sizes = field(default_factory=Sizes)
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    inputs: list[Input] = field(default_factory=list)
    grads: dict[int, GradSlot] = field(default_factory=dict)
    named: dict[int, str] = field(default_factory=dict)
    sites: dict[Node, Site] = field(default_factory=dict)
    borders: Borders = field(default_factory=Borders)
    frames: Frames = field(default_factory=Frames)
    watched: Watched = field(default_factory=Watched)
    changed: Changed = field(default_factory=Changed)
    notes: list[tuple[Any, ...]] | None = None  # to be printed; None where nothing can be

    def __post_init__(self) -> None:
        self.cells: dict[int, Cell] = {}
        self.apart_from_base: dict[int, Cell] = {}  # views from outside that were made leaves
        self.made: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.hot: set[Node] = set()
        self.updating = False  # an optimizer is reading its options
        self.leaves: dict[Node, Tensor] = {}
        self.current_leaf: dict[int, Node] = {}
        self.stops: dict[Node, Node] = {}
        self.born_here: dict[int, Tensor] = {}
        self.arguments: dict[int, int] = {}
        self.argument_storages: dict[int, int] = {}
        self.origins: set[int] = set()  # what arguments were cut from
        self.met: dict[int, Tensor] = {}
        self.asked: dict[int, tuple[Source, bool]] = {}
        self.hypers: dict[tuple[int, str, int], Tensor] = {}
        self.kept: list[Tensor] = []
        self.consumed: set[Node] = set()

    # the Builder protocol, on nodes

    def apply(self, op: Op, *inputs: Node, hint: str = "") -> Node:
        """Record ``op`` on nodes."""
        if self.borders.count and not isinstance(op, Gradient | Item):
            inputs = tuple([self.borders.across(i, self._record) for i in inputs])
        node = self._record(self.sizes.settled(op), *inputs, hint=hint)
        self.borders.place(node)
        return node

    def _record(self, op: Op, *inputs: Node, hint: str = "") -> Node:
        with self.sizes.kept():
            node = self.builder.apply(op, *inputs, hint=hint, loc=user_loc())
        if any([i in self.hot for i in inputs]) and not isinstance(op, StopGradient):
            self.hot.add(node)
        first = not isinstance(op, Item) or op.index == 0  # of several results the first is named
        if first and (at := site()) is not None:
            self.sites[node] = at
        return node

    def type_of(self, value: Node) -> Type:
        """The type of a node."""
        return value.type

    # tensors of the trace

    def tensor(self, node: Node, *, requires: bool = False, device: Device | None = None) -> Tensor:
        """A new traced tensor."""
        x = Tensor()
        x._cell = Cell(
            node,
            requires
            and isinstance(node.type, TensorType)
            and node.type.dtype.kind in ("float", "complex"),
            device=device,
            frame=self.frames.current,
            trace=self,
        )
        self.note(x)
        return x

    def rule(self, op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
        """The dispatch rule: while this trace runs, record."""
        del rest
        device = common_place(op.name, inputs)
        requires = (
            state.grad
            and not isinstance(op, StopGradient)
            and any([self.requires(x) for x in inputs])
        )
        nodes = [self.flowing(x) if requires else self.node(x) for x in inputs]
        node = self.apply(op, *nodes)
        if isinstance(node.type, TupleType):
            items = [self.apply(Item(i), node) for i in range(len(node.type.items))]
            return tuple([self.tensor(i, requires=requires, device=device) for i in items])
        out = self.tensor(node, requires=requires, device=device)
        out._weak = any([x._weak for x in inputs]) and all(
            [x._weak or is_number_node(x) for x in inputs]
        )
        return out

    # devices

    @abc.abstractmethod
    def device_of(self, x: Tensor) -> Device:
        """Where ``x`` is, or will be."""

    def create(self, op: Op, device: Device) -> Tensor:
        """The result of an ``op`` without inputs, on ``device``."""
        return self.tensor(self.apply(op), device=device)

    def move(self, x: Tensor, device: Device) -> Tensor:
        """``x`` as a value on ``device``: at the end of the trace all are on one, or 0-d."""
        requires = state.grad and self.requires(x)
        node = self.flowing(x) if requires else self.node(x)
        same = self.apply(Reshape(node.tensor.shape), node)
        return self.tensor(same, requires=requires, device=device)

    def note(self, x: Tensor) -> None:
        """The trace made ``x``."""
        self.made.add(x)

    def view(self, op: Op, x: Tensor) -> Tensor:
        """A traced view of ``x``; under no_grad it has no history, as in eager code."""
        y = Tensor()
        if not state.grad and not isinstance(op, StopGradient) and self.requires(x):
            x = self.view(_UNRECORDED, x)
        y._link, y._stamp = (x, self.sizes.settled(op)), -1
        self.note(y)
        self.node(y)
        return y

    def cell(self, x: Tensor) -> Cell | None:
        """The cell of a root; None for a view. CaptureError for a value of another trace."""
        if x._storage is not None:
            return self.apart_from_base.get(id(x)) or self.lift(x)
        cell: Cell | None = x._cell
        if cell is not None and cell.trace is not self:
            raise ended(x)
        return cell

    def root(self, x: Tensor) -> Cell:
        """The cell a view was cut from."""
        while (cell := self.cell(x)) is None:
            x = self.parent(x)[0]
        return cell

    def parent(self, x: Tensor) -> tuple[Tensor, Op]:
        """What a view was cut from, and how."""
        if x._link is None:
            raise ended(x)
        return x._link

    def node(self, x: Tensor) -> Node:
        """The current value of ``x``."""
        cell = self.cell(x)
        if cell is not None:
            self.frames.refuse_ended(cell.node)
            return cell.node
        parent, op = self.parent(x)
        version = self.root(parent).version
        old = x._stamp != version or x._node is None or x._node in self.frames.ended
        if x._storage is not None or old:
            node = self.apply(op, self.node(parent))
            if x._storage is not None:
                return node
            x._node, x._stamp = node, version
        found: Node = x._node
        return found

    def type_of_tensor(self, x: Tensor) -> TensorType:
        """The type of ``x`` without recording anything new for concrete tensors."""
        if x._array is not None and self.place_of(x) not in self.cells:
            return concrete_type(x)
        return self.node(x).tensor

    # concrete tensors become parameters

    def lift(self, x: Tensor) -> Cell | None:
        """The cell of the concrete tensor ``x``.

        None where it is a view of a base that is the parameter.
        """
        key = id(x._storage)
        if id(x) not in self.arguments and id(x) not in self.origins:
            self.met.setdefault(key, x)
        known = self.cells.get(self.place_of(x))
        if known is None:
            if key in self.apart:
                raise Restart(x._storage)
            root = base_of(x) if key in self.by_base else x
            known = self.enter(root, self.source(root), concrete_type(root), "")
        if known.tensor is x or (known.tensor is not None and same_view(known.tensor, x)):
            return known
        if key not in self.by_base:
            raise Restart(x._storage)
        if x._requires or x._link is None:
            raise located(
                CaptureError,
                f"{concrete_type(x)} requires grad and shares memory with a tensor that it was "
                "made from, and the function uses both; use one of them",
            )
        return None

    def place_of(self, x: Tensor) -> int:
        """Under what the cell of the concrete tensor ``x`` is found: its memory, or itself."""
        key = id(x._storage)
        return id(x) if key in self.apart and id(x) in self.arguments else key

    def source(self, root: Tensor) -> Source:
        """Where the concrete tensor ``root`` comes from at each call."""
        if id(root) in self.arguments:
            return Source("argument", self.arguments[id(root)])
        k = self.argument_storages.get(id(root._storage), -1)
        if k >= 0:
            return Source("base", k)
        return Source("tensor", tensor=root, made_here=id(root) in self.born_here)

    def enter(self, x: Tensor, source: Source, type: TensorType, name: str) -> Cell:
        """Make ``x`` a parameter of the program."""
        hint = name or self.named.get(id(x), "").replace(".", "_") or (x._kind or "captured")
        node = self.builder.param(hint if hint.isidentifier() else "captured", type, user_loc())
        requires = (
            not source.made_here
            and x._storage is not None
            and (x._requires or x._record is not None)
        )
        cell = Cell(node, requires, node, x)
        if requires:
            self.hot.add(node)
            self.leaves[node] = x
            self.current_leaf[id(x)] = node
        if x._storage is not None:
            self.cells[self.place_of(x)] = cell
            cell.frame = self.frames.born.get(id(x))
        self.inputs.append(Input(node, source, cell))
        self.kept.append(x)
        return cell

    def number(self, name: str, source: Source, dtype: DType = f64) -> Tensor:
        """A 0-d input refreshed at each call; in promotion it counts as a Python number."""
        node = self.builder.param(name, TensorType(dtype, ()), user_loc())
        x = self.tensor(node)
        x._weak = True
        x._cell.initial = node
        self.inputs.append(Input(node, source, x._cell))
        return x

    def born(self, x: Tensor) -> None:
        """A concrete tensor made during the trace: a constant of the program."""
        self.born_here[id(x)] = x
        self.frames.born[id(x)] = self.frames.current

    # gradients

    def requires(self, x: Tensor) -> bool:
        """Whether gradients flow to ``x``."""
        cell = self.cell(x)
        if cell is not None:
            return cell.requires
        parent, op = self.parent(x)
        return not isinstance(op, StopGradient) and self.requires(parent)

    def is_leaf(self, x: Tensor) -> bool:
        """Whether ``x`` is a parameter, or does not require grad."""
        return not self.requires(x) or self.node(x) in self.leaves

    def set_requires(self, x: Tensor, requires_grad: bool) -> None:
        """Make a value of the trace a leaf."""
        cell = self.cell(x)
        self.refuse_apart(cell)
        if cell is None and x._storage is None:
            cell = x._cell = Cell(self.node(x), trace=self)
            x._link = None
        elif cell is None:
            cell = self.apart_from_base[id(x)] = Cell(self.node(x), trace=self)
            self.kept.append(x)
        if x._storage is not None and not (owner := self.owner(x)).made_here:
            self.asked[id(x)] = owner, requires_grad
        if requires_grad and not cell.requires:
            cell.node = self.apply(StopGradient(), cell.node)
            self.mark_leaf(cell.node, x)
        cell.requires = requires_grad

    def mark_leaf(self, node: Node, x: Tensor) -> None:
        """``node`` is now the version of leaf ``x`` that gradients are taken for."""
        self.leaves[node] = x
        self.current_leaf[id(x)] = node
        self.hot.add(node)
        self.kept.append(x)

    def flowing(self, x: Tensor) -> Node:
        """The node of ``x``, cut off where ``x`` does not require grad but its node would carry
        one.
        """
        node = self.node(x)
        return node if node not in self.hot or self.requires(x) else self.stop(node)

    def stop(self, node: Node) -> Node:
        """``stop_gradient(node)``, made once."""
        if node not in self.stops:
            self.stops[node] = self.apply(StopGradient(), node)
        return self.stops[node]

    def write(self, x: Tensor, value: Tensor) -> None:
        """``x``'s elements become ``value``'s; the base of a view follows."""
        common_place("in-place write", (x, value))
        requires = state.grad and (self.requires(x) or self.requires(value))
        node = part = self.flowing(value) if requires else self.node(value)
        path: list[Op] = []
        while (cell := self.cell(x)) is None:
            parent, op = self.parent(x)
            if state.grad and op is _UNRECORDED and op not in path:
                raise into_view_without_history(part.tensor)
            if requires and isinstance(op, StopGradient):
                raise through_detach(value)
            whole = self.flowing(parent) if requires else self.node(parent)
            path.insert(0, op)
            node = write_through(path, *(Expr(self, n) for n in (whole, node, part))).value
            x = parent
        if node is cell.node:
            return
        self.replace(x, cell, node, requires=requires)

    def replace(self, x: Tensor, cell: Cell, node: Node, *, requires: bool) -> None:
        """The root ``x`` has a new value."""
        self.refuse_apart(cell)
        self.frames.writing(x, cell)
        leaf = cell.tensor if cell.tensor is not None else x
        if cell.requires and cell.node in self.leaves:
            if requires:
                raise into_leaf(cell.node.tensor)
            hint = "" if cell.initial is None else f"{cell.initial.name}_new"
            node = self.apply(StopGradient(), node, hint=hint)
            self.mark_leaf(node, leaf)
        elif cell.requires and not requires:
            node = self.unrecorded(cell.node, node)
        else:
            cell.requires = requires
        cell.node = self.watched.written(self, x, node)
        cell.version += 1

    def refuse_apart(self, cell: Cell | None) -> None:
        """Trace again where memory that arguments share is more than read."""
        held = None if cell is None else cell.tensor
        if held is not None and id(held._storage) in self.apart:
            raise Restart(held._storage)

    def unrecorded(self, old: Node, new: Node) -> Node:
        """The value of ``new`` with the history of ``old``: what an unrecorded write leaves."""
        was = Expr(self, old)
        found: Node = (Expr(self, self.stop(new)) + (was - Expr(self, self.stop(old)))).value
        return found

    def backward(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        *,
        retain_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Record gradient markers and accumulate ``.grad`` of the leaves, or of ``inputs``."""
        self.frames.refuse_backward()
        traced_gradient.backward(
            self, roots, seeds, inputs, consume=not (retain_graph or create_graph),
            create_graph=create_graph,
        )  # fmt: skip

    def gradients(
        self,
        roots: Sequence[Tensor],
        seeds: Sequence[Tensor | None],
        wrt: Sequence[Tensor],
        *,
        retain_graph: bool,
        create_graph: bool,
    ) -> list[Tensor | None]:
        """Record gradient markers; the gradients of ``wrt``, None where there is none."""
        del retain_graph
        return traced_gradient.gradients(self, roots, seeds, wrt, create_graph=create_graph)

    def leaves_of(self, x: Tensor) -> list[Tensor]:
        """The leaves that gradients of ``x`` reach."""
        return [t for _, t in self.reachable(self.node(x))[0]] if self.requires(x) else []

    def reachable(self, node: Node) -> tuple[list[tuple[Node, Tensor]], set[Node]]:
        """The leaves below ``node``, in the order they came, and every node between."""
        return reachable(node, self.hot, self.leaves, self.current_leaf)

    # hooks

    def hook_owner(self, x: Tensor) -> tuple[object, str]:
        """Who keeps the hooks on the gradient of ``x``, and under what name."""
        return self.watched.owner(self, x)

    def group(self, xs: Sequence[Tensor], call: Callable[[Gradients], Gradients]) -> None:
        """Hand the gradients of ``xs``, which were just made, to ``call`` together."""
        self.watched.join(self, xs, call)

    def retain(self, x: Tensor) -> None:
        """Give ``x`` its ``.grad``, though it is no leaf."""
        self.watched.retain(self, x)

    def step_of(self, x: Tensor) -> Next:
        """How ``x`` came to be (None for a leaf), and which result of that it is."""
        return (None, 0) if self.is_leaf(x) else traced_step(self.node(x), self.hot, self.leaves)

    def get_grad(self, x: Tensor) -> Tensor | None:
        """``.grad`` as the code has it now."""
        return self.slot(x).value

    def set_grad(self, x: Tensor, value: Tensor | None) -> None:
        """Assign ``.grad``; it becomes real when the call returns."""
        if id(x) not in self.grads:
            self.grads[id(x)] = GradSlot(self.owner(x), x, None)
            self.kept.append(x)
        self.grads[id(x)].value = value

    def slot(self, x: Tensor) -> GradSlot:
        """The slot of ``x``'s gradient."""
        if id(x) not in self.grads:
            g, owner = x._grad, self.owner(x)
            self.grads[id(x)] = GradSlot(owner, x, g, g is not None)
            self.kept.append(x)
            if g is not None and id(g._storage) not in self.cells:
                source = Source("grad", owner.index, owner.tensor)
                self.enter(g, source, g.type, f"grad_{self.node(x).name}")
        return self.grads[id(x)]

    def owner(self, x: Tensor) -> Source:
        """Where the tensor ``x`` comes from at each call, traced ones included."""
        return self.source(x) if x._storage is not None else Source("tensor", made_here=True)

    def name_modules(self, module: Any) -> None:
        """Parameters of ``module`` bear their paths as names."""
        for path, p in (*module.named_parameters(), *module.named_buffers()):
            self.named.setdefault(id(p), path)

    def final_names(self) -> Names:
        """What the nodes are called in the end: by the user's variables where there are any."""
        return Names(self.sites)


def _rule(op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
    capture: Capture | None = state.capture
    return rest(op, inputs) if capture is None else capture.rule(op, inputs, rest)


dispatch.register("capture", _rule)
