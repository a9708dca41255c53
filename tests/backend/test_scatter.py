"""Scattering in parts: what one thread computes, bit for bit, whatever axis is shared."""

import numpy as np
import pytest
from regions import built, call, normal, region

from vtc.codegen.c import find_compiler, generate
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.plan import Launch
from vtc.ir.target import cpu
from vtc.ir.types import TensorType, bf16, f32, i32, i64

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


def put(axes, *, accumulate):
    return lambda x, v, *i: (x.op("index_put", v, *i, axes=axes, accumulate=accumulate),)


def add(axis):
    return lambda x, i, v: (x.op("scatter_add", i, v, axis=axis),)


def grown(x, v, i):
    """The first input and the elements are computed on the way."""
    return ((x * 2).op("index_put", v + 1, i, axes=(0,), accumulate=True),)


def zeros(v, i):
    return (v.zeros().op("index_put", v, i, axes=(0,), accumulate=True),)


def nothing(v, i):
    """A constant into which nothing is written."""
    return (v.full((50, 67), 0.0).op("index_put", v, i, axes=(0,), accumulate=True),)


def turned(x, v, i):
    return (x.permute((1, 0)).op("index_put", v, i, axes=(0,), accumulate=True),)


# Shapes of floats and (shape, size) of indices, in the order of the op's inputs; what is shared.
CASES = {
    "columns of rows": (put((0,), accumulate=True), [(50, 67), (300, 67), ((300,), 50)], "67"),
    "the last of several": (put((0,), accumulate=False), [(9, 67), (300, 67), ((300,), 9)], "67"),
    "a batch": (put((1,), accumulate=True), [(40, 5, 33), (40, 70, 33), ((70,), 5)], "40"),
    "two indices": (
        put((0, 1), accumulate=True),
        [(6, 5, 40), (70, 40), ((70,), 6), ((70,), 5)],
        "40",
    ),
    "narrow rows": (put((0,), accumulate=True), [(50, 11), (300, 11), ((300,), 50)], "50"),
    "single elements": (put((0,), accumulate=True), [(50,), (300,), ((300,), 50)], None),
    "rows of their own": (add(1), [(40, 33), ((40, 70), 33), (40, 70)], "40"),
    "columns of their own": (add(0), [(33, 70), ((90, 70), 33), (90, 70)], "70"),
    "fewer columns": (add(0), [(33, 70), ((90, 41), 33), (90, 41)], "70"),
    "no elements": (add(0), [(33, 70), ((0, 70), 33), (0, 70)], "70"),
    "computed": (grown, [(50, 67), (300, 67), ((300,), 50)], "67"),
    "zeros": (zeros, [(300, 67), ((300,), 300)], "67"),
    "nothing": (nothing, [(0, 67), ((0,), 50)], "67"),
    "turned around": (turned, [(67, 50), (300, 67), ((300,), 50)], "67"),
}


def case(name, dtype):
    """The program, its inputs, and the size of the axis that is shared."""
    body, shapes, axis = CASES[name]
    rng = np.random.default_rng(0)
    types, arrays = [], []
    for s in shapes:
        if isinstance(s[0], tuple):
            types.append(TensorType(i64, s[0]))
            arrays.append(rng.integers(0, s[1], s[0]))
        else:
            types.append(TensorType(dtype, s))
            arrays.append((8 * rng.normal(size=s)).astype(dtype.numpy))
    return region(types, body), arrays, axis


@pytest.mark.parametrize("dtype", [f32, bf16, i32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_parts_compute_what_the_whole_does(name, dtype):
    program, arrays, _ = case(name, dtype)
    want = evaluate(program, *arrays)[0]
    plan, function = built(program)
    code, (alone,) = call(plan, function, arrays, threads=None)
    assert code == 0
    if (name, dtype) != ("computed", bf16):  # there the kernel rounds less often
        np.testing.assert_array_equal(alone, want)
    for threads in (2, 3, 7, 100):
        code, (found,) = call(plan, function, arrays, threads=threads)
        assert code == 0
        assert found.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_the_axis_that_is_shared(name):
    program, _, axis = case(name, f32)
    plan = generate(program, cpu())
    source = plan.kernels[0].source
    (step,) = (s for s in plan.steps if isinstance(s, Launch))
    if axis is None:
        assert step.work == 0
    else:
        assert f"const int64_t count = {axis}, " in source


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_in_place_nothing_is_copied(threads):
    program, (x, v, i), _ = case("columns of rows", f32)
    plan, function = built(program)
    want = evaluate(program, x, v, i)[0]
    here = x.copy()
    assert call(plan, function, [here, v, i], outputs=[here], threads=threads)[0] == 0
    np.testing.assert_array_equal(here, want)


@pytest.mark.parametrize("wrong", [0, 150, 299])
@pytest.mark.parametrize("name", ["columns of rows", "narrow rows", "a batch"])
def test_a_wrong_index_is_reported_and_nothing_outside_is_written(name, wrong):
    program, (x, v, i), _ = case(name, f32)
    plan, function = built(program)
    for index in (-1, 50, 2**62):
        i[wrong % len(i)] = index
        for threads in (1, 3):
            room = np.full(x.size + 512, 7, np.float32)
            inside = room[256:-256].reshape(x.shape)
            outputs = [inside]
            assert call(plan, function, [x, v, i], outputs=outputs, threads=threads)[0] == 1
            assert (room[:256] == 7).all()
            assert (room[-256:] == 7).all()


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (50, 67, 300), (3, 200, 5)])
def test_sizes_that_are_not_known(sizes, dtype):
    v, d, t = (Sym.var(n) for n in "VDT")
    types = [TensorType(dtype, (v, d)), TensorType(dtype, (t, d)), TensorType(i64, (t,))]
    dims = tuple(Dim(n, 1, None) for n in "VDT")
    program = region(types, put((0,), accumulate=True), dims)
    rows, width, count = sizes
    x, values = normal(rows, width).astype(dtype.numpy), normal(count, width).astype(dtype.numpy)
    arrays = [x, values, np.random.default_rng(0).integers(0, rows, count)]
    plan, function = built(program)
    want = evaluate(program, *arrays)[0]
    for threads in (1, 2, 7):
        code, (found,) = call(plan, function, arrays, sizes, threads=threads)
        assert code == 0
        np.testing.assert_array_equal(found, want)
