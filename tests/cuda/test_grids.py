"""Large programs: grids that a GPU takes (65,535 blocks along the second and third axis), and
indices that do not overflow, those beyond the end of a buffer either.
"""

import pytest
from simulated import MOST

import vtc
from vtc.build import stage_program
from vtc.codegen.cuda import generate
from vtc.ir.target import cuda
from vtc.passes.pipeline import Context

SORT, BEST = "descending=False", "k=8, largest=True"
PROGRAMS = {
    "rows of wide keys": ("x: i64[100000, 10]", "i64[100000, 10]", f"argsort(x, axis=1, {SORT})"),
    "long rows": ("x: f32[70000, 3000]", "i64[70000, 3000]", f"argsort(x, axis=1, {SORT})"),
    "the best of long rows": ("x: f32[70000, 3000]", "i64[70000, 8]", f"topk(x, axis=1, {BEST})"),
    "a long row": ("x: i64[100000000]", "i64[100000000]", f"argsort(x, axis=0, {SORT})"),
    "a long sum": ("x: f32[100000000]", "f32[100000000]", "cumsum(x, axis=0, reverse=False)"),
    "many sums": ("x: f32[9000000, 30]", "f32[9000000, 30]", "cumsum(x, axis=1, reverse=False)"),
    "wide rows that are added": (
        "x: f32[3, 40000000], y: f32[2, 40000000], i: i64[2]",
        "f32[3, 40000000]",
        "index_put(x, y, i, axes=(0,), accumulate=True)",
    ),
    "many rows that are added": (
        "x: f32[3, 400], y: f32[900000, 400], i: i64[900000]",
        "f32[3, 400]",
        "index_put(x, y, i, axes=(0,), accumulate=True)",
    ),
}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_grids_of_large_programs(name, deterministic):
    inputs, result, call = PROGRAMS[name]
    program = vtc.parse(
        f"def f({inputs}) -> {result}:\n    out: {result} = {call}\n    return out\n"
    )
    target = cuda(90, deterministic=deterministic)
    plan = generate(stage_program(program, "planned", Context(target)), target)
    for step in plan.steps:
        assert all(n <= most for n, most in zip(step.grid, MOST, strict=False)), step


@pytest.mark.parametrize(("count", "wide"), [(2**31 - 100, "int64"), (2**31 - 2**20, "int32")])
def test_indices_of_the_last_block(count, wide):
    """It may have elements beyond the end, whose indices must not become negative."""
    size = f"f16[{count}]"
    program = vtc.parse(f"def f(x: {size}) -> {size}:\n    y: {size} = exp(x)\n    return y\n")
    (kernel,) = generate(stage_program(program, "planned", Context(cuda(90))), cuda(90)).kernels
    assert f"tl.program_id(0).to(tl.{wide})" in kernel.source
