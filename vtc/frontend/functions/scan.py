"""Running sums, products and extremes along a dim, and what is made of differences.

cumsum(x, dim=-1)             # bool and integers sum to int64
cummax(x, dim=0).indices      # of equal elements the last one so far
logcumsumexp(x, dim=1)        # no overflow
trapezoid(y, x)               # the area under a curve
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtc.errors import ArgumentError, TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.functions import comparison, elementwise, rearrange, reduce, view
from vtc.frontend.functions.arguments import Number, axis, expect_tensor, own_axis
from vtc.frontend.functions.promotion import cast, to_float
from vtc.frontend.functions.reduce import ValuesIndices
from vtc.frontend.source import located
from vtc.ir.ops.index import Gather
from vtc.ir.ops.scan import ArgScan, Cumargmax, Cumargmin, Cumprod, Cumsum, Logcumsumexp
from vtc.ir.types import DType, bool_, i64, u8

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The sum of all elements up to each one along ``dim``, in ``dtype``.

    The shape is that of ``input``. By default bool and integers sum to int64. Half types add up in
    float32 and are rounded once.
    """
    return _running("cumsum", Cumsum, input, dim, dtype)


def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The product of all elements up to each one along ``dim``; dtypes are as in :func:`cumsum`.

    The gradient is exact at zeros, too.
    """
    return _running("cumprod", Cumprod, input, dim, dtype)


def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """``log(cumsum(exp(input), dim))`` without overflow. TypeCheckError for integers.

    Where the result is -inf, the gradient is finite (PyTorch's is NaN).
    """
    expect_tensor("logcumsumexp", "input", input)
    if input.type.dtype.kind != "float":
        want = "logcumsumexp: expected a floating-point input"
        raise located(TypeCheckError, f"{want}, got {input.type}")
    return _running("logcumsumexp", Logcumsumexp, input, dim, input.type.dtype)


def _running(name: str, op: Any, input: Tensor, dim: int, dtype: DType | None) -> Tensor:
    expect_tensor(name, "input", input)
    at = axis(name, dim, input.type.rank)
    kind = input.type.dtype
    x = cast(input, dtype or (i64 if kind.kind in ("bool", "int") else kind))
    if not x.type.rank:
        line = dispatch.apply(op(axis=0, reverse=False), view.reshape(x, (1,)))
        return view.reshape(line, ())
    return dispatch.apply(op(axis=at, reverse=False), x)


def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """The largest element up to each one along ``dim``, and where it is (int64).

    Of equal elements it is the last one so far, and NaN is larger than any number. The gradient
    goes to the elements that the indices name.
    """
    return _leading("cummax", Cumargmax, input, dim)


def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """The smallest element up to each one along ``dim``, and where it is; see :func:`cummax`."""
    return _leading("cummin", Cumargmin, input, dim)


def _leading(name: str, op: type[ArgScan], input: Tensor, dim: int) -> ValuesIndices:
    expect_tensor(name, "input", input)
    at = axis(name, dim, input.type.rank)
    if not input.type.rank:
        return ValuesIndices(input.clone(), dispatch.constant(0, i64, (), input.device))
    x = cast(input, u8) if input.type.dtype is bool_ else input
    indices = dispatch.apply(op(axis=at, reverse=False), x)
    return ValuesIndices(dispatch.apply(Gather(axis=at), input, indices), indices)


# differences


def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """The differences of neighbours along ``dim``, taken ``n`` times; of bools whether they differ.

    ``prepend`` and ``append`` are joined to ``input`` first.
    """
    expect_tensor("diff", "input", input)
    if not input.type.rank:
        raise located(TypeCheckError, f"diff: expected 1 dim or more, got {input.type}")
    if n < 0:
        raise located(ArgumentError, f"diff: expected n >= 0, got {n}")
    at = axis("diff", dim, input.type.rank)
    parts = [p for p in (prepend, input, append) if p is not None]
    x = rearrange.cat(parts, at) if len(parts) > 1 else input
    for _ in range(n):
        if x.type.shape[at] == 0:
            return x
        before, after = _neighbours(x, at)
        x = comparison.ne(after, before) if x.type.dtype is bool_ else after - before
    return x


def _neighbours(x: Tensor, at: int) -> tuple[Tensor, Tensor]:
    """All elements along ``at`` but the last, and all but the first."""
    n = x.type.shape[at]
    return view.cut(x, {at: (0, n - 1)}), view.cut(x, {at: (1, n)})


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Number = 1, dim: int = -1) -> Tensor:
    """The area under ``y`` along ``dim``, at places ``x`` or ``dx`` apart, by the trapezoidal rule.

    ``x`` has one dim, along ``dim``, or broadcasts against ``y``.
    """
    at, pieces = _trapezoids("trapezoid", y, x, dx, dim)
    return reduce.sum(pieces, at)


def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: Number = 1, dim: int = -1
) -> Tensor:
    """The area under ``y`` up to each place but the first; see :func:`trapezoid`."""
    at, pieces = _trapezoids("cumulative_trapezoid", y, x, dx, dim)
    return cumsum(pieces, at)


def _trapezoids(name: str, y: Tensor, x: Tensor | None, dx: Number, dim: int) -> tuple[int, Tensor]:
    """The areas between neighbours, and along which dim."""
    expect_tensor(name, "y", y)
    if not y.type.rank:
        raise located(TypeCheckError, f"{name}: expected 1 dim or more, got {y.type}")
    at = axis(name, dim, y.type.rank)
    if y.type.dtype is bool_:
        raise located(TypeCheckError, f"{name}: expected numbers, got {y.type}")
    if y.type.shape[at] == 0:
        return at, to_float(y)
    left, right = _neighbours(y, at)
    pieces = elementwise.add(left, right)
    if x is None:
        return at, elementwise.mul(pieces, dx) / 2.0
    if x.type.rank == 1:
        x = view.reshape(x, [-1 if a == at else 1 for a in range(y.type.rank)])
    before, after = _neighbours(x, own_axis(name, at - y.type.rank, x.type))
    return at, elementwise.mul(pieces, after - before) / 2.0
