"""Strided views, convolutions, pools and reducing scatters in C: every sample, in few libraries."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vtc.build import compile_program
from vtc.codegen.c import find_compiler
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.conv import Convolving
from vtc.ir.ops.pool import Pool
from vtc.ir.ops.scatter import ScatterReduce
from vtc.ir.ops.strided import Strided, Undiagonal
from vtc.ir.types import TensorType, bf16, dtype_of, f32
from vtc.passes.pipeline import Context

sys.path.append(str(Path(__file__).parents[1] / "ops"))
from cases import CASES
from tolerance import tolerance

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
KINDS = Convolving, Pool, ScatterReduce, Strided, Undiagonal
MINE = [c for c in CASES if isinstance(c.op, KINDS)]


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


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_every_sample(dtype):
    for case in MINE:
        (want,) = evaluate(case.program(dtype), *case.arrays(dtype), precision="f64")
        got = compiled(dtype)[case.id]
        if got.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want, case.id)
            continue
        t = tolerance(case.op, dtype_of(got.dtype))
        want = want.astype(got.dtype).astype(np.float64)
        np.testing.assert_allclose(got.astype(np.float64), want, t.rtol, t.atol, err_msg=case.id)
