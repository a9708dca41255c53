"""Making tensors. Python floats make the default dtype, ints int64, bools bool; arrays keep theirs.

tensor([[1.0, 2.0]])                 # copies
from_numpy(array)                    # shares memory
zeros(2, 3, dtype=vtc.float16, device="cuda")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise
from vtc.frontend.functions.arguments import Number, Where, expect_tensor, is_tensor, place, shape
from vtc.frontend.functions.promotion import cast, checked, number, number_dtype, plain
from vtc.frontend.sizes import divisor
from vtc.frontend.source import located
from vtc.ir.dims import Size, Sym, floordiv
from vtc.ir.ops.fill import Iota
from vtc.ir.types import Array, DType, bool_, c64, c128, converted, dtype_of, f64, i64
from vtc.runtime.dlpack import taken

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


# from data


def tensor(
    data: Any, *, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """A new tensor of numbers, nested sequences of them, or a copy of an array."""
    if is_tensor(data):
        there = data.detach() if device is None else data.detach().to(device)
        copy = cast(there, dtype or data.type.dtype)
        return _asked(copy.clone() if copy._storage is data._storage else copy, requires_grad)
    return _made(_array(data, dtype), device, requires_grad)


def as_tensor(data: Any, dtype: DType | None = None, device: Where = None) -> Tensor:
    """``data`` as a tensor: itself if it is one, sharing memory if it is an array, or a tensor of
    another library that has ``__dlpack__``.
    """
    if not isinstance(data, np.ndarray) and hasattr(data, "__dlpack_device__"):
        data = data if is_tensor(data) else from_dlpack(data)
        return cast(data if device is None else data.to(device), dtype or data.type.dtype)
    if isinstance(data, np.ndarray) and (dtype is None or dtype.numpy == data.dtype):
        return _made(_known(data), device, False)
    return _made(_array(data, dtype), device, False)


def from_numpy(ndarray: Array) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(ndarray, np.ndarray):
        got = type(ndarray).__name__
        raise located(ArgumentError, f"from_numpy: expected a NumPy array, got {got}")
    return dispatch.from_array(_known(ndarray))


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor that shares the memory of another library's, which has ``__dlpack__``."""
    if not hasattr(ext_tensor, "__dlpack_device__"):
        got = type(ext_tensor).__name__
        raise located(ArgumentError, f"from_dlpack: expected an object with __dlpack__, got {got}")
    return dispatch.from_array(taken(ext_tensor))


