"""Functions of functions: ``grad`` and ``value_and_grad``; and ``autograd_grad`` for values at
hand.

They compose with each other and with ``compile``, eager and traced alike::

    dloss = vtc.grad(loss)                  # d loss / d first argument
    d2 = vtc.grad(vtc.grad(f))              # gradients of gradients
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import ArgumentError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import flatten, tree_map, unflatten
from vtc.ir.ops.view import Reshape


def value_and_grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns ``fn``'s scalar and its gradients with respect to ``argnums``.

    Arguments may be trees of tensors; gradients have their structure. With ``has_aux`` ``fn``
    returns ``(scalar, anything)``. Where the result does not depend on them they are zeros.
    GradientError for a result that is no scalar; ArgumentError for arguments that are not there.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        outer = dispatch.grad_enabled()
        chosen: list[tuple[list[Any], Any]] = []
        given = list(args)
        with dispatch.enable_grad():
            for k in numbered("grad", argnums, args):
                leaves, form = flatten(args[k])
                leaves = [_fresh(leaf) for leaf in leaves]
                chosen.append((leaves, form))
                given[k] = unflatten(form, leaves)
            result = fn(*given, **kwargs)
        value = result[0] if has_aux else result
        wrt = [x for leaves, _ in chosen for x in leaves if isinstance(x, Tensor)]
        again = outer and _continues(value, wrt, args)
        found = iter(autograd_grad(value, wrt, create_graph=again, retain_graph=again))
        grads = [
            unflatten(form, [next(found) if isinstance(x, Tensor) else None for x in leaves])
            for leaves, form in chosen
        ]
        if not again:
            result = tree_map(_alone, result)
        return result, grads[0] if isinstance(argnums, int) else tuple(grads)

    return call


def grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, *, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradients of ``fn``'s scalar with respect to ``argnums``."""
    both = value_and_grad(fn, argnums, has_aux=has_aux)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return call


def numbered(name: str, argnums: int | Sequence[int], args: Sequence[Any]) -> tuple[int, ...]:
    """The numbers of the arguments that are varied. ArgumentError where one is none of ``args``."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if all(isinstance(k, int) and -len(args) <= k < len(args) for k in numbers):
        return numbers
    want = f"numbers of {len(args)} positional arguments"
    raise located(ArgumentError, f"{name}: argnums: expected {want}, got {argnums!r}")


def autograd_grad(
    output: Tensor,
    inputs: Sequence[Tensor],
    grad_output: Tensor | None = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of ``output`` with respect to ``inputs``, without touching ``.grad``.

    Zeros where none.
    """
    if not isinstance(output, Tensor):
        raise located(GradientError, f"grad: expected a scalar tensor, got {type(output).__name__}")
    if not output.requires_grad:
        if output.type.shape != () and grad_output is None:
            raise located(GradientError, f"grad: expected a scalar, got {output.type}")
        return tuple(map(_zeros, inputs))
    found = dispatch.engine().gradients(
        [output], [grad_output], inputs, retain_graph=retain_graph, create_graph=create_graph
    )
    return tuple([_zeros(x) if g is None else g for x, g in zip(inputs, found, strict=True)])


def _continues(value: Any, fresh: Sequence[Tensor], args: Sequence[Any]) -> bool:
    """Whether someone outside may differentiate the gradients again."""
    if any(isinstance(x, Tensor) and x.requires_grad for x in flatten(args)[0]):
        return True
    return any(all(leaf is not x for x in fresh) for leaf in dispatch.engine().leaves_of(value))


def _zeros(x: Tensor) -> Tensor:
    return dispatch.constant(0, x.dtype, x.type.shape, x.device).clone()


def _alone(x: Any) -> Any:
    """``x`` without its history."""
    return x.detach() if isinstance(x, Tensor) else x


def _fresh(x: Any) -> Any:
    """``x`` as a value of its own, that gradients can be taken for."""
    if not isinstance(x, Tensor):
        return x
    if not x.dtype.is_floating_point:
        raise located(
            GradientError, f"grad: only floating-point arguments have gradients, got {x.type}"
        )
    if x.requires_grad:
        return dispatch.apply(Reshape(x.type.shape), x)
    return x.detach().requires_grad_()
