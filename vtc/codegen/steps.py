"""Planned programs to plans: where every value lies, and the launches and copies in order.

What a kernel is, a target says: ``planned(program, target, make)`` asks ``make`` for the kernels of
each distinct region, which run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import final

from vtc.codegen.flow import Frame, flow_step
from vtc.codegen.hazards import EVERYTHING, Hazards, Use
from vtc.codegen.region import Region
from vtc.codegen.sizes import Facts
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, bounds, maximum, substitute
from vtc.ir.graph import Graph, Node, Program
from vtc.ir.ops.bodies import body_program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.flow import Flow, ForLoop, WhileLoop
from vtc.ir.ops.pieces import pieces
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
from vtc.ir.types import tensors


@final
@dataclass(frozen=True, slots=True)
class Made:
    """A kernel of a region; ``work`` and ``grid`` are those of its launch, in its own sizes.

    ``args`` are the pointers of the region that it takes, params first and then outputs, and
    ``symbols`` what the program calls its sizes; None stands for all. Then come pointers to
    ``scratch`` memory of so many bytes each, which lasts until the last kernel of the region. With
    ``copies`` it does nothing but copy that param, and is not launched where the output lies in it.
    """

    symbol: str
    source: str
    work: Size = 0
    grid: tuple[Size, ...] = ()
    build: Build | None = None
    args: tuple[int, ...] | None = None
    symbols: tuple[str, ...] | None = None
    copies: int | None = None
    scratch: tuple[Size, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class _Launched:
    """A kernel by name, and what its launches have."""

    kernel: str
    sizes: tuple[Size, ...]
    work: Size
    grid: tuple[Size, ...]
    args: tuple[int, ...] | None
    copies: int | None
    scratch: tuple[Size, ...]


Make = Callable[[Region], Sequence[Made]]


def planned(program: Program, target: Target, make: Make) -> Plan:
    """The plan of a ``planned`` program, without a host program."""
    entry = program.entry
    writer = _Writer(program, target, make)
    writer.write()
    inputs = zip(entry.params, program.facts, strict=True)
    return Plan(
        name=entry.name,
        dims=program.dims,
        inputs=tuple(
            Buffer(p.tensor.dtype, p.tensor.shape, f.path, f.overwritten) for p, f in inputs
        ),
        outputs=tuple(Buffer(o.tensor.dtype, o.tensor.shape) for o in entry.outputs),
        arena=writer.arena,
        kernels=tuple(writer.kernels.values()),
        steps=tuple(writer.steps),
        target=target.name,
        after=tuple(writer.after),
    )


@final
@dataclass
class _Writer:
    """Collects kernels and steps in the order of the entry; ``values`` is the end of all values.

    ``after``: for each step, those that it waits for.
    """

    program: Program
    target: Target
    make: Make
    places: dict[Node, tuple[Ref, ...]] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    after: list[tuple[int, ...]] = field(default_factory=list)
    values: Size = 0
    _loops: Iterator[int] = field(default_factory=count)
    _of_graph: dict[str, tuple[_Launched, ...]] = field(default_factory=dict)
    _hazards: Hazards = field(default_factory=Hazards)
    _known: Facts = field(init=False)
    _ends: list[Size] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._known = Facts({d.name: (d.min, d.max) for d in self.program.dims})
        for i, param in enumerate(self.program.entry.params):
            self.places[param] = (Input(i),)

    def write(self) -> None:
        """All steps."""
        for node in self.program.entry.nodes:
            self.place(node)
        self.values = self.arena
        for node in self.program.entry.nodes:
            match node.op:
                case Call(graph=graph):
                    self.call(node, self.program.by_name[graph])
                case Flow():
                    self.flow(node, node.op)
        self.copies()

    def place(self, node: Node) -> None:
        """Where the results of ``node`` are."""
        match node.op:
            case Item(index=index):
                self.places[node] = (self.places[node.inputs[0]][index],)
            case Call() | Flow():
                self.places[node] = tuple(map(self.ref, node.op.places))
                self.room(node)
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
        results = tensors(node.type)
        if len(results) != len(self.places[node]):
            want = f"expected a place for each result of {node.name}: {node.type}"
            raise CodegenError(f"place: {want}, got {len(self.places[node])}")
        for ref, type in zip(self.places[node], results, strict=True):
            if isinstance(ref, Arena):
                self.grow(ref.offset + (self.most(type.nbytes) + 63) // 64 * 64)

    def grow(self, end: Size) -> None:
        """Make the arena reach to ``end``: one of the ends of which none is sure to be the last."""
        end = self._known.simplify(end)
        if not any(e == end or self._known.at_least(e - end, 0) for e in self._ends):
            self._ends = [e for e in self._ends if not self._known.at_least(end - e, 0)] + [end]

    @property
    def arena(self) -> Size:
        """The bytes of the arena. Many ends are compared in pairs: expressions stay flat."""
        ends = self._ends or [0]
        while len(ends) > 1:
            pairs = zip_longest(ends[::2], ends[1::2], fillvalue=0)
            ends = [a if b == 0 else maximum(a, b) for a, b in pairs]
        return ends[0]

    def most(self, size: Size) -> Size:
        """The most that ``size`` can be; itself where there is no such number."""
        most = bounds(size, self.program.ranges)[1]
        return size if most is None else most

    def call(self, node: Node, graph: Graph) -> None:
        """The launches of the kernels of ``graph``, but of those whose result is there already."""
        results = self.places[node]
        inputs = [self.places[i][0] for i in node.inputs]
        moves = len(results) == 1 and all(isinstance(n.op, Reshape) for n in graph.nodes)
        if moves and any(self.same([i], results) for i in inputs):
            return
        if self.joined(inputs, pieces(graph), results):
            return
        note = "" if node.loc is None else str(node.loc)
        args = (*inputs, *results)
        uses = [self.use(i, n.tensor.nbytes) for i, n in zip(inputs, node.inputs, strict=True)]
        types = tensors(node.type)
        uses += [self.use(r, t.nbytes, writes=True) for r, t in zip(results, types, strict=True)]
        for one in self.launched(graph):
            if one.copies is not None and self.same([inputs[one.copies]], results):
                continue
            which = range(len(args)) if one.args is None else one.args
            scratch = tuple(self.scratch(one.scratch))
            own = (*(args[k] for k in which), *scratch)
            beside = zip(scratch, one.scratch, strict=True)
            touched = [uses[k] for k in which] + [self.use(r, n, writes=True) for r, n in beside]
            step = Launch(one.kernel, own, one.sizes, note, one.work, one.grid)
            self.step(step, touched)

    def flow(self, node: Node, op: Flow) -> None:
        """A loop or a branch, with the steps of the graphs that it runs.

        These have a frame of the arena behind all values. What a loop carries lies, from the start,
        where the results are.
        """
        results, inputs = self.places[node], [self.places[i][0] for i in node.inputs]
        types = [t.nbytes for t in tensors(node.type)]
        uses = [self.use(i, n.tensor.nbytes) for i, n in zip(inputs, node.inputs, strict=True)]
        written = [self.use(r, n, writes=True) for r, n in zip(results, types, strict=True)]
        for k in range(op.carried if isinstance(op, ForLoop | WhileLoop) else 0):
            if not self.same([inputs[k]], [results[k]]):
                self.step(Copy(inputs[k], results[k], types[k]), [uses[k], written[k]])
        frame = Frame(self.values, self.target)
        note = "" if node.loc is None else str(node.loc)
        step = flow_step(op, inputs, results, node, frame, self.steps_of, self._loops, note)
        self.grow(frame.end)
        whole = self.use(Arena(frame.start), frame.end - frame.start, writes=True)
        self.step(step, [*uses, *written, whole])

    def steps_of(self, name: str, carried: int) -> tuple[tuple[Step, ...], Size]:
        """The steps of the graph called ``name`` as an entry, and the arena that they need."""
        inner = _Writer(
            body_program(self.program, name, carried),
            self.target,
            self.make,
            kernels=self.kernels,
            _loops=self._loops,
            _of_graph=self._of_graph,
        )
        inner.write()
        return tuple(inner.steps), inner.arena

    def step(self, step: Step, uses: Sequence[Use]) -> None:
        """One more step, which touches memory as ``uses`` say."""
        self.steps.append(step)
        self.after.append(self._hazards.add(uses))

    def use(self, ref: Ref, nbytes: Size, *, writes: bool = False) -> Use:
        """The use of ``nbytes`` at ``ref``; of all of the arena where it is not known which."""
        where = self._memory(ref)
        if not isinstance(where, Arena):
            return Use(where, writes=writes)
        end = where.offset + self.most(nbytes)
        if isinstance(where.offset, int) and isinstance(end, int):
            return Use("arena", where.offset, max(end, where.offset + 1), writes=writes)
        return Use("arena", 0, EVERYTHING, writes=writes)

    def joined(self, inputs: Sequence[Ref], pieces: Sequence[int], results: Sequence[Ref]) -> bool:
        """Whether ``inputs`` lie one after another where the result is to be."""
        (*_, whole) = results
        return bool(pieces) and all(
            isinstance(whole, Arena) and i == Arena(whole.offset + at)
            for i, at in zip(inputs, pieces, strict=True)
        )

    def scratch(self, sizes: Iterable[Size]) -> Iterator[Ref]:
        """Memory behind all values, which all regions share: they run one after the other."""
        at = self.values
        for size in sizes:
            yield Arena(at)
            at = at + (self.most(size) + 63) // 64 * 64
            self.grow(at)

    def launched(self, graph: Graph) -> tuple[_Launched, ...]:
        """The kernels of ``graph`` and how they are launched."""
        if graph.name not in self._of_graph:
            region = Region.of(graph, self.program.ranges)
            made = enumerate(self.make(region))
            self._of_graph[graph.name] = tuple(self.kernel(region, k, m) for k, m in made)
        return self._of_graph[graph.name]

    def kernel(self, region: Region, k: int, made: Made) -> _Launched:
        """Kernel ``k`` of ``region``; the first one has its name."""
        name = f"{region.graph.name}.{k}" if k else region.graph.name
        own = Kernel(name, made.symbol, made.source, _note(region.graph.nodes), made.build)
        kernel = self.kernels.setdefault(made.symbol, own)
        symbols = region.symbols if made.symbols is None else made.symbols
        names = {f"n{i}": Sym.var(s) for i, s in enumerate(symbols)}
        return _Launched(
            kernel=kernel.name,
            sizes=tuple(names.values()),
            work=substitute(made.work, names),
            grid=tuple(substitute(n, names) for n in made.grid),
            args=made.args,
            copies=made.copies,
            scratch=tuple(substitute(n, names) for n in made.scratch),
        )

    def copies(self) -> None:
        """Put outputs that were computed elsewhere where they belong."""
        for i, node in enumerate(self.program.entry.outputs):
            (place,) = self.places[node]
            if not self.same([place], (Output(i),)):
                nbytes = node.tensor.nbytes
                uses = [self.use(place, nbytes), self.use(Output(i), nbytes, writes=True)]
                self.step(Copy(place, Output(i), nbytes), uses)

    def same(self, a: Sequence[Ref], b: Sequence[Ref]) -> bool:
        """Whether these are the same memory."""
        return list(map(self._memory, a)) == list(map(self._memory, b))

    def _memory(self, ref: Ref) -> Ref:
        """An input that an output overwrites is that output."""
        if not isinstance(ref, Input):
            return ref
        over = self.program.facts[ref.index].overwritten
        return ref if over is None else Output(over)


def _note(nodes: Iterable[Node]) -> str:
    return ", ".join(dict.fromkeys(str(n.loc) for n in nodes if n.loc is not None))
