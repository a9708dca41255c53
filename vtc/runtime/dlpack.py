"""DLPack: memory of other libraries as arrays, and arrays as memory for them; nothing is copied.

    x = taken(torch.ones(4, dtype=torch.bfloat16))     # a NumPy array over PyTorch's memory
    y = given(array, stream)                           # a capsule, as ``__dlpack__`` returns it

NumPy's own DLPack knows no bf16, no fp8 and no GPU, and takes what does not say that it is writable
for read-only. Memory of a GPU becomes a :class:`~vtc.runtime.cuda.array.DeviceArray`.
"""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Callable
from math import prod
from typing import Any, Final, final

import numpy as np

from vtc.errors import ArgumentError
from vtc.ir import types
from vtc.ir.types import Array, DType, dtype_of
from vtc.runtime.anywhere import arrays, devices, is_device
from vtc.runtime.buffer import address

CPU: Final = 1
CUDA: Final = 2
_PINNED: Final = 3
_MANAGED: Final = 13
_READ_ONLY: Final = 1
_DEFAULT: Final = 1
"""How DLPack writes CUDA's default stream."""
_VERSION: Final = (1, 1)
_CODES: Final[dict[tuple[int, int], DType]] = {
    (0, 8): types.i8,
    (0, 16): types.i16,
    (0, 32): types.i32,
    (0, 64): types.i64,
    (1, 8): types.u8,
    (2, 16): types.f16,
    (2, 32): types.f32,
    (2, 64): types.f64,
    (4, 16): types.bf16,
    (5, 64): types.c64,
    (5, 128): types.c128,
    (6, 8): types.bool_,
    (10, 8): types.f8e4m3,
    (12, 8): types.f8e5m2,
}
_CODE_OF = {dtype: code for code, dtype in _CODES.items()}


@final
class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@final
class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


@final
class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_KINDS: Final[dict[bytes, Any]] = {b"dltensor_versioned": _Versioned, b"dltensor": _Managed}
_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)
_USED = {name: b"used_" + name for name in _KINDS}  # a capsule keeps the pointer to its name


def taken(producer: Any) -> Array:
    """The memory of ``producer``, which has ``__dlpack__``, as an array of its device.

    ArgumentError for a dtype or a device that vtc does not know.
    """
    kind, index = producer.__dlpack_device__()
    kind = int(kind)
    if kind not in (CPU, CUDA, _PINNED, _MANAGED):
        raise ArgumentError(
            f"dlpack: expected memory of the cpu or of CUDA, got device type {kind}"
        )
    on_gpu = kind in (CUDA, _MANAGED)
    stream = {"stream": devices.gpu(int(index)).stream or _DEFAULT} if on_gpu else {}
    try:
        capsule = producer.__dlpack__(**stream, max_version=_VERSION)
    except TypeError:  # from before DLPack had versions
        capsule = producer.__dlpack__(**stream)
    owner = _Owner(capsule)
    return _on_device(owner, int(index)) if on_gpu else _on_host(owner)


