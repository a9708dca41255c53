"""Gradient rules as ops: what goes back through one application of an op, as one program.

    Pullback(Mul(), (True, True))      # of (g, out, x, y): (g * y, g * x)

They are no ops of the IR's text: eager code runs them, spelled out in a program or on arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np

from vtc.ir.dims import Size
from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.op import Needs, Op, Sample, tensor_type
from vtc.ir.ops.expr import Expr
from vtc.ir.steps import Steps
from vtc.ir.types import Array, TensorType, TupleType, Type


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """An elementwise ``op`` on operands that are repeated to one shape."""

    op: Op

    @property
    def name(self) -> str:
        """The op's."""
        return self.op.name

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Needs) -> Sequence[Expr | None]:
        """The op's gradients, summed where operands were repeated."""
        wide = tuple([x.broadcast_to(out.shape) for x in inputs])
        found = self.op.vjp(g, out, wide, needs)
        return [
            None if d is None else _summed(d, x.shape) for x, d in zip(inputs, found, strict=True)
        ]


def _summed(d: Expr, shape: Sequence[Size]) -> Expr:
    """Undo ``broadcast_to`` in shape: add what was repeated."""
    extra = d.rank - len(shape)
    ones = [extra + a for a, n in enumerate(shape) if n == 1 and d.shape[extra + a] != 1]
    axes = (*range(extra), *ones)
    return d.sum(axes).reshape(shape) if axes else d


@final
@dataclass(frozen=True)
class Rule:
    """A gradient rule, recorded. ``steps`` gives the gradients (each once), ``places`` says which
    is that of which input, and ``made`` are those that are not among what the rule is given.
    """

    steps: Steps
    places: tuple[int | None, ...]
    made: tuple[Node, ...]


@final
@dataclass(frozen=True)
class Pullback(Op, abstract=True):
    """The gradients that ``op`` gives its inputs, where ``needs`` asks for them: of its result's
    gradient, its result and the inputs; but for gradients that are among these.
    """

    op: Op | Spread
    needs: Needs
    name = "pullback"

    def spell(self, b: GraphBuilder, given: Sequence[Node]) -> tuple[list[Node | None], list[Node]]:
        """The gradient of each input, and those that have to be computed, each once."""
        g, out, *inputs = [Expr(b, n) for n in given]
        found = self.op.vjp(g, out, tuple(inputs), self.needs)
        gradients = [
            (x.zeros() if d is None else d).value if needed else None
            for x, needed, d in zip(inputs, self.needs, found, strict=True)
        ]
        own = [d for d in dict.fromkeys(gradients) if d is not None and d not in given]
        return gradients, own

    def infer(self, *inputs: Type) -> TupleType:
        made = rule_of(self, tuple([tensor_type(self, x) for x in inputs])).made
        return TupleType(tuple([n.tensor for n in made]))

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        steps = rule_of(self, tuple(map(TensorType.of, inputs))).steps
        pairs = zip(steps.outputs, steps.run(inputs), strict=True)
        return tuple([x for at, x in pairs if at >= len(inputs)])

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        """None of its own: those of the ops whose rules these are."""
        yield from ()


@lru_cache(maxsize=4096)
def rule_of(op: Pullback, types: tuple[TensorType, ...]) -> Rule:
    """``op`` for what it is given."""
    b = GraphBuilder()
    given = [b.param("x", t) for t in types]
    gradients, own = op.spell(b, given)
    outputs = [d for d in dict.fromkeys(gradients) if d is not None]
    places = tuple([None if d is None else outputs.index(d) for d in gradients])
    return Rule(Steps(given, b.nodes, outputs), places, tuple(own))
