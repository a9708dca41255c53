"""Taking work out of loops keeps the meaning of random ones, and is done at once."""

import numpy as np
import pytest
from loops import loop_program

import vtc.ir.ops  # noqa: F401
from vtc.ir.evaluate import evaluate
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes.hoist import hoist
from vtc.passes.pipeline import Context

PROGRAMS = 40


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(40, 2000, 40))]
)
def test_hoist_keeps_meaning(first):
    taken = 0
    for seed in range(first, first + PROGRAMS):
        program = parse(loop_program(seed))
        verify(program)
        after = hoist(program, Context())
        verify(after)
        assert parse(show(after)) == after
        assert hoist(after, Context()) is after
        rng = np.random.default_rng(seed)
        arrays = [rng.normal(size=p.tensor.shape) / 2 for p in program.entry.params]
        want = evaluate(program, *arrays, precision="f64")
        have = evaluate(after, *arrays, precision="f64")
        for a, b in zip(have, want, strict=True):
            np.testing.assert_allclose(a, b, 1e-8, 1e-8, err_msg=f"loop_program({seed})")
        taken += after is not program
    assert taken > PROGRAMS / 2
