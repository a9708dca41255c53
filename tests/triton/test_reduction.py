"""Row regions in Triton against the reference in f64: every orientation, walked or in one tile."""

from dataclasses import replace

import numpy as np
import pytest
from plans import WrongIndex, lowered, near, normal, region, run_plan

import vtc
import vtc.nn.functional as F
from vtc.codegen.cuda import generate
from vtc.codegen.render import render, symbol
from vtc.codegen.steps import Made, planned
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.codegen.triton.reduction import candidates, reduction
from vtc.codegen.triton.rows import Choice
from vtc.errors import CodegenError
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.op import REGISTRY
from vtc.ir.ops.index import Gather
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8

H100 = cuda(90)


def chosen(program, choice):
    """The plan of ``program`` with tiles of one's own."""

    def make(region):
        spec = reduction(region, None, H100, choice)
        name = symbol(spec.template, spec)
        source = render(spec.template, "py", symbol=name, spec=spec)
        return (Made(name, source, grid=spec.grid, build=spec.head.build),)

    return planned(program, H100, make)


def check(types, body, arrays, dims=(), factor=1.0, choices=()):
    """The kernel of one region gives what the reference gives, whatever the tiles; the outputs."""
    program = region(types, body, dims)
    plan = generate(program, H100)
    assert len(plan.kernels) == 1
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays, precision="f64")
    for choice in (None, *choices):
        got = run_plan(chosen(program, choice) if choice else plan, arrays)
        for g, w in zip(got, wanted, strict=True):
            near(g, w, factor)
    return plan


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


def log_sum_exp(x, axes):
    most = x.max(axes)
    return most + (x - most.expand_like(x, axes)).exp().sum(axes).log()


ONE = {
    "softmax": lambda x, axes: [softmax(x, axes)],
    "log_softmax": lambda x, axes: [log_softmax(x, axes)],
    "layer_norm": lambda x, axes: [layer_norm(x, axes)],
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
    "powers of two": ((8, 64), (1,)),
    "lanes of powers of two": ((32, 64), (0,)),
}
CHOICES = (Choice(4, 16, 2), Choice(1, 8, 1))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ONE)
def test_rows_of_every_orientation(name, space):
    shape, axes = SPACES[space]
    types = [TensorType(f32, shape)]
    check(types, lambda x: ONE[name](x, axes), [normal(*shape)], choices=CHOICES)


@pytest.mark.parametrize("dtype", [f64, f16, bf16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "siblings"])
def test_halves_accumulate_wide(name, dtype):
    types = [TensorType(dtype, (5, 200))]
    arrays = [normal(5, 200).astype(dtype.numpy)]
    check(types, lambda x: ONE[name](x, (1,)), arrays, factor=4, choices=CHOICES)


@pytest.mark.parametrize("name", ["softmax", "log_sum_exp", "layer_norm", "moments"])
@pytest.mark.parametrize("lanes", [False, True])
def test_long_rows_are_read_twice(name, lanes):
    shape, axes = ((20_000, 3), (0,)) if lanes else ((3, 20_000), (1,))
    x = normal(*shape) * 0.3 + 100
    plan = check([TensorType(f32, shape)], lambda x: ONE[name](x, axes), [x], factor=8)
    full = name in ("softmax", "layer_norm")
    assert plan.kernels[0].source.count("tl.load(x0") == (2 if full else 1)


def test_sums_of_many_do_not_drift():
    x = np.full((2, 300_000), 0.1, np.float32)
    check([TensorType(f32, x.shape)], lambda x: [x.sum((1,)), variance(x, (1,))], [x])


