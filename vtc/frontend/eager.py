"""Eager ops on a GPU. Views launch nothing; every other op is a program of its own.

    run(Add(), (x, y), device)       # an array on the device
    assign(x, value)                 # x's elements become value's, through any strides
    stats().eager_compiles           # programs built so far

Programs serve all sizes (:mod:`~vtc.frontend.single`), so a loop over new shapes soon builds no
more. Operands that are not dense are copied first. Arrays on the host among the operands are
numbers (0-d tensors, repeated), which go along with the call. An op that has no kernel runs on the
host, which is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from vtc.build import Built, compile_program, context_for, say_once, strided_copy
from vtc.errors import CodegenError, PassError, TypeCheckError, VerifyError
from vtc.frontend import devices
from vtc.frontend.dispatch import deterministic
from vtc.frontend.single import Fit, Form, Layout, order_of, program, static, steps, symbolic
from vtc.ir.evaluate import compute
from vtc.ir.op import Op
from vtc.ir.ops.bitcast import Bitcast
from vtc.ir.ops.control import Checkpoint, StopGradient
from vtc.ir.ops.fill import Full
from vtc.ir.ops.pullback import Pullback
from vtc.ir.ops.strided import Strided
from vtc.ir.ops.view import Reshape, View, ints
from vtc.ir.types import Array, TensorType, TupleType, Type, converted, dtype_of
from vtc.runtime.buffer import address
from vtc.runtime.cuda import copies
from vtc.runtime.cuda.array import DeviceArray, empty, index_of, reshaped, strided
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.driver import driver
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.cuda.single import Single
from vtc.runtime.cuda.steps import ALIGNMENT
from vtc.runtime.device import Device

KEPT = 4096
"""Calls whose programs are remembered, and numbers that are kept on a device."""

_MISALIGNED = ALIGNMENT - 1
Call = Callable[[Sequence[Array]], Any]


@final
@dataclass(slots=True)
class Stats:
    """What eager code on GPUs did: ops called, programs built for them, ops the host ran."""

    eager_calls: int = 0
    eager_compiles: int = 0
    eager_on_host: int = 0


def stats() -> Stats:
    """What eager code on GPUs did so far."""
    return replace(_stats)


def run(op: Op, arrays: Sequence[Array], device: Device) -> Any:
    """The result of ``op`` (several as a tuple) in fresh memory of ``device``."""
    _stats.eager_calls += 1
    key = op, gpu(devices.index(device)), deterministic(), *map(_facts, arrays)
    call = _calls.get(key)
    if call is None:
        if len(_calls) >= KEPT:
            _calls.clear()
        call = _calls[key] = _prepared(op, arrays, device)
    return call(arrays)


def pulled(op: Pullback, arrays: Sequence[Array], device: Device) -> Sequence[Array] | None:
    """What a gradient rule computes, in fresh memory of ``device``; None where that is no program
    for all sizes.
    """
    key = op, gpu(devices.index(device)), deterministic(), *map(_facts, arrays)
    call = _calls.get(key, _UNKNOWN)
    if call is _UNKNOWN:
        if len(_calls) >= KEPT:
            _calls.clear()
        call = _calls[key] = _pulling(op, arrays, device)
    if call is None:
        return None
    _stats.eager_calls += 1
    found: Sequence[Array] = call(arrays)
    return found


@final
class Ready:
    """An op on arrays of one device and of known shapes, at hand: one launch.

    ``numbers`` are the operands that are Python numbers; ``of`` makes host arrays of them.
    """

    __slots__ = ("_call", "_cells", "_driver", "_gpu", "_number", "_of", "device")

    def __init__(
        self, single: Single, device: Device, number: int | None, of: Callable[[Any], Array]
    ) -> None:
        self.device = device
        self._gpu = gpu(devices.index(device))
        self._driver, self._call = self._gpu.driver, single.call
        self._number, self._of = number, of
        self._cells: dict[Any, tuple[int, DeviceArray]] = {}

    def run(self, given: list[Any]) -> tuple[Array, int] | None:
        """The result and its address; ``given`` are addresses, and numbers. None where it takes a
        closer look.
        """
        if self._driver is not driver():
            return None
        number = self._number
        if number is not None:
            given[number] = self._place(given[number])
        for place in given:
            if place & _MISALIGNED:
                return None
        _stats.eager_calls += 1
        return self._call(*given)

    def _place(self, value: Any) -> int:
        """Where ``value`` lies on the device, for the current stream."""
        # Zeros of both signs are equal, and NaN is not; each has its own bits.
        key = self._gpu.here.current, value if value and value == value else repr(value)
        found = self._cells.get(key)
        if found is None:
            if len(self._cells) >= KEPT:
                self._cells.clear()
            number = number_on(self._of(value), self.device)
            found = self._cells[key] = address(number), number
        return found[0]


def ready(op: Op, arrays: Sequence[Array], device: Device) -> Single | None:
    """``op`` on dense arrays of these shapes (host arrays are numbers) as one launch, if it is."""
    type = op.infer(*map(TensorType.of, arrays))
    if isinstance(type, TupleType):
        return None
    fit, built = _fitting(op, [_layout(a) for a in arrays], device)
    if fit.hidden or not isinstance(built.executable, CudaExecutable):
        return None
    given = [_place(a, s)(a) for a, s in zip(arrays, fit.shapes, strict=True)]
    return built.executable.single(given, ints(type.shape))


def shown(op: Op, array: Array) -> Array | None:
    """The view ``op`` of ``array``; None where the elements would have to move."""
    if isinstance(op, Reshape):
        return reshaped(_device(array), ints(op.shape))
    if isinstance(op, Strided):
        cut = op.cut(array)
        return strided(_device(cut), *op.layout(cut))
    if isinstance(op, Bitcast) and not op.shows(array):
        return None
    found: Array = op.reference(array)
    return found


def writeable(array: Array) -> Array:
    """``array``, on a GPU, as it may be written: a part of a repeated one is read-only."""
    return strided(_device(array), array.shape, array.strides)


def copied(array: Array) -> Array:
    """A dense copy in the same memory."""
    return copies.clone(array) if isinstance(array, DeviceArray) else array.copy()


def assign(target: Array, source: Array) -> None:
    """Make the elements of ``target``, on a GPU, those of ``source``, of its shape and dtype.

    A ``source`` on the host is a number that is repeated.
    """
    target = _device(target)
    if not isinstance(source, DeviceArray):
        _fill(target, source)
        return
    if np.may_share_memory(target, source) and not _same(target, source):
        source = copies.clone(source)
    copies.write(target, source)


def _fill(target: DeviceArray, number: Array) -> None:
    """Set all elements to the one that ``number`` repeats."""
    if not target.size:
        return
    pattern = set(_one(number).tobytes())
    if len(pattern) == 1 and target.flags.c_contiguous:
        copies.fill_bytes(target, pattern.pop())
    else:
        copies.write(target, number_on(number, devices.home(target)))


def _one(number: Array) -> Array:
    """The element that a host array repeats, 0-d; any number, if it repeats it never."""
    if not number.size:
        return np.zeros((), number.dtype)
    return number[(0,) * number.ndim + (...,)]


def _strided(target: DeviceArray, source: DeviceArray) -> None:
    """The hook of :mod:`vtc.runtime.cuda.copies`; by way of the host where there is no kernel."""
    try:
        strided_copy(index_of(target))(target, source)
    except CodegenError as error:
        say_once(str(error), "the cpu", "copies with strides")
        copies.strided = None
        copies.write(target, source)


def _same(a: Array, b: Array) -> bool:
    return address(a) == address(b) and a.strides == b.strides


def _device(array: Array) -> DeviceArray:
    assert isinstance(array, DeviceArray)
    return array


def _moved(op: Op, array: Array, device: Device) -> Array:
    """A view's elements in memory of their own."""
    if not isinstance(array, DeviceArray):
        array = devices.moved(np.ascontiguousarray(array), device)
    found = shown(op, array)
    if found is None:
        found = shown(op, copied(array))
        assert found is not None
        return found
    return copied(found)


