"""Arrays whose memory is on a device.

A :class:`DeviceArray` is an ndarray whose data pointer is a device address. Shapes, strides, views
and ``may_share_memory`` are NumPy's own; what would read or write an element on the host raises
DeviceError. The chain of bases ends in a lease, which frees the memory when the last view dies::

    x = empty((64, 512), np.dtype("f4"), device=0)
    y = x[1:3].T                           # a view, as ever; x[0, 0] is a 0-d view
    device_of(y)                           # Device("cuda:0")
    root(y)                                # its block of memory: address, device, bytes

Memory is used on the stream that is current where it is made; :func:`used_by` says which other
stream works with it (``Tensor.record_stream``). ``np.asarray(x)`` cannot be caught: it gives a
plain array whose elements crash the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Never, cast, final

import numpy as np

from vtc.errors import DeviceError
from vtc.ir.types import Array
from vtc.runtime.allocator import NOTES, Allocator
from vtc.runtime.blocks import Block, rounded
from vtc.runtime.buffer import address
from vtc.runtime.cuda.device import Gpu, gpu
from vtc.runtime.cuda.space import array_at
from vtc.runtime.device import Device
from vtc.runtime.shelf import Shelf

Index = Any


@final
class _Ground(np.ndarray[Any, np.dtype[Any]]):
    """A block of memory of device ``place``, lent again and again; what its leases have in common.

    ``shelf`` is where a lease goes that nobody has; None where the allocator takes the block back.
    """

    __slots__ = ("allocator", "block", "place", "shelf")

    allocator: Allocator
    block: Block | None
    place: int
    shelf: Shelf | None


@final
class Lease(np.ndarray[Any, np.dtype[Any]]):
    """One use of memory: the end of the bases of every array over it."""

    __slots__ = ()

    base: Any

    @property
    def place(self) -> int:
        """The number of the device."""
        place: int = self.base.place
        return place

    @property
    def block(self) -> Block | None:
        """What is lent; None if that was called off."""
        block: Block | None = self.base.block
        return block

    def call_off(self) -> None:
        """Give nothing back: the block has another use."""
        self.base.block = None

    def used_by(self, stream: int) -> None:
        """Say that ``stream`` works with the memory: given back, it waits for that."""
        ground = self.base
        if ground.block is not None and stream != ground.block.segment.stream:
            ground.block.uses.add(stream)

    def __del__(self) -> None:
        ground = self.base
        if type(ground) is not _Ground:  # a view of a lease; or the interpreter is ending
            return
        block = ground.block
        if block is None:
            return
        allocator, shelf = ground.allocator, ground.shelf
        if shelf is None or block.uses or not allocator.shelving:
            allocator.notes.append(block.address)
        else:
            allocator.notes.append(block)
            shelf.append(ground.view(Lease))


@final
class DeviceArray(np.ndarray[Any, np.dtype[Any]]):
    """See the module."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: Any, method: str, *_: Any, **__: Any) -> Never:
        """Nothing is computed on the host."""
        raise _on_host(self, ufunc.__name__)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Functions that only look at shapes work; the others raise."""
        if func is np.broadcast_to:
            return _broadcast_to(*args, **kwargs)
        if func in _SHAPES_ONLY:
            return super().__array_function__(func, types, args, kwargs)
        raise _on_host(self, func.__name__)

    def __getitem__(self, index: Index) -> DeviceArray:
        """A view; one element is a 0-d view."""
        items = index if isinstance(index, tuple) else (index,)
        if not all(map(_basic, items)):
            raise _on_host(self, "indexing with an array")
        if not any(i is Ellipsis for i in items):
            items = (*items, Ellipsis)
        return cast(DeviceArray, super().__getitem__(items))

    def __setitem__(self, index: Index, value: Any) -> None:
        raise _on_host(self, "writing an element")

    def reshape(self, *shape: Any, order: Any = "C", copy: Any = None) -> DeviceArray:
        """A view; DeviceError where the elements would have to move."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        found = reshaped(self, tuple(sizes)) if order == "C" and not copy else None
        if found is None:
            raise _on_host(self, "reshape that moves elements")
        return found

    def ravel(self, order: Any = "C") -> DeviceArray:
        """A view with one axis; DeviceError where the elements would have to move."""
        return self.reshape(-1, order=order)

    def __reduce__(self) -> Never:
        raise _on_host(self, "pickling")

    def __reduce_ex__(self, protocol: Any) -> Never:
        raise _on_host(self, "pickling")

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}{list(self.shape)}, {device_of(self)})"


def empty(
    shape: tuple[int, ...], dtype: np.dtype[Any], device: int, where: str | None = None
) -> DeviceArray:
    """An array with undefined elements, 512-byte aligned, for work on the current stream.

    ``where`` is the line that an out-of-memory error blames; by default the device asks its hook.
    """
    return root_array(shape, dtype, allocate(prod(shape) * dtype.itemsize, device, where))


def allocate(nbytes: int, device: int, where: str | None = None) -> Lease:
    """Memory alone. No array is without memory, so each has an address of its own."""
    here = gpu(device)
    return lease(nbytes or 1, here, here.stream, here.where() if where is None else where)


def lease(nbytes: int, here: Gpu, stream: int, where: str) -> Lease:
    """:func:`allocate` where more is known."""
    allocator = here.allocator
    shelf = allocator.shelf(nbytes, stream)
    try:
        found: Any = shelf.pop()
    except IndexError:
        return _lent(nbytes, here, stream, where, shelf)
    allocator.notes.append((found.base.block, nbytes, where))
    if len(allocator.notes) > NOTES:
        allocator.settle()
    return cast(Lease, found)


