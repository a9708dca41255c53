"""Keep gradients small: ``nn.utils.clip_grad_norm_`` (PyTorch's name for it)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import f32


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Scale all gradients so that their norm is at most ``max_norm``; returns the norm before.

    The norm is that of one vector with all gradients in it, computed in f32 for narrower dtypes.
    There is no branch on its value, so a compiled step keeps it in the graph. ``norm_type`` may be
    ``math.inf``.
    """
    if norm_type <= 0:
        raise located(ArgumentError, f"clip_grad_norm_: expected norm_type > 0, got {norm_type}")
    found = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    owners = [p for p in found if p.grad is not None]
    with dispatch.no_grad():
        grads = [p.grad.detach() for p in owners if p.grad is not None]
        if not grads:
            return dispatch.constant(0.0, f32)
        total = _norm(grads, norm_type)
        scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for p, g in zip(owners, grads, strict=True):
            p.grad = (g * scale).to(g.dtype)
    return total


def _norm(grads: list[Tensor], norm_type: float) -> Tensor:
    wide = [g.to(g.dtype.accumulate) for g in grads]
    if math.isinf(norm_type):
        peaks = [g.abs().amax() for g in wide]
        largest = peaks[0]
        for peak in peaks[1:]:
            largest = largest.maximum(peak)
        return largest
    if norm_type == 2.0:
        return _add([(g * g).sum() for g in wide]).sqrt()
    return _add([g.abs().pow(norm_type).sum() for g in wide]).pow(1.0 / norm_type)


def _add(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
