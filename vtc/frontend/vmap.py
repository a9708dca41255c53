"""``vmap``: a function of one example as a function of many.

    predict = vtc.vmap(model_of_one_row)               # [N, D] -> [N, K]
    per_example = vtc.vmap(vtc.grad(loss), in_dims=(None, 0, 0))(w, x, y)

The function is recorded once for one example, and each of its ops is applied to all at once by its
batching rule (:mod:`vtc.ir.ops.batch`). What does not depend on the examples is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.applied import Applier
from vtc.frontend.functions.rearrange import cat
from vtc.frontend.inputs import place
from vtc.frontend.recorded import Slot, applying, record
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form, flatten, leaf_count, unflatten
from vtc.ir.dims import Size
from vtc.ir.graph import Node
from vtc.ir.ops.batch import Lane, Randomness, Sweep
from vtc.ir.ops.batch_flow import FlowRule
from vtc.ir.ops.control import Library
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.view import Expand

Dims = int | None | tuple[Any, ...] | list[Any] | dict[Any, Any]
RANDOMNESS = ("error", "different", "same")


def vmap(
    func: Callable[..., Any],
    in_dims: Dims = 0,
    out_dims: Dims = 0,
    randomness: Randomness = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """A function that applies ``func`` to the slices of its arguments along ``in_dims``.

    ``in_dims`` is an int for all arguments, or a tuple with one for each: an int, None for what all
    calls share, or a tree like the argument. ``out_dims`` says where results get the new dim.
    Keyword arguments are shared. Random numbers are an error, or ``different`` or the ``same`` for
    all slices. ``chunk_size`` limits how many slices are computed at once. ArgumentError where dims
    do not fit the arguments, or results are not tensors.
    """
    if randomness not in RANDOMNESS:
        known = ", ".join(map(repr, RANDOMNESS))
        raise located(ArgumentError, f"vmap: expected randomness {known}, got {randomness!r}")
    if chunk_size is not None and chunk_size < 1:
        raise located(ArgumentError, f"vmap: expected chunk_size >= 1, got {chunk_size}")

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, form = flatten(args)
        dims = _dims_of(in_dims, args, leaves)
        size = _size(leaves, dims)
        one = _Mapped(func, kwargs, form, dims, out_dims, randomness)
        if chunk_size is None or not isinstance(size, int) or size <= chunk_size:
            return one(leaves, size)
        return _in_chunks(one, leaves, size, chunk_size)

    return call


class _Mapped:
    """``func``, mapped along the dims of its arguments' leaves."""

    def __init__(
        self,
        func: Callable[..., Any],
        kwargs: dict[str, Any],
        form: Form | None,
        dims: Sequence[int | None],
        out_dims: Dims,
        randomness: Randomness,
    ) -> None:
        self.func, self.kwargs, self.form = func, kwargs, form
        self.dims, self.out_dims, self.randomness = dims, out_dims, randomness

    def __call__(self, leaves: Sequence[Any], size: Size) -> Any:
        mapped = [k for k, d in enumerate(self.dims) if d is not None]
        given = [_lead(leaves[k], self.dims[k]) for k in mapped]
        recorded = record(
            lambda examples: self._one(leaves, mapped, examples), [_slot(x) for x in given]
        )
        library = Library(recorded.graphs)
        b = Applier(library)
        sweep = Sweep(b, size, self.randomness, flow=FlowRule(library))
        params = recorded.graph.params
        values = [*given, *recorded.outside]
        for k, (p, x) in enumerate(zip(params, values, strict=True)):
            sweep.lanes[p] = Lane(Expr(b, x), batched=k < len(given))
        with applying(values):
            try:
                sweep.run(recorded.graph.nodes)
            except (TypeCheckError, IndexRangeError) as e:
                raise e if "\n  at " in str(e) else located(type(e), str(e)) from None
            recorded.write(given, lambda c: _written(sweep, c.node, c.tensor is None, size))
            return self._results(recorded, sweep, size)

    def _one(self, leaves: Sequence[Any], mapped: Sequence[int], examples: list[Tensor]) -> Any:
        every = list(leaves)
        for k, x in zip(mapped, examples, strict=True):
            every[k] = x
        return self.func(*unflatten(self.form, every), **self.kwargs)

    def _results(self, recorded: Any, sweep: Sweep, size: Size) -> Any:
        dims = _spread_dims("out_dims", self.out_dims, recorded.form, len(recorded.leaves))
        found = []
        for leaf, dim in zip(recorded.leaves, dims, strict=True):
            if not isinstance(leaf, Node):
                message = f"vmap: expected a function that returns tensors, got {leaf!r}"
                raise located(ArgumentError, message)
            found.append(_result(sweep.lanes[leaf], dim, size))
        return unflatten(recorded.form, found)


