"""What a tensor is, apart from its values: questions that read no element.

x.element_size(), x.nbytes       # bytes of an element, of all
x.stride()                       # steps between neighbours, in elements
is_floating_point(x)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from vtc.errors import ArgumentError
from vtc.frontend import dispatch
from vtc.frontend.functions.arguments import axis, expect_tensor
from vtc.frontend.source import located
from vtc.ir.dims import Size

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor

# sizes


def numel(input: Tensor) -> int:
    """Number of elements."""
    expect_tensor("numel", "input", input)
    return input.numel()


def ndimension(input: Tensor) -> int:
    """Number of dims."""
    return input.ndim


def element_size(input: Tensor) -> int:
    """Bytes of one element."""
    return input.type.dtype.itemsize


def nbytes(input: Tensor) -> int:
    """Bytes of all elements."""
    return element_size(input) * input.numel()


@overload
def stride(input: Tensor) -> tuple[int, ...]: ...
@overload
def stride(input: Tensor, dim: int) -> int: ...
def stride(input: Tensor, dim: int | None = None) -> Any:
    """How many elements lie in memory from one to the next along each dim, or along ``dim``.

    A traced tensor is taken to be contiguous.
    """
    rank = input.type.rank
    found = _strides(input)
    return found if dim is None else found[axis("stride", dim, rank)]


def _strides(input: Tensor) -> tuple[Any, ...]:
    array = input._array
    if array is None or dispatch.is_capturing():
        return _contiguous(input.shape)
    if not array.size:
        return _contiguous(array.shape)
    found = [s // array.itemsize for s in array.strides]
    for a in range(array.ndim - 2, -1, -1):  # NumPy makes new dims with steps of 0
        if array.shape[a] == 1 and not found[a]:
            found[a] = found[a + 1] * array.shape[a + 1]
    return tuple(found)


def _contiguous(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    found: list[Any] = []
    step: Any = 1
    for n in reversed(shape):
        found.insert(0, step)
        step = step * n if n != 0 else step
    return tuple(found)


def dim_order(input: Tensor) -> tuple[int, ...]:
    """The dims from the one with the largest steps in memory to the one with the smallest."""
    steps = stride(input)
    return tuple(sorted(range(len(steps)), key=lambda a: -steps[a]))


def storage_offset(input: Tensor) -> int:
    """How many elements lie in memory before the first one, in what this is a view of."""
    root = input
    while root._link is not None:
        root = root._link[0]
    return (data_ptr(input) - data_ptr(root)) // element_size(input)


def data_ptr(input: Tensor) -> int:
    """The address of the first element. CaptureError for a traced tensor."""
    array = input._concrete("data_ptr()", "")
    return int(array.__array_interface__["data"][0])


# kinds


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is one of real floating-point numbers."""
    expect_tensor("is_floating_point", "input", input)
    return input.type.dtype.is_floating_point


def is_complex(input: Tensor) -> bool:
    """Whether the dtype is one of complex numbers."""
    expect_tensor("is_complex", "input", input)
    return input.type.dtype.is_complex


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    expect_tensor("is_signed", "input", input)
    dtype = input.type.dtype
    return dtype.kind != "bool" and dtype.numpy.kind != "u"


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether both have one shape."""
    expect_tensor("is_same_size", "input", input)
    expect_tensor("is_same_size", "other", other)
    shape: tuple[Size, ...] = input.type.shape
    return shape == other.type.shape


def is_nonzero(input: Tensor) -> bool:
    """Whether the one element is not 0. ArgumentError for any other number of elements."""
    expect_tensor("is_nonzero", "input", input)
    if input.type.numel != 1:
        message = f"is_nonzero: expected one element, got {input.type}"
        raise located(ArgumentError, message)
    return bool(input)


def is_cpu(input: Tensor) -> bool:
    """Whether the elements live in the host's memory."""
    return input.device.type == "cpu"


def get_device(input: Tensor) -> int:
    """The number of the GPU, -1 for the CPU."""
    return -1 if is_cpu(input) else int(input.device.index or 0)


def is_lazy(input: Tensor) -> bool:
    """Whether a sign or a conjugate is yet to be applied: never, in vtc."""
    expect_tensor("is_neg, is_conj", "input", input)
    return False


def itself(input: Tensor) -> Tensor:
    """``input``, to which nothing is yet to be applied."""
    expect_tensor("resolve_neg, resolve_conj", "input", input)
    return input
