"""Updates of many params: one kernel with a table of pointers, and others by themselves."""

import numpy as np
import pytest
from plans import run_plan

from vtc.codegen.cuda import generate
from vtc.codegen.triton.compile import assembly, compile_kernels
from vtc.ir.evaluate import evaluate
from vtc.ir.plan import Launch
from vtc.ir.target import cuda
from vtc.ir.text import parse
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context
from vtc.passes.pipeline import run as run_passes

TARGET = cuda(90)
PLAIN = ["u: T = mul({g}, {n})", "y: T = sub({w}, {u})"]
DECAYED = ["d: T = mul({w}, {w})", "u: T = mul({g}, {d})", "m: T = mul({u}, {n})"]
DECAYED += ["y: T = sub({w}, {m})"]


def updates(shapes, *, dtype="f32", forms=(PLAIN,), dims="", turned=()):
    """A program that updates a param of each shape, by the forms in turn; ``turned`` gradients are
    transposed.
    """
    grads, params, lines = [f"n: {dtype}[()]"], [], []
    for k, shape in enumerate(shapes):
        tensor, axes = f"{dtype}[{shape}]", tuple(range(shape.count(",") + 1))
        names = {x: f"{x}_{k}" for x in "ngwdumy"}
        grad = tensor
        if k in turned:
            grad = f"{dtype}[{', '.join(reversed(shape.split(', ')))}]"
            lines.append(f"h_{k}: {tensor} = permute(g_{k}, axes={axes[::-1]})")
            names["g"] = f"h_{k}"
        grads.append(f"g_{k}: {grad}")
        params.append(f"w_{k}: {tensor} = param(overwritten={k})")
        sizes = f"({', '.join(shape.split(', '))},)"
        lines.append(f"n_{k}: {tensor} = expand(n, axes={axes}, sizes={sizes})")
        for line in forms[k % len(forms)]:
            name, _, call = line.partition(": T = ")
            lines.append(f"{name}_{k}: {tensor} = {call.format(**names)}")
    results = ", ".join(f"{dtype}[{s}]" for s in shapes)
    outputs = ", ".join(f"y_{k}" for k in range(len(shapes)))
    text = f"def f({', '.join((*grads, *params))}) -> ({results}):\n"
    return parse(dims + text + "".join(f"    {x}\n" for x in lines) + f"    return {outputs}\n")


def compiled(program, target=TARGET):
    return generate(run_passes(program, PIPELINE, Context(target=target)), target)


def launches(plan):
    return [s for s in plan.steps if isinstance(s, Launch)]


def compare(program, sizes=None):
    """The plan, which computes what the reference does."""
    rng = np.random.default_rng(0)
    arrays = []
    for p in program.entry.params:
        shape = tuple((sizes or {}).get(str(n), n) for n in p.tensor.shape)
        arrays.append(rng.integers(-4, 5, shape).astype(p.tensor.dtype.numpy))
    plan = compiled(program)
    want = evaluate(program, *(a.copy() for a in arrays))
    for w, g in zip(want, run_plan(plan, arrays), strict=True):
        np.testing.assert_array_equal(g, w)
    return plan


SHAPES = ["5, 3", "7", "64, 64", "64, 64", "1024", "1", "3", "64, 64", "2048", "7"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "f64", "i32", "i64"])
@pytest.mark.parametrize("forms", [(PLAIN,), (PLAIN, DECAYED)], ids=["one form", "two forms"])
def test_one_launch_for_all_sizes(forms, dtype):
    plan = compare(updates(SHAPES, dtype=dtype, forms=forms))
    first, *others = launches(plan)
    builds = {k.name: k.build for k in plan.kernels}
    assert builds[first.kernel].table
    assert len(others) == 1, "the single element is by itself"
    assert not builds[others[0].kernel].table


def test_the_table_has_a_row_for_each_and_few_sizes_make_few_branches():
    plan = compare(updates(["64, 64"] * 40 + ["64"] * 40))
    (step,) = launches(plan)
    (kernel,) = plan.kernels
    assert len(step.args) == 4 * 80
    assert step.grid == (40 * 4 + 40,)
    assert kernel.build.signature == ("*i64",)
    assert kernel.source.count("    if ") == 1
    assert kernel.source.count("tl.load(table") + kernel.source.count("tl.load(row") == 4


def test_many_sizes_are_searched_among():
    plan = compare(updates([str(16 * k + 16) for k in range(23)]))
    (kernel,) = plan.kernels
    deepest = max(len(x) - len(x.lstrip()) for x in kernel.source.splitlines() if " first" in x)
    assert deepest <= 4 * 6, "the search is a balanced tree"


def test_what_depends_on_its_place_is_a_kernel_of_its_own():
    plan = compare(updates(["40, 70", "70", "70, 40", "9"], turned=[0, 2]))
    tables = [k.build.table for k in plan.kernels]
    assert sorted(tables) == [False, False, True]


def test_sizes_that_are_not_known():
    program = updates(["N, 16", "5", "N, 3", "M, N", "16"], dims="N: Dim(0, None)\nM: Dim(1, 9)\n")
    for sizes in ({"N": 1, "M": 1}, {"N": 100, "M": 7}, {"N": 0, "M": 3}):
        plan = compare(program, sizes)
    assert launches(plan)[0].sizes, "the kernel is given the sizes"


def test_empty_params_are_left_out():
    compare(updates(["0, 4", "7", "3, 0", "8"]))
    assert not launches(compare(updates(["0, 4", "0"])))


def test_equal_updates_are_one_kernel():
    one, two = (compiled(updates(SHAPES)) for _ in range(2))
    assert one.kernels == two.kernels


@pytest.mark.parametrize("arch", [90, 80])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_they_compile_to_vectors(dtype, arch, store):
    target = cuda(arch)
    plan = compiled(updates(["768, 768"] * 3 + ["768"] * 3, dtype=dtype), target)
    compile_kernels(plan.kernels, target, store)
    (kernel,) = plan.kernels
    ptx = assembly(kernel, target, store)
    assert "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx
    assert ptx.count("ld.global.b16") <= 1, "only the single number is read alone"


def test_ragged_sizes_do_not_spoil_the_others(store):
    plan = compiled(updates(["768, 768", "5", "768", "9, 7"]))
    ptx = assembly(plan.kernels[0], TARGET, store)
    assert "ld.global.v4.b32" in ptx
