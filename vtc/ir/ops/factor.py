"""More of what LAPACK computes: triangular factors with pivots, and the exponential of a matrix.

    p: (f32[4, 4], i32[4]) = lu_factor(a)
    o: i64[4] = row_order(pivots, rows=4)
    e: f32[4, 4] = matrix_exp(a)

As in :mod:`~vtc.ir.ops.vendor`, ``reference`` is the call, and no kernel is generated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vtc import lazy
from vtc.ir.op import Needs, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.ops.vendor import TriangularSolve, Vendor
from vtc.ir.ops.view import at_most
from vtc.ir.types import Array, TensorType, TupleType, Type, i32, i64

if TYPE_CHECKING:
    import scipy.linalg as scipy_linalg
else:
    scipy_linalg = lazy.module("scipy.linalg")


@final
@dataclass(frozen=True)
class MatrixExp(Vendor):
    """The exponential of each matrix: ``1 + a + a @ a / 2 + ...``."""

    def infer(self, x: Type) -> TensorType:
        return self.square(x)

    def reference(self, x: Array) -> Array:
        out = np.empty_like(x)
        for place in np.ndindex(x.shape[:-2]):
            finite = bool(np.isfinite(x[place]).all())
            out[place] = scipy_linalg.expm(x[place]) if finite and x.size else math.nan
        return out

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        # Of [[a.T, g], [0, a.T]] the upper right block (Al-Mohy and Higham, 2009).
        x = inputs[0].transpose(-1, -2)
        rows, columns = {"axis": x.rank - 2}, {"axis": x.rank - 1}
        upper, lower = x.op("concat", g, **columns), x.zeros().op("concat", x, **columns)
        both = upper.op("concat", lower, **rows).apply(self)
        n = x.shape[-1]
        starts = (*(0,) * (x.rank - 1), n)
        stops = (*x.shape[:-1], 2 * n)
        return (both.op("slice", starts=starts, stops=stops, steps=(1,) * x.rank),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (draw.normal(rng, 3, 3),))
        yield Sample(cls(), (draw.normal(rng, 2, 2, 2),))


@final
@dataclass(frozen=True)
class LuFactor(Vendor):
    """L below the diagonal and U from it on, of rows in another order, and that order as pivots.

    L has ones on its diagonal. Pivot ``k`` (from 1 on, as LAPACK counts) is the row that row ``k``
    changed places with. The gradient is that of square matrices with an inverse.
    """

    def infer(self, x: Type) -> TupleType:
        x = self.matrices(x)
        m, n = x.shape[-2:]
        known = isinstance(m, int) and isinstance(n, int)
        self.check(known, f"expected matrices of known size, got {x}")
        k = min(int(m), int(n))  # type: ignore[arg-type]
        return TupleType((x, TensorType(i32, (*x.shape[:-2], k))))

    def reference(self, x: Array) -> tuple[Array, ...]:
        out = np.empty_like(x)
        pivots = np.empty((*x.shape[:-2], min(x.shape[-2:])), np.int32)
        factor: Any = scipy_linalg.get_lapack_funcs("getrf", (x,))
        for place in np.ndindex(x.shape[:-2]):
            if x[place].size:
                out[place], found, _ = factor(x[place])
                pivots[place] = found + 1
        return out, pivots

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        if g[0] is None:
            return (None,)
        a = inputs[0]
        self.check(a.shape[-1] == a.shape[-2], f"expected square matrices for a gradient: {a.type}")
        lu, pivots = out.item(0), out.item(1)
        low, high = lu.op("tril", diagonal=-1), lu.op("triu", diagonal=0)
        at_low, at_high = g[0].op("tril", diagonal=-1), g[0].op("triu", diagonal=0)
        left = (at_low + low.matmul(at_low, transpose_x=True)).op("tril", diagonal=-1)
        right = at_high.matmul(high, transpose_y=True).op("triu", diagonal=0)
        # inverse(L).T @ (left + right) @ inverse(U).T, with rows back in their places
        half = lu.apply(TriangularSolve(lower=True, transpose=True, unit=True), left + right)
        back = TriangularSolve(lower=False, transpose=False)
        found = lu.apply(back, half.transpose(-1, -2)).transpose(-1, -2)
        order = pivots.apply(RowOrder(rows=a.shape[-2], back=True))  # type: ignore[arg-type]
        places = order.expand((a.rank - 1,), (a.shape[-1],))
        return (found.op("gather", places, axis=a.rank - 2),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (draw.normal(rng, 3, 3),))
        yield Sample(cls(), (draw.normal(rng, 2, 4, 4),))


@final
@dataclass(frozen=True)
class RowOrder(Vendor):
    """Which of ``rows`` rows is in each place after changes of places (see :class:`LuFactor`).

    With ``back``, in which place each row is.
    """

    rows: int
    back: bool = False

    def infer(self, pivots: Type) -> TensorType:
        pivots = tensor_type(self, pivots)
        good = pivots.rank >= 1 and pivots.dtype is i32
        self.check(good, f"expected i32 pivots [.., k], got {pivots}")
        k = pivots.shape[-1]
        few = isinstance(k, int) and k <= self.rows
        self.check(few, f"expected {self.rows} pivots or fewer, got {pivots}")
        fits = at_most(0, self.rows) and at_most(pivots.shape[-1], self.rows)
        self.check(fits, f"expected pivots of {self.rows} rows at most, got {pivots}")
        return TensorType(i64, (*pivots.shape[:-1], self.rows))

    def reference(self, pivots: Array) -> Array:
        out = np.empty((*pivots.shape[:-1], self.rows), np.int64)
        inside = bool(((pivots >= 1) & (pivots <= self.rows)).all())
        self.check(inside, f"expected pivots from 1 to {self.rows}")
        for place in np.ndindex(pivots.shape[:-1]):
            order = np.arange(self.rows)
            for k, p in enumerate(pivots[place]):
                order[[k, p - 1]] = order[[p - 1, k]]
            out[place] = np.argsort(order) if self.back else order
        return out

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(rows=3), (np.array([3, 3, 3], np.int32),))
        yield Sample(cls(rows=4, back=True), (np.array([[2, 3], [1, 4], [4, 2]], np.int32),))
