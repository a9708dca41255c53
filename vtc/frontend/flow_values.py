"""What control flow takes and gives: trees of tensors and numbers, and what stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form, flatten, unflatten
from vtc.ir.types import TensorType, bool_, i64


@final
@dataclass(frozen=True)
class Carried:
    """What ``vtc.<name>`` carries from step to step: tensors, and the tree that they are in."""

    name: str
    start: tuple[Tensor, ...]
    form: Form | None
    types: tuple[TensorType, ...]

    @classmethod
    def of(cls, name: str, tree: Any) -> Carried:
        """TypeCheckError for what is no tensor or number."""
        leaves, form = flatten(tree)
        start = tuple([value(name, leaf) for leaf in leaves])
        return cls(name, start, form, tuple([x.type for x in start]))

    def tree(self, leaves: Any) -> Any:
        """The tree of ``leaves``."""
        return unflatten(self.form, list(leaves))

    def next(self, tree: Any) -> list[Tensor]:
        """The tensors of ``tree``. TypeCheckError unless they are as they were."""
        leaves, form = flatten(tree)
        if form != self.form:
            before, after = show_form(self.form), show_form(form)
            message = f"expected what is carried to keep its structure {before}, got {after}"
            raise located(TypeCheckError, f"{self.name}: {message}")
        found = [value(self.name, leaf) for leaf in leaves]
        for k, (x, type) in enumerate(zip(found, self.types, strict=True)):
            if x.type != type:
                which = f" (value {k} of {len(found)})" if len(found) > 1 else ""
                message = f"expected what is carried to stay {type}{which}, got {x.type}"
                hint = "cast it, or begin with a value of that type"
                raise located(TypeCheckError, f"{self.name}: {message} after a step; {hint}")
        return found


def value(name: str, leaf: Any) -> Tensor:
    """``leaf`` as a tensor: itself, or a number."""
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, bool):
        return dispatch.constant(leaf, bool_)
    if isinstance(leaf, int):
        return dispatch.constant(leaf, i64)
    if isinstance(leaf, float):
        return dispatch.constant(leaf, dispatch.default_dtype())
    message = f"{name}: expected tensors and numbers, got {show_type(leaf)}"
    raise located(TypeCheckError, message)


def leaves_of(tree: Any) -> list[Any]:
    """The leaves of ``tree`` but for None."""
    return [leaf for leaf in flatten(tree)[0] if leaf is not None]


@final
@dataclass(frozen=True)
class Returned:
    """A tree that a function returned: its tensors; None where ``gaps`` are."""

    tensors: tuple[Tensor, ...]
    gaps: tuple[bool, ...]
    form: Form | None

    def tree(self, tensors: Any) -> Any:
        """The same tree of other tensors."""
        found = iter(tensors)
        return unflatten(self.form, [None if gap else next(found) for gap in self.gaps])


def returned(name: str, tree: Any) -> Returned:
    """``tree`` taken apart; numbers become tensors."""
    leaves, form = flatten(tree)
    tensors = tuple([value(name, leaf) for leaf in leaves if leaf is not None])
    return Returned(tensors, tuple([leaf is None for leaf in leaves]), form)


def show_type(x: Any) -> str:
    """What ``x`` is, for errors."""
    return str(x.type) if isinstance(x, Tensor) else f"{type(x).__name__} {x!r}"[:80]


def show_form(form: Form | None) -> str:
    """A structure, for errors."""
    if form is None:
        return "*"
    inner = [show_form(f) for f in form.children]
    if form.keys:
        return f"{{{', '.join(f'{k}: {i}' for k, i in zip(form.keys, inner, strict=True))}}}"
    return f"{form.kind.__name__}({', '.join(inner)})"
