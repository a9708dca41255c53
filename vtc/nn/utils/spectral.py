"""The largest singular value of a matrix by the power method, from directions that are kept."""

from __future__ import annotations

from vtc.frontend import dispatch
from vtc.frontend.functions.random import randn
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """``weight`` with dim ``dim`` as rows and all others as columns."""
    return weight.movedim(dim, 0).flatten(1)


def new_directions(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Random vectors of length 1, as long as the matrix is high and wide."""
    with dispatch.no_grad():
        u, v = (randn(int(n), dtype=matrix.dtype, device=matrix.device) for n in matrix.shape)
        return F.normalize(u, dim=0, eps=eps), F.normalize(v, dim=0, eps=eps)


def power_steps(
    matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float, *, rows_first: bool = False
) -> None:
    """Turn ``u`` and ``v``, in place, towards the directions of the largest singular value.

    ``rows_first``: ``u`` is computed of ``v`` before ``v`` of ``u``.
    """
    with dispatch.no_grad():
        matrix = matrix.detach()
        for _ in range(steps):
            if rows_first:
                dispatch.write(u, F.normalize(matrix @ v, dim=0, eps=eps))
            dispatch.write(v, F.normalize(matrix.T @ u, dim=0, eps=eps))
            if not rows_first:
                dispatch.write(u, F.normalize(matrix @ v, dim=0, eps=eps))


def sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The singular value of the directions as they are now, 0-d; later writes do not change it."""
    u, v = u.detach().clone(), v.detach().clone()
    return (u * (matrix @ v)).sum()
