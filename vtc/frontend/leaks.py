"""Traced values that outlive their trace: who holds them, in words the user knows.

A value of the trace that is still alive, and is no result, was left somewhere: the search goes up
from it, through containers, to an attribute, a global or a closure variable.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FrameType, GeneratorType, ModuleType

from vtc.errors import LeakError, at_line
from vtc.frontend.capture import Capture
from vtc.frontend.changed import PLACES
from vtc.frontend.source import is_user_file
from vtc.frontend.tensor import Tensor
from vtc.ir.graph import Node

MAX_HOLDERS = 500
CONTAINERS = (list, set, frozenset, deque, tuple)
PASSED = (*CONTAINERS, dict, partial, GeneratorType)
"""What may lie between a value and the name it is found under."""


def refuse_leaks(capture: Capture) -> None:
    """LeakError if a traced value was left in an object. Its results must have been let go."""
    let_go(capture)
    if not capture.made:
        return
    gc.collect()
    alive = list(capture.made)
    with thawed():
        for t in alive:
            if (where := _holder(t, alive)) is not None:
                raise _leak(t, capture.node(t), where)


def let_go(capture: Capture) -> None:
    """Make a trace that is over hold none of its values: those alive are held by somebody else."""
    capture.kept = [x for x in capture.kept if x._storage is not None]
    for held in (capture.leaves, capture.hypers, capture.grads):
        held.clear()


@contextmanager
def thawed() -> Iterator[None]:
    """Lets the search see what ``gc.freeze`` has hidden, as servers do before they fork."""
    frozen = gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()
    try:
        yield
    finally:
        if frozen:
            gc.freeze()


def _leak(x: Tensor, node: Node, where: str) -> LeakError:
    """Names the value's own line: the function that left it has already returned."""
    message = (
        f"a traced value {x.type} was left in {where}; return it, or write into a tensor that "
        "exists before the call"
    )
    if node.loc is None:
        return LeakError(message)
    return LeakError(at_line(message, node.loc.file, node.loc.line, node.loc.module))


def _holder(x: Tensor, alive: object) -> str | None:
    """The attribute, element or variable that still holds ``x``."""
    fallback: str | None = None
    held: list[object] = [x]
    ours = {id(held), id(alive)}
    seen = {id(x)}
    for value in held:  # grows
        holders = gc.get_referrers(value)
        ours.add(id(holders))
        for holder in holders:
            if id(holder) in ours or id(holder) in seen or _is_ours(holder):
                continue
            seen.add(id(holder))
            if (name := _name(holder, value)) is not None:
                return name
            fallback = fallback or _kind(holder, value)
            if isinstance(holder, PASSED) and len(held) < MAX_HOLDERS:
                held.append(holder)
    return fallback


def _is_ours(holder: object) -> bool:
    if isinstance(holder, FrameType):
        return not is_user_file(holder.f_code.co_filename)
    # a view keeps its base: what matters is who has the view
    return isinstance(holder, (Tensor, *PLACES))


def _name(holder: object, value: object) -> str | None:
    """What the user calls ``value`` where ``holder`` has it, if that has a name."""
    if isinstance(holder, CellType):
        return "a closure variable" if isinstance(value, Tensor) else None
    if isinstance(holder, dict):
        key = next((k for k, v in holder.items() if v is value), None)
        return None if key is None else _attribute(holder, key, value)
    if isinstance(holder, (FrameType, *CONTAINERS)):
        return None
    key = next((k for k, v in getattr(holder, "__dict__", {}).items() if v is value), None)
    if key is None:
        names = [n for c in type(holder).__mro__ for n in vars(c).get("__slots__", ())]
        key = next((n for n in names if getattr(holder, n, None) is value), None)
    return None if key is None else _of(holder, key)


def _attribute(attributes: dict[object, object], key: object, value: object) -> str | None:
    """``Class.key`` where ``attributes`` is the ``__dict__`` of something; the name of a global."""
    if "__builtins__" in attributes:
        return f"the global {key}"
    for owner in gc.get_referrers(attributes):
        if getattr(owner, "__dict__", None) is attributes:
            return _of(owner, key)
        if isinstance(owner, type) and vars(owner).get(str(key)) is value:
            return f"{owner.__name__}.{key}"
    return None


def _of(owner: object, key: object) -> str:
    if isinstance(owner, (ModuleType, type)):
        return f"{owner.__name__}.{key}"
    return f"{type(owner).__name__}.{key}"


def _kind(holder: object, value: object) -> str:
    if isinstance(holder, dict):
        key = next((k for k, v in holder.items() if v is value), None)
        return f"a dict, under {key!r}"
    return f"a {type(holder).__name__}"