def asarray(
    obj: Any,
    *,
    dtype: DType | None = None,
    device: Where = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``obj`` as a tensor: sharing its memory unless ``copy``, if it is a tensor, an array or has
    ``__dlpack__``. ArgumentError where ``copy=False`` cannot be.
    """
    if not (is_tensor(obj) or isinstance(obj, np.ndarray) or hasattr(obj, "__dlpack_device__")):
        if copy is False:
            got = type(obj).__name__
            raise located(ArgumentError, f"asarray: expected memory to share, got {got}")
        return tensor(obj, dtype=dtype, device=device, requires_grad=requires_grad)
    foreign = not is_tensor(obj) and not isinstance(obj, np.ndarray)
    here = as_tensor(from_dlpack(obj) if foreign else obj)
    found = as_tensor(here, dtype, device)
    if copy is False and found is not here:
        message = f"expected memory to share, but {found.type} on {found.device} needs a copy"
        raise located(ArgumentError, f"asarray: {message}")
    found = found.clone() if copy and found is here else found
    return _asked(found.detach(), requires_grad)


def frombuffer(
    buffer: Any, *, dtype: DType, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A vector that shares the memory of ``buffer`` (bytes, an array), from byte ``offset`` on.

    ArgumentError where ``count`` elements are not there, or bytes are left over.
    """
    try:
        array = np.frombuffer(buffer, dtype.numpy, count, offset)
    except ValueError as e:
        raise located(ArgumentError, f"frombuffer: {e}") from None
    return dispatch.from_array(array, requires_grad=requires_grad)


def scalar_tensor(
    s: Number, *, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """A 0-d tensor of the number ``s``, in the default dtype if none is given."""
    want = dtype or dispatch.default_dtype()
    return _filled("scalar_tensor", (), s, want, device, requires_grad)


def new_tensor(
    input: Tensor,
    data: Any,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """A new tensor of ``data``, in the dtype and on the device of ``input``."""
    want, there = dtype or input.type.dtype, device or input.device
    return tensor(data, dtype=want, device=there, requires_grad=requires_grad)


def to_dlpack(input: Tensor) -> object:
    """A capsule that hands the memory of ``input`` to another library, once."""
    expect_tensor("to_dlpack", "input", input)
    return input.__dlpack__()


def _made(array: Array, device: Where, requires_grad: bool) -> Tensor:
    return dispatch.from_array(array, device=place(device), requires_grad=requires_grad)


def _array(data: Any, dtype: DType | None) -> Array:
    try:
        array = np.array(_plain(data))
    except (ValueError, OverflowError) as e:
        raise located(
            ArgumentError, f"tensor: expected numbers in rows of equal length: {e}"
        ) from None
    if array.dtype.kind not in "biufcV" or array.dtype.hasobject:
        got = f"got {type(data).__name__} of {array.dtype}"
        raise located(ArgumentError, f"tensor: expected numbers or nested sequences of them, {got}")
    want = dtype or _default(data, array)
    whole = array.dtype.kind in "iu" and want.kind == "int" and array.size
    if whole and not _fits(array, want):
        raise located(TypeCheckError, f"tensor: a value does not fit {want}")
    with np.errstate(over="ignore"):  # what is too large is infinite
        return converted(array, want.numpy)


def _plain(data: Any) -> Any:
    """``data`` with the tensors inside it as arrays."""
    if is_tensor(data):
        return data.detach().cpu().numpy()
    return [_plain(d) for d in data] if isinstance(data, (list, tuple)) else data


def _fits(array: Array, dtype: DType) -> bool:
    info = np.iinfo(dtype.numpy)
    return bool(array.min() >= info.min and array.max() <= info.max)


def _default(data: Any, array: Array) -> DType:
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    if isinstance(data, (np.ndarray, np.generic)) or is_tensor(data):
        return dtype_of(_known(array).dtype)
    match array.dtype.kind:
        case "b":
            return bool_
        case "i" | "u":
            return i64
        case "c":
            return c128 if dispatch.default_dtype() is f64 else c64
    return dispatch.default_dtype()


def _known(array: Array) -> Array:
    try:
        dtype_of(array.dtype)
    except KeyError:
        message = f"expected an array of a dtype vtc has, got {array.dtype}"
        raise located(ArgumentError, message) from None
    return array


# filled


def full(
    size: Any,
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``fill_value`` everywhere; it decides the dtype if none is given."""
    sizes = shape("full", (size,) if hasattr(size, "__index__") else size)
    want = dtype or number_dtype(fill_value)
    return _filled("full", sizes, fill_value, want, device, requires_grad)


def zeros(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """0 everywhere, in the default dtype if none is given."""
    want = dtype or dispatch.default_dtype()
    return _filled("zeros", shape("zeros", size), 0, want, device, requires_grad)


def ones(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """1 everywhere, in the default dtype if none is given."""
    want = dtype or dispatch.default_dtype()
    return _filled("ones", shape("ones", size), 1, want, device, requires_grad)


def empty(
    *size: Any, dtype: DType | None = None, device: Where = None, requires_grad: bool = False
) -> Tensor:
    """A tensor to be written; its elements are 0 until then, so that programs repeat."""
    want = dtype or dispatch.default_dtype()
    return _filled("empty", shape("empty", size), 0, want, device, requires_grad)


def full_like(
    input: Tensor,
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``fill_value`` everywhere, in the shape and dtype of ``input``."""
    expect_tensor("full_like", "input", input)
    type, there = input.type, device or input.device
    return _filled("full_like", type.shape, fill_value, dtype or type.dtype, there, requires_grad)


def zeros_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """0 everywhere, in the shape and dtype of ``input``."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """1 everywhere, in the shape and dtype of ``input``."""
    return full_like(input, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def empty_like(
    input: Tensor,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor to be written, in the shape and dtype of ``input``; 0 until then."""
    return full_like(input, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def new_zeros(
    input: Tensor, *size: Any, dtype: DType | None = None, device: Where = None
) -> Tensor:
    """0 everywhere, in the dtype of ``input``."""
    return zeros(*size, dtype=dtype or input.type.dtype, device=device or input.device)


def new_ones(input: Tensor, *size: Any, dtype: DType | None = None, device: Where = None) -> Tensor:
    """1 everywhere, in the dtype of ``input``."""
    return ones(*size, dtype=dtype or input.type.dtype, device=device or input.device)


def new_empty(
    input: Tensor,
    *size: Any,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor to be written, in the dtype of ``input``; 0 until then."""
    want, there = dtype or input.type.dtype, device or input.device
    return empty(*size, dtype=want, device=there, requires_grad=requires_grad)


def new_full(
    input: Tensor,
    size: Any,
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: Where = None,
) -> Tensor:
    """``fill_value`` everywhere, in the dtype of ``input``."""
    want, there = dtype or input.type.dtype, device or input.device
    return full(size, fill_value, dtype=want, device=there)


def _filled(
    name: str,
    sizes: tuple[Size, ...],
    value: Number,
    dtype: DType,
    device: Where,
    requires_grad: bool,
) -> Tensor:
    fill = checked(name, value, dtype)
    if isinstance(fill, Sym):
        return _asked(number(fill, dtype, sizes), requires_grad)
    return _asked(dispatch.constant(fill, dtype, sizes, place(device)), requires_grad)


# in steps


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``start``, ``start + step``, ... below ``end``; one argument is the end. Ints make int64."""
    first, last = (0, start) if end is None else (start, end)
    step = divisor(step)
    first, last, by = _whole_or_known(first, last, step)
    whole = not any(isinstance(v, float) for v in (first, last, by))
    want = dtype or (i64 if whole else dispatch.default_dtype())
    pace = step if hasattr(step, "size_expr") else by  # a traced size is compared by its range
    if pace == 0:
        raise located(ArgumentError, "arange: expected a step other than 0")
    count = _count(first, last, by, down=pace < 0)
    line = dispatch.create(Iota((count,), 0, i64 if whole else f64), place(device))
    if by != 1:
        line = elementwise.mul(line, by)
    if first != 0:
        line = elementwise.add(line, first)
    return _asked(cast(line, want), requires_grad)


def _whole_or_known(*values: Any) -> list[Any]:
    """Plain numbers; beside a float there are no sizes that vary."""
    found = [plain(v) for v in values]
    if not any(isinstance(v, float) for v in found):
        return found
    return [int(v) if hasattr(v, "size_expr") else f for v, f in zip(values, found, strict=True)]


def _count(first: Any, last: Any, step: Any, *, down: bool) -> Size:
    if any(isinstance(v, Sym) for v in (first, last, step)):
        if down:
            first, last, step = last, first, -step
        size: Size = floordiv(last - first + step - 1, step)
        return size
    count = -int((first - last) // step)
    if count < 0:
        message = f"arange: expected end to lie beyond start, got {first} to {last} by {step}"
        raise located(ArgumentError, message)
    return count


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``steps`` numbers at equal distances from ``start`` to ``end``, both included."""
    if steps < 0:
        raise located(ArgumentError, f"linspace: expected steps >= 0, got {steps}")
    want = dtype or dispatch.default_dtype()
    count = dispatch.size(steps)
    by = _distance(end - start, steps - 1) if steps > 1 else 0.0
    index = dispatch.create(Iota(shape=(count,), axis=0, dtype=f64), place(device))
    # From both ends, as PyTorch does, so that the last number is exactly ``end``.
    up = elementwise.add(elementwise.mul(index, by), start)
    down = elementwise.sub(end, elementwise.mul(elementwise.sub(steps - 1, index), by))
    line = comparison.where(comparison.lt(index, steps // 2 if steps > 1 else 1), up, down)
    return _asked(cast(line, want), requires_grad)


def _distance(whole: Any, parts: Any) -> Any:
    """``whole / parts`` in f64; where ``parts`` varies, a tensor."""
    if not hasattr(parts, "size_expr"):
        return whole / parts
    return elementwise.div(number(whole, f64), number(parts, f64))


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """``base`` to the powers :func:`linspace` gives: ``steps`` numbers in equal ratios."""
    want = dtype or dispatch.default_dtype()
    powers = linspace(start, end, steps, dtype=f64, device=device)
    return _asked(cast(elementwise.pow(float(base), powers), want), requires_grad)


def range(
    start: float,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """:func:`arange` that has ``end``, too, in the default dtype if none is given."""
    first, last = (0, start) if end is None else (start, end)
    if step == 0 or (last - first) * step < 0:
        message = f"range: expected end to lie beyond start, got {first} to {last} by {step}"
        raise located(ArgumentError, message)
    count = int((last - first) / step + 1)
    line = dispatch.create(Iota((count,), 0, f64), place(device))
    found = elementwise.add(elementwise.mul(line, step), first)
    return _asked(cast(found, dtype or dispatch.default_dtype()), requires_grad)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: DType | None = None,
    device: Where = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of an ``n`` by ``m`` (or ``n``) matrix of zeros."""
    sizes = shape("eye", (n, n if m is None else m))
    where = place(device)
    row, column = (dispatch.create(Iota(sizes, a, i64), where) for a in (0, 1))
    one = cast(comparison.eq(row, column), dtype or dispatch.default_dtype())
    return _asked(one, requires_grad)


def _asked(x: Tensor, requires_grad: bool) -> Tensor:
    return x.requires_grad_() if requires_grad else x
