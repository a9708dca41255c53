"""Pointwise regions in Triton: every op of the registry, dtypes, shapes, transposes and draws."""

import sys
from pathlib import Path

import numpy as np
import pytest
from plans import WrongIndex, near, normal, region, run_plan

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.op import Pointwise
from vtc.ir.ops.expr import Expr
from vtc.ir.target import cuda
from vtc.ir.types import (
    TensorType,
    bf16,
    bool_,
    dtype_of,
    f8e4m3,
    f8e5m2,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
)

sys.path.append(str(Path(__file__).parents[1] / "ops"))
from cases import CASES
from tolerance import tolerance

H100 = cuda(90)
B, T = Sym.var("B"), Sym.var("T")
DIMS = (Dim("B", 0, None), Dim("T", 1, None))


def check(program, arrays, factor=1.0):
    """The plan of ``program``, which means what the reference says."""
    plan = generate(program, H100)
    verify(plan, program, arrays, factor)
    return plan


def verify(plan, program, arrays, factor=1.0):
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays)
    for g, w in zip(run_plan(plan, arrays), wanted, strict=True):
        near(g, w, factor)


def source(program):
    (kernel,) = generate(program, H100).kernels
    return kernel.source


# every op


def applied(case, arrays):
    """A region of one op."""
    types = [TensorType.of(a) for a in arrays]

    def body(*x):
        if x:
            return [x[0].apply(case.op, *x[1:])]
        raise AssertionError

    return region(types, body)


def pointwise_cases():
    for case in CASES:
        arrays = case.sample.inputs
        of_complex = any(TensorType.of(a).dtype.is_complex for a in arrays)
        if isinstance(case.op, Pointwise) and not of_complex and arrays:
            for dtype in (None, f32, f64, f16, bf16):
                given = case.arrays(dtype)
                if dtype is None or any(dtype_of(a.dtype) is dtype for a in given):
                    marks = [pytest.mark.slow] if dtype in (f64, f16) else []
                    yield pytest.param(case, dtype, id=f"{case.id}-{dtype}", marks=marks)


@pytest.mark.parametrize(("case", "dtype"), [*pointwise_cases()])
def test_every_op_is_near_float64(case, dtype):
    arrays = case.arrays(dtype)
    program = applied(case, arrays)
    if program.entry.outputs[0].tensor.dtype.is_complex:
        pytest.skip("no kernel computes complex numbers")
    wanted = evaluate(program, *arrays, precision="f64")
    got = run_plan(generate(program, H100), arrays)
    for g, w in zip(got, wanted, strict=True):
        kind = dtype_of(g.dtype)
        if kind.kind != "float":
            np.testing.assert_array_equal(g, w)
            continue
        with np.errstate(over="ignore"):
            w = w.astype(kind.numpy).astype(np.float64)
        t = tolerance(case.op, kind)
        np.testing.assert_allclose(g.astype(np.float64), w, rtol=t.rtol, atol=t.atol)


def test_values_made_of_nothing():
    def body(x):
        b = x.builder
        return [
            x + 0.0,
            x.full((3, 4), 2.5),
            x.iota((3, 4), 1, i64),
            x.iota((3, 4), 0, f32),
            Expr(b, x.full((3, 4), 7, i32).value),
        ]

    check(region([TensorType(f32, (3, 4))], body), [normal(3, 4)])


def test_casts_to_fp8_that_overflow():
    """The instructions saturate both; f8e5m2 has an infinity."""
    large = [448, 464, 465, 57344, 61439, 61440, 1e9, np.inf, np.nan, 1e-3, 0.0]
    x = np.array([*large, *(-v for v in large)], np.float32)
    program = region(
        [TensorType.of(x)], lambda x: [x.cast(f8e4m3), x.cast(f8e5m2), x.cast(f8e5m2).cast(f32) + 1]
    )
    plan = generate(program, H100)
    for g, w in zip(run_plan(plan, [x]), evaluate(program, x), strict=True):
        np.testing.assert_array_equal(g.astype(np.float32), w.astype(np.float32))


