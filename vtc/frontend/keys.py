"""What of the arguments decides which compiled program serves a call, and what they are called."""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.deciding import value_key
from vtc.frontend.ended import ended
from vtc.frontend.hooks import Hooks, hooks_of
from vtc.frontend.inputs import base_of, layout
from vtc.frontend.parts import PLAIN
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor
from vtc.frontend.tree import Form
from vtc.ir.types import Array, TensorType
from vtc.runtime.buffer import address
from vtc.runtime.device import Device

Key = tuple[Any, ...]


def tensor_leaf(leaf: Any) -> Any:
    """``leaf`` with NumPy arrays as tensors over their memory, and NumPy's numbers as Python's."""
    if isinstance(leaf, np.generic):
        return leaf.item()
    return dispatch.from_array(leaf) if isinstance(leaf, np.ndarray) else leaf


@final
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Kind:
    """What of a tensor argument is guarded. There is one object for equal ones while it is used."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    requires: bool
    weak: bool
    device: Device
    dense: bool
    """Row-major and aligned."""
    writeable: bool
    hooks: tuple[Hooks, Hooks] = ((), ())
    """Those of a leaf, before and after its gradient is added to ``.grad``."""
    order: tuple[Any, ...] = ()
    """Of one that is not dense: which of its dims lie as one, whatever their sizes are."""

    @property
    def general(self) -> tuple[Any, ...]:
        """What is the same for every size."""
        facts = len(self.shape), self.dtype, self.requires, self.weak, self.device
        return (*facts, self.hooks, self.order)


Known = tuple[Array, bool, int, Kind]
"""What a tensor remembers of itself: its array, whether it requires grad as a leaf, address, kind.

It holds while the tensor has that array, requires grad or not as then, and has no history. A
tensor's array is its own: nobody else reshapes it in place.
"""


def know(x: Tensor) -> Known:
    """What ``x`` remembers, made anew where it has changed. CaptureError if it was traced."""
    known: Known | None = x._known
    history = x._record is not None or x._link is not None
    if known is not None and known[0] is x._array and known[1] is x._requires and not history:
        return known
    array = x._array
    if array is None:
        raise ended(x)
    grows = x._record is not None or (x._link is not None and x.requires_grad)
    flags = array.flags
    dense = flags.c_contiguous and flags.aligned
    requires = x._requires or grows
    facts = array.shape, array.dtype, requires, x._weak, x.device, dense, flags.writeable
    if dense and x._hooks is None:
        kind = kind_of(*facts)
    else:
        kind = kind_of(*facts, hooks_of(x), () if dense else _order(array))
    x._known = found = array, x._requires, address(array), kind
    return found


def _order(array: Array) -> tuple[Any, ...]:
    """Which dims are the rows of which, and the length of a step where a dim is of single elements
    or repeated: what a reshape has to know.
    """
    steps = [s // array.itemsize for s in array.strides]
    spans = [n * s for n, s in zip(array.shape, steps, strict=True)]
    rows = [(a, b) for a, s in enumerate(steps) for b, n in enumerate(spans) if a != b and s == n]
    return tuple(rows), tuple(s if s in (0, 1) else None for s in steps)


def kind_of(*facts: Any) -> Kind:
    """The one kind with these fields."""
    found = _KINDS.get(facts)
    if found is None:
        with _making:  # two threads must not have one each
            found = _KINDS.get(facts)
            if found is None:
                found = _KINDS[facts] = Kind(*facts)
    return found


def leaf_keys(leaves: Sequence[Any], decide: Iterable[int] = ()) -> tuple[Any, ...]:
    """What of arguments is guarded; of floats whose places are in ``decide`` the value, too."""
    keys = [leaf_key(leaf) for leaf in leaves]
    for i in decide:
        keys[i] = value_key(leaves[i]) if keys[i] is float else keys[i]
    return tuple(keys)


def leaf_key(leaf: Any) -> Any:
    """What of an argument is guarded."""
    kind = type(leaf)
    if kind is Tensor:
        return know(leaf)[3]
    if isinstance(leaf, float):
        return float
    if isinstance(leaf, PLAIN):
        return kind, leaf
    if hasattr(leaf, "__dlpack__"):
        raise located(
            ArgumentError,
            f"an argument of type {kind.__module__}.{kind.__qualname__}: expected vtc's tensors; "
            "vtc.as_tensor(x) is one over the same memory",
        )
    if callable(leaf) or hasattr(leaf, "__dict__"):
        return kind, id(leaf)
    raise located(
        ArgumentError,
        f"an argument of type {kind.__name__} cannot be compiled; expected tensors, "
        "numbers, strings, "
        "modules, or tuples, lists, dicts and dataclasses of them",
    )


def sharing(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Which tensor arguments share a storage, and which are one tensor."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    storages = [id(x._storage) for x in tensors]
    if len(set(storages)) == len(storages):
        return ()
    met = [id(x) for x in tensors]
    return tuple([(storages.index(s), met.index(m)) for s, m in zip(storages, met, strict=True)])


def read_apart(leaves: Sequence[Any]) -> set[int]:
    """The ids of storages that several tensor arguments share, none of which requires grad."""
    tensors = {id(x): x for x in leaves if isinstance(x, Tensor) and x._storage is not None}
    count = Counter([id(x._storage) for x in tensors.values()])
    grow = {id(x._storage) for x in tensors.values() if x.requires_grad}
    return {s for s, n in count.items() if n > 1} - grow


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
    words = (
        "gradients enabled", "autocast", "defaults", "deterministic algorithms",
        "which arguments share memory",
    )  # fmt: skip
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
        case Kind():
            count = sum(map(len, key.hooks))
            hooks = f" with {count} hook{'s' * (count > 1)}" if count else ""
            return f"{TensorType.of(np.empty(key.shape, key.dtype))}{hooks}"
        case (type() as kind, str() as value) if kind is float:
            return f"float {value}"
        case (type() as kind, value):
            return f"{kind.__name__} {value!r}"
        case _:
            return str(key)


_KINDS: WeakValueDictionary[tuple[Any, ...], Kind] = WeakValueDictionary()
_making = threading.RLock()


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
    fields = form.keys or getattr(form.kind, "_fields", ())
    for k, child in enumerate(form.children):
        key = fields[k] if fields else k
        _name_leaves(f"{name}_{key}", child, names)
