"""Control flow when nothing is traced: the functions run, and the tape records what they do.

Writes to tensors that are older than the step are refused, as they are in compiled functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from vtc.errors import CaptureError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.autograd import ENGINE
from vtc.frontend.dispatch import state
from vtc.frontend.flow_values import Carried, Returned, returned
from vtc.frontend.frames import NO_DRAWS, is_state, wrong_write
from vtc.frontend.functions.rearrange import stack
from vtc.frontend.source import located
from vtc.frontend.tape import running
from vtc.frontend.tensor import MOMENTS, Tensor
from vtc.frontend.tree import flatten, unflatten
from vtc.ir.dims import Size
from vtc.ir.ops.flow import NO_GRADIENT

Step = Callable[[Any, Any], tuple[list[Tensor], Any]]


@final
@dataclass(frozen=True, slots=True)
class Body:
    """A body that runs, since ``moment``; ``name`` is what runs it, and ``draws`` whether it may
    draw random numbers.
    """

    name: str
    moment: int
    draws: bool

    def writing(self, x: Tensor) -> None:
        """``x`` is about to be written. CaptureError if it is older."""
        s = x._storage
        if is_state(x):
            if not self.draws:
                raise located(CaptureError, NO_DRAWS)
        elif s is not None and s.born < self.moment:
            raise located(CaptureError, wrong_write(self.name, x.type))


@contextmanager
def body(name: str, *, draws: bool = True) -> Iterator[None]:
    """What runs inside is a body of ``vtc.<name>``."""
    before, running.body = running.body, Body(name, next(MOMENTS), draws)
    try:
        yield
    finally:
        running.body = before


def guarded(name: str, fn: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """What ``fn`` returns, numbers as tensors."""
    if state.capture is not None:
        found = returned(name, fn(*operands))
        return found.tree(found.tensors)
    with body(name):
        found = returned(name, fn(*operands))
    return found.tree(found.tensors)


def while_loop(
    carried: Carried, test: Callable[[Any], Tensor], step: Callable[[Any], list[Tensor]]
) -> Any:
    """The loop; the first step shows whether a gradient would have to flow."""
    now, before = list(carried.start), state.grad
    first: list[Tensor] | None = None
    while _once(test, carried.tree(now)):
        with body(carried.name), dispatch.set_grad_enabled(before and first is None):
            now = step(carried.tree(now))
        first = now if first is None else first
    below = [x for x in first or () if before and x.requires_grad]
    return carried.tree([_stuck(x, below) for x in now] if below else now)


def _once(test: Callable[[Any], Tensor], tree: Any) -> bool:
    with body("while_loop", draws=False), dispatch.no_grad():
        return bool(test(tree))


@dataclass(frozen=True, slots=True)
class _Stuck:
    """On the tape: a loop that has no gradient."""

    name: str = "while_loop"

    def vjp(self, g: Any, out: Any, inputs: Any, needs: Any) -> Sequence[Any]:
        """GradientError."""
        raise located(GradientError, NO_GRADIENT)


def _stuck(x: Tensor, below: Sequence[Tensor]) -> Tensor:
    """``x``, which depends on ``below``: its gradient is an error."""
    if not x.dtype.is_floating_point:
        return x
    y = x.detach().clone()
    ENGINE.record(_Stuck(), tuple([ENGINE.save(b) for b in below]), y)
    return y


def scan(
    carried: Carried, step: Step, xs: Any, length: Size, reverse: bool, f: Callable[..., Any]
) -> tuple[Any, Any]:
    """Step by step."""
    del f
    assert isinstance(length, int)
    leaves, form = flatten(xs)
    now = list(carried.start)
    rows: list[Returned] = []
    order = range(length)[::-1] if reverse else range(length)
    for i in order:
        x = unflatten(form, [None if leaf is None else leaf[i] for leaf in leaves])
        with body(carried.name):
            now, y = step(carried.tree(now), x)
            rows.append(returned(carried.name, y))
    if not rows:
        return carried.tree(now), _nothing(carried, step, leaves, form)
    rows = rows[::-1] if reverse else rows
    columns = zip(*[r.tensors for r in rows], strict=True)
    return carried.tree(now), rows[0].tree([stack(c) for c in columns])


def _nothing(carried: Carried, step: Step, leaves: Sequence[Any], form: Any) -> Any:
    """What no step gives: the types of results are those for zeros."""

    def zeros(shape: Sequence[Size], like: Tensor) -> Tensor:
        return dispatch.constant(0, like.dtype, shape, like.device)

    given = [None if x is None else zeros(x.type.shape[1:], x) for x in leaves]
    with body(carried.name), dispatch.no_grad():
        start = [zeros(x.type.shape, x) for x in carried.start]
        _, y = step(carried.tree(start), unflatten(form, given))
        found = returned(carried.name, y)
    return found.tree([zeros((0, *x.type.shape), x) for x in found.tensors])
