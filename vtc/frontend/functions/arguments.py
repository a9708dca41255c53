"""Reading what users pass: numbers, dims, sizes. Everything here raises with the user's line.

axis("sum", -1, x.ndim)            # 1 for a matrix
shape("zeros", ((2, 3),))          # (2, 3): sizes may come one by one or as one sequence
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError
from vtc.frontend import devices, dispatch
from vtc.frontend.source import located
from vtc.ir.dims import Size
from vtc.runtime.device import Device

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from vtc.frontend.tensor import Tensor
    from vtc.ir.types import TensorType

Number: TypeAlias = complex
"""A Python number; for type checkers ``complex`` includes bool, int and float."""
Value: TypeAlias = "Tensor | Number"
Dims: TypeAlias = int | Sequence[int]
Where: TypeAlias = Device | str | None


def is_tensor(value: object) -> TypeIs[Tensor]:
    """Whether ``value`` is a ``vtc.Tensor``, which imports the functions and so is not imported."""
    return hasattr(value, "_storage")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number of Python, of NumPy, or a size."""
    return isinstance(value, (int, float, complex, np.generic)) or hasattr(value, "size_expr")


def expect_tensor(name: str, argument: str, value: object) -> None:
    """ArgumentError unless ``value`` is a tensor."""
    if not is_tensor(value):
        hint = "; use vtc.as_tensor" if hasattr(value, "__array__") else ""
        want = f"expected {argument} to be a Tensor"
        raise located(ArgumentError, f"{name}: {want}, got {type_name(value)}{hint}")


def type_name(value: object) -> str:
    """What the type of ``value`` is called; tensors of others with their library."""
    name, library = type(value).__name__, type(value).__module__.partition(".")[0]
    return f"{library}.{name}" if name == "Tensor" and library != "vtc" else name


def axis(name: str, dim: int, rank: int) -> int:
    """``dim`` counted from the front. IndexRangeError if not there; a 0-d tensor has dim 0."""
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise located(ArgumentError, f"{name}: expected dim to be an int, got {dim!r}")
    d, n = int(dim), max(rank, 1)
    if not -n <= d < n:
        want = f"expected dim to be in range of [{-n}, {n - 1}]"
        raise located(IndexRangeError, f"{name}: {want}, got {d}")
    return d % n


def own_axis(name: str, dim: int, type: TensorType) -> int:
    """As :func:`axis`, of a tensor of ``type``. TypeCheckError for a 0-d one, which has no dim."""
    at = axis(name, dim, type.rank)
    if not type.rank:
        raise located(TypeCheckError, f"{name}: expected 1 dim or more, got {type}")
    return at


def axes(name: str, dims: Dims | None, rank: int) -> tuple[int, ...]:
    """``dims`` counted from the front and sorted; None and ``()`` mean all."""
    if dims is None:
        return tuple(range(rank))
    if not isinstance(dims, Sequence):
        return (axis(name, dims, rank),) if rank else _none(name, dims)
    found = sorted(axis(name, d, rank) for d in dims)
    if len(set(found)) != len(found):
        raise located(ArgumentError, f"{name}: a dim appears twice in {tuple(dims)}")
    return tuple(found) if found and rank else tuple(range(rank))


def _none(name: str, dim: int) -> tuple[int, ...]:
    axis(name, dim, 0)
    return ()


def shape(name: str, size: Sequence[Any]) -> tuple[Size, ...]:
    """The sizes in ``size``: given one by one, or as one sequence. None may be negative."""
    found = sizes(size)
    for s in found:
        if isinstance(s, int) and s < 0:
            raise located(ArgumentError, f"{name}: expected sizes >= 0, got {found}")
    return found


def sizes(size: Sequence[Any]) -> tuple[Size, ...]:
    """As :func:`shape`, where -1 may have a meaning of its own."""
    return dispatch.sizes(flat(size))


def place(device: Where) -> Device:
    """The device the user named, or the default one. DeviceError if it is not there."""
    return devices.resolve(dispatch.default_device() if device is None else device)


def expect_chances(name: str, what: str, x: Tensor) -> None:
    """ArgumentError unless all of ``x`` is in [0, 1]. Compiled functions and GPUs do not look."""
    if dispatch.is_capturing() or x.is_cuda:
        return
    chances = x.detach().numpy()
    if not ((chances >= 0) & (chances <= 1)).all():
        raise located(ArgumentError, f"{name}: expected {what} in [0, 1]")


def flat(values: Sequence[Any]) -> tuple[Any, ...]:
    """``((a, b),)`` and ``(a, b)`` both as ``(a, b)``: what PyTorch takes as varargs."""
    if len(values) == 1 and isinstance(values[0], Iterable) and not is_tensor(values[0]):
        return tuple(values[0])
    return tuple(values)


def several(name: str, argument: str, value: Dims, count: int) -> tuple[int, ...]:
    """One int for each of ``count`` spatial dims, or one for all."""
    found = (value,) if not isinstance(value, Sequence) else tuple(value)
    found = found * count if len(found) == 1 else found
    if len(found) != count or any(isinstance(v, bool) or not isinstance(v, int) for v in found):
        want = f"expected {argument} to be {_COUNTS[count - 1]}"
        raise located(ArgumentError, f"{name}: {want}, got {value!r}")
    return found


_COUNTS = ("one int", "one or two ints", "one or three ints")


def show(sizes: Sequence[Size]) -> str:
    """A shape as messages print it."""
    return f"[{', '.join(map(str, sizes))}]"
