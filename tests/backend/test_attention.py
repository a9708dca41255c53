"""Attention and its gradient in C, against float64, on 1 to 3 threads."""

import numpy as np
import pytest
from regions import built, call, planned, region

from vtc.errors import CodegenError
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.attention import AttentionGradient, ScaledDotProductAttention
from vtc.ir.ops.control import Item
from vtc.ir.types import TensorType, bf16, f16, f32, f64

TOLERANCE = {f64: 1e-13, f32: 4e-6, f16: 4e-3, bf16: 3e-2}
RNG = np.random.default_rng(1)


def normal(*shape, dtype=f32):
    return RNG.normal(size=shape).astype(dtype.numpy)


def scale_of(q):
    return max(q.shape[-1], 1) ** -0.5


def forward(causal=False):
    def body(q, k, v, *masks):
        op = ScaledDotProductAttention(is_causal=causal, scale=scale_of(q))
        both = q.apply(op, k, v, *masks)
        return both.item(0), both.item(1)

    return body


def backward(causal=False):
    def body(q, k, v, g, lse, delta, *masks):
        op = AttentionGradient(is_causal=causal, scale=scale_of(q))
        found = q.apply(op, k, v, g, lse, delta, *masks)
        return found.item(0), found.item(1), found.item(2)

    return body


def run(body, arrays, *, dims=(), types=None, sizes=(), optimize=True):
    """The outputs of one region, which are the same on any number of threads."""
    program = region(types or [TensorType.of(a) for a in arrays], body, dims)
    plan, function = built(program, optimize=optimize)
    code, found = call(plan, function, arrays, sizes, threads=None)
    assert code == 0
    for threads in (1, 2, 3):
        again = call(plan, function, arrays, sizes, threads=threads)[1]
        assert [a.tobytes() for a in again] == [a.tobytes() for a in found]
    return program, found


def assert_near(got, want, dtype):
    """Within the tolerance of ``dtype``, relative to the largest element."""
    want = np.asarray(want, np.float64)
    finite = np.isfinite(want)
    largest = np.abs(want[finite]).max(initial=1.0)
    np.testing.assert_allclose(
        got.astype(np.float64), want, rtol=0, atol=TOLERANCE[dtype] * largest
    )


def check(body, arrays, dtype=f32, **more):
    program, found = run(body, arrays, **more)
    for g, w in zip(found, evaluate(program, *arrays, precision="f64"), strict=True):
        assert_near(g, w, dtype)
    return found


def check_both(q, k, v, *masks, causal=False):
    """Attention, and its gradient at a random cotangent."""
    out, lse = check(forward(causal), (q, k, v, *masks), dtype_of(q))
    g = normal(*out.shape, dtype=dtype_of(q))
    delta = (g.astype(np.float64) * out).sum(-1).astype(lse.dtype)
    check(backward(causal), (q, k, v, g, lse, delta, *masks), dtype_of(q))


def dtype_of(array):
    return TensorType.of(array).dtype


def operands(lead, t, s, d, e, shared=1, dtype=f32):
    few = (*lead[:-1], lead[-1] // shared) if lead else ()
    return (
        normal(*lead, t, d, dtype=dtype),
        normal(*few, s, d, dtype=dtype),
        normal(*few, s, e, dtype=dtype),
    )


SHAPES = {
    "rank 2": ((), 5, 7, 3, 2),
    "one of each": ((1, 1), 1, 1, 1, 1),
    "one query": ((2, 3), 1, 130, 64, 64),
    "few queries": ((2,), 16, 70, 32, 32),
    "a block": ((2, 2), 64, 64, 32, 32),
    "odd": ((3,), 101, 67, 17, 33),
    "wide": ((1, 2), 40, 50, 256, 80),
    "long": ((1, 2), 1000, 1000, 64, 64),
    "one key": ((2,), 70, 1, 8, 8),
}


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, causal):
    check_both(*operands(*SHAPES[name]), causal=causal)


@pytest.mark.parametrize("dtype", [f64, f16, bf16], ids=str)
def test_dtypes(dtype):
    check_both(*operands((2, 2), 70, 90, 24, 40, dtype=dtype), causal=True)


