"""f32 results are within a few units in the last place of float64: by family of ops, see UNITS.

In NumPy and compiled; compiled they are one program, so few compiler runs.
"""

from functools import cache

import numpy as np
import pytest
from cases import CASES, each, results_of
from tolerance import UNITS, Units, units

from vtc.build import compile_program
from vtc.codegen.c import find_compiler
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.attention import AttentionGradient
from vtc.ir.ops.elementwise import Add, Exp
from vtc.ir.ops.reduce import Max, Sum
from vtc.ir.ops.vendor import Vendor
from vtc.ir.ops.view import Reshape
from vtc.ir.types import TensorType, f32
from vtc.passes.pipeline import Context

F32 = [
    c
    for c in CASES
    if any(o.tensor.dtype is f32 for o in c.program(f32).entry.outputs)
    and not isinstance(c.op, Vendor)  # a library computes those, as well as it can
]


def distances(op, got, want):
    """How many of the units of ``op`` each element of ``got`` is from ``want``."""
    kept = np.isfinite(want) & (np.abs(want) < np.finfo(np.float32).max)
    assert np.array_equal(got[~kept], want.astype(np.float32)[~kept], equal_nan=True)
    error, size = np.abs(got[kept].astype(np.float64) - want[kept]), np.abs(want[kept])
    if units(op).largest:
        size = size.max(initial=0.0)
    return error / np.maximum(np.spacing(np.float32(size)).astype(np.float64), 2.0**-149)


def assert_accurate(op, found, wanted):
    for got, want in zip(found, wanted, strict=True):
        if got.dtype == np.float32:
            assert distances(op, got, want).max(initial=0.0) <= units(op).count


@pytest.mark.parametrize("case", each(F32))
def test_the_reference_is_accurate(case):
    program, arrays = case.program(f32), case.arrays(f32)
    wanted = evaluate(program, *arrays, precision="f64")
    assert_accurate(case.op, evaluate(program, *arrays), wanted)


@cache
def compiled():
    """The results of all cases, by id."""
    b, params, outputs, arrays, parts = GraphBuilder(), [], [], [], {}
    for case in F32:
        given = case.arrays(f32)
        mine = [b.param("x", TensorType.of(a)) for a in given]
        found = results_of(b, b.apply(case.op, *mine))
        parts[case.id] = slice(len(outputs), len(outputs) + len(found))
        params, outputs, arrays = params + mine, outputs + found, arrays + list(given)
    built = compile_program(Program((b.graph("main", params, outputs),)), Context())
    assert built.plan is not None
    results = built.run([np.array(a) for a in arrays])
    return {name: results[part] for name, part in parts.items()}


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("case", each(F32))
def test_kernels_are_accurate(case):
    wanted = evaluate(case.program(f32), *case.arrays(f32), precision="f64")
    assert_accurate(case.op, compiled()[case.id], wanted)


def test_every_family_says_how_accurate_it_is():
    assert units(Reshape(shape=())) == units(Max(axes=())) == Units(0)
    assert units(Exp()) == units(Add()) == UNITS["Elementwise"]
    assert units(Sum(axes=())) == Units(2)
    assert units(AttentionGradient(is_causal=False, scale=1.0, to_mask=False)) == Units(6)


def test_an_error_is_seen():
    want = np.array([1.0, 1000.0, np.inf])
    got = want.astype(np.float32)
    got[0] = np.nextafter(got[0], np.float32(2))
    assert distances(Exp(), got, want).tolist() == [1.0, 0.0]
    assert distances(Sum(axes=()), got, want).max() < 0.01
    got[2] = 0
    with pytest.raises(AssertionError):
        distances(Exp(), got, want)
