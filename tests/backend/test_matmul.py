"""Matrix products in C against float64: shapes, layouts, dtypes, what comes before and after."""

import subprocess
from itertools import product

import numpy as np
import pytest
from regions import built, call, normal, region

from vtc.codegen.c import find_compiler, generate
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.target import cpu
from vtc.ir.types import TensorType, bf16, f16, f32, f64, i32, i64

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

# Of the largest magnitude that a row times a column can have: a few roundings of each.
TOLERANCE = {f64: 1e-14, f32: 2e-6, f16: 1e-3, bf16: 8e-3}
FLAGS = tuple(product((False, True), repeat=2))


def operands(dtype, m, n, k, tx, ty, batch=()):
    """The types of the operands, and their values."""
    shapes = ((*batch, *((k, m) if tx else (m, k))), (*batch, *((n, k) if ty else (k, n))))
    arrays = []
    for i, shape in enumerate(shapes):
        wide = normal(*shape, seed=i) * (4 if dtype in (i32, i64) else 1)
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


def check(types, body, arrays, dims=(), sizes=(), threads=(None, 1, 2, 3), dtype=f32):
    """The kernel of one region is near float64, with equal bits for any number of threads."""
    program = region(types, body, dims)
    plan, function = built(program)
    assert len(plan.kernels) == 1
    code, got = call(plan, function, arrays, sizes, threads=threads[0])
    assert code == 0
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays, precision="f64")
    for g, w in zip(got, wanted, strict=True):
        assert_near(g, np.asarray(w), dtype)
    for count in threads[1:]:
        again = call(plan, function, arrays, sizes, threads=count)[1]
        assert [a.tobytes() for a in again] == [a.tobytes() for a in got]
    return plan.kernels[0].source


SHAPES = (
    (1, 1, 1),
    (1, 40, 300),
    (40, 1, 9),
    (2, 100, 33),
    (3, 5, 7),
    (10, 64, 70),
    (13, 33, 1),
    (12, 32, 16),
    (25, 70, 600),
    (64, 48, 1024),
    (100, 200, 0),
    (130, 17, 40),
)


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_shapes_and_layouts(shape, tx, ty):
    types, arrays = operands(f32, *shape, tx, ty)
    check(types, lambda x, y: (x.matmul(y, transpose_x=tx, transpose_y=ty),), arrays)


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
@pytest.mark.parametrize("dtype", [f64, f16, bf16, i32, i64], ids=str)
@pytest.mark.parametrize("shape", [(25, 70, 300), (1, 40, 77), (64, 32, 128)], ids=str)
def test_all_dtypes(shape, dtype, tx, ty):
    types, arrays = operands(dtype, *shape, tx, ty)

    def body(x, y):
        return (x.matmul(y, transpose_x=tx, transpose_y=ty),)

    check(types, body, arrays, dtype=dtype)


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
@pytest.mark.parametrize("shape", [(9, 20, 8), (1, 20, 40), (33, 1, 5)], ids=str)
def test_batches(shape, tx, ty):
    types, arrays = operands(f32, *shape, tx, ty, batch=(2, 3))
    check(types, lambda x, y: (x.matmul(y, transpose_x=tx, transpose_y=ty),), arrays)


def test_a_long_common_axis_is_multiplied_in_blocks():
    for (m, n, k), (tx, ty) in product([(30, 40, 5000), (8, 20, 4500)], FLAGS[1:3]):
        types, arrays = operands(f32, m, n, k, tx, ty)
        check(types, lambda x, y, t=(tx, ty): (times(x, y, t),), arrays)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (3, 50), (40, 7), (600, 130)], ids=str)
def test_sizes_that_are_not_known(sizes):
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 0, None), Dim("T", 0, None))
    x, w = TensorType(f32, (b, 24)), TensorType(f32, (t, 24))
    a, c = normal(sizes[0], 24), normal(sizes[1], 24, seed=1)
    check([x, w], lambda x, w: (x.matmul(w, transpose_y=True),), [a, c], dims, sizes)
    y, z = TensorType(f32, (b, t)), TensorType(f32, (b, 16))
    arrays = [normal(*sizes), normal(sizes[0], 16, seed=1)]
    check([y, z], lambda y, z: (y.matmul(z, transpose_x=True),), arrays, dims, sizes)
    row = TensorType(f32, (1, t))
    arrays = [normal(1, sizes[1]), normal(*sizes, seed=1)]
    check([row, y], lambda r, y: (r.matmul(y, transpose_y=True),), arrays, dims, sizes)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 96, 100), (48, 512, 130), (2, 70, 40)])
@pytest.mark.parametrize(("tx", "ty"), FLAGS)
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


def test_rows_that_are_looked_up():
    """They are packed: where they lie is not known before the index is read."""
    b = Sym.var("B")
    dims = (Dim("B", 1, None),)
    types = [TensorType(f32, (7, 24)), TensorType(i64, (b,)), TensorType(f32, (40, 24))]
    arrays = [normal(7, 24), np.array([6, 0, 3, 3, 5]), normal(40, 24, seed=1)]

    def body(table, i, w):
        return (table.op("index", i, axes=(0,)).matmul(w, transpose_y=True),)

    check(types, body, arrays, dims, (5,))


