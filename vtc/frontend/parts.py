"""What an object is made of, as far as traced code can tell, and when that counts as unchanged.

parts_of({"k": 2})      # (("k",), (2,)): names and values of the direct parts
"""

from __future__ import annotations

import enum
from collections import deque
from functools import lru_cache, partial
from types import CellType, EllipsisType, FunctionType, MethodType
from typing import Any

import numpy as np

from vtc.frontend.codes import is_user_module
from vtc.frontend.hooks import hooks_of
from vtc.frontend.tensor import Tensor
from vtc.ir.dims import Dim
from vtc.ir.types import DType, TensorType
from vtc.runtime.device import Device

Parts = tuple[tuple[object, ...], tuple[object, ...]]
PLAIN = (
    int, float, str, bytes, bool, complex, type(None), range, EllipsisType, DType, Device, Dim,
    enum.Enum,
)  # fmt: skip
SEQUENCES = (list, tuple, deque, set, frozenset)

ABSTRACT = ("object", "ABC", "Generic", "Protocol")
"""Classes whose code reads no attributes."""
BY_OTHER_MEANS = (
    "__slots__", "__guards__", "__dataclass_fields__", "__getattr__", "__match_args__"
)  # fmt: skip
SMALL = 1 << 16
"""Bytes of a NumPy array that is watched by its content; a larger one is watched by identity."""


class _Missing:
    """What a name that is not bound is bound to."""


MISSING = _Missing()


def same(old: object, new: object) -> bool:
    """Whether code that read ``old`` would do the same with ``new``."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, (float, complex)):
        return repr(old) == repr(new)  # tells -0.0 from 0.0; a NaN is a NaN
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) == len(new) and all(map(same, old, new))
    return isinstance(old, PLAIN) and old == new


def is_small(array: np.ndarray[Any, Any]) -> bool:
    """Whether ``array`` is watched by its content."""
    return array.nbytes <= SMALL and array.dtype.kind != "O"


def parts_of(value: object) -> Parts:
    """Names and values of the direct parts of ``value``."""
    if isinstance(value, dict):
        return tuple(value), tuple(value.values())
    if isinstance(value, SEQUENCES):
        return tuple(range(len(value))), tuple(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return ("content",), (value.tobytes(),)
    if isinstance(value, FunctionType):
        cells = tuple([content(c) for c in value.__closure__ or ()])
        own = (value.__code__, value.__defaults__, value.__kwdefaults__, value.__dict__)
        names = ("__code__", "__defaults__", "__kwdefaults__", "__dict__")
        return (*names, *value.__code__.co_freevars), (*own, *cells)
    if isinstance(value, MethodType):
        return ("__func__", "__self__"), (value.__func__, value.__self__)
    if isinstance(value, partial):
        return ("func", "args", "keywords"), (value.func, value.args, value.keywords)
    guards = getattr(value, "__guards__", None)
    if guards is not None:
        return ("state",), (guards(),)
    return _attributes(value)


def read_of(value: object, names: frozenset[str]) -> Parts:
    """``parts_of`` a Module less the numbers, flags and texts that are not among ``names``."""
    found = [
        (k, v)
        for k, v in zip(*parts_of(value), strict=True)
        if k in names or not isinstance(v, PLAIN)
    ]
    return tuple([k for k, _ in found]), tuple([v for _, v in found])


def read_by_name(value: object) -> frozenset[str] | None:
    """Names of attributes that code of vtc reads of an object whose other attributes only its
    user's code reads, by their names; None if other code may read any.
    """
    cls = type(value)
    names: frozenset[str] = frozenset()
    if not is_user_module(cls.__module__) or not hasattr(value, "__dict__"):
        return None
    for c in cls.__mro__:
        if c.__module__ == "vtc.nn.module" and c.__name__ == "Module":
            names |= vars(c).keys()
        elif not is_user_module(c.__module__) and c.__name__ not in ABSTRACT:
            return None
    return None if any(hasattr(cls, name) for name in BY_OTHER_MEANS) else names


def _tensor(x: Tensor) -> Parts:
    """What of a tensor met by closure is guarded; its elements are an input."""
    names = ("requires_grad", "dtype", "shape", "hooks")
    hooks = sum(hooks_of(x), ())
    if x._array is None:
        return names, (x._requires, None, None, hooks)
    return names, (x._requires, TensorType.of(x._array).dtype, x._array.shape, hooks)


def _attributes(value: object) -> Parts:
    found = dict(getattr(value, "__dict__", {}))
    for name in slot_names(type(value).__mro__):
        found[name] = getattr(value, name, MISSING)
    return tuple(found), tuple(found.values())


@lru_cache(maxsize=1024)
def slot_names(bases: tuple[type, ...]) -> tuple[str, ...]:
    """The names of attributes that instances of a class keep in slots."""
    found: list[str] = []
    for c in bases:
        own = vars(c).get("__slots__", ())
        found += [own] if isinstance(own, str) else own
    return tuple([n for n in found if n not in ("__dict__", "__weakref__")])


def content(cell: CellType) -> object:
    """What is in ``cell``; ``MISSING`` for nothing."""
    try:
        found: object = cell.cell_contents
    except ValueError:
        return MISSING
    return found
