"""Attention of few queries whose keys are divided, in the interpreter, against float64."""

import numpy as np
import pytest
from plans import run_plan
from test_attention import (
    MASKS,
    TARGETS,
    assert_near,
    check,
    dtype_of,
    forward,
    normal,
    operands,
    region,
    run,
    types,
)

from vtc.codegen.cuda import generate, kernels_of
from vtc.codegen.families import root
from vtc.codegen.region import Region
from vtc.codegen.triton.attention import candidates
from vtc.codegen.triton.attention_tiles import LEAST, Sizes, Tile, divided
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.ir.dims import Dim, Sym
from vtc.ir.evaluate import evaluate
from vtc.ir.ops.attention import ScaledDotProductAttention
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64


def launches(program, target=None):
    return len(generate(program, target or cuda(90)).steps)


def divided_and_near(arrays, body=None, **more):
    """Two kernels compute what float64 does."""
    body = body or forward()
    program = region(more.pop("types", None) or list(map(TensorType.of, arrays)), body)
    assert launches(program) == 2
    return check(body, arrays, dtype_of(arrays[0]), **more)


SHAPES = {
    "rank 2": ((), 1, 600, 16, 16),
    "one query": ((2, 3), 1, 513, 64, 64),
    "few queries": ((3,), 5, 700, 20, 33),
    "as many rows as there may be": ((2,), 64, 520, 16, 16),
    "wide": ((1, 2), 2, 520, 256, 80),
    "grouped": ((2, 8), 1, 600, 32, 16, 8),
    "grouped rows do not fill a block": ((2, 6), 3, 530, 32, 16, 6),
    "grouped, no batch": ((6,), 2, 600, 16, 24, 2),
    "a whole number of blocks": ((1, 32), 1, 1024, 64, 64, 8),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_in_parts(name):
    divided_and_near(operands(*SHAPES[name]))


@pytest.mark.parametrize("dtype", [f16, bf16], ids=str)
def test_dtypes_in_parts(dtype):
    divided_and_near(operands((2, 4), 2, 600, 24, 40, 2, dtype=dtype))


def parted(mask):
    """``mask``, made for 70 queries and 90 keys, for 3 and 600."""
    shape = [{70: 3, 90: 600}.get(n, n) for n in mask.shape]
    return np.resize(mask[..., :3, :] if 70 in mask.shape else mask, shape)


@pytest.mark.parametrize("shared", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("name", MASKS)
def test_masks_in_parts(name, shared):
    divided_and_near((*operands((2, 4), 3, 600, 16, 32, shared), parted(MASKS[name]())))


def test_a_cache_that_is_filled_in_part():
    q, k, v = operands((1, 8), 1, 700, 32, 32, 4)
    k[:, :, 300:], v[:, :, 300:] = 1e4, -1e4
    (out, _) = divided_and_near((q, k, v, np.arange(700)[None] < 300))
    _, (want, _) = run(forward(), (q, k[:, :, :300], v[:, :, :300]))
    assert_near(out, want, f32)


def test_rows_in_parts_that_attend_to_nothing_are_zero():
    q, k, v = operands((2,), 4, 600, 16, 16)
    out, lse = divided_and_near((q, k, v, np.arange(4)[:, None] < np.full(600, 2)))
    assert out[:, :2].any()
    assert not out[:, 2:].any()
    assert (lse[:, 2:] == -np.inf).all()


def test_nan_and_infinity_in_parts_are_those_of_numpy():
    q, k, v = operands((3,), 4, 600, 16, 16)
    q[0, 3], k[1, 5, 0], v[2, 560, 3] = np.nan, np.inf, np.inf
    program, found = run(forward(), (q, k, v))
    for g, w in zip(found, evaluate(program, q, k, v), strict=True):
        np.testing.assert_array_equal(np.isnan(g), np.isnan(w))
        np.testing.assert_array_equal(np.isinf(g), np.isinf(w))


def test_scores_far_apart_in_parts():
    q, k, v = operands((2,), 4, 600, 16, 16)
    for factor in (1e2, 1e18):
        program, (out, lse) = run(forward(), (q * np.float32(factor), k, v))
        _, rows = evaluate(program, q * np.float32(factor), k, v, precision="f64")
        np.testing.assert_allclose(lse, rows, rtol=1e-5)
        assert np.isfinite(out).all()


def test_what_comes_before_and_after_parts():
    def body(q, k, v, r):
        k, v = k.cast(f32), v.transpose(2, 3) * 2.0
        both = (q * 0.5 + 1.0).apply(ScaledDotProductAttention(is_causal=False, scale=0.25), k, v)
        out, rows = both.item(0), both.item(1)
        return (out * 2.0 + r).cast(f16), out.reshape((16, 24)).tanh(), rows.exp()

    arrays = normal(2, 4, 2, 16), normal(2, 2, 600, 16, dtype=f16), normal(2, 2, 24, 600)
    arrays = (*arrays, normal(2, 4, 2, 24))
    assert launches(region(list(map(TensorType.of, arrays)), body)) == 2
    check(body, arrays, f16)


@pytest.mark.parametrize("keys", [1, 70, 700, 0])
def test_keys_in_parts_of_any_number(keys):
    dims = (Dim("S", 0, None),)
    q, k, v = operands((2, 4), 2, keys, 16, 32, 2)
    size = Sym.var("S")
    given = [TensorType.of(q), *(TensorType(f32, (2, 2, size, n)) for n in (16, 32))]
    program = region(given, forward(), dims)
    assert launches(program) == 2
    check(forward(), (q, k, v), dims=dims, types=given)


@pytest.mark.parametrize("parts", [2, 7, 40, pytest.param(128, marks=pytest.mark.slow)])
def test_any_number_of_parts_computes_the_same(parts):
    arrays = (*operands((2, 4), 2, 530, 16, 32, 2), normal(2, 530))
    program = region(list(map(TensorType.of, arrays)), forward())
    tile = Tile(queries=16, keys=16, parts=parts)
    made = {"k0": kernels_of(Region.of(program.by_name["k0"], {}), cuda(90), {"tile": tile})}
    found = run_plan(generate(program, cuda(90), made), arrays)
    for g, w in zip(found, evaluate(program, *arrays, precision="f64"), strict=True):
        assert_near(g, w, f32)


def test_parts_are_for_few_programs_with_many_keys():
    def tiles(heads=32, queries=1, keys=2048, group=8, dtype=bf16):
        return divided(Sizes(heads, queries, keys, 64, group), dtype, cuda(90))

    assert tiles()[0] == Tile(queries=LEAST, keys=64, warps=4, stages=3, parts=32)
    assert tiles(keys=2**20)[0].parts == 66
    assert tiles(heads=8)[0].parts == 32
    assert tiles(queries=8)[0].queries == 64
    assert not tiles(queries=9)
    assert not tiles(keys=500)
    assert not tiles(heads=2048)
    assert tiles(keys=Sym.var("S"))
    assert not tiles(queries=Sym.var("T"))
    assert not tiles(heads=Sym.var("B"))
    assert not tiles(dtype=f64)


def test_causal_queries_are_not_divided():
    given = types(f32, forward, (1, 4), 4, 1024, 16)
    assert launches(region(given, forward(causal=True))) == 1
    assert launches(region(given, forward())) == 2


def test_candidates_have_parts_and_none():
    graph = region(types(bf16, forward, (1, 32), 1, 2048, 64, 8), forward()).by_name["k0"]
    found = candidates(Region.of(graph, {}), root(graph), cuda(90))
    assert len(set(found)) == len(found) >= 4
    assert found[0].parts > 1 == found[-1].parts


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("dtype", "d"), [(bf16, 64), (bf16, 128), (bf16, 256), (f32, 128)])
def test_parts_compile(dtype, d, target, store):
    given = [*types(dtype, forward, (1, 32), 1, 2048, d, 8), TensorType(bool_, (1, 2048))]
    kernels = generate(region(given, forward()), target).kernels
    assert len(kernels) == 2
    compile_kernels(kernels, target, store)


def test_keys_come_16_bytes_at_a_time(store):
    given = types(bf16, forward, (1, 32), 1, 2048, 128, 8)
    text = assembly(generate(region(given, forward()), cuda(90)).kernels[0], cuda(90), store)
    assert "cp.async.cg.shared.global" in text or "ld.global.v4" in text
