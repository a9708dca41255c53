"""Elementwise ops on concrete tensors that were called like this before, without the stack.

What a call of ``x + 1`` decides (promotion, broadcasting, the device, the kernel) follows from what
its operands are: their kinds (:class:`~vtc.frontend.keys.Kind`) and the types of numbers. The
second call of a kind remembers it, and those that follow go straight to NumPy, or to one launch::

    shortcut(Add(), x, 1)      # a Tensor; None where the stack must look

It answers only where no rule of the stack but the backend has a say: nothing is captured, autocast
is off. Where a gradient flows the call is one step of the tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, final

import numpy as np

from vtc.errors import CodegenError, VtcError
from vtc.frontend import dispatch, eager
from vtc.frontend.dispatch import _process as process
from vtc.frontend.dispatch import state
from vtc.frontend.functions.promotion import (
    cast,
    common_shape,
    floating,
    number,
    result_type,
)
from vtc.frontend.keys import Kind, kind_of, know
from vtc.frontend.tape import running
from vtc.frontend.tensor import CPU, Storage, Tensor, array_of
from vtc.ir.op import REGISTRY
from vtc.ir.ops.elementwise import Cast, Elementwise
from vtc.ir.types import Array, DType, TensorType
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import DeviceArray

KEPT = 4096
"""Kinds of calls that are remembered."""
NUMBERS = 256
"""Numbers that each of them has at hand: a schedule has another at each step."""
_NUMBERS = (bool, int, float)


def shortcut(op: Elementwise, *values: Any) -> Tensor | None:
    """``op`` on ``values``, if that is known; see the module."""
    if state.capture is not None or state.autocast is not None:
        return None
    grad, grows = state.grad, False
    what: object = op.__class__
    if what in _WITH_ATTRIBUTES:
        what = op.dtype if isinstance(op, Cast) else op
    key: list[Any] = [what, process.dtype]
    given: list[Any] = []
    for v in values:
        if v.__class__ is Tensor:
            array = v._array
            if array is None:
                return None
            grows = grows or (grad and _grows(v))
            known = v._known
            if known is None or known[0] is not array:
                known = know(v)
            key.append(known[3])
            given.append(known[2])
        else:
            key.append(v.__class__)
            given.append(v)
    found = _known.get(tuple(key), _UNKNOWN)
    if found is _UNKNOWN or found is _MET:
        _meet(tuple(key), op, values, again=found is _MET)
        return None
    return None if found is None else _run(found, values, given, grows)


def _run(found: _Known, values: Sequence[Any], given: list[Any], grows: bool) -> Tensor | None:
    if grows and (running.segment is not None or running.body is not None):
        return None  # which count the steps of the stack
    try:
        return found.run(values, given, grows)
    except MemoryError:
        return None  # the stack says what there is no room for


def _grows(x: Tensor) -> bool:
    """Whether gradients flow to ``x``."""
    if x._requires or x._record is not None:
        return True
    return x._link is not None and x.requires_grad


@final
class _Cells:
    """Numbers as 0-d arrays of a dtype."""

    __slots__ = ("_dtype", "_made")

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._made: dict[Any, Array] = {}

    def of(self, value: Any) -> Array:
        """The array of ``value``, which is not to be written to."""
        key = value if value and value == value else repr(value)
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= NUMBERS:
                self._made.clear()
            found = self._made[key] = _array_of(value, self._dtype)
        return found


@final
class _There:
    """A call on a GPU."""

    __slots__ = ("_cells", "_device", "_flows", "_kind", "_op", "_ready")

    def __init__(self, op: Elementwise, ready: eager.Ready, dtype: DType, kind: Kind) -> None:
        self._op, self._ready, self._cells = op, ready, _Cells(dtype)
        self._device, self._kind, self._flows = kind.device, kind, kind.dtype.kind in "fcV"

    def run(self, values: Sequence[Any], given: list[Any], grows: bool) -> Tensor | None:
        """The result; None where an operand must be copied."""
        made = self._ready.run(given)
        if made is None:
            return None
        x = Tensor()
        x._array, x._storage = made[0], Storage(self._device)
        x._known = made[0], False, made[1], self._kind
        if grows and self._flows:
            arrays = [None if v.__class__ is Tensor else self._cells.of(v) for v in values]
            dispatch.autograd().spread(self._op, values, arrays, x)
        return x


@final
class _Here:
    """A call on the CPU: the op's reference, which broadcasts as NumPy does."""

    __slots__ = ("_cells", "_flows", "_kind", "_number", "_op")

    def __init__(self, op: Elementwise, dtype: DType, number: int | None, kind: Kind) -> None:
        self._op, self._cells, self._number, self._kind = op, _Cells(dtype), number, kind
        self._flows = kind.dtype.kind in "fc"

    def run(self, values: Sequence[Any], given: list[Any], grows: bool) -> Tensor | None:
        """The result; None where it is not what the stack would give."""
        kind, number = self._kind, self._number
        arrays = [self._cells.of(v) if k == number else v._array for k, v in enumerate(values)]
        with np.errstate(all="ignore"):
            out = self._op.reference(*arrays)
        if (
            out.__class__ is not np.ndarray
            or out.shape != kind.shape
            or out.dtype != kind.dtype
            or out.base is not None
            or not out.flags.carray
            or any([out is a for a in arrays])
        ):
            return None
        x = Tensor()
        x._array, x._storage = out, Storage(CPU)
        x._known = out, False, address(out), kind
        if grows and self._flows:
            dispatch.autograd().spread(self._op, values, arrays, x)
        return x


