"""Row regions against the reference in f64: several reductions over one space in one kernel."""

import re

import numpy as np
import pytest
from regions import built, call, normal, region

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.codegen.c import find_compiler, generate
from vtc.codegen.region import Elements, Region
from vtc.codegen.tiles import Space, in_bounds, tiles
from vtc.codegen.trace import Cell, Let, Value
from vtc.errors import CodegenError
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.op import REGISTRY, Pointwise
from vtc.ir.ops.index import Gather
from vtc.ir.ops.reduce import ArgReduction, Reduction, Sum
from vtc.ir.target import cpu
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64, i32, i64

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

# Relative to the largest magnitude of each output.
TOLERANCE = {"f64": 1e-12, "f32": 4e-6, "f16": 2e-3, "bf16": 1.6e-2}


def check(types, body, arrays, dims=(), sizes=(), factor=1.0):
    """The kernel of one region gives what the reference gives; the outputs."""
    program = region(types, body, dims)
    plan, function = built(program)
    assert len(plan.kernels) == 1
    code, got = call(plan, function, arrays, sizes)
    assert code == 0
    for threads in (None, 1, 2):
        again = call(plan, function, arrays, sizes, threads=threads)[1]
        assert [a.tobytes() for a in again] == [a.tobytes() for a in got]
    for g, w in zip(got, evaluate(program, *arrays, precision="f64"), strict=True):
        near(g, w, factor)
    return got


def near(got, want, factor=1.0):
    assert got.shape == want.shape
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    scale = np.abs(b[finite]).max(initial=1e-3)
    tolerance = factor * TOLERANCE[TensorType.of(got).dtype.name]
    np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=tolerance * scale)


# bodies: the reduced axes are given, so that one body serves every orientation


def softmax(x, axes):
    e = (x - x.max(axes).expand_like(x, axes)).exp()
    return e / e.sum(axes).expand_like(x, axes)


def log_softmax(x, axes):
    y = x - x.max(axes).expand_like(x, axes)
    return y - y.exp().sum(axes).log().expand_like(x, axes)


def normalised(x, axes, eps=1e-5):
    centred = x - x.mean(axes).expand_like(x, axes)
    inverse = ((centred * centred).mean(axes) + eps).rsqrt()
    return centred, inverse.expand_like(x, axes)


def variance(x, axes):
    centred = x - x.mean(axes).expand_like(x, axes)
    return (centred * centred).mean(axes)


def layer_norm(x, axes):
    centred, inverse = normalised(x, axes)
    return centred * inverse


def layer_norm_gradient(x, g, axes):
    centred, inverse = normalised(x, axes)
    y = centred * inverse
    mean = g.mean(axes).expand_like(g, axes)
    return inverse * (g - mean - y * (g * y).mean(axes).expand_like(g, axes))


def rms_norm(x, axes):
    return x * ((x * x).mean(axes) + 1e-6).rsqrt().expand_like(x, axes)


def log_sum_exp(x, axes):
    most = x.max(axes)
    return most + (x - most.expand_like(x, axes)).exp().sum(axes).log()


ONE = {
    "softmax": lambda x, axes: [softmax(x, axes)],
    "log_softmax": lambda x, axes: [log_softmax(x, axes)],
    "layer_norm": lambda x, axes: [layer_norm(x, axes)],
    "rms_norm": lambda x, axes: [rms_norm(x, axes)],
    "log_sum_exp": lambda x, axes: [log_sum_exp(x, axes)],
    "moments": lambda x, axes: [x.mean(axes), variance(x, axes)],
    "siblings": lambda x, axes: [
        x.sum(axes),
        (x * x).sum(axes),
        x.max(axes),
        x.op("min", axes=axes),
        (x * 0.1 + 1.0).op("prod", axes=axes) * 1e-3,
    ],
    "three deep": lambda x, axes: [
        (x - x.mean(axes).expand_like(x, axes)).op("abs").max(axes),
        softmax(layer_norm(x, axes), axes),
        x.tanh(),
    ],
}
SPACES = {
    "rows": ((6, 40), (1,)),
    "one row": ((1, 300), (1,)),
    "short": ((50, 3), (1,)),
    "of one": ((7, 1), (1,)),
    "two axes": ((3, 5, 4, 6), (2, 3)),
    "everything": ((5, 7), (0, 1)),
    "lanes": ((40, 6), (0,)),
    "wide lanes": ((5, 600), (0,)),
    "middle": ((3, 20, 33), (1,)),
    "batch norm": ((4, 3, 5, 6), (0, 2, 3)),
    "batch norm in lanes": ((4, 5, 6, 30), (0, 1, 2)),
    "kept inside": ((4, 3, 5), (1,)),
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ONE)
def test_rows_of_every_orientation(name, space):
    shape, axes = SPACES[space]
    check([TensorType(f32, shape)], lambda x: ONE[name](x, axes), [normal(*shape)])


