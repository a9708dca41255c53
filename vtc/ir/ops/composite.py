"""Ops that stand for several others and stay whole while the target knows them.

A composite says how it decomposes; its type, its meaning and its gradient follow, where it does not
state a better gradient itself. This file holds the parent, and what its families share::

    y: bf16[B, 64] = softmax(x, axis=1)         # one op, computed in f32, rounded once
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from vtc.ir.dims import Size
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.graph import GraphBuilder, Node
from vtc.ir.op import Needs, Op, tensor_type
from vtc.ir.ops.batch import Lane, Sweep
from vtc.ir.ops.control import entry_of
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.reverse import reverse
from vtc.ir.steps import Recalled, Steps
from vtc.ir.types import Array, DType, TensorType, TupleType, Type

Results = Expr | tuple[Expr, ...]
Gradients = Sequence[Expr | None]


@dataclass(frozen=True)
class Composite(Op, abstract=True):
    """An op whose meaning is that of ``decompose``.

    In low precision it computes in f32 and rounds once. ``decompose`` is written over any dtype it
    is given; ``reference`` gives it widened arrays, and who expands a composite in a graph (the
    pass ``decompose``) calls ``expand``, which casts inputs up and results down.
    """

    arity: ClassVar[tuple[int, int]] = (1, 1)
    """The least and the greatest number of inputs."""

    @abc.abstractmethod
    def accept(self, *inputs: Any) -> None:
        """Raise TypeCheckError unless this op takes ``inputs``, which are TensorTypes."""

    @abc.abstractmethod
    def decompose(self, *inputs: Expr) -> Results:
        """The value in terms of other ops, in the dtype of the inputs."""

    def whole(self, *inputs: TensorType) -> bool:
        """Whether a target that keeps this op has a kernel for ``inputs``; else it is spelled
        out.
        """
        return True

    def expand(self, *inputs: Expr) -> Results:
        """``decompose`` in the accumulation dtype, with the casts around it."""
        out = self.decompose(*map(wide, inputs))
        type = self.infer(*(x.type for x in inputs))
        if isinstance(type, TupleType):
            pairs = zip(results(out), type.items, strict=True)
            return tuple(o.cast(t.dtype) for o, t in pairs)
        (one,) = results(out)
        return one.cast(type.dtype)

    def infer(self, *inputs: Type) -> Type:
        return _inferred(self, tuple(tensor_type(self, x) for x in inputs))

    def reference(self, *inputs: Array) -> Any:
        types = tuple(map(TensorType.of, inputs))
        steps = _KNOWN.find((self, types), lambda: recorded(self.decompose, types))
        if steps is not None:
            found = steps.run(inputs)
            return tuple(found) if len(found) > 1 else found[0]
        b = ArrayBuilder()
        out = self.decompose(*(Expr(b, x) for x in inputs))
        return tuple(o.value for o in out) if isinstance(out, tuple) else out.value

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Any:
        """``lifted``, or else what it is made of, for all examples."""
        out = super().batch(size, inputs, batched)
        return self.unfolded(size, inputs, batched) if out is NotImplemented else out

    def unfolded(self, size: Size, inputs: Exprs, batched: Needs) -> Results:
        """The results for ``size`` examples, of the ops this is made of."""
        b = GraphBuilder()
        pairs = list(zip(inputs, batched, strict=True))
        types = [x.tensor.with_shape(x.shape[1:]) if many else x.tensor for x, many in pairs]
        params = [b.param("x", t) for t in types]
        out = self.expand(*(Expr(b, p) for p in params))
        sweep = Sweep(inputs[0].builder, size)
        lanes = (Lane(x, many) for x, many in pairs)
        sweep.lanes.update(zip(params, lanes, strict=True))
        sweep.run(b.nodes)
        found = tuple(sweep.lanes[o.value].whole(size) for o in results(out))
        return found if isinstance(out, tuple) else found[0]

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Gradients:
        cotangents = g if isinstance(g, tuple) else (g,)
        return pullback(self.expand, inputs, cotangents, needs)


_KNOWN = Recalled()


def recorded(function: Callable[..., Results], types: Sequence[Type]) -> Steps:
    """``function`` of Exprs of these types, to be run on arrays."""
    b = GraphBuilder()
    params = [b.param("x", t) for t in types]
    out = results(function(*(Expr(b, p) for p in params)))
    return Steps(params, b.nodes, [o.value for o in out])


@lru_cache(maxsize=4096)
def _inferred(op: Composite, inputs: tuple[TensorType, ...]) -> Type:
    """Cached: every pass that rebuilds a graph asks again."""
    low, high = op.arity
    want = f"{low}" if low == high else f"{low} to {high}"
    op.check(low <= len(inputs) <= high, f"expected {want} inputs, got {len(inputs)}")
    op.accept(*inputs)
    b = GraphBuilder()
    out = op.decompose(*(Expr(b, b.param("x", x)) for x in inputs))
    types = tuple(o.tensor for o in results(out))
    return TupleType(types) if isinstance(out, tuple) else types[0]


def pullback(
    function: Callable[..., Results],
    inputs: Exprs,
    cotangents: Sequence[Expr | None],
    needs: Needs,
) -> Gradients:
    """The cotangents of ``inputs`` of ``function``, given those of its results (None: absent).

    The function and its reverse sweep are recorded first, and only what the answer needs is then
    applied, so a linear function is not computed again to be differentiated.
    """
    b = GraphBuilder()
    params = [b.param("x", x.type) for x in inputs]
    out = results(function(*(Expr(b, p) for p in params)))
    tape = [entry_of(n) for n in b.nodes]
    seeds = {
        o.value: (b.param("g", c.type), c.value)
        for o, c in zip(out, cotangents, strict=True)
        if c is not None
    }
    known = {p: x.value for p, x in zip(params, inputs, strict=True)} | dict(seeds.values())
    wrt = [p for p, needed in zip(params, needs, strict=True) if needed]
    heads = {o: Expr(b, p) for o, (p, _) in seeds.items()}
    found = reverse(tape, heads, wrt, lambda n: Expr(b, n))
    builder = inputs[0].builder
    _run(b.nodes, {e.value for e in found.values()}, known, builder)
    return [Expr(builder, known[found[p].value]) if p in found else None for p in params]


def _run(nodes: Sequence[Node], wanted: set[Node], known: dict[Node, Any], builder: Any) -> None:
    """Extend ``known``, the values of nodes, by ``wanted`` and what it takes to compute it."""
    alive = set(wanted)
    for n in reversed(nodes):
        if n in alive:
            alive.update(n.inputs)
    for n in nodes:
        if n in alive and n.op is not None:
            known[n] = builder.apply(n.op, *(known[i] for i in n.inputs))


def results(out: Results) -> tuple[Expr, ...]:
    """One result or several, as a tuple."""
    return out if isinstance(out, tuple) else (out,)


def wide(x: Expr) -> Expr:
    """``x`` in its accumulation dtype."""
    return x.cast(x.dtype.accumulate)


def narrow(inputs: Exprs, *gradients: Expr | None) -> Gradients:
    """``gradients`` in the dtypes of their inputs, None for inputs that have none."""
    pairs = zip(inputs, gradients, strict=False)
    found = [None if d is None else d.cast(x.dtype) for x, d in pairs]
    return found + [None] * (len(inputs) - len(gradients))


def at_least(op: Op, x: TensorType, rank: int) -> None:
    """TypeCheckError unless ``x`` has ``rank`` axes or more, and is of a floating-point dtype."""
    floating(op, x)
    op.check(x.rank >= rank, f"expected {rank} axes or more, got {x}")


def floating(op: Op, x: TensorType) -> None:
    """TypeCheckError unless ``x`` is of a floating-point dtype."""
    op.check(x.dtype.is_floating_point, f"expected a floating-point tensor, got {x}")


def as_precise(dtype: DType) -> tuple[DType, DType]:
    """The dtypes a second operand (a weight, an angle) may have beside ``dtype``: it, or f32."""
    return dtype, dtype.accumulate
