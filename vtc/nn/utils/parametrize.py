"""Parameters that are functions of others: ``parametrize.register_parametrization``.

class Symmetric(nn.Module):
    def forward(self, x: vtc.Tensor) -> vtc.Tensor:
        return x.triu() + x.triu(1).T

parametrize.register_parametrization(layer, "weight", Symmetric())
layer.weight                                   # symmetric, computed anew at each reading
layer.parametrizations.weight.original         # what an optimizer learns

The module becomes one of a class of its own, in which the tensor's name is a property.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.ir.types import TensorType
from vtc.nn.containers import Listed, items
from vtc.nn.dicts import ModuleDict
from vtc.nn.module import Module
from vtc.nn.parameter import Parameter, give_memory, is_buffer, is_parameter
from vtc.nn.utils.computed import Computed, define, undefine

PREFIX = "Parametrized"


class _Caches:
    """What ``cached()`` blocks hold, the innermost last: the trace they are part of, and values."""

    def __init__(self) -> None:
        self.open: list[tuple[Any, dict[tuple[int, str], Tensor]]] = []

    def here(self) -> dict[tuple[int, str], Tensor] | None:
        """Values of the outermost block of this trace, or of none while nothing is traced."""
        trace = dispatch.state.capture
        return next((values for opened, values in self.open if opened is trace), None)


_caches = _Caches()


@contextmanager
def cached() -> Iterator[None]:
    """Inside, a parametrized tensor is computed once. A compiled function computes its own once."""
    _caches.open.append((dispatch.state.capture, {}))
    try:
        yield
    finally:
        _caches.open.pop()


@final
class ParametrizationList(Listed):
    """The parametrizations of one tensor in order, and what they are functions of.

    That is ``original``, or ``original0``, ``original1`` ... where the first one's
    ``right_inverse`` gives several tensors. Calling it computes the tensor.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        self.unsafe = unsafe
        wanted = original.type
        with dispatch.no_grad():
            found = _inverted(items(self), original)
        self.is_tensor = isinstance(found, Tensor)
        self.ntensors = 1 if isinstance(found, Tensor) else len(found)
        if isinstance(found, Tensor):
            _same_dtype("right_inverse", found, original.type)
            _give(original, found)
            self.original = original
        else:
            for i, x in enumerate(found):
                setattr(self, f"original{i}", _like(original, x))
        if not unsafe:
            _same("a parametrization", self(), wanted)

    def originals(self) -> list[Tensor]:
        """The tensors that are learned."""
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, name) for name in names]

    def right_inverse(self, value: Tensor) -> None:
        """Change the originals so that the parametrized tensor is ``value``."""
        with dispatch.no_grad():
            for module in items(self):
                if not hasattr(module, "right_inverse"):
                    name = type(module).__name__
                    message = f"{name}: expected a method right_inverse to assign a value, got none"
                    raise located(ArgumentError, message)
            found = _inverted(items(self), value)
            parts = [found] if isinstance(found, Tensor) else list(found)
            own = self.originals()
            if len(parts) != len(own):
                message = f"right_inverse: expected {len(own)} tensors, got {len(parts)}"
                raise located(ArgumentError, message)
            for x, new in zip(own, parts, strict=True):
                _same_dtype("right_inverse", new, x.type)
                _give(x, new)

    def forward(self) -> Tensor:
        first, *others = items(self)
        x: Tensor = first(*self.originals())
        for module in others:
            x = module(x)
        return x


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let ``module.<tensor_name>`` be ``parametrization`` of what it was; returns ``module``.

    A further one is applied to the result of those before. The parametrization's ``right_inverse``,
    if it has that method, gives what to start from; it may return several tensors, which the first
    parametrization then takes. TypeCheckError if dtype or shape would change, unless ``unsafe``.
    """
    parametrization.train(module.training)
    value = getattr(module, tensor_name, None)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            _check_further(parametrization, value)
        _list(module, tensor_name).append(parametrization)
        _list(module, tensor_name).unsafe |= unsafe
        return module
    if not isinstance(value, Tensor) or tensor_name not in vars(module):
        message = f"expected a parameter or buffer {tensor_name!r}, got none"
        raise located(ArgumentError, f"{type(module).__name__}: {message}")
    made = ParametrizationList([parametrization], value, unsafe)
    delattr(module, tensor_name)
    define(module, PREFIX, tensor_name, Computed(_read, _assign))
    if not isinstance(vars(module).get("parametrizations"), ModuleDict):
        module.parametrizations = ModuleDict()
    _lists(module)[tensor_name] = made
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether ``module.<tensor_name>`` is parametrized, or any tensor of ``module``."""
    lists = vars(module).get("parametrizations")
    if not isinstance(lists, ModuleDict):
        return False
    return len(lists) > 0 if tensor_name is None else tensor_name in lists


