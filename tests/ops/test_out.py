"""``out=``: results are written into what is given."""

import pytest

import vtc
from vtc.errors import ArgumentError, GradientError, TypeCheckError
from vtc.frontend.functions.out import TAKES_OUT

X = vtc.tensor([[1.0, 4.0], [9.0, 16.0]])
CALLS = (
    "add(x, 1", "mul(x, x", "sqrt(x", "atan2(x, x", "lt(x, 2.0", "sum(x, 0", "mean(x, (0, 1)",
    "matmul(x, x", "bmm(x[None], x[None]", "cat([x, x]", "stack([x, x], 1", "clamp(x, 2, 9",
    "where(x > 2, x, 0.0", "pow(x, 2", "argmax(x, 1", "any(x > 2",
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_it_is_the_result(call):
    want = eval(f"vtc.{call})", {"vtc": vtc, "x": X})
    out = vtc.zeros_like(want)
    got = eval(f"vtc.{call}, out=out)", {"vtc": vtc, "x": X, "out": out})
    assert got is out
    assert out.tolist() == want.tolist()


def test_it_may_be_of_a_higher_category_and_a_view():
    out = vtc.zeros(2, 4)
    vtc.argmax(X, 1, out=out[:, 1])
    assert out.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    y = X.clone()
    vtc.add(y, y, out=y)
    assert y.tolist() == (2 * X).tolist()


def test_several_results():
    values, indices = vtc.zeros(2), vtc.zeros(2, dtype=vtc.int64)
    found = vtc.max(X, 1, out=(values, indices))
    assert found.values is values
    assert (values.tolist(), indices.tolist()) == ([4, 16], [1, 1])
    with pytest.raises(ArgumentError, match="max: expected out to be 2 tensors"):
        vtc.max(X, 1, out=values)


def test_compiled():
    out = vtc.zeros(2, 2)
    vtc.compile(lambda x: vtc.exp2(x, out=out) * 1)(X)
    assert out.tolist() == [[2, 16], [512, 65536]]


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (vtc.zeros(3), TypeCheckError, r"add: expected out of shape f32\[2, 2\], got f32\[3\]"),
        (vtc.zeros(2, 2, dtype=vtc.int64), TypeCheckError, "cannot be written in place"),
        ([1], ArgumentError, "expected out to be a Tensor, got list"),
        (vtc.zeros(2, 2, requires_grad=True), GradientError, "no gradient flows through out="),
    ],
)
def test_errors(out, error, message):
    with pytest.raises(error, match=message):
        vtc.add(X, X, out=out)


def test_every_name_is_there_or_is_not_public():
    assert {n for n in TAKES_OUT if n in vtc._NAMES} >= {"add", "sum", "matmul", "cat", "stack"}
