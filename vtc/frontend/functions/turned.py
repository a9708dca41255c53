"""Views in place: ``x.unsqueeze_(0)`` makes ``x`` itself what ``x.unsqueeze(0)`` is.

Nothing moves in memory. What ``x`` was goes on as a tensor of its own, which ``x`` and the views
that were cut from it before are views of, so writes reach all of them, and gradients too::

    row = x[0]
    x.t_().mul_(2)                   # row is doubled
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from vtc.errors import CaptureError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import state
from vtc.frontend.functions import strides, view
from vtc.frontend.functions.arguments import expect_tensor, is_tensor
from vtc.frontend.source import located
from vtc.ir.ops.control import StopGradient

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

P = ParamSpec("P")


def turned(
    function: Callable[Concatenate[Tensor, P], Tensor],
) -> Callable[Concatenate[Tensor, P], Tensor]:
    """The form of the view ``function`` that changes its first argument, and returns it.

    GradientError for a leaf that requires grad, but under ``no_grad``. CaptureError in a compiled
    function for a tensor from outside: its shape is what the program is made for.
    """
    name = f"{function.__name__}_"

    @wraps(function)
    def turn(input: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        expect_tensor(name, "input", input)
        _expect_own(name, input)
        leaf = input.requires_grad and input.is_leaf
        if leaf and dispatch.grad_enabled():
            message = f"{name}: a leaf tensor that requires grad was changed in place"
            raise located(GradientError, f"{message}: {input.type}")
        if _is_alone(input):
            input._array, input._known = function(input, *args, **kwargs)._array, None
        else:
            before = _twin(input)
            after = function(before, *args, **kwargs)
            _replant(input, before)
            _become(input, after, leaf=leaf)
        if input._storage is not None:
            input._storage.version += 1
        return input

    turn.__name__ = turn.__qualname__ = name
    turn.__doc__ = f"Make ``input`` what ``{function.__name__}`` gives: a view of its elements."
    return turn


def detach_(input: Tensor) -> Tensor:
    """Forget where ``input`` comes from: it requires no grad any more.

    GradientError for a view: ``detach()`` it instead.
    """
    expect_tensor("detach_", "input", input)
    _expect_own("detach_", input)
    if input._link is not None and input.requires_grad:
        raise located(GradientError, f"detach_: {input.type} is a view; use detach()")
    if not input.requires_grad:
        return input
    if state.capture is None:
        input._record, input._requires = None, False
        return input
    before = _twin(input)
    _replant(input, before)
    _become(input, dispatch.view(StopGradient(), before), leaf=False)
    return input


def _expect_own(name: str, x: Tensor) -> None:
    """Inside a compiled function, that ``x`` was made there."""
    capture = state.capture
    if capture is None or x._storage is None or id(x) in capture.born_here:
        return
    message = f"{name}: {x.type} comes from outside the compiled function; use {name[:-1]}()"
    raise located(CaptureError, message)


def _is_alone(x: Tensor) -> bool:
    """Whether nobody else has the memory of ``x``, or asks where it comes from."""
    if state.capture is not None or x._link is not None or x._record is not None:
        return False
    return sys.getrefcount(x._storage) <= 2  # its own, and the one that counting makes


def _twin(x: Tensor) -> Tensor:
    """A tensor that is what ``x`` is now."""
    twin = type(x)()
    for slot in type(x).__slots__:
        if slot != "__weakref__":
            setattr(twin, slot, getattr(x, slot))
    twin._requires = x._requires and dispatch.grad_enabled()
    if state.capture is not None:
        state.capture.made.add(twin)
        if x._storage is not None:
            state.capture.born(twin)
    return twin


def _become(x: Tensor, y: Tensor, *, leaf: bool) -> None:
    """``x`` is ``y`` from now on; a leaf stays one, of another shape."""
    met = x._storage is None  # by the trace: it has x among its own
    x._array, x._known = y._array, None
    if leaf and state.capture is None:
        return
    for slot in ("_storage", "_link", "_node", "_cell", "_record", "_stamp", "_requires"):
        setattr(x, slot, getattr(y, slot))
    if state.capture is not None and not met:
        state.capture.made.add(x)


def _replant(x: Tensor, twin: Tensor) -> None:
    """Views of ``x`` are views of ``twin`` from now on."""
    for y in _views(x):
        if y._link is not None and y._link[0] is x:
            y._link = (twin, y._link[1])


def _views(x: Tensor) -> Iterable[Tensor]:
    """The tensors that may be views of ``x``."""
    if state.capture is not None:
        return list(state.capture.made)
    links: list[Any] = [r for r in gc.get_referrers(x) if type(r) is tuple]
    return [y for link in links for y in gc.get_referrers(link) if is_tensor(y)]


as_strided_ = turned(strides.as_strided)
squeeze_ = turned(view.squeeze)
swapaxes_ = turned(view.swapaxes)
swapdims_ = turned(view.swapdims)
t_ = turned(view.t)
transpose_ = turned(view.transpose)
unsqueeze_ = turned(view.unsqueeze)
