"""C kernels against the reference: every sample of every op, in several dtypes, few libraries."""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
from regions import built, call, normal, planned, region, run

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.codegen.c import find_compiler, generate
from vtc.errors import CodegenError, TypeCheckError
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Graph, GraphBuilder, Program
from vtc.ir.op import REGISTRY, Op
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.control import Custom, Item
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.flow import Flow
from vtc.ir.ops.vendor import Vendor
from vtc.ir.target import Target, cpu
from vtc.ir.types import (
    DTYPES,
    TensorType,
    TupleType,
    bf16,
    bool_,
    c64,
    converted,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    i32,
    i64,
)

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

# Relative to the largest magnitude of the result: a few units in the last place.
TOLERANCE = {"f64": 1e-13, "f32": 2e-6, "f16": 2e-3, "bf16": 1.6e-2, "f8e4m3": 0.13, "f8e5m2": 0.26}
COMPOSITE = 4  # spelled out, they round more often
SOME = 4  # samples per op in dtypes other than f32


@dataclass(frozen=True, eq=False)
class Case:
    """An op and its inputs."""

    op: Op
    arrays: tuple

    def program(self):
        b = GraphBuilder()
        return Program((b.graph("main", *applied(b, self.op, self.arrays, "x")),))


def applied(b, op, arrays, name):
    """Params like ``arrays``, and the results of ``op`` on them."""
    params = [b.param(f"{name}{i}", TensorType.of(a)) for i, a in enumerate(arrays)]
    out = b.apply(op, *params)
    if not isinstance(out.type, TupleType):
        return params, [out]
    return params, [b.apply(Item(index=i), out) for i in range(len(out.type.items))]


@cache
def cases(dtype):
    """By id. Float inputs are cast; what the op does not take then is left out."""
    found, rng = {}, np.random.default_rng(0)
    for name in sorted(REGISTRY):
        if issubclass(REGISTRY[name], Vendor | Flow | Custom):
            continue  # other tests have those; the last is gone before there are kernels
        for i, sample in enumerate(REGISTRY[name].samples(rng)):
            if i >= SOME and dtype is not f32:
                break
            with np.errstate(invalid="ignore"):  # NaN as an integer, for ops that take none
                arrays = tuple(
                    a.astype(dtype.numpy) if a.dtype.kind == "f" else a for a in sample.inputs
                )
            types = tuple(map(TensorType.of, arrays))
            try:
                sample.op.infer(*types)
            except TypeCheckError:
                continue
            if not any(t.dtype.is_complex for t in types):
                found[f"{name}-{i}"] = Case(sample.op, arrays)
    return found


@cache
def results(dtype):
    """The results of all cases, by id, from one library: the same for any number of threads."""
    b, params, outputs, slices = GraphBuilder(), [], [], {}
    for name, case in cases(dtype).items():
        more, out = applied(b, case.op, case.arrays, f"p{len(params)}_")
        slices[name] = slice(len(outputs), len(outputs) + len(out))
        params += more
        outputs += out
    program = planned(Program((b.graph("main", params, outputs),)))
    arrays = [a for case in cases(dtype).values() for a in case.arrays]
    plan, function = built(program, optimize=dtype is f32)
    code, found = call(plan, function, arrays, threads=None)
    assert code == 0
    for threads in (1, 2, 3):
        again = call(plan, function, arrays, threads=threads)[1]
        assert [a.tobytes() for a in again] == [a.tobytes() for a in found]
    return {name: found[part] for name, part in slices.items()}


