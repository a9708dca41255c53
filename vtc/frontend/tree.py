"""Arguments and results as trees: tuples, lists, dicts, slices, namedtuples, dataclasses of leaves.

leaves, form = flatten({"x": x, "pair": (y, 3)})
unflatten(form, leaves)          # the same tree
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NamedTuple

Inner = Literal["leaf", "dict", "items", "fields", "slice"]
TYPES = 1024
"""Types that are remembered."""


class Form(NamedTuple):
    """The shape of a tree: what each inner node is, and its children; a leaf is None.

    A tuple, since calls hash and compare it.
    """

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


def leaf_count(form: Form | None) -> int:
    """How many leaves trees of ``form`` have."""
    return 1 if form is None else sum(map(leaf_count, form.children))


def _flatten(tree: Any, leaves: list[Any]) -> Form | None:
    keys: tuple[Any, ...] = ()
    items: Sequence[Any]
    kind = type(tree)
    match _INNER.get(kind) or _inner(kind):
        case "leaf":
            leaves.append(tree)
            return None
        case "dict":
            keys, items = tuple(tree), tuple(tree.values())
        case "fields":
            keys = tuple(f.name for f in fields(tree) if f.init)
            items = tuple(getattr(tree, k) for k in keys)
        case "slice":
            items = tree.start, tree.stop, tree.step
        case _:
            items = tree
    return Form(kind, keys, tuple([_flatten(i, leaves) for i in items]))


def _inner(kind: type[Any]) -> Inner:
    """What objects of this type are in a tree; remembered."""
    if len(_INNER) >= TYPES:
        _INNER.clear()
    _INNER[kind] = found = _look(kind)
    return found


def _look(kind: type[Any]) -> Inner:
    if kind is dict or (issubclass(kind, dict) and kind.__init__ is dict.__init__):
        return "dict"
    if kind in (tuple, list) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return "items"
    if kind is slice:
        return "slice"
    return "fields" if is_dataclass(kind) else "leaf"


def _unflatten(form: Form | None, leaves: Iterator[Any]) -> Any:
    if form is None:
        return next(leaves)
    items = [_unflatten(c, leaves) for c in form.children]
    if is_dataclass(form.kind):
        return form.kind(**dict(zip(form.keys, items, strict=True)))
    if issubclass(form.kind, dict):
        return form.kind(zip(form.keys, items, strict=True))
    if hasattr(form.kind, "_fields") or form.kind is slice:
        return form.kind(*items)
    made: Callable[..., Any] = form.kind
    return made(items)


_INNER: dict[type[Any], Inner] = {}
