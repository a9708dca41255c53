"""Matrix products in Triton against float64: shapes, layouts, dtypes, what is around them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from plans import lowered, run_plan

import vtc
from vtc.codegen.cuda import generate
from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.triton.compile import assembly, try_kernels
from vtc.codegen.triton.matmul import candidates, matmul
from vtc.codegen.triton.resources import resources
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.control import Call, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.plan import Kernel
from vtc.ir.target import cuda
from vtc.ir.types import (
    TensorType,
    TupleType,
    bf16,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
)

# Of the largest magnitude that a row times a column can have: a few roundings of each.
TOLERANCE = {f64: 1e-14, f32: 2e-6, f16: 1e-3, bf16: 8e-3, f8e4m3: 7e-2, f8e5m2: 0.15}
FLAGS = tuple(product((False, True), repeat=2))
TARGETS = (cuda(90), cuda(80, processors=108, shared=166_912))


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


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def operands(dtype, m, n, k, tx, ty, batch=()):
    """The types of the operands, and their values."""
    shapes = ((*batch, *((k, m) if tx else (m, k))), (*batch, *((n, k) if ty else (k, n))))
    arrays = []
    for i, shape in enumerate(shapes):
        wide = normal(*shape, seed=i) * (4 if dtype.kind == "int" else 1)
        wide = np.abs(wide) if dtype is u8 else wide
        arrays.append(wide.astype(dtype.numpy))
    return [TensorType(dtype, s) for s in shapes], arrays


def times(x, y, flags):
    return x.matmul(y, transpose_x=flags[0], transpose_y=flags[1])


def assert_near(got, want, dtype, scale=1.0):
    assert got.shape == want.shape
    if dtype.kind == "int":
        np.testing.assert_array_equal(got, want)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    most = max(scale, np.abs(b[finite]).max(initial=0))
    np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=TOLERANCE[dtype] * most)


def check(types, body, arrays, dims=(), dtype=f32):
    """The kernel of one region is near float64; its source."""
    program = region(types, body, dims)
    plan = generate(program, cuda(90))
    assert len(plan.kernels) == 1
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays, precision="f64")
    for g, w in zip(run_plan(plan, arrays), wanted, strict=True):
        assert_near(g, np.asarray(w), dtype)
    return plan.kernels[0].source


SHAPES = (
    (1, 1, 1),
    (1, 1, 300),
    (1, 40, 300),
    (40, 1, 9),
    (2, 100, 33),
    (3, 5, 7),
    (10, 64, 70),
    (13, 33, 1),
    (12, 32, 16),
    (25, 70, 600),
    (100, 200, 0),
    (130, 17, 40),
)


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_shapes_and_layouts(shape, tx, ty):
    types, arrays = operands(f32, *shape, tx, ty)
    check(types, lambda x, y: (x.matmul(y, transpose_x=tx, transpose_y=ty),), arrays)


DTYPES = [f64, f16, bf16, f8e4m3, f8e5m2, i8, u8, i32, i64]


@pytest.mark.parametrize(("tx", "ty"), FLAGS[1:3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(25, 70, 300), (1, 40, 77), (40, 1, 64), (64, 32, 128)], ids=str)
def test_all_dtypes(shape, dtype, tx, ty):
    types, arrays = operands(dtype, *shape, tx, ty)
    if dtype.itemsize == 1 and dtype.kind == "float":  # of a small range
        arrays = [(a.astype(np.float32) / 8).astype(a.dtype) for a in arrays]

    def body(x, y):
        return (x.matmul(y, transpose_x=tx, transpose_y=ty),)

    check(types, body, arrays, dtype=dtype)


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
@pytest.mark.parametrize("shape", [(9, 20, 8), (1, 20, 40), (33, 1, 5), (1, 1, 7)], ids=str)
def test_batches(shape, tx, ty):
    types, arrays = operands(f32, *shape, tx, ty, batch=(2, 3))
    check(types, lambda x, y: (x.matmul(y, transpose_x=tx, transpose_y=ty),), arrays)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (3, 50), (40, 7), (600, 130)], ids=str)
def test_sizes_that_are_not_known(sizes):
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 0, None), Dim("T", 0, None))
    x, w = TensorType(f32, (b, 24)), TensorType(f32, (t, 24))
    a, c = normal(sizes[0], 24), normal(sizes[1], 24, seed=1)
    check([x, w], lambda x, w: (x.matmul(w, transpose_y=True),), [a, c], dims)
    y, z = TensorType(f32, (b, t)), TensorType(f32, (b, 16))
    arrays = [normal(*sizes), normal(sizes[0], 16, seed=1)]
    check([y, z], lambda y, z: (y.matmul(z, transpose_x=True),), arrays, dims)
    row = TensorType(f32, (1, t))
    arrays = [normal(1, sizes[1]), normal(*sizes, seed=1)]
    check([row, y], lambda r, y: (r.matmul(y, transpose_y=True),), arrays, dims)


def test_batches_of_sizes_that_are_not_known():
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 0, None), Dim("T", 0, None))
    types = [TensorType(i32, (b, 3, t, 5)), TensorType(i32, (b, 3, 5, t))]
    arrays = [
        np.arange(2 * 3 * 7 * 5, dtype=np.int32).reshape(s) for s in ((2, 3, 7, 5), (2, 3, 5, 7))
    ]
    check(types, lambda x, y: (x.matmul(y),), arrays, dims, dtype=i32)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 96, 100), (48, 512, 130), (2, 70, 40)])
@pytest.mark.parametrize(("tx", "ty"), FLAGS[1:3])
def test_several_outputs_of_several_shapes(m, n, k, tx, ty):
    types, arrays = operands(f32, m, n, k, tx, ty)
    types += [TensorType(f32, (n,)), TensorType(f32, (m, n // 2, 2))]
    arrays = [arrays[0], arrays[1] / np.float32(k)]  # tanh is steep
    arrays += [normal(n, seed=3), normal(m, n // 2, 2, seed=4)]

    def body(x, y, bias, other):
        h = x.matmul(y, transpose_x=tx, transpose_y=ty) + bias.broadcast_to((m, n))
        split = h.reshape((m, n // 2, 2))
        return (h, h.tanh(), split * other, (split + 1).reshape((m * n,)))

    check(types, body, arrays)


def test_outputs_of_batches_with_their_axes_merged():
    types, arrays = operands(f32, 12, 20, 16, False, True, batch=(2, 3))

    def body(x, y):
        h = x.matmul(y, transpose_y=True)
        return (h.reshape((6, 12, 20)) * 2, h.reshape((2, 36, 20)).exp())

    check(types, body, arrays)


def test_an_output_in_another_order():
    types, arrays = operands(f32, 12, 20, 16, False, True, batch=(2, 3))
    check(types, lambda x, y: (x.matmul(y, transpose_y=True).permute((0, 2, 1, 3)),), arrays)
    types, arrays = operands(bf16, 40, 24, 32, False, False)
    check(types, lambda x, y: (x.matmul(y).permute((1, 0)) * 2,), arrays, dtype=bf16)


def test_symbolic_rows_are_merged_and_split():
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 1, None))
    types = [TensorType(f32, (b, t, 24)), TensorType(f32, (24, 24)), TensorType(f32, (b, t, 24))]
    arrays = [normal(3, 7, 24), normal(24, 24, seed=1), normal(3, 7, 24, seed=2)]

    def body(x, w, r):
        h = x.reshape((b * t, 24)).matmul(w, transpose_y=True)
        return (h, h.reshape((b, t, 24)) + r)

    check(types, body, arrays, dims)


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(20, 40, 50), (1, 40, 50), (4, 3, 600), (9, 9, 6)])
def test_what_comes_before_and_after_is_computed_within(m, n, k, dtype):
    types = [TensorType(dtype, (m, k)), TensorType(dtype, (n, k)), TensorType(dtype, (n,))]
    arrays = [(normal(*t.shape, seed=i) * 0.3).astype(dtype.numpy) for i, t in enumerate(types)]

    def body(x, w, bias):
        w = w.permute((1, 0)) * 0.5
        h = ((x + 1).tanh()).matmul(w) + bias.broadcast_to((m, n))
        return (h.op("maximum", h * 0.1),)

    check(types, body, arrays, dtype=dtype)


def test_an_operand_that_is_widened():
    types = [TensorType(bf16, (20, 50)), TensorType(f32, (50, 30))]
    arrays = [normal(20, 50).astype(bf16.numpy), normal(50, 30, seed=1)]
    check(types, lambda x, w: (x.op("cast", dtype=f32).matmul(w),), arrays)
    check(
        types,
        lambda x, w: (x.matmul(w.op("cast", dtype=bf16)).op("cast", dtype=f32),),
        arrays,
        dtype=bf16,
    )


@pytest.mark.parametrize("k", [8, 50, 64])
@pytest.mark.parametrize("n", [1, 24])
def test_operands_that_are_the_same_along_an_axis(k, n):
    types = [TensorType(f32, (20, 1)), TensorType(f32, (1, n)), TensorType(f32, (k, 1))]
    arrays = [normal(20, 1), normal(1, n, seed=1), normal(k, 1, seed=2)]
    wide = ((20, k), (k, n))

    def rows(x, y, z):
        return (x.broadcast_to(wide[0]).matmul(y.broadcast_to(wide[1])),)

    def mixed(x, y, z):
        return ((x.broadcast_to(wide[0]) + 1).matmul(z.broadcast_to(wide[1]) * 2),)

    check(types, rows, arrays)
    check(types, mixed, arrays)


def test_heads_are_read_where_they_are():
    types = [TensorType(f32, (2, 30, 3, 16))] * 2
    arrays = [normal(2, 30, 3, 16, seed=i) for i in range(2)]

    def body(q, k):
        q, k = (x.permute((0, 2, 1, 3)) for x in (q, k))
        return (q.matmul(k, transpose_y=True) * 0.25,)

    check(types, body, arrays)


@pytest.mark.parametrize("width", [16, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("c", [1, 5])
def test_windows_are_read_where_they_are(width, stride, c):
    n, o, kernel = 2, 9, 3
    out = (width + 2 - kernel) // stride + 1
    types = [TensorType(f32, (n, c, width, width)), TensorType(f32, (o, c * kernel * kernel))]
    arrays = [normal(n, c, width, width), normal(o, c * kernel * kernel, seed=1)]

    def body(x, w):
        x = x.op("pad", pads=((0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 0)), value=0.0)
        for axis in (2, 3):
            x = x.op("window", axis=axis, size=kernel, stride=stride, dilation=1)
        columns = x.permute((1, 4, 5, 0, 2, 3)).reshape((c * kernel * kernel, n * out * out))
        return (w.matmul(columns),)

    check(types, body, arrays)


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(20, 40, 50), (1, 40, 64), (64, 10, 512)])
def test_what_is_not_finite_stays_so(m, n, k, dtype):
    for flags in FLAGS[1:3]:
        types, arrays = operands(dtype, m, n, k, *flags)
        x, y = arrays
        rows, columns = (x.T if flags[0] else x), (y if not flags[1] else y.T)
        rows[0, 0], columns[1, 2] = np.inf, np.nan
        columns[0, 5], rows[m - 1, 3] = 0, -np.inf
        columns[3, n - 1] = np.inf
        check(types, lambda x, y, f=flags: (times(x, y, f),), arrays, dtype=dtype)


def test_products_of_nothing_are_zero():
    for m, n in ((0, 5), (5, 0), (3, 4)):
        types, arrays = operands(f32, m, n, 0, False, False)
        check(types, lambda x, y: (x.matmul(y) + 1,), arrays)


def test_sizes_that_are_multiples_of_their_blocks_are_not_masked():
    types, arrays = operands(bf16, 128, 64, 128, False, True)
    source = check(types, lambda x, y: (times(x, y, (False, True)),), arrays, dtype=bf16)
    assert "<" not in source.partition("def vtc_matmul")[2]
    types, arrays = operands(bf16, 120, 64, 128, False, True)
    source = check(types, lambda x, y: (times(x, y, (False, True)),), arrays, dtype=bf16)
    assert "i0 < 120" in source
    assert "k < 128" not in source


def test_equal_products_are_equal_bytes():
    def source():
        types, _ = operands(f32, 30, 40, 50, False, True)
        plan = generate(region(types, lambda x, y: (x.matmul(y, transpose_y=True),)), cuda(90))
        return plan.kernels[0].source

    assert source() == source()


def tried(types, body, target, dims=()):
    """The kernels of all candidates, each with its grid and what was chosen."""
    program = region(types, body, dims)
    own = Region.of(program.graphs[0], program.ranges)
    (root,) = (n for n in own.graph.nodes if n.op.name == "matmul")
    found = []
    for chosen in candidates(own, root, target):
        spec = matmul(own, root, target, **chosen)
        name = symbol(spec.template, spec)
        source = render(spec.template, "py", symbol=name, spec=spec)
        found.append((Kernel(name, name, source, str(chosen), spec.head.build), spec.grid, chosen))
    return found


@pytest.mark.parametrize(
    ("dtype", "flags"), [(bf16, FLAGS[0]), (bf16, FLAGS[3]), (f32, FLAGS[1])], ids=str
)
def test_all_candidates_are_right(dtype, flags):
    m, n, k = 40, 72, 136
    types, arrays = operands(dtype, m, n, k, *flags)
    plan = generate(region(types, lambda x, y: (times(x, y, flags),)), cuda(90))
    (want,) = evaluate(region(types, lambda x, y: (times(x, y, flags),)), *arrays, precision="f64")
    found = tried(types, lambda x, y: (times(x, y, flags),), cuda(90, processors=3))
    assert len({chosen.get("descriptors", False) for *_, chosen in found}) == 2
    for kernel, grid, _ in found:
        own = replace(kernel, name=plan.kernels[0].name)
        step = replace(plan.steps[0], grid=(*grid, 1, 1))
        (got,) = run_plan(replace(plan, kernels=(own,), steps=(step,)), arrays)
        assert_near(got, want, dtype)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_large_products_compile_without_spills(target, store):
    types, _ = operands(bf16, 2048, 1024, 768, False, True)
    found = tried(types, lambda x, y: (times(x, y, FLAGS[1]),), target)
    described = [(k, c) for k, _, c in found if c.get("descriptors")][:1]
    assert bool(described) is (target.arch == 90)
    some = [*((k, c) for k, _, c in found[:2]), *described]
    made = try_kernels([k for k, _ in some], target, store)
    for (_, chosen), binary in zip(some, made, strict=True):
        assert resources(binary).spills == 0, chosen
    ptx = assembly(found[0][0], target, store)
    assert ("wgmma" in ptx) is (target.arch == 90)
    assert "cp.async.cg.shared.global" in ptx
    assert "st.global.v4" in ptx
    for kernel, _ in described:
        assert "cp.async.bulk.tensor" in assembly(kernel, target, store)


@pytest.mark.parametrize("flags", [(False, True), (True, False)], ids=str)
def test_descriptors_of_matrices_whose_sizes_are_not_known(flags, store):
    t = Sym.var("T")
    dims = (Dim("T", 0, None),)
    types = [TensorType(bf16, s) for s in (((t, 64), (48, 64)), ((t, 64), (t, 48)))[flags[0]]]
    found = tried(types, lambda x, y: (times(x, y, flags),), cuda(90), dims)
    kernel = next(k for k, _, c in found if c.get("descriptors"))
    assert "cp.async.bulk.tensor" in assembly(kernel, cuda(90), store)


def test_a_matrix_and_a_vector_are_read_in_whole_lines(store):
    for n, k, flags in ((5632, 2048, (False, True)), (2048, 5632, (False, False))):
        types, _ = operands(bf16, 1, n, k, *flags)
        found = tried(types, lambda x, y, f=flags: (times(x, y, f),), cuda(90))
        for kernel, *_ in found[:2]:
            assert "ld.global.v4" in assembly(kernel, cuda(90), store)


@pytest.mark.parametrize("dtype", [f64, f16, f8e4m3, i8, i64], ids=str)
def test_other_dtypes_compile(dtype, store):
    for m in (1, 40):
        types, _ = operands(dtype, m, 50, 60, False, True)
        for target in TARGETS[: 1 if dtype is f8e4m3 else 2]:
            kernels = [k for k, *_ in tried(types, lambda x, y: (times(x, y, FLAGS[1]),), target)]
            for binary in try_kernels(kernels[:1], target, store):
                assert binary.shared <= target.shared


def test_f32_is_multiplied_on_tensor_cores_where_that_is_as_exact():
    def first(k):
        types, _ = operands(f32, 256, 256, k, False, True)
        return [c for *_, c in tried(types, lambda x, y: (times(x, y, FLAGS[1]),), cuda(90))]

    assert first(32)[0]["precision"] == "ieee"
    assert first(64)[0]["precision"] == "tf32x3"
    # In longer steps tensor cores lose more than a chain of fused multiply-adds does.
    assert {c["blocks"].k for c in first(512) if c["precision"] == "tf32x3"} == {32}


@pytest.mark.parametrize("dtype", [vtc.float32, vtc.bfloat16], ids=str)
def test_a_long_common_axis_is_divided_among_programs(dtype):
    x, y, w = (vtc.randn(*s).to(dtype) for s in ((2048, 40), (2048, 24), (40, 24)))

    def f(x, y, w):
        return w + x.T @ y

    plan = lowered(f, x, y, w)
    first, second = plan.kernels
    assert "tl.dot" in first.source
    assert first.build.signature[-1] == "*fp32"
    assert "tl.dot" not in second.source
    arrays = [a.numpy() for a in (x, y, w)]
    wide = [a.astype(np.float64) for a in arrays]
    (got,) = run_plan(plan, arrays)
    scale = np.abs(wide[0].T @ wide[1]).max()
    error = np.abs(got.astype(np.float64) - (wide[2] + wide[0].T @ wide[1])).max()
    assert error <= (2e-6 if dtype is vtc.float32 else 8e-3) * scale


def test_bf16_that_was_widened_is_multiplied_as_bf16():
    types = [TensorType(bf16, (40, 64)), TensorType(bf16, (64, 24))]
    arrays = [normal(*t.shape, seed=i).astype(bf16.numpy) for i, t in enumerate(types)]

    def body(x, y):
        x, y = (a.op("cast", dtype=f32) for a in (x, y))
        return (x.reshape((2, 20, 64)).matmul(y.broadcast_to((2, 64, 24))),)

    source = check(types, body, arrays)
    assert "tl.dot(a, b, acc)" in source
