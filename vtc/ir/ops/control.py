"""Ops that name graphs, take results apart, mark where gradients begin and end, or say when.

g: (f32[4], f32[]) = gradient(loss, w, b)      # expanded by the pass ``differentiate``
dw: f32[4] = item(g, index=0)
t: f32[B, 4] = call(h, graph="k0", type=f32[B, 4])
x1: f32[B, 4] = checkpoint(x, segment=0, inward=True)
x2: f32[B, 4] = after(x, d_y)                  # x, for what is computed once d_y is known
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np

from vtc.errors import GradientError, TypeCheckError
from vtc.ir.dims import Size
from vtc.ir.evaluate import ArrayBuilder, Run, Value
from vtc.ir.graph import Graph, Node
from vtc.ir.op import Needs, Op, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.view import IndexMap
from vtc.ir.reverse import Entry, reverse
from vtc.ir.scalar import Index
from vtc.ir.types import Array, TensorType, TupleType, Type


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
        raise NotImplementedError

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Any]:
        """GradientError: zeros would be silently wrong. Markers are expanded innermost first."""
        raise GradientError(f"{self.name}: no gradient flows through {out.type}, expand it first")

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

    def infer(self, *inputs: Type) -> Type:
        return self.type

    def check_graphs(self, graphs: Mapping[str, Graph], inputs: Sequence[Type]) -> None:
        """The graph is defined before, takes the inputs, and gives ``type``."""
        self.check(self.graph in graphs, f"expected a graph defined above, got {self.graph!r}")
        callee = graphs[self.graph]
        takes = tuple(p.type for p in callee.params)
        wanted = f"{self.graph} expected {_listed(takes)}, got {_listed(inputs)}"
        self.check(takes == tuple(inputs), wanted)
        gives = self.type.items if isinstance(self.type, TupleType) else (self.type,)
        wanted = f"{self.graph} returns {_listed(callee.result)}, expected {self.type}"
        self.check(gives == callee.result, wanted)

    def evaluate(self, run: Run, node: Node) -> Value:
        """The callee's outputs."""
        out = run.call(self.graph, [run.env[i] for i in node.inputs])
        return out[0] if isinstance(self.type, TensorType) else cast("tuple[Array, ...]", out)


@final
@dataclass(frozen=True)
class Gradient(Control):
    """``gradient(y, *wrt)``: the cotangents of ``wrt``, a tuple; with ``seeded``, ``gradient(y,
    seed, *wrt)``.

    What ``y`` does not depend on gets zeros. ``differentiate`` replaces the marker by the reverse
    sweep.
    """

    seeded: bool = False

    def infer(self, *inputs: Type) -> Type:
        y, *rest = (tensor_type(self, i) for i in inputs)
        if self.seeded:
            seed, *rest = rest
            self.check(seed == y, f"expected a seed of type {y}, got {seed}")
        else:
            self.check(y.shape == (), f"expected a scalar, got {y}")
        self.check(y.dtype.kind == "float", f"expected a floating-point value, got {y}")
        return TupleType(tuple(rest))

    def expand(
        self, nodes: Sequence[Node], inputs: Sequence[Node], expr: Any, enter: Any = None
    ) -> list[Expr]:
        """The cotangents, by a reverse sweep over ``nodes``; ``expr`` gives the Expr of a node."""
        y, *rest = inputs
        seed = expr(rest.pop(0)) if self.seeded else expr(y).like(1)
        found = reverse(
            [entry_of(n) for n in nodes if n.op is not None],
            {y: seed},
            rest,
            expr,
            *([enter] if enter else []),
        )
        return [found[w] if w in found else expr(w).zeros() for w in rest]

    def evaluate(self, run: Run, node: Node) -> Value:
        """The sweep, on arrays."""
        b = ArrayBuilder(run.precision)
        done = [n for n in run.graph.nodes if n in run.env]
        out = self.expand(done, node.inputs, lambda n: Expr(b, run.env[n]))
        return tuple(e.value for e in out)


def _listed(types: Sequence[Type]) -> str:
    return f"({', '.join(map(str, types))})"


def entry_of(node: Node) -> Entry[Node]:
    """``node`` as a tape entry."""
    if node.op is None:
        raise TypeCheckError(f"{node.name} is a parameter")
    return Entry(node.op, node, node.inputs, node.op.index if isinstance(node.op, Item) else None)
