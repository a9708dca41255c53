"""Arrays of callers, of whichever library, and results for them.

    incoming(torch_tensor, "x")            # a NumPy array, or a DeviceArray, over the same memory
    outgoing(device_array)                 # a GpuArray: torch.from_dlpack takes it

Nothing is copied, so what a program writes into an argument arrives in the caller's memory.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

from vtc.errors import ArgumentError, VtcError
from vtc.ir.types import Array, TensorType, dtype_of
from vtc.runtime.anywhere import arrays, copies, device_of, devices, is_device
from vtc.runtime.buffer import address
from vtc.runtime.device import Device
from vtc.runtime.dlpack import CPU, device_pair, shared, taken


@final
class GpuArray:
    """An array on a GPU: DLPack hands its memory to other libraries, ``numpy()`` copies it."""

    __slots__ = ("__weakref__", "array")

    def __init__(self, array: arrays.DeviceArray) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of its elements."""
        return self.array.dtype

    @property
    def device(self) -> Device:
        """Where it is."""
        return device_of(self.array)

    def numpy(self) -> Array:
        """A copy on the host; waits for the work that makes the array."""
        return copies.to_host(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("expected an array on the host, got one on a GPU: it must be copied")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        return shared(self.array, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return device_pair(self.array)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What Numba and others read; not for dtypes that NumPy does not have itself."""
        if self.dtype.kind == "V" or self.dtype.num >= 256:
            raise AttributeError(f"__cuda_array_interface__: expected a dtype of NumPy, got {self}")
        return {
            "version": 3,
            "shape": self.shape,
            "strides": self.array.strides,
            "typestr": self.dtype.str,
            "data": (address(self.array), not self.array.flags.writeable),
            "stream": devices.gpu(self.device.index or 0).stream or 1,
        }

    def __len__(self) -> int:
        return len(self.array)

    def __repr__(self) -> str:
        return f"GpuArray({self.dtype}{list(self.shape)}, {self.device})"


def outgoing(array: Array) -> Any:
    """``array`` as a caller gets it: itself, unless it is on a GPU."""
    return GpuArray(array) if is_device(array) else array


def incoming(value: Any, name: str, *, written: bool = False) -> Array:
    """The array in ``value``, over the same memory; ArgumentError naming ``name`` if none is.

    What is not ``written`` may be a copy, where a library gives only that.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, GpuArray):
        return value.array
    kind = type(value).__name__
    try:
        if (found := _array_in(value, written)) is not None:
            return found
    except (VtcError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: expected an array, got {kind}: {error}") from None
    hint = "; numpy.asarray makes one" if isinstance(value, (list, tuple, int, float)) else ""
    raise ArgumentError(f"{name}: expected an array (DLPack or __array__), got {kind}{hint}")


def shown(array: Array) -> str:
    """The type of an array as programs have it, ``f32[2, 3]``; NumPy's, where they have none."""
    try:
        return str(TensorType(dtype_of(array.dtype), tuple(array.shape)))
    except KeyError:
        return f"{array.dtype}{list(array.shape)}"


def _array_in(value: Any, written: bool) -> Array | None:
    """By the quickest way there is: NumPy's own takes a tenth of the time, but knows less."""
    shares = hasattr(value, "__dlpack_device__")
    if shares and (written or value.__dlpack_device__()[0] != CPU):
        return taken(value)
    if hasattr(value, "__cuda_array_interface__"):
        return _by_interface(value)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        try:
            return np.asarray(value)
        except TypeError:  # a dtype that NumPy does not know
            if not shares:
                raise
    return taken(value) if shares else None


def _by_interface(value: Any) -> Array:
    about = value.__cuda_array_interface__
    dtype, shape = np.dtype(about["typestr"]), tuple(about["shape"])
    place, read_only = about["data"]
    strides = about.get("strides") or np.empty(shape, np.dtype([("", "V1")])).strides
    if about.get("strides") is None:
        strides = tuple(s * dtype.itemsize for s in strides)
    if any(s < 0 for s in strides):
        raise ValueError("strides of at least 0 are expected")
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + dtype.itemsize
    device = devices.current_device()
    _wait_for(about.get("stream"), device)
    lease = arrays.foreign(value, place, max(reach, 1), device)
    array = np.ndarray.__new__(arrays.DeviceArray, shape, dtype, lease, 0, strides)
    array.flags.writeable = not read_only
    return array


def _wait_for(stream: int | None, device: int) -> None:
    """Let the current stream wait for the one that makes the memory."""
    here = devices.gpu(device)
    theirs = 0 if stream == 1 else stream
    if theirs is None or theirs == here.stream:
        return
    event = here.driver.event(device, timing=False)
    here.driver.record(device, event, theirs)
    here.driver.wait_event(device, here.stream, event)
    here.driver.destroy_event(device, event)


def on(array: Array, device: Device) -> bool:
    """Whether ``array`` is on ``device``."""
    return device_of(array) == device if is_device(array) else device.type == "cpu"
