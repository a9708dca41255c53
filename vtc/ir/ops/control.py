"""Ops that name graphs, take results apart, mark where gradients begin and end, or say when.

g: (f32[4], f32[]) = gradient(loss, w, b)      # expanded by the pass ``differentiate``
dw: f32[4] = item(g, index=0)
t: f32[B, 4] = call(h, graph="k0", type=f32[B, 4])
x1: f32[B, 4] = checkpoint(x, segment=0, inward=True)
x2: f32[B, 4] = after(x, d_y)                  # x, for what is computed once d_y is known
y1: f32[B, 4] = custom(y, x, w)                # y, a function of x and w with its own gradient
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast, final

import numpy as np

from vtc.errors import GradientError, TypeCheckError, at_line
from vtc.ir.dims import Size
from vtc.ir.evaluate import ArrayBuilder, Run, Value
from vtc.ir.graph import Graph, Loc, Names, Node
from vtc.ir.op import Needs, Op, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.view import IndexMap
from vtc.ir.reverse import Entry, reverse
from vtc.ir.scalar import Index
from vtc.ir.types import Array, TensorType, TupleType, Type, tensors

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Item(Op):
    """One of several results."""

    index: int
    moves = True

    def infer(self, x: Type) -> Type:
        if not isinstance(x, TupleType) or not 0 <= self.index < len(x.items):
            raise TypeCheckError(f"item: no result {self.index} in {x}")
        return x.items[self.index]

    def reference(self, x: tuple[Array, ...]) -> Array:
        return x[self.index]

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """None alone: several results come from other ops."""
        yield from ()


@final
@dataclass(frozen=True)
class StopGradient(Op):
    """The same value, through which no gradient flows."""

    moves = True

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def infer(self, x: Type) -> Type:
        return tensor_type(self, x)

    def reference(self, x: Array) -> Array:
        return x

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """A tensor."""
        yield Sample(cls(), (rng.normal(size=(2, 3)).astype(np.float32),), smooth=False)


@final
@dataclass(frozen=True)
class Custom(Op):
    """The first operand, as a function of the others whose gradient the user's code computes.

    It only says what depends on what: who asks for gradients meets the hooks that call that code.
    """

    moves = True

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def infer(self, y: Type, *inputs: Type) -> Type:
        for x in inputs:
            tensor_type(self, x)
        return tensor_type(self, y)

    def reference(self, y: Array, *inputs: Array) -> Array:
        return y

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        """Zeros, in whose place the user's gradients come."""
        return (
            None,
            *(x.zeros() if n else None for x, n in zip(inputs[1:], needs[1:], strict=True)),
        )

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """A function of two tensors."""
        y, x, w = draw.normal(rng, 2, 3), draw.normal(rng, 2), draw.normal(rng)
        yield Sample(cls(), (y, x, w), smooth=False)


