"""Modules whose parameters are about to be loaded: ``nn.utils.skip_init(nn.Linear, 20, 30)``."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

from vtc.errors import ArgumentError
from vtc.frontend.source import located
from vtc.nn import init
from vtc.nn.module import Module

M = TypeVar("M", bound=Module)


def skip_init(module_cls: type[M], *args: Any, **kwargs: Any) -> M:
    """``module_cls(*args, **kwargs)`` without drawing what parameters start as: they hold anything.

    ArgumentError unless it is a Module's class that takes a ``device``.
    """
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise located(ArgumentError, f"skip_init: expected a class of Module, got {module_cls!r}")
    if "device" not in inspect.signature(module_cls).parameters:
        name = module_cls.__name__
        raise located(ArgumentError, f"skip_init: expected a module with a device, got {name}")
    with init.skipped():
        return module_cls(*args, **kwargs)
