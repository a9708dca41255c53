"""Scans and sorts in C: every sample in every dtype, what is fused with them, and parts."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from regions import built, call, region

from vtc.build import compile_program
from vtc.codegen.c import find_compiler
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.scan import Scan
from vtc.ir.ops.sort import Searchsorted, Sorting
from vtc.ir.types import TensorType, bf16, dtype_of, f16, f32, f64, i32
from vtc.passes.pipeline import Context

sys.path.append(str(Path(__file__).parents[1] / "ops"))
from cases import CASES
from tolerance import tolerance

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
MINE = [c for c in CASES if isinstance(c.op, (Scan, Sorting, Searchsorted))]
DTYPES = (f32, f64, pytest.param(f16, marks=pytest.mark.slow), bf16)


def is_near(op, got, want):
    if got.dtype.kind in "iub":
        np.testing.assert_array_equal(got, want)
        return
    t = tolerance(op, dtype_of(got.dtype))
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(got.dtype).astype(np.float64), t.rtol, t.atol
    )


@cache
def compiled(dtype):
    """The results of all samples as one program, so that the compiler starts once."""
    b, params, outputs, arrays = GraphBuilder(), [], [], []
    for case in MINE:
        mine = [b.param("x", TensorType.of(a)) for a in case.arrays(dtype)]
        outputs.append(b.apply(case.op, *mine))
        params, arrays = params + mine, arrays + list(case.arrays(dtype))
    found = compile_program(Program((b.graph("main", params, outputs),)), Context())
    assert found.plan is not None
    return dict(zip([c.id for c in MINE], found.run([np.array(a) for a in arrays]), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_sample(dtype):
    for case in MINE:
        (want,) = evaluate(case.program(dtype), *case.arrays(dtype), precision="f64")
        is_near(case.op, compiled(dtype)[case.id], want)


def around(x, y):
    """What is scanned is computed, and so is what is made of it."""
    h = (x * y + 1.0).op("cumsum", axis=1, reverse=False)
    return h, h * 2.0 - y


def turned(x, y):
    h = (x + y).op("cumsum", axis=0, reverse=True)
    return (h.tanh().reshape((x.shape[0] * x.shape[1],)),)


def decayed(x, y):
    return (x.op("linear_scan", y, axis=1, reverse=True) + y,)


def ordered(x, y):
    i = x.op("argsort", axis=1, descending=True)
    return x.op("gather", i, axis=1), i


def best(x, y):
    i = (x + y).op("topk", axis=1, k=5, largest=True)
    return y.op("gather", i, axis=1) * 2.0, i


def leading(x, y):
    return x.op("cumargmax", axis=1, reverse=False), y.op("cumargmin", axis=0, reverse=False)


BODIES = (around, turned, decayed, ordered, best)
SHAPES = [(70, 300), (3, 1000), (1, 65), (130, 49)]


def two(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) / 2).astype(dtype.numpy) for _ in range(2)]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
def test_regions_alone_and_in_parts(body):
    """What one thread computes, bit for bit, whatever number there are."""
    for shape in SHAPES:
        arrays = two(shape, f32)
        program = region([TensorType(f32, shape)] * 2, body)
        want = evaluate(program, *arrays, precision="f64")
        plan, function = built(program)
        code, alone = call(plan, function, arrays, threads=None)
        assert code == 0
        for got, w in zip(alone, want, strict=True):
            if got.dtype.kind == "i":
                np.testing.assert_array_equal(got, w)
            np.testing.assert_allclose(got, w, 1e-4, 1e-4)
        for threads in (2, 7):
            code, found = call(plan, function, arrays, threads=threads)
            assert code == 0
            assert [f.tobytes() for f in found] == [a.tobytes() for a in alone]


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
def test_sizes_of_any_length(body):
    b, t = Sym.var("B"), Sym.var("T")
    program = region([TensorType(f32, (b, t))] * 2, body, (Dim("B", 1, None), Dim("T", 5, None)))
    plan, function = built(program)
    for shape in ((3, 7), (1, 5000), (66, 129)):
        arrays = two(shape, f32)
        want = evaluate(program, *arrays, precision="f64")
        code, found = call(plan, function, arrays, shape)
        assert code == 0
        for got, w in zip(found, want, strict=True):
            np.testing.assert_allclose(got, w, 1e-4, 1e-4)


@pytest.mark.parametrize("dtype", [f32, f64, bf16, i32], ids=str)
def test_rows_of_many_equal_elements(dtype):
    """More than are inserted one by one, and those of a few bytes."""
    rng = np.random.default_rng(3)
    x = rng.integers(-40, 40, (4, 700)).astype(dtype.numpy)
    types = [TensorType(dtype, x.shape)]
    for descending in (False, True):
        program = region(types, lambda x, d=descending: (x.op("argsort", axis=1, descending=d),))
        plan, function = built(program)
        code, found = call(plan, function, [x])
        assert code == 0
        for got, want in zip(found, evaluate(program, x), strict=True):
            np.testing.assert_array_equal(got, want)


def test_what_follows_is_one_kernel():
    """Values are read where the indices are stored; what is sorted or scanned is not stored."""
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (8, 100)))
    for body in (around, ordered):
        program = fused(body, x.tensor)
        assert len(program.plan.kernels) == 1


def fused(body, type):
    b = GraphBuilder()
    params = [b.param(f"x{k}", type) for k in range(2)]
    out = [e.value for e in body(*(Expr(b, p) for p in params))]
    return compile_program(Program((b.graph("main", params, out),)), Context())


@pytest.mark.parametrize(
    "name", ["cumsum", "linear_scan", pytest.param("cumargmax", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rows", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_long_row_is_cut_into_blocks(name, rows):
    """Two kernels: the states of blocks, and each block after those before it."""
    shape = (rows, 300_001)
    arrays = two(shape, f32)[: 2 if name == "linear_scan" else 1]
    for reverse in (False, True):

        def body(x, *more, reverse=reverse):
            return (x.op(name, *more, axis=1, reverse=reverse) * 2,)

        program = region([TensorType(f32, shape)] * len(arrays), body)
        (want,) = evaluate(program, *arrays, precision="f64")
        plan, function = built(program)
        assert len(plan.kernels) == 2
        code, (alone,) = call(plan, function, arrays, threads=None)
        assert code == 0
        np.testing.assert_allclose(alone, want, 1e-4, 2e-2 if name == "cumsum" else 1e-4)
        code, (found,) = call(plan, function, arrays, threads=3)
        assert found.tobytes() == alone.tobytes()
