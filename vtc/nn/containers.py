"""Modules that hold modules: ``Sequential`` runs them in turn, ``ModuleList`` only keeps them.

Both keep their items as the attributes ``"0"``, ``"1"`` ..., so paths read ``blocks.3.attn``.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Self, final, overload

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.nn.module import Module


@final
class Sequential(Module):
    """Calls each module on the result of the one before; takes modules, or a dict of named ones."""

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        named: Iterable[tuple[str, Any]] = _numbered(modules)
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = modules[0].items()
        for name, module in named:
            setattr(self, name, _module(module, "Sequential"))

    def forward(self, x: Any) -> Any:
        for module in items(self):
            x = module(x)
        return x

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        return self.extend([module])

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in modules:
            setattr(self, str(len(self)), _module(module, "Sequential"))
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module before the one at ``index``; those after it move on by one."""
        modules = items(self)
        modules.insert(index, _module(module, "Sequential"))
        for i, m in enumerate(modules):
            setattr(self, str(i), m)
        return self

    def __len__(self) -> int:
        return len(items(self))

    def __iter__(self) -> Iterator[Module]:
        return iter(items(self))

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if not isinstance(index, slice):
            return items(self)[index]
        named = [(k, v) for k, v in vars(self).items() if isinstance(v, Module)]
        part = Sequential()
        part.__dict__.update(named[index])  # past __setattr__: the items keep their names
        return part


class Listed(Module, ABC):
    """A list of modules."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        return self.extend([module])

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for i, module in enumerate(modules, len(self)):
            self._put(i, module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Add a module before the one at ``index``."""
        modules = items(self)
        modules.insert(index, module)
        for i, m in enumerate(modules):
            self._put(i, m)

    def _put(self, index: int, module: Module) -> None:
        setattr(self, str(index), _module(module, type(self).__name__))
        module._rename(f"{self._name}.{index}" if self._name else str(index))

    def _rename(self, name: str) -> None:
        """A list is not called, so its items bear its name: ``blocks.3``."""
        super()._rename(name)
        for i, module in enumerate(items(self)):
            module._rename(f"{name}.{i}")

    def __len__(self) -> int:
        return len(items(self))

    def __iter__(self) -> Iterator[Module]:
        return iter(items(self))

    def __contains__(self, module: object) -> bool:
        return module in items(self)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if not isinstance(index, slice):
            return items(self)[index]
        part = ModuleList()
        part.__dict__.update(_numbered(items(self)[index]))  # likewise
        return part

    def __setitem__(self, index: int, module: Module) -> None:
        self._put(range(len(self))[index], module)

    def __repr__(self) -> str:
        """As PyTorch prints: equal neighbours once, with their count."""
        name = type(self).__name__
        if not len(self):
            return f"{name}()"
        lines = []
        for text, run in groupby(enumerate(map(repr, items(self))), key=lambda item: item[1]):
            where = [i for i, _ in run]
            many = len(where) > 1
            head = f"({where[0]}-{where[-1]}): {len(where)} x " if many else f"({where[0]}): "
            lines.append("  " + (head + text).replace("\n", "\n  "))
        return "\n".join([f"{name}(", *lines, ")"])


@final
class ModuleList(Listed):
    """A list of modules; its owner calls them."""


def items(container: Module) -> list[Module]:
    """The modules of a container, in order."""
    return [v for v in vars(container).values() if isinstance(v, Module)]


def _numbered(modules: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(i), m) for i, m in enumerate(modules))


def _module(value: Any, where: str) -> Module:
    if isinstance(value, Module):
        return value
    raise located(ArgumentError, f"{where}: expected a Module, got {type(value).__name__}")
