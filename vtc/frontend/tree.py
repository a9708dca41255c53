"""Arguments and results as trees: tuples, lists, dicts, namedtuples and dataclasses of leaves.

leaves, form = flatten({"x": x, "pair": (y, 3)})
unflatten(form, leaves)          # the same tree
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Form:
    """The shape of a tree: what each inner node is, and its children; a leaf is None."""

    kind: type[Any]
    keys: tuple[Any, ...]
    children: tuple[Form | None, ...]


def flatten(tree: Any) -> tuple[list[Any], Form | None]:
    """The leaves in order, and the form that puts them back."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def unflatten(form: Form | None, leaves: Sequence[Any]) -> Any:
    """The tree of ``form`` with ``leaves``."""
    return _unflatten(form, iter(leaves))


def tree_map(fn: Callable[[Any], Any], tree: Any) -> Any:
    """``tree`` with ``fn`` applied to every leaf."""
    leaves, form = flatten(tree)
    return unflatten(form, [fn(leaf) for leaf in leaves])


def _flatten(tree: Any, leaves: list[Any]) -> Form | None:
    keys: tuple[Any, ...] = ()
    items: Sequence[Any]
    kind = type(tree)
    if kind is dict or (isinstance(tree, dict) and kind.__init__ is dict.__init__):
        keys, items = tuple(tree), tuple(tree.values())
    elif kind in (tuple, list) or (isinstance(tree, tuple) and hasattr(tree, "_fields")):
        items = tree
    elif is_dataclass(tree) and not isinstance(tree, type):
        keys = tuple(f.name for f in fields(tree) if f.init)
        items = tuple(getattr(tree, k) for k in keys)
    else:
        leaves.append(tree)
        return None
    return Form(kind, keys, tuple([_flatten(i, leaves) for i in items]))


def _unflatten(form: Form | None, leaves: Iterator[Any]) -> Any:
    if form is None:
        return next(leaves)
    items = [_unflatten(c, leaves) for c in form.children]
    if is_dataclass(form.kind):
        return form.kind(**dict(zip(form.keys, items, strict=True)))
    if issubclass(form.kind, dict):
        return form.kind(zip(form.keys, items, strict=True))
    if hasattr(form.kind, "_fields"):
        return form.kind(*items)
    made: Callable[..., Any] = form.kind
    return made(items)
