"""Scans and sorts on a GPU: every sample in every dtype, long rows in loops and in spans, and what
is fused with them.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from plans import near, region, run_plan

from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import compile_kernels
from vtc.codegen.triton.resources import resources
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.ops.scan import Scan
from vtc.ir.ops.sort import Sorting
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f16, f32, f64, i32

sys.path.append(str(Path(__file__).parents[1] / "ops"))
from cases import CASES

H100 = cuda(90)
MINE = [c for c in CASES if isinstance(c.op, (Scan, Sorting))]


def check(program, arrays, factor=1.0):
    """The plan of ``program``, which means what the reference says."""
    plan = generate(program, H100)
    with np.errstate(all="ignore"):
        wanted = evaluate(program, *arrays, precision="f64")
    for g, w in zip(run_plan(plan, arrays), wanted, strict=True):
        near(g, w, factor)
    return plan


@pytest.mark.parametrize("case", MINE, ids=lambda c: c.id)
def test_every_sample(case):
    dtypes = (f32, f64, f16, bf16) if any(a.dtype.kind == "f" for a in case.sample.inputs) else ()
    for dtype in dtypes or (None,):
        arrays = case.arrays(dtype)
        types = [TensorType.of(a) for a in arrays]
        check(region(types, lambda *x: [x[0].apply(case.op, *x[1:])]), arrays)


def two(shape, dtype=f32, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) / 2).astype(dtype.numpy) for _ in range(2)]


def around(x, y):
    h = (x * y + 1.0).op("cumsum", axis=1, reverse=False)
    return h, h * 2.0 - y


def turned(x, y):
    h = (x + y).op("cumsum", axis=0, reverse=True)
    return (h.tanh().reshape((x.shape[0] * x.shape[1],)),)


def decayed(x, y):
    return (x.op("linear_scan", y, axis=1, reverse=True) + y,)


def leading(x, y):
    i = x.op("cumargmax", axis=1, reverse=False)
    return x.op("gather", i, axis=1), i


def ordered(x, y):
    i = x.op("argsort", axis=1, descending=True)
    return x.op("gather", i, axis=1), i


def best(x, y):
    i = (x + y).op("topk", axis=1, k=5, largest=True)
    return y.op("gather", i, axis=1) * 2.0, i


SCANS = (around, turned, decayed, leading)
SORTS = (ordered, best)
SHAPES = [(5, 70), (70, 33), (2, 5000), (5000, 3), (1, 40000)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("body", SCANS, ids=lambda b: b.__name__)
def test_scans_and_what_is_around_them(body, shape):
    check(region([TensorType(f32, shape)] * 2, body), two(shape), 20)


@pytest.mark.parametrize("body", SCANS, ids=lambda b: b.__name__)
def test_scans_of_any_length(body):
    b, t = Sym.var("B"), Sym.var("T")
    program = region([TensorType(f32, (b, t))] * 2, body, (Dim("B", 1, None), Dim("T", 1, None)))
    for shape in ((3, 7), (2, 3000), (67, 1)):
        check(program, two(shape), 20)


def test_a_long_row_is_shared():
    program = region([TensorType(f32, (1, 40000))] * 2, decayed)
    plan = generate(program, H100)
    assert len(plan.kernels) == 2
    assert plan.steps[0].grid[1] > 4


@pytest.mark.parametrize("shape", [(5, 70), (33, 7), (2, 5000), (3, 2048)], ids=str)
@pytest.mark.parametrize("body", SORTS, ids=lambda b: b.__name__)
def test_sorts_and_what_is_around_them(body, shape):
    check(region([TensorType(f32, shape)] * 2, body), two(shape))


@pytest.mark.parametrize("dtype", [f64, bf16, i32], ids=str)
def test_long_rows_of_equal_elements(dtype):
    """In runs that are merged; keys of 64 bits are pairs."""
    x = np.random.default_rng(3).integers(-40, 40, (2, 5000)).astype(dtype.numpy)
    for descending in (False, True):

        def body(x, descending=descending):
            return (x.op("argsort", axis=1, descending=descending),)

        check(region([TensorType(dtype, x.shape)], body), [x])


def test_sorts_of_any_length():
    b, t = Sym.var("B"), Sym.var("T")
    dims = (Dim("B", 1, None), Dim("T", 5, 9000))
    program = region([TensorType(f32, (b, t))] * 2, ordered, dims)
    for shape in ((3, 7), (1, 5000)):
        check(program, two(shape))


COMPILED = {
    "pairs of states": (f32, (70, 3000), leading),
    "lanes": (bf16, (3, 700, 40), lambda x, y: (x.op("cumsum", axis=1, reverse=False),)),
    "spans": (f32, (1, 400000), decayed),
    "registers": (f32, (70, 300), best),
    "runs of pairs": (f64, (4, 3000), ordered),
    "chunks": (f32, (4, 100000), best),
}


@pytest.mark.parametrize("name", COMPILED)
def test_they_compile(name, store):
    dtype, shape, body = COMPILED[name]
    plan = generate(region([TensorType(dtype, shape)] * 2, body), H100)
    for binary in compile_kernels(plan.kernels, H100, store).values():
        assert resources(binary).spills == 0
