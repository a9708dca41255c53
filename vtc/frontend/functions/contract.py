"""Matrix products. Operands have one dtype (or autocast gives them one): products do not promote.

matmul(x, y)             # also x @ y: vectors, matrices, and batches that broadcast
linear(x, weight, bias)  # x @ weight.T + bias

What is added to a product is added before it is rounded, where numbers are of low precision: in
one kernel of a compiled program, and in one op (:class:`~vtc.ir.ops.contract.MatmulAdd`) elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtc.errors import TypeCheckError
from vtc.frontend import dispatch
from vtc.frontend.autocast import narrowed
from vtc.frontend.functions import view
from vtc.frontend.functions.arguments import Value, expect_tensor
from vtc.frontend.functions.elementwise import add, mul, scaled
from vtc.frontend.functions.once import once
from vtc.frontend.functions.promotion import cast, common_shape, expand_to
from vtc.frontend.functions.reduce import sum
from vtc.frontend.source import located
from vtc.ir.dims import product
from vtc.ir.ops.contract import Matmul, MatmulAdd
from vtc.ir.types import TensorType

if TYPE_CHECKING:
    from vtc.frontend.tensor import Tensor


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The product of vectors, matrices or batches of matrices; leading dims broadcast."""
    x, y = _typed("matmul", input, other)
    _check_inner(x, y)
    rows = input if x.rank > 1 else view.unsqueeze(input, 0)
    columns = other if y.rank > 1 else view.unsqueeze(other, 1)
    out = _product(rows, columns)
    if y.rank == 1:
        out = view.squeeze(out, -1)
    return view.squeeze(out, -2 if y.rank > 1 else -1) if x.rank == 1 else out


def _check_inner(x: TensorType, y: TensorType) -> None:
    """TypeCheckError unless there is a product of ``x`` and ``y``."""
    if x.rank == 0 or y.rank == 0:
        raise located(TypeCheckError, f"matmul: expected 1 dim or more: {x} @ {y}")
    if x.shape[-1] != y.shape[-2 if y.rank > 1 else 0]:
        raise located(TypeCheckError, f"matmul: inner dims differ: {x} @ {y}")


