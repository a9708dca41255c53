"""What a ``Function`` is written with, under the names of ``torch.autograd.function``.

class Lookup(vtc.autograd.Function):
    @staticmethod
    def forward(ctx, x): ...

    @staticmethod
    @once_differentiable
    def backward(ctx, g):                    # of NumPy, say: nobody differentiates it again
        ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, final

from vtc.errors import GradientError
from vtc.frontend import dispatch
from vtc.frontend.custom import Context as FunctionCtx
from vtc.frontend.custom import Function
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor

__all__ = ["Function", "FunctionCtx", "once_differentiable"]


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """For ``backward`` of a Function: it runs without gradients, and a gradient of what it gives is
    a GradientError, where it would be wrong in silence.
    """

    @wraps(fn)
    def backward(ctx: Any, *grads: Any) -> Any:
        with dispatch.no_grad():
            found = fn(ctx, *grads)
        given = [g for g in grads if isinstance(g, Tensor) and g.requires_grad]
        if not given or not dispatch.grad_enabled():
            return found
        if not isinstance(found, (tuple, list)):
            return None if found is None else _End.apply(found, *given)
        return tuple([None if x is None else _End.apply(x, *given) for x in found])

    return backward


@final
class _End(Function):
    """The first argument, as a function of the others that has no gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *others: Tensor) -> Tensor:
        """``x``."""
        del ctx, others
        return x.detach()

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Any:
        """GradientError."""
        del ctx, grads
        message = "trying to differentiate twice a function that was marked with"
        raise located(GradientError, f"{message} @once_differentiable")
