"""Linear algebra that a library computes: LAPACK, by way of NumPy and SciPy.

    l: f32[B, 4, 4] = cholesky(a)
    x: f32[B, 4, 2] = triangular_solve(l, b, lower=True, transpose=False)
    p: (f32[B, 4], f32[B, 4, 4]) = eigh(a)

No kernel is generated for these: ``reference`` is the call. Matrices are the last two axes. Where a
matrix has no answer (it is singular, or not positive definite) the result is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from vtc import lazy
from vtc.ir.dims import Size
from vtc.ir.op import Needs, Op, Sample, tensor_type
from vtc.ir.ops import draw
from vtc.ir.ops.expr import Expr, Exprs
from vtc.ir.types import Array, TensorType, TupleType, Type, i64

if TYPE_CHECKING:
    import scipy.linalg as scipy_linalg
else:
    scipy_linalg = lazy.module("scipy.linalg")


@dataclass(frozen=True)
class Vendor(Op, abstract=True):
    """An op that a library computes on the host."""

    def lifted(self, size: Size, *inputs: Any) -> Op:
        return self

    def matrices(self, x: Type) -> TensorType:
        """``x``, which must be floating-point matrices."""
        x = tensor_type(self, x)
        good = x.rank >= 2 and x.dtype.is_floating_point
        self.check(good, f"expected floating-point matrices, got {x}")
        return x

    def square(self, x: Type) -> TensorType:
        """``x``, which must be square matrices."""
        x = self.matrices(x)
        self.check(x.shape[-1] == x.shape[-2], f"expected square matrices, got {x}")
        return x

    def right_side(self, a: TensorType, b: Type) -> TensorType:
        """``b``, which must be matrices that ``a`` can be solved for."""
        b = self.matrices(b)
        good = b.dtype is a.dtype and b.shape[:-1] == a.shape[:-1]
        self.check(good, f"expected right-hand sides [.., n, k] for {a}, got {b}")
        return b


def _each(call: Callable[..., Array], out: Array, *inputs: Array) -> Array:
    """``out`` filled with ``call`` of each matrix; NaN where there is no answer."""
    for place in np.ndindex(out.shape[:-2]):
        try:
            out[place] = call(*(x[place] for x in inputs))
        except np.linalg.LinAlgError:
            out[place] = math.nan
    return out


@final
@dataclass(frozen=True)
class Cholesky(Vendor):
    """The lower triangle L with ``L @ L.T`` the matrix, of which only the lower triangle is read.

    The gradient is symmetric, as if the matrix could only vary so.
    """

    def infer(self, x: Type) -> TensorType:
        return self.square(x)

    def reference(self, x: Array) -> Array:
        return _each(np.linalg.cholesky, np.empty_like(x), x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        inner = _half(out.matmul(g, transpose_x=True).op("tril", diagonal=0))
        back = TriangularSolve(lower=True, transpose=True)
        left = out.apply(back, inner)
        both = out.apply(back, left.transpose(-1, -2))
        return ((both + both.transpose(-1, -2)) * 0.5,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),), smooth=False)
        yield Sample(cls(), (_definite(rng, 2, 3),), smooth=False)
        yield Sample(cls(), (_definite(rng, 0),), smooth=False)


@final
@dataclass(frozen=True)
class TriangularSolve(Vendor):
    """``x`` with ``a @ x = b`` (or ``a.T @ x = b``), of whose ``a`` only a triangle is read."""

    lower: bool
    transpose: bool
    unit: bool = False

    def infer(self, a: Type, b: Type) -> TensorType:
        return self.right_side(self.square(a), b)

    def reference(self, a: Array, b: Array) -> Array:
        def solve(a: Array, b: Array) -> Array:
            return scipy_linalg.solve_triangular(
                a,
                b,
                trans="T" if self.transpose else "N",
                lower=self.lower,
                unit_diagonal=self.unit,
                check_finite=False,
            )

        return _each(solve, np.empty_like(b), a, b) if b.size else b.copy()

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        a, _ = inputs
        db = a.apply(TriangularSolve(self.lower, not self.transpose, self.unit), g)
        if not needs[0]:
            return None, db
        x, y = (out, db) if self.transpose else (db, out)
        da = -x.matmul(y, transpose_y=True)
        off = (-1 if self.lower else 1) if self.unit else 0
        return da.op("tril" if self.lower else "triu", diagonal=off), db

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        a = _definite(rng, 2, 3)
        yield Sample(cls(True, False), (a, draw.normal(rng, 2, 3, 4)))
        yield Sample(cls(False, True), (a[0], draw.normal(rng, 3, 1)))
        yield Sample(cls(True, True, unit=True), (a[0], draw.normal(rng, 3, 2)))
        yield Sample(cls(False, False), (a, draw.normal(rng, 2, 3, 0)))


@final
@dataclass(frozen=True)
class Inverse(Vendor):
    """The inverse of each matrix."""

    def infer(self, x: Type) -> TensorType:
        return self.square(x)

    def reference(self, x: Array) -> Array:
        return _each(np.linalg.inv, np.empty_like(x), x)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        return (-out.matmul(g.matmul(out, transpose_y=True), transpose_x=True),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),))
        yield Sample(cls(), (_definite(rng, 2, 4),))


@final
@dataclass(frozen=True)
class Solve(Vendor):
    """``x`` with ``a @ x = b``."""

    def infer(self, a: Type, b: Type) -> TensorType:
        return self.right_side(self.square(a), b)

    def reference(self, a: Array, b: Array) -> Array:
        return _each(np.linalg.solve, np.empty_like(b), a, b)

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        db = inputs[0].transpose(-1, -2).apply(self, g)
        return -db.matmul(out, transpose_y=True) if needs[0] else None, db

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        a = _definite(rng, 2, 3)
        yield Sample(cls(), (a, draw.normal(rng, 2, 3, 4)))
        yield Sample(cls(), (a[0], draw.normal(rng, 3, 1)))


@final
@dataclass(frozen=True)
class Det(Vendor):
    """The determinant of each matrix. The gradient is that of matrices with an inverse."""

    def infer(self, x: Type) -> TensorType:
        x = self.square(x)
        return x.with_shape(x.shape[:-2])

    def reference(self, x: Array) -> Array:
        return np.asarray(np.linalg.det(x))

    def vjp(self, g: Expr, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        inverse = inputs[0].apply(Inverse()).transpose(-1, -2)
        return (inverse * _spread(g * out, inverse),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),))
        yield Sample(cls(), (_definite(rng, 2, 2),))


@final
@dataclass(frozen=True)
class Slogdet(Vendor):
    """The sign of each determinant, and the logarithm of its absolute value."""

    def infer(self, x: Type) -> TupleType:
        x = self.square(x)
        one = x.with_shape(x.shape[:-2])
        return TupleType((one, one))

    def reference(self, x: Array) -> tuple[Array, ...]:
        sign, size = np.linalg.slogdet(x)
        return np.asarray(sign, x.dtype), np.asarray(size, x.dtype)

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        if g[1] is None:
            return (None,)
        inverse = inputs[0].apply(Inverse()).transpose(-1, -2)
        return (inverse * _spread(g[1], inverse),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),))
        yield Sample(cls(), (-_definite(rng, 2, 3),))


@final
@dataclass(frozen=True)
class Qr(Vendor):
    """Orthogonal columns Q and an upper triangle R with ``Q @ R`` the matrix.

    ``complete`` makes Q square. The gradient needs as many rows as columns, or more, and no
    columns of Q beyond those of the matrix.
    """

    complete: bool = False

    def infer(self, x: Type) -> TupleType:
        x = self.matrices(x)
        m, n = x.shape[-2:]
        known = isinstance(m, int) and isinstance(n, int)
        self.check(known, f"expected matrices of known size, got {x}")
        k = m if self.complete else min(int(m), int(n))  # type: ignore[arg-type]
        lead = x.shape[:-2]
        return TupleType((x.with_shape((*lead, m, k)), x.with_shape((*lead, k, n))))

    def reference(self, x: Array) -> tuple[Array, ...]:
        q, r = np.linalg.qr(x, "complete" if self.complete else "reduced")
        return np.asarray(q), np.asarray(r)

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        q, r = out.item(0), out.item(1)
        tall = r.shape[-2] == r.shape[-1]
        self.check(tall, f"expected {inputs[0].type} to be tall for a gradient (reduced)")
        gq, gr = g
        inner = q.matmul(gq, transpose_x=True).op("neg") if gq is not None else None
        if gr is not None:
            more = gr.matmul(r, transpose_y=True)
            inner = more if inner is None else inner + more
        if inner is None:
            return (None,)
        upper = inner.op("triu", diagonal=0)
        found = q.matmul(_half(upper + upper.transpose(-1, -2)))
        found = found if gq is None else found + gq
        back = TriangularSolve(lower=False, transpose=False)
        return (r.apply(back, found.transpose(-1, -2)).transpose(-1, -2),)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),))
        yield Sample(cls(), (draw.normal(rng, 2, 4, 3),))


@final
@dataclass(frozen=True)
class Eigh(Vendor):
    """Eigenvalues in ascending order, and eigenvectors as columns, of symmetric matrices, of which
    only the lower triangle is read. The gradient needs distinct eigenvalues.
    """

    def infer(self, x: Type) -> TupleType:
        x = self.square(x)
        return TupleType((x.with_shape(x.shape[:-1]), x))

    def reference(self, x: Array) -> tuple[Array, ...]:
        values, vectors = np.linalg.eigh(x)
        return np.asarray(values), np.asarray(vectors)

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        gw, gv = g
        w, v = out.item(0), out.item(1)
        inner = None if gw is None else _diagonal(gw)
        if gv is not None:
            turned = _off_diagonal(v.matmul(gv, transpose_x=True)) / _gaps(w)
            inner = turned if inner is None else inner + turned
        if inner is None:
            return (None,)
        found = v.matmul(inner.matmul(v, transpose_y=True))
        return ((found + found.transpose(-1, -2)) * 0.5,)

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),), smooth=False)
        yield Sample(cls(), (_definite(rng, 2, 3),), smooth=False)


@final
@dataclass(frozen=True)
class Svd(Vendor):
    """U, the singular values S in descending order, and V.T, with ``U * S @ V.T`` the matrix.

    ``full`` makes U and V square, and then has no gradient. It needs distinct singular values, and
    of U and V those that are not 0.
    """

    full: bool = False

    def infer(self, x: Type) -> TupleType:
        x = self.matrices(x)
        m, n = x.shape[-2:]
        known = isinstance(m, int) and isinstance(n, int)
        self.check(known, f"expected matrices of known size, got {x}")
        k = min(int(m), int(n))  # type: ignore[arg-type]
        lead = x.shape[:-2]
        u, v = (m, n) if self.full else (k, k)
        shapes = (*lead, m, u), (*lead, k), (*lead, v, n)
        return TupleType(tuple(x.with_shape(s) for s in shapes))

    def reference(self, x: Array) -> tuple[Array, ...]:
        u, s, v = np.linalg.svd(x, full_matrices=self.full)
        return np.asarray(u), np.asarray(s), np.asarray(v)

    def vjp(self, g: Any, out: Expr, inputs: Exprs, needs: Needs) -> Sequence[Expr | None]:
        gu, gs, gv = g
        u, s, v = (out.item(i) for i in range(3))
        square = u.shape[-2] == u.shape[-1] and v.shape[-2] == v.shape[-1]
        good = not self.full or square or (gu is None and gv is None)
        self.check(good, "expected full=False for a gradient of U or V")
        k = s.shape[-1]
        u, v = _narrowed(u, -1, k), _narrowed(v, -2, k)
        inner = None if gs is None else _diagonal(gs)
        outer: list[Expr] = []
        if gu is not None:
            part, rest = self._side(u, gu, s)
            inner = part if inner is None else inner + part
            outer += [rest.matmul(v)] if rest is not None else []
        if gv is not None:
            part, rest = self._side(v.transpose(-1, -2), gv.transpose(-1, -2), s)
            part = part.transpose(-1, -2)
            inner = part if inner is None else inner + part
            outer += [u.matmul(rest, transpose_y=True)] if rest is not None else []
        if inner is None:
            return (None,)
        total = u.matmul(inner.matmul(v))
        for part in outer:
            total = total + part
        return (total,)

    def _side(self, q: Expr, g: Expr, s: Expr) -> tuple[Expr, Expr | None]:
        """What the cotangent of one orthogonal factor gives, inside its columns and outside."""
        inside = q.matmul(g, transpose_x=True)
        skew = (inside - inside.transpose(-1, -2)) / _gaps(s * s)
        columns = s.expand((s.rank - 1,), (s.shape[-1],))
        part = skew * columns
        if q.shape[-1] == q.shape[-2]:
            return part, None
        across = s.expand((s.rank - 1,), (q.shape[-2],))
        return part, (g - q.matmul(inside)) / across

    @classmethod
    def samples(cls, rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample(cls(), (_definite(rng, 3),), smooth=False)
        yield Sample(cls(), (draw.normal(rng, 2, 4, 3),))
        yield Sample(cls(), (draw.normal(rng, 2, 3),))


# of gradients


def _half(x: Expr) -> Expr:
    """``x`` with half its diagonal."""
    row = x.iota(x.shape, x.rank - 2, i64)
    on = row.eq(x.iota(x.shape, x.rank - 1, i64))
    return on.where(x * 0.5, x)


def _off_diagonal(x: Expr) -> Expr:
    row = x.iota(x.shape, x.rank - 2, i64)
    return row.eq(x.iota(x.shape, x.rank - 1, i64)).where(0.0, x)


def _diagonal(x: Expr) -> Expr:
    """Matrices with the last axis of ``x`` on their diagonals."""
    n = x.shape[-1]
    pair = {"axis1": x.rank - 1, "axis2": x.rank, "offset": 0}
    return x.op("undiagonal", sizes=(n, n), **pair)


def _gaps(x: Expr) -> Expr:
    """``x[j] - x[i]`` at ``[i, j]``; 1 on the diagonal."""
    n = x.shape[-1]
    gaps = x.expand((x.rank - 1,), (n,)) - x.expand((x.rank,), (n,))
    row = gaps.iota(gaps.shape, gaps.rank - 2, i64)
    return row.eq(gaps.iota(gaps.shape, gaps.rank - 1, i64)).where(1.0, gaps)


def _spread(x: Expr, like: Expr) -> Expr:
    """A number for each matrix as matrices."""
    return x.expand_like(like, (like.rank - 2, like.rank - 1))


def _narrowed(x: Expr, axis: int, n: Any) -> Expr:
    if x.shape[axis] == n:
        return x
    stops = list(x.shape)
    stops[axis] = n
    return x.op("slice", starts=(0,) * x.rank, stops=tuple(stops), steps=(1,) * x.rank)


def _definite(rng: np.random.Generator, *shape: int) -> Array:
    """Symmetric matrices whose eigenvalues are above 1/2."""
    n = shape[-1]
    a = rng.normal(size=(*shape, n))
    return np.asarray(a @ a.swapaxes(-1, -2) / max(n, 1) + np.eye(n) / 2, np.float32)
