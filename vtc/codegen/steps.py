"""Planned programs to plans: where every value lies, and the launches and copies in order.

What a kernel is, a target says: ``planned(program, target, make)`` asks ``make`` for the kernel of
each distinct region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from vtc.codegen.region import Region
from vtc.codegen.sizes import Facts
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, bounds, maximum, substitute
from vtc.ir.graph import Graph, Node, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.view import Reshape
from vtc.ir.plan import (
    Arena,
    Buffer,
    Build,
    Copy,
    Input,
    Kernel,
    Launch,
    Output,
    Plan,
    Ref,
    Step,
)
from vtc.ir.target import Target
from vtc.ir.types import TensorType, TupleType, Type


@final
@dataclass(frozen=True, slots=True)
class Made:
    """The kernel of a region; ``work`` and ``grid`` are those of its launch, in its own sizes."""

    symbol: str
    source: str
    work: Size = 0
    grid: tuple[Size, ...] = ()
    build: Build | None = None


@final
@dataclass(frozen=True, slots=True)
class _Launched:
    """A kernel by name, and what its launches have."""

    kernel: str
    sizes: tuple[Size, ...]
    work: Size
    grid: tuple[Size, ...]


def planned(program: Program, target: Target, make: Callable[[Region], Made]) -> Plan:
    """The plan of a ``planned`` program, without a host program."""
    entry = program.entry
    writer = _Writer(program, make)
    for node in entry.nodes:
        writer.node(node)
    writer.copies()
    facts = Facts({d.name: (d.min, d.max) for d in program.dims})
    inputs = zip(entry.params, program.facts, strict=True)
    return Plan(
        name=entry.name,
        dims=program.dims,
        inputs=tuple(
            Buffer(p.tensor.dtype, p.tensor.shape, f.path, f.overwritten) for p, f in inputs
        ),
        outputs=tuple(Buffer(o.tensor.dtype, o.tensor.shape) for o in entry.outputs),
        arena=facts.simplify(writer.arena),
        kernels=tuple(writer.kernels.values()),
        steps=tuple(writer.steps),
        target=target.name,
    )


@final
@dataclass
class _Writer:
    """Collects kernels and steps in the order of the entry."""

    program: Program
    make: Callable[[Region], Made]
    places: dict[Node, tuple[Ref, ...]] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    arena: Size = 0
    _of_graph: dict[str, _Launched] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, param in enumerate(self.program.entry.params):
            self.places[param] = (Input(i),)

    def node(self, node: Node) -> None:
        """Where the results of ``node`` are, and the step that computes them."""
        match node.op:
            case Item(index=index):
                self.places[node] = (self.places[node.inputs[0]][index],)
            case Call(graph=name, at=at):
                self.places[node] = tuple(map(self.ref, at))
                self.room(node)
                self.call(node, self.program.by_name[name])
            case op:
                what = op.name if op else "param"
                raise CodegenError(
                    f"{what}: expected only calls in a planned program, got {node.name}"
                )

    def ref(self, at: Size) -> Ref:
        """What a byte offset of ``Call.at`` means."""
        if isinstance(at, Sym) or at >= 0:
            return Arena(at)
        outputs = len(self.program.entry.outputs)
        return Output(-1 - at) if -1 - at < outputs else Input(-1 - at - outputs)

    def room(self, node: Node) -> None:
        """Make the arena large enough for what ``node`` writes there."""
        results = _tensors(node.type)
        if len(results) != len(self.places[node]):
            want = f"expected a place for each result of {node.name}: {node.type}"
            raise CodegenError(f"call: {want}, got {len(self.places[node])}")
        for ref, type in zip(self.places[node], results, strict=True):
            if isinstance(ref, Arena):
                most = bounds(type.nbytes, self.program.ranges)[1]
                end = ref.offset + (type.nbytes if most is None else most)
                self.arena = maximum(self.arena, (end + 63) // 64 * 64)

    def call(self, node: Node, graph: Graph) -> None:
        """The launch of the kernel of ``graph``, unless its result is there already."""
        results = self.places[node]
        inputs = [self.places[i][0] for i in node.inputs]
        moves = len(results) == 1 and all(isinstance(n.op, Reshape) for n in graph.nodes)
        if moves and any(self.same([i], results) for i in inputs):
            return
        made = self.kernel(graph)
        note = "" if node.loc is None else str(node.loc)
        args = (*inputs, *results)
        self.steps.append(Launch(made.kernel, args, made.sizes, note, made.work, made.grid))

    def kernel(self, graph: Graph) -> _Launched:
        """The kernel of ``graph`` and how it is launched."""
        if graph.name not in self._of_graph:
            region = Region.of(graph, self.program.ranges)
            made = self.make(region)
            own = Kernel(graph.name, made.symbol, made.source, _note(graph.nodes), made.build)
            kernel = self.kernels.setdefault(made.symbol, own)
            names = {f"n{k}": Sym.var(s) for k, s in enumerate(region.symbols)}
            work, *grid = (substitute(n, names) for n in (made.work, *made.grid))
            found = _Launched(kernel.name, tuple(names.values()), work, tuple(grid))
            self._of_graph[graph.name] = found
        return self._of_graph[graph.name]

    def copies(self) -> None:
        """Put outputs that were computed elsewhere where they belong."""
        for i, node in enumerate(self.program.entry.outputs):
            (place,) = self.places[node]
            if not self.same([place], (Output(i),)):
                self.steps.append(Copy(place, Output(i), node.tensor.nbytes))

    def same(self, a: Sequence[Ref], b: Sequence[Ref]) -> bool:
        """Whether these are the same memory."""
        return list(map(self._memory, a)) == list(map(self._memory, b))

    def _memory(self, ref: Ref) -> Ref:
        """An input that an output overwrites is that output."""
        if not isinstance(ref, Input):
            return ref
        over = self.program.facts[ref.index].overwritten
        return ref if over is None else Output(over)


def _tensors(type: Type) -> tuple[TensorType, ...]:
    return type.items if isinstance(type, TupleType) else (type,)


def _note(nodes: Iterable[Node]) -> str:
    return ", ".join(dict.fromkeys(str(n.loc) for n in nodes if n.loc is not None))