MASKS = {
    "added": lambda: normal(70, 90),
    "added to all queries": lambda: normal(4, 1, 90),
    "added to all keys": lambda: normal(4, 70, 1),
    "bool": lambda: RNG.random((4, 70, 90)) < 0.5,
    "padding": lambda: RNG.random((2, 1, 1, 90)) < 0.5,
    "nothing": lambda: np.zeros((1,), bool),
    "some rows attend to nothing": lambda: np.arange(70)[:, None] % 3 > np.zeros(90),
    "minus infinity": lambda: np.where(RNG.random((70, 90)) < 0.9, -np.inf, 0).astype(np.float32),
    "the lowest": lambda: np.where(RNG.random((70, 1)) < 0.5, -3e38, 0).astype(np.float32),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    check_both(*operands((2, 4), 70, 90, 16, 32), MASKS[name]())


def test_a_row_that_attends_to_nothing_is_zero():
    q, k, v = operands((2,), 40, 50, 16, 16)
    out, lse = check(forward(), (q, k, v, np.arange(40)[:, None] < np.full(50, 7)))
    assert not out[:, 7:].any()
    assert (lse[:, 7:] == -np.inf).all()
    assert np.isfinite(lse[:, :7]).all()


@pytest.mark.parametrize("shared", [2, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_heads_of_queries_share_those_of_keys(shared, causal):
    q, k, v = operands((2, 6), 70, 90, 32, 16, shared)
    check_both(q, k, v, normal(2, 6, 70, 90), causal=causal)
    wide = [np.repeat(x, shared, 1) for x in (k, v)]
    _, one = run(forward(causal), (q, k, v))
    _, other = run(forward(causal), (q, *wide))
    np.testing.assert_array_equal(one[0], other[0])


def test_scores_far_apart_do_not_overflow():
    q, k, v = operands((2,), 40, 70, 16, 16)
    for factor in (1e2, 1e4, 1e18):
        program, (out, lse) = run(forward(), (q * np.float32(factor), k, v))
        want, rows = evaluate(program, q * np.float32(factor), k, v, precision="f64")
        np.testing.assert_allclose(lse, rows, rtol=1e-5)
        if factor < 1e3:
            np.testing.assert_allclose(out, want, atol=1e-3)
        assert np.isfinite(out).all()


def test_nan_and_infinity_are_those_of_numpy():
    q, k, v = operands((3,), 40, 70, 16, 16)
    q[0, 3], k[1, 5, 0], v[2, 60, 3] = np.nan, np.inf, np.inf
    program, found = run(forward(), (q, k, v))
    for g, w in zip(found, evaluate(program, q, k, v), strict=True):
        np.testing.assert_array_equal(np.isnan(g), np.isnan(w))
        np.testing.assert_array_equal(np.isinf(g), np.isinf(w))


def test_causal_rows_do_not_see_what_comes_later():
    q, k, v = operands((1,), 200, 200, 16, 16)
    _, (before, _) = run(forward(causal=True), (q, k, v))
    k[:, 150:], v[:, 150:] = 9.0, 7.0
    _, (after, _) = run(forward(causal=True), (q, k, v))
    np.testing.assert_array_equal(before[:, :150], after[:, :150])


@pytest.mark.parametrize("t", [0, 3])
@pytest.mark.parametrize(("s", "d", "e"), [(0, 4, 4), (4, 0, 4), (4, 4, 0), (0, 0, 0)])
def test_no_elements(t, s, d, e):
    check_both(*operands((2,), t, s, d, e))


def heads(x, which, count):
    """``x [B, T, 3 * C]`` as queries, keys or values ``[B, H, T, D]``."""
    batch, rows, wide = x.shape
    width = wide // 3 // count
    parts = x.reshape((batch, rows, 3, count, width))
    zero = (0,) * 5
    starts = (*zero[:2], which, 0, 0)
    stops = (batch, rows, which + 1, count, width)
    one = parts.op("slice", starts=starts, stops=stops, steps=(1,) * 5)
    return one.reshape((batch, rows, count, width)).permute((0, 2, 1, 3))


def pointers_of(program):
    """Names of operands that the kernel of ``program`` reads where they lie."""
    plan, _ = built(program)
    source = plan.kernels[0].source
    return {x for x in "qkvg" if f"const scalar *const {x} = (x" in source}


def test_parts_of_one_tensor_are_read_where_they_lie():
    def body(x):
        q, k, v = (heads(x, i, 4) for i in range(3))
        both = q.apply(ScaledDotProductAttention(is_causal=True, scale=0.25), k, v)
        return (both.item(0),)

    x = normal(2, 75, 3 * 4 * 16)
    check(body, (x,))
    assert pointers_of(region([TensorType.of(x)], body)) == {"q", "k", "v"}


def test_producers_of_operands_and_masks_are_inlined():
    def body(q, k, v, bias, limit):
        q = q * 0.5 + 1.0
        k = k.cast(f32)
        v = v.transpose(1, 2)
        mask = (bias.broadcast_to((2, 40, 50)) * 2.0).exp() - limit.expand((1, 2), (40, 50))
        both = q.apply(ScaledDotProductAttention(is_causal=False, scale=0.25), k, v, mask)
        return both.item(0), both.item(1)

    arrays = normal(2, 40, 20), normal(2, 50, 20, dtype=f16), normal(2, 30, 50)
    check(body, (*arrays, normal(40, 1), normal(2)))


def test_what_follows_the_result_is_computed_where_it_is_stored():
    def body(q, k, v, r):
        both = q.apply(ScaledDotProductAttention(is_causal=False, scale=0.25), k, v)
        out = both.item(0)
        wide = both.item(1).expand((2,), (24,))
        rows = both.item(1)
        return (out * 2.0 + r).cast(f16), out.reshape((80, 24)).tanh(), wide * out, rows, wide.exp()

    arrays = normal(2, 40, 16), normal(2, 50, 16), normal(2, 50, 24), normal(2, 40, 24)
    check(body, arrays, f16)


def test_few_queries_and_a_mask():
    for t in (1, 2, 3):
        check_both(*operands((2, 4), t, 90, 20, 32, 2), RNG.random((2, 1, t, 90)) < 0.3)
        check_both(*operands((2,), t, 90, 20, 32), normal(t, 90), causal=True)


def test_results_read_in_another_order_are_refused():
    def body(q, k, v):
        both = q.apply(ScaledDotProductAttention(is_causal=False, scale=0.25), k, v)
        return (both.item(0).permute((0, 2, 1)),)

    with pytest.raises(CodegenError, match="expected results to be read in their own order, got"):
        built(region([TensorType(f32, (2, 4, 8))] * 3, body))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 70, 90), (3, 0, 5), (2, 5, 0), (0, 4, 4)])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_symbolic_sizes(sizes, causal):
    b, t, s = sizes
    batch, queries, keys = (Sym.var(n) for n in "BTS")
    dims = tuple(Dim(n, 0, None) for n in "BTS")
    q, k, v = operands((b, 4), t, s, 16, 32, 2)
    types = [
        TensorType(f32, (batch, 4, queries, 16)),
        TensorType(f32, (batch, 2, keys, 16)),
        TensorType(f32, (batch, 2, keys, 32)),
    ]
    found = check(forward(causal), (q, k, v), dims=dims, types=types, sizes=sizes)
    out, lse = found
    g = normal(*out.shape)
    delta = (g * out).sum(-1)
    types += [
        TensorType(f32, (batch, 4, queries, 32)),
        *[TensorType(f32, (batch, 4, queries))] * 2,
    ]
    arrays = (q, k, v, g, lse, delta)
    check(backward(causal), arrays, dims=dims, types=types, sizes=sizes)


