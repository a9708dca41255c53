"""Scattering on a GPU: the copy and the sums, in any order and in row-major order."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from plans import Memory, WrongIndex, run_plan

from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.errors import CodegenError
from vtc.ir.evaluate import evaluate
from vtc.ir.plan import Launch
from vtc.ir.target import cuda
from vtc.ir.text import parse
from vtc.ir.types import DTYPES
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context
from vtc.passes.pipeline import run as run_passes
from vtc.passes.widen import widen

ANY, ORDERED = cuda(90), cuda(90, deterministic=True)


def put(x, v, indices, axes, *, accumulate=True, before=("x", "v")):
    """A program that puts ``v`` into ``x``, both as ``before`` says."""
    names = [f"i{k}" for k in range(len(indices))]
    params = [f"x: T[{x}]", f"v: T[{v}]"]
    params += [f"{n}: i64[{s}]" for n, s in zip(names, indices, strict=True)]
    call = f"index_put({', '.join((*before, *names))}, axes={axes}, accumulate={accumulate})"
    return program(params, x, call)


def program(params, out, call, *lines):
    head = f"def f({', '.join(params)}) -> T[{out}]:"
    return "\n".join([head, *lines, f"    y: T[{out}] = {call}", "    return y", ""])


def add(x, v, axis):
    return program(
        [f"x: T[{x}]", f"i: i64[{v}]", f"v: T[{v}]"], x, f"scatter_add(x, i, v, axis={axis})"
    )


def set_(x, v, axis):
    return add(x, v, axis).replace("scatter_add", "scatter")


CASES = {
    "columns of rows": put("50, 67", "60, 67", ["60"], (0,)),
    "the last of several": put("9, 67", "60, 67", ["60"], (0,), accumulate=False),
    "many to one": put("2, 17", "1100, 17", ["1100"], (0,)),
    "the last of many": put("2, 17", "1100, 17", ["1100"], (0,), accumulate=False),
    "a batch": put("3, 5, 33", "3, 70, 33", ["70"], (1,)),
    "the last in a batch": put("3, 5, 33", "3, 70, 33", ["70"], (1,), accumulate=False),
    "indices of two axes": put("5, 40", "3, 6, 40", ["3, 6"], (0,)),
    "two indices": put("6, 5, 40", "70, 40", ["70", "70"], (0, 1)),
    "the last of two indices": put("6, 5, 40", "70, 40", ["70", "70"], (0, 1), accumulate=False),
    "indices apart": put("6, 5, 4", "70, 5", ["70", "70"], (0, 2)),
    "the last of very many": put("5, 17", "2500, 17", ["2500"], (0,), accumulate=False),
    "the last of very many of two": put(
        "3, 6, 5, 17", "3, 17, 2500", ["2500", "2500"], (1, 2), accumulate=False
    ).replace("T[3, 17, 2500]", "T[3, 2500, 17]"),
    "the last of many elements": put("50", "200", ["200"], (0,), accumulate=False),
    "the last of many in a column": set_("3, 40", "200, 37", 0),
    "one index": put("6, 5, 40", "5, 40", [""], (0,), accumulate=False),
    "one index added": put("6, 5, 40", "5, 40", [""], (0,)),
    "narrow rows": put("50, 11", "60, 11", ["60"], (0,)),
    "the last of narrow rows": put("50, 11", "60, 11", ["60"], (0,), accumulate=False),
    "single elements": put("50", "60", ["60"], (0,)),
    "the last element": put("50", "60", ["60"], (0,), accumulate=False),
    "one element": put("50", "", [""], (0,)),
    "rows of their own": add("40, 33", "40, 70", 1),
    "columns of their own": add("33, 70", "90, 70", 0),
    "fewer columns": add("33, 70", "90, 41", 0),
    "no elements": add("33, 70", "0, 70", 0),
    "no result": add("33, 0", "4, 0", 0),
    "the last in a row": set_("40, 33", "40, 70", 1),
    "the last in a column": set_("33, 70", "90, 70", 0),
    "computed": program(
        ["x: T[50, 67]", "v: T[67, 60]", "i: i64[60]"],
        "50, 67",
        "index_put(a, c, j, axes=(0,), accumulate=True)",
        "    a: T[50, 67] = mul(x, x)",
        "    b: T[60, 67] = permute(v, axes=(1, 0))",
        "    c: T[60, 67] = mul(b, b)",
        "    k: i64[60] = full(shape=(60,), value=49, dtype=i64)",
        "    j: i64[60] = sub(k, i)",
    ),
    "zeros": program(
        ["v: T[60, 67]", "i: i64[60]"],
        "50, 67",
        "index_put(z, v, i, axes=(0,), accumulate=True)",
        "    z: T[50, 67] = full(shape=(50, 67), value=0, dtype=T)",
    ),
    "from a table": program(
        ["x: T[9, 67]", "v: T[5, 67]", "i: i64[30]"],
        "9, 67",
        "index_put(x, b, i, axes=(0,), accumulate=True)",
        "    m: i64[30] = full(shape=(30,), value=4, dtype=i64)",
        "    k: i64[30] = minimum(i, m)",
        "    b: T[30, 67] = index(v, k, axes=(0,))",
    ),
}


def read(text, dtype, dims=()):
    declared = "".join(f"{d}: Dim(0, None)\n" for d in dims)
    typed = text.replace("T[", f"{dtype}[").replace("dtype=T", f"dtype={dtype}")
    return parse(declared + typed.replace("[]", "[()]"))


def compiled(graph, target):
    return generate(run_passes(graph, PIPELINE, Context(target=target)), target)


def inputs(graph, sizes=None):
    """Numbers whose sums are exact in every dtype, and indices into axes of the results."""
    rng = np.random.default_rng(0)
    arrays = []
    (result,) = graph.entry.outputs
    least = min([sizes.get(str(n), n) if sizes else n for n in result.tensor.shape if n != 0])
    for p in graph.entry.params:
        shape = tuple(sizes.get(str(n), n) if sizes else n for n in p.tensor.shape)
        dtype = p.tensor.dtype
        if dtype is DTYPES["i64"] and p.name.startswith("i"):
            arrays.append(rng.integers(0, axis_size(graph, p, least, sizes), shape))
        else:
            arrays.append(rng.integers(-2, 3, shape).astype(dtype.numpy))
    return arrays


def axis_size(graph, index, least, sizes):
    """The size of the axis that ``index`` is about."""
    for n in graph.entry.nodes:
        if index in n.inputs and n.op.name in ("index_put", "scatter", "scatter_add"):
            axes = getattr(n.op, "axes", None) or (n.op.axis,)
            values = n.op.values
            indices = [i for k, i in enumerate(n.inputs) if k not in (0, values)]
            size = n.tensor.shape[axes[indices.index(index)]]
            return sizes.get(str(size), size) if sizes else size
    return least


@pytest.mark.parametrize("target", [ANY, ORDERED], ids=["any", "ordered"])
@pytest.mark.parametrize("name", CASES)
def test_scatters_are_those_of_the_reference(name, target):
    graph = read(CASES[name], "f32")
    arrays = inputs(graph)
    (want,) = evaluate(graph, *arrays)
    (found,) = run_plan(compiled(graph, target), arrays)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("dtype", ["bool", "u8", "i8", "i32", "i64", "f16", "bf16", "f64"])
@pytest.mark.parametrize("name", ["columns of rows", "the last of several", "single elements"])
def test_dtypes(name, dtype):
    if dtype == "bool" and name != "the last of several":
        pytest.skip("bools are not added")
    graph = read(CASES[name], dtype)
    arrays = inputs(graph)
    (want,) = evaluate(graph, *arrays)
    for target in (ANY, ORDERED):
        (found,) = run_plan(compiled(graph, target), arrays)
        np.testing.assert_array_equal(found, want)


def test_sums_in_order_are_those_of_one_after_the_other():
    graph = read(CASES["columns of rows"], "f32")
    rng = np.random.default_rng(1)
    x, v, i = inputs(graph)
    x, v = (rng.normal(size=a.shape).astype(np.float32) for a in (x, v))
    (want,) = evaluate(graph, x, v, i)
    (found,) = run_plan(compiled(graph, ORDERED), [x, v, i])
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("name", ["columns of rows", "the last of several"])
def test_narrow_floats_are_rounded_once(name):
    graph = read(CASES[name], "bf16")
    rng = np.random.default_rng(1)
    x, v, i = inputs(graph)
    x, v = (rng.normal(size=a.shape).astype(a.dtype) for a in (x, v))
    exact, *_ = evaluate(read(CASES[name], "f64"), x.astype(float), v.astype(float), i)
    (found,) = run_plan(compiled(graph, ANY), [x, v, i])
    np.testing.assert_allclose(found.astype(float), exact, rtol=2**-8, atol=1e-5)


SIZES = [{"V": 1, "D": 1, "N": 1}, {"V": 9, "D": 67, "N": 50}, {"V": 3, "D": 200, "N": 5}]
EMPTY = [{"V": 4, "D": 3, "N": 0}, {"V": 4, "D": 0, "N": 3}]


@pytest.mark.parametrize("target", [ANY, ORDERED], ids=["any", "ordered"])
@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("sizes", [*SIZES, *EMPTY], ids=str)
def test_sizes_that_are_not_known(sizes, accumulate, target):
    text = put("V, D", "N, D", ["N"], (0,), accumulate=accumulate)
    graph = read(text, "f32", "VDN")
    arrays = inputs(graph, sizes)
    (want,) = evaluate(graph, *arrays)
    (found,) = run_plan(compiled(graph, target), arrays)
    np.testing.assert_array_equal(found, want)


def launches(plan):
    return [s for s in plan.steps if isinstance(s, Launch)]


def test_in_place_nothing_is_copied():
    text = put("50, 67", "60, 67", ["60"], (0,)).replace("x: T[50, 67], ", "")
    text = text.replace("]) ->", "], x: T[50, 67] = param(overwritten=0)) ->")
    graph = read(text, "f32")
    plan = compiled(graph, ANY)
    assert len(launches(plan)) == 1
    arrays = inputs(graph)
    (want,) = evaluate(graph, *arrays)
    (found,) = run_plan(plan, arrays)
    np.testing.assert_array_equal(found, want)


def test_what_is_computed_of_a_dead_value_takes_its_memory():
    plan = compiled(read(CASES["computed"], "f32"), ANY)
    copy, put = launches(plan)
    assert len(copy.args) == 2, "the copy has the first input and the result"
    assert len(put.args) == 4


@pytest.mark.parametrize("target", [ANY, ORDERED], ids=["any", "ordered"])
@pytest.mark.parametrize(
    "name",
    ["columns of rows", "narrow rows", "a batch", "the last element", "the last of many elements"],
)
def test_a_wrong_index_is_reported_and_nothing_outside_is_written(name, target):
    graph = read(CASES[name], "f32")
    x, v, i = inputs(graph)
    plan = compiled(graph, target)
    for wrong in (-1, x.shape[graph.entry.nodes[-1].op.axes[0]], 2**62):
        i[len(i) // 2] = wrong
        with pytest.raises(WrongIndex):
            run_plan(plan, [x, v, i])  # which looks behind the outputs


@pytest.mark.parametrize("target", [ANY, ORDERED], ids=["any", "ordered"])
def test_a_wrong_index_changes_nothing(target):
    """It is not taken for index 0: what is overwritten in place goes on being of use."""
    text = put("50", "60", ["60"], (0,))
    graph = read(text, "f32")
    plan = compiled(graph, target)
    x, v, i = inputs(graph)
    i[:] = 50
    memory = Memory(plan, [x, v, i])
    for step in plan.steps:
        with contextlib.suppress(WrongIndex):
            memory.launch(step, {k.name: k for k in plan.kernels}[step.kernel])
    np.testing.assert_array_equal(memory.outputs()[0], x)


def test_narrow_sums_need_the_pass_widen():
    graph = read(CASES["columns of rows"], "bf16")
    stages = [replace(s, passes=tuple(p for p in s.passes if p is not widen)) for s in PIPELINE]
    program = run_passes(graph, stages, Context(target=ANY))
    with pytest.raises(
        CodegenError, match=r"expected sums of f32.* after the pass widen, got bf16"
    ):
        generate(program, ANY)


@pytest.mark.parametrize("arch", [90, 80])
def test_they_compile(arch, store):
    names = ["columns of rows", "the last of several", "rows of their own", "the last in a row"]
    names += ["single elements", "one index added", "one element", "the last of very many"]
    kernels = [
        kernel
        for name in names
        for deterministic in (False, True)
        for kernel in compiled(
            read(CASES[name], "f32"), cuda(arch, deterministic=deterministic)
        ).kernels
    ]
    compile_kernels(kernels, cuda(arch), store)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("the last of several", 2), ("the last of very many", 4), ("one index", 2)],
)
def test_few_look_for_the_last_and_many_claim_their_place(name, kernels):
    steps = launches(compiled(read(CASES[name], "f32"), ANY))
    assert len(steps) == kernels


def test_rows_are_added_in_vectors_and_indices_are_read_once(store):
    text = put("50304, 768", "8192, 768", ["8192"], (0,))
    plan = compiled(read(text, "f32"), ANY)
    ptx = assembly(plan.kernels[-1], ANY, store)
    assert "atom.global.gpu.relaxed.add.v4.f32" in ptx
    assert "ld.global.v4.b32" in ptx
    assert ptx.count("ld.global.b64") <= 4, "no index is read for each column of a thread"