@pytest.mark.parametrize("dtype", [bool_, f8e4m3, f8e5m2, i16, bf16, f16, f32, i64], ids=str)
def test_bits_of_any_value_stay(dtype):
    """NaN of all kinds among them, which a cast would change."""
    data = np.random.default_rng(0).integers(0, 2 if dtype is bool_ else 256, (4, 16), np.uint8)
    x = data.view(dtype.numpy)
    others = [d for d in (u8, f8e5m2, bf16, i32, f64) if d is not dtype]

    def body(x):
        turned = [x.op("flip", axes=(0,)).op("bitcast", dtype=d) for d in others]
        return [y.op("flip", axes=(1,)) for y in turned]

    program = region([TensorType.of(x)], body)
    got = run_plan(generate(program, H100), [x])
    for g, w in zip(got, evaluate(program, x), strict=True):
        assert g.tobytes() == w.tobytes()


SPECIAL = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, 88.8, -103.5])
SPECIAL = np.append(SPECIAL, np.copysign(np.nan, -1))


@pytest.mark.parametrize("dtype", [f32, f64, f16, bf16], ids=str)
def test_special_values(dtype):
    def body(x):
        wide = x.cast(f32) if dtype.itemsize < 4 else x
        names = ("exp", "log", "tanh", "erf", "rsqrt", "floor", "ceil", "trunc", "round", "isnan")
        found = [wide.op(n) for n in (*names, "signbit")]
        other = wide.op("flip", axes=(0,))
        found += [wide.maximum(0.0), wide.maximum(other), wide.op("minimum", other), wide < other]
        found += [wide.eq(other), wide / other]
        found += [wide.op(n, other) for n in ("remainder", "floor_divide")]
        return [f if f.dtype is bool_ else f.cast(dtype) for f in found]

    with np.errstate(all="ignore"):
        x = np.tile(SPECIAL, 9).astype(dtype.numpy)
    check(region([TensorType.of(x)], body), [x], 4)


@pytest.mark.parametrize("dtype", [i8, u8, i32, i64], ids=str)
def test_integers_wrap_and_floor(dtype):
    info = np.iinfo(dtype.numpy)
    some = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 100]
    some += [-1, -2, -7] if info.min else []
    x, y = (a.ravel() for a in np.meshgrid(some, some))
    names = ("add", "sub", "mul", "floor_divide", "remainder", "maximum", "minimum", "pow")

    def body(x, y):
        return [x.op(n, y) for n in names] + [x < y, -x, x.op("abs")]

    arrays = [a.astype(dtype.numpy) for a in (x, y)]
    check(region([TensorType.of(a) for a in arrays], body), arrays)


def test_all_dtypes_to_each_other():
    kinds = (f32, f64, f16, bf16, i32, i64, i8, u8, bool_)
    x = np.random.default_rng(0).integers(0, 100, 1001).astype(np.float32)
    for a in kinds:
        program = region([TensorType(a, x.shape)], lambda x: [x.cast(d) for d in kinds])
        check(program, [x.astype(a.numpy)])


# shapes


def test_outputs_may_differ_by_a_reshape():
    def body(x, y):
        z = (x + y.broadcast_to(x.shape)).exp()
        flat = z.reshape((6, 35))
        return (
            z,
            flat * 2,
            z.reshape((210,)).cast(bf16),
            flat.reshape((3, 2, 5, 7)) > 1,
            z.cast(i32),
        )

    program = region([TensorType(f32, (6, 5, 7)), TensorType(f32, (7,))], body)
    check(program, [normal(6, 5, 7), normal(7, seed=1)])


def test_outputs_of_symbolic_shapes_may_differ_by_a_reshape():
    def body(x):
        z = x * x
        return z.reshape((B * T, 8)), z, z.reshape((B, T * 8)).cast(f16)

    program = region([TensorType(f32, (B, T, 8))], body, DIMS)
    plan = generate(program, H100)
    for b, t in ((1, 1), (3, 5), (17, 40), (0, 3)):
        verify(plan, program, [normal(b, t, 8)])