def _result(lane: Lane, dim: int | None, size: Size) -> Tensor:
    """One result, its examples along ``dim``; None for what is the same for all."""
    x: Tensor = lane.value.value
    if dim is None:
        if lane.batched:
            message = "vmap: expected a result that is the same for all slices where out_dims is"
            raise located(ArgumentError, f"{message} None, got {x.type}")
        return x
    whole = x if lane.batched else dispatch.view(Expand(axes=(0,), sizes=(size,)), x)
    return whole if dim == 0 else whole.movedim(0, _axis(dim, whole.type.rank, whole))


def _written(sweep: Sweep, node: Node, argument: bool, size: Size) -> Tensor:
    """What a tensor that was written in place holds in the end."""
    lane = sweep.lanes[node]
    if lane.batched and not argument:
        raise located(
            ArgumentError,
            f"vmap: a tensor {node.type} that all slices share was written in place with values "
            "that differ among them; return them instead",
        )
    found: Tensor = lane.whole(size).value if argument else lane.value.value
    return found


def _slot(x: Tensor) -> Slot:
    """For one slice of ``x``."""
    return Slot(x.type.with_shape(x.type.shape[1:]), x.requires_grad, place(x))


def _lead(x: Tensor, dim: int | None) -> Tensor:
    moved: Tensor = x if not dim else x.movedim(dim, 0)
    return moved


def _axis(dim: int, rank: int, x: Tensor) -> int:
    if not -rank <= dim < rank:
        raise located(ArgumentError, f"vmap: expected a dim of {x.type}, got {dim}")
    return dim % rank


def _dims_of(in_dims: Dims, args: tuple[Any, ...], leaves: Sequence[Any]) -> list[int | None]:
    """The dim of each leaf of the arguments, counted from the front."""
    if isinstance(in_dims, list):
        in_dims = tuple(in_dims)
    form = flatten(args)[1]
    dims = _spread_dims("in_dims", in_dims, form, len(leaves))
    found: list[int | None] = []
    for x, dim in zip(leaves, dims, strict=True):
        if dim is not None and not isinstance(x, Tensor):
            got = f"{type(x).__name__} {x!r}"
            raise located(
                ArgumentError, f"vmap: expected a tensor where in_dims is {dim}, got {got}"
            )
        found.append(None if dim is None else _axis(dim, x.type.rank, x))
    return found


def _spread_dims(what: str, dims: Any, form: Form | None, count: int) -> list[int | None]:
    """One of ``dims`` for each leaf of ``form``: where they stop, all leaves below share one."""
    if dims is None or (isinstance(dims, int) and not isinstance(dims, bool)):
        return [dims] * count
    if form is None:
        raise located(ArgumentError, f"vmap: expected {what} to be an int or None, got {dims!r}")
    if isinstance(dims, (tuple, list)):
        parts = list(dims)
    elif isinstance(dims, dict) and tuple(dims) == form.keys:
        parts = list(dims.values())
    else:
        raise located(ArgumentError, f"vmap: {what} do not fit: got {dims!r} for {_words(form)}")
    if len(parts) != len(form.children):
        got = f"{len(parts)} for {len(form.children)}"
        raise located(ArgumentError, f"vmap: expected as many {what} as there are, got {got}")
    found: list[int | None] = []
    for part, child in zip(parts, form.children, strict=True):
        found += _spread_dims(what, part, child, leaf_count(child))
    return found


def _words(form: Form) -> str:
    return f"a {form.kind.__name__} of {len(form.children)}"


def _size(leaves: Sequence[Any], dims: Sequence[int | None]) -> Size:
    """How many slices there are: the same in all leaves that are mapped."""
    sizes = [x.type.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None]
    if not sizes:
        raise located(ArgumentError, "vmap: expected a tensor to map over, got none")
    if any(n != sizes[0] for n in sizes):
        shown = ", ".join(map(str, sizes))
        raise located(ArgumentError, f"vmap: expected mapped dims of one size, got {shown}")
    found: Size = sizes[0]
    return found


def _in_chunks(one: _Mapped, leaves: Sequence[Any], size: int, step: int) -> Any:
    """The results of slice after slice, joined."""
    found = []
    for start in range(0, size, step):
        count = min(step, size - start)
        part = [
            x if d is None else x.narrow(d, start, count)
            for x, d in zip(leaves, one.dims, strict=True)
        ]
        found.append(flatten(one(part, count)))
    form = found[0][1]
    dims = _spread_dims("out_dims", one.out_dims, form, len(found[0][0]))
    columns = zip(*(parts for parts, _ in found), strict=True)
    return unflatten(
        form,
        [c[0] if d is None else cat(list(c), d) for c, d in zip(columns, dims, strict=True)],
    )
