"""Gradients of values at hand, with the names of ``torch.autograd``.

(dw,) = vtc.autograd.grad(loss, [w])             # w.grad stays as it is
class Square(vtc.autograd.Function): ...         # a gradient of one's own
vtc.autograd.gradcheck(Square.apply, (x,))       # beside finite differences
"""

from __future__ import annotations

from vtc.autograd import function
from vtc.autograd.gradcheck import gradcheck, gradgradcheck
from vtc.autograd.gradients import backward, grad
from vtc.frontend.custom import Function
from vtc.frontend.dispatch import enable_grad, inference_mode, no_grad, set_grad_enabled

__all__ = [
    "Function",
    "backward",
    "enable_grad",
    "function",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_grad_enabled",
]
