"""Functions that a Module calls before and after its ``forward``, and when gradients come by.

    handle = model.register_forward_hook(lambda module, args, out: out * 2)
    handle.remove()
    register_module_full_backward_hook(lambda module, gi, go: print(module))    # on all modules

A hook that returns None leaves the arguments, the result or the gradients as they are. Hooks of all
modules come before those of one. Inside a compiled function hooks are traced like the code around
them, and adding or removing one is noticed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from vtc.errors import ArgumentError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.hooks import (
    EVERYWHERE,
    Gradients,
    Hook,
    Hooks,
    RemovableHandle,
    describe,
    expect_like,
    joined,
    register,
)
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import TensorType
from vtc.runtime.device import Device


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, args)`` before ``forward`` of every module."""
    return register(EVERYWHERE, "_forward_pre_hooks", Hook(hook))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, out)`` after ``forward`` of every module.

    ``with_kwargs`` and ``always_call`` are those of ``Module.register_forward_hook``.
    """
    return register(EVERYWHERE, "_forward_hooks", Hook(hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` for every module, as one registered on it."""
    return register(EVERYWHERE, "_backward_pre_hooks", Hook(hook))


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` for every module, as one registered on it."""
    return register(EVERYWHERE, "_backward_hooks", Hook(hook))


def has_hooks(module: Any) -> bool:
    """Whether a call of ``module`` has hooks to call."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or vars(EVERYWHERE)
    )


def _all(module: Any, name: str) -> Hooks:
    found: Hooks = (*getattr(EVERYWHERE, name), *getattr(module, name))
    return found


@final
@dataclass(eq=False)
class HookedCall:
    """One call of a module with hooks. ``out`` is the result as far as it is known."""

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any = None
    called: set[Hook] = field(default_factory=set)

    def run(self) -> Any:
        """The result. After an error those hooks are called that always are."""
        try:
            self._before()
            watch = _GradientWatch.of(self.module)
            args = self.args if watch is None else watch.enter(self.args)
            self.args = args
            self.out = self.module.forward(*args, **self.kwargs)
            self._after()
            return self.out if watch is None else watch.leave(self.out)
        except Exception:
            self._after_error()
            raise

    def _before(self) -> None:
        for hook in _all(self.module, "_forward_pre_hooks"):
            if not hook.with_kwargs:
                found = hook.call(self.module, self.args)
                if found is not None:
                    self.args = found if isinstance(found, tuple) else (found,)
                continue
            found = hook.call(self.module, self.args, self.kwargs)
            if found is None:
                continue
            if not (isinstance(found, tuple) and len(found) == 2):
                message = f"a forward pre-hook with kwargs: expected {hook.name} to return None or"
                raise located(ArgumentError, f"{message} (args, kwargs), got {describe(found)}")
            self.args, self.kwargs = found

    def _after(self) -> None:
        for hook in _all(self.module, "_forward_hooks"):
            self.called.add(hook)
            self._call(hook)

    def _call(self, hook: Hook) -> None:
        extra = (self.kwargs,) if hook.with_kwargs else ()
        found = hook.call(self.module, self.args, *extra, self.out)
        self.out = self.out if found is None else found

    def _after_error(self) -> None:
        for hook in _all(self.module, "_forward_hooks"):
            if not hook.always or hook in self.called:
                continue
            try:
                self._call(hook)
            except Exception as e:
                what = f"the forward hook {hook.name}, which is always called, raised an error"
                warnings.warn(f"{what} after another one: {e}", stacklevel=2)


@final
@dataclass(eq=False)
class _GradientWatch:
    """The gradients of one call of a module: of its results, then of its arguments.

    ``watched`` are the positions of results that gradients flow to; ``types`` says of the
    arguments what a gradient of zeros is, None for those that are no tensors.
    """

    module: Any
    hooks: Hooks
    pre_hooks: Hooks
    entered: Sequence[int] | None = None
    left: Sequence[int] = ()
    count: int = 0
    types: Sequence[Any] = ()
    grad_output: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, module: Any) -> _GradientWatch | None:
        """For a call of ``module``; None if no hook watches."""
        hooks, before = _all(module, "_backward_hooks"), _all(module, "_backward_pre_hooks")
        return cls(module, hooks, before) if hooks or before else None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, their gradients watched."""
        self.types = [(x.type, x.device) if isinstance(x, Tensor) else None for x in args]
        found, self.entered = _watched(args, self._at_arguments)
        return found

    def leave(self, out: Any) -> Any:
        """The result, its gradients watched."""
        if not isinstance(out, (Tensor, tuple)):
            return out
        results = out if isinstance(out, tuple) else (out,)
        self.count = len(results)
        found, where = _watched(results, self._at_results)
        self.left = where or ()
        return found if isinstance(out, tuple) else found[0]

    def _at_results(self, given: Gradients) -> Gradients:
        grads = _placed(self.left, given, self.count)
        for hook in self.pre_hooks:
            found = hook.call(self.module, grads)
            if found is not None:
                grads = _expect_like(f"a backward pre-hook: {hook.name}", found, grads)
        self.grad_output = grads
        if self.entered is None:
            self._without_arguments(grads)
        return [
            _zeros(g.type, g.device) if grads[k] is None and g is not None else grads[k]
            for k, g in zip(self.left, given, strict=True)
        ]

    def _without_arguments(self, grads: tuple[Any, ...]) -> None:
        """No gradient flows to the arguments; hooks see those of the results all the same."""
        for hook in self.hooks:
            found = hook.call(self.module, (None,) * len(self.types), grads)
            if found is not None and any(g is not None for g in found):
                message = f"a backward hook: expected {hook.name} to return None, since no argument"
                raise located(GradientError, f"{message} of the module requires grad")
        self.grad_output = None

    def _at_arguments(self, given: Gradients) -> Gradients:
        if self.grad_output is None or self.entered is None:
            return given  # it came another way than through the results
        grads = list(_placed(self.entered, given, len(self.types)))
        for k, known in enumerate(self.types):
            if known is not None and grads[k] is None:
                grads[k] = _zeros(*known)
        packed = tuple(grads)
        for hook in self.hooks:
            found = hook.call(self.module, packed, self.grad_output)
            if found is not None:
                packed = _expect_like(f"a backward hook: {hook.name}", found, packed)
        self.grad_output = None
        return [packed[k] for k in self.entered]


def _watched(
    values: tuple[Any, ...], call: Callable[[Gradients], Gradients]
) -> tuple[tuple[Any, ...], Sequence[int] | None]:
    """``values``, and at which positions ``call`` is given the gradients; None for nowhere."""
    where = [k for k, x in enumerate(values) if isinstance(x, Tensor) and x.requires_grad]
    if not where or not dispatch.grad_enabled():
        return values, None
    found = list(values)
    for k, view in zip(where, joined([values[k] for k in where], call), strict=True):
        found[k] = view
    plain = type(values) is tuple
    return (tuple(found) if plain else type(values)(*found)), where  # a named one


def _zeros(type: TensorType, device: Device) -> Tensor:
    return dispatch.constant(0, type.dtype, type.shape, device)


def _placed(where: Sequence[int], given: Gradients, count: int) -> tuple[Any, ...]:
    found: list[Any] = [None] * count
    for k, g in zip(where, given, strict=True):
        found[k] = g
    return tuple(found)


def _expect_like(what: str, found: Any, grads: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a hook returned. GradientError unless it can take the place of ``grads``."""
    if not isinstance(found, (tuple, list)) or len(found) != len(grads):
        wanted = f"None or a tuple of {len(grads)} gradients"
        got = f"{len(found)}" if isinstance(found, (tuple, list)) else describe(found)
        raise located(GradientError, f"{what}: expected {wanted}, got {got}")
    for g, old in zip(found, grads, strict=True):
        if g is not None and old is not None:
            expect_like(what, g, old)
    return tuple(found)
