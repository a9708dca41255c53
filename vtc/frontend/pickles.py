"""How tensors are pickled: those that share memory share it again, as in PyTorch.

    whole, row = pickle.loads(pickle.dumps((x, x[0])))     # a write to one shows in the other

The whole memory of a view goes along, the history and ``.grad`` of a tensor do not. A tensor on a
GPU is pickled by its elements and comes back to the device of that name; DeviceError without it.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

import numpy as np

from vtc.frontend import devices
from vtc.frontend.tensor import Storage, Tensor, concrete_tensor
from vtc.ir.types import Array
from vtc.runtime.buffer import address, whole

Made = tuple[Callable[..., Any], tuple[Any, ...]]


def reduce_tensor(x: Tensor) -> Made:
    """What pickle makes ``x`` of; CaptureError for a traced one."""
    array = devices.host(x._concrete("pickling", ""))
    owner, array = _owner(array)
    place = (address(array) - address(owner), array.dtype, array.shape, array.strides)
    return _tensor, (owner, place, x._storage, x.requires_grad, x._kind)


def reduce_storage(storage: Storage) -> Made:
    """What pickle makes ``storage`` of: a new one, of no version."""
    return _storage, (str(storage.device),)


def _owner(array: Array) -> tuple[Array, Array]:
    """The array whose memory ``array`` shows, and ``array``; twice a copy where that has gaps."""
    owner = whole(array)
    if owner.size and (owner.flags.c_contiguous or owner.flags.f_contiguous):
        return owner, array
    dense = array.copy()
    return dense, dense


def _tensor(
    owner: Array, place: tuple[Any, ...], storage: Storage, requires_grad: bool, kind: Any
) -> Tensor:
    start, dtype, shape, strides = place
    memory = owner.reshape(-1, order="A").view(np.uint8)
    array: Array = np.ndarray(shape, dtype, memory, start, strides)
    x = concrete_tensor(devices.moved(array, storage.device), storage)
    x._kind = kind
    return x.requires_grad_() if requires_grad else x


def _storage(device: str) -> Storage:
    return Storage(devices.resolve(device))


copyreg.pickle(Tensor, reduce_tensor)
copyreg.pickle(Storage, reduce_storage)
