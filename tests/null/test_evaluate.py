"""The judge of everything: what evaluating a program means, and what it refuses."""

import numpy as np
import pytest

import vtc.ir.ops  # noqa: F401
from vtc.errors import ArgumentError, IndexRangeError, TypeCheckError, VerifyError
from vtc.ir.dims import Sym, floordiv
from vtc.ir.evaluate import ArrayBuilder, bind, bound_type, compute, evaluate
from vtc.ir.graph import Node
from vtc.ir.ops.control import Gradient
from vtc.ir.ops.elementwise import Add, Cast
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.reduce import Sum
from vtc.ir.text import parse
from vtc.ir.types import TensorType, TupleType, bf16, f8e4m3, f8e5m2, f16, f32, f64, i64

B, T = Sym.var("B"), Sym.var("T")


def run(text, *arrays, **options):
    return evaluate(parse(text), *arrays, **options)


def test_symbols_are_bound_from_shapes():
    text = """\
def f(x: f32[B, 2*T], y: f32[T]):
    z = full(shape=(B*T + 1,), value=2.0, dtype=f32)
    return z, x
"""
    z, x = run(text, np.ones((3, 4)), np.ones(2))
    assert z.shape == (7,)
    assert x.dtype == np.float32


@pytest.mark.parametrize("shapes", [((3, 4), (3,)), ((3,), (2,)), ((3, 4, 1), (2,))])
def test_shapes_that_disagree(shapes):
    text = "def f(x: f32[B, 2*T], y: f32[T]):\n    return x"
    with pytest.raises(ArgumentError) as error:
        run(text, *map(np.zeros, shapes))
    got = f"got an array of shape {shapes[0]}"
    assert str(error.value) == f"x: expected f32[B, 2*T], {got}"


def test_the_number_of_arrays():
    with pytest.raises(ArgumentError, match="f takes 1 arrays, got 2"):
        run("def f(x: f32[4]):\n    return x", np.ones(4), np.ones(4))


def test_bind_and_bound_type():
    params = [Node("x", TensorType(f32, (B, 2 * B))), Node("y", TensorType(f32, (floordiv(T, B),)))]
    assert bind(params, [(3, 6), (2,)]) == {"B": 3}
    both = TupleType((TensorType(f32, (B, 4)), TensorType(i64, (2 * B,))))
    assert str(bound_type(both, {"B": 3})) == "(f32[3, 4], i64[6])"


@pytest.mark.parametrize("dtype", [f16, bf16, f8e4m3, f8e5m2])
def test_halves_accumulate_in_f32_and_round_once(dtype):
    count = 256 if dtype.itemsize == 1 else 4096  # one by one they would stop far below
    ones = np.ones(count, dtype.numpy)
    (total,) = run(f"def f(x: {dtype}[{count}]):\n    s = sum(x, axes=(0,))\n    return s", ones)
    assert total.dtype == dtype.numpy
    assert total == count
    third = np.full(3, 1 / 3).astype(dtype.numpy)
    got = compute(Add(), [third, third], TensorType(dtype, (3,)))
    exact = third.astype(np.float32) + third.astype(np.float32)
    np.testing.assert_array_equal(got, exact.astype(dtype.numpy))


def test_each_op_rounds():
    """In bf16, 256 + 1 is 256, however often."""
    text = "def f(x: bf16[1], o: bf16[1]):\n    a = add(x, o)\n    b = add(a, o)\n    return b"
    big, one = (np.array([v]).astype(bf16.numpy) for v in (256, 1))
    assert run(text, big, one)[0] == 256
    assert run(text, big, one, precision="f64")[0] == 258


def test_moving_data_keeps_every_bit():
    x = np.array([[0, 0x7FC1, 0x8000]], np.uint16).view(bf16.numpy)  # a NaN with a payload, -0
    (y,) = run("def f(x: bf16[1, 3]):\n    y = permute(x, axes=(1, 0))\n    return y", x)
    np.testing.assert_array_equal(y.view(np.uint16), x.view(np.uint16).T)


def test_f64_precision_computes_in_f64_and_skips_casts():
    text = """\
def f(x: f32[3], n: i64[3]):
    h = cast(x, dtype=bf16)
    y = cast(h, dtype=f32)
    k = full(shape=(3,), value=0.1, dtype=f32)
    z = mul(y, k)
    i = cast(z, dtype=i64)
    return z, i, n
"""
    x, n = np.array([1 / 3, 1e10 + 1, 2.0]), np.array([1, 2, 3])
    z, i, m = run(text, x, n, precision="f64")
    assert (z.dtype, i.dtype, m.dtype) == (np.float64, np.int64, np.int64)
    np.testing.assert_array_equal(z, x * 0.1)
    assert run(text, x, n)[0].dtype == np.float32