SPECIAL = {
    "nan": [np.nan],
    "inf": [np.inf],
    "two infs": [np.inf, np.inf],
    "-inf": [-np.inf],
    "both": [np.inf, -np.inf],
}


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("choice", [None, Choice(2, 8, 1), Choice(1, 16, 1)], ids=str)
def test_what_is_not_finite(lanes, choice):
    """A special value anywhere, and rows of nothing else, as NumPy has them."""
    count = 41
    rows = [normal(count, seed=k) for k in range(3 * len(SPECIAL))]
    for k, row in enumerate(rows):
        some = SPECIAL[[*SPECIAL][k // 3]]
        at = [0, count // 2, count - 2][k % 3]
        row[at : at + len(some)] = some
    rows += [np.full(count, v, np.float32) for v in (np.nan, np.inf, -np.inf)]
    rows.append(np.where(np.arange(count) < count - 1, -np.inf, 1).astype(np.float32))
    x = np.array(rows)
    x, axes = (x.T.copy(), (0,)) if lanes else (x, (1,))
    choices = (choice,) if choice else ()

    def body(x):
        most, least = x.op("argmax", axis=axes[0]), x.op("argmin", axis=axes[0])
        return [softmax(x, axes), log_softmax(x, axes), x.max(axes), most, least]

    check([TensorType(f32, x.shape)], body, [x], factor=2, choices=choices)
    for name in ("log_sum_exp", "layer_norm", "moments"):
        body = ONE[name]
        types = [TensorType(f32, x.shape)]
        check(types, lambda x, body=body: body(x, axes), [x], factor=2, choices=choices)


def picked(x, target):
    logp = log_softmax(x, (1,))
    return -logp.apply(Gather(axis=1), target.expand((1,), (1,))).reshape(target.shape)


@pytest.mark.parametrize("choice", [None, Choice(4, 32, 1), Choice(1, 64, 1)], ids=str)
def test_cross_entropy_and_its_gradient(choice):
    n, c = 20, 130
    types = [TensorType(f32, (n, c)), TensorType(i64, (n,)), TensorType(f32, (n,))]

    def body(x, target, scale):
        p = log_softmax(x, (1,)).exp()
        hit = x.iota(x.shape, 1, i64).eq(target.expand((1,), (c,)))
        dx = (p - hit.cast(f32)) * scale.expand((1,), (c,))
        return [picked(x, target), dx]

    target = np.random.default_rng(1).integers(0, c, n)
    arrays = [normal(n, c) * 3, target, normal(n, seed=2)]
    check(types, body, arrays, choices=(choice,) if choice else ())


def test_a_wrong_index_in_a_row_is_reported():
    types = [TensorType(f32, (4, 30)), TensorType(i64, (4,))]
    plan = generate(region(types, lambda x, t: [picked(x, t)]), H100)
    run_plan(plan, [normal(4, 30), np.array([0, 29, 3, 4])])
    for wrong in (-1, 30):
        with pytest.raises(WrongIndex):
            run_plan(plan, [normal(4, 30), np.array([0, 29, wrong, 4])])


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
    check(types, body, arrays, choices=CHOICES)


@pytest.mark.parametrize("dtype", [i8, u8, i32, i64], ids=str)
def test_bools_and_integers(dtype):
    types = [TensorType(dtype, (7, 90)), TensorType(bool_, (7, 90))]

    def body(x, m):
        most = x.max((1,))
        hit = x.eq(most.expand_like(x, (1,)))
        return [
            x.sum((1,)),
            x.op("prod", axes=(1,)),
            most,
            x.op("argmin", axis=1),
            m.op("max", axes=(1,)),
            (hit & m).op("max", axes=(1,)),
            hit.op("min", axes=(1,)),
            hit.cast(i64).sum((1,)),
            x - most.expand_like(x, (1,)),
        ]

    rng = np.random.default_rng(0)
    arrays = [rng.integers(1, 90, (7, 90)).astype(dtype.numpy), rng.random((7, 90)) < 0.1]
    check(types, body, arrays, choices=CHOICES)


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

    check([TensorType(f32, shape)], body, [x], choices=CHOICES)


EMPTY = {"no rows": ((0, 5), (1,)), "no columns": ((5, 0), (1,)), "nothing": ((0, 0), (1,))}


@pytest.mark.parametrize(("shape", "axes"), EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("symbolic", [False, True])
def test_nothing_to_reduce(shape, axes, symbolic):
    def body(x):
        y = x - x.sum(axes).expand_like(x, axes)
        return [x.sum(axes) + 2.0, (y * y).sum(axes), x.op("prod", axes=axes), y]

    dims = (Dim("B", 0, None), Dim("T", 0, None)) if symbolic else ()
    sizes = (Sym.var("B"), Sym.var("T")) if symbolic else shape
    check([TensorType(f32, sizes)], body, [np.zeros(shape, np.float32)], dims)


@pytest.mark.parametrize("axes", [(2,), (0, 1), (1,)], ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "siblings"])
def test_one_kernel_serves_all_sizes(name, axes):
    B, T = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 1, None))
    program = region([TensorType(f32, (B, T, 24))], lambda x: ONE[name](x, axes), dims)
    plan = generate(program, H100)
    for sizes in ((1, 1), (3, 7), (2, 1300), (30, 40)):
        x = normal(*sizes, 24) * 0.3
        for g, w in zip(run_plan(plan, [x]), evaluate(program, x, precision="f64"), strict=True):
            near(g, w, 4)


def test_scalars_of_every_loop():
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

    arrays = [normal(*s, seed=k) for k, s in enumerate(shapes)]
    check(types, body, arrays, choices=CHOICES)
    lanes = [TensorType(f32, s) for s in ((4, 6, 50), (4,), (6,), (50,))]

    def in_lanes(x, a, b, c):
        y = x * a.exp().expand((1, 2), (6, 50)) + b.exp().expand((0, 2), (4, 50))
        y = y + c.exp().expand((0, 1), (4, 6))
        return [softmax(y, (0, 1)), y.sum((0, 1))]

    arrays = [normal(*t.shape, seed=k) for k, t in enumerate(lanes)]
    check(lanes, in_lanes, arrays, choices=CHOICES)


def test_what_does_not_vary_is_counted_as_often():
    """A sum of what is the same all along a row."""
    types = [TensorType(f32, (6,)), TensorType(f32, (6, 20))]

    def body(a, x):
        wide = a.expand((1,), (20,))
        return [wide.sum((1,)), (x * 0 + 1.0).sum((1,)), x.full((6, 20), 2.0).sum((1,)), x + wide]

    check(types, body, [normal(6), normal(6, 20)], choices=CHOICES)


def test_a_row_that_fits_is_read_once():
    for shape in ((4, 1000), (4, 16384)):
        program = region([TensorType(f32, shape)], lambda x: [softmax(x, (1,))])
        (kernel,) = generate(program, H100).kernels
        assert kernel.source.count("tl.load(x0") == 1
        assert "for u in" not in kernel.source
    program = region([TensorType(f32, (4, 40_000))], lambda x: [softmax(x, (1,))])
    assert "for u in" in generate(program, H100).kernels[0].source


def test_candidates_begin_with_what_is_chosen():
    shapes = (((4096, 1000), (1,)), ((4096, 768), (0,)), ((8, 100_000), (1,)), ((1 << 20, 8), (1,)))
    for shape, axes in shapes:
        program = region([TensorType(f32, shape)], lambda x, axes=axes: [softmax(x, axes)])
        found = []

        def make(region, found=found):
            found.extend(candidates(region, None, H100))
            spec = reduction(region, None, H100)
            assert spec == reduction(region, None, H100, **found[0])
            return (Made("k", "", grid=spec.grid, build=spec.head.build),)

        planned(program, H100, make)
        assert len(found) >= 3
        assert all(1 <= c["choice"].warps <= 32 for c in found)


def test_a_loss_and_its_gradients():
    """Rows, columns and sums of everything, of which some are divided among programs."""

    def loss(x, w, b, target):
        h = F.gelu(F.layer_norm(x, (x.shape[-1],), w, b))
        return F.cross_entropy(h, target)

    n, c = 9000, 6
    arrays = [normal(n, c), normal(c, seed=1), normal(c, seed=2)]
    arrays.append(np.random.default_rng(0).integers(0, c, n))
    tensors = [vtc.tensor(a) for a in arrays]

    def step(*args):
        return vtc.value_and_grad(loss, argnums=(0, 1, 2))(*args)

    plan = lowered(step, *tensors)
    program = vtc.compile(step).lower(*tensors).program("joint")
    wanted = evaluate(program, *arrays, precision="f64")
    for g, w in zip(run_plan(plan, arrays), wanted, strict=True):
        near(g, w, 4)


@pytest.mark.parametrize(("shape", "axes"), [((70_001,), (0,)), ((5000, 70), (0,))], ids=str)
def test_long_sums_are_divided_among_programs(shape, axes):
    x = np.abs(normal(*shape))
    plan = lowered(lambda x: x.sum(axes[0]), vtc.tensor(x))
    first, _ = plan.steps
    assert first.grid[0] >= 8
    (got,) = run_plan(plan, [x])
    near(got, x.astype(np.float64).sum(axes))


def test_a_region_of_two_spaces_is_refused():
    types = [TensorType(f32, (4, 5))]
    with pytest.raises(CodegenError, match=r"one space, got \(kept 4, reduced 5\) and \(reduced 4"):
        generate(region(types, lambda x: (x.sum((1,)), x.sum((0,)))), H100)


def samples():
    rng = np.random.default_rng(0)
    for name in sorted(REGISTRY):
        if issubclass(REGISTRY[name], Reduction | ArgReduction):
            for k, sample in enumerate(REGISTRY[name].samples(rng)):
                yield pytest.param(sample.op, sample.inputs, id=f"{name}-{k}")


@pytest.mark.parametrize(("op", "arrays"), [*samples()])
def test_every_sample(op, arrays):
    check([TensorType.of(a) for a in arrays], lambda x: [x.apply(op)], arrays)


COMPILED = {
    "softmax": ([((64, 1000), bf16)], lambda x: [softmax(x, (1,))]),
    "long softmax": ([((8, 50_000), f32)], lambda x: [softmax(x, (1,))]),
    "long norm": ([((8, 50_000), bf16)], lambda x: [layer_norm(x.cast(f32), (1,)).cast(bf16)]),
    "short rows": ([((5000, 12), f16)], lambda x: [softmax(x, (1,)), x.op("argmax", axis=1)]),
    "columns": ([((3000, 100), f32)], lambda x: [x.sum((0,)), x.max((0,))]),
    "f64": ([((9, 300), f64)], lambda x: [softmax(x, (1,)), x.op("argmin", axis=1)]),
    "bools": ([((9, 300), bool_)], lambda x: [x.op("max", axes=(1,)), x.op("min", axes=(1,))]),
    "bytes": ([((9, 300), i8)], lambda x: [x.sum((1,)), x.op("prod", axes=(1,)), x.max((1,))]),
    "i64": ([((300, 9), i64)], lambda x: [x.sum((0,)), x.op("min", axes=(0,))]),
    "everything": ([((70, 90), f32)], lambda x: [x.sum((0, 1))]),
    "moments": (
        [((64, 500), f32), ((64,), f32)],
        lambda x, m: [x.mean((1,)) + m, (m * x.max((1,))).cast(bf16), m + 1.0],
    ),
}


@pytest.mark.parametrize("target", [H100, replace(cuda(80), processors=108)], ids=lambda t: t.name)
@pytest.mark.parametrize("name", COMPILED)
def test_kernels_compile(name, target, store):
    types, body = COMPILED[name]
    program = region([TensorType(d, s) for s, d in types], body)
    plan = generate(program, target)
    assert compile_kernels(plan.kernels, target, store)[plan.kernels[0].symbol].cubin


def test_symbolic_kernels_compile(store):
    B, T = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 1, None))
    for axes in ((1,), (0,), (2,)):
        types = [TensorType(bf16, (B, T, 24))]
        program = region(types, lambda x, axes=axes: ONE["layer_norm"](x, axes), dims)
        compile_kernels(generate(program, H100).kernels, H100, store)


def test_rows_are_read_16_bytes_at_a_time(store):
    for dtype in (f32, bf16):
        types = [TensorType(dtype, (512, 1024))]
        program = region(types, lambda x: [softmax(x.cast(f32), (1,)).cast(x.dtype)])
        text = assembly(generate(program, H100).kernels[0], H100, store)
        assert "ld.global.v4" in text
        assert "st.global.v4" in text
