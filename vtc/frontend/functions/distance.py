"""Distances between rows.

cdist(x, y)            # [.., P, R] of x [.., P, M] and y [.., R, M]
pdist(x)               # of each pair of rows, in order
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, index, reduce, view
from vtc.frontend.functions.arguments import expect_tensor
from vtc.frontend.functions.contract import matmul
from vtc.frontend.functions.promotion import cast, result_type
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

Mode = Literal[
    "use_mm_for_euclid_dist_if_necessary", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"
]
_MANY = 25
"""More rows than that are compared by a product, as in PyTorch."""


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: Mode | None = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """The ``p``-norms of all differences of a row of ``x1`` and one of ``x2``.

    ``compute_mode`` says when Euclidean distances are computed by a product of matrices, which is
    faster and less exact: by default for more than 25 rows. The gradient at 0 is 0.
    """
    for argument, x in (("x1", x1), ("x2", x2)):
        expect_tensor("cdist", argument, x)
        if x.type.rank < 2 or x.type.dtype.kind != "float":
            message = f"cdist: expected floating-point rows [.., P, M] as {argument}, got {x.type}"
            raise located(TypeCheckError, message)
    if x1.type.shape[-1] != x2.type.shape[-1]:
        got = f"got {x1.type} and {x2.type}"
        raise located(TypeCheckError, f"cdist: expected rows of one length, {got}")
    _expect_order("cdist", p)
    dtype = result_type(x1, x2)
    a, b = (cast(x, dtype) for x in (x1, x2))
    if p == 2 and _by_product(a, b, compute_mode):
        return _euclidean(a, b)
    gaps = elementwise.sub(view.unsqueeze(a, -2), view.unsqueeze(b, -3))
    return reduce.norm(gaps, p, -1) if a.type.shape[-1] != 0 else reduce.sum(gaps, -1)


def _by_product(a: Tensor, b: Tensor, mode: Mode | None) -> bool:
    if mode in (None, "use_mm_for_euclid_dist_if_necessary"):
        rows = (a.type.shape[-2], b.type.shape[-2])
        return any(isinstance(n, int) and n > _MANY for n in rows)
    if mode not in ("use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"):
        raise located(ArgumentError, f"cdist: {mode!r} is not a valid value for compute_mode")
    return mode == "use_mm_for_euclid_dist"


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    own, others = (reduce.sum(elementwise.square(x), -1, True) for x in (a, b))
    both = elementwise.add(own, view.matrix_transpose(others))
    apart = elementwise.sub(both, elementwise.mul(matmul(a, view.matrix_transpose(b)), 2.0))
    far = comparison.gt(apart, 0)
    root = elementwise.sqrt(comparison.where(far, apart, 1.0))
    found: Tensor = comparison.where(far, root, 0.0)
    return found


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The ``p``-norms ``[N * (N - 1) / 2]`` of the differences of rows ``i < j`` of ``[N, M]``."""
    expect_tensor("pdist", "input", input)
    if input.type.rank != 2 or input.type.dtype.kind != "float":
        message = f"pdist: expected floating-point rows [N, M], got {input.type}"
        raise located(TypeCheckError, message)
    _expect_order("pdist", p)
    pairs = [np.ascontiguousarray(k) for k in np.triu_indices(int(input.shape[0]), 1)]
    rows = [dispatch.from_array(k, device=input.device) for k in pairs]
    gaps = elementwise.sub(*(index.index_select(input, 0, k) for k in rows))
    return reduce.norm(gaps, p, -1) if input.type.shape[-1] != 0 else reduce.sum(gaps, -1)


def _expect_order(name: str, p: float) -> None:
    if p < 0 or math.isnan(p):
        raise located(ArgumentError, f"{name}: expected p >= 0, got {p}")
