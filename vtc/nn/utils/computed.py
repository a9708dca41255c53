"""Attributes of a module that are computed from others, as properties of a class of its own.

define(layer, "Parametrized", "weight", Computed(read, assign))
layer.weight                     # read(layer, "weight")

The class is made for the one module and called after its own one; copies share it, and pickles,
which would not find it, are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast, final

from vtc.errors import ArgumentError
from vtc.frontend.dispatch import bump_epoch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn.module import Module


@final
@dataclass(frozen=True)
class Computed:
    """How to read an attribute of a module by its name, and how to set it; None: it cannot be."""

    read: Callable[[Module, str], Tensor]
    assign: Callable[[Module, str, Tensor], None] | None = None


def define(module: Module, prefix: str, name: str, computed: Computed) -> None:
    """Let ``module.<name>`` be computed; ``prefix`` is that of the name of its class."""
    kind = type(module)
    names: dict[str, Computed] = {**vars(kind).get("_computed", {}), name: computed}
    before = kind.__bases__[0] if "_computed" in vars(kind) else kind
    _become(module, before, prefix, names)


def undefine(module: Module, name: str) -> None:
    """Let ``module.<name>`` be an attribute again; the last one gives the module its class back."""
    kind = type(module)
    names = {k: v for k, v in vars(kind)["_computed"].items() if k != name}
    before = kind.__bases__[0]
    _become(module, before, kind.__name__.removesuffix(before.__name__), names)


def _become(module: Module, before: type[Module], prefix: str, names: dict[str, Computed]) -> None:
    found = before
    if names:
        body: dict[str, Any] = {name: _property(name, how) for name, how in names.items()}
        body |= {"_computed": names, "__deepcopy__": _copied, "__reduce_ex__": _refuse}
        body["__module__"] = before.__module__
        found = cast("type[Module]", type(f"{prefix}{before.__name__}", (before,), body))
    module.__class__ = found
    bump_epoch()


def _property(name: str, how: Computed) -> property:
    def read(self: Module) -> Tensor:
        return how.read(self, name)

    def write(self: Module, value: Tensor) -> None:
        if how.assign is None:
            message = f"{type(self).__name__}.{name} is computed; set what it is computed from"
            raise located(ArgumentError, message)
        how.assign(self, name, value)

    return property(read, write)


def _copied(self: Module, memo: dict[int, Any]) -> Module:
    twin = type(self).__new__(type(self))
    memo[id(self)] = twin
    twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return twin


def _refuse(self: Module, protocol: Any) -> NoReturn:
    del protocol
    message = f"{type(self).__name__}: expected a module without computed tensors to pickle"
    raise located(ArgumentError, f"{message}; save its state_dict()")