def _shaped(array: Array, type: TensorType) -> Array:
    shape = ints(type.shape)
    if array.shape == shape:
        return array
    found = reshaped(_device(array), shape)
    assert found is not None
    return found


# numbers


def _filled(op: Full, device: Device) -> Array:
    out = empty(ints(op.shape), op.dtype.numpy, devices.index(device))
    if out.size:
        _fill(out, converted(op.reference(), op.dtype.numpy))
    return out


def number_on(array: Array, device: Device) -> DeviceArray:
    """The one element of a host array on the device, shown in the array's shape."""
    one = _one(array)
    here = gpu(devices.index(device))
    key = one.tobytes(), one.dtype, device, here.stream, here.allocator
    found = _numbers.get(key)
    if found is None:
        if len(_numbers) >= KEPT:
            _numbers.clear()
        found = _numbers[key] = _device(devices.moved(one, device))
    return strided(found, array.shape, (0,) * array.ndim)


# programs


def _facts(array: Array) -> Any:
    if isinstance(array, DeviceArray):
        return array.shape, array.strides, array.dtype
    return array.shape, array.dtype


def _prepared(op: Op, arrays: Sequence[Array], device: Device) -> Call:
    """How to call ``op`` on arrays like ``arrays``."""
    type = op.infer(*map(TensorType.of, arrays))
    if isinstance(op, Full):
        return lambda given: _filled(op, device)
    if isinstance(op, (View, StopGradient, Checkpoint)):
        return lambda given: _moved(op, given[0], device)
    fit, built = _fitting(op, [_layout(a) for a in arrays], device)
    if built.fallback:
        return lambda given: _on_host(op, given, device)
    return _calling(fit, built, type, arrays, device)