@final
class _Cast:
    """A call whose operands are cast to ``dtype`` first."""

    __slots__ = ("_dtype", "_op")

    def __init__(self, op: Elementwise, dtype: DType) -> None:
        self._op, self._dtype = op, dtype

    def run(self, values: Sequence[Any], given: list[Any], grows: bool) -> Tensor | None:
        """The result; None where the call on the cast operands is not known."""
        del given, grows
        return shortcut(self._op, *[self._cast(v) for v in values])

    def _cast(self, value: Any) -> Any:
        return cast(value, self._dtype) if type(value) is Tensor else value


_Known = _There | _Here | _Cast


def _meet(key: tuple[Any, ...], op: Elementwise, values: Sequence[Any], *, again: bool) -> None:
    """Remember a kind of call: at first only that it was met, since most shapes come once."""
    if len(_known) >= KEPT:
        _known.clear()
    _known[key] = _found(op, values) if again else _MET


def _found(op: Elementwise, values: Sequence[Any]) -> _Known | None:
    """How to call ``op`` on operands like ``values``; None where the stack must look."""
    tensors = [v for v in values if type(v) is Tensor]
    numbers = [k for k, v in enumerate(values) if type(v) in _NUMBERS]
    if len(values) != op.arity or len(numbers) > 1:
        return None
    if not tensors or len(tensors) + len(numbers) != len(values) or any(x._weak for x in tensors):
        return None
    device = tensors[0].device
    try:
        dtype = result_type(*values)
        dtype = floating(dtype) if op.promotion == "float" else dtype
        shape = common_shape(op.name, [x.type for x in tensors])
        out = op.infer(*[TensorType(dtype, shape)] * len(values))
    except VtcError:
        return None
    if any(x.device != device for x in tensors):
        return None
    if any(x.dtype is not dtype for x in tensors):
        return None if dtype.kind == "complex" else _Cast(op, dtype)
    kind = kind_of(out.shape, out.dtype.numpy, False, False, device, True, True)
    at = numbers[0] if numbers else None
    if device is CPU:
        # Their references compute in a wider type, and are rounded.
        rounds = any(d.kind == "float" and d.itemsize < 4 for d in (dtype, out.dtype))
        return None if rounds or _is_cast(op) else _Here(op, dtype, at, kind)
    return _there(op, values, at, dtype, kind)


def _is_cast(op: Elementwise) -> bool:
    return isinstance(op, Cast) and op.dtype.kind == "float"


def _there(
    op: Elementwise, values: Sequence[Any], at: int | None, dtype: DType, kind: Kind
) -> _There | None:
    arrays = [_repeated(v, dtype, kind.shape) for v in values]
    if not all(v._known[3].dense for v in values if type(v) is Tensor):
        return None
    try:
        single = eager.ready(op, arrays, kind.device)
    except CodegenError:
        return None
    if single is None:
        return None
    ready = eager.Ready(single, kind.device, at, lambda v: _array_of(v, dtype))
    return _There(op, ready, dtype, kind)


def _repeated(value: Any, dtype: DType, shape: tuple[int, ...]) -> Array:
    """An operand as elementwise ops take it."""
    array = array_of(value) if type(value) is Tensor else _array_of(value, dtype)
    if isinstance(array, DeviceArray) and array.shape == shape:
        return array
    return np.broadcast_to(array, shape)


def _array_of(value: Any, dtype: DType) -> Array:
    """A number as a 0-d array."""
    return array_of(number(value, dtype))


_WITH_ATTRIBUTES = frozenset(
    [o for o in REGISTRY.values() if issubclass(o, Elementwise) and fields(o)]
)
_UNKNOWN = object()
_MET = object()
_known: dict[tuple[Any, ...], Any] = {}
dispatch.register_shortcut(shortcut)
