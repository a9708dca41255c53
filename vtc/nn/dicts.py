"""Modules and parameters by name or position: ModuleDict, ParameterDict, ParameterList.

self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)})
self.scales = nn.ParameterList([vtc.ones(4), vtc.ones(2)])

Each keeps its items as attributes, so paths read ``heads.a.weight`` and ``scales.0``.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self, final, overload

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter, is_parameter

Pairs = Mapping[str, Any] | Iterable[tuple[str, Any]]


@final
class ModuleDict(Module):
    """Modules by name, in the order they came; its owner calls them."""

    def __init__(self, modules: Pairs | None = None) -> None:
        self.update(modules or {})

    def update(self, modules: Pairs) -> None:
        """Add or replace modules."""
        for name, module in _pairs(modules):
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            got = type(module).__name__
            raise located(ArgumentError, f"ModuleDict: expected a Module, got {got}")
        _check("ModuleDict", name)
        setattr(self, name, module)
        module._rename(f"{self._name}.{name}" if self._name else name)

    def _rename(self, name: str) -> None:
        """A dict is not called, so its items bear its name: ``heads.a``."""
        super()._rename(name)
        for key, module in self.items():
            module._rename(f"{name}.{key}")

    def __getitem__(self, name: str) -> Module:
        return self._held()[name]

    def __delitem__(self, name: str) -> None:
        delattr(self, name)

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def __contains__(self, name: object) -> bool:
        return name in self._held()

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._held().keys()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._held().values()

    def items(self) -> ItemsView[str, Module]:
        """Names and modules."""
        return self._held().items()

    def pop(self, name: str) -> Module:
        """Take a module out and return it."""
        module = self[name]
        del self[name]
        return module

    def clear(self) -> None:
        """Take all modules out."""
        for name in list(self):
            del self[name]

    def _held(self) -> dict[str, Module]:
        return {k: v for k, v in vars(self).items() if isinstance(v, Module)}


@final
class ParameterDict(Module):
    """Parameters by name; tensors that are none become some."""

    def __init__(self, parameters: Pairs | None = None) -> None:
        self.update(parameters or {})

    def update(self, parameters: Pairs) -> None:
        """Add or replace parameters."""
        for name, value in _pairs(parameters):
            self[name] = value

    def __setitem__(self, name: str, value: Tensor) -> None:
        _check("ParameterDict", name)
        setattr(self, name, _parameter(value))

    def __getitem__(self, name: str) -> Tensor:
        return self._held()[name]

    def __delitem__(self, name: str) -> None:
        delattr(self, name)

    def __len__(self) -> int:
        return len(self._held())

    def __iter__(self) -> Iterator[str]:
        return iter(self._held())

    def __contains__(self, name: object) -> bool:
        return name in self._held()

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._held().keys()

    def values(self) -> ValuesView[Tensor]:
        """The parameters."""
        return self._held().values()

    def items(self) -> ItemsView[str, Tensor]:
        """Names and parameters."""
        return self._held().items()

    def pop(self, name: str) -> Tensor:
        """Take a parameter out and return it."""
        value = self[name]
        del self[name]
        return value

    def clear(self) -> None:
        """Take all parameters out."""
        for name in list(self):
            del self[name]

    def _held(self) -> dict[str, Tensor]:
        return _tensors(self)

    def extra_repr(self) -> str:
        return "\n".join(f"({k}): {_shown(v)}" for k, v in self.items())


@final
class ParameterList(Module):
    """Parameters by position; tensors that are none become some."""

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        self.extend(values)

    def append(self, value: Tensor) -> Self:
        """Add a parameter at the end."""
        return self.extend([value])

    def extend(self, values: Iterable[Tensor]) -> Self:
        """Add parameters at the end."""
        for i, value in enumerate(values, len(self)):
            setattr(self, str(i), _parameter(value))
        return self

    def __len__(self) -> int:
        return len(_tensors(self))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(_tensors(self).values())

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: int | slice) -> Tensor | ParameterList:
        held = list(self)
        return ParameterList(held[index]) if isinstance(index, slice) else held[index]

    def __setitem__(self, index: int, value: Tensor) -> None:
        setattr(self, str(range(len(self))[index]), _parameter(value))

    def extra_repr(self) -> str:
        return "\n".join(f"({i}): {_shown(v)}" for i, v in enumerate(self))


def _pairs(given: Pairs) -> Iterable[tuple[str, Any]]:
    return given.items() if isinstance(given, Mapping) else given


def _check(owner: str, name: str) -> None:
    if not isinstance(name, str) or not name or "." in name or hasattr(ModuleDict, name):
        want = "expected a name without dots that is no method's"
        raise located(ArgumentError, f"{owner}: {want}, got {name!r}")


def _parameter(value: Tensor) -> Tensor:
    return value if is_parameter(value) else Parameter(value)


def _tensors(module: Module) -> dict[str, Tensor]:
    return {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}


def _shown(value: Tensor) -> str:
    sizes = "x".join(str(n) for n in value.shape)
    return f"Parameter containing: [{value.dtype!r} of size {sizes}]"