def _pulling(op: Pullback, arrays: Sequence[Array], device: Device) -> Call | None:
    fit = symbolic(op, [_layout(a) for a in arrays])
    try:
        built = _built(fit.form, device)
    except (CodegenError, TypeCheckError, VerifyError, PassError):
        return None
    if built.fallback:
        return None
    type = op.infer(*map(TensorType.of, arrays))
    if len(type.items) > 1:
        return _calling(fit, built, type, arrays, device)
    call = _calling(fit, built, type.items[0], arrays, device)
    return lambda given: (call(given),)


def _calling(fit: Fit, built: Built, type: Type, arrays: Sequence[Array], device: Device) -> Call:
    """How to call ``built`` on arrays like ``arrays``, for results of ``type``."""
    hidden = [empty((0, n), np.dtype(np.uint8), devices.index(device)) for n in fit.hidden]
    places = [_place(a, s) for a, s in zip(arrays, fit.shapes, strict=True)]
    inputs = [*(p(a) for p, a in zip(places, arrays, strict=True)), *hidden]
    if isinstance(type, TensorType):
        found = _launched(built, inputs, type, places, device)
        if found is not None:
            return found
    launch = _launching(built, inputs)

    def call(given: Sequence[Array]) -> Any:
        outputs = launch([*[p(a) for p, a in zip(places, given, strict=True)], *hidden])
        if isinstance(type, TupleType):
            return tuple([_shaped(o, t) for o, t in zip(outputs, type.items, strict=True)])
        assert isinstance(type, TensorType)
        return _shaped(outputs[0], type)

    return call


