"""Control flow that depends on values: ``cond``, ``while_loop``, ``scan`` and ``map``.

    y = vtc.cond(x.sum() > 0, lambda: x * 2, lambda: x / 2)
    n, = vtc.while_loop(lambda n: n < 100, lambda n: n * 2, (n,))
    h, ys = vtc.scan(lambda h, x: (vtc.tanh(h @ w + x), h), h, xs)

In a compiled function the Python functions are traced once, and what they read from outside
(parameters, values of the trace) is read by the loop or the branch. Eager, they simply run. Either
way they change nothing outside: a write in place to a tensor they did not make is an error. Random
numbers may be drawn. Gradients flow through all but ``while_loop``, and gradients of gradients too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch, eager_flow, traced_flow
from vtc.frontend.dispatch import state
from vtc.frontend.flow_values import Carried, leaves_of, show_type
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Size
from vtc.ir.types import bool_


def cond(
    pred: Tensor | bool,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any],
    operands: Sequence[Any] = (),
) -> Any:
    """``true_fn(*operands)`` if ``pred`` is true, else ``false_fn(*operands)``; only one runs.

    ``pred`` is a bool tensor of one element (or a Python bool, which decides at once). Both
    functions return trees of tensors and numbers of one structure; in a compiled function their
    shapes and dtypes must be equal. TypeCheckError for a predicate of another dtype or shape, or
    results that differ; CaptureError for a write to a tensor that the function did not make.
    """
    _callable("cond", true_fn, false_fn)
    if isinstance(pred, bool):
        chosen = true_fn if pred else false_fn
        return eager_flow.guarded("cond", chosen, operands)
    at = _decided("cond", pred)
    if state.capture is None:
        chosen = true_fn if bool(at) else false_fn
        return eager_flow.guarded("cond", chosen, operands)
    return traced_flow.cond(state.capture, at, true_fn, false_fn, operands)


def while_loop(
    cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried_inputs: Sequence[Any]
) -> Any:
    """While ``cond_fn(*carried)`` is true: ``carried = body_fn(*carried)``; the last ``carried``.

    What is carried is a sequence of trees of tensors and numbers; each step keeps its structure,
    shapes and dtypes (TypeCheckError names what changed). ``cond_fn`` returns a bool tensor of one
    element. There is no gradient: backward raises GradientError; :func:`scan` has one. On a GPU the
    host waits for the condition before each step.
    """
    _callable("while_loop", cond_fn, body_fn)
    if not isinstance(carried_inputs, (tuple, list)) or not carried_inputs:
        got = type(carried_inputs).__name__ if carried_inputs else "nothing"
        message = f"while_loop: expected a tuple or list of values to carry, got {got}"
        raise located(ArgumentError, message)
    carried = Carried.of("while_loop", tuple(carried_inputs))

    def test(tree: Any) -> Tensor:
        return _decided("while_loop", cond_fn(*tree))

    def body(tree: Any) -> list[Tensor]:
        found = body_fn(*tree)
        alone = len(carried_inputs) == 1 and not isinstance(found, (tuple, list))
        return carried.next((found,) if alone else tuple(found))

    if state.capture is None:
        return eager_flow.while_loop(carried, test, body)
    return traced_flow.while_loop(state.capture, carried, test, body, body_fn)


def scan(
    f: Callable[[Any, Any], Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Step by step ``carry, y = f(carry, x)`` for the slices ``x`` of ``xs`` along the first dim.

    Returns the last carry, and the ``y`` stacked along a new first dim; both are trees of tensors.
    ``xs`` may be a tree of tensors of one length, or None with ``length`` steps. With ``reverse``
    the last slice comes first, and ``y`` stays beside its ``x``. The carry keeps its structure,
    shapes and dtypes (TypeCheckError names what changed). The gradient keeps the carry of each step
    and computes the rest of the step again.
    """
    _callable("scan", f)
    steps = _length("scan", xs, length)
    carried = Carried.of("scan", init)

    def step(carry: Any, x: Any) -> tuple[list[Tensor], Any]:
        found = f(carry, x)
        if not isinstance(found, tuple) or len(found) != 2:
            message = f"scan: expected f to return (carry, y), got {show_type(found)}"
            raise located(TypeCheckError, message)
        return carried.next(found[0]), found[1]

    where = traced_flow if state.capture is not None else eager_flow
    found: tuple[Any, Any] = where.scan(carried, step, xs, steps, reverse, f)
    return found


def map(f: Callable[[Any], Any], xs: Any) -> Any:
    """``f`` of each slice of ``xs`` (a tree of tensors) along the first dim, stacked.

    One after the other: memory is needed for one slice at a time.
    """
    _callable("map", f)
    steps = _length("map", xs, None)
    carried = Carried.of("map", ())

    def step(carry: Any, x: Any) -> tuple[list[Tensor], Any]:
        del carry
        return [], f(x)

    where = traced_flow if state.capture is not None else eager_flow
    return where.scan(carried, step, xs, steps, False, f)[1]


def _callable(name: str, *functions: Any) -> None:
    for fn in functions:
        if not callable(fn):
            got = type(fn).__name__
            raise located(ArgumentError, f"{name}: expected a function, got {got}")


def _decided(name: str, pred: Any) -> Tensor:
    """``pred`` as bool[()]."""
    if isinstance(pred, bool):
        return dispatch.constant(pred, bool_)
    if not isinstance(pred, Tensor) or pred.dtype is not bool_ or pred.type.numel != 1:
        got = show_type(pred)
        message = f"{name}: expected a predicate of one element and dtype bool, got {got}"
        raise located(TypeCheckError, message)
    return pred.reshape(()) if pred.type.rank else pred


def _length(name: str, xs: Any, length: int | None) -> Size:
    """The number of steps."""
    leaves = leaves_of(xs)
    if not leaves and length is None:
        way = ", or a length" if name == "scan" else ""
        raise located(ArgumentError, f"{name}: expected xs with tensors{way}, got none")
    for x in leaves:
        if not isinstance(x, Tensor) or not x.type.rank:
            message = f"{name}: expected tensors of one dim or more in xs, got {show_type(x)}"
            raise located(TypeCheckError, message)
    found: list[Size] = [x.type.shape[0] for x in leaves]
    if length is not None:
        found.insert(0, dispatch.size(length))
    if isinstance(found[0], int) and found[0] < 0:
        raise located(ArgumentError, f"{name}: expected a length of at least 0, got {found[0]}")
    if other := [n for n in found if n != found[0]]:
        what = "length" if length is not None else "first dim"
        message = f"{name}: expected xs with first dims equal to the {what} {found[0]}"
        raise located(ArgumentError, f"{message}, got {other[0]}")
    return found[0]