def assert_near(got, want, factor=1):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    tolerance = factor * TOLERANCE.get(TensorType.of(want).dtype.name, 0)
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    scale = max(1.0, np.abs(b[finite]).max(initial=0))
    np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=tolerance * scale)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        pytest.param(dtype, name, id=f"{dtype}-{name}", marks=marks)
        for dtype, *marks in ((f32,), (f64, SLOW), (f16, SLOW), (bf16,), (i32,))
        for name in cases(dtype)
    ],
)
def test_a_kernel_means_what_the_reference_says(dtype, name):
    case = cases(dtype)[name]
    want = evaluate(case.program(), *case.arrays)
    factor = COMPOSITE if hasattr(case.op, "decompose") else 1
    for g, w in zip(results(dtype)[name], want, strict=True):
        assert_near(g, w, factor)


B, T = Sym.var("B"), Sym.var("T")
DIMS = (Dim("B", 1, None), Dim("T", 1, None))


def symbolic():
    """Each family once, over symbolic sizes."""
    x, i = TensorType(f32, (B, T, 8)), TensorType(i64, (B,))
    w, table = TensorType(f32, (8, 3)), TensorType(f32, (T, 8))

    def body(x, w, table, i):
        bias = table.expand((0,), (B,))
        flat = x.reshape((B * T, 8))
        put = table.op("index_put", table.op("index", i, axes=(0,)), i, axes=(0,), accumulate=True)
        return (
            (x + bias).tanh().permute((1, 0, 2)),
            x.exp().sum((2,)),
            x.sum((0, 1)),
            x.max((1,)),
            x.op("argmax", axis=1),
            flat.matmul(w),
            flat.matmul(flat, transpose_x=True),
            table.op("index", i, axes=(0,)),
            put,
            x.reshape((B, T * 2, 4)).permute((0, 2, 1)).reshape((B, 8 * T)),
        )

    b = GraphBuilder()
    params = [b.param(f"x{k}", t) for k, t in enumerate((x, w, table, i))]
    outputs = [e.value for e in body(*(Expr(b, p) for p in params))]
    return Program((b.graph("main", params, outputs),), DIMS)


def test_one_library_serves_all_sizes():
    program = symbolic()
    plan, function = built(planned(program))
    for sizes in ((1, 1), (3, 5), (40, 70), (2, 1200)):
        b, t = sizes
        table = normal(t, 8, seed=1)
        indices = np.random.default_rng(2).integers(0, t, b)
        arrays = [normal(b, t, 8), normal(8, 3, seed=3), table, indices]
        code, got = call(plan, function, arrays, sizes)
        assert code == 0
        for g, w in zip(got, evaluate(program, *arrays), strict=True):
            assert_near(g, w)


SHAPES = ((1, 1, 1), (3, 5, 7), (13, 33, 1), (25, 70, 300), (100, 200, 0), (1, 40, 300), (40, 1, 9))


def test_matrix_products_of_all_shapes():
    b, params, outputs, arrays, wanted = GraphBuilder(), [], [], [], []
    kinds = product(SHAPES, (False, True), (False, True), (f32, bf16, f64, i32), ((), (2,)))
    for (m, n, k), tx, ty, dtype, batch in kinds:
        if (dtype is not f32 and (m, n, k) != SHAPES[3]) or (batch and m > 3):
            continue
        x = normal(*batch, *((k, m) if tx else (m, k)), seed=len(params)) * 4
        y = normal(*batch, *((n, k) if ty else (k, n)), seed=len(params) + 1) * 4
        x, y = x.astype(dtype.numpy), y.astype(dtype.numpy)
        more, out = applied(b, Matmul(tx, ty), (x, y), f"p{len(params)}_")
        params += more
        outputs += out
        arrays += [x, y]
        wide = [a.astype(np.int64 if dtype is i32 else np.float64) for a in (x, y)]
        x, y = (a.swapaxes(-1, -2) if t else a for a, t in zip(wide, (tx, ty), strict=True))
        wanted.append((x @ y).astype(dtype.numpy))
    code, got = run(planned(Program((b.graph("main", params, outputs),))), arrays)
    assert code == 0
    for g, w in zip(got, wanted, strict=True):
        assert_near(g, w)