def test_elements_in_order_are_read_in_order():
    types = [TensorType(f32, (40, 70)), TensorType(f32, (70,)), TensorType(f32, (40,))]

    def body(x, y, z):
        return (x * y.broadcast_to(x.shape) + z.expand((1,), (70,)),)

    program = region(types, body)
    check(program, [normal(*t.shape, seed=k) for k, t in enumerate(types)])
    text = source(program)
    assert "tl.load(x0 + (e)" in text
    assert "tl.load(x1 + ((e%70))" in text
    assert "tl.load(x2 + ((e//70))" in text


def test_nothing_to_compute():
    check(region([TensorType(f32, (0, 4))], lambda x: (x + 1, x.exp())), [normal(0, 4)])


SHAPES = ((32, 32), (7, 100), (100, 7), (33, 65), (1, 50), (70, 1), (64, 131))


@pytest.mark.parametrize("dtype", [f32, f64, bf16, i8, i64, bool_], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_transpose_moves_every_element(shape, dtype):
    high = 2 if dtype is bool_ else 100
    x = np.random.default_rng(0).integers(0, high, shape).astype(dtype.numpy)
    check(region([TensorType(dtype, shape)], lambda x: [x.permute((1, 0))]), [x])


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2), (3, 2, 1, 0)])
def test_permutes_of_four_axes(axes):
    program = region([TensorType(f32, (2, 9, 17, 33))], lambda x: (x.permute(axes) * 2,))
    check(program, [normal(2, 9, 17, 33)])


def test_transposed_operands_meet_others():
    types = [
        TensorType(f32, (3, 40, 70)),
        TensorType(f32, (3, 70, 40)),
        TensorType(bf16, (40, 3, 70)),
    ]

    def body(x, y, z):
        a = x.permute((0, 2, 1)) + y * z.cast(f32).permute((1, 2, 0))
        return a, (a > 0).reshape((210, 40)), x.permute((0, 2, 1)).exp()

    arrays = [normal(*t.shape, seed=k, dtype=t.dtype.numpy) for k, t in enumerate(types)]
    check(region(types, body), arrays)


def test_a_transpose_of_symbolic_sizes():
    program = region([TensorType(f32, (B, T))], lambda x: (x.permute((1, 0)).exp(),), DIMS)
    plan = generate(program, H100)
    for b, t in ((1, 1), (3, 50), (65, 40), (0, 3)):
        verify(plan, program, [normal(b, t)])


def test_a_padded_operand_that_is_transposed_is_not_read_outside():
    def body(x):
        return (x.op("pad", pads=((3, 40, 0), (0, 5, 0)), value=1.5).permute((1, 0)),)

    check(region([TensorType(f32, (30, 40))], body), [normal(30, 40)])


def test_index_functions():
    types = [TensorType(f32, s) for s in ((12, 20, 32), (20,), (100, 32), (40, 96))]
    types.append(TensorType(i64, (50,)))

    def middle(x, b, table, qkv, rows):
        return (x + b.reshape((1, 20, 1)).broadcast_to(x.shape),)

    def lookup(x, b, table, qkv, rows):
        return (table.op("index", rows, axes=(0,)),)

    def heads(x, b, table, qkv, rows):
        part = qkv.op("slice", starts=(0, 32), stops=(40, 64), steps=(1, 1))
        return (part.reshape((5, 8, 2, 16)).permute((0, 2, 1, 3)),)

    def lower(x, b, table, qkv, rows):
        return (x.op("tril", diagonal=3),)

    def joined(x, b, table, qkv, rows):
        return (
            table.op("concat", table, axis=1).op("pad", pads=((2, 0, 0), (1, 2, 0)), value=0.0),
        )

    arrays = [normal(*t.shape, seed=k) for k, t in enumerate(types[:-1])]
    arrays.append(np.random.default_rng(0).integers(0, 100, 50))
    for body in (middle, lookup, heads, lower, joined):
        check(region(types, body), arrays)


