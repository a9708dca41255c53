"""Functions of functions, with the names of ``torch.func``.

    from vtc.func import grad, vmap

    per_example = vmap(grad(loss), in_dims=(None, 0, 0))(w, x, y)
    H = hessian(f)(x)

Each transforms the program of a function, so they compose in any order, eager and inside
``vtc.compile``. Modules become functions of their parameters with :func:`functional_call`; many
modules of one kind become one with :func:`stack_module_state`::

    params, buffers = stack_module_state(models)
    y = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(params, buffers)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from vtc.errors import ArgumentError
from vtc.frontend.functions.rearrange import stack
from vtc.frontend.jacobian import hessian, jacfwd, jacrev
from vtc.frontend.linear import jvp, linearize, vjp
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.transform import grad, value_and_grad
from vtc.frontend.vmap import vmap

__all__ = [
    "functional_call",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "stack_module_state",
    "value_and_grad",
    "vjp",
    "vmap",
]

State = Mapping[str, Tensor]


def grad_and_value(
    func: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """:func:`value_and_grad` that gives the gradients first, as PyTorch's does."""
    both = value_and_grad(func, argnums, has_aux=has_aux)

    @wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return grads, value

    return call


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: State | Sequence[State],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """``module(*args, **kwargs)`` with tensors in place of its parameters and buffers, by path.

    Those that are not named stay as they are. ``args`` is a tuple, or one argument. A parameter
    that the module has under several paths is replaced under all of them (``tie_weights``). With
    ``strict`` every one must be named. ArgumentError for paths that the module does not have.
    """
    given = parameter_and_buffer_dicts
    states = [given] if isinstance(given, Mapping) else list(given)
    values: dict[str, Tensor] = {}
    for state in states:
        if both := values.keys() & state.keys():
            raise located(ArgumentError, f"functional_call: {sorted(both)} in several dicts")
        values.update(state)
    own = _state(module)
    unknown, missing = sorted(values.keys() - own.keys()), sorted(own.keys() - values.keys())
    if unknown:
        name = type(module).__name__
        raise located(ArgumentError, f"functional_call: {name} has no {', '.join(unknown)}")
    if strict and missing:
        raise located(ArgumentError, f"functional_call: expected {', '.join(missing)} (strict)")
    if tie_weights:
        values = _tied(own, values)
    every = args if isinstance(args, tuple) else () if args is None else (args,)
    with _replaced(module, values):
        return module(*every, **(kwargs or {}))


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers of modules of one kind, by path, stacked along a new first dim.

    The stacked parameters are new leaves, which require grad where the modules' do. ArgumentError
    for no module, for several kinds, and for modules in different modes.
    """
    if not models:
        raise located(ArgumentError, "stack_module_state: expected a module or more, got none")
    if len({type(m) for m in models}) > 1:
        kinds = ", ".join(sorted({type(m).__name__ for m in models}))
        raise located(ArgumentError, f"stack_module_state: expected modules of a kind, got {kinds}")
    if len({m.training for m in models}) > 1:
        raise located(ArgumentError, "stack_module_state: expected modules in one mode")
    parameters = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return (
        {name: _stacked([p[name] for p in parameters]) for name in parameters[0]},
        {name: _stacked([b[name] for b in buffers]) for name in buffers[0]},
    )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    requires = {x.requires_grad for x in tensors}
    if len(requires) > 1:
        message = "stack_module_state: expected parameters that all require grad, or none"
        raise located(ArgumentError, message)
    found: Tensor = stack([x.detach() for x in tensors])
    return found.requires_grad_() if requires.pop() else found


def _state(module: Any) -> dict[str, Tensor]:
    """Parameters and buffers by path; shared ones under each."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _tied(own: State, values: State) -> dict[str, Tensor]:
    """``values``, also for what the module has under other paths."""
    named: dict[int, Tensor] = {}
    for path, value in values.items():
        before = named.setdefault(id(own[path]), value)
        if before is not value:
            message = f"functional_call: {path} is shared, expected one value for all its paths"
            raise located(ArgumentError, message)
    return {path: named[id(x)] for path, x in own.items() if id(x) in named}


@contextmanager
def _replaced(module: Any, values: State) -> Iterator[None]:
    """Inside, ``module`` has ``values``. Past ``__setattr__``: nothing is there to be compared."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, value in values.items():
            where, _, name = path.rpartition(".")
            space = vars(module.get_submodule(where))
            before.append((space, name, space[name]))
            space[name] = value
        yield
    finally:
        for space, name, value in reversed(before):
            space[name] = value
