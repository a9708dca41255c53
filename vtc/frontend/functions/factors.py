"""Linear algebra beyond :mod:`~vtc.frontend.functions.linalg`: LU, reflections, exponentials.

LU, pivots = lu_factor(A)
x = lu_solve(LU, pivots, B)
householder_product(*geqrf(A))          # the Q of qr
matrix_exp(A)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtc.errors import ArgumentError, RunError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, index, linalg, rearrange, reduce, view
from vtc.frontend.functions.arguments import axis, expect_tensor
from vtc.frontend.functions.contract import matmul
from vtc.frontend.functions.promotion import cast, number
from vtc.frontend.functions.random import randn
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.ops.factor import LuFactor, MatrixExp, RowOrder
from vtc.ir.types import i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class LuResult(NamedTuple):
    """What :func:`lu` and :func:`lu_unpack` return."""

    P: Tensor
    L: Tensor
    U: Tensor


class LuFactorResult(NamedTuple):
    """What :func:`lu_factor` returns."""

    LU: Tensor
    pivots: Tensor


class LuFactorExResult(NamedTuple):
    """What :func:`lu_factor_ex` returns; ``info`` is the first pivot that is 0, from 1 on, or 0."""

    LU: Tensor
    pivots: Tensor
    info: Tensor


class GeqrfResult(NamedTuple):
    """What :func:`geqrf` returns."""

    a: Tensor
    tau: Tensor


# triangles with pivots


def lu_factor(A: Tensor, *, pivot: bool = True) -> LuFactorResult:
    """L and U of :func:`lu` in one matrix, and the pivots (int32, from 1 on).

    RunError (eager) for a singular matrix.
    """
    found = lu_factor_ex(A, pivot=pivot)
    if not dispatch.is_capturing() and bool(reduce.any(found.info)):
        raise located(RunError, f"lu_factor: a matrix of {A.type} is singular")
    return LuFactorResult(found.LU, found.pivots)


def lu_factor_ex(A: Tensor, *, pivot: bool = True, check_errors: bool = False) -> LuFactorExResult:
    """:func:`lu_factor` that does not raise, but for ``check_errors``."""
    if check_errors:
        lu_factor(A, pivot=pivot)
    LU, pivots = _factored("lu_factor", A, pivot=pivot)
    middle = linalg.diagonal(LU)
    place = number(1, i64, middle.type.shape)
    place = place.cumsum(-1)
    bad = comparison.eq(middle, 0)
    after = int(middle.shape[-1]) + 1
    first = reduce.amin(comparison.where(bad, place, after), -1) if after > 1 else None
    lead = middle.type.shape[:-1]
    info = number(0, i32, lead) if first is None else cast(first % after, i32)
    return LuFactorExResult(LU, pivots, info)


def old_lu(A: Tensor, pivot: bool = True, get_infos: bool = False) -> tuple[Tensor, ...]:
    """:func:`lu_factor_ex` as ``vtc.lu``: the factors, pivots, and with ``get_infos`` the infos."""
    found = lu_factor_ex(A, pivot=pivot)
    return tuple(found) if get_infos else (found.LU, found.pivots)


def lu(A: Tensor, *, pivot: bool = True) -> LuResult:
    """``P``, ``L`` and ``U`` with ``P @ L @ U`` the matrix: a permutation and two triangles."""
    return lu_unpack(*_factored("lu", A, pivot=pivot))


def _factored(name: str, A: Tensor, *, pivot: bool) -> tuple[Tensor, Tensor]:
    linalg.expect_matrices(name, A)
    if not pivot:
        raise located(ArgumentError, f"{name}: expected pivot=True; LAPACK has no other")
    LU, pivots = dispatch.apply_tuple(LuFactor(), A)
    return LU, pivots


def lu_unpack(
    LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> LuResult:
    """What :func:`lu` returns, of what :func:`lu_factor` does; what is not asked for is empty."""
    expect_tensor("lu_unpack", "LU_pivots", LU_pivots)
    linalg.expect_matrices("lu_unpack", LU_data)
    type = LU_data.type
    m, n = int(LU_data.shape[-2]), int(LU_data.shape[-1])
    k = min(m, n)
    none = dispatch.constant(0, type.dtype, (0,), LU_data.device)
    L = U = P = none
    if unpack_data:
        tall, wide = view.narrow(LU_data, -1, 0, k), view.narrow(LU_data, -2, 0, k)
        L = elementwise.add(rearrange.tril(tall, -1), _one(LU_data, m, k))
        U = rearrange.triu(wide)
    if unpack_pivots:
        order = dispatch.apply(RowOrder(rows=m), LU_pivots)
        places = view.unsqueeze(order, -2)
        line = view.unsqueeze(dispatch.from_array(np.arange(m), device=LU_data.device), -1)
        P = cast(comparison.eq(line, places), type.dtype)
    return LuResult(P, L, U)


def _one(like: Tensor, rows: int, columns: int) -> Tensor:
    eye = np.eye(rows, columns, dtype=like.type.dtype.numpy)
    return dispatch.from_array(eye, device=like.device)


def lu_solve(
    LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False
) -> Tensor:
    """``X`` with ``A @ X = B`` (``X @ A = B`` unless ``left``), of what ``lu_factor(A)`` gives.

    With ``adjoint`` ``A.mT`` stands for ``A``.
    """
    expect_tensor("lu_solve", "pivots", pivots)
    if not left:
        turned = lu_solve(LU, pivots, view.matrix_transpose(B), adjoint=not adjoint)
        return view.matrix_transpose(turned)
    linalg.expect_square("lu_solve", LU)
    linalg.expect_matrices("lu_solve", B)
    m = int(LU.shape[-1])
    order = dispatch.apply(RowOrder(rows=m, back=adjoint), pivots)
    places = view.unsqueeze(order, -1)
    if not adjoint:
        half = linalg.solve_triangular(LU, _rows(B, places), upper=False, unitriangular=True)
        return linalg.solve_triangular(LU, half, upper=True)
    turned = view.matrix_transpose(LU)
    half = linalg.solve_triangular(turned, B, upper=False)
    full = linalg.solve_triangular(turned, half, upper=True, unitriangular=True)
    return _rows(full, places)


def old_lu_solve(b: Tensor, LU_data: Tensor, LU_pivots: Tensor) -> Tensor:
    """:func:`lu_solve` as ``vtc.lu_solve``, which takes ``b`` first."""
    return lu_solve(LU_data, LU_pivots, b)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Rows of ``x`` in the order of ``places [.., n, 1]``."""
    rank = max(x.type.rank, places.type.rank)
    tall, at = (view.reshape(t, (*(1,) * (rank - t.ndim), *t.type.shape)) for t in (x, places))
    return index.take_along_dim(tall, at, rank - 2)


