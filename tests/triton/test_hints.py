"""Long rows that are read again: kept in the cache, compared with what is not."""

from dataclasses import replace

import numpy as np
import pytest
from plans import near, normal, region, run_plan
from test_reduction import chosen, layer_norm, log_softmax, picked, softmax

from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import compile_kernels
from vtc.codegen.triton.resources import resources
from vtc.codegen.triton.rows import Choice
from vtc.ir.evaluate import evaluate
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f32, i64

H100 = cuda(90)
CHOICES = [Choice(1, 64, 1, keep) for keep in (False, True)]


def entropy(x, target, scale):
    """The loss of each row and its gradient, as a training step has them."""
    x = x.cast(f32)
    p = log_softmax(x, (1,)).exp()
    hit = x.iota(x.shape, 1, i64).eq(target.expand((1,), (x.shape[1],)))
    return [picked(x, target), ((p - hit.cast(f32)) * scale.expand((1,), x.shape[1:])).cast(bf16)]


def entropy_types(n, c):
    return [TensorType(bf16, (n, c)), TensorType(i64, (n,)), TensorType(f32, (n,))]


def entropy_arrays(n, c):
    x = (normal(n, c) * 3).astype(bf16.numpy)
    return [x, np.random.default_rng(1).integers(0, c, n), normal(n, seed=2)]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("columns", [64, 65, 200, 256, 300])
def test_any_number_of_turns(choice, columns):
    """Rows that end with a tile, and those that end within one."""
    bodies = {
        "softmax": lambda x, w: [softmax(x, (1,)), x.sum((1,))],
        "norm": lambda x, w: [
            layer_norm(x, (1,)) * w.expand((0,), (5,)) + x * w.expand((0,), (5,))
        ],
    }
    arrays = [normal(5, columns), normal(columns, seed=1)]
    types = [TensorType(f32, a.shape) for a in arrays]
    for body in bodies.values():
        program = region(types, body)
        got = run_plan(chosen(program, choice), arrays)
        for g, w in zip(got, evaluate(program, *arrays, precision="f64"), strict=True):
            near(g, w, 2)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_loss_and_its_gradient(choice):
    program = region(entropy_types(6, 300), entropy)
    arrays = entropy_arrays(6, 300)
    got = run_plan(chosen(program, choice), arrays)
    for g, w in zip(got, evaluate(program, *arrays, precision="f64"), strict=True):
        near(g, w, 4)


def test_targets_outside_match_nothing():
    """Not even those that are inside if only 32 bits of them are looked at."""

    def hits(x, target):
        hit = x.iota(x.shape, 1, i64).eq(target.expand((1,), (40,)))
        return [hit.cast(f32) + x - x.sum((1,)).expand((1,), (40,))]

    targets = np.array([0, 39, 40, -1, 2**32 + 5, -(2**32) + 5, 2**31, 2**63 - 1, -(2**63)])
    program = region([TensorType(f32, (9, 40)), TensorType(i64, (9,))], hits)
    arrays = [np.zeros((9, 40), np.float32), targets]
    (plan,) = [generate(program, H100)]
    (got,) = run_plan(plan, arrays)
    np.testing.assert_array_equal(got, evaluate(program, *arrays)[0])
    assert got.sum() == 2
    assert "tl.minimum(tl.maximum(" in plan.kernels[0].source


def kernel(program, target=H100):
    (found,) = generate(program, target).kernels
    return found


def test_long_rows_are_kept_in_the_cache():
    source = kernel(region(entropy_types(8192, 50_304), entropy)).source
    walks = source.split("for u in")
    assert len(walks) == 3
    assert walks[1].count("evict_last") == 1
    assert walks[2].count("evict_first") == walks[2].count('cache_modifier=".cs"') == 1
    assert "evict" not in walks[0]


@pytest.mark.parametrize(
    ("shape", "dtype", "target"),
    [
        ((8192, 20_000), bf16, H100),  # several fit side by side
        ((64, 50_304), bf16, H100),  # all fit
        ((8192, 50_304), bf16, cuda(90, l2=400 << 20)),
    ],
)
def test_rows_that_stay_there_by_themselves_are_left_alone(shape, dtype, target):
    found = kernel(region([TensorType(dtype, shape)], lambda x: [softmax(x, (1,))]), target)
    assert "for u in" in found.source
    assert "evict" not in found.source
    assert found.build.warps <= 16


def test_what_is_read_once_is_not_kept():
    types = [TensorType(bf16, (8192, 50_304))]
    found = kernel(region(types, lambda x: [x.max((1,)), x.sum((1,))]))
    assert "evict" not in found.source


@pytest.mark.parametrize("dtype", [f32, bf16], ids=str)
def test_a_program_of_all_warps_fits(dtype, store):
    """A multiprocessor has 64 K registers."""
    bodies = {
        "softmax": lambda x: [softmax(x.cast(f32), (1,)).cast(dtype)],
        "norm": lambda x: [layer_norm(x.cast(f32), (1,)).cast(dtype)],
    }
    programs = [region([TensorType(dtype, (8192, 50_304))], body) for body in bodies.values()]
    if dtype is bf16:
        programs.append(region(entropy_types(8192, 50_304), entropy))
    kernels = [kernel(p) for p in programs]
    made = compile_kernels(kernels, H100, store)
    for k in kernels:
        found = resources(made[k.symbol])
        assert k.build.warps == 32
        assert found.registers <= 64
        assert found.spills == 0


def test_kernels_for_other_targets_compile(store):
    target = replace(cuda(80), processors=108, l2=40 << 20)
    found = kernel(region(entropy_types(8192, 50_304), entropy), target)
    assert "evict_last" in found.source
    assert compile_kernels([found], target, store)[found.symbol].cubin