@pytest.mark.parametrize("dtype", [f64, f16, bf16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "siblings"])
def test_halves_accumulate_wide(name, dtype):
    shape = (5, 200)

    def body(x):
        return [y.cast(dtype) for y in ONE[name](x.cast(dtype.accumulate), (1,))]

    arrays = [normal(*shape).astype(dtype.numpy)]
    check([TensorType(dtype, shape)], body, arrays)


@pytest.mark.parametrize(("shape", "axes"), SPACES.values(), ids=SPACES)
def test_the_gradient_of_a_norm(shape, axes):
    types = [TensorType(f32, shape)] * 2
    arrays = [normal(*shape), normal(*shape, seed=1)]
    check(types, lambda x, g: [layer_norm_gradient(x, g, axes)], arrays)


LONG = 150_000
AGAIN = {"exponentials": r"exp\(\(double\)m\d", "squares": r"w\d \+= "}


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("softmax", "exponentials"),
        ("log_sum_exp", "exponentials"),
        ("layer_norm", "squares"),
        ("moments", "squares"),
    ],
)
def test_long_rows_are_walked_once_for_two_reductions(name, kind, symbolic):
    """Far from zero, so that a sum of squares about zero would have no digits left."""
    shape = (Sym.var("B"), Sym.var("T")) if symbolic else (3, LONG)
    dims = (Dim("B", 0, None), Dim("T", 1, None)) if symbolic else ()
    x = normal(3, LONG) + 1000
    x[1] += np.linspace(-3000, 3000, LONG, dtype=np.float32)
    x[2, :2000] = 1e6
    types = [TensorType(f32, shape)]

    def body(x):
        return ONE[name](x, (1,))

    assert re.search(AGAIN[kind], source(region(types, body, dims)))
    check(types, body, [x], dims, (3, LONG) if symbolic else (), factor=2)


def test_short_rows_are_not():
    types = [TensorType(f32, (3, 1000))]
    for name in ("softmax", "layer_norm"):
        text = source(region(types, lambda x, name=name: ONE[name](x, (1,))))
        assert not any(re.search(again, text) for again in AGAIN.values())


def source(program):
    """The body of the only kernel."""
    (kernel,) = generate(program, cpu()).kernels
    return kernel.source[kernel.source.index(f"int {kernel.symbol}(") :]


SPECIAL = {
    "nan": [np.nan],
    "inf": [np.inf],
    "two infs": [np.inf, np.inf],
    "-inf": [-np.inf],
    "both": [np.inf, -np.inf],
}