class SolveResult(NamedTuple):
    """What :func:`solve_ex` returns; ``info`` is 1 where there is no answer."""

    result: Tensor
    info: Tensor


def solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False) -> SolveResult:
    """:func:`solve` that does not raise, but for ``check_errors``."""
    if check_errors:
        linalg.solve(A, B, left=left)
    found = linalg.solved(A, B, left=left)
    return SolveResult(found, lu_factor_ex(A.detach()).info)


# reflections


def geqrf(input: Tensor) -> GeqrfResult:
    """R of :func:`qr` and below it the vectors of reflections, with their factors ``tau``.

    One reflection after another, as LAPACK makes them, so gradients flow, too.
    """
    linalg.expect_matrices("geqrf", input)
    m, n = int(input.shape[-2]), int(input.shape[-1])
    rest, done, factors = input, [], []
    for _ in range(min(m, n)):
        first, tau = _reflection(view.narrow(rest, -1, 0, 1))
        v = elementwise.add(rearrange.tril(first, -1), _one(first, int(first.shape[-2]), 1))
        others = view.narrow(rest, -1, 1, int(rest.shape[-1]) - 1)
        along = elementwise.mul(tau, matmul(view.matrix_transpose(v), others))
        others = elementwise.sub(others, matmul(v, along))
        done.append((first, view.narrow(others, -2, 0, 1)))
        factors.append(view.squeeze(tau, -1))
        rest = view.narrow(others, -2, 1, int(others.shape[-2]) - 1)
    for column, row in reversed(done):
        rest = rearrange.cat([column, rearrange.cat([row, rest], -2)], -1)
    taus = rearrange.cat(factors, -1) if factors else rest.new_zeros((*input.type.shape[:-2], 0))
    return GeqrfResult(rest, taus)


