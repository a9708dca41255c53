"""First and second gradients of one op, as a program to evaluate.

``sum(y * c)`` over the results ``y`` that are floats is differentiated with respect to the inputs
that vary, giving ``g``; then ``sum(g * d)`` again, giving ``h``. ``c`` and ``d`` are fixed random
weights.
"""

from dataclasses import dataclass

import numpy as np

from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.control import entry_of
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import reverse
from vtc.ir.types import TensorType, TupleType


@dataclass(frozen=True)
class Sweep:
    """``varying`` numbers the inputs that vary; ``c`` and ``d`` are the weights."""

    program: Program
    varying: tuple[int, ...]
    c: list
    d: list

    def run(self, *arrays):
        """``y``, ``g``, ``h`` (zeros where there is no gradient) and the two sums."""
        out = list(evaluate(self.program, *arrays, *self.c, *self.d))
        first, second = out.pop(0), out.pop(0)
        m, n = len(self.c), len(self.d)
        return out[:m], out[m : m + n], out[m + n :], first, second


def sweep(op, arrays, varying=None):
    """The program for ``op`` on inputs like ``arrays``; ``varying``: which vary, or all floats."""
    if varying is None:
        varying = tuple(i for i, a in enumerate(arrays) if a.dtype.kind == "f")
    rng, b = np.random.default_rng(7), GraphBuilder()
    xs = [Expr(b, b.param(f"x{i}", TensorType.of(a))) for i, a in enumerate(arrays)]
    y = xs[0].apply(op, *xs[1:])
    ys = [y.item(i) for i in range(len(y.type.items))] if isinstance(y.type, TupleType) else [y]
    ys = [e for e in ys if e.dtype.kind == "float"] if len(ys) > 1 else ys
    wrt = [xs[i] for i in varying]
    c, d = ([rng.normal(size=e.shape) for e in es] for es in (ys, wrt))
    cs, ds = (
        [Expr(b, b.param(name, e.tensor.with_dtype(e.dtype.accumulate))) for e in es]
        for name, es in (("c", ys), ("d", wrt))
    )
    first = dot(ys, cs)
    g = gradients(b, first, wrt)
    second = dot(g, ds)
    h = gradients(b, second, wrt)
    outputs = [e.value for e in (first, second, *ys, *g, *h)]
    graph = b.graph("sweep", [e.value for e in (*xs, *cs, *ds)], outputs)
    return Sweep(Program((graph,)), varying, c, d)


def dot(xs, ys):
    parts = [(x.cast(y.dtype) * y).sum(range(x.rank)) for x, y in zip(xs, ys, strict=True)]
    return sum(parts[1:], parts[0])


def gradients(b, y, wrt):
    tape = [entry_of(n) for n in b.nodes]
    found = reverse(tape, {y.value: y.like(1)}, [x.value for x in wrt], lambda n: Expr(b, n))
    return [found[x.value] if x.value in found else x.zeros() for x in wrt]
