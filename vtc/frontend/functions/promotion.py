"""Which dtype and shape operands meet in: PyTorch's rules, in one place; the IR never promotes.

Operands fall in three groups: tensors with dims, 0-d tensors, and Python numbers ("wrapped"; weak
tensors, which are numbers that became inputs of a program, count as such). A later group matters
only where its category (bool < integer < floating < complex) is higher::

    result_type(i32[4], f64[()])   # f64: a higher category
    result_type(f32[4], f64[()])   # f32: the same category
    result_type(i32[4], 2.5)       # the default dtype
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions.arguments import Number, Value, is_number, is_tensor
from vtc.frontend.source import located
from vtc.ir.dims import Size, Sym, bounds, parted
from vtc.ir.ops.elementwise import Cast, Elementwise, Sub
from vtc.ir.ops.fill import Full, Iota
from vtc.ir.ops.index import Scattering
from vtc.ir.ops.view import Expand, Reshape, Slice
from vtc.ir.types import DType, TensorType, bool_, c64, c128, f32, f64, i16, i32, i64

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

_CATEGORY = {"bool": 0, "int": 1, "float": 2, "complex": 3}


def promote_types(type1: DType, type2: DType) -> DType:
    """The smallest dtype that both convert to without losing category or range.

    TypeCheckError for an fp8 type with any other: they do not promote.
    """
    if type1 is type2:
        return type1
    low, high = sorted((type1, type2), key=lambda d: _CATEGORY[d.kind])
    for d in (type1, type2):
        if d.name.startswith("f8"):
            raise located(TypeCheckError, f"{type1} and {type2} do not promote: cast one of them")
    if low.kind != high.kind:
        return c128 if high.kind == "complex" and low is f64 else high
    if low.kind == "int":
        return _promote_ints(low, high)
    if low.itemsize == high.itemsize:
        return f32  # f16 and bf16
    return max(low, high, key=lambda d: d.itemsize)


def _promote_ints(a: DType, b: DType) -> DType:
    if a.itemsize == b.itemsize:
        return i16  # u8 and i8
    return max(a, b, key=lambda d: d.itemsize)


def result_type(*tensors: Value) -> DType:
    """The dtype that arithmetic on ``tensors`` (numbers may be among them) happens in."""
    groups: list[DType | None] = [None, None, None]
    for value in tensors:
        group, dtype = _grouped(value)
        known = groups[group]
        groups[group] = dtype if known is None else promote_types(known, dtype)
    found = _combine(groups[0], _combine(groups[1], groups[2]))
    if found is None:
        raise located(ArgumentError, "result_type: expected at least one tensor or number")
    return found


def _grouped(value: Value) -> tuple[int, DType]:
    if not is_tensor(value):
        return 2, number_dtype(value)
    type = value.type
    if value._weak:
        return 2, dispatch.default_dtype() if type.dtype.kind == "float" else type.dtype
    return (0 if type.rank else 1), type.dtype


def number_dtype(value: object) -> DType:
    """What a tensor of the Python number ``value`` has: the default dtype, i64, bool or complex."""
    match plain(value):
        case bool():
            return bool_
        case float():
            return dispatch.default_dtype()
        case complex():
            return c128 if dispatch.default_dtype() is f64 else c64
        case _:
            return i64


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    if higher.kind == "complex" or _CATEGORY[higher.kind] >= _CATEGORY[lower.kind]:
        return higher
    if higher.kind == "float":
        return c128 if higher is f64 else c64
    return promote_types(higher, lower)


def can_cast(from_: DType, to: DType) -> bool:
    """Whether values of ``from_`` may be written into ``to``: never to a lower category."""
    return _CATEGORY[from_.kind] <= _CATEGORY[to.kind]


def floating(dtype: DType) -> DType:
    """``dtype``, or the default dtype for bool and integers."""
    return dtype if dtype.kind in ("float", "complex") else dispatch.default_dtype()


def plain(value: object) -> Any:
    """A number as Python has it, or a symbolic size. ArgumentError for anything else."""
    if isinstance(value, (bool, int, float, complex)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if is_number(value) or isinstance(value, Sym):
        return dispatch.size(value)
    raise located(
        ArgumentError, f"expected a Tensor or a number, got {type(value).__name__} {value!r}"
    )


# broadcasting


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[Size, ...]:
    """The shape that tensors of ``shapes`` have together."""
    types = [TensorType(f32, dispatch.sizes(s)) for s in shapes]
    return common_shape("broadcast_shapes", types)


def common_shape(name: str, types: Sequence[TensorType]) -> tuple[Size, ...]:
    """The shape ``types`` have together. TypeCheckError naming the sizes that do not match."""
    rank = max((t.rank for t in types), default=0)
    found: list[Size] = [1] * rank
    for t in types:
        for a, n in enumerate(t.shape, start=rank - t.rank):
            if found[a] == 1:
                found[a] = n
            elif n not in (1, found[a]):
                shown = " and ".join(map(str, types))
                message = f"{name}: sizes {found[a]} and {n} do not match at dim {a}: {shown}"
                raise located(TypeCheckError, message)
    return tuple(found)


def expand_to(name: str, x: Tensor, shape: Sequence[Size]) -> Tensor:
    """``x`` repeated to ``shape``, as a view."""
    type = x.type
    if type.shape == tuple(shape):
        return x
    extra = len(shape) - type.rank
    same = [extra >= 0 and n in (1, shape[extra + a]) for a, n in enumerate(type.shape)]
    if extra < 0 or not all(same):
        want = type.with_shape(shape)
        raise located(TypeCheckError, f"{name}: {type} cannot be expanded to {want}")
    ones = [a for a, n in enumerate(type.shape) if n == 1 and shape[extra + a] != 1]
    if ones:
        kept = tuple(n for a, n in enumerate(type.shape) if a not in ones)
        x = dispatch.view(Reshape(shape=kept), x)
    axes = (*range(extra), *(extra + a for a in ones))
    return dispatch.view(Expand(axes=axes, sizes=tuple(shape[a] for a in axes)), x)


# applying


def pointwise(op: Elementwise, *values: Value) -> Tensor:
    """``op`` on operands promoted as its class says, broadcast against each other."""
    found = dispatch.shortcut(op, *values)
    return promoted(op, *values) if found is None else found


def promoted(op: Elementwise, *values: Value) -> Tensor:
    """:func:`pointwise` of a call that is not known yet."""
    dtype = result_type(*values)
    dtype = floating(dtype) if op.promotion == "float" else dtype
    tensors = [v for v in values if is_tensor(v)]
    if dispatch.state.capture is None and dispatch.autograd().spreads(tensors):
        return _spread(op, dtype, values, common_shape(op.name, [x.type for x in tensors]))
    return dispatch.apply(op, *meet(op.name, dtype, *values))


def _spread(
    op: Elementwise, dtype: DType, values: Sequence[Value], shape: Sequence[Size]
) -> Tensor:
    """``op`` as one step of the tape, as a known call is: repeating an operand is none."""
    given = [tensor_of(v, dtype) for v in values]
    with dispatch.no_grad():
        out = dispatch.apply(op, *[expand_to(op.name, x, shape) for x in given])
    dispatch.autograd().spread(op, given, [None] * len(given), out)
    return out


def apply_scatter(op: Scattering, *inputs: Tensor) -> Tensor:
    """The result of ``op``; bools that meet in a place are counted, so their sum is their or."""
    if not op.accumulate or inputs[0].type.dtype is not bool_:
        return dispatch.apply(op, *inputs)
    counts = [cast(x, i32) if x.type.dtype is bool_ else x for x in inputs]
    return cast(dispatch.apply(op, *counts), bool_)


def meet(name: str, dtype: DType, *values: Value) -> tuple[Tensor, ...]:
    """``values`` as tensors of ``dtype`` and of one shape."""
    types = [v.type for v in values if is_tensor(v)]
    if not types:
        raise located(ArgumentError, f"{name}: expected at least one Tensor, got numbers only")
    shape = common_shape(name, types)
    return tuple([fit(name, v, dtype, shape) for v in values])


def fit(name: str, value: Value, dtype: DType, shape: Sequence[Size]) -> Tensor:
    """``value`` as a tensor of ``dtype``, repeated to ``shape``."""
    if is_tensor(value):
        return expand_to(name, cast(value, dtype), shape)
    return number(value, dtype, shape)


def number(value: Value | Sym, dtype: DType, shape: Sequence[Size] = ()) -> Tensor:
    """The number ``value`` everywhere; integers wrap, as a 0-d tensor of them would."""
    plain_value = _as(plain(value), dtype)
    if isinstance(plain_value, Sym):
        return expand_to("full", _size_value(plain_value, dtype), shape)
    if dispatch.is_capturing():
        return dispatch.apply(Full(shape=tuple(shape), value=plain_value, dtype=dtype))
    # Eagerly one element is enough: the rest is a view of it.
    return expand_to("full", dispatch.apply(Full(shape=(), value=plain_value, dtype=dtype)), shape)


def tensor_of(value: Value, dtype: DType) -> Tensor:
    """A tensor, or a number as a 0-d one, as ``dtype``."""
    return cast(value, dtype) if is_tensor(value) else number(value, dtype)


def _size_value(size: Sym, dtype: DType) -> Tensor:
    """A symbolic size as a 0-d tensor; what may be below 0 is a difference of two that are not."""
    low, _ = bounds(size, dispatch.state.capture.sizes.ranges)
    if low is not None and low >= 0:
        return cast(_place_at(size), dtype)
    more, less = parted(size)
    return cast(dispatch.apply(Sub(), _place_at(more), _place_at(less)), dtype)


def _place_at(size: Size) -> Tensor:
    """The element at ``size`` of 0, 1, 2, ..., which is its number; reads nothing."""
    line = dispatch.apply(Iota(shape=(size + 1,), axis=0, dtype=i64))
    one = dispatch.apply(Slice(starts=(size,), stops=(size + 1,), steps=(1,)), line)
    return dispatch.apply(Reshape(shape=()), one)


def _as(value: Any, dtype: DType) -> Any:
    if isinstance(value, Sym):
        return value
    match dtype.kind:
        case "bool":
            return bool(value)
        case "int":
            return wrap(_integer(value, dtype), dtype)
        case "float":
            return float(value)
        case _:
            return complex(value)


def _integer(value: Any, dtype: DType) -> int:
    if isinstance(value, complex) or not math.isfinite(value):
        raise located(TypeCheckError, f"{value} does not fit {dtype}")
    if not -(2**63) <= value < 2**63:
        raise located(TypeCheckError, f"{value} does not fit {i64}")
    return int(value)


def wrap(value: int, dtype: DType) -> int:
    """``value`` modulo what ``dtype`` can tell apart."""
    info = np.iinfo(dtype.numpy)
    return (value - int(info.min)) % (1 << 8 * dtype.itemsize) + int(info.min)


def checked(name: str, value: Number, dtype: DType) -> Number:
    """``value``, for filling. TypeCheckError where an integer ``dtype`` does not hold it."""
    found: Number = plain(value)
    if isinstance(found, Sym) or dtype.kind == "complex":
        return found
    if dtype.kind == "int":
        whole = _integer(found, dtype)
        fits = wrap(whole, dtype) == whole
    else:
        fits = not isinstance(found, complex)
        found = bool(found) if dtype is bool_ else found
    if not fits:
        raise located(TypeCheckError, f"{name}: {found} does not fit {dtype}")
    return found


def cast(x: Tensor, dtype: DType) -> Tensor:
    """``x`` as ``dtype``; ``x`` itself where it has that already."""
    if x.type.dtype is dtype:
        return x
    op = Cast(dtype=dtype)
    found = dispatch.shortcut(op, x)
    return dispatch.apply(op, x) if found is None else found


def to_float(x: Tensor) -> Tensor:
    """``x``, or bool and integers as the default dtype."""
    return cast(x, floating(x.type.dtype))


def assign(name: str, input: Tensor, value: Tensor) -> Tensor:
    """Write ``value`` into ``input``. TypeCheckError where its dtype or shape does not go there."""
    type, got = input.type, value.type
    if not can_cast(got.dtype, type.dtype):
        message = f"{name}: result of {got.dtype} cannot be written in place into {type}"
        raise located(TypeCheckError, message)
    if len(got.shape) > type.rank or common_shape(name, [type, got]) != type.shape:
        raise located(
            TypeCheckError, f"{name}: {type} cannot be written in place with a result of {got}"
        )
    return dispatch.write(input, expand_to(name, cast(value, type.dtype), type.shape))
