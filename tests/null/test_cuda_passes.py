"""What programs become for a GPU, as far as no GPU and no Triton is needed to tell."""

import os
import subprocess
import sys

import pytest

from vtc.codegen.cuda import generate
from vtc.codegen.steps import Made, planned
from vtc.ir.dims import Sym, substitute
from vtc.ir.op import Pointwise
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.index import Scattering
from vtc.ir.plan import Arena, Build, Input, Launch, Output
from vtc.ir.saved import from_json, to_json
from vtc.ir.target import cpu, cuda
from vtc.ir.text import parse
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context
from vtc.passes.pipeline import run as run_passes

PUT = """\
def f(x: T[50, 67], v: T[60, 67], i: i64[60]) -> T[50, 67]:
    y: T[50, 67] = index_put(x, v, i, axes=(0,), accumulate=True)
    return y
"""
IN_PLACE = """\
def f(v: T[60, 67], i: i64[60], x: T[50, 67] = param(overwritten=0)) -> T[50, 67]:
    y: T[50, 67] = index_put(x, v, i, axes=(0,), accumulate=True)
    return y
"""
ZEROS = """\
def f(v: T[60, 67], i: i64[60]) -> T[50, 67]:
    x: T[50, 67] = full(shape=(50, 67), value=0, dtype=T)
    y: T[50, 67] = index_put(x, v, i, axes=(0,), accumulate=True)
    return y
"""


def read(text, dtype="f32"):
    return parse(text.replace("T[", f"{dtype}[").replace("dtype=T", f"dtype={dtype}"))


def passed(program, target):
    return run_passes(program, PIPELINE, Context(target=target))


def launches(plan):
    return [s for s in plan.steps if isinstance(s, Launch)]


# narrow sums


def sums(program):
    """The dtypes of scatters that add, and how many regions there are."""
    nodes = [n for g in program.graphs for n in g.nodes]
    found = [str(n.tensor.dtype) for n in nodes if isinstance(n.op, Scattering)]
    return found, len(program.graphs) - 1


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [("bf16", "f32"), ("f16", "f32"), ("u8", "i32"), ("i8", "i32"), ("f32", "f32"), ("i64", "i64")],
)
def test_narrow_numbers_are_added_up_in_wide_ones_on_a_gpu_only(dtype, wide):
    program = read(PUT, dtype)
    assert sums(passed(program, cpu())) == ([dtype], 1)
    assert sums(passed(program, cuda(90)))[0] == [wide]


def test_wide_zeros_are_no_kernel_of_their_own():
    found, regions = sums(passed(read(ZEROS, "bf16"), cuda(90)))
    assert found == ["f32"]
    assert regions == 2, "the sums with their zeros, and what rounds them"


def test_what_is_written_stays_narrow():
    program = read(PUT.replace("accumulate=True", "accumulate=False"), "bf16")
    assert sums(passed(program, cuda(90))) == (["bf16"], 1)


# launches of one region


@pytest.mark.parametrize(("text", "kernels"), [(PUT, 2), (IN_PLACE, 1), (ZEROS, 2)])
def test_a_scatter_copies_first_where_it_is_not_in_place(text, kernels):
    plan = generate(passed(read(text), cuda(90)), cuda(90))
    assert len(launches(plan)) == kernels
    assert from_json(to_json(plan)) == plan


def test_to_be_deterministic_is_another_kernel():
    any_order, in_order = cuda(90), cuda(90, deterministic=True)
    program = passed(read(PUT), any_order)
    one, two = (generate(program, t) for t in (any_order, in_order))
    assert "tl.atomic_add" in one.kernels[-1].source
    assert "atomic" not in two.kernels[-1].source
    assert one.kernels[0] == two.kernels[0]


SYMBOLS = """\
from vtc.codegen.cuda import generate
from vtc.ir.target import cpu, cuda
from vtc.ir.text import parse
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, run
program = run(parse(TEXT), PIPELINE, Context(target=cuda(90)))
print(*(k.symbol for k in generate(program, cuda(90)).kernels))
"""


