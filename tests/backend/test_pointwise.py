"""Pointwise regions in C: several shapes, dtypes and components, tiles and streams."""

import re
from itertools import product

import numpy as np
import pytest
from regions import built, call, normal, region

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.codegen.c import find_compiler, generate
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.target import cpu
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

B, T = Sym.var("B"), Sym.var("T")
DIMS = (Dim("B", 0, None), Dim("T", 1, None))


def check(program, arrays, sizes=(), tolerance=2e-6):
    """The plan of ``program``, which means what the reference says, in any number of parts."""
    plan, function = built(program)
    verify(plan, function, program, arrays, sizes, tolerance)
    return plan


def verify(plan, function, program, arrays, sizes=(), tolerance=2e-6):
    code, got = call(plan, function, arrays, sizes, threads=None)
    assert code == 0
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays)
    for g, w in zip(got, wanted, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if w.dtype.kind in "biu":
            np.testing.assert_array_equal(g, w)
        else:
            g, w = g.astype(np.float64), w.astype(np.float64)
            np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)
    for threads in (1, 2, 3, 7):
        again = call(plan, function, arrays, sizes, threads=threads)[1]
        assert [a.tobytes() for a in again] == [a.tobytes() for a in got]


def source(program):
    (kernel,) = generate(program, cpu()).kernels
    return kernel.source


# several outputs


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
    assert source(program).count("#pragma omp simd") == 1
    assert not re.search(r"y\d\[[^]]*[/%]", source(program))


def test_outputs_of_symbolic_shapes_may_differ_by_a_reshape():
    def body(x):
        z = x * x
        return z.reshape((B * T, 8)), z, z.reshape((B, T * 8)).cast(f16)

    program = region([TensorType(f32, (B, T, 8))], body, DIMS)
    plan, function = built(program)
    for b, t in ((1, 1), (3, 5), (17, 40), (0, 3)):
        verify(plan, function, program, [normal(b, t, 8)], (b, t), 1e-3)


def test_outputs_of_unrelated_shapes():
    def body(x):
        z = x.permute((1, 0)) + 1
        return z, z.reshape((8, 3)), x.reshape((24,)).reshape((2, 12))

    check(region([TensorType(f32, (4, 6))], body), [normal(4, 6)])


def test_a_long_region_with_a_reshape_inside_is_not_too_deep():
    def body(x):
        for _ in range(150):
            x = x * 0.99 + 0.01
        x = x.reshape((12,))
        for _ in range(150):
            x = x * 0.99 + 0.01
        return (x,)

    program = region([TensorType(f32, (3, 4))], body)
    x = normal(3, 4)
    plan, function = built(program, optimize=False)
    verify(plan, function, program, [x], tolerance=1e-5)


SPECIAL = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-42, 88.8, -103.5])


@pytest.mark.parametrize("dtype", [f32, f64, f16, bf16], ids=str)
def test_special_values(dtype):
    def body(x):
        wide = x.cast(f32) if dtype.itemsize < 4 else x
        found = [wide.op(n) for n in ("exp", "log", "tanh", "erf", "rsqrt", "floor", "isnan")]
        return [f if f.dtype is bool_ else f.cast(dtype) for f in found] + [wide.maximum(0.0)]

    with np.errstate(all="ignore"):
        x = np.tile(SPECIAL, 9).astype(dtype.numpy)
    tolerance = {"f16": 2e-3, "bf16": 2e-2}.get(dtype.name, 2e-6)
    check(region([TensorType.of(x)], body), [x], tolerance=tolerance)


# tiles


SHAPES = ((32, 32), (7, 100), (100, 7), (33, 65), (1, 50), (70, 1), (64, 131))


@pytest.mark.parametrize("dtype", [f32, f64, bf16, i8, i64, bool_], ids=str)
def test_a_transpose_moves_every_element(dtype):
    types = [TensorType(dtype, s) for s in SHAPES]
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 2 if dtype is bool_ else 100, t.shape).astype(dtype.numpy) for t in types
    ]
    program = region(types, lambda *xs: [x.permute((1, 0)) for x in xs])
    check(program, arrays)


def test_transposed_operands_meet_others():
    types = [
        TensorType(f32, (3, 40, 70)),
        TensorType(f32, (3, 70, 40)),
        TensorType(bf16, (40, 3, 70)),
    ]

    def body(x, y, z):
        a = x.permute((0, 2, 1)) + y * z.cast(f32).permute((1, 2, 0))
        return a, (a > 0).reshape((210, 40)), x.permute((0, 2, 1)).exp()

    program = region(types, body)
    check(program, [normal(*t.shape, seed=k, dtype=t.dtype.numpy) for k, t in enumerate(types)])
    assert source(program).count("vtc_transpose_4(w") == 1
    assert source(program).count("vtc_transpose_2(w") == 1


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 2, 3, 1), (0, 1, 3, 2), (3, 2, 1, 0)])
def test_permutes_of_four_axes(axes):
    program = region([TensorType(f32, (2, 9, 17, 33))], lambda x: (x.permute(axes) * 2,))
    check(program, [normal(2, 9, 17, 33)])