def _reflection(x: Tensor) -> tuple[Tensor, Tensor]:
    """What turns a column ``x [.., m, 1]`` to its first element: that, its vector below; and tau.

    A column that is 0 below already stays as it is.
    """
    count = int(x.shape[-2]) - 1
    head, tail = view.narrow(x, -2, 0, 1), view.narrow(x, -2, 1, count)
    below = reduce.sum(elementwise.square(tail), -2, True)
    plain = comparison.eq(below, 0)
    whole = comparison.where(plain, 1.0, elementwise.add(elementwise.square(head), below))
    size = elementwise.sqrt(whole)
    turned: Tensor = comparison.where(comparison.lt(head, 0), size, elementwise.neg(size))
    share = elementwise.div(elementwise.sub(turned, head), turned)
    gap = comparison.where(plain, 1.0, elementwise.sub(head, turned))
    vector = elementwise.div(tail, gap)
    top: Tensor = comparison.where(plain, head, turned)
    tau: Tensor = comparison.where(plain, 0.0, share)
    return rearrange.cat([top, vector], -2), tau


def householder_product(A: Tensor, tau: Tensor) -> Tensor:
    """The first columns of a product of reflections: ``[.., m, n]`` of ``A [.., m, n]``.

    Reflection ``k`` is ``1 - tau[k] * v @ v.T``, where ``v`` is 0 above its element ``k``, 1 there,
    and column ``k`` of ``A`` below. Only ``A`` below the diagonal is read.
    """
    vectors = _vectors("householder_product", A, tau)
    m, n = int(A.shape[-2]), int(A.shape[-1])
    out = elementwise.add(_one(A, m, n), elementwise.mul(A.detach(), 0.0))
    return _reflected(vectors, tau, out, turned=True)


def ormqr(
    input: Tensor, tau: Tensor, other: Tensor, left: bool = True, transpose: bool = False
) -> Tensor:
    """``Q @ other`` (``other @ Q`` unless ``left``) with Q the product of all reflections of
    :func:`householder_product`, ``[m, m]``; with ``transpose``, of ``Q.mT``.
    """
    vectors = _vectors("ormqr", input, tau)
    linalg.expect_matrices("ormqr", other)
    if left:
        return _reflected(vectors, tau, other, turned=not transpose)
    found = _reflected(vectors, tau, view.matrix_transpose(other), turned=transpose)
    return view.matrix_transpose(found)


def _vectors(name: str, A: Tensor, tau: Tensor) -> Tensor:
    """The vectors of the reflections, as columns ``[.., m, k]``."""
    linalg.expect_matrices(name, A)
    expect_tensor(name, "tau", tau)
    m, n, k = int(A.shape[-2]), int(A.shape[-1]), int(tau.shape[-1]) if tau.ndim else 0
    if not tau.ndim or tau.type.shape[:-1] != A.type.shape[:-2] or m < n or k > n:
        want = f"{name}: expected m >= n >= k for A [.., m, n] and tau [.., k]"
        raise located(TypeCheckError, f"{want}, got {A.type} and {tau.type}")
    below = rearrange.tril(view.narrow(A, -1, 0, k), -1)
    return elementwise.add(below, _one(A, m, k))


def _reflected(vectors: Tensor, tau: Tensor, x: Tensor, *, turned: bool) -> Tensor:
    """The reflections one after another, from the last one on if ``turned``."""
    order = range(int(tau.shape[-1]))
    for k in reversed(order) if turned else order:
        v = view.narrow(vectors, -1, k, 1)
        factor = view.unsqueeze(view.narrow(tau, -1, k, 1), -1)
        along = matmul(view.matrix_transpose(v), x)
        x = elementwise.sub(x, elementwise.mul(factor, matmul(v, along)))
    return x


# other


def matrix_exp(A: Tensor) -> Tensor:
    """The exponential of each matrix."""
    linalg.expect_square("matrix_exp", A)
    return dispatch.apply(MatrixExp(), A)


def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """The powers 0 to ``N - 1`` of each element, as a new last dim; ``N`` is by default its size.

    TypeCheckError for no dim.
    """
    expect_tensor("vander", "x", x)
    if not x.type.rank:
        raise located(TypeCheckError, f"vander: expected 1 dim or more, got {x.type}")
    count = int(x.shape[-1]) if N is None else int(N)
    if count < 0 or (N is not None and count <= 1):
        raise located(ArgumentError, f"vander: expected N > 1, got {N}")
    return powers(x, count)


def powers(x: Tensor, count: int) -> Tensor:
    """The powers 0 to ``count - 1`` of each element, as a new last dim."""
    one = elementwise.add(elementwise.mul(x.detach(), 0), 1)
    columns = [one]
    for _ in range(count - 1):
        columns.append(elementwise.mul(columns[-1], x))
    return view.narrow(rearrange.stack(columns, -1), -1, 0, count)