@pytest.mark.parametrize("count", [40, 3000, LONG])
@pytest.mark.parametrize("lanes", [False, True])
def test_what_is_not_finite(count, lanes):
    """A special value anywhere, and rows of nothing else, as NumPy has them."""
    count = min(count, 3000) if lanes else count
    rows = [normal(count, seed=k) for k in range(3 * len(SPECIAL))]
    for k, row in enumerate(rows):
        some = SPECIAL[[*SPECIAL][k // 3]]
        at = [0, count // 2, count - 2][k % 3]
        row[at : at + len(some)] = some
    rows += [np.full(count, v, np.float32) for v in (np.nan, np.inf, -np.inf)]
    rows.append(np.where(np.arange(count) < count - 1, -np.inf, 1).astype(np.float32))
    x = np.array(rows)
    x, axes = (x.T.copy(), (0,)) if lanes else (x, (1,))

    def body(x):
        most, least = x.op("argmax", axis=axes[0]), x.op("argmin", axis=axes[0])
        return [softmax(x, axes), log_softmax(x, axes), x.max(axes), most, least]

    check([TensorType(f32, x.shape)], body, [x], factor=2)
    for name in ("log_sum_exp", "layer_norm", "moments"):
        check([TensorType(f32, x.shape)], lambda x, name=name: ONE[name](x, axes), [x], factor=2)


def picked(x, target):
    logp = log_softmax(x, (1,))
    return -logp.apply(Gather(axis=1), target.expand((1,), (1,))).reshape(target.shape)


def test_cross_entropy_and_its_gradient():
    n, c = 20, 130
    types = [TensorType(f32, (n, c)), TensorType(i64, (n,)), TensorType(f32, (n,))]

    def body(x, target, scale):
        p = log_softmax(x, (1,)).exp()
        hit = x.iota(x.shape, 1, i64).eq(target.expand((1,), (c,)))
        dx = (p - hit.cast(f32)) * scale.expand((1,), (c,))
        return [picked(x, target), dx]

    target = np.random.default_rng(1).integers(0, c, n)
    check(types, body, [normal(n, c) * 3, target, normal(n, seed=2)])


def test_a_wrong_index_in_a_row_is_reported():
    types = [TensorType(f32, (4, 30)), TensorType(i64, (4,))]
    plan, function = built(region(types, lambda x, t: [picked(x, t)]))
    assert call(plan, function, [normal(4, 30), np.array([0, 29, 3, 4])])[0] == 0
    for wrong in (-1, 30):
        assert call(plan, function, [normal(4, 30), np.array([0, 29, wrong, 4])])[0] == 1


def test_an_index_into_a_row_of_nothing_is_wrong():
    dims = (Dim("C", 0, None),)
    types = [TensorType(f32, (4, Sym.var("C"))), TensorType(i64, (4,))]

    def body(x, at):
        index = at.expand((1,), (1,))
        return [(x * 2.0).apply(Gather(axis=1), index).reshape((4,)) + x.sum((1,))]

    program = region(types, body, dims)
    assert "if (n0 < 1 && 4 > 0) return 1;" in source(program)
    plan, function = built(program)
    arrays = [normal(4, 3), np.zeros(4, np.int64)]
    assert call(plan, function, arrays, (3,))[0] == 0
    assert call(plan, function, [arrays[0][:, :0], arrays[1]], (0,))[0] == 1


def test_outputs_may_be_rows_full_and_reshaped():
    types = [TensorType(f32, (4, 6, 50)), TensorType(f32, (50,)), TensorType(f32, (24,))]

    def body(x, weight, scale):
        flat = x.reshape((24, 50))
        mean = x.mean((2,))
        y = normalised(flat, (1,))[0] * weight.expand((0,), (24,))
        return [
            y.reshape((4, 6, 5, 10)),
            mean.reshape((24, 1)),
            (mean.reshape((24,)) * scale).expand((1,), (50,)).reshape((4, 300))
            + x.reshape((4, 300)),
            y.cast(bf16),
            x.max((2,)).cast(i32),
            (flat > 0.0).cast(f32).sum((1,)).reshape((2, 12)),
        ]

    arrays = [normal(4, 6, 50), normal(50, seed=1), normal(24, seed=2)]
    check(types, body, arrays)


def test_bools_and_integers():
    types = [TensorType(i32, (7, 90)), TensorType(bool_, (7, 90))]

    def body(x, m):
        most = x.max((1,))
        hit = x.eq(most.expand_like(x, (1,)))
        return [
            x.sum((1,)),
            most,
            x.op("argmin", axis=1),
            m.op("max", axes=(1,)),
            (hit & m).op("max", axes=(1,)),
            hit.op("min", axes=(1,)),
            hit.cast(i64).sum((1,)),
            x - most.expand_like(x, (1,)),
        ]

    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 9, (7, 90)).astype(np.int32), rng.random((7, 90)) < 0.1]
    check(types, body, arrays)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 70), 1), ((70, 9), 0), ((5, 1), 1), ((2, 9, 4), 1)]
)
def test_the_first_extreme_and_what_depends_on_it(name, shape, axis):
    x = np.random.default_rng(0).integers(-4, 4, shape).astype(np.float32)

    def body(x):
        at = x.op(name, axis=axis)
        here = x.iota(x.shape, axis, i64).eq(at.expand_like(x, (axis,)))
        return [at, x.max((axis,)), here.where(x, 0.0).sum((axis,)), here.cast(f32) * x]

    check([TensorType(f32, shape)], body, [x])