def test_another_process_finds_the_same_kernels():
    """Symbols are hashes of the text, and sets of names have another order there."""
    text = SYMBOLS.replace("TEXT", repr(PUT.replace("T[", "f32[")))
    found = {
        subprocess.run(
            [sys.executable, "-c", text],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1


def made(symbol, **more):
    return Made(symbol, f"source of {symbol}", build=Build(("*fp32",)), **more)


def test_a_region_may_be_several_launches():
    text = "B: Dim(1, 8)\ndef f(x: f32[B]) -> f32[B]:\n    y: f32[B] = exp(x)\n    return y\n"

    def make(region):
        return (
            made("one", args=(1, 0, 0), symbols=(), grid=(3,)),
            made("two", grid=(Sym.var("n0") + 1,)),
        )

    plan = planned(passed(parse(text), cuda(90)), cuda(90), make)
    x, y, size = Input(0), Output(0), Sym.var("B")
    first, second = plan.steps
    assert [k.name for k in plan.kernels] == ["k0", "k0.1"]
    assert (first.kernel, first.args, first.sizes, first.grid) == ("k0", (y, x, x), (), (3,))
    assert (second.kernel, second.args) == ("k0.1", (x, y))
    assert (second.sizes, second.grid) == ((size,), (size + 1,))


def test_a_region_may_be_no_launch():
    plan = planned(passed(read(PUT), cuda(90)), cuda(90), lambda region: ())
    assert launches(plan) == []


@pytest.mark.parametrize(("text", "kept"), [(PUT, 2), (IN_PLACE, 1)])
def test_a_copy_to_where_it_is_already_is_no_launch(text, kept):
    def make(region):
        x = next(n for n in region.graph.nodes if not isinstance(n.op, Pointwise)).inputs[0]
        return made("copy", copies=region.graph.params.index(x)), made("add")

    plan = planned(passed(read(text), cuda(90)), cuda(90), make)
    assert [s.kernel for s in launches(plan)] == ["k0", "k0.1"][-kept:]


@pytest.mark.parametrize("high", ["8", "None"])
def test_scratch_memory_lies_behind_all_values(high):
    text = f"B: Dim(1, {high})\n" + (
        "def f(x: f32[B], w: f32[B, B]) -> f32[B]:\n    y: f32[B] = exp(x)\n"
        "    z: f32[B, B] = matmul(w, w)\n    s: f32[B] = sum(z, axes=(1,))\n"
        "    t: f32[B] = add(s, y)\n    return t\n"
    )

    def make(region):
        if isinstance(region.graph.nodes[-1].op, Matmul):
            return made("one", scratch=(100, 4)), made("two", args=(), scratch=(Sym.var("n0"),))
        return (made("other"),)

    plan = planned(passed(parse(text), cuda(90)), cuda(90), make)
    steps = {s.kernel: s for s in launches(plan)}
    kernels = {k.symbol: k.name for k in plan.kernels}
    one, two, other = (steps[kernels[k]] for k in ("one", "two", "other"))
    values = [a for a in (*one.args[:-2], *other.args) if isinstance(a, Arena)]
    first, second = one.args[-2:]
    assert two.args == (first,), "it is theirs together"
    for b in (1, 8):
        at = [substitute(a.offset, {"B": b}) for a in (*values, first, second)]
        end = substitute(plan.arena, {"B": b})
        assert max(at[:-2]) < at[-2], "no value lies there"
        assert at[-1] == at[-2] + 128
        assert at[-2] % 64 == 0
        assert end >= at[-1] + 64


# many updates


def updates(count):
    """A program that updates params of two sizes."""
    shapes = [(64, 3) if k % 2 else (48, 16) for k in range(count)]
    types = [f"f32[{a}, {b}]" for a, b in shapes]
    params = [f"g_{k}: {t}" for k, t in enumerate(types)]
    params += [f"w_{k}: {t} = param(overwritten={k})" for k, t in enumerate(types)]
    lines = [f"def f(n: f32[()], {', '.join(params)}) -> ({', '.join(types)}):"]
    for k, (t, shape) in enumerate(zip(types, shapes, strict=True)):
        lines.append(f"    e_{k}: {t} = expand(n, axes=(0, 1), sizes={shape})")
        lines.append(f"    d_{k}: {t} = mul(g_{k}, e_{k})")
        lines.append(f"    y_{k}: {t} = sub(w_{k}, d_{k})")
    lines.append(f"    return {', '.join(f'y_{k}' for k in range(count))}")
    return parse("\n".join(lines) + "\n")


@pytest.mark.parametrize("count", [2, 31])
def test_updates_are_one_launch_whose_text_does_not_grow(count):
    plan = generate(passed(updates(count), cuda(90)), cuda(90))
    (step,) = launches(plan)
    (kernel,) = plan.kernels
    assert kernel.build.table
    assert kernel.build.signature == ("*i64",)
    assert len(kernel.source.splitlines()) < 60
    assert len(step.args) == 4 * count
    assert from_json(to_json(plan)) == plan


def test_a_row_of_the_table_has_what_one_update_reads_and_writes():
    plan = generate(passed(updates(4), cuda(90)), cuda(90))
    (step,) = launches(plan)
    rows = {step.args[k : k + 4] for k in range(0, 16, 4)}
    assert rows == {(Input(0), Input(1 + k), Input(5 + k), Output(k)) for k in range(4)}
    assert not any(isinstance(a, Arena) for a in step.args)


@pytest.mark.parametrize(("dtype", "whole"), [("f64", False), ("f32", True), ("bf16", True)])
def test_attention_in_f64_is_spelled_out_on_a_gpu(dtype, whole):
    text = f"""\
def f(q: {dtype}[2, 64, 32], k: {dtype}[2, 64, 32], v: {dtype}[2, 64, 32]) -> {dtype}[2, 64, 32]:
    a: ({dtype}[2, 64, 32], {"f64" if dtype == "f64" else "f32"}[2, 64]) = \
scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
    y: {dtype}[2, 64, 32] = item(a, index=0)
    return y
"""
    for target, kept in ((cuda(90), whole), (cpu(), True)):
        ops = [n.op.name for g in passed(parse(text), target).graphs for n in g.nodes if n.op]
        assert ("scaled_dot_product_attention" in ops) == kept
