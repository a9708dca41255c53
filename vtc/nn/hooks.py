"""Functions that a Module calls before and after its ``forward``.

handle = model.register_forward_hook(lambda module, args, out: out * 2)
handle.remove()

A hook that returns None leaves the arguments (or the result) as they are. Inside a compiled
function hooks are traced like the code around them, and adding or removing one is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from vtc.frontend.dispatch import bump_epoch


@final
@dataclass(frozen=True, eq=False)
class Hook:
    """A function, and whether it takes keyword arguments and runs after errors too."""

    call: Callable[..., Any]
    with_kwargs: bool = False
    always: bool = False


Hooks: TypeAlias = tuple[Hook, ...]


@final
@dataclass(frozen=True, eq=False)
class RemovableHandle:
    """What registering a hook returns; as a context manager it removes the hook at the end."""

    owner: Any
    name: str
    hook: Hook

    def remove(self) -> None:
        """Take the hook away; nothing happens if it is gone."""
        kept = tuple(h for h in getattr(self.owner, self.name) if h is not self.hook)
        set_hooks(self.owner, self.name, kept)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def register(owner: Any, name: str, hook: Hook, *, prepend: bool) -> RemovableHandle:
    """Add ``hook`` to the hooks that ``owner`` keeps under ``name``."""
    before = getattr(owner, name)
    set_hooks(owner, name, (hook, *before) if prepend else (*before, hook))
    return RemovableHandle(owner, name, hook)


def set_hooks(owner: Any, name: str, hooks: Hooks) -> None:
    """Replace hooks; compiled functions are told to look."""
    if hooks:
        owner.__dict__[name] = hooks
    else:
        owner.__dict__.pop(name, None)
    bump_epoch()


def before_forward(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments after the hooks that run before."""
    for hook in module._forward_pre_hooks:
        if hook.with_kwargs:
            found = hook.call(module, args, kwargs)
            args, kwargs = (args, kwargs) if found is None else found
            continue
        found = hook.call(module, args)
        if found is not None:
            args = found if isinstance(found, tuple) else (found,)
    return args, kwargs


def after_forward(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """The result after the hooks that run after."""
    for hook in module._forward_hooks:
        extra = (kwargs,) if hook.with_kwargs else ()
        found = hook.call(module, args, *extra, out)
        out = out if found is None else found
    return out


def after_error(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the hooks that were to run always; ``forward`` raised, so there is no result."""
    for hook in module._forward_hooks:
        if hook.always:
            hook.call(module, args, *((kwargs,) if hook.with_kwargs else ()), None)
