"""Random programs, compiled, compute what the evaluator does."""

import numpy as np
import pytest
from hypothesis import given, settings
from programs import inputs, programs

from vtc.build import compile_program
from vtc.codegen.c import find_compiler
from vtc.ir.evaluate import evaluate
from vtc.passes.check import difference
from vtc.passes.pipeline import Context

# Relative to the largest magnitude: fusion keeps in f32 what the reference rounds after each op.
TOLERANCE = {"f64": 1e-9, "f32": 2e-4, "bf16": 0.06}


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
@settings(max_examples=25)
@given(programs(nodes=12, callees=0))
def test_compiled_equals_reference(program):
    arrays = inputs(program)
    want = evaluate(program, *arrays)
    built = compile_program(program, Context())
    assert built.plan is not None
    for node, w, g in zip(
        program.entry.outputs, want, built.run([np.array(a) for a in arrays]), strict=True
    ):
        assert difference(w, g) <= TOLERANCE.get(node.tensor.dtype.name, 0)
