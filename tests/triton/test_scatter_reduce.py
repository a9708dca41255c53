"""Reducing scatters on a GPU: every sample in every dtype, and rows that many elements meet in."""

import sys
from pathlib import Path

import numpy as np
import pytest
from plans import near, run_plan

from vtc.codegen.cuda import generate
from vtc.ir.evaluate import evaluate
from vtc.ir.ops.scatter import ScatterReduce
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f32
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, run

sys.path.append(str(Path(__file__).parents[1] / "ops"))
from cases import CASES, program_of

H100 = cuda(90)
MINE = [c for c in CASES if isinstance(c.op, ScatterReduce)]


def check(op, arrays):
    program = program_of(op, [TensorType.of(a) for a in arrays])
    wanted = evaluate(program, *arrays, precision="f64")
    plan = generate(run(program, PIPELINE, Context(target=H100)), H100)
    for g, w in zip(run_plan(plan, arrays), wanted, strict=True):
        near(g, w, 1.0)


@pytest.mark.parametrize("case", MINE, ids=lambda c: c.id)
def test_every_sample(case):
    floats = any(a.dtype.kind == "f" for a in case.sample.inputs)
    for dtype in (f32, bf16) if floats else (None,):
        check(case.op, case.arrays(dtype))


@pytest.mark.parametrize("fn", ["mul", "max", "min"])
def test_rows_that_are_kept(fn):
    rng = np.random.default_rng(0)
    x, src = (rng.uniform(0.5, 1.5, n).astype(np.float32) for n in ((5, 40), (60, 40)))
    index = np.broadcast_to(rng.integers(0, 5, (60, 1)), (60, 40)).copy()
    check(ScatterReduce(0, fn), [x, index, src])