def _lent(nbytes: int, here: Gpu, stream: int, where: str, shelf: Shelf) -> Lease:
    allocator = here.allocator
    block = allocator.lend(nbytes, stream, where)
    try:
        ground = array_at(_Ground, block.address, block.size)
        ground.allocator, ground.block, ground.place = allocator, None, here.index
        # A block may be larger than what was asked for.
        shelves = allocator.may_shelve(block) and block.size == rounded(nbytes)
        ground.shelf = shelf if shelves else None
        found = ground.view(Lease)
    except BaseException:
        allocator.free(block.address)
        raise
    ground.block = block
    return found


def root_array(shape: tuple[int, ...], dtype: np.dtype[Any], lease: Lease) -> DeviceArray:
    """A dense array over the memory of ``lease``, from its start."""
    return np.ndarray.__new__(DeviceArray, shape, dtype, lease)


def foreign(owner: Any, address: int, nbytes: int, device: int) -> Lease:
    """Memory that another library gave, kept until the last array over it dies.

    ``owner`` holds it for as long as it lives.
    """
    ground = np.asarray(_Foreign(owner, address, nbytes)).view(_Ground)
    ground.block, ground.place = None, device
    return ground.view(Lease)


@final
class _Foreign:
    """Bytes at an address, and who owns them."""

    def __init__(self, owner: Any, address: int, nbytes: int) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (address, False)
        }  # fmt: skip


def strided(
    array: DeviceArray, shape: Sequence[int], strides: Sequence[int], offset: int = 0
) -> DeviceArray:
    """A view with its own shape and strides (bytes), ``offset`` bytes after the first element.

    It may reach all of the memory that ``array`` is a part of.
    """
    lease = root(array)
    start = address(array) - address(lease) + offset
    return np.ndarray.__new__(DeviceArray, tuple(shape), array.dtype, lease, start, tuple(strides))


def reshaped(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray | None:
    """``array`` as a view of another shape; None if no strides can show it."""
    if array.flags.c_contiguous:
        return cast(DeviceArray, np.ndarray.reshape(array, shape))
    rest = prod(n for n in shape if n != -1)
    if array.size != rest and (-1 not in shape or not rest or array.size % rest):
        raise ValueError(f"cannot reshape array of size {array.size} into shape {shape}")
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":
        return _reshaped_by_shape(array, shape)
    try:
        return cast(DeviceArray, np.ndarray.reshape(array, shape, copy=False))
    except ValueError:
        return None


def root(array: Array) -> Lease:
    """The lease that ``array`` lies in."""
    base = array.base
    while type(base) is not Lease:
        if base is None:
            raise DeviceError(f"expected an array on a device, got one on the cpu: {array!r}")
        base = base.base
    return base


def is_device(array: object) -> bool:
    """Whether the memory of an array is on a device."""
    return type(array) is DeviceArray


def index_of(array: DeviceArray) -> int:
    """The number of the device an array is on."""
    return root(array).place


def device_of(array: Array) -> Device:
    """The device an array is on; the cpu for other arrays."""
    return Device("cuda", root(array).place) if type(array) is DeviceArray else CPU


def used_by(array: DeviceArray, stream: int) -> None:
    """Say that ``stream``, of the array's device, works with its memory: freed, it waits for that.

    What ``Tensor.record_stream`` does.
    """
    root(array).used_by(stream)


CPU = Device("cpu")
_SHAPES_ONLY = frozenset(
    [
        np.transpose, np.reshape, np.may_share_memory, np.shares_memory, np.expand_dims,
        np.squeeze, np.moveaxis, np.swapaxes, np.flip, np.ndim, np.shape, np.size, np.broadcast_to,
    ]
)  # fmt: skip


def _basic(item: object) -> bool:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return True
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _broadcast_to(array: DeviceArray, shape: Any, subok: bool = False) -> DeviceArray:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    whole = np.broadcast_shapes(array.shape, shape)
    if whole != shape:
        raise ValueError(f"broadcast_to: expected a shape like {array.shape}, got {shape}")
    new = len(shape) - array.ndim
    strides = [0] * new + [
        0 if n == 1 else s for n, s in zip(array.shape, array.strides, strict=True)
    ]
    found = strided(array, shape, strides)
    found.flags.writeable = False
    return found


def _reshaped_by_shape(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray | None:
    """NumPy 2.0 has no ``copy=False``."""
    view = array[...]
    try:
        view.shape = shape
    except AttributeError:
        return None
    return view


def _on_host(array: DeviceArray, what: str) -> DeviceError:
    return DeviceError(
        f"{what}: expected an array on the cpu, got {array!r}; copy it to the host first"
    )


def _refusing(name: str) -> Callable[..., Never]:
    def refuse(self: DeviceArray, *_: Any, **__: Any) -> Never:
        raise _on_host(self, name)

    refuse.__name__ = name
    return refuse


_REFUSED = (
    "astype byteswap choose clip compress conj conjugate copy cumprod cumsum diagonal dot dump "
    "dumps fill flatten item nonzero partition argpartition argsort argmax argmin all any max min "
    "mean prod put repeat resize round searchsorted sort std sum take tobytes tofile tolist trace "
    "var __bool__ __int__ __float__ __index__ __complex__ __contains__ __copy__ __deepcopy__ "
    "__dlpack__ __dlpack_device__"
)
_OWN: dict[str, Any] = {name: _refusing(name) for name in _REFUSED.split()}
_OWN["device"] = property(device_of)  # NumPy's says cpu
for _name, _value in _OWN.items():
    setattr(DeviceArray, _name, _value)