EMPTY = {"no rows": ((0, 5), (1,)), "no columns": ((5, 0), (1,)), "nothing": ((0, 0), (1,))}


@pytest.mark.parametrize(("shape", "axes"), EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("symbolic", [False, True])
def test_nothing_to_reduce(shape, axes, symbolic):
    def body(x):
        y = x - x.sum(axes).expand_like(x, axes)
        return [x.sum(axes) + 2.0, (y * y).sum(axes), x.op("prod", axes=axes), y]

    dims = (Dim("B", 0, None), Dim("T", 0, None)) if symbolic else ()
    sizes = (Sym.var("B"), Sym.var("T")) if symbolic else shape
    arrays = [np.zeros(shape, np.float32)]
    check([TensorType(f32, sizes)], body, arrays, dims, shape if symbolic else ())


@pytest.mark.parametrize("axes", [(2,), (0, 1), (1,)], ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "siblings"])
def test_one_kernel_serves_all_sizes(name, axes):
    B, T = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 1, None))
    program = region([TensorType(f32, (B, T, 24))], lambda x: ONE[name](x, axes), dims)
    plan, function = built(program)
    for sizes in ((1, 1), (3, 7), (2, 1300), (30, 40)):
        x = normal(*sizes, 24) * 0.3
        code, got = call(plan, function, [x], sizes)
        assert code == 0
        for g, w in zip(got, evaluate(program, x, precision="f64"), strict=True):
            near(g, w, 2)


def test_large_outputs_go_around_the_cache():
    types = [TensorType(f32, (4100, 1030)), TensorType(bf16, (4100, 1030))]

    def body(x, h):
        y = layer_norm(x, (1,)) + h.cast(f32)
        return [y.cast(bf16), y, x.sum((1,))]

    assert source(region(types, body)).count("vtc_stream(") == 1  # 8 MiB of bf16 are not large
    arrays = [normal(4100, 1030), normal(4100, 1030, seed=1).astype(bf16.numpy)]
    got = check(types, body, arrays, factor=1)
    assert got[1].nbytes >= 1 << 24


def test_scalars_are_computed_in_the_loops_they_depend_on():
    """One of each loop: of the kernel, of the outer and the inner kept one, and so on."""
    shapes = [(3, 4, 5, 6, 7), (), (3,), (5,), (4,), (6, 7)]
    types = [TensorType(f32, s) for s in shapes]

    def body(x, none, a, c, b, de):
        axes = (1, 3, 4)
        none, a, b, c = none.exp(), a.exp(), b.exp(), c.exp()
        y = x * none.expand((0, 1, 2, 3, 4), x.shape) + a.expand((1, 2, 3, 4), x.shape[1:])
        y = y * b.expand((0, 2, 3, 4), (3, 5, 6, 7)) + c.expand((0, 1, 3, 4), (3, 4, 6, 7))
        y = y + de.tanh().expand((0, 1, 2), (3, 4, 5))
        return [layer_norm(y, axes) * y, y.max(axes)]

    check(types, body, [normal(*s, seed=k) for k, s in enumerate(shapes)])
    lanes = [TensorType(f32, s) for s in ((4, 6, 50), (4,), (6,), (50,))]

    def in_lanes(x, a, b, c):
        y = x * a.exp().expand((1, 2), (6, 50)) + b.exp().expand((0, 2), (4, 50))
        y = y + c.exp().expand((0, 1), (4, 6))
        return [softmax(y, (0, 1)), y.sum((0, 1))]

    check(lanes, in_lanes, [normal(*t.shape, seed=k) for k, t in enumerate(lanes)])


def test_what_is_expensive_is_computed_once():
    types = [TensorType(f32, (5, 1000))]
    text = source(region(types, lambda x: [softmax(x, (1,))]))
    assert text.count("vtc_expf(") == 1
    text = source(region(types, lambda x: [layer_norm(x.tanh(), (1,))]))
    assert text.count("vtc_tanhf(") == 1
    text = source(region([TensorType(f32, (40, 600))], lambda x: [softmax(x, (0,))]))
    assert text.count("vtc_expf(") == 1
    text = source(region([TensorType(f32, (5, 1 << 18))], lambda x: [softmax(x, (1,))]))
    assert text.count("vtc_expf(") == 2  # too long to keep


