"""Attention and its gradient in Triton, in the interpreter, against float64; compiled for GPUs."""

import numpy as np
import pytest
from interpret import run as launch
from plans import run_plan

from vtc.codegen.cuda import generate
from vtc.codegen.families import root
from vtc.codegen.region import Region
from vtc.codegen.render import render
from vtc.codegen.triton.attention import attention, candidates
from vtc.codegen.triton.attention_gradient import attention_gradient
from vtc.codegen.triton.attention_gradient import candidates as gradient_candidates
from vtc.codegen.triton.attention_tiles import Sizes, Tile
from vtc.codegen.triton.attention_tiles import forward as forward_tiles
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.codegen.triton.phases import Phase
from vtc.errors import CodegenError
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.attention import AttentionGradient, ScaledDotProductAttention
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, TupleType, bf16, bool_, f16, f32, f64

TARGETS = (cuda(90), cuda(80, processors=108, shared=166_912))
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


def region(types, body, dims=()):
    """A planned program that calls one region: ``body`` maps Exprs to the values it gives."""
    inner, outer = GraphBuilder(), GraphBuilder()
    params = [inner.param(f"a{i}", t) for i, t in enumerate(types)]
    out = [e.value for e in body(*(Expr(inner, p) for p in params))]
    graph = inner.graph("k0", params, out)
    inputs = [outer.param(f"x{i}", t) for i, t in enumerate(types)]
    type = out[0].type if len(out) == 1 else TupleType(tuple(o.type for o in out))
    at = tuple(-1 - i for i in range(len(out)))
    node = outer.apply(Call(graph="k0", type=type, at=at), *inputs)
    nodes = [node]
    if len(out) > 1:
        nodes = [outer.apply(Item(index=i), node) for i in range(len(out))]
    return Program((graph, outer.graph("main", inputs, nodes)), dims)


def run(body, arrays, *, dims=(), types=None):
    """The outputs of one region."""
    program = region(types or [TensorType.of(a) for a in arrays], body, dims)
    return program, run_plan(generate(program, cuda(90)), arrays)


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
    "long": ((1, 2), 300, 300, 64, 64),
    "more queries than keys": ((2,), 200, 70, 16, 16),
    "more keys than queries": ((2,), 70, 200, 16, 16),
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


def test_parts_of_one_tensor_are_read_where_they_lie():
    def body(x):
        q, k, v = (heads(x, i, 4) for i in range(3))
        both = q.apply(ScaledDotProductAttention(is_causal=True, scale=0.25), k, v)
        return (both.item(0),)

    x = normal(2, 75, 3 * 4 * 16)
    check(body, (x,))
    source = generate(region([TensorType.of(x)], body), cuda(90)).kernels[0].source
    for name in "qkv":
        assert f"{name} = tl.load(x0 + " in source


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
        generate(region([TensorType(f32, (2, 4, 8))] * 3, body), cuda(90))


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
    found = check(forward(causal), (q, k, v), dims=dims, types=types)
    out, lse = found
    g = normal(*out.shape)
    delta = (g * out).sum(-1)
    types += [
        TensorType(f32, (batch, 4, queries, 32)),
        *[TensorType(f32, (batch, 4, queries))] * 2,
    ]
    arrays = (q, k, v, g, lse, delta)
    check(backward(causal), arrays, dims=dims, types=types)


def test_only_the_gradients_that_are_wanted():
    q, k, v = operands((2,), 70, 80, 16, 16)
    _, (out, lse) = run(forward(), (q, k, v))
    g = normal(*out.shape)
    arrays = (q, k, v, g, lse, (g * out).sum(-1))
    _, whole = run(backward(), arrays)
    for index in range(3):
        _, (one,) = run(lambda *xs, i=index: (backward()(*xs)[i],), arrays)
        np.testing.assert_array_equal(one, whole[index])


def types(dtype, body, lead, t, s, d, shared=1):
    """The types of the operands of ``body``."""
    few = (*lead[:-1], lead[-1] // shared)
    found = [TensorType(dtype, (*n, m, d)) for n, m in ((lead, t), (few, s), (few, s))]
    if body is backward:
        row = TensorType(dtype.accumulate, (*lead, t))
        found += [TensorType(dtype, (*lead, t, d)), row, row]
    return found


COMPILED = [(bf16, 64), (bf16, 128), (bf16, 256), (f32, 256), (f64, 64), (f64, 256)]


@pytest.mark.parametrize("body", [forward, backward])
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("dtype", "d"), COMPILED)
def test_what_is_taken_first_compiles(dtype, d, target, body, store):
    program = region(types(dtype, body, (2, 8), 1024, 1024, d), body(causal=True))
    plan = generate(program, target)
    assert len(plan.kernels) == (1 if body is forward else 2)
    compile_kernels(plan.kernels, target, store)


