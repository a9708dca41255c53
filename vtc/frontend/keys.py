"""What of the arguments decides which compiled program serves a call, and what they are called."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtc.errors import ArgumentError, CaptureError
from vtc.frontend import dispatch
from vtc.frontend.guards import PLAIN
from vtc.frontend.inputs import base_of, layout
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form
from vtc.ir.types import TensorType

Key = tuple[Any, ...]


def tensor_leaf(leaf: Any) -> Any:
    """``leaf`` with NumPy arrays as tensors over their memory, and NumPy's numbers as Python's."""
    if isinstance(leaf, np.generic):
        return leaf.item()
    return dispatch.from_array(leaf) if isinstance(leaf, np.ndarray) else leaf


def leaf_key(leaf: Any, *, ranks_only: bool = False) -> Any:
    """What of an argument is guarded."""
    if isinstance(leaf, Tensor):
        array = leaf._array
        if array is None:
            raise located(
                CaptureError, "a traced value of an ended trace was passed to a compiled function"
            )
        requires = (
            leaf._requires
            or leaf._record is not None
            or (leaf._link is not None and leaf.requires_grad)
        )
        return (
            array.ndim if ranks_only else array.shape,
            array.dtype,
            requires,
            leaf._weak,
            leaf.device,
        )
    if isinstance(leaf, float):
        return float
    if isinstance(leaf, PLAIN):
        return type(leaf), leaf
    if callable(leaf) or hasattr(leaf, "__dict__"):
        return type(leaf), id(leaf)
    raise located(
        ArgumentError,
        f"an argument of type {type(leaf).__name__} cannot be compiled; expected tensors, "
        "numbers, strings, "
        "modules, or tuples, lists, dicts and dataclasses of them",
    )


def partition(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Which tensor arguments share a storage, and which part of it each is."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    storages = [id(x._storage) for x in tensors]
    if len(set(storages)) == len(storages):
        return ()
    return tuple(
        [
            (storages.index(s), *_place(x)) if storages.count(s) > 1 else ()
            for x, s in zip(tensors, storages, strict=True)
        ]
    )


def _place(x: Tensor) -> tuple[Any, ...]:
    """Where ``x`` lies in what it was cut from."""
    base = base_of(x)
    (start, strides), (origin, steps) = layout(x), layout(base)
    return start - origin, strides, base.type, steps


def key_difference(old: Key, new: Key) -> str:
    """Where two keys differ, in words."""
    if old[0] != new[0]:
        return "the arguments have another structure"
    for k, (a, b) in enumerate(zip(old[1], new[1], strict=True)):
        if a != b:
            return f"argument {k} was {_key_word(a)}, is {_key_word(b)}"
    words = ("gradients enabled", "autocast", "defaults", "which arguments share memory")
    return next(
        (
            f"{w}: was {a}, is {b}"
            for w, a, b in zip(words, old[2:], new[2:], strict=True)
            if a != b
        ),
        "guards",
    )


def _key_word(key: Any) -> str:
    match key:
        case (tuple() as shape, np.dtype() as dtype, *_):
            return str(TensorType.of(np.empty(shape, dtype)))
        case (type() as kind, value):
            return f"{kind.__name__} {value!r}"
        case _:
            return str(key)


def leaf_names(fn: Any, form: Form | None) -> list[str]:
    """A name for each leaf of ``(args, kwargs)``, from the signature."""
    if form is None:
        return []
    args, kwargs = form.children
    try:
        parameters = [
            p.name
            for p in inspect.signature(getattr(fn, "forward", fn)).parameters.values()
            if p.kind is not p.KEYWORD_ONLY
        ]
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for i, child in enumerate(args.children if args else ()):
        _name_leaves(parameters[i] if i < len(parameters) else f"x{i}", child, names)
    if kwargs is not None:
        for key, child in zip(kwargs.keys, kwargs.children, strict=True):
            _name_leaves(str(key), child, names)
    return names


def _name_leaves(name: str, form: Form | None, names: list[str]) -> None:
    if form is None:
        names.append(name if name.isidentifier() else "x")
        return
    for k, child in enumerate(form.children):
        key = form.keys[k] if form.keys else k
        _name_leaves(f"{name}_{key}", child, names)
