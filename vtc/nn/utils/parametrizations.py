"""Parametrizations that models use (PyTorch's names): weight_norm, spectral_norm, orthogonal.

layer = parametrizations.orthogonal(nn.Linear(20, 20))
layer = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
"""

from __future__ import annotations

from typing import TypeVar, final

import numpy as np

from vtc.errors import ArgumentError
from vtc.frontend.functions.comparison import where
from vtc.frontend.functions.creation import eye, zeros_like
from vtc.frontend.functions.factors import geqrf, householder_product, matrix_exp
from vtc.frontend.functions.linalg import qr, solve
from vtc.frontend.functions.random import randn
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.functions.statistics import norm_except_dim
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn import functional as F
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer
from vtc.nn.utils.parametrize import register_parametrization
from vtc.nn.utils.spectral import as_matrix, new_directions, power_steps, sigma
from vtc.nn.utils.weight_norm import rows_of

M = TypeVar("M", bound=Module)
MAPS = ("matrix_exp", "cayley", "householder")


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Learn lengths, ``original0``, and directions, ``original1``, in place of ``<name>``.

    Lengths are over all dims but ``dim``, or over all if None (Salimans and Kingma 2016). Returns
    ``module``.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    return module


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """Divide ``<name>`` by its largest singular value, a vector by its length (Miyato et al. 2018).

    While training, each reading takes ``n_power_iterations`` from the directions before, which are
    buffers. The matrix has dim ``dim`` of the weight as its rows: 0, or 1 for transposed
    convolutions. Returns ``module``.
    """
    weight = _tensor("spectral_norm", module, name)
    at = rows_of(module) if dim is None else dim
    made = _SpectralNorm(weight, n_power_iterations, at, eps)
    register_parametrization(module, name, made)
    return module


