"""``nn.Module``: plain attributes, and what follows from them.

A Module registers nothing. Its parameters, buffers and children are the attributes that are one,
found in ``__dict__`` when asked for; ``super().__init__()`` may be called and need not be. ::

    class Mlp(nn.Module):
        def __init__(self, d: int) -> None:
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x: vtc.Tensor) -> vtc.Tensor:
            return x + self.down(F.gelu(self.up(x)))

Setting an attribute tells compiled functions to compare what they read, and tells a child its name:
so values come to know the path of the module that made them (``blocks.3.attn``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, cast

import numpy as np

from vtc.errors import ArgumentError, CaptureError
from vtc.frontend import dispatch
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.hooks import Hook, Hooks, RemovableHandle, register
from vtc.frontend.source import located, module_path, module_scope
from vtc.frontend.tensor import Tensor
from vtc.ir.types import DType, bf16, f16, f32, f64
from vtc.nn.hooks import HookedCall, has_hooks
from vtc.nn.parameter import (
    BUFFER,
    TRANSIENT,
    is_buffer,
    is_lazy,
    is_parameter,
    mark,
    materialize,
)
from vtc.runtime.device import Device


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(strict=False)`` did not find, and what it found no place for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        parts = f"missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys}"
        return f"{type(self).__name__}({parts})"


class Module:
    """A part of a model; subclass it, set attributes in ``__init__``, compute in ``forward``."""

    training: bool = True
    _name: str = ""
    _forward_pre_hooks: Hooks = ()
    _forward_hooks: Hooks = ()
    _backward_pre_hooks: Hooks = ()
    _backward_hooks: Hooks = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes."""
        raise located(ArgumentError, f"{type(self).__name__}: expected a forward method, got none")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if dispatch.is_capturing() and not module_path():
            dispatch.state.capture.name_modules(self)  # this is the root: paths start here
        with module_scope(self._name):
            if has_hooks(self):
                return HookedCall(self, args, kwargs).run()
            return self.forward(*args, **kwargs)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns replaces the arguments.

        ``with_kwargs``: ``hook(module, args, kwargs)``, which returns both or None.
        """
        return register(self, "_forward_pre_hooks", Hook(hook, with_kwargs), prepend=prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, out)`` after ``forward``; what it returns replaces the result.

        ``with_kwargs``: ``hook(module, args, kwargs, out)``. ``always_call``: after an error too,
        with None for the result.
        """
        made = Hook(hook, with_kwargs, always_call)
        return register(self, "_forward_hooks", made, prepend=prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` when the gradients of all results are known.

        ``grad_output`` is a tuple with one for each result, None where no gradient flows; a tuple
        like it that the hook returns takes its place.
        """
        return register(self, "_backward_pre_hooks", Hook(hook), prepend=prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of all arguments are.

        Both are tuples. ``grad_input`` has one for each positional argument that is a tensor, and
        None for others; a tuple like it that the hook returns takes its place. If no argument
        requires grad the hook is called with None for all of them, and may return nothing else.
        The module has to return a tensor or a tuple; those among the results that are in other
        containers are not watched.
        """
        return register(self, "_backward_hooks", Hook(hook), prepend=prepend)

    def __setattr__(self, name: str, value: Any) -> None:
        before: Any = self.__dict__.get(name)
        if isinstance(value, Tensor) and not value._kind and not dispatch.is_capturing():
            if is_parameter(before):
                raise located(
                    ArgumentError,
                    f"{type(self).__name__}.{name}: expected a Parameter or None, got a Tensor "
                    f"{value.type}; use nn.Parameter(...), or write into it under vtc.no_grad()",
                )
            if is_buffer(before):
                value._kind = before._kind
        if dispatch.is_capturing():
            dispatch.state.capture.changed.note(self, name)
        super().__setattr__(name, value)
        if isinstance(value, Module):
            value._rename(name)
        bump_epoch()

    def __delattr__(self, name: str) -> None:
        if dispatch.is_capturing():
            dispatch.state.capture.changed.note(self, name)
        super().__delattr__(name)
        bump_epoch()

    def _rename(self, name: str) -> None:
        """Be called ``name`` from now on; not an attribute the user set, so nothing to compare."""
        self.__dict__["_name"] = name

    # what is inside

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make ``tensor`` a buffer of this module; ``state_dict`` has it if ``persistent``."""
        self._expect_free(name, is_buffer)
        kind = BUFFER if persistent else TRANSIENT
        setattr(self, name, tensor if tensor is None else mark(tensor, kind, requires_grad=False))

    def register_parameter(self, name: str, param: Tensor | None) -> None:
        """Make ``param`` a parameter of this module."""
        self._expect_free(name, is_parameter)
        if param is not None and not is_parameter(param):
            got = f"got a {type(param).__name__}"
            raise located(ArgumentError, f"{name}: expected a Parameter or None, {got}")
        setattr(self, name, param)

    def register_module(self, name: str, module: Module | None) -> None:
        """Make ``module`` a child of this module."""
        self._expect_free(name, lambda value: isinstance(value, Module))
        setattr(self, name, module)

    add_module = register_module

    def _expect_free(self, name: str, replaced: Callable[[Any], bool]) -> None:
        before = vars(self).get(name)
        taken = hasattr(self, name) and before is not None and not replaced(before)
        if not name or "." in name or hasattr(type(self), name) or taken:
            known = "a name that is free and without dots"
            raise located(ArgumentError, f"{type(self).__name__}: expected {known}, got {name!r}")

    def get_submodule(self, target: str) -> Module:
        """The module at the path ``target``; "" is this one. ArgumentError if there is none."""
        found: Any = self
        for name in target.split(".") if target else ():
            found = vars(found).get(name)
            if not isinstance(found, Module):
                raise located(ArgumentError, f"{type(self).__name__}: no module at {target!r}")
        return cast(Module, found)

    def get_parameter(self, target: str) -> Tensor:
        """The parameter at the path ``target``. ArgumentError if there is none."""
        return self._get(target, "parameter", is_parameter)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at the path ``target``. ArgumentError if there is none."""
        return self._get(target, "buffer", is_buffer)

    def _get(self, target: str, what: str, wanted: Callable[[Any], bool]) -> Tensor:
        path, _, name = target.rpartition(".")
        found = vars(self.get_submodule(path)).get(name)
        if not wanted(found):
            raise located(ArgumentError, f"{type(self).__name__}: no {what} at {target!r}")
        return cast(Tensor, found)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes of this one, each once."""
        seen: set[Module] = set()
        for name, value in list(vars(self).items()):
            if isinstance(value, Module) and value not in seen:
                seen.add(value)
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules that are attributes of this one, each once."""
        return (child for _, child in self.named_children())

    def named_modules(
        self, prefix: str = "", *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """This module and all below it, with their paths; a shared one once unless asked."""
        return self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, prefix: str, seen: set[Module] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if self in seen:
                return
            seen.add(self)
        yield prefix, self
        for name, value in list(vars(self).items()):
            if isinstance(value, Module):
                yield from value._walk(_join(prefix, name), seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_tensors(
        self, wanted: Callable[[Any], bool], prefix: str, *, recurse: bool, once: bool
    ) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix, remove_duplicate=once):
            for name, value in list(vars(module).items()):
                if wanted(value) and not (once and id(value) in seen):
                    seen.add(id(value))
                    yield _join(path, name), value
            if not recurse:
                return

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Parameters with their paths; one that is shared comes once, under its first path."""
        return self._named_tensors(is_parameter, prefix, recurse=recurse, once=remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their paths; one that is shared comes once, under its first path."""
        return self._named_tensors(is_buffer, prefix, recurse=recurse, once=remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    # saving and loading

    def state_dict(self, prefix: str = "", *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and persistent buffers by path, without history; they share memory.

        ``prefix`` is put before each path as it is; ``keep_vars`` gives the parameters themselves.
        """
        pairs = ((f"{prefix}{path}", tensor) for path, tensor in self._state())
        return {path: x if keep_vars else x.detach() for path, x in pairs}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(remove_duplicate=False):
            own = [(k, v) for k, v in vars(module).items() if isinstance(v, Tensor) and v._kind]
            kept = [(k, v) for k, v in own if v._kind != TRANSIENT]
            for name, value in sorted(kept, key=lambda item: is_buffer(item[1])):
                yield _join(path, name), value

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy the values of ``state_dict`` (tensors or arrays) into this module's, in place.

        ArgumentError names every missing and unexpected key (unless not ``strict``) and every value
        whose shape is wrong; nothing is copied then. Lazy modules get the shapes of the values.
        """
        own = dict(self._state())
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        values = {k: _as_tensor(state_dict[k], k) for k in own if k in state_dict}
        wrong = [
            f"{k}: expected {own[k].type}, got {v.type}"
            for k, v in values.items()
            if v.type.shape != own[k].type.shape and not is_lazy(own[k])
        ]
        _complain(
            type(self).__name__, missing if strict else [], unexpected if strict else [], wrong
        )
        with dispatch.no_grad():
            for key, value in values.items():
                if is_lazy(own[key]):
                    materialize(own[key], value.shape)
                dispatch.write(own[key], value.detach().to(own[key].device, own[key].dtype))
        return IncompatibleKeys(missing, unexpected)

    # changing all that is inside

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call ``fn`` on every module below this one, and last on this one; returns this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Put this module and all below it in training (or evaluation) mode; returns it."""
        for module in self.modules():
            if module.training is mode:
                continue
            if mode is type(module).training:
                del module.training  # as if it had never been set: nothing compiles again
            else:
                module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all below it in evaluation mode; returns it."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Ask for gradients of all parameters, or for none; returns this module."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        bump_epoch()
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or make them zero."""
        for p in self.parameters():
            keep = not set_to_none and p.grad is not None
            p.grad = dispatch.constant(0.0, p.dtype, p.type.shape, p.device) if keep else None

    def to(
        self, *args: Any, device: Device | str | None = None, dtype: DType | None = None
    ) -> Self:
        """Move to a device, cast to a dtype, or both; in place: tensors stay the objects they are.

        Takes ``to("cuda")``, ``to(vtc.bfloat16)``, ``to(other)``. Integer buffers keep their dtype.
        Gradients move too; optimizers made before keep their state where it is.
        """
        if dispatch.is_capturing():
            raise located(CaptureError, f"{type(self).__name__}.to() inside a compiled function")
        for a in args:
            if isinstance(a, DType):
                dtype = a
            elif isinstance(a, Tensor):
                device, dtype = a.device, a.dtype
            else:
                device = a
        if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
            raise located(
                ArgumentError, f"Module.to: expected a floating-point dtype, got {dtype!r}"
            )
        for tensor in [*self.parameters(), *self.buffers()]:
            _move(tensor, device, dtype)
        bump_epoch()
        return self

    def float(self) -> Self:
        """Cast to f32; returns this module."""
        return self.to(f32)

    def double(self) -> Self:
        """Cast to f64; returns this module."""
        return self.to(f64)

    def half(self) -> Self:
        """Cast to f16; returns this module."""
        return self.to(f16)

    def bfloat16(self) -> Self:
        """Cast to bf16; returns this module."""
        return self.to(bf16)

    def cpu(self) -> Self:
        """Move to the CPU; returns this module."""
        return self.to("cpu")

    def cuda(self, device: Device | str | int | None = None) -> Self:
        """Move to an NVIDIA GPU, the current one if none is named; returns this module."""
        name = "cuda" if device is None else f"cuda:{device}" if type(device) is int else device
        return self.to(name)

    # how it prints

    def extra_repr(self) -> str:
        """What stands in the brackets of the repr besides the children."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [(k, v) for k, v in vars(self).items() if isinstance(v, Module)]
        if not children and len(lines) <= 1:
            return f"{type(self).__name__}({extra})"
        body = lines + [f"({k}): {_indent(repr(v))}" for k, v in children]
        return f"{type(self).__name__}(\n  " + "\n  ".join(body) + "\n)"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _as_tensor(value: Any, key: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise located(
            ArgumentError, f"{key}: expected a tensor or an array, got {type(value).__name__}"
        )
    return dispatch.from_array(array)


def _complain(module: str, missing: list[str], unexpected: list[str], wrong: list[str]) -> None:
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += [f"unexpected {', '.join(unexpected)}"] if unexpected else []
    problems += wrong
    if problems:
        raise located(ArgumentError, f"{module}.load_state_dict: " + "; ".join(problems))


def _move(tensor: Tensor, device: Device | str | None, dtype: DType | None) -> None:
    """Give ``tensor`` other memory, and its gradient too; whoever holds it sees the change."""
    floating = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    moved = tensor.detach().to(device=device or tensor.device, dtype=dtype if floating else None)
    if moved.dtype is not tensor.dtype or moved.device != tensor.device:
        tensor._array, tensor._storage, tensor._link = moved._array, moved._storage, None
    if tensor._grad is not None:
        tensor._grad = tensor._grad.to(device=device or tensor.device, dtype=tensor.dtype)