def old_vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The powers of each element of a vector, as rows: falling, or ``increasing``."""
    expect_tensor("vander", "x", x)
    if x.type.rank != 1:
        raise located(TypeCheckError, f"vander: expected a vector, got {x.type}")
    found = powers(x, int(x.shape[0]) if N is None else int(N))
    return found if increasing else rearrange.flip(found, 1)


def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The tensor ``X`` with ``tensordot(X, tensordot(A, B, ..), ind) == B`` for all ``B``.

    The first ``ind`` sizes of ``A`` multiply to what the others do.
    """
    expect_tensor("tensorinv", "A", A)
    if ind < 1:
        raise located(ArgumentError, f"tensorinv: expected ind >= 1, got {ind}")
    shape = A.type.shape
    rows, columns = product(shape[:ind]), product(shape[ind:])
    if rows != columns:
        message = f"expected the first {ind} sizes to multiply to what the others do, got {A.type}"
        raise located(TypeCheckError, f"tensorinv: {message}")
    found = linalg.inv(view.reshape(A, (rows, columns)))
    return view.reshape(found, (*shape[ind:], *shape[:ind]))


def tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None) -> Tensor:
    """``X`` with ``tensordot(A, X, X.ndim) == B``; ``dims`` of ``A`` are moved to its end first."""
    expect_tensor("tensorsolve", "A", A)
    expect_tensor("tensorsolve", "B", B)
    if dims is not None:
        last = [axis("tensorsolve", d, A.type.rank) for d in dims]
        A = view.permute(A, [*(a for a in range(A.type.rank) if a not in last), *last])
    shape = A.type.shape[B.type.rank :]
    if product(shape) != B.type.numel or A.type.numel != B.type.numel * product(shape):
        message = f"tensorsolve: expected A [B.shape, X.shape] to be square, got {A.type}"
        raise located(TypeCheckError, f"{message} and {B.type}")
    square = view.reshape(A, (B.type.numel, product(shape)))
    return view.reshape(linalg.solve(square, view.reshape(B, (B.type.numel,))), shape)


# of low rank, by random projections (Halko, Martinsson and Tropp, 2009)


def svd_lowrank(A: Tensor, q: int = 6, niter: int = 2, M: Any = None) -> linalg.SvdResult:
    """U, S and V of a matrix of rank near ``q``: of ``A - M`` where ``M`` is given.

    ``niter`` rounds of subspace iteration make it more exact.
    """
    linalg.expect_matrices("svd_lowrank", A)
    x = A if M is None else elementwise.sub(A, M)
    m, n = int(x.shape[-2]), int(x.shape[-1])
    if not 0 <= q <= min(m, n):
        message = f"svd_lowrank: expected q from 0 to {min(m, n)}, got {q}"
        raise located(ArgumentError, message)
    if niter < 0:
        raise located(ArgumentError, f"svd_lowrank: expected niter >= 0, got {niter}")
    wide = view.matrix_transpose(x) if m < n else x
    basis = _basis(wide, q, niter)
    u, s, v = linalg.svd(matmul(view.matrix_transpose(basis), wide), full_matrices=False)
    left, right = matmul(basis, u), view.matrix_transpose(v)
    return linalg.SvdResult(right, s, left) if m < n else linalg.SvdResult(left, s, right)


def _basis(x: Tensor, q: int, niter: int) -> Tensor:
    """Orthogonal columns that span almost what the columns of ``x`` do."""
    turned = view.matrix_transpose(x)
    start = randn(int(x.shape[-1]), q, dtype=x.type.dtype, device=x.device)
    basis = linalg.qr(matmul(x, start)).Q
    for _ in range(niter):
        basis = linalg.qr(matmul(x, linalg.qr(matmul(turned, basis)).Q)).Q
    return basis


def pca_lowrank(
    A: Tensor, q: int | None = None, center: bool = True, niter: int = 2
) -> linalg.SvdResult:
    """The ``q`` (by default 6, or what there is) principal directions of the rows of ``A``, V.

    U and S belong to them; ``center`` subtracts the mean of each column first.
    """
    linalg.expect_matrices("pca_lowrank", A)
    most = min(int(A.shape[-2]), int(A.shape[-1]))
    count = min(6, most) if q is None else q
    x = elementwise.sub(A, reduce.mean(A, -2, True)) if center else A
    return svd_lowrank(x, count, niter)
