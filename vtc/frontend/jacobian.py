"""Whole Jacobians and Hessians, column by column or row by row at once.

    J = vtc.func.jacrev(f)(x)               # as many sweeps back as f has outputs
    J = vtc.func.jacfwd(f)(x)               # as many forward as x has elements
    H = vtc.func.hessian(f)(x)

All are ``vmap`` of ``vjp`` or ``jvp`` over unit vectors. What comes back has the structure of the
result, and in place of each tensor the structure of the arguments, of tensors
``[*result.shape, *argument.shape]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from vtc.frontend import dispatch
from vtc.frontend.linear import jvp, vjp
from vtc.frontend.tensor import Tensor
from vtc.frontend.transform import numbered
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.frontend.vmap import vmap
from vtc.ir.dims import Size
from vtc.ir.ops.batch import Randomness
from vtc.ir.ops.elementwise import Cast
from vtc.ir.ops.fill import Iota, Pad
from vtc.ir.ops.logic import Eq
from vtc.ir.ops.view import Reshape, Slice
from vtc.ir.types import i64

Argnums = int | Sequence[int]


def jacrev(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of ``func`` with respect to ``argnums``, by sweeps back: for few outputs.

    With ``has_aux`` ``func`` returns ``(result, anything)``, and what comes back is
    ``(jacobian, anything)``. ``chunk_size`` limits how many rows are computed at once.
    """

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen, one = _chosen(func, argnums, args, kwargs)
        out, pull, *aux = vjp(one, *chosen, has_aux=has_aux)
        leaves, form = flatten(out)
        given, arguments = flatten(tuple(chosen))
        rows = vmap(
            lambda *units: tuple(flatten(pull(unflatten(form, units)))[0]), chunk_size=chunk_size
        )(*_units(leaves))
        blocks = [
            [
                _part(row, k, leaves, (*y.type.shape, *x.type.shape))
                for row, x in zip(rows, given, strict=True)
            ]
            for k, y in enumerate(leaves)
        ]
        found = unflatten(form, [_tree(arguments, block, argnums) for block in blocks])
        return (found, aux[0]) if has_aux else found

    return call


def jacfwd(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    randomness: Randomness = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of ``func`` with respect to ``argnums``, forward: for few inputs.

    Options are those of :func:`jacrev`, and ``randomness`` that of :func:`vmap`.
    """

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen, one = _chosen(func, argnums, args, kwargs)
        given, arguments = flatten(tuple(chosen))
        results: list[Any] = []

        def push(*units: Tensor) -> tuple[Any, ...]:
            _, change, *aux = jvp(one, tuple(chosen), unflatten(arguments, units), has_aux=has_aux)
            leaves, form = flatten(change)
            extra, extra_form = flatten(aux)
            results[:] = [form, len(leaves), extra_form]
            return (*leaves, *extra)

        columns = vmap(push, 0, 0, randomness, chunk_size=chunk_size)(*_units(given))
        form, count, extra_form = results
        blocks = [
            [
                _part(c, k, given, (*x.type.shape, *c.type.shape[1:])).permute(
                    *range(x.ndim, x.ndim + c.ndim - 1), *range(x.ndim)
                )
                for k, x in enumerate(given)
            ]
            for c in columns[:count]
        ]
        found = unflatten(form, [_tree(arguments, block, argnums) for block in blocks])
        if not has_aux:
            return found
        (aux,) = unflatten(extra_form, [x[0] for x in columns[count:]])
        return found, aux

    return call


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The second derivatives of ``func`` with respect to ``argnums``: forward over backward."""
    return jacfwd(jacrev(func, argnums), argnums)


def _chosen(
    func: Callable[..., Any], argnums: Argnums, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], Callable[..., Any]]:
    """The arguments that are varied, and ``func`` as a function of them alone."""
    numbers = numbered("jacobian", argnums, args)

    def one(*varied: Any) -> Any:
        every = list(args)
        for k, x in zip(numbers, varied, strict=True):
            every[k] = x
        return func(*every, **kwargs)

    return [args[k] for k in numbers], one


def _units(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Unit vectors of all elements of ``tensors`` together, as tensors ``[N, *shape]`` for each."""
    sizes = [x.type.numel for x in tensors]
    found: list[Tensor] = []
    before: Size = 0
    total = sum(sizes[1:], sizes[0])
    for x, n in zip(tensors, sizes, strict=True):
        after = total - before - n
        flat = dispatch.apply(Pad(((before, after, 0), (0, 0, 0)), 0.0), _eye(n, x))
        found.append(dispatch.apply(Reshape((total, *x.type.shape)), flat))
        before = before + n
    return found


def _eye(n: Size, like: Tensor) -> Tensor:
    rows, columns = (dispatch.create(Iota((n, n), a, i64), like.device) for a in (0, 1))
    return dispatch.apply(Cast(like.dtype), dispatch.apply(Eq(), rows, columns))


def _part(x: Tensor, which: int, tensors: Sequence[Tensor], shape: Sequence[Size]) -> Tensor:
    """What ``x [N, ..]`` says of the elements of tensor number ``which``, as ``shape``."""
    sizes = [t.type.numel for t in tensors]
    start: Size = 0
    for n in sizes[:which]:
        start = start + n
    rest = x.type.shape[1:]
    cut = Slice((start, *(0 for _ in rest)), (start + sizes[which], *rest), (1,) * x.type.rank)
    return dispatch.apply(Reshape(tuple(shape)), dispatch.apply(cut, x))


def _tree(form: Form | None, block: Sequence[Tensor], argnums: Argnums) -> Any:
    """One result's derivatives as the tree of the arguments: of the one where there is one."""
    found = unflatten(form, block)
    return found[0] if isinstance(argnums, int) else found
