"""What ops do at edges, against PyTorch: special values, ties, zeros; values and gradients."""

import math

import numpy as np
import pytest
from cases import program_of

import vtc
from vtc.errors import ArgumentError, GradientError
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.op import REGISTRY
from vtc.ir.ops.control import Gradient
from vtc.ir.ops.elementwise import Cast, FloorDivide, Maximum, Minimum, Pow, Remainder, Round, Sign
from vtc.ir.ops.reduce import Argmax, Argmin, Max, Min, Prod
from vtc.ir.types import DTYPES, TensorType, f32, i64

NAN, INF = math.nan, math.inf
SPECIAL = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.5, -0.5, 3.0], np.float32)
X, Y = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
TIES = np.array([[1, 3, 3], [2, 2, 2], [0, -1, 5]], np.float32)
NANS = np.array([[1, NAN, 3], [NAN, 2, NAN], [0, -1, 5]], np.float32)

# op, inputs, the same in torch
VALUES = (
    ("abs", (SPECIAL,), "abs"),
    ("floor", (SPECIAL,), "floor"),
    ("ceil", (SPECIAL,), "ceil"),
    ("trunc", (SPECIAL,), "trunc"),
    ("round", (np.array([-1.5, -0.5, 0.5, 1.5, 2.5, INF], np.float32),), "round"),
    ("exp", (SPECIAL,), "exp"),
    ("log", (SPECIAL,), "log"),
    ("sqrt", (SPECIAL,), "sqrt"),
    ("rsqrt", (SPECIAL,), "rsqrt"),
    ("erf", (SPECIAL,), "erf"),
    ("tanh", (SPECIAL,), "tanh"),
    *(
        (name, (SPECIAL,), name)
        for name in (
            *("tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "exp2"),
            *("expm1", "log1p", "erfc", "erfinv", "lgamma"),
        )
    ),
    *((name, (X, Y), name) for name in ("atan2", "hypot", "logaddexp", "xlogy")),
    ("left_shift", (np.array([1, -3, 5, 5]), np.array([3, 1, 64, -1])), "bitwise_left_shift"),
    ("right_shift", (np.array([9, -9, -5, 5]), np.array([1, 1, 64, -1])), "bitwise_right_shift"),
    ("add", (X, Y), "add"),
    ("div", (X, Y), "div"),
    ("remainder", (X, Y), "remainder"),
    ("floor_divide", (X, Y), "floor_divide"),
    ("pow", (X, Y), "pow"),
    ("maximum", (X, Y), "maximum"),
    ("minimum", (X, Y), "minimum"),
    ("eq", (X, Y), "eq"),
    ("ne", (X, Y), "ne"),
    ("lt", (X, Y), "lt"),
    ("ge", (X, Y), "ge"),
    ("floor_divide", (np.array([-7, 7, -7, 7]), np.array([2, -2, -2, 2])), "floor_divide"),
    ("remainder", (np.array([-7, 7, -7, 7]), np.array([2, -2, -2, 2])), "remainder"),
    ("pow", (np.array([2, -3, 0, 1]), np.array([3, 3, 0, 5])), "pow"),
    ("logical_not", (np.array([5, -1, 0]),), "bitwise_not"),
    ("logical_xor", (np.array([5, 6]), np.array([3, 3])), "bitwise_xor"),
)


@pytest.mark.parametrize(("name", "inputs", "theirs"), VALUES)
def test_values_are_torchs(name, inputs, theirs):
    torch = pytest.importorskip("torch")
    (got,) = evaluate(program_of(REGISTRY[name](), map(TensorType.of, inputs)), *inputs)
    want = getattr(torch, theirs)(*map(torch.from_numpy, inputs)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6)


def gradients(op, inputs):
    """Of the sum of the result."""
    b = GraphBuilder()
    params = [b.param("x", TensorType.of(a)) for a in inputs]
    y = b.apply(op, *params)
    seed = b.apply(REGISTRY["full"](shape=y.tensor.shape, value=1.0, dtype=f32))
    marker = b.apply(Gradient(seeded=True), y, seed, *params)
    items = [b.apply(REGISTRY["item"](index=i), marker) for i in range(len(inputs))]
    return evaluate(Program((b.graph("main", params, items),)), *inputs)


FINITE = np.array([0.0, 1.0, -1.0, 2.5, 3.0, 2.0], np.float32)
P, Q = (a.ravel() for a in np.meshgrid(FINITE, FINITE))
GRADIENTS = (
    (Pow(), (np.abs(P), Q), lambda t, x, y: t.pow(x, y)),
    (Remainder(), (P[6:], Q[6:]), lambda t, x, y: t.remainder(x, y)),
    (Maximum(), (P, Q), lambda t, x, y: t.maximum(x, y)),
    (Minimum(), (P, Q), lambda t, x, y: t.minimum(x, y)),
    (Max((1,)), (TIES,), lambda t, x: t.amax(x, 1)),
    (Min((0, 1)), (TIES,), lambda t, x: t.amin(x, (0, 1))),
    (Prod((1,)), (TIES,), lambda t, x: t.prod(x, 1)),
    (REGISTRY["abs"](), (FINITE,), lambda t, x: t.abs(x)),
    (REGISTRY["sqrt"](), (np.abs(FINITE),), lambda t, x: t.sqrt(x)),
    (REGISTRY["rsqrt"](), (FINITE[1:2],), lambda t, x: t.rsqrt(x)),
)


@pytest.mark.parametrize(
    ("op", "inputs", "theirs"), GRADIENTS, ids=lambda v: getattr(v, "name", "")
)
def test_gradients_are_torchs(op, inputs, theirs):
    torch = pytest.importorskip("torch")
    xs = [torch.from_numpy(a.copy()).requires_grad_() for a in inputs]
    theirs(torch, *xs).sum().backward()
    for got, x in zip(gradients(op, inputs), xs, strict=True):
        np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-6)