def orthogonal(
    module: M,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> M:
    """Keep ``<name>``, a matrix or several, orthogonal: columns of length 1, or rows if fewer.

    ``orthogonal_map`` is "matrix_exp", "cayley" or "householder"; by default the first for square
    matrices, else the last. With ``use_trivialization`` the map is relative to the buffer ``base``,
    an orthogonal matrix close to what the tensor was (Lezcano-Casado 2019). Returns ``module``.
    """
    weight = _tensor("orthogonal", module, name)
    if weight.ndim < 2:
        raise located(ArgumentError, f"orthogonal: expected a matrix or several, got {weight.type}")
    square = weight.shape[-2] == weight.shape[-1]
    chosen = orthogonal_map or ("matrix_exp" if square else "householder")
    if chosen not in MAPS:
        message = f"expected orthogonal_map one of {', '.join(MAPS)}, got {chosen!r}"
        raise located(ArgumentError, f"orthogonal: {message}")
    made = _Orthogonal(weight, chosen, use_trivialization=use_trivialization)
    register_parametrization(module, name, made, unsafe=True)
    return module


@final
class _WeightNorm(Module):
    """``v`` with the lengths ``g``."""

    def __init__(self, dim: int | None = 0) -> None:
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except_dim(weight_v, 2, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths and directions of ``weight``."""
        return norm_except_dim(weight, 2, self.dim), weight


@final
class _SpectralNorm(Module):
    """A weight by its largest singular value."""

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        if not -weight.ndim <= dim < weight.ndim or n_power_iterations < 1:
            message = f"expected a dim of {weight.type} and n_power_iterations >= 1"
            got = f"got {dim} and {n_power_iterations}"
            raise located(ArgumentError, f"spectral_norm: {message}, {got}")
        self.dim, self.eps = dim % weight.ndim, eps
        self.n_power_iterations = n_power_iterations
        if weight.ndim > 1:
            matrix = as_matrix(weight.detach(), self.dim)
            u, v = new_directions(matrix, eps)
            self._u, self._v = Buffer(u), Buffer(v)
            power_steps(matrix, self._u, self._v, 15, eps, rows_first=True)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            steps = self.n_power_iterations
            power_steps(matrix, self._u, self._v, steps, self.eps, rows_first=True)
        return weight / sigma(matrix, self._u, self._v)

    def right_inverse(self, value: Tensor) -> Tensor:
        """``value``, which may have been normalized before."""
        return value


@final
class _Orthogonal(Module):
    """An orthogonal matrix of any one: the strict lower triangle counts."""

    def __init__(self, weight: Tensor, orthogonal_map: str, *, use_trivialization: bool) -> None:
        self.shape = weight.type.shape
        self.orthogonal_map, self.trivial = orthogonal_map, use_trivialization
        if use_trivialization:
            self.base: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        wide = int(x.shape[-2]) < int(x.shape[-1])
        x = x.mT if wide else x
        q = _reflected(x) if self.orthogonal_map == "householder" else self._turned(x)
        if self.trivial and self.base is not None:
            q = self.base @ q
        return q.mT if wide else q

    def _turned(self, x: Tensor) -> Tensor:
        """By a skew-symmetric matrix with the lower triangle of ``x``; its first columns."""
        n, k = int(x.shape[-2]), int(x.shape[-1])
        x = x.tril()
        if n != k:
            none = x[..., :1].expand(*x.shape[:-1], n - k) * 0.0
            x = cat([x, none], -1)
        a = x - x.mT
        if self.orthogonal_map == "matrix_exp":
            return matrix_exp(a)[..., :k]
        one = eye(n, dtype=a.dtype, device=a.device)
        return solve(one - a * 0.5, one + a * 0.5)[..., :k]

    def right_inverse(self, q: Tensor) -> Tensor:
        """What is learned if the tensor is to be ``q``, or the orthogonal matrix closest by QR."""
        if q.type.shape != self.shape:
            message = f"expected the shape {self.shape} as before, got {q.type}"
            raise located(ArgumentError, f"orthogonal: {message}")
        wide = int(q.shape[-2]) < int(q.shape[-1])
        tall = q.mT if wide else q
        if self.trivial:
            self.base = Buffer(_completed(tall))
            minus = -eye(int(q.shape[-2]), int(q.shape[-1]), dtype=q.dtype, device=q.device)
            return zeros_like(q) + minus
        if self.orthogonal_map != "householder":
            raise NotImplementedError
        made = _reflectors(tall)
        return made.mT if wide else made


def _completed(q: Tensor) -> Tensor:
    """An orthogonal matrix ``[n, n]`` that begins with ``q`` ``[n, k]``, or close to it."""
    n, k = int(q.shape[-2]), int(q.shape[-1])
    if n != k:
        q = cat([q, randn(*q.shape[:-1], n - k, dtype=q.dtype, device=q.device)], -1)
    elif _is_orthogonal(q):
        return q.clone()
    found, r = qr(q)
    return found * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _is_orthogonal(q: Tensor) -> bool:
    n = int(q.shape[-1])
    one = eye(n, dtype=q.dtype, device=q.device)
    eps = float(np.finfo(q.dtype.numpy).eps)
    return bool(((q.mT @ q - one).abs() <= 10.0 * n * eps + 1e-5 * one).all())


def _reflected(x: Tensor) -> Tensor:
    """The product of Householder's reflections by the columns below the diagonal, ``[.., n, k]``;
    its columns have the signs of the diagonal, which is not learned.
    """
    below = x.tril(-1)
    tau = 2.0 / (1.0 + (below * below).sum(-2))
    signs = x.diagonal(dim1=-2, dim2=-1).detach().trunc()
    return householder_product(below, tau) * signs.unsqueeze(-2)


def _reflectors(q: Tensor) -> Tensor:
    """The reflections whose product is ``q``, and on the diagonal the signs that ``q`` needs."""
    a, tau = geqrf(q.detach())
    signs = a.diagonal(dim1=-2, dim2=-1).sign() * where(tau == 0.0, -1.0, 1.0)
    rest = int(q.shape[-2]) - int(q.shape[-1])
    return a.tril(-1) + F.pad(signs.diag_embed(), (0, 0, 0, rest))


def _tensor(what: str, module: Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if isinstance(weight, Tensor):
        return weight
    owner = type(module).__name__
    raise located(ArgumentError, f"{what}: expected {owner} to have a tensor {name!r}")
