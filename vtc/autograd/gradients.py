"""``grad`` and ``backward`` of several values at once.

(dw,) = vtc.autograd.grad(loss, [w])             # w.grad stays as it is
vtc.autograd.backward([a, b], [da, db])          # both at once, into .grad of the leaves
"""

from __future__ import annotations

from collections.abc import Sequence

from vtc.errors import ArgumentError, GradientError
from vtc.frontend import dispatch
from vtc.frontend.functions.rearrange import stack
from vtc.frontend.gradient_methods import given_inputs
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor

Tensors = Tensor | Sequence[Tensor]
Seeds = Tensor | Sequence[Tensor | None] | None


def backward(
    tensors: Tensors,
    grad_tensors: Seeds = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradients of ``tensors`` to ``.grad`` of the leaves below them, or of ``inputs``.

    ``grad_tensors`` has one of its type for each tensor, None for 1 where that is a scalar. The
    rest is as for ``Tensor.backward``. GradientError for tensors that do not require grad.
    """
    roots = _listed("backward", tensors)
    dispatch.engine().backward(
        roots,
        _seeds("backward", "grad_tensors", roots, grad_tensors),
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=given_inputs("backward", inputs),
    )


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Seeds = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``outputs`` with respect to ``inputs``, added up over the outputs.

    ``grad_outputs`` has one of its type for each output, None for 1 where that is a scalar; with
    ``is_grads_batched`` they have a first dim of their own, and so have the results. An input that
    the outputs do not depend on is an error, or gets None (``allow_unused``) or zeros
    (``materialize_grads``). ``only_inputs`` is always so, as in PyTorch. GradientError for tensors
    that do not require grad.
    """
    if not only_inputs:
        message = "grad: expected only_inputs to be True; vtc.autograd.backward adds to .grad"
        raise located(ArgumentError, message)
    roots, wrt = _listed("grad", outputs), given_inputs("grad", inputs) or []
    if materialize_grads and allow_unused is False:
        message = "grad: expected allow_unused to be True or left out with materialize_grads"
        raise located(ArgumentError, message)
    again = create_graph if retain_graph is None else retain_graph
    seeds = _seeds("grad", "grad_outputs", roots, grad_outputs)
    rows = _rows(seeds) if is_grads_batched else [seeds]
    swept = [
        dispatch.engine().gradients(
            roots, row, wrt, retain_graph=again or row is not rows[-1], create_graph=create_graph
        )
        for row in rows
    ]
    found = _stacked(swept) if is_grads_batched else swept[0]
    if materialize_grads:
        return tuple([_zeros(x) if g is None else g for x, g in zip(wrt, found, strict=True)])
    for x, g in zip(wrt, found, strict=True):
        if g is None and not allow_unused:
            message = f"grad: expected inputs that the outputs depend on, got {x.type}"
            raise located(GradientError, f"{message}; pass allow_unused=True to get None")
    return tuple(found)


def _listed(name: str, tensors: Tensors) -> list[Tensor]:
    """``tensors`` as a list. GradientError for one that no gradient flows through."""
    found = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    for x in found:
        if not isinstance(x, Tensor):
            got = type(x).__name__
            raise located(ArgumentError, f"{name}: expected a tensor or several, got a {got}")
        if not x.requires_grad:
            message = f"{x.type} does not depend on anything that requires grad"
            raise located(GradientError, f"{name}: {message}")
    if not found:
        raise located(ArgumentError, f"{name}: expected a tensor or several, got none")
    return found


def _seeds(name: str, what: str, roots: Sequence[Tensor], seeds: Seeds) -> list[Tensor | None]:
    """One of ``seeds`` for each of ``roots``."""
    if seeds is None:
        return [None] * len(roots)
    found: list[Tensor | None] = [seeds] if isinstance(seeds, Tensor) else list(seeds)
    if len(found) != len(roots):
        message = f"expected as many {what} as tensors, {len(roots)}"
        raise located(ArgumentError, f"{name}: {message}, got {len(found)}")
    return found


def _rows(seeds: Sequence[Tensor | None]) -> list[list[Tensor | None]]:
    """Slice by slice. ArgumentError unless all have a first dim of one size."""
    sizes = {x.shape[0] if x is not None and x.ndim else None for x in seeds}
    if len(sizes) != 1 or not (size := sizes.pop()):
        message = "expected grad_outputs with a first dim of one size with is_grads_batched"
        raise located(ArgumentError, f"grad: {message}")
    return [[None if x is None else x[k] for x in seeds] for k in range(size)]


def _stacked(rows: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    columns = [[g for g in column if g is not None] for column in zip(*rows, strict=True)]
    return [stack(column) if len(column) == len(rows) else None for column in columns]


def _zeros(x: Tensor) -> Tensor:
    return dispatch.constant(0, x.dtype, x.type.shape, x.device).clone()