def _launched(
    built: Built,
    inputs: Sequence[Array],
    type: TensorType,
    places: Sequence[Callable[[Array], Array]],
    device: Device,
) -> Call | None:
    """What runs a program of one launch; None for others. ``inputs`` that no operand gives stay."""
    executable = built.executable
    if not isinstance(executable, CudaExecutable):
        return None
    single = executable.single(inputs, ints(type.shape))
    if single is None:
        return None
    made, stay = single.call, list(inputs[len(places) :])
    fixed = [address(a) for a in stay]

    def call(given: Sequence[Array]) -> Array:
        dense = [p(a) for p, a in zip(places, given, strict=True)]
        there = [a if isinstance(a, DeviceArray) else number_on(a, device) for a in dense]
        found = [*map(address, there), *fixed]
        if any([place & _MISALIGNED for place in found]):
            return _shaped(built.run([*dense, *stay])[0], type)
        try:
            return made(*found)[0]
        except MemoryError as error:
            raise built.out_of_memory([*dense, *stay], error) from error

    return call


def _launching(built: Built, inputs: Sequence[Array]) -> Callable[[Sequence[Array]], list[Array]]:
    """What runs a program on dense arrays like ``inputs``: floats on the host go as numbers."""
    numbers = [p for p, a in enumerate(inputs) if not isinstance(a, DeviceArray)]
    varying = [p for p, a in enumerate(inputs) if isinstance(a, DeviceArray)]
    executable, bound = built.executable, None
    if isinstance(executable, CudaExecutable) and all(inputs[p].dtype.kind == "f" for p in numbers):
        bound = executable.bind(inputs, {p: k for k, p in enumerate(varying)}, numbers)
    if bound is None:
        return built.run
    known = bound

    def launch(given: Sequence[Array]) -> list[Array]:
        places = [address(given[p]) for p in varying]
        return [a for a, _ in known.run(places, [given[p].item() for p in numbers])]

    return launch


def _layout(array: Array) -> Layout:
    dtype = dtype_of(array.dtype)
    if not isinstance(array, DeviceArray):
        return Layout(dtype, array.shape, ())
    order = order_of(array.shape, array.strides, array.itemsize)
    return Layout(dtype, array.shape, steps(array.shape, array.strides) if order is None else order)


def _place(array: Array, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """How an operand like ``array`` becomes a dense array of ``shape``, in memory order."""
    if not isinstance(array, DeviceArray):
        return _one
    if array.shape == shape and array.flags.c_contiguous:
        return lambda a: _device(a)
    across = [0] * len(shape)
    step = array.itemsize
    for k in reversed(range(len(shape))):
        across[k], step = step, step * shape[k]
    if order_of(array.shape, array.strides, array.itemsize) is not None:
        return lambda a: strided(_device(a), shape, across)
    live = steps(array.shape, array.strides)
    core = tuple(slice(None) if k in live else 0 for k in range(array.ndim))
    return lambda a: strided(_device(copied(a[core])), shape, across)


def _fitting(op: Op, layouts: Sequence[Layout], device: Device) -> tuple[Fit, Built]:
    """The program for all sizes, or for these where the op does not allow that."""
    fit = symbolic(op, layouts)
    try:
        return fit, _built(fit.form, device)
    except (TypeCheckError, VerifyError, PassError):
        fit = static(op, layouts)
        return fit, _built(fit.form, device)


def _built(form: Form, device: Device) -> Built:
    """What runs ``form``."""
    key = form, device, gpu(devices.index(device)), deterministic()
    if key not in _programs:
        context = context_for(device, deterministic=deterministic())
        _programs[key] = compile_program(program(form), context, device, graphs=False)
        _stats.eager_compiles += 1
    return _programs[key]


def _on_host(op: Op, arrays: Sequence[Array], device: Device) -> Any:
    """Copies there and back; the build said why."""
    _stats.eager_on_host += 1
    given = [devices.host(a) for a in arrays]
    out = compute(op, given, op.infer(*map(TensorType.of, given)))
    if isinstance(out, tuple):
        return tuple([devices.moved(np.array(o, order="C"), device) for o in out])
    return devices.moved(np.array(out, order="C"), device)


copies.strided = _strided
_stats = Stats()
_numbers: dict[Any, DeviceArray] = {}
_calls: dict[Any, Any] = {}
_UNKNOWN = object()
_programs: dict[Any, Built] = {}