def test_an_output_may_take_the_memory_of_what_is_read_where_it_is_written():
    types = [TensorType(f32, (6, 300))] * 2
    program = region(types, lambda x, r: [r + 1.0, layer_norm(x, (1,)) + r])
    plan, function = built(program)
    x, r = normal(6, 300), normal(6, 300, seed=1)
    want = evaluate(program, x, r)
    for k in range(2):
        mine = r.copy()
        outputs = [np.empty_like(r), np.empty_like(r)]
        outputs[k] = mine
        call(plan, function, [x, mine], outputs=outputs)
        for g, w in zip(outputs, want, strict=True):
            near(g, w)


def test_a_region_of_two_spaces_is_refused():
    types = [TensorType(f32, (4, 5))]
    with pytest.raises(CodegenError, match=r"one space, got \(kept 4, reduced 5\) and \(reduced 4"):
        generate(region(types, lambda x: (x.sum((1,)), x.sum((0,)))), cpu())
    with pytest.raises(CodegenError, match=r"a value over .* or its rows, got full"):
        generate(region(types, lambda x: (x.sum((1,)), x.full((3,), 1.0))), cpu())
    square = [TensorType(f32, (4, 4, 5))]
    with pytest.raises(CodegenError, match="to be read in its own order, got index"):
        generate(region(square, lambda x: (x.sum((2,)).permute((1, 0)),)), cpu())


def single(op, arrays):
    """A region of one op."""
    return region([TensorType.of(a) for a in arrays], lambda *x: [x[0].apply(op, *x[1:])])


def samples():
    rng = np.random.default_rng(0)
    for name in sorted(REGISTRY):
        if not issubclass(REGISTRY[name], Pointwise | Reduction | ArgReduction):
            continue
        for k, sample in enumerate(REGISTRY[name].samples(rng)):
            if sample.inputs and not any(TensorType.of(a).dtype.is_complex for a in sample.inputs):
                yield pytest.param(sample.op, sample.inputs, id=f"{name}-{k}")


@pytest.mark.parametrize(("op", "arrays"), [*samples()])
def test_every_read_of_every_op_is_inside_its_buffer(op, arrays):
    of = Region.of(single(op, arrays).graphs[0], {})
    if isinstance(op, Pointwise):
        elements = Elements(of)
        if 0 in of.output_shape():
            return
        index = elements.loops("i", of.output_shape())
        store = elements.store(0, index, elements.at(of.graph.outputs[0], index))
        lets = [*elements.trace.lets.values(), store]
    elif 0 in Space.of(of).kept_sizes:
        return
    else:
        elements, lets = every(of)
    assert [let for let in lets if not in_bounds(elements, let)] == []


def every(of):
    """All scalars and stores of a row region, in the loops as they are in the end."""
    elements, program = tiles(of)
    roots = [*program.stores, *(root for stage in program.stages for root in stage.roots)]
    return elements, [*program.body.lets.values(), *roots]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_reads_of_any_size_are_inside(name, axes):
    types = [TensorType(f32, (Sym.var("B"), Sym.var("T"), 24))]
    dims = (Dim("B", 1, None), Dim("T", 1, 512))
    graph = region(types, lambda x: ONE[name](x.reshape(types[0].shape), axes), dims).graphs[0]
    elements, lets = every(Region.of(graph, {"B": (1, None), "T": (1, 512)}))
    assert [let for let in lets if not in_bounds(elements, let)] == []


def test_a_read_that_may_be_outside_is_found():
    of = Region.of(single(Sum(axes=(1,)), [normal(3, 5)]).graphs[0], {})
    elements = Elements(of)
    i = elements.trace.facts.loop("i0", 3)
    for offset, inside in ((i * 5 + 4, True), (i * 5 + 5, False), (i - 1, False), (i * 8, False)):
        assert in_bounds(elements, Let("", "", (Cell("x0", offset),))) is inside
    assert in_bounds(elements, Let("", "", (Value(bool_, "m"), " ? ", Cell("x0", i * 8), " : 0")))
