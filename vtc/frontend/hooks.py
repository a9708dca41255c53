"""Functions that are called when gradients are known, and handles that take them away again.

    handle = h.register_hook(lambda g: g.clamp(-1, 1))    # takes the place of the gradient of h
    loss.backward()
    handle.remove()

A hook sees a gradient once, when all that flows into it is there. Hooks of one tensor are called in
the order they were registered; those that are added or removed meanwhile count from the next
backward on. Eager, hooks are kept on the tape; while tracing, with the values of the program, and
what they compute is part of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

from vtc.errors import ArgumentError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.functions.arguments import is_tensor
from vtc.frontend.source import located
from vtc.ir.ops.view import Reshape

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


@final
@dataclass(frozen=True, eq=False)
class Hook:
    """A function; of hooks on modules, whether it takes keyword arguments and runs after errors."""

    call: Callable[..., Any]
    with_kwargs: bool = False
    always: bool = False

    def __guards__(self) -> Callable[..., Any]:
        """What compiled functions that call this compare."""
        return self.call

    @property
    def name(self) -> str:
        """What the user calls it."""
        found: str = getattr(self.call, "__name__", type(self.call).__name__)
        return found


Hooks: TypeAlias = tuple[Hook, ...]
Gradients: TypeAlias = "Sequence[Tensor | None]"


@final
@dataclass(eq=False, slots=True)
class Group:
    """Values whose gradients are handed on together. ``members`` is what the engine calls them,
    None for those no gradient flows through; ``call`` gives what takes the gradients' place.
    """

    members: tuple[Any, ...]
    call: Callable[[Gradients], Gradients]


@final
@dataclass(eq=False, slots=True)
class Point:
    """What happens to the gradient of a traced value."""

    hooks: Hooks = ()
    group: Group | None = None
    reached: bool = False


@final
class TensorHooks:
    """The hooks that a tensor keeps itself: as a leaf, ``before`` its gradient is added to
    ``.grad`` and ``after`` it was; ``retains`` whether one that is no leaf gets a ``.grad``.
    """

    __slots__ = ("_of", "after", "before", "retains")

    def __init__(self, x: Tensor) -> None:
        self._of = weakref.ref(x)
        self.before: Hooks = ()
        self.after: Hooks = ()
        self.retains = False

    def changed(self) -> None:
        """Compiled functions look at the tensor again."""
        if (x := self._of()) is not None:
            x._known = None
        bump_epoch()


@final
@dataclass(frozen=True, eq=False)
class RemovableHandle:
    """What registering a hook returns; as a context manager it removes the hook at the end."""

    owner: Any
    name: str
    hook: Hook

    def remove(self) -> None:
        """Take the hook away; nothing happens if it is gone."""
        before = getattr(self.owner, self.name)
        kept = tuple(h for h in before if h is not self.hook)
        if len(kept) < len(before):
            set_hooks(self.owner, self.name, kept)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def register(owner: Any, name: str, hook: Hook, *, prepend: bool = False) -> RemovableHandle:
    """Add ``hook`` to the hooks that ``owner`` keeps under ``name``."""
    if not callable(hook.call):
        got = f"{type(hook.call).__name__} {hook.call!r}"
        raise located(ArgumentError, f"a hook: expected a function, got {got}")
    before = getattr(owner, name)
    set_hooks(owner, name, (hook, *before) if prepend else (*before, hook))
    return RemovableHandle(owner, name, hook)


def set_hooks(owner: Any, name: str, hooks: Hooks) -> None:
    """Replace hooks. Compiled functions are told to look where they could have met them."""
    if dispatch.state.capture is not None and _outlasts_a_trace(owner):
        dispatch.state.capture.changed.note(owner, name)
    attributes = getattr(owner, "__dict__", None)
    if attributes is None:
        setattr(owner, name, hooks)
    elif hooks:
        attributes[name] = hooks
    else:
        attributes.pop(name, None)  # as if it had never been set: nothing compiles again
    if isinstance(owner, TensorHooks):
        owner.changed()
    elif attributes is not None:
        bump_epoch()


def _outlasts_a_trace(owner: Any) -> bool:
    """Whether who keeps hooks is no value of a trace."""
    if isinstance(owner, TensorHooks):
        x = owner._of()
        return x is not None and x._storage is not None
    return not isinstance(owner, Point)


@final
class _Everywhere:
    """The hooks that all modules share. Its ``__dict__`` holds only those there are."""

    _forward_pre_hooks: Hooks = ()
    _forward_hooks: Hooks = ()
    _backward_pre_hooks: Hooks = ()
    _backward_hooks: Hooks = ()


EVERYWHERE = _Everywhere()


# on tensors


def of(x: Tensor) -> TensorHooks:
    """The hooks that ``x`` keeps itself, made now if there are none yet."""
    found: TensorHooks | None = x._hooks
    if found is None:
        found = x._hooks = TensorHooks(x)
    return found


def hooks_of(x: Tensor) -> tuple[Hooks, Hooks]:
    """The hooks of the leaf ``x``: before its gradient is added to ``.grad``, and after."""
    found: TensorHooks | None = x._hooks
    return ((), ()) if found is None else (found.before, found.after)


def on_gradient(x: Tensor, call: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """See :meth:`Tensor.register_hook`."""
    if not x.requires_grad:
        raise located(
            GradientError, f"register_hook: expected a tensor that requires grad, got {x.type}"
        )
    owner, name = dispatch.engine().hook_owner(x)
    return register(owner, name, Hook(call))


def after_accumulation(x: Tensor, call: Callable[[Tensor], None]) -> RemovableHandle:
    """See :meth:`Tensor.register_post_accumulate_grad_hook`."""
    if not x.requires_grad or not x.is_leaf:
        got = f"{x.type} that " + ("is a result" if x.requires_grad else "does not require grad")
        message = "register_post_accumulate_grad_hook: expected a leaf that requires grad"
        raise located(GradientError, f"{message}, got {got}")
    owner, _ = dispatch.engine().hook_owner(x)
    return register(owner, "after", Hook(call))


def retain(x: Tensor) -> None:
    """See :meth:`Tensor.retain_grad`."""
    if not x.requires_grad:
        message = "retain_grad: expected a tensor that requires grad"
        raise located(GradientError, f"{message}, got {x.type}")
    if not x.is_leaf and not of(x).retains:
        of(x).retains = True
        dispatch.engine().retain(x)


def joined(xs: Sequence[Tensor], call: Callable[[Gradients], Gradients]) -> list[Tensor]:
    """Views of all ``xs``, whose gradients are handed to ``call`` together, once all are known.

    It is given None where there is none, and gives what takes the gradients' place; for None
    nothing flows on.
    """
    views = [dispatch.view(Reshape(x.type.shape), x) for x in xs]
    dispatch.engine().group(views, call)
    return views


# calling them


def through(hooks: Hooks, g: Tensor) -> Tensor:
    """The gradient ``g`` after ``hooks``. GradientError for a result of another type."""
    for hook in hooks:
        found = hook.call(g)
        if found is not None:
            expect_like(f"register_hook: {hook.name}", found, g)
            g = found
    return g


def call_after(hooks: Hooks, x: Tensor) -> None:
    """Call ``hooks`` with the leaf ``x``, whose ``.grad`` is there. GradientError for results."""
    for hook in hooks:
        found = hook.call(x)
        if found is not None:
            message = f"register_post_accumulate_grad_hook: expected {hook.name} to return None"
            raise located(GradientError, f"{message}, got {describe(found)}")


def expect_like(what: str, found: Any, g: Tensor) -> None:
    """GradientError unless ``found``, from the hook ``what``, can take the place of ``g``."""
    if not is_tensor(found) or found.type != g.type or found.device != g.device:
        wanted = f"None or a tensor {g.type}"
        wanted += f" on {g.device}" if is_tensor(found) and found.type == g.type else ""
        raise located(GradientError, f"{what}: expected {wanted}, got {describe(found)}")


def describe(value: Any) -> str:
    """What ``value`` is, in an error."""
    if is_tensor(value):
        return f"{value.type} on {value.device}"
    return f"{type(value).__name__} {value!r}"