@final
@dataclass(frozen=True)
class Checkpoint(IndexMap):
    """The same value on the other side of the border of ``segment``: ``inward``, or out of it.

    Of what lies between, nothing is kept for the gradient: ``differentiate`` computes it again. Its
    values are those that depend on what was marked ``inward``.
    """

    segment: int
    inward: bool

    def infer(self, x: Type) -> TensorType:
        return tensor_type(self, x)

    def reference(self, x: Array) -> Array:
        return x

    def source(self, index: Index, x: TensorType, out: TensorType) -> Index:
        return index

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (g,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """Both ways."""
        for inward in (True, False):
            yield Sample(cls(segment=0, inward=inward), (draw.normal(rng, 2, 3),))


@dataclass(frozen=True)
class Control(Op, abstract=True):
    """An op whose meaning needs the program around it: it says ``evaluate(run, node)``."""

    def reference(self, *inputs: Any) -> Any:
        raise TypeCheckError(f"{self.name} has no meaning outside a program")

    def evaluate(self, run: Run, node: Node) -> Value:
        """The value of ``node``, an application of this op, in a running graph."""
        return self.compute(run, [run.env[i] for i in node.inputs])

    def compute(self, run: Run, values: Sequence[Value]) -> Value:
        """The value of this op on ``values``, with the graphs of ``run``."""
        raise NotImplementedError

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """GradientError: zeros would be silently wrong. Markers are expanded innermost first."""
        raise GradientError(f"{self.name}: no gradient flows through {out.type}, expand it first")

    def gradient(
        self, library: Library, g: Any, out: Any, inputs: Any, needs: Needs
    ) -> Sequence[Any]:
        """What ``vjp`` gives, where the graphs that this names are at hand and may be added to."""
        del library
        return self.vjp(g, out, inputs, needs)

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """TypeCheckError unless the graphs this names are among ``graphs`` and take ``inputs``."""

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """None: needs a program."""
        yield from ()


@final
@dataclass(frozen=True)
class After(Control):
    """The first operand, for a computation that must not begin before the second is known.

    What computes a value again reads through this, so that it is neither merged with what computed
    it first nor done at once. The pass ``release`` drops it when calls are in order.
    """

    moves = True

    def infer(self, x: Type, event: Type) -> TensorType:
        tensor_type(self, event)
        return tensor_type(self, x)

    def reference(self, x: Array, event: Array) -> Array:
        return x

    def batch(self, size: Size, inputs: Any, batched: Needs) -> Any:
        """The event stays as it is."""
        x, event = inputs
        return (x if batched[0] else x.expand((0,), (size,))).apply(self, event)

    def evaluate(self, run: Run, node: Node) -> Value:
        """The first operand."""
        return run.env[node.inputs[0]]

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The event has none."""
        return g, None

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """Operands of one shape, and of two."""
        yield Sample(cls(), (draw.normal(rng, 2, 3), draw.normal(rng, 2, 3)))
        yield Sample(cls(), (draw.normal(rng, 2, 3), draw.normal(rng)))


@final
@dataclass(frozen=True)
class Call(Control):
    """Run another graph of the program; several outputs are a tuple.

    ``type`` is the type of the result; ``at`` says where each result lies once memory is planned:
    an offset in the arena, or (negative) an output or param, as :mod:`vtc.ir.plan` spells out.
    """

    graph: str
    type: Type
    at: tuple[Size, ...] = ()

    @property
    def places(self) -> tuple[Size, ...]:
        """Where the results lie."""
        return self.at

    def infer(self, *inputs: Type) -> Type:
        return self.type

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """The graph is defined before, takes the inputs, and gives ``type``."""
        self.check(self.graph in graphs, f"expected a graph defined above, got {self.graph!r}")
        callee = graphs[self.graph]
        takes = tuple(p.type for p in callee.params)
        wanted = f"{self.graph} expected {listed(takes)}, got {listed(inputs)}"
        self.check(takes == tuple(inputs), wanted)
        wanted = f"{self.graph} returns {listed(callee.result)}, expected {self.type}"
        self.check(tensors(self.type) == callee.result, wanted)

    def compute(self, run: Run, values: Sequence[Value]) -> Value:
        """The callee's outputs."""
        out = run.call(self.graph, values)
        return out[0] if isinstance(self.type, TensorType) else cast("tuple[Array, ...]", out)


@final
@dataclass(frozen=True)
class Gradient(Control):
    """``gradient(y, *wrt)``: the cotangents of ``wrt``, a tuple; with ``seeded``, ``gradient(y,
    seed, *wrt)``; with several ``roots``, ``gradient(y0, y1, seed0, seed1, *wrt)``.

    What ``y`` does not depend on gets zeros. With ``cut``, nothing flows on through ``wrt``: what
    lies below them is the business of another marker. ``differentiate`` replaces the marker by the
    reverse sweep.
    """

    seeded: bool = False
    roots: int = 1
    cut: bool = False

    def infer(self, *inputs: Type) -> Type:
        types = [tensor_type(self, i) for i in inputs]
        wrt = self.wrt(types)
        self.check(0 < self.roots <= len(types), f"expected {self.roots} roots")
        seeds = types[self.roots : len(types) - len(wrt)]
        for k, y in enumerate(types[: self.roots]):
            if self.seeded:
                seed = seeds[k] if k < len(seeds) else None
                self.check(seed == y, f"expected a seed of type {y}, got {seed}")
            else:
                self.check(y.shape == (), f"expected a scalar, got {y}")
            self.check(y.dtype.kind == "float", f"expected a floating-point value, got {y}")
        return TupleType(tuple(wrt))

    def wrt(self, inputs: Sequence[T]) -> Sequence[T]:
        """Those of its operands that it takes the gradient with respect to."""
        return inputs[self.roots * (2 if self.seeded else 1) :]

    def expand(
        self,
        nodes: Sequence[Node],
        inputs: Sequence[Node],
        expr: Any,
        enter: Any = None,
        *,
        library: Library | None = None,
    ) -> list[Expr]:
        """The cotangents, by a reverse sweep over ``nodes``; ``expr`` gives the Expr of a node.

        ``library`` has the graphs that ``nodes`` name.
        """
        wrt = self.wrt(inputs)
        cut = frozenset(wrt) if self.cut else frozenset()
        seeds: dict[Node, Expr] = {}
        for k, y in enumerate(inputs[: self.roots]):
            seed = expr(inputs[self.roots + k]) if self.seeded else expr(y).like(1)
            seeds[y] = seeds[y] + seed if y in seeds else seed
        found = reverse(
            [entry_of(n, library) for n in nodes if n.op is not None and n not in cut],
            seeds,
            wrt,
            expr,
            *([enter] if enter else []),
        )
        return [found[w] if w in found else expr(w).zeros() for w in wrt]

    def evaluate(self, run: Run, node: Node) -> Value:
        """The sweep, on arrays."""
        library = Library(run.program.graphs)
        b = _Running(run, library)
        done = [n for n in run.graph.nodes if n in run.env]
        out = self.expand(done, node.inputs, lambda n: Expr(b, run.env[n]), library=library)
        return tuple(e.value for e in out)


def listed(types: Sequence[Type]) -> str:
    """Types as several results are printed."""
    return f"({', '.join(map(str, types))})"


def entry_of(node: Node, library: Library | None = None) -> Entry[Node]:
    """``node`` as a tape entry; ``library`` has the graphs that it may name."""
    if node.op is None:
        raise TypeCheckError(f"{node.name} is a parameter")
    op: Any = node.op
    if library is not None and isinstance(op, Control):
        op = _Bound(op, library, node.loc)
    index = node.op.index if isinstance(node.op, Item) else None
    return Entry(op, node, node.inputs, index)


@final
class Library:
    """Graphs by name, to which gradients add theirs."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self._made: list[Graph] = []
        self._graphs = {g.name: g for g in graphs}
        self._names = Names()
        for name in self._graphs:
            self._names.fresh(name)

    def __getitem__(self, name: str) -> Graph:
        return self._graphs[name]

    def add(self, graph: Graph) -> str:
        """Keep ``graph``, under a name that is free: its own if possible."""
        kept = replace(graph, name=self._names.fresh(graph.name))
        self._graphs[kept.name] = kept
        self._made.append(kept)
        return kept.name

    def replace(self, graph: Graph) -> None:
        """``graph`` takes the place of the one with its name."""
        self._graphs[graph.name] = graph

    def take(self) -> list[Graph]:
        """What was added since this was last asked."""
        made, self._made = self._made, []
        return made

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """All of them."""
        return tuple(self._graphs.values())


@final
@dataclass(frozen=True, slots=True)
class _Bound:
    """A control op on a tape, with the graphs that it names."""

    op: Control
    library: Library
    loc: Loc | None

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """The cotangents of its inputs; an error names the user's line."""
        try:
            return self.op.gradient(self.library, g, out, inputs, needs)
        except GradientError as e:
            if self.loc is None or "\n" in str(e):
                raise
            where = self.loc.file, self.loc.line, self.loc.module
            raise GradientError(at_line(str(e), *where)) from None


@final
@dataclass(frozen=True, slots=True)
class _Running:
    """The Builder that computes within a running graph, where control ops have a meaning too."""

    run: Run
    library: Library

    def apply(self, op: Op, *inputs: Value, hint: str = "") -> Value:
        """``op`` on arrays."""
        plain = ArrayBuilder(self.run.precision)
        if not isinstance(op, Control) or isinstance(op, After):
            return plain.apply(op, *inputs, hint=hint)
        program = replace(self.run.program, graphs=self.library.graphs)
        return op.compute(replace(self.run, program=program), inputs)

    def type_of(self, value: Value) -> Type:
        """The type of an array, or of a tuple of arrays."""
        return ArrayBuilder(self.run.precision).type_of(value)
