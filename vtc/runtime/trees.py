"""Arguments and results of a package as trees of leaves, without the types of the user's code.

    leaves = flatten(entry.tree, (args, kwargs), "mlp")        # ArgumentError if they do not fit
    unflatten(entry.result_tree, results)

A tuple serves as a namedtuple, an object or a dict with the fields as a dataclass. Results that
were namedtuples or dataclasses come back as namedtuples of the same fields.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from vtc.errors import ArgumentError
from vtc.runtime.signature import Form, Key


def flatten(form: Form | None, tree: Any, where: str) -> list[Any]:
    """The leaves of ``tree`` in the order of ``form``."""
    leaves: list[Any] = []
    _flatten(form, tree, where, leaves)
    return leaves


def unflatten(form: Form | None, leaves: Sequence[Any]) -> Any:
    """The tree of ``form`` with ``leaves``."""
    return _unflatten(form, iter(leaves))


def _flatten(form: Form | None, tree: Any, where: str, leaves: list[Any]) -> None:
    if form is None:
        leaves.append(tree)
        return
    for key, child, item in zip(_steps(form), form.items, _items(form, tree, where), strict=True):
        _flatten(child, item, f"{where}{key}", leaves)


def _steps(form: Form) -> list[str]:
    match form.kind:
        case "dict":
            return [f"[{key!r}]" for key in form.keys]
        case "tuple" | "list":
            return [f"[{k}]" for k in range(len(form.items))]
        case _:
            return [f".{key}" for key in form.keys]


def _items(form: Form, tree: Any, where: str) -> Sequence[Any]:
    match form.kind:
        case "dict":
            if isinstance(tree, Mapping) and set(tree) == set(form.keys):
                return [tree[key] for key in form.keys]
            raise _wrong(where, f"a dict with {_listed(form.keys)}", tree)
        case "tuple" | "list" | "namedtuple" if isinstance(tree, (tuple, list)):
            if len(tree) == len(form.items):
                return tree
            got = f"{len(tree)} items"
            raise ArgumentError(f"{where}: expected {len(form.items)} items, got {got}")
        case "namedtuple" | "dataclass":
            if isinstance(tree, Mapping) and set(tree) == set(form.keys):
                return [tree[key] for key in form.keys]
            if not isinstance(tree, Mapping) and all(hasattr(tree, str(key)) for key in form.keys):
                return [getattr(tree, str(key)) for key in form.keys]
            raise _wrong(where, f"an object with {_listed(form.keys)}", tree)
        case kind:
            raise _wrong(where, f"a {kind} of {len(form.items)}", tree)


def _listed(keys: Sequence[Key]) -> str:
    return ", ".join(str(k) for k in keys) or "nothing"


def _wrong(where: str, expected: str, tree: Any) -> ArgumentError:
    got = f"one with {_listed(list(tree))}" if isinstance(tree, Mapping) else type(tree).__name__
    return ArgumentError(f"{where}: expected {expected}, got {got}")


def _unflatten(form: Form | None, leaves: Iterator[Any]) -> Any:
    if form is None:
        return next(leaves)
    items = [_unflatten(child, leaves) for child in form.items]
    match form.kind:
        case "dict":
            return dict(zip(form.keys, items, strict=True))
        case "tuple":
            return tuple(items)
        case "list":
            return items
        case _:
            return _fields(form.keys)(*items)


@lru_cache(1024)
def _fields(keys: tuple[Key, ...]) -> Callable[..., Any]:
    """A namedtuple with these fields; names that cannot be fields get numbers."""
    return namedtuple("Result", [str(k) for k in keys], rename=True)