def remove_parametrizations(
    module: Module, tensor_name: str, leave_parametrized: bool = True
) -> Module:
    """Make ``module.<tensor_name>`` a plain parameter or buffer again; returns ``module``.

    It keeps the value it has, or gets back the original one unless ``leave_parametrized``; that
    takes a parametrization of one tensor. ArgumentError if it is not parametrized.
    """
    if not is_parametrized(module, tensor_name):
        message = f"expected {tensor_name!r} to be parametrized"
        raise located(ArgumentError, f"{type(module).__name__}: {message}, got one that is not")
    own = _list(module, tensor_name)
    if not leave_parametrized and not own.is_tensor:
        message = f"expected one original to leave in {tensor_name!r}, got {own.ntensors}"
        raise located(ArgumentError, f"{type(module).__name__}: {message}")
    kept = own.originals()[0]
    if leave_parametrized:
        with dispatch.no_grad():
            value = getattr(module, tensor_name).detach().clone()
        if own.is_tensor:
            _same_dtype(tensor_name, value, kept.type)
            _give(kept, value)
        else:
            kept = _like(kept, value)
    del _lists(module)[tensor_name]
    undefine(module, tensor_name)
    setattr(module, tensor_name, kept)
    if not is_parametrized(module):
        delattr(module, "parametrizations")
    return module


def type_before_parametrizations(module: Module) -> type[Module]:
    """The class that ``module`` had before a parametrization gave it one of its own."""
    kind = type(module)
    return kind.__bases__[0] if is_parametrized(module) else kind


def transfer_parametrizations_and_params(
    from_module: Module, to_module: Module, tensor_name: str | None = None
) -> Module:
    """Give ``to_module`` copies of the parametrizations of ``from_module`` and of their originals.

    Of all tensors, or of one; what ``to_module`` lacks it gets. Returns ``to_module``.
    """
    if not is_parametrized(from_module, tensor_name):
        message = f"transfer_parametrizations_and_params: expected {tensor_name or 'any tensor'}"
        raise located(ArgumentError, f"{message} of from_module to be parametrized")
    for name in [tensor_name] if tensor_name else list(_lists(from_module)):
        own = _list(from_module, name)
        if name not in vars(to_module) and not is_parametrized(to_module, name):
            setattr(to_module, name, copy.deepcopy(own.originals()[0]))
        for parametrization in items(own):
            register_parametrization(to_module, name, copy.deepcopy(parametrization), unsafe=True)
        for x, y in zip(_list(to_module, name).originals(), own.originals(), strict=True):
            _give(x, y.detach())
    return to_module


def _read(module: Module, name: str) -> Tensor:
    """The parametrized tensor."""
    cache = _caches.here()
    key = (id(module), name)
    if cache is not None and key in cache:
        return cache[key]
    value: Tensor = _list(module, name)()
    if cache is not None:
        cache[key] = value
    return value


def _assign(module: Module, name: str, value: Tensor) -> None:
    _list(module, name).right_inverse(value)


def _lists(module: Module) -> ModuleDict:
    found = vars(module)["parametrizations"]
    assert isinstance(found, ModuleDict)
    return found


def _list(module: Module, name: str) -> ParametrizationList:
    found = _lists(module)[name]
    assert isinstance(found, ParametrizationList)
    return found


def _inverted(modules: Sequence[Module], value: Any) -> Tensor | Sequence[Tensor]:
    """What the parametrizations would make ``value`` of, as far as they know."""
    for module in reversed(modules):
        if hasattr(module, "right_inverse"):
            try:
                value = module.right_inverse(value)
            except NotImplementedError:
                continue
    tensors = value if isinstance(value, (tuple, list)) else [value]
    if not tensors or not all(isinstance(x, Tensor) for x in tensors):
        got = type(value).__name__
        message = f"right_inverse: expected a tensor or several, got {got}"
        raise located(TypeCheckError, message)
    found: Tensor | Sequence[Tensor] = value
    return found


def _check_further(parametrization: Module, value: Any) -> None:
    """TypeCheckError unless it keeps dtype and shape, both ways."""
    made = parametrization(value)
    _same("a parametrization", made, value.type)
    if hasattr(parametrization, "right_inverse"):
        try:
            back = parametrization.right_inverse(made)
        except NotImplementedError:
            return
        _same("right_inverse", back, value.type)


def _same(what: str, value: Any, wanted: TensorType) -> None:
    if not isinstance(value, Tensor) or value.type != wanted:
        got = value.type if isinstance(value, Tensor) else type(value).__name__
        message = f"{what}: expected {wanted} as before, got {got}"
        raise located(TypeCheckError, f"{message}; unsafe=True allows it")


def _same_dtype(what: str, value: Tensor, wanted: TensorType) -> None:
    if value.dtype is not wanted.dtype:
        message = f"{what}: expected the dtype {wanted.dtype} as before, got {value.type}"
        raise located(TypeCheckError, message)


def _like(original: Tensor, value: Tensor) -> Tensor:
    """``value`` as a parameter or buffer, whichever ``original`` is."""
    if is_parameter(original):
        return Parameter(value, original.requires_grad)
    value = value.detach()
    value._kind = original._kind if is_buffer(original) else ""
    return value


def _give(x: Tensor, value: Tensor) -> None:
    """Write ``value`` into ``x``, which takes its shape."""
    if value is x:
        return
    if x.type.shape != value.type.shape:
        give_memory(x, value.detach().clone())
        return
    with dispatch.no_grad():
        dispatch.write(x, value)