def turned(x):
    return (x.permute((1, 0)),)


def test_a_transpose_of_symbolic_sizes():
    def body(x):
        return x.permute((1, 0, 2)), x.permute((2, 1, 0)).exp(), x.permute((1, 2, 0)).cast(f16)

    program = region([TensorType(f32, (B, T, 8))], body, DIMS)
    plan, function = built(program)
    plain = region([TensorType(f32, (B, T))], turned, DIMS)
    assert "vtc_transpose_4(w0" in source(plain)
    other = built(plain)
    for b, t in ((1, 1), (3, 50), (65, 40), (0, 3)):
        verify(*other, plain, [normal(b, t)], (b, t))
        verify(plan, function, program, [normal(b, t, 8)], (b, t), 1e-3)


def test_a_padded_operand_that_is_transposed_is_not_read_outside():
    def body(x):
        return (x.op("pad", pads=((3, 40, 0), (0, 5, 0)), value=1.5).permute((1, 0)),)

    check(region([TensorType(f32, (30, 40))], body), [normal(30, 40)])


# streams

STREAMED = {
    "odd": (f32, (2049, 2053)),
    "one": (f32, (1 << 22,)),
    "prime": (f64, (2_097_169,)),
    "narrow": (bf16, (4, 2_097_153)),
    "bytes": (u8, (3, 5_592_407)),
    "short": (f32, (16_400, 257)),
}


@pytest.mark.parametrize("name", STREAMED)
def test_a_large_output_is_streamed(name):
    dtype, shape = STREAMED[name]
    row = TensorType(dtype, shape[-1:])
    types = [TensorType(dtype, shape), row]
    program = region(types, lambda x, y: (x + y.broadcast_to(shape),))
    arrays = [
        np.random.default_rng(k).integers(0, 9, t.shape).astype(dtype.numpy)
        for k, t in enumerate(types)
    ]
    check(program, arrays)
    assert "vtc_stream(y0" in source(program)
    assert "vtc_streamed();" in source(program)


def test_a_large_output_may_begin_anywhere():
    n = (1 << 22) + 3
    program = region([TensorType(f32, (n,))], lambda x: (x * 2, x > 0, x.cast(bf16)))
    plan, function = built(program)
    x, room = normal(n), np.empty(n + 16, np.float32)
    small, half = np.empty(n + 5, bool)[5:], np.empty(n + 1, bf16.numpy)[1:]
    for start in (0, 1, 7, 15):
        code, _ = call(
            plan, function, [x], outputs=[room[start : start + n], small, half], threads=3
        )
        assert code == 0
        np.testing.assert_array_equal(room[start : start + n], x * 2)
        np.testing.assert_array_equal(small, x > 0)
        np.testing.assert_array_equal(half, x.astype(bf16.numpy))


def test_a_large_output_may_be_an_input():
    n = (1 << 22) + 5
    program = region([TensorType(f32, (n,))] * 2, lambda x, y: (x * 2 + y, x - y))
    plan, function = built(program)
    x, y = normal(n), normal(n, seed=1)
    wanted = evaluate(program, x, y)
    call(plan, function, [x, y], outputs=[x, y], threads=2)
    for g, w in zip((x, y), wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-6)


def test_a_large_transpose_is_streamed():
    x = normal(2050, 2060)
    program = region([TensorType.of(x)], turned)
    check(program, [x])
    assert "vtc_transpose_4" in source(program)
    assert "vtc_stream(y0" in source(program)


# components


def adamw(p, g, m, v, rate, step):
    """An update with decoupled decay; its scalars are shared."""
    m = m * 0.9 + g * 0.1
    v = v * 0.99 + g * g * 0.01
    scale = (rate / (1.0 - (step * -0.105).exp())).broadcast_to(p.shape)
    return p * 0.999 - scale * m / (v.sqrt() + 1e-8), m, v


def updates(shapes):
    """A region of updates, and inputs for it."""
    types = [TensorType(f32, s) for s in shapes for _ in range(4)]
    types += [TensorType(f32, ())] * 2

    def body(*xs):
        *tensors, rate, step = xs
        groups = [tensors[k : k + 4] for k in range(0, len(tensors), 4)]
        return [y for group in groups for y in adamw(*group, rate, step)]

    arrays = [np.abs(normal(*s, seed=k)) + 0.1 for s in shapes for k in range(4)]
    return region(types, body), [*arrays, np.float32(0.01), np.float32(3)]


def many(count):
    return [((k % 7) * 13 + 1,) if k % 3 else (k % 5 + 2, k * 3 + 1) for k in range(count)]


def test_updates_of_all_sizes_are_one_function():
    program, arrays = updates(many(50))
    check(program, arrays)
    text = source(program)
    assert text.count("static int part") == 2  # one for single elements
    assert len(source(updates(many(150))[0])) < 3 * len(text)


