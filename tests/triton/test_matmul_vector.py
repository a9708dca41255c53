"""Products of a matrix with a vector: in the interpreter, and what is loaded at once in PTX."""

import re

import numpy as np
import pytest
from plans import near, region, run_plan

from vtc.codegen.cuda import generate, kernels_of
from vtc.codegen.families import root
from vtc.codegen.region import Region
from vtc.codegen.triton.compile import assembly
from vtc.codegen.triton.matmul import candidates
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.ops.contract import Matmul
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f32

RNG = np.random.default_rng(3)


def times(x, y, r=None):
    out = x.apply(Matmul(transpose_y=True), y)
    return (out if r is None else out + r,)


def arrays(dtype, *shapes):
    return [RNG.normal(size=s).astype(dtype.numpy) for s in shapes]


def tried(given, dims=()):
    """Every candidate of a product, as a plan."""
    program = region(given, times, dims)
    own = Region.of(program.by_name["k0"], program.ranges)
    choices = candidates(own, root(program.by_name["k0"]), cuda(90))
    plans = [generate(program, cuda(90), {"k0": kernels_of(own, cuda(90), c)}) for c in choices]
    return program, choices, plans


SHAPES = {
    "a row": ((1, 70), (40, 70)),
    "a column": ((40, 70), (1, 70)),
    "many steps": ((1, 5632), (9, 5632)),
    "steps that do not end with the row": ((1, 2600), (9, 2600)),
    "a prime": ((1, 1031), (17, 1031)),
    "several": ((3, 1, 130), (3, 20, 130)),
    "one element": ((1, 9000), (1, 9000)),
    "short": ((1, 3), (7, 3)),
}


@pytest.mark.parametrize("dtype", [bf16, f32], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_every_candidate_is_near(name, dtype):
    x, y = arrays(dtype, *SHAPES[name])
    program, choices, plans = tried([TensorType.of(x), TensorType.of(y)])
    (want,) = evaluate(program, x, y, precision="f64")
    for plan in plans:
        (got,) = run_plan(plan, (x, y))
        near(got, want, 2.0)
    assert len(choices) == len({str(c) for c in choices})


def test_what_follows_is_part_of_it():
    x, y, r = arrays(bf16, (1, 2048), (16, 2048), (1, 16))
    program = region([TensorType.of(a) for a in (x, y, r)], times)
    (got,) = run_plan(generate(program, cuda(90)), (x, y, r))
    near(got, evaluate(program, x, y, r, precision="f64")[0])


@pytest.mark.parametrize("k", [1, 700, 2100])
def test_a_sum_of_any_length(k):
    size = Sym.var("K")
    given = [TensorType(f32, (1, size)), TensorType(f32, (20, size))]
    x, y = arrays(f32, (1, k), (20, k))
    program, _, plans = tried(given, (Dim("K", 1, None),))
    near(run_plan(plans[0], (x, y))[0], evaluate(program, x, y, precision="f64")[0])


@pytest.mark.parametrize(
    ("rows", "k"), [(2048, 2048), (256, 2048), (5632, 2048), (2048, 5632), (32000, 2048)]
)
def test_no_load_waits_for_a_barrier(rows, k, store):
    given = [TensorType(bf16, (1, k)), TensorType(bf16, (rows, k))]
    _, choices, plans = tried(given)
    kernel = plans[0].kernels[0]
    found = re.findall(r"ld\.global\.v4|bar\.sync", assembly(kernel, cuda(90), store))
    loads = found.index("bar.sync")
    assert set(found[loads:]) == {"bar.sync"}
    b = choices[0]["blocks"]
    each = (b.n + 1) * b.k * 2 // (16 * 32 * b.warps)
    assert loads == each * b.stages  # the steps of a turn
    assert b.n * b.k * b.stages * 2 >= 8192 or rows < 1000  # bytes of the matrix under way
    assert -(-rows // b.n) >= min(264, rows // 2)  # programs for 132 processors
