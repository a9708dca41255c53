"""Keep gradients small: ``nn.utils.clip_grad_norm_`` and its like (PyTorch's names).

norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)        # between backward() and step()

Nothing here branches on values, so a compiled step keeps it in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import f32

Tensors = Tensor | Iterable[Tensor]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients so that their norm is at most ``max_norm``; returns the norm before.

    The norm is that of one vector with all gradients in it, computed in f32 for narrower dtypes.
    ``norm_type`` may be ``math.inf``. ``error_if_nonfinite`` looks at the norm, which a compiled
    step cannot: ArgumentError if it is infinite or NaN.
    """
    found = _listed(parameters)
    total = get_total_norm(
        [p.grad for p in found if p.grad is not None], norm_type, error_if_nonfinite
    )
    clip_grads_with_norm_(found, max_norm, total)
    return total


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of one vector with all ``tensors`` in it; 0 of none."""
    if norm_type <= 0:
        raise located(ArgumentError, f"clip_grad_norm_: expected norm_type > 0, got {norm_type}")
    with dispatch.no_grad():
        grads = [t.detach() for t in _listed(tensors)]
        total = _norm(grads, norm_type) if grads else dispatch.constant(0.0, f32)
        if error_if_nonfinite and not math.isfinite(float(total)):
            raise located(
                ArgumentError,
                f"clip_grad_norm_: expected a finite norm of the gradients, got {float(total)}",
            )
    return total


def clip_grads_with_norm_(parameters: Tensors, max_norm: float, total_norm: Tensor) -> None:
    """Scale the gradients as if ``total_norm`` were their norm."""
    with dispatch.no_grad():
        scale = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
        for p in _listed(parameters):
            if p.grad is not None:
                g = p.grad.detach()
                p.grad = (g * scale).to(g.dtype)


def clip_grad_value_(parameters: Tensors, clip_value: float) -> None:
    """Clamp every element of the gradients to ``[-clip_value, clip_value]``."""
    with dispatch.no_grad():
        for p in _listed(parameters):
            if p.grad is not None:
                p.grad = p.grad.detach().clamp(-float(clip_value), float(clip_value))


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


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
