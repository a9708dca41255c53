"""Weights of a length and a direction, or of largest singular value 1, by PyTorch's older names.

nn.utils.weight_norm(layer)                  # weight_g and weight_v are learned
nn.utils.spectral_norm(layer)                # weight_orig is learned; weight_u and weight_v follow

``nn.utils.parametrizations`` has both, too, for models that are new.
"""

from __future__ import annotations

from typing import Any, TypeVar

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.statistics import norm_except_dim
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.nn.conv import Transposed
from vtc.nn.module import Module
from vtc.nn.parameter import Buffer, Parameter
from vtc.nn.utils.computed import Computed, define, undefine
from vtc.nn.utils.spectral import as_matrix, new_directions, power_steps, sigma

M = TypeVar("M", bound=Module)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Learn ``<name>_g``, lengths, and ``<name>_v``, directions, in place of ``<name>``.

    Lengths are over all dims but ``dim``, or over all if None (Salimans and Kingma 2016). Returns
    ``module``. ArgumentError if there is no such parameter.
    """
    at = -1 if dim is None else dim
    weight = own_parameter("weight_norm", module, name)
    delattr(module, name)
    setattr(module, f"{name}_g", Parameter(norm_except_dim(weight.detach(), 2, at)))
    setattr(module, f"{name}_v", Parameter(weight.detach()))

    def read(owner: Module, name: str) -> Tensor:
        v: Tensor = getattr(owner, f"{name}_v")
        length: Tensor = getattr(owner, f"{name}_g")
        return v * (length / norm_except_dim(v, 2, at))

    define(module, "", name, Computed(read))
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Make ``<name>`` a parameter again, with the value it has; returns ``module``."""
    _make_plain("remove_weight_norm", module, name, ("_g", "_v"))
    return module


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """Let ``<name>`` be ``<name>_orig`` divided by its largest singular value (Miyato et al. 2018).

    That is estimated by ``n_power_iterations`` before each call while training, from directions in
    the buffers ``<name>_u`` and ``<name>_v``. The matrix has dim ``dim`` of the weight as its rows:
    0, or 1 for transposed convolutions. Returns ``module``.
    """
    if n_power_iterations < 1:
        message = f"expected n_power_iterations >= 1, got {n_power_iterations}"
        raise located(ArgumentError, f"spectral_norm: {message}")
    weight = own_parameter("spectral_norm", module, name)
    at = rows_of(module) if dim is None else dim
    u, v = new_directions(as_matrix(weight, at), eps)
    delattr(module, name)
    setattr(module, f"{name}_orig", weight)
    setattr(module, f"{name}_u", Buffer(u))
    setattr(module, f"{name}_v", Buffer(v))

    def read(owner: Module, name: str) -> Tensor:
        w, u, v = (getattr(owner, f"{name}_{end}") for end in ("orig", "u", "v"))
        found: Tensor = w / sigma(as_matrix(w, at), u, v)
        return found

    def iterate(owner: Module, args: Any) -> None:
        del args
        if owner.training and f"{name}_orig" in vars(owner):
            w, u, v = (getattr(owner, f"{name}_{end}") for end in ("orig", "u", "v"))
            power_steps(as_matrix(w, at), u, v, n_power_iterations, eps)

    define(module, "", name, Computed(read))
    module.register_forward_pre_hook(iterate)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Make ``<name>`` a parameter again, with the value it has; returns ``module``."""
    _make_plain("remove_spectral_norm", module, name, ("_orig", "_u", "_v"))
    return module


def rows_of(module: Module) -> int:
    """Which dim of its weight are outputs."""
    return 1 if isinstance(module, Transposed) else 0


def own_parameter(what: str, module: Module, name: str) -> Tensor:
    """The parameter ``name`` of ``module``; ArgumentError if there is none."""
    weight = vars(module).get(name)
    if not isinstance(weight, Parameter):
        owner = type(module).__name__
        raise located(ArgumentError, f"{what}: expected {owner} to have a parameter {name!r}")
    return weight


def _make_plain(what: str, module: Module, name: str, ends: tuple[str, ...]) -> None:
    if any(f"{name}{end}" not in vars(module) for end in ends):
        owner = type(module).__name__
        raise located(ArgumentError, f"{what}: expected {owner}.{name} to be normalized so")
    with dispatch.no_grad():
        value = getattr(module, name).detach().clone()
    for end in ends:
        delattr(module, f"{name}{end}")
    undefine(module, name)
    setattr(module, name, Parameter(value))