def test_only_the_gradients_that_are_wanted():
    q, k, v = operands((2,), 70, 80, 16, 16)
    _, (out, lse) = run(forward(), (q, k, v))
    g = normal(*out.shape)
    arrays = (q, k, v, g, lse, (g * out).sum(-1))
    _, whole = run(backward(), arrays)
    for index in range(3):
        _, (one,) = run(lambda *xs, i=index: (backward()(*xs)[i],), arrays)
        np.testing.assert_array_equal(one, whole[index])


def test_the_gradient_of_a_mask_is_spelled_out():
    b = GraphBuilder()
    arrays = [*operands((2,), 5, 6, 4, 4), normal(2, 5, 4), normal(2, 5), normal(2, 5), normal(6)]
    params = [b.param(f"x{i}", TensorType.of(a)) for i, a in enumerate(arrays)]
    found = b.apply(AttentionGradient(is_causal=False, scale=0.1, to_mask=True), *params)
    outputs = [b.apply(Item(index=i), found) for i in range(4)]
    program = Program((b.graph("main", params, outputs),))
    plan, function = built(planned(program))
    assert not any("attention" in k.symbol for k in plan.kernels)
    _, got = call(plan, function, arrays)
    for g, w in zip(got, evaluate(program, *arrays, precision="f64"), strict=True):
        assert_near(g, w, f32)
