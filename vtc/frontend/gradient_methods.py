"""The methods of ``vtc.Tensor`` about gradients: asking for them, taking them, watching them.

h = model.inner(x)
h.retain_grad()                               # h.grad, though h is no leaf
h.register_hook(lambda g: g.clamp(-1, 1))     # takes the place of the gradient
model(h).sum().backward()
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from vtc.errors import ArgumentError, GradientError, TypeCheckError
from vtc.frontend import dispatch, hooks
from vtc.frontend.dispatch import state
from vtc.frontend.ended import ended, is_ended
from vtc.frontend.functions.arguments import is_tensor
from vtc.frontend.grad_fn import GradFn
from vtc.frontend.hooks import RemovableHandle
from vtc.frontend.source import located

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


class GradientMethods(abc.ABC):  # noqa: B024 - a mixin
    """What ``vtc.Tensor`` inherits; see the module."""

    __slots__ = ()
    if TYPE_CHECKING:
        _grad: Tensor | None
        _hooks: hooks.TensorHooks | None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients of this leaf, or for none any more; returns the tensor itself.

        GradientError for integers and for results of other tensors.
        """
        x = cast("Tensor", self)
        if requires_grad and not (x.dtype.is_floating_point or x.dtype.is_complex):
            raise located(
                GradientError, f"only floating-point tensors can require gradients, got {x.type}"
            )
        if state.capture is not None:
            state.capture.set_requires(x, requires_grad)
            return x
        if not x.is_leaf:
            raise located(
                GradientError, "requires_grad can only be changed on a leaf; use detach() first"
            )
        if requires_grad is not x._requires:
            dispatch.bump_epoch()
        x._requires = requires_grad
        return x

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient of a leaf, or of what was told to ``retain_grad()``; or None."""
        if state.capture is not None:
            got: Tensor | None = state.capture.get_grad(self)
            return got
        if is_ended(x := cast("Tensor", self)):
            raise ended(x)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        x = cast("Tensor", self)
        if value is not None and not is_tensor(value):
            raise located(
                ArgumentError, f"grad: expected a Tensor or None, got {type(value).__name__}"
            )
        if value is not None and value.type != x.type:
            raise located(TypeCheckError, f"grad: expected {x.type}, got {value.type}")
        if state.capture is not None:
            state.capture.set_grad(x, value)
        elif is_ended(x):
            raise ended(x)
        else:
            x._grad = value

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradient of this single element (or of ``gradient`` times these) to ``.grad`` of
        every leaf below it, or only of ``inputs``.

        ``retain_graph`` (by default where ``create_graph`` is) allows another backward through the
        same values; with ``create_graph`` gradients can be differentiated again. GradientError if
        nothing requires a gradient, or if backward already ran through this graph.
        """
        x = cast("Tensor", self)
        dispatch.engine().backward(
            [x],
            [gradient],
            retain_graph=create_graph if retain_graph is None else retain_graph,
            create_graph=create_graph,
            inputs=given_inputs("backward", inputs),
        )

    @property
    def grad_fn(self) -> GradFn | None:
        """The step of a backward that this value's gradient goes to; None for a leaf."""
        found: GradFn | None = dispatch.engine().step_of(cast("Tensor", self))[0]
        return found

    @property
    def output_nr(self) -> int:
        """Which of the results of :attr:`grad_fn` this is."""
        return dispatch.engine().step_of(cast("Tensor", self))[1]

    # hooks

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook`` with the gradient of this tensor whenever all of it is known.

        A tensor of the same type that it returns takes the gradient's place, for what lies below
        and for ``.grad``; None leaves it. Hooks run in the order they were registered, those of a
        leaf before its gradient is added to ``.grad``. A hook belongs to the value that the tensor
        has now: a later write in place does not take it along. GradientError if the tensor does not
        require grad; at backward, for a result of another type.
        """
        return hooks.on_gradient(cast("Tensor", self), hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook`` with this leaf after each time that backward added to its ``.grad``.

        It may use ``.grad`` up (step an optimizer, set it to None) while backward goes on.
        GradientError for what is no leaf that requires grad, and for a hook that returns something.
        """
        return hooks.after_accumulation(cast("Tensor", self), hook)

    def retain_grad(self) -> None:
        """Keep the gradient of this result in ``.grad``, as its hooks leave it. Leaves do anyway.

        GradientError if the tensor does not require grad.
        """
        hooks.retain(cast("Tensor", self))

    @property
    def retains_grad(self) -> bool:
        """Whether this is no leaf and was told to :meth:`retain_grad`."""
        return self._hooks is not None and self._hooks.retains


def given_inputs(name: str, inputs: Tensor | Sequence[Tensor] | None) -> list[Tensor] | None:
    """``inputs`` as a list. ArgumentError for an empty one, GradientError where none can flow."""
    if inputs is None:
        return None
    found = [inputs] if is_tensor(inputs) else list(inputs)
    if not found:
        raise located(ArgumentError, f"{name}: expected inputs that are not empty")
    for x in found:
        if not is_tensor(x):
            got = type(x).__name__
            raise located(ArgumentError, f"{name}: expected inputs that are tensors, got a {got}")
        if not x.requires_grad:
            raise located(GradientError, f"{name}: expected inputs that require grad, got {x.type}")
    return found