def given(array: Array, stream: int | None = None, *, versioned: bool = True) -> object:
    """A capsule with the memory of ``array``, for a reader that works on ``stream`` of its device.

    ``stream`` is written as DLPack does: 1 is the default one, -1 and None ask for no waiting.
    """
    if is_device(array):
        _hand_over(array, stream)
    name = b"dltensor_versioned" if versioned else b"dltensor"
    managed = _KINDS[name]()
    if versioned:
        managed.major, managed.minor = _VERSION
        managed.flags = 0 if array.flags.writeable else _READ_ONLY
    elif not array.flags.writeable:
        raise BufferError("dlpack: expected an array that may be written, got a read-only one")
    axes = ctypes.c_int64 * max(array.ndim, 1)
    shape = axes(*array.shape)
    strides = axes(*[s // array.itemsize for s in array.strides])
    _describe(managed.tensor, array, shape, strides)
    managed.deleter = _RELEASE
    place = ctypes.addressof(managed)
    _GIVEN[place] = (managed, array, shape, strides)
    capsule: object = _api.PyCapsule_New(place, name, ctypes.cast(_UNUSED, ctypes.c_void_p))
    return capsule


def shared(
    array: Array,
    stream: int | None,
    max_version: tuple[int, int] | None,
    dl_device: tuple[int, int] | None,
    copy: bool | None,
) -> object:
    """What ``__dlpack__`` returns; BufferError where it is asked for a copy."""
    if copy or (dl_device is not None and tuple(dl_device) != device_pair(array)):
        raise BufferError("dlpack: expected to share the memory, got asked for a copy")
    return given(array, stream, versioned=max_version is not None and max_version[0] >= 1)


def device_pair(array: Array) -> tuple[int, int]:
    """What ``__dlpack_device__`` returns."""
    return (CUDA, arrays.index_of(array)) if is_device(array) else (CPU, 0)


# taking


@final
class _Owner:
    """Memory that is held for as long as this lives."""

    def __init__(self, capsule: object) -> None:
        self._managed: Any = None
        for name, kind in _KINDS.items():
            if _api.PyCapsule_IsValid(capsule, name):
                place = _api.PyCapsule_GetPointer(capsule, name)
                self._managed = kind.from_address(place)
                _api.PyCapsule_SetName(capsule, _USED[name])
                break
        else:
            raise ArgumentError(f"dlpack: expected a capsule with a tensor, got {capsule!r}")
        self.tensor: _Tensor = self._managed.tensor
        t = self.tensor
        self.shape = tuple(t.shape[: t.ndim]) if t.ndim else ()
        self.dtype = self._dtype()
        self.strides = self._strides()
        self.address = (t.data or 0) + t.byte_offset
        self.read_only = bool(getattr(self._managed, "flags", 0) & _READ_ONLY)

    def __del__(self, place: Callable[[Any], int] = ctypes.addressof) -> None:
        managed = getattr(self, "_managed", None)
        if managed is not None and managed.deleter:
            managed.deleter(place(managed))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Where NumPy finds the bytes of a tensor on the host."""
        return {
            "version": 3,
            "typestr": f"|V{self.dtype.itemsize}",
            "shape": self.shape,
            "strides": self.strides,
            "data": (self.address, self.read_only),
        }

    def _dtype(self) -> DType:
        t = self.tensor
        found = _CODES.get((t.code, t.bits)) if t.lanes == 1 else None
        if found is None:
            got = f"code {t.code}, {t.bits} bits, {t.lanes} lanes"
            raise ArgumentError(f"dlpack: expected a dtype that vtc has, got {got}")
        return found

    def _strides(self) -> tuple[int, ...]:
        size, t = self.dtype.itemsize, self.tensor
        if t.strides:
            return tuple([s * size for s in t.strides[: t.ndim]])
        return tuple([size * prod(self.shape[k + 1 :]) for k in range(t.ndim)])


def _on_host(owner: _Owner) -> Array:
    if not prod(owner.shape):
        return np.empty(owner.shape, owner.dtype.numpy)
    return np.asarray(owner).view(owner.dtype.numpy)


def _on_device(owner: _Owner, device: int) -> Array:
    reach = [(n - 1) * s for n, s in zip(owner.shape, owner.strides, strict=True)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    size = high - low + owner.dtype.itemsize if prod(owner.shape) else 1
    lease = arrays.foreign(owner, owner.address + low, size, device)
    array = np.ndarray.__new__(
        arrays.DeviceArray, owner.shape, owner.dtype.numpy, lease, -low, owner.strides
    )
    if owner.read_only:
        array.flags.writeable = False
    return array


# giving


_GIVEN: dict[int, Any] = {}
"""What others use now, by the address of its description."""


def _describe(tensor: _Tensor, array: Array, shape: Any, strides: Any) -> None:
    code = _CODE_OF[dtype_of(array.dtype)]
    tensor.data, tensor.byte_offset = address(array), 0
    tensor.device_type, tensor.device_id = device_pair(array)
    tensor.ndim, (tensor.code, tensor.bits), tensor.lanes = array.ndim, code, 1
    tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))


def _hand_over(array: Array, stream: int | None) -> None:
    """Let the reader's stream wait for what the current one has."""
    if stream is None or stream == -1:
        return
    here = devices.gpu(arrays.root(array).place)
    theirs = 0 if stream == _DEFAULT else stream
    if theirs == here.stream:
        return
    event = here.driver.event(here.index, timing=False)
    here.driver.record(here.index, event, here.stream)
    here.driver.wait_event(here.index, theirs, event)
    here.driver.destroy_event(here.index, event)
    arrays.root(array).used_by(theirs)


def _release(place: int) -> None:
    _GIVEN.pop(place, None)


def _unused(capsule: int) -> None:
    """A capsule dies; nobody took its memory if its name is still the first one."""
    for name in _KINDS:
        if _valid(capsule, name):
            _GIVEN.pop(_pointer(capsule, name), None)


_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_RELEASE = _Deleter(_release)
_UNUSED = _Deleter(_unused)


def _at_exit() -> None:
    """Others may keep what they were given until after Python has taken this module apart: then
    there must be nothing left to call, and the memory must still be there.
    """
    for managed, *_ in _GIVEN.values():
        managed.deleter = _Deleter()
    for kept in (_GIVEN, _RELEASE, _UNUSED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


atexit.register(_at_exit)
