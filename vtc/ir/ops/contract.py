"""Products that sum over a shared axis.

    h: f32[B, 512] = matmul(x, w)
    dw: f32[784, 512] = matmul(x, dh, transpose_x=True)
    y: bf16[B, 512] = matmul_add(x, w, c, beta=0.5)

Half types accumulate in f32; integers wrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.errors import TypeCheckError
from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.composite import Composite, floating, wide
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.types import Array, TensorType, Type


@final
@dataclass(frozen=True)
class Matmul(Op):
    """Matrix products over the last two axes; the axes before are equal.

    The flags read an operand transposed, so gradients, and weights stored [out, in], need no copy.
    """

    transpose_x: bool = False
    transpose_y: bool = False

    def infer(self, x: Type, y: Type) -> TensorType:
        x, y = tensor_type(self, x), tensor_type(self, y)
        shown = f"{x}{'.T' * self.transpose_x} @ {y}{'.T' * self.transpose_y}"
        self.check(x.rank >= 2 and y.rank >= 2, f"expected matrices: {shown}")
        self.check(x.dtype is y.dtype, f"dtypes differ: {shown}")
        self.check(x.dtype.kind in ("int", "float"), f"expected int or float: {shown}")
        self.check(x.shape[:-2] == y.shape[:-2], f"leading dims differ: {shown}")
        (m, k), (k_, n) = _matrix(x, self.transpose_x), _matrix(y, self.transpose_y)
        self.check(k == k_, f"inner dims differ: {shown}")
        return x.with_shape((*x.shape[:-2], m, n))

    def reference(self, x: Array, y: Array) -> Array:
        x = x.swapaxes(-1, -2) if self.transpose_x else x
        y = y.swapaxes(-1, -2) if self.transpose_y else y
        return np.asarray(np.matmul(x, y))

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def batch(self, size: Size, inputs: Exprs, batched: Needs) -> Any:
        """The rows of all examples are one matrix where the other operand is one."""
        x, y = inputs
        if batched == (True, False) and y.rank == 2 and not self.transpose_x:
            rows = x.reshape((size * x.shape[1], x.shape[2])).apply(self, y)
            return rows.reshape((size, x.shape[1], rows.shape[1]))
        return super().batch(size, inputs, batched)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        x, y = inputs
        tx, ty = self.transpose_x, self.transpose_y
        gx = gy = None
        if needs[0]:
            if tx:
                gx = y.matmul(g, transpose_x=ty, transpose_y=True)
            else:
                gx = g.matmul(y, transpose_y=not ty)
        if needs[1]:
            if ty:
                gy = g.matmul(x, transpose_x=True, transpose_y=tx)
            else:
                gy = x.matmul(g, transpose_x=not tx)
        return gx, gy

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        for tx in (False, True):
            for ty in (False, True):
                x = draw.normal(rng, *((5, 3) if tx else (3, 5)))
                yield Sample(cls(tx, ty), (x, draw.normal(rng, *((4, 5) if ty else (5, 4)))))
        yield Sample(cls(), (draw.normal(rng, 1, 1), draw.normal(rng, 1, 1)))
        yield Sample(cls(), (draw.normal(rng, 2, 3, 3, 5), draw.normal(rng, 2, 3, 5, 1)))
        yield Sample(cls(transpose_y=True), (draw.normal(rng, 2, 1, 7), draw.normal(rng, 2, 3, 7)))
        yield Sample(cls(), (draw.normal(rng, 0, 4), draw.normal(rng, 4, 2)))
        yield Sample(cls(), (draw.normal(rng, 3, 0), draw.normal(rng, 0, 2)))
        yield Sample(cls(), (rng.integers(-9, 9, (2, 3)), rng.integers(-9, 9, (3, 2))))


@final
@dataclass(frozen=True)
class MatmulAdd(Composite):
    """``alpha * (x @ y) + beta * c``, rounded once. ``c`` has the type of the result.

    Eager products of low precision are such; a captured program has a product and a sum, which
    become one kernel.
    """

    transpose_y: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    arity = (3, 3)

    def accept(self, x: TensorType, y: TensorType, c: TensorType) -> None:
        floating(self, x)
        try:
            want = Matmul(transpose_y=self.transpose_y).infer(x, y)
        except TypeCheckError as e:
            raise TypeCheckError(str(e).replace(Matmul.name, self.name, 1)) from None
        self.check(c == want, f"expected {want} to be added, got {c}")

    def decompose(self, *inputs: Expr) -> Expr:
        x, y, c = inputs
        return self._sum(x.matmul(y, transpose_y=self.transpose_y), c)

    def expand(self, *inputs: Expr) -> Expr:
        """The product is one of the operands' own dtype: kernels do not round it before the sum."""
        x, y, c = inputs
        product = x.matmul(y, transpose_y=self.transpose_y)
        return self._sum(wide(product), wide(c)).cast(c.dtype)

    def _sum(self, product: Expr, c: Expr) -> Expr:
        product = product if self.alpha == 1 else product * self.alpha
        return product + (c if self.beta == 1 else c * self.beta)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        x, y, c = draw.normal(rng, 3, 5), draw.normal(rng, 5, 4), draw.normal(rng, 3, 4)
        yield Sample(cls(), (x, y, c))
        yield Sample(cls(transpose_y=True, alpha=-0.5, beta=3.0), (x, y.T.copy(), c))
        batched = draw.normal(rng, 2, 3, 5), draw.normal(rng, 2, 5, 1), draw.normal(rng, 2, 3, 1)
        yield Sample(cls(beta=2.0), batched)


def _matrix(x: TensorType, transpose: bool) -> tuple[Size, Size]:
    rows, columns = x.shape[-2:]
    return (columns, rows) if transpose else (rows, columns)