def test_a_wrong_index_is_reported():
    types = [TensorType(f32, (11, 8)), TensorType(i64, (5,))]
    program = region(types, lambda table, rows: (table.op("index", rows, axes=(0,)),))
    plan = generate(program, H100)
    run_plan(plan, [normal(11, 8), np.array([0, 10, 3, 3, 7])])
    for wrong in (-1, 11, 2**40):
        with pytest.raises(WrongIndex):
            run_plan(plan, [normal(11, 8), np.array([0, 10, 3, wrong, 7])])


# random numbers


@pytest.mark.parametrize("shape", [(33, 257), (5, 7, 9)], ids=str)
def test_words_are_those_of_the_reference(shape):
    def body(x, b, state):
        draw = state.op("uniform", shape=shape, dtype=f32, offset=3)
        kept = (draw < 0.9).where(x, 0.0) + b.broadcast_to(shape)
        return kept, state.op("bits", shape=shape, offset=9), draw.cast(f16)

    types = [TensorType(f32, shape), TensorType(f32, shape[-1:]), TensorType(i64, (2,))]
    program = region(types, body)
    check(program, [normal(*shape), normal(shape[-1], seed=1), np.array([-5, 2**63 - 7])])


def test_words_of_symbolic_shapes():
    def body(x, state):
        return (x + state.op("uniform", shape=(T, B), dtype=f32, offset=B).permute((1, 0)),)

    program = region([TensorType(f32, (B, T)), TensorType(i64, (2,))], body, DIMS)
    plan = generate(program, H100)
    for b, t in ((1, 1), (3, 50), (65, 41)):
        verify(plan, program, [normal(b, t), np.array([1, 2])])


# machine code


def test_blocks_are_read_16_bytes_at_a_time(store):
    for dtype in (f32, bf16):
        types = [TensorType(dtype, (512, 768)), TensorType(dtype, (768,))]
        program = region(types, lambda x, y: [(x + y.broadcast_to(x.shape)).maximum(0.0)])
        text = assembly(generate(program, H100).kernels[0], H100, store)
        assert text.count("ld.global.v4") >= 2
        assert "st.global.v4" in text


def test_kernels_of_all_dtypes_compile(store):
    """What the interpreter takes a compiler may not."""
    programs = []
    for dtype in (f32, f64, f16, bf16):
        names = ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf", "abs", "isnan")
        names += ("floor", "ceil", "trunc", "round", "neg", "signbit")

        def body(x, y, names=names, dtype=dtype):
            found = [x.op(n) for n in names]
            both = ("add", "sub", "mul", "div", "remainder", "floor_divide", "pow", "maximum")
            found += [x.op(n, y) for n in both] + [x < y, x.op("minimum", y)]
            return [f if f.dtype is bool_ else f.cast(dtype) for f in found]

        programs.append(region([TensorType(dtype, (100,))] * 2, body))
    for dtype in (i8, u8, i32, i64):

        def body(x, y, dtype=dtype):
            both = ("add", "sub", "mul", "remainder", "floor_divide", "pow", "maximum", "minimum")
            found = [x.op(n, y) for n in both] + [x < y, x.op("abs"), -x, x.cast(bool_)]
            return [*found, *(x.cast(d) for d in (f32, f64, f16, bf16, i8, i64) if d is not dtype)]

        programs.append(region([TensorType(dtype, (100,))] * 2, body))
    state = [TensorType(i64, (2,))]
    programs.append(region(state, lambda s: [s.op("bits", shape=(7, 9), offset=3)]))
    programs.append(region(state, lambda s: [s.op("uniform", shape=(7, 9), dtype=f32, offset=3)]))
    programs.append(region([TensorType(bool_, (9, 40))], lambda x: [x.permute((1, 0)), ~x]))
    kernels = [k for p in programs for k in generate(p, H100).kernels]
    compile_kernels(kernels, H100, store)
