"""Concrete tensors at work: what runs when nothing is traced.

On the CPU an op is its reference under NumPy; on a GPU it is a program of its own
(:mod:`~vtc.frontend.eager`). Views are NumPy's on both. An op takes tensors of one device, but
0-d tensors on the CPU go with any::

    x.cuda() + vtc.tensor(2.0)        # on the GPU
    x.cuda() + vtc.zeros(3)           # DeviceError
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from vtc.errors import TypeCheckError
from vtc.frontend import devices, dispatch, eager
from vtc.frontend.dispatch import Rest, Result, state
from vtc.frontend.layout import refuse_repeated, repeats
from vtc.frontend.source import located
from vtc.frontend.tensor import CPU, Tensor, array_of, concrete_tensor
from vtc.ir.evaluate import compute, inferred
from vtc.ir.op import Op
from vtc.ir.types import Array, TensorType
from vtc.runtime.device import Device


def _run(op: Op, inputs: tuple[Tensor, ...], rest: Rest) -> Result:
    """The backend rule."""
    del rest
    device = dispatch.common_device(op, inputs)
    arrays = [array_of(x) for x in inputs]
    return _result(_run_numpy(op, arrays) if device is CPU else eager.run(op, arrays, device))


def _result(out: Any) -> Result:
    return tuple(map(concrete_tensor, out)) if isinstance(out, tuple) else concrete_tensor(out)


def _run_numpy(op: Op, arrays: Sequence[Array]) -> Any:
    type = inferred(op, *map(TensorType.of, arrays))
    out = compute(op, arrays, type)
    if isinstance(out, tuple):
        return tuple([own(o, arrays) for o in out])
    return own(out, arrays)


def own(out: Array, arrays: Sequence[Array]) -> Array:
    """A result never shares memory with an input by accident, nor is it a read-only broadcast."""
    if not out.flags.writeable or (
        out.base is not None and any(np.may_share_memory(out, a) for a in arrays)
    ):
        return out.copy()
    return out if not any(out is a for a in arrays) else out.copy()


class _Concrete:
    """What dispatch asks of concrete tensors; traced ones are the capture's."""

    def from_array(self, array: Array, *, device: Device | None, requires_grad: bool) -> Tensor:
        if device is not None:
            array = devices.moved(array, device)
        x = concrete_tensor(array.view())  # nobody can change its shape in place
        x._requires = requires_grad
        if state.capture is not None:
            state.capture.born(x)
        return x

    def create(self, op: Op, device: Device) -> Tensor:
        if state.capture is not None:
            traced: Tensor = state.capture.create(op, device)
            return traced
        if device is CPU:
            return dispatch.apply(op)
        return concrete_tensor(eager.run(op, (), device))

    def move(self, x: Tensor, device: Device, *, non_blocking: bool) -> Tensor:
        if state.capture is not None and not _constant(x):
            traced: Tensor = state.capture.move(x, device)
            return traced
        y = concrete_tensor(devices.moved(array_of(x), device, non_blocking=non_blocking))
        if state.capture is not None:
            state.capture.born(y)
            return y
        dispatch.autograd().moved(x, y)
        return y

    def view(self, op: Op, x: Tensor) -> Tensor:
        if state.capture is not None:
            traced: Tensor = state.capture.view(op, x)
            return traced
        array = array_of(x)
        out = _shown(op, array) if x.device is CPU else eager.shown(op, array)
        if out is None:
            return dispatch.apply(op, x)
        if not (out.flags.writeable or repeats(out)):
            out = _writeable(out, x)
        y = concrete_tensor(out, x._storage)
        y._link = (x, op)
        dispatch.autograd().viewed(y)
        return y

    def write(self, x: Tensor, value: Tensor) -> Tensor:
        if value.type != x.type:
            raise TypeCheckError(f"in-place write: expected {x.type}, got {value.type}")
        if state.capture is not None:
            refuse_repeated(x)
            state.capture.write(x, value)
            return x
        dispatch.autograd().written(x, value)
        array = array_of(x)
        if not array.flags.writeable:
            refuse_repeated(x)
            message = "in-place write: expected memory that may be written, got a read-only array"
            raise located(TypeCheckError, message)
        if dispatch.common_device("in-place write", (x, value)) is CPU:
            array[...] = array_of(value)
        else:
            eager.assign(array, array_of(value))
        if x._storage is not None:
            x._storage.version += 1
        return x


def _shown(op: Op, array: Array) -> Array | None:
    """The view ``op`` of ``array`` on the host; None where the elements would have to move."""
    inferred(op, TensorType.of(array))  # or it cannot be taken
    out = op.reference(array)
    if not isinstance(out, np.ndarray):
        raise TypeCheckError(f"{op.name}: not a view")
    return out if np.may_share_memory(out, array) or not out.size else None


def _writeable(out: Array, x: Tensor) -> Array:
    """``out``, a part of the view ``x`` that shows nothing twice, as its base may be written.

    NumPy's repeated arrays are read-only, and so are parts of them.
    """
    root = x
    while root._link is not None:
        root = root._link[0]
    whole = array_of(root)
    if not whole.flags.writeable:
        return out
    if x.device is not CPU:
        return eager.writeable(out)
    return np.asarray(_Part(out, whole)).view(out.dtype)


@final
class _Part:
    """The memory of ``part``, which is some of that of ``whole``."""

    def __init__(self, part: Array, whole: Array) -> None:
        seen = part.__array_interface__
        bits = {"typestr": f"|V{part.itemsize}", "descr": [("", f"|V{part.itemsize}")]}
        data = (seen["data"][0], False)
        self.__array_interface__ = {**seen, **bits, "data": data, "strides": part.strides}
        self.whole = whole


def _constant(x: Tensor) -> bool:
    """Whether ``x`` was made during the trace, of numbers, and nothing was done with it yet."""
    made, met = state.capture.born_here, state.capture.cells
    return id(x) in made and id(x._storage) not in met and not x._requires


dispatch.register("backend", _run)
dispatch.register_storages(_Concrete())