def test_inputs_take_the_declared_dtype():
    (y,) = run("def f(x: f32[2]):\n    return x", np.array([1, 2]))
    assert y.dtype == np.float32


def test_calls_pass_values_and_symbols():
    text = """\
def double(a: f32[B]):
    y = add(a, a)
    z = full(shape=(B,), value=1.0, dtype=f32)
    return y, z

def more(a: f32[B]):
    t = call(a, graph="double", type=(f32[B], f32[B]))
    y = item(t, index=0)
    z = item(t, index=1)
    s = add(y, z)
    return s

def f(x: f32[B]):
    y = call(x, graph="more", type=f32[B])
    return y
"""
    np.testing.assert_array_equal(run(text, np.arange(3))[0], [1, 3, 5])


def test_the_gradient_marker_runs_the_reverse_sweep():
    text = """\
def f(x: f32[3], y: f32[3], u: f32[2]):
    a = mul(x, y)
    b = add(a, x)
    s = sum(b, axes=(0,))
    g = gradient(s, x, y, u, a)
    gx = item(g, index=0)
    gy = item(g, index=1)
    gu = item(g, index=2)
    ga = item(g, index=3)
    return gx, gy, gu, ga
"""
    x, y = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    gx, gy, gu, ga = run(text, x, y, np.ones(2))
    np.testing.assert_array_equal(gx, y + 1)
    np.testing.assert_array_equal(gy, x)
    np.testing.assert_array_equal(gu, [0, 0])
    np.testing.assert_array_equal(ga, [1, 1, 1])


def test_seeded_gradients_and_stopped_ones():
    text = """\
def f(x: f32[2], seed: f32[2]):
    y = mul(x, x)
    c = stop_gradient(y)
    z = mul(y, c)
    g = gradient(z, seed, x, seeded=True)
    gx = item(g, index=0)
    return gx
"""
    x = np.array([2.0, 3])
    np.testing.assert_array_equal(run(text, x, np.array([1.0, 10]))[0], [2 * 2**3, 10 * 2 * 3**3])
    assert Gradient().infer(TensorType(f32, ()), TensorType(f32, (2,))) == TupleType(
        (TensorType(f32, (2,)),)
    )
    with pytest.raises(TypeCheckError, match=r"gradient: expected a scalar, got f32\[2\]"):
        Gradient().infer(TensorType(f32, (2,)))


def test_an_index_out_of_range_is_an_error():
    text = "def f(x: f32[3], i: i64[1]):\n    y = index(x, i, axes=(0,))\n    return y"
    assert run(text, np.arange(3), np.array([2]))[0] == 2
    for bad in (3, -1):
        with pytest.raises(IndexRangeError, match=f"index: .*{bad}"):
            run(text, np.arange(3), np.array([bad]))


def test_warnings_of_numpy_are_meaning_not_news():
    text = "def f(x: f32[2]):\n    y = log(x)\n    z = div(x, x)\n    return y, z"
    y, z = run(text, np.array([0.0, -1.0]))
    np.testing.assert_array_equal(y, [-np.inf, np.nan])
    np.testing.assert_array_equal(z, [np.nan, 1])


def test_a_reference_that_breaks_its_type_is_noticed():
    with pytest.raises(VerifyError, match=r"a reference gave shape \(\) where f32\[2\] was"):
        compute(Sum((0,)), [np.ones(3, np.float32)], TensorType(f32, (2,)))


def test_a_param_inside_a_body_is_noticed():
    p = parse("def f(x: f32[2]):\n    y = neg(x)\n    return y")
    g = p.entry
    broken = type(g)(g.name, g.params, (Node("z", TensorType(f32, (2,))), *g.nodes), g.outputs)
    with pytest.raises(VerifyError, match="z is a parameter inside the body of f"):
        evaluate(p.with_entry(broken), np.ones(2))


def test_expressions_compute_with_arrays():
    x = Expr(ArrayBuilder(), np.array([1.0, 4.0], np.float32))
    y = (x * 2.0 + 1).cast(f64)
    np.testing.assert_array_equal(y.value, [3.0, 9.0])
    assert y.type == TensorType(f64, (2,))
    np.testing.assert_array_equal(x.op("cast", dtype=i64).value, [1, 4])
    exact = Expr(ArrayBuilder("f64"), np.array([0.1]))
    assert exact.apply(Cast(bf16)).value == 0.1