@pytest.mark.parametrize("body", [forward, backward])
@pytest.mark.parametrize("mask", [f32, bool_], ids=str)
def test_masks_and_symbolic_sizes_compile(mask, body, store):
    batch, queries = Sym.var("B"), Sym.var("T")
    given = types(bf16, body, (batch, 8), queries, queries, 64, 2)
    given.append(TensorType(mask, (batch, 1, queries, queries)))
    program = region(given, body(causal=True), (Dim("B", 1, None), Dim("T", 1, None)))
    compile_kernels(generate(program, cuda(90)).kernels, cuda(90), store)


@pytest.mark.parametrize("body", [forward, backward])
def test_indices_of_large_operands_take_64_bits(body, store):
    for rows, wide in ((2**10, False), (2**22, True)):
        program = region(types(bf16, body, (8, 8), rows, rows, 64), body(causal=True))
        for kernel in generate(program, cuda(90)).kernels:
            assert (".to(tl.int64))[:, None]" in kernel.source) is wide
            compile_kernels([kernel], cuda(90), store)


@pytest.mark.parametrize("body", [forward, backward])
def test_hopper_multiplies_from_shared_memory(body, store):
    program = region(types(bf16, body, (2, 8), 1024, 1024, 128), body(causal=True))
    for kernel in generate(program, cuda(90)).kernels:
        text = assembly(kernel, cuda(90), store)
        assert "wgmma.mma_async" in text
        assert "mma.sync" not in text
        assert "cp.async.cg.shared.global" in text  # 16 bytes at a time


TILES = [(16, 16), (32, 128), (128, 32)]


@pytest.mark.parametrize(("queries", "keys"), TILES)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_any_tile_computes_the_same(queries, keys, causal):
    tile = Tile(queries=queries, keys=keys)
    q, k, v = operands((2,), 150, 170, 16, 32)
    out, lse = tiled(forward(causal), (q, k, v, normal(150, 170)), attention, tile)
    g = normal(*out.shape)
    arrays = (q, k, v, g, lse, (g * out).sum(-1), normal(150, 170))
    tiled(backward(causal), arrays, attention_gradient, (tile, tile))


def tiled(body, arrays, family, tiles):
    """What a region computes with given tiles."""
    program = region([TensorType.of(a) for a in arrays], body)
    graph = program.by_name["k0"]
    made = family(Region.of(graph, {}), root(graph), cuda(90), tiles)
    phases = made if isinstance(made, tuple) else (Phase(made),)
    want = evaluate(program, *arrays, precision="f64")
    found = [np.full(w.shape, np.nan, np.float32) for w in want]
    for phase in phases:
        source = render(phase.spec.template, "py", symbol="kernel", spec=phase.spec)
        launch(source, "kernel", [*arrays, *found], grid=phase.spec.grid)
    for g, w in zip(found, want, strict=True):
        assert_near(g, w, f32)
    return found


@pytest.mark.parametrize("t", [1, 100, 1024])
@pytest.mark.parametrize("body", [forward, backward])
@pytest.mark.parametrize("dtype", [bf16, f32])
def test_candidates_differ_and_fit(dtype, body, t):
    graph = region(types(dtype, body, (2, 8), t, t, 64), body()).by_name["k0"]
    family = candidates if body is forward else gradient_candidates
    found = family(Region.of(graph, {}), root(graph), cuda(90))
    assert len(set(found)) == len(found) >= 1
    for tile in found if body is forward else [t for pair in found for t in pair]:
        assert 16 <= tile.queries <= max(16, 2 * t)
        assert 16 <= tile.keys <= max(16, 2 * t)


def test_few_programs_have_fewer_queries_each():
    sizes = [Sizes(heads, 1024, 1024, 64) for heads in (1, 16, 64)]
    assert [forward_tiles(s, bf16, cuda(90))[0].queries for s in sizes] == [64, 64, 128]