def test_products_take_what_comes_before_and_after():
    types = [TensorType(f32, s) for s in ((2, 30, 50), (2, 50, 40), (40,), (40, 2, 30))]

    def body(x, y, bias, other):
        h = x.exp().matmul(y * 2) + bias.broadcast_to((2, 30, 40))
        h = h.tanh().permute((2, 0, 1)) + other
        return (h, h * h)

    arrays = [normal(*t.shape, seed=i) * 0.1 for i, t in enumerate(types)]
    program = region(types, body)
    code, got = run(program, arrays)
    assert code == 0
    for g, w in zip(got, evaluate(program, *arrays), strict=True):
        assert_near(g, w)


def test_a_reduction_takes_what_comes_after():
    types = [TensorType(f32, (6, 50)), TensorType(f32, (6, 1))]

    def body(x, y):
        mean = x.sum((1,)).reshape((6, 1)) * 0.02
        return (mean + y, mean.exp())

    arrays = [normal(6, 50), normal(6, 1, seed=1)]
    program = region(types, body)
    code, got = run(program, arrays)
    assert code == 0
    for g, w in zip(got, evaluate(program, *arrays), strict=True):
        assert_near(g, w)


def test_long_sums_stay_exact():
    n = 1 << 20
    types = [TensorType(f32, (n,)), TensorType(f32, (n // 4, 4)), TensorType(bf16, (n,))]
    x = normal(n) + 1
    arrays = [x, x.reshape(-1, 4), np.ones(n, bf16.numpy)]
    b = GraphBuilder()
    params = [b.param(f"x{i}", t) for i, t in enumerate(types)]
    outputs = [Expr(b, p).sum((0,)).value for p in params]
    _, got = run(planned(Program((b.graph("main", params, outputs),))), arrays)
    np.testing.assert_allclose(got[0], x.sum(dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(got[1], x.reshape(-1, 4).sum(0, dtype=np.float64), rtol=1e-7)
    assert got[2] == n


@pytest.mark.parametrize("at", [0, 5, 70, 99])
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum"])
def test_nan_is_seen_wherever_it_is(name, at):
    axes = {"axis": 1} if name.startswith("arg") else {"axes": (1,)}
    types = [TensorType(f32, (2, 100)), TensorType(f32, (2, 100, 3))]
    program = region(types[:1], lambda x: (x.op(name, **axes),))
    x = normal(2, 100)
    x[1, at] = np.nan
    for t in types:
        wide = x if len(t.shape) == 2 else np.repeat(x[..., None], 3, 2)
        program = region([t], lambda x: (x.op(name, **axes),))
        code, (got,) = run(program, [wide])
        assert code == 0
        np.testing.assert_allclose(got, *evaluate(program, wide), rtol=1e-6)


def floats(step):
    """f32 numbers of all magnitudes; signalling NaNs would make NumPy warn."""
    x = np.arange(0, 2**32, step, np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([x, np.array([0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    x[np.isnan(x)] = np.nan
    return x


def test_functions_are_good_to_a_few_units_in_the_last_place():
    names = ("exp", "log", "tanh", "erf", "sin", "cos", "rsqrt")
    x = floats(4099)
    program = region([TensorType.of(x)], lambda x: [x.op(name) for name in names])
    _, got = run(program, [x])
    for name, g, w in zip(names, got, evaluate(program, x, precision="f64"), strict=True):
        with np.errstate(all="ignore"):
            near = w.astype(np.float32)
        finite = np.isfinite(near)
        np.testing.assert_array_equal(g[~finite], near[~finite], err_msg=name)
        unit = np.spacing(np.abs(near[finite])).astype(np.float64)
        assert (np.abs(g[finite] - w[finite]) / unit).max() < 4, name


def angles(count):
    """f32 angles of all magnitudes and both signs, every other one next to a multiple of pi/2."""
    rng = np.random.default_rng(0)
    size = np.exp2(rng.uniform(-30, 127.9, count))
    size[1::2] = np.rint(size[1::2] % 2**52) * (np.pi / 2)
    return (size * rng.choice([-1.0, 1.0], count)).astype(np.float32)


def sine_and_cosine(x):
    program = region([TensorType.of(x)], lambda x: (x.op("sin"), x.op("cos")))
    return run(program, [x])[1]


def test_sine_and_cosine_are_good_to_two_units_for_all_angles():
    close = np.array([1e5, 1e10, 1e30, 3e38], np.float32).view(np.int32)[:, None]
    close = (close + np.arange(-20000, 20000, dtype=np.int32)).view(np.float32).ravel()
    x = np.concatenate([angles(1 << 20), close])
    for g, function in zip(sine_and_cosine(x), (np.sin, np.cos), strict=True):
        want = function(x.astype(np.float64))
        unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
        assert (np.abs(g - want) / unit).max() < 2, function
    zeros = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan], np.float32)
    sine, cosine = sine_and_cosine(zeros)
    assert sine[:4].tobytes() == zeros[:4].tobytes()
    np.testing.assert_array_equal(cosine[:4], 1)
    assert np.isnan([sine[4:], cosine[4:]]).all()


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_do_not_depend_on_the_length_or_the_threads(name):
    x = angles(4096)
    type = TensorType(f32, (Sym.var("T"),))
    plan, function = built(region([type], lambda x: (x.op(name),), (Dim("T", 0, None),)))
    whole = call(plan, function, [x], (4096,), threads=1)[1]
    for count, threads in product((*range(1, 41), 4095, 4096), (1, 3)):
        for first in range(0, 4097 - count, max(count, 1361)):
            part = slice(first, first + count)
            got = call(plan, function, [x[part]], (count,), threads=threads)[1]
            assert [g.tobytes() for g in got] == [w[part].tobytes() for w in whole]


@pytest.mark.parametrize("dtype", [f16, bf16, f8e4m3, f8e5m2], ids=str)
def test_narrow_floats_round_to_nearest_even(dtype):
    count = 1 << 8 * dtype.itemsize
    every = np.arange(count).astype(f"u{dtype.itemsize}").view(dtype.numpy)
    with np.errstate(all="ignore"):
        wide = every.astype(np.float32)
        middle = np.sort(wide[np.isfinite(wide)])
        large = np.array([448, 464, 465, 61439, 61440, 1e9], np.float32)
        x = np.concatenate([floats(2053), (middle[1:] + middle[:-1]) / 2, wide, large, -large])
        want = converted(x, dtype.numpy)
    types = [TensorType(f32, x.shape), TensorType(dtype, every.shape)]
    program = region([types[0]], lambda x: (x.cast(dtype),))
    np.testing.assert_array_equal(run(program, [x])[1][0].astype(np.float32), want.astype("f"))
    program = region([types[1]], lambda x: (x.cast(f32),))
    np.testing.assert_array_equal(run(program, [every])[1][0], wide)


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.kind == "int"], ids=str)
def test_integers_divide_as_python_does_and_wrap(dtype):
    info = np.iinfo(dtype.numpy)
    some = [info.min, info.min + 1, 0, 1, 2, 3, 7, info.max - 1, info.max]
    some = np.array(some + ([-1, -2, -7] if info.min else []), dtype.numpy)
    x, y = (a.ravel().copy() for a in np.meshgrid(some, some))
    names = ("floor_divide", "remainder", "add", "sub", "mul", "maximum", "pow")
    program = region([TensorType.of(x)] * 2, lambda x, y: [x.op(n, y) for n in names])
    y[y > 60] = 60  # a power takes as long as its exponent in the reference
    _, got = run(program, [x, y])
    for name, g, w in zip(names, got, evaluate(program, x, y), strict=True):
        np.testing.assert_array_equal(g, w, err_msg=name)


def test_an_output_may_take_the_memory_of_what_is_read_at_its_index():
    n = 1000
    program = region([TensorType(f32, (n,))] * 2, lambda x, y: ((x + y).tanh() * x,))
    plan, function = built(program)
    x, y = normal(n), normal(n, seed=1)
    (want,) = evaluate(program, x, y)
    call(plan, function, [x, y], outputs=[x])
    assert_near(x, want)


def lookup(x, i):
    return (x.op("index", i, axes=(0,)),)


def test_an_index_out_of_range_is_reported_with_its_step():
    b = GraphBuilder()
    x, i = b.param("x", TensorType(f32, (5, 3))), b.param("i", TensorType(i64, (4,)))
    first = Expr(b, x).exp()
    outputs = [first.value, first.op("index", Expr(b, i), axes=(0,)).value]
    plan, function = built(planned(Program((b.graph("main", [x, i], outputs),))))
    assert call(plan, function, [normal(5, 3), np.array([0, 4, 1, 2])])[0] == 0
    for wrong in (5, -1, 2**40):
        assert call(plan, function, [normal(5, 3), np.array([0, 4, wrong, 2])])[0] == 2


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_nothing_is_written_at_a_wrong_index(accumulate, dtype):
    def body(x, values, i):
        return (x.op("index_put", values, i, axes=(0,), accumulate=accumulate),)

    types = [TensorType(dtype, (5, 3)), TensorType(dtype, (2, 3)), TensorType(i64, (2,))]
    x, values = (normal(*t.shape, seed=1).astype(dtype.numpy) for t in types[:2])
    plan, function = built(region(types, body))
    code, (got,) = call(plan, function, [x, values, np.array([5, 1])])
    assert code == 1
    np.testing.assert_array_equal(got, x)


def test_what_is_masked_out_is_neither_read_nor_checked():
    types = [TensorType(f32, (5, 3)), TensorType(i64, (4,)), TensorType(f32, (2, 3))]

    def body(x, i, y):
        part = x.op("index", i - 1, axes=(0,))
        return (part.op("concat", y, axis=0),)

    program = region(types, body)
    arrays = [normal(5, 3), np.array([1, 5, 2, 3]), normal(2, 3)]
    code, (got,) = run(program, arrays)
    assert code == 0
    np.testing.assert_array_equal(got, *evaluate(program, *arrays))


def test_a_long_chain_is_one_kernel():
    def body(x):
        for _ in range(400):
            x = x * 0.99 + 0.01
        return (x,)

    program = region([TensorType(f32, (3, 4))], body)
    x = normal(3, 4)
    _, (got,) = run(program, [x], optimize=False)
    assert_near(got, *evaluate(program, x), factor=10)


def test_what_c_cannot_do_is_refused_by_name():
    def plan_of(*args):
        return generate(region(*args), cpu())

    with pytest.raises(CodegenError, match="reshape: expected a real dtype, got c64"):
        plan_of([TensorType(c64, (4,))], lambda x: (x.reshape((2, 2)),))
    with pytest.raises(CodegenError, match=r"one op that is not pointwise, got matmul .*sum"):
        plan_of([TensorType(f32, (4, 4))], lambda x: (x.matmul(x), x.sum((0,))))
    with pytest.raises(CodegenError, match="softmax: expected an op with a C kernel"):
        plan_of([TensorType(f32, (4,))], lambda x: (x.op("softmax", axis=0),))
    with pytest.raises(CodegenError, match="expected a cpu target, got toy"):
        generate(Program((Graph("main", (), (), ()),)), Target(name="toy", kind="cuda"))
    b = GraphBuilder()
    x = b.param("x", TensorType(bool_, (4,)))
    graph = b.graph("main", [x], [Expr(b, x).cast(f32).value])
    with pytest.raises(CodegenError, match="cast: expected only calls in a planned program"):
        generate(Program((graph,)), cpu())