def apply(op, *inputs):
    inputs = [np.asarray(a) for a in inputs]
    return evaluate(program_of(op, map(TensorType.of, inputs)), *inputs)[0]


def test_the_sign_of_nan_is_0_as_in_pytorch():
    np.testing.assert_array_equal(apply(Sign(), SPECIAL)[:6], [0, 1, -1, 0, 0, 1])


def test_arg_reductions_take_the_first_and_nan_wins():
    np.testing.assert_array_equal(apply(Argmax(1), TIES), [1, 0, 2])
    np.testing.assert_array_equal(apply(Argmin(1), TIES), [0, 0, 1])
    np.testing.assert_array_equal(apply(Argmax(1), NANS), [1, 0, 2])
    np.testing.assert_array_equal(apply(Argmin(1), NANS), [1, 0, 1])


def test_extrema_propagate_nan_and_mean_any_and_all_on_bools():
    np.testing.assert_array_equal(apply(Max((1,)), NANS), [NAN, NAN, 5])
    np.testing.assert_array_equal(apply(Min((1,)), NANS), [NAN, NAN, -1])
    bools = np.array([[True, False], [False, False], [True, True]])
    np.testing.assert_array_equal(apply(Max((1,)), bools), [True, False, True])
    np.testing.assert_array_equal(apply(Min((1,)), bools), [False, False, True])


def test_integers_wrap_and_divide_by_zero_to_zero():
    assert apply(REGISTRY["add"](), np.uint8(200), np.uint8(100)) == 44
    assert apply(REGISTRY["sum"](axes=(0,)), np.full(3, 100, np.uint8)).dtype == np.uint8
    assert apply(FloorDivide(), 7, 0) == 0
    assert apply(Remainder(), 7, 0) == 0


def test_an_integer_power_with_a_negative_exponent_rounds_to_zero():
    base, exponent = np.array([1, -1, -1, 2, 0]), np.array([-3, -3, -2, -1, -1])
    np.testing.assert_array_equal(apply(Pow(), base, exponent), [1, -1, 1, 0, 0])


def test_rounding_is_half_to_even_and_casts_truncate():
    np.testing.assert_array_equal(
        apply(Round(), np.array([0.5, 1.5, 2.5, -0.5], np.float32)), [0, 2, 2, 0]
    )
    np.testing.assert_array_equal(apply(Cast(i64), np.array([1.9, -1.9], np.float32)), [1, -1])
    assert apply(Cast(DTYPES["bool"]), np.float32(0.3))


def test_integers_cast_to_floats_as_exactly_as_possible():
    x = np.array([2**24 + 1, 2**53 + 1])
    np.testing.assert_array_equal(apply(Cast(f32), x), x.astype(np.float32))
    exact = evaluate(program_of(Cast(f32), [TensorType.of(x)]), x, precision="f64")[0]
    assert exact[0] == 2**24 + 1


def test_constants_are_exact_in_float64():
    for dtype in (f32, DTYPES["bf16"]):
        program = program_of(REGISTRY["full"](shape=(2,), value=0.1, dtype=dtype), [])
        assert evaluate(program, precision="f64")[0].tolist() == [0.1, 0.1]
        assert evaluate(program)[0][0] == np.array(0.1, dtype.numpy)


def test_prod_gradient_is_right_at_zeros():
    for x, want in (((0, 0, 3), (0, 0, 0)), ((0, 2, 3), (6, 0, 0)), ((1, 2, 3), (6, 3, 2))):
        np.testing.assert_array_equal(gradients(Prod((0,)), (np.array(x, np.float32),))[0], want)


def test_the_gradient_of_an_unexpanded_marker_is_an_error_not_zero():
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, ()))
    inner = b.apply(Gradient(), b.apply(REGISTRY["exp"](), x), x)
    outer = b.apply(Gradient(), b.apply(REGISTRY["item"](index=0), inner), x)
    program = Program((b.graph("main", [x], [b.apply(REGISTRY["item"](index=0), outer)]),))
    with pytest.raises(GradientError, match="gradient: no gradient flows through"):
        evaluate(program, np.float32(1))


def test_where_alone_takes_any_dtype_and_type_is_no_function():
    rows, columns = vtc.where(vtc.tensor([[0, 2], [3, 0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    with pytest.raises(ArgumentError, match=r"Tensor.type is what a tensor is, f32\[2\].*x.to"):
        vtc.ones(2).type(vtc.float64)