def test_symbolic_rows_are_merged_and_split():
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 1, None))
    types = [TensorType(f32, (b, t, 8)), TensorType(f32, (24, 8)), TensorType(f32, (b, t, 24))]
    arrays = [normal(3, 7, 8), normal(24, 8, seed=1), normal(3, 7, 24, seed=2)]

    def body(x, w, r):
        h = x.reshape((b * t, 8)).matmul(w, transpose_y=True)
        return (h, h.reshape((b, t, 24)) + r)

    check(types, body, arrays, dims, (3, 7))


@pytest.mark.parametrize(("tx", "ty"), FLAGS)
def test_weights_are_updated_in_place(tx, ty):
    m, n, k = 70, 50, 33
    types, arrays = operands(f32, m, n, k, tx, ty)
    types += [TensorType(f32, (m, n))] * 2
    arrays += [normal(m, n, seed=5), normal(m, n, seed=6)]

    def body(x, y, weight, moment):
        gradient = x.matmul(y, transpose_x=tx, transpose_y=ty)
        moment = moment * 0.9 + gradient * 0.1
        return (weight - moment * 0.01, moment)

    program = region(types, body)
    plan, function = built(program)
    for threads in (None, 2):
        owned = [a.copy() for a in arrays]
        code, got = call(plan, function, owned, outputs=owned[2:], threads=threads)
        assert code == 0
        for g, w in zip(got, evaluate(program, *arrays, precision="f64"), strict=True):
            assert_near(g, w, f32)


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(20, 40, 50), (1, 40, 50), (4, 3, 600)])
def test_what_comes_before_and_after_is_computed_within(m, n, k, dtype):
    types = [TensorType(dtype, (m, k)), TensorType(dtype, (n, k)), TensorType(dtype, (n,))]
    arrays = [(normal(*t.shape, seed=i) * 0.3).astype(dtype.numpy) for i, t in enumerate(types)]

    def body(x, w, bias):
        w = w.permute((1, 0)) * 0.5
        h = (x.tanh()).matmul(w) + bias.broadcast_to((m, n))
        return (h.op("maximum", h * 0.1),)

    program = region(types, body)
    plan, function = built(program)
    code, (got,) = call(plan, function, arrays)
    assert code == 0
    (want,) = evaluate(program, *arrays)
    assert_near(got, want, dtype)


def test_heads_are_read_where_they_are():
    types = [TensorType(f32, (2, 30, 3, 16))] * 2
    arrays = [normal(2, 30, 3, 16, seed=i) for i in range(2)]

    def body(q, k):
        q, k = (x.permute((0, 2, 1, 3)) for x in (q, k))
        return (q.matmul(k, transpose_y=True) * 0.25,)

    check(types, body, arrays)


@pytest.mark.parametrize("width", [32, 30, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_windows_are_read_where_they_are(width, stride):
    n, c, o, kernel = 2, 5, 9, 3
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


@pytest.mark.parametrize("dtype", [f32, f64, bf16, f16], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), [(20, 40, 50), (1, 40, 64), (64, 10, 512)])
def test_what_is_not_finite_stays_so(m, n, k, dtype):
    for flags in FLAGS:
        types, arrays = operands(dtype, m, n, k, *flags)
        x, y = arrays
        rows, columns = (x.T if flags[0] else x), (y if not flags[1] else y.T)
        rows[0, 0], columns[1, 2] = np.inf, np.nan
        columns[0, 5], rows[m - 1, 3] = 0, -np.inf
        columns[3, n - 1] = np.inf
        program = region(types, lambda x, y, f=flags: (times(x, y, f),))
        plan, function = built(program)
        _, (got,) = call(plan, function, arrays)
        with np.errstate(all="ignore"):
            wide = [a.astype(np.float64) for a in (rows, columns)]
            assert_near(got, (wide[0] @ wide[1]).astype(dtype.numpy), dtype)


def test_products_of_nothing_are_zero():
    for m, n in ((0, 5), (5, 0), (3, 4)):
        types, arrays = operands(f32, m, n, 0, False, False)
        check(types, lambda x, y: (x.matmul(y) + 1,), arrays)


def test_equal_products_are_equal_bytes():
    def source():
        types, _ = operands(f32, 30, 40, 50, False, True)
        plan = generate(region(types, lambda x, y: (x.matmul(y, transpose_y=True),)), cpu())
        return plan.kernels[0].source

    assert source() == source()


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_products_of_bf16_compile_for_machines_with_tiles(flags, tmp_path):
    types, _ = operands(bf16, 70, 96, 100, *flags)
    plan = generate(region(types, lambda x, y: (times(x, y, flags),)), cpu())
    compiler = find_compiler()
    own = [f for f in compiler.flags if not f.startswith("-march")]
    command = [*compiler.command, *own, "-march=sapphirerapids", "-Werror", "-x", "c", "-c", "-"]

    def compiles(source):
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "k.o")],
            input=source,
            text=True,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0, done.stderr

    if not compiles("int nothing;")[0]:
        pytest.skip("this compiler knows no machine with tiles")
    assert compiles(plan.kernels[0].source) == (True, "")
