"""What may stand in an attribute of an op, checked against its annotation, and how it prints.

An attribute is an int, float, bool, str, None, dtype, size, type, or a tuple of those: values that
compare, hash, print and parse by themselves::

    show_value((Sym.var("B"), 4))     # '(B, 4)'
    show_value(float("-inf"))         # '-inf'
    fits((0, 1), tuple[int, ...])     # True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, final, get_args, get_origin, get_type_hints

from vtc.ir.dims import Sym
from vtc.ir.types import DType, TensorType, TupleType


@final
@dataclass(frozen=True, slots=True)
class Attribute:
    """A field: its annotation, the same as written, and the text of its default if it has one."""

    kind: Any
    written: str
    default: str | None


def attributes(cls: type[Any]) -> Mapping[str, Attribute]:
    """The attributes of an op class (or of another dataclass), in order."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _attributes(cls)
    return _KNOWN[cls]


def show_value(value: object) -> str:
    """The text of an attribute; reading it back gives an equal value."""
    match value:
        case bool() | None:
            return repr(value)
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case complex():
            return f"complex({float.__repr__(value.real)}, {float.__repr__(value.imag)})"
        case str():
            return _quote(value)
        case tuple():
            inner = ", ".join(map(show_value, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case DType() | Sym() | TensorType() | TupleType():
            return str(value)
        case _:
            return repr(value)


def fits(value: object, kind: Any) -> bool:
    """Whether ``value`` is what the annotation ``kind`` says."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        # Where any number may stand a complex one may, as an op's type rule checks it.
        if isinstance(value, complex) and float in get_args(kind):
            return True
        return any(fits(value, k) for k in get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and _each_fits(value, get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if kind is None or kind is NoneType:
        return value is None
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, kind)


_KNOWN: dict[type[Any], Mapping[str, Attribute]] = {}


def _attributes(cls: type[Any]) -> Mapping[str, Attribute]:
    kinds = get_type_hints(cls)
    known = {}
    for f in (f for f in fields(cls) if f.init):
        default = None if f.default is MISSING else show_value(f.default)
        known[f.name] = Attribute(kinds[f.name], str(f.type), default)
    return known


def _each_fits(value: tuple[object, ...], kinds: tuple[Any, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(fits(v, kinds[0]) for v in value)
    return len(value) == len(kinds) and all(map(fits, value, kinds))


def _quote(text: str) -> str:
    """``repr`` in double quotes, which it prefers for text that holds a single quote."""
    return repr(text) if '"' in text else '"' + repr("'" + text)[2:]
