"""Writes in place that would lose gradients, refused alike in eager code and in traces.

with vtc.no_grad():
    v = h[1:]                 # a view without history
v.mul_(2)                     # GradientError: is this a step of h, or is it not?
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import GradientError
from vtc.frontend.source import located
from vtc.ir.types import TensorType

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def into_leaf(type: TensorType, *, view: bool = False) -> GradientError:
    """The error for a recorded write into a leaf of ``type``, or into a view of one."""
    kind = "a view of a leaf tensor" if view else "a leaf tensor"
    message = f"{kind} that requires grad was written in place: {type}"
    return located(GradientError, f"{message}; write under vtc.no_grad()")


def through_detach(value: Tensor) -> GradientError:
    """The error for a recorded write of ``value`` into what was detached."""
    message = f"a value that requires grad, {value.type}, was written into a detached tensor"
    return located(GradientError, f"{message}: detach() it, too, or write under vtc.no_grad()")


def into_view_without_history(type: TensorType) -> GradientError:
    """The error for a recorded write into a view that was made while nothing was recorded."""
    message = f"a view of a tensor that requires grad, made under vtc.no_grad(), is written: {type}"
    return located(
        GradientError, f"{message}; make the view and write it both inside of no_grad, or outside"
    )
