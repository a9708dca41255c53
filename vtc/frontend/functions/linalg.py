"""Linear algebra of matrices that are the last two dims: factorisations, solutions, norms.

cholesky(a); solve(a, b); eigh(a).eigenvalues
matrix_norm(x, "nuc"); vector_norm(x, 3, dim=1)

Factorisations are LAPACK's, on the host. Where there is no answer (a singular matrix, one that is
not positive definite) eager code raises RunError; a compiled function gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtc.errors import ArgumentError, RunError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, einsum, elementwise, reduce, strides, view
from vtc.frontend.functions.arguments import Dims, axis, expect_tensor
from vtc.frontend.functions.contract import matmul
from vtc.frontend.functions.promotion import cast, common_shape, expand_to
from vtc.frontend.source import located
from vtc.ir.ops.vendor import (
    Cholesky,
    Det,
    Eigh,
    Inverse,
    Qr,
    Slogdet,
    Solve,
    Svd,
    TriangularSolve,
)
from vtc.ir.types import DType

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class SlogdetResult(NamedTuple):
    """What :func:`slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


class QrResult(NamedTuple):
    """What :func:`qr` returns."""

    Q: Tensor
    R: Tensor


class EighResult(NamedTuple):
    """What :func:`eigh` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class SvdResult(NamedTuple):
    """What :func:`svd` returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class InfoResult(NamedTuple):
    """A result, and 0 where there is one."""

    result: Tensor
    info: Tensor


# factorisations


def cholesky(input: Tensor, *, upper: bool = False) -> Tensor:
    """The triangle L with ``L @ L.mT`` the matrix (U with ``U.mT @ U`` if ``upper``).

    RunError (eager; else NaN) for a matrix that is not positive definite.
    """
    out = _checked("cholesky", "is not positive definite", _factor(input, upper=upper), input)
    return view.matrix_transpose(out) if upper else out


def cholesky_ex(input: Tensor, *, upper: bool = False) -> InfoResult:
    """:func:`cholesky` that does not raise; ``info`` is 1 where there is no answer."""
    out = _factor(input, upper=upper)
    return InfoResult(view.matrix_transpose(out) if upper else out, _info(out))


def old_cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """:func:`cholesky` as ``vtc.cholesky``."""
    return cholesky(input, upper=upper)


def _factor(input: Tensor, *, upper: bool) -> Tensor:
    expect_square("cholesky", input)
    return dispatch.apply(Cholesky(), view.matrix_transpose(input) if upper else input)


def _info(out: Tensor) -> Tensor:
    bad = reduce.any(view.flatten(comparison.isnan(out), -2), -1)
    return bad.int()


def qr(input: Tensor, mode: str = "reduced") -> QrResult:
    """Orthogonal columns Q and an upper triangle R; ``mode`` is reduced, complete or r."""
    expect_matrices("qr", input)
    if mode not in ("reduced", "complete", "r"):
        message = f"qr: expected mode reduced, complete or r, got {mode!r}"
        raise located(ArgumentError, message)
    q, r = dispatch.apply_tuple(Qr(complete=mode == "complete"), input)
    return QrResult(dispatch.constant(0, input.type.dtype, (0,)) if mode == "r" else q, r)


def old_qr(input: Tensor, some: bool = True) -> QrResult:
    """:func:`qr` as ``vtc.qr``."""
    return qr(input, "reduced" if some else "complete")


def eigh(input: Tensor, UPLO: str = "L") -> EighResult:
    """Eigenvalues, ascending, and eigenvectors (columns) of symmetric matrices.

    One triangle is read: the lower, or with ``UPLO="U"`` the upper.
    """
    expect_square("eigh", input)
    if UPLO.upper() not in ("L", "U"):
        raise located(ArgumentError, f"eigh: expected UPLO 'L' or 'U', got {UPLO!r}")
    x = input if UPLO.upper() == "L" else view.matrix_transpose(input)
    return EighResult(*dispatch.apply_tuple(Eigh(), x))


def eigvalsh(input: Tensor, UPLO: str = "L") -> Tensor:
    """The eigenvalues of symmetric matrices, ascending."""
    return eigh(input, UPLO).eigenvalues


def svd(input: Tensor, full_matrices: bool = True) -> SvdResult:
    """U, the singular values, descending, and V.mT, with ``U * S @ Vh`` the matrix."""
    expect_matrices("svd", input)
    return SvdResult(*dispatch.apply_tuple(Svd(full=full_matrices), input))


def old_svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> SvdResult:
    """:func:`svd` as ``vtc.svd``, which gives V and not its transpose."""
    u, s, v = svd(input, not some)
    found = SvdResult(u, s, view.matrix_transpose(v))
    if compute_uv:
        return found
    return SvdResult(elementwise.mul(u, 0), s, elementwise.mul(found.Vh, 0))


def svdvals(input: Tensor) -> Tensor:
    """The singular values, descending."""
    return svd(input, full_matrices=False).S


# solutions


def solve_triangular(
    input: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """``X`` with ``input @ X = B`` (``X @ input = B`` unless ``left``), one triangle being read."""
    expect_square("solve_triangular", input)
    expect_matrices("solve_triangular", B)
    side = B if left else view.matrix_transpose(B)
    a, b = _meet("solve_triangular", input, side)
    op = TriangularSolve(lower=not upper, transpose=not left, unit=unitriangular)
    out = dispatch.apply(op, a, b)
    return out if left else view.matrix_transpose(out)


class TriangularResult(NamedTuple):
    """What :func:`triangular_solve` returns."""

    solution: Tensor
    cloned_coefficient: Tensor


def triangular_solve(
    input: Tensor,
    A: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> TriangularResult:
    """``X`` with ``A @ X = input`` (``A.mT @ X`` if ``transpose``), and a copy of ``A``."""
    expect_square("triangular_solve", A)
    a, b = _meet("triangular_solve", A, input)
    op = TriangularSolve(lower=not upper, transpose=transpose, unit=unitriangular)
    return TriangularResult(dispatch.apply(op, a, b), a.clone())


def cholesky_solve(B: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """``X`` with ``A @ X = B``, where ``L`` is the Cholesky factor of ``A``."""
    half = solve_triangular(view.matrix_transpose(L) if upper else L, B, upper=False)
    return solve_triangular(L if upper else view.matrix_transpose(L), half, upper=True)


def cholesky_inverse(L: Tensor, upper: bool = False) -> Tensor:
    """The inverse of the matrix whose Cholesky factor is ``L``."""
    expect_square("cholesky_inverse", L)
    eye = np.eye(int(L.shape[-1]), dtype=L.type.dtype.numpy)
    one = dispatch.from_array(eye, device=L.device)
    return cholesky_solve(expand_to("cholesky_inverse", one, L.type.shape), L, upper)


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """``X`` with ``A @ X = B`` (``X @ A = B`` unless ``left``); ``B`` may be vectors.

    RunError (eager; else NaN) for a singular matrix.
    """
    return _checked("solve", "is singular", solved(A, B, left=left), A, B)


def solved(A: Tensor, B: Tensor, *, left: bool) -> Tensor:
    """:func:`solve`, NaN for a singular matrix."""
    expect_square("solve", A)
    expect_tensor("solve", "B", B)
    vectors = B.type.rank == 1 or (
        B.type.rank == A.type.rank - 1 and B.type.shape == A.type.shape[:-1]
    )
    right = view.unsqueeze(B, -1) if vectors else B
    if not left:
        A = view.matrix_transpose(A)
        right = right if vectors else view.matrix_transpose(right)
    out = dispatch.apply(Solve(), *_meet("solve", A, right))
    if vectors:
        return view.squeeze(out, -1)
    return out if left else view.matrix_transpose(out)


def inv(A: Tensor) -> Tensor:
    """The inverse of each matrix. RunError (eager; else NaN) for a singular one."""
    expect_square("inv", A)
    return _checked("inv", "is singular", dispatch.apply(Inverse(), A), A)


def inv_ex(A: Tensor) -> InfoResult:
    """:func:`inv` that does not raise; ``info`` is 1 where there is no answer."""
    expect_square("inv_ex", A)
    out = dispatch.apply(Inverse(), A)
    return InfoResult(out, _info(out))


def pinv(A: Tensor, rtol: float | None = None, *, atol: float = 0.0) -> Tensor:
    """The pseudo-inverse: singular values up to ``atol`` or ``rtol`` times the largest are 0.

    ``rtol`` is by default the larger size times the precision of the dtype.
    """
    u, s, v = svd(A, full_matrices=False)
    limit = _limit(A, s, atol, rtol)
    kept = s > limit
    share = comparison.where(kept, 1.0 / comparison.where(kept, s, 1.0), 0.0)
    left = elementwise.mul(view.matrix_transpose(v), view.unsqueeze(share, -2))
    return matmul(left, view.matrix_transpose(u))


def _limit(A: Tensor, s: Tensor, atol: float, rtol: float | None) -> Tensor:
    eps = float(np.finfo(A.type.dtype.accumulate.numpy).eps)
    default = max(int(n) for n in A.shape[-2:]) * eps if atol <= 0 else 0.0
    most = view.narrow(s, -1, 0, min(1, int(s.shape[-1]))).detach()
    share = default if rtol is None else float(rtol)
    return elementwise.clamp(elementwise.mul(most, share), min=float(atol))


class LstsqResult(NamedTuple):
    """What :func:`lstsq` returns; some drivers give no residuals, some no singular values."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


def lstsq(
    A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None
) -> LstsqResult:
    """The ``X`` for which the squares of ``A @ X - B`` sum to the least, and the shortest such.

    Singular values up to ``rcond`` times the largest count as 0; ``rank`` is how many are left. The
    other results are empty where LAPACK's ``driver`` (gelsy by default, gels, gelsd, gelss) leaves
    them so; there are residuals of matrices with more rows than columns only.
    """
    if driver not in (None, "gelsy", "gels", "gelsd", "gelss"):
        want = "expected driver gels, gelsy, gelsd or gelss"
        raise located(ArgumentError, f"lstsq: {want}, got {driver!r}")
    found = matmul(pinv(A, rcond), B)
    s = svdvals(A).detach()
    none = dispatch.constant(0, A.type.dtype, (0,), A.device)
    rest = none
    if driver in ("gels", "gelsd", "gelss") and int(A.shape[-2]) > int(A.shape[-1]):
        rest = reduce.sum(elementwise.square(elementwise.sub(matmul(A, found), B)), -2)
    rank = reduce.sum(s > _limit(A, s, 0.0, rcond), -1)
    return LstsqResult(found, rest, rank, s if driver in ("gelsd", "gelss") else none)


# numbers


def det(A: Tensor) -> Tensor:
    """The determinant of each matrix."""
    expect_square("det", A)
    return dispatch.apply(Det(), A)


def slogdet(A: Tensor) -> SlogdetResult:
    """The sign of each determinant, and the logarithm of its absolute value."""
    expect_square("slogdet", A)
    return SlogdetResult(*dispatch.apply_tuple(Slogdet(), A))


def logdet(A: Tensor) -> Tensor:
    """The logarithm of each determinant; NaN if it is negative."""
    sign, size = slogdet(A)
    found: Tensor = comparison.where(sign < 0, math.nan, size)
    return found


def matrix_rank(
    A: Tensor, tol: float | None = None, *, atol: float = 0.0, rtol: float | None = None
) -> Tensor:
    """How many singular values are above ``atol``, and above ``rtol`` times the largest."""
    s = svdvals(A)
    least = float(tol) if tol is not None else atol
    limit = _limit(A, s, least, 0.0 if tol is not None else rtol)
    return reduce.sum(s > limit, -1)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number of each matrix in the norm ``p``: 2 (None), -2, fro, nuc, inf, 1, .."""
    if p in (None, 2, -2):
        s = svdvals(A)
        first, last = view.select(s, -1, 0), view.select(s, -1, -1)
        return last / first if p == -2 else first / last
    return elementwise.mul(matrix_norm(A, p), matrix_norm(inv(A), p))


# products


def matrix_power(A: Tensor, n: int) -> Tensor:
    """``A`` multiplied by itself ``n`` times; a negative power is one of the inverse."""
    expect_square("matrix_power", A)
    if n < 0:
        return matrix_power(inv(A), -n)
    if n == 0:
        eye = np.eye(int(A.shape[-1]), dtype=A.type.dtype.numpy)
        one = dispatch.from_array(eye, device=A.device)
        return expand_to("matrix_power", one, A.type.shape).clone()
    found, square = None, A
    while n:
        if n % 2:
            found = square if found is None else matmul(found, square)
        n //= 2
        square = matmul(square, square) if n else square
    assert found is not None
    return found


def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The sums of products along ``dim``."""
    product = elementwise.mul(x, y)
    return reduce.sum(product, dim, dtype=product.type.dtype)


def cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The vector product along ``dim``."""
    return einsum.cross(input, other, dim)


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices in two dims, as a view."""
    return strides.diagonal(A, offset, dim1, dim2)


# norms


def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Dims | None = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The ``ord``-norm of the elements over ``dim``, of all for None."""
    return reduce.norm(x, float(ord), dim, keepdim, dtype)


def matrix_norm(
    A: Tensor,
    ord: Any = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """The norm of matrices in two dims: fro, nuc, inf, -inf, 1, -1, 2 or -2."""
    expect_tensor("matrix_norm", "A", A)
    if len(dim) != 2:
        raise located(ArgumentError, f"matrix_norm: expected two dims, got {tuple(dim)}")
    x = A if dtype is None else cast(A, dtype)
    rows, columns = (axis("matrix_norm", d, x.type.rank) for d in dim)
    if ord == "fro":
        return reduce.norm(x, 2, (rows, columns), keepdim)
    if ord in (1, -1, math.inf, -math.inf):
        summed, left = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = reduce.sum(elementwise.abs(x), summed, keepdim=True)
        found = (reduce.amax if ord > 0 else reduce.amin)(sums, left, keepdim=True)
    elif ord in ("nuc", 2, -2):
        s = svdvals(view.movedim(x, (rows, columns), (-2, -1)))
        extreme = reduce.amin if ord == -2 else reduce.amax
        found = reduce.sum(s, -1) if ord == "nuc" else extreme(s, -1)
        for a in sorted((rows, columns)):
            found = view.unsqueeze(found, a)
    else:
        want = "fro, nuc, inf, -inf, 1, -1, 2 or -2"
        raise located(ArgumentError, f"matrix_norm: expected ord to be {want}, got {ord!r}")
    if keepdim:
        return found
    kept = [n for a, n in enumerate(found.type.shape) if a not in (rows, columns)]
    return view.reshape(found, kept)


def norm(
    A: Tensor,
    ord: Any = None,
    dim: Dims | None = None,
    keepdim: bool = False,
    *,
    dtype: DType | None = None,
) -> Tensor:
    """:func:`matrix_norm` where ``ord`` is given with two dims, or with none for a matrix; else
    :func:`vector_norm`.
    """
    expect_tensor("norm", "A", A)
    several = isinstance(dim, Sequence) and len(dim) == 2
    matrix = several or (dim is None and A.type.rank == 2)
    if ord is not None and (matrix or isinstance(ord, str)):
        pair = tuple(dim) if isinstance(dim, Sequence) else (-2, -1)
        return matrix_norm(A, ord, pair, keepdim, dtype=dtype)
    return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


# arguments


def expect_matrices(name: str, x: Tensor) -> None:
    """TypeCheckError unless ``x`` is a tensor of floating-point matrices."""
    expect_tensor(name, "input", x)
    if x.type.rank < 2 or not x.type.dtype.is_floating_point:
        message = f"{name}: expected floating-point matrices [.., m, n], got {x.type}"
        raise located(TypeCheckError, message)


def expect_square(name: str, x: Tensor) -> None:
    """TypeCheckError unless ``x`` is a tensor of square matrices."""
    expect_matrices(name, x)
    if x.type.shape[-1] != x.type.shape[-2]:
        raise located(TypeCheckError, f"{name}: expected square matrices, got {x.type}")


def _meet(name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` with their leading dims broadcast."""
    expect_matrices(name, b)
    lead = common_shape(name, [t.type.with_shape(t.type.shape[:-2]) for t in (a, b)])
    x, y = (expand_to(name, t, (*lead, *t.type.shape[-2:])) for t in (a, b))
    return x, y


def _checked(name: str, what: str, out: Tensor, *inputs: Tensor) -> Tensor:
    """``out``. RunError where it is NaN and ``inputs`` are not."""
    if dispatch.is_capturing() or not _has_nan(out) or any(map(_has_nan, inputs)):
        return out
    raise located(RunError, f"{name}: a matrix of {inputs[0].type} {what}")


def _has_nan(x: Tensor) -> bool:
    return bool(np.isnan(x.detach().cpu().numpy().astype(np.float64)).any())
