"""Planned programs to C: one source per distinct kernel and one for the host, compiled into one
library.

    plan = generate(program, target)
    library = compile_plan(plan, find_compiler(), store)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, final

from vtc.codegen.compiler import Compiler, Crew, find_compiler
from vtc.codegen.families import spec_of
from vtc.codegen.host import host
from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.sizes import Facts
from vtc.errors import CodegenError
from vtc.ir.dims import Size, Sym, bounds, maximum, substitute
from vtc.ir.graph import Graph, Node, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.view import Reshape
from vtc.ir.plan import Arena, Buffer, Copy, Input, Kernel, Launch, Output, Plan, Ref, Step, check
from vtc.ir.target import Target
from vtc.ir.types import TensorType, TupleType, Type

__all__ = ["Compiler", "Store", "compile_plan", "compile_pool", "find_compiler", "generate"]


class Store(Protocol):
    """Files by key; see :mod:`vtc.runtime.cache`."""

    def find(self, key: str) -> Path | None:
        """The file stored under ``key``; None if there is none, or none that is undamaged."""

    def make(self, key: str, write: Callable[[Path], None], suffix: str = "") -> Path:
        """The file stored under ``key``; where there is none, ``write(path)`` makes it first."""


def generate(program: Program, target: Target) -> Plan:
    """The plan of a ``planned`` program; CodegenError where C has no kernel for a region."""
    if target.kind != "cpu":
        raise CodegenError(f"generate: expected a cpu target, got {target.name} ({target.kind})")
    entry = program.entry
    writer = _Writer(program)
    for node in entry.nodes:
        writer.node(node)
    writer.copies()
    facts = Facts({d.name: (d.min, d.max) for d in program.dims})
    inputs = zip(entry.params, program.facts, strict=True)
    plan = Plan(
        name=entry.name,
        dims=program.dims,
        inputs=tuple(
            Buffer(p.tensor.dtype, p.tensor.shape, f.path, f.overwritten) for p, f in inputs
        ),
        outputs=tuple(Buffer(o.tensor.dtype, o.tensor.shape) for o in entry.outputs),
        arena=facts.simplify(writer.arena),
        kernels=tuple(writer.kernels.values()),
        steps=tuple(writer.steps),
    )
    return check(replace(plan, host=host(plan)))


def compile_plan(plan: Plan, compiler: Compiler, store: Store) -> Path:
    """The shared library of ``plan``. CompilerError with the compiler's words if it fails."""
    units = [_Unit(plan.host, f"in the host program of {plan.name}")]
    units += (_Unit(k.source, _about(k)) for k in plan.kernels)
    keys = {u.source: compiler.key("object", u.source) for u in units}
    key = compiler.key("library", *keys.values())
    found = store.find(key)
    if found is not None:
        return found
    with Crew() as crew:

        def compiled(unit: _Unit) -> Path:
            def write(path: Path) -> None:
                compiler.compile(unit.source, path, crew, unit.about)

            return store.make(keys[unit.source], write, ".o")

        # The longest first: no thread is left alone with it at the end.
        ordered = sorted(units, key=lambda u: -len(u.source))
        objects = dict(zip((u.source for u in ordered), crew.map(compiled, ordered), strict=True))
        return _linked(key, [objects[source] for source in keys], compiler, store, crew)


def compile_pool(compiler: Compiler, store: Store) -> Path:
    """The shared library with the thread pool, ``vtc_pool``; see ``pool.c.jinja``."""
    source = render("pool")
    key = compiler.key("pool", source)
    found = store.find(key)
    if found is not None:
        return found
    with Crew() as crew:

        def compiled(source: str) -> Path:
            about = "in the thread pool"
            return store.make(
                compiler.key("object", source),
                lambda path: compiler.compile(source, path, crew, about),
                ".o",
            )

        return _linked(key, crew.map(compiled, [source]), compiler, store, crew)


@final
@dataclass(frozen=True, slots=True)
class _Unit:
    """A source, and what an error says about it."""

    source: str
    about: str


def _about(kernel: Kernel) -> str:
    first, *more = kernel.note.split(", ")
    others = f" and {len(more)} more lines" if more else ""
    where = f"at {first}{others}" if first else "at an unknown line"
    return f"in kernel {kernel.name} ({kernel.symbol})\n{where}"


def _linked(
    key: str, objects: Sequence[Path], compiler: Compiler, store: Store, crew: Crew
) -> Path:
    """The library of ``objects``, made by the crew: an interrupt does not reach its threads."""

    def link(key: str) -> Path:
        return store.make(key, lambda path: compiler.link(objects, path, crew), ".so")

    (library,) = crew.map(link, [key])
    return library


@final
@dataclass
class _Writer:
    """Collects kernels and steps in the order of the entry."""

    program: Program
    places: dict[Node, tuple[Ref, ...]] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    arena: Size = 0
    _of_graph: dict[str, tuple[str, tuple[Size, ...], Size]] = field(default_factory=dict)

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
        kernel, sizes, work = self.kernel(graph)
        note = "" if node.loc is None else str(node.loc)
        self.steps.append(Launch(kernel, (*inputs, *results), sizes, note, work))

    def kernel(self, graph: Graph) -> tuple[str, tuple[Size, ...], Size]:
        """The name of the kernel of ``graph``, the dims it takes, and its work."""
        if graph.name not in self._of_graph:
            region = Region.of(graph, self.program.ranges)
            spec = spec_of(region)
            name = symbol(spec.template, spec)
            source = render(spec.template, symbol=name, spec=spec)
            made = Kernel(graph.name, name, source, _note(graph.nodes))
            kernel = self.kernels.setdefault(name, made)
            names = {f"n{k}": Sym.var(s) for k, s in enumerate(region.symbols)}
            work = substitute(spec.head.parts.work, names) if spec.head.parts else 0
            self._of_graph[graph.name] = kernel.name, tuple(names.values()), work
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