def _product(x: Tensor, y: Tensor, *, transpose_y: bool = False) -> Tensor:
    op = Matmul(transpose_y=transpose_y)
    if y.type.rank == 2:
        # One matrix for the whole batch: the batch is more rows of one product.
        lead, inner = x.type.shape[:-1], x.type.shape[-1]
        rows = x if x.type.rank == 2 else view.reshape(x, (product(lead), inner))
        out = dispatch.apply(op, rows, y)
        return out if x.type.rank == 2 else view.reshape(out, (*lead, out.type.shape[-1]))
    lead = common_shape("matmul", [t.type.with_shape(t.type.shape[:-2]) for t in (x, y)])
    x, y = (expand_to("matmul", t, (*lead, *t.type.shape[-2:])) for t in (x, y))
    return dispatch.apply(op, x, y)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    _ranks("mm", input, mat2, 2, 2)
    return matmul(input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices, of equal batch size."""
    _batches("bmm", input, mat2)
    return matmul(input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    _ranks("mv", input, vec, 2, 1)
    return matmul(input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors' elements."""
    x, y = _ranks("dot", input, tensor, 1, 1)
    if x != y:
        raise located(TypeCheckError, f"dot: expected vectors of one type, got {x} and {y}")
    return sum(mul(input, tensor), dtype=x.dtype)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Every product of an element of one vector with one of the other."""
    return mul(*_column_and_row("outer", input, vec2))


def _column_and_row(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` as a column, and ``y``. TypeCheckError unless they are vectors."""
    a, b = _typed(name, x, y)
    if a.rank != 1 or b.rank != 1:
        raise located(TypeCheckError, f"{name}: expected two vectors, got {a} and {b}")
    return view.unsqueeze(x, 1), y


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``: ``[.., in]``, ``[out, in]`` and ``[out]`` give ``[.., out]``."""
    x, w = _typed("linear", input, weight)
    if w.rank == 1:
        out = matmul(input, weight)
        return out if bias is None else add(out, bias)
    if x.rank == 0 or w.rank != 2 or x.shape[-1] != w.shape[1]:
        raise located(TypeCheckError, f"linear: expected [.., in] and [out, in], got {x} and {w}")
    if bias is not None and bias.type not in (w.with_shape(w.shape[:1]), w.with_shape(())):
        want = w.with_shape(w.shape[:1])
        raise located(TypeCheckError, f"linear: expected a bias {want}, got {bias.type}")
    rows = input if x.rank > 1 else view.unsqueeze(input, 0)
    if bias is not None and _rounds(rows, weight, bias):
        out = _with_bias(narrowed(rows), narrowed(weight), narrowed(bias))
        return view.squeeze(out, 0) if x.rank == 1 else out
    out = _product(rows, weight, transpose_y=True)
    out = view.squeeze(out, 0) if x.rank == 1 else out
    if bias is None:
        return out
    return add(out, cast(bias, out.type.dtype))  # autocast may have narrowed the product


def _with_bias(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias``, rounded once; of ``x`` all axes but the last are rows."""
    (*lead, inner), columns = x.type.shape, weight.type.shape[0]
    rows = x if len(lead) == 1 else view.reshape(x, (product(lead), inner))
    added = expand_to("linear", bias, (rows.type.shape[0], columns))
    out = dispatch.apply(MatmulAdd(transpose_y=True), rows, weight, added)
    return out if len(lead) == 1 else view.reshape(out, (*lead, columns))


def _rounds(*tensors: Tensor) -> bool:
    """Whether a product and a sum of these, called one by one, would each be rounded."""
    if dispatch.state.capture is not None:
        return False
    (dtype, *others) = [narrowed(t).type.dtype for t in tensors]
    return dtype.kind == "float" and dtype.accumulate is not dtype and set(others) == {dtype}


def _sum(
    name: str, input: Tensor, x: Tensor, y: Tensor, beta: Value, alpha: Value
) -> Tensor | None:
    """``beta * input + alpha * (x @ y)`` for matrices or batches of them; None where a product and
    a sum, one by one, are as good.
    """
    if not isinstance(alpha, (int, float)) or not isinstance(beta, (int, float)):
        return None
    if not _rounds(x, y, input):
        return None
    _check_inner(x.type, y.type)
    shape = (*x.type.shape[:-1], y.type.shape[-1])
    added = expand_to(name, narrowed(input), shape)
    op = MatmulAdd(alpha=float(alpha), beta=float(beta))
    return dispatch.apply(op, narrowed(x), narrowed(y), added)


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Value = 1, alpha: Value = 1
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``."""
    expect_tensor("addmm", "input", input)
    _ranks("addmm", mat1, mat2, 2, 2)
    found = _sum("addmm", input, mat1, mat2, beta, alpha)
    if found is not None:
        return found
    return add(scaled(narrowed(input), beta), mm(mat1, mat2), alpha=alpha)


def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Value = 1, alpha: Value = 1
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)`` for batches of matrices."""
    _batches("baddbmm", batch1, batch2)
    found = _sum("baddbmm", input, batch1, batch2, beta, alpha)
    if found is not None:
        return found
    return add(scaled(narrowed(input), beta), bmm(batch1, batch2), alpha=alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Value = 1, alpha: Value = 1) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``."""
    _ranks("addmv", mat, vec, 2, 1)
    if input.type.rank <= 1:
        column = view.unsqueeze(input, -1)
        found = _sum("addmv", column, mat, view.unsqueeze(vec, 1), beta, alpha)
        if found is not None:
            return view.squeeze(found, -1)
    return add(scaled(narrowed(input), beta), mv(mat, vec), alpha=alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Value = 1, alpha: Value = 1) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``."""
    return _plus_outer(input, *_column_and_row("addr", vec1, vec2), beta, alpha)


@once("addr")
def _plus_outer(x: Tensor, column: Tensor, row: Tensor, beta: Value, alpha: Value) -> Tensor:
    return add(scaled(x, beta), mul(column, row), alpha=alpha)


def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Value = 1, alpha: Value = 1
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2).sum(0)``."""
    _batches("addbmm", batch1, batch2)
    x, y = batch1.type, batch2.type
    if x.shape[2] != y.shape[1]:
        raise located(TypeCheckError, f"addbmm: inner dims differ: {x} @ {y}")
    inner = x.shape[0] * x.shape[2]  # the sum is over batches too: it is one product
    rows = view.reshape(view.permute(batch1, (1, 0, 2)), (x.shape[1], inner))
    columns = view.reshape(batch2, (inner, y.shape[2]))
    return addmm(input, rows, columns, beta=beta, alpha=alpha)


def _typed(name: str, input: Tensor, other: Tensor) -> tuple[TensorType, TensorType]:
    for argument, value in (("input", input), ("other", other)):
        expect_tensor(name, argument, value)
    return input.type, other.type


def _batches(name: str, input: Tensor, other: Tensor) -> None:
    """TypeCheckError unless both are batches of matrices, of equal batch size."""
    x, y = _ranks(name, input, other, 3, 3)
    if x.shape[0] != y.shape[0]:
        raise located(TypeCheckError, f"{name}: batch sizes differ: {x} @ {y}")


def _ranks(
    name: str, input: Tensor, other: Tensor, first: int, second: int
) -> tuple[TensorType, TensorType]:
    x, y = _typed(name, input, other)
    if (x.rank, y.rank) != (first, second):
        want = f"expected {first} and {second} dims"
        raise located(TypeCheckError, f"{name}: {want}, got {x} and {y}")
    return x, y


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input1 @ weight[o] @ input2 + bias[o]`` for each ``o``: ``[..., out]``.

    Inputs are ``[..., in1]`` and ``[..., in2]``, ``weight [out, in1, in2]``, ``bias [out]``.
    """
    expect_tensor("bilinear", "input1", input1)
    expect_tensor("bilinear", "input2", input2)
    expect_tensor("bilinear", "weight", weight)
    x1, x2, w = input1.type, input2.type, weight.type
    if w.rank != 3 or x1.shape[:-1] != x2.shape[:-1] or w.shape[1:] != (x1.shape[-1], x2.shape[-1]):
        message = f"expected [..., in1], [..., in2] and [out, in1, in2], got {x1}, {x2} and {w}"
        raise located(TypeCheckError, f"bilinear: {message}")
    rows = view.reshape(view.permute(weight, (1, 0, 2)), (w.shape[1], w.shape[0] * w.shape[2]))
    once = view.reshape(matmul(input1, rows), (*x1.shape[:-1], w.shape[0], w.shape[2]))
    found = view.squeeze(matmul(once, view.unsqueeze(input2, -1)), -1)
    return found if bias is None else add(found, bias)