def test_updates_in_place():
    shapes = [*many(50), (300, 77), (1, 0, 4)]
    program, arrays = updates(shapes)
    plan, function = built(program)
    wanted = evaluate(program, *arrays)
    for threads in (None, 1, 2, 5):
        own = [np.array(a) for a in arrays]
        places = [own[4 * k + j] for k in range(len(shapes)) for j in (0, 2, 3)]
        code, _ = call(plan, function, own, outputs=places, threads=threads)
        assert code == 0
        for g, w in zip(places, wanted, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def test_components_that_are_not_flat_have_functions_of_their_own():
    types = [TensorType(f32, s) for s in ((40, 50), (7,), (9, 3), (), (3, 40, 2), (11, 8))]
    types.append(TensorType(i64, (5,)))

    def body(x, y, z, s, w, table, rows):
        half = s * 0.5
        return (
            x.permute((1, 0)) * half.broadcast_to((50, 40)),
            y * half.broadcast_to((7,)),
            (z * half.broadcast_to((9, 3))).reshape((27,)),
            s + 1,
            w.reshape((40, 6)).permute((1, 0)),
            table.op("index", rows, axes=(0,)),
            (y * half.broadcast_to((7,))).cast(bf16),
            half.expand((0,), (5000,)),
        )

    program = region(types, body)
    arrays = [normal(*t.shape, seed=k) for k, t in enumerate(types[:-1])]
    check(program, [*arrays, np.array([0, 10, 3, 3, 7])])
    plan, function = built(program)
    assert call(plan, function, [*arrays, np.array([0, 11, 3, 3, 7])])[0] == 1


def test_components_of_symbolic_sizes():
    types = [TensorType(f32, s) for s in ((B, 4), (T,), (B, T), (3,))]

    def body(x, y, z, w):
        return x * 2, y * 2, z.permute((1, 0)), w * 2, z.cast(f16).reshape((B * T,))

    program = region(types, body, DIMS)
    plan, function = built(program)
    for b, t in ((1, 1), (3, 500), (0, 7), (65, 40)):
        arrays = [normal(b, 4), normal(t), normal(b, t), normal(3)]
        verify(plan, function, program, arrays, (b, t), 1e-3)


def test_components_without_elements():
    types = [TensorType(f32, s) for s in ((0, 4), (3, 0))]
    check(region(types, lambda x, y: (x + 1, y.exp())), [normal(0, 4), normal(3, 0)])
    types.append(TensorType(f32, (5,)))
    arrays = [normal(0, 4), normal(3, 0), normal(5)]
    check(region(types, lambda x, y, z: (x + 1, y.exp(), z.exp())), arrays)


def test_random_draws_do_not_depend_on_the_parts():
    def body(state):
        draws = [
            state.op("uniform", shape=s, dtype=f32, offset=k)
            for k, s in enumerate(((1000,), (7, 9)))
        ]
        return *draws, state.op("advance", count=64)

    check(region([TensorType(i64, (2,))], body), [np.array([5, 9])])


@pytest.mark.parametrize("shape", [(33, 257), (3, 1024), (5, 7, 9), (2050, 2051)], ids=str)
def test_words_drawn_by_the_block_are_those_of_the_reference(shape):
    def body(x, b, state):
        draw = state.op("uniform", shape=shape, dtype=f32, offset=3)
        kept = (draw < 0.9).where(x, 0.0) + b.broadcast_to(shape)
        return kept, state.op("bits", shape=shape, offset=9), draw.cast(f16)

    types = [TensorType(f32, shape), TensorType(f32, shape[-1:]), TensorType(i64, (2,))]
    program = region(types, body)
    check(program, [normal(*shape), normal(shape[-1], seed=1), np.array([-5, 2**63 - 7])])
    assert source(program).count("= vtc_draw(") == 2


def test_words_of_symbolic_shapes():
    def body(x, state):
        return (x + state.op("uniform", shape=(T, B), dtype=f32, offset=B).permute((1, 0)),)

    program = region([TensorType(f32, (B, T)), TensorType(i64, (2,))], body, DIMS)
    plan, function = built(program)
    for b, t in ((1, 1), (3, 500), (65, 41)):
        verify(plan, function, program, [normal(b, t), np.array([1, 2])], (b, t))


# index functions


def test_index_functions_divide_outside_the_innermost_loop():
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
        program = region(types, body)
        check(program, arrays)
        text = source(program)
        inner = text[text.index("#pragma omp simd") :]
        assert not re.search(r"[/%]", inner), body.__name__


def test_all_narrow_dtypes_in_one_loop():
    kinds = (f32, f64, f16, bf16, i32, i64, i8, u8, bool_)
    x = np.random.default_rng(0).integers(0, 100, 1001).astype(np.float32)
    program = region([TensorType.of(x)], lambda x: [x.cast(d) for d in kinds])
    check(program, [x])
    for a, b in product(kinds[:4], repeat=2):
        if a is not b:
            check(
                region([TensorType(a, (77,))], lambda x, b=b: (x.cast(b),)),
                [x[:77].astype(a.numpy)],
            )
