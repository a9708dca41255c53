"""What comes after a product, computed for parts of a tile: right, and without spills."""

from dataclasses import replace

import numpy as np
import pytest
from plans import near, normal, region, run_plan

from vtc.codegen.cuda import generate
from vtc.codegen.region import Region
from vtc.codegen.render import render, symbol
from vtc.codegen.triton.compile import assembly, try_kernels
from vtc.codegen.triton.matmul import candidates, matmul
from vtc.codegen.triton.matmul_blocks import Blocks, Sizes, Way, fitting, ranked
from vtc.codegen.triton.resources import resources
from vtc.ir.evaluate import evaluate
from vtc.ir.plan import Kernel
from vtc.ir.target import cuda
from vtc.ir.types import TensorType, bf16, f32

TARGET = cuda(90, processors=3)


def update(m, n, k):
    """A weight's gradient and all of its update: three states are read, three are written."""
    state = TensorType(f32, (m, n))
    types = [TensorType(bf16, (k, m)), TensorType(bf16, (k, n)), *[state] * 3]
    types += [TensorType(f32, (1, n)), TensorType(f32, (m, 1))]

    def body(x, y, weight, mean, square, row, column):
        g = x.matmul(y, transpose_x=True).op("cast", dtype=f32)
        row, column = (v.broadcast_to((m, n)) for v in (row.tanh(), column))
        mean = mean + (g - mean) * 0.1 * row
        square = square * 0.9 + g * g
        return mean, square, weight * column - mean / ((square * square + 1).op("sqrt") + row + 2)

    return types, body


def gates(m, n, k):
    """The gradient of what came before an activation, from what it was given."""
    types = [TensorType(bf16, s) for s in ((m, k), (k, n), (m, n))]

    def body(x, w, h):
        g, h = x.matmul(w).op("cast", dtype=f32), h.op("cast", dtype=f32)
        t = (h * (h * h * 0.04 + 0.8)).tanh()
        out = g * (t * 0.5 + h * (1 - t * t) * (h * h * 0.1 + 0.8))
        return tuple(v.op("cast", dtype=bf16) for v in (out, h * t))

    return types, body


def values(types):
    return [(normal(*t.shape, seed=i) * 0.5).astype(t.dtype.numpy) for i, t in enumerate(types)]


def compiled(types, body, target, **chosen):
    """The one kernel of a region, and its grid."""
    program = region(types, body)
    own = Region.of(program.graphs[0], program.ranges)
    (root,) = (n for n in own.graph.nodes if n.op.name == "matmul")
    spec = matmul(own, root, target, **chosen)
    name = symbol(spec.template, spec)
    source = render(spec.template, "py", symbol=name, spec=spec)
    return Kernel(name, name, source, str(chosen), spec.head.build), spec.grid


def best(types, body):
    """All candidates for an H100, the best first."""
    program = region(types, body)
    own = Region.of(program.graphs[0], program.ranges)
    (root,) = (n for n in own.graph.nodes if n.op.name == "matmul")
    return candidates(own, root, cuda(90))


@pytest.mark.parametrize("descriptors", [False, True], ids=("pointers", "descriptors"))
@pytest.mark.parametrize("shape", [(128, 256, 64), (200, 312, 72)], ids=str)
@pytest.mark.parametrize("after", [update, gates])
def test_parts_are_the_whole(after, shape, descriptors):
    types, body = after(*shape)
    arrays, program = values(types), region(types, body)
    chosen = {"blocks": Blocks(128, 256, 64, 8, 3), "precision": "ieee"}
    kernel, grid = compiled(types, body, TARGET, **chosen, descriptors=descriptors)
    assert kernel.source.count(".split()") >= 3
    plan = generate(program, TARGET)
    kernel = replace(kernel, name=plan.kernels[0].name)
    step = replace(plan.steps[0], grid=(*grid, 1, 1))
    got = run_plan(replace(plan, kernels=(kernel,), steps=(step,)), arrays)
    want = evaluate(program, *arrays, precision="f64")
    for g, w in zip(got, want, strict=True):
        near(g, np.asarray(w), factor=4)


def test_parts_are_loaded_before_those_in_front_are_stored():
    types, body = gates(1024, 1024, 256)
    chosen = {"blocks": Blocks(128, 256, 64, 8, 3), "precision": "ieee"}
    source = compiled(types, body, cuda(90), **chosen)[0].source
    after = source.partition("a0 = acc")[2]
    kinds = "".join({"l": "L", "s": "S"}[line.partition("tl.")[2][0]] for line in _moves(after))
    assert kinds == "L" + "LSS" * 7 + "SS"


def _moves(text):
    return [line for line in text.splitlines() if "tl.load" in line or "tl.store" in line]


def test_what_is_the_same_for_all_parts_is_computed_once():
    types, body = update(1024, 1024, 256)
    chosen = {"blocks": Blocks(128, 256, 64, 8, 3), "precision": "ieee"}
    source = compiled(types, body, cuda(90), **chosen)[0].source
    after = source.partition("a0 = acc")[2]
    assert after.count("tl.load(x6") == 1
    assert after.count("tl.load(x5") == after.count("tl.load(x3") >= 4


def test_a_result_that_is_only_stored_stays_whole():
    types = [TensorType(bf16, (1024, 256)), TensorType(bf16, (256, 1024))]
    chosen = {"blocks": Blocks(128, 256, 64, 8, 3), "precision": "ieee"}
    source = compiled(types, lambda x, y: (x.matmul(y),), cuda(90), **chosen)[0].source
    assert ".split()" not in source


@pytest.mark.parametrize("after", [update, gates])
def test_what_comes_after_does_not_spill(after, store):
    types, body = after(3072, 768, 8192)
    found = best(types, body)
    some = [*found[:3], *(c for c in found if c.get("descriptors"))][:4]
    kernels = [compiled(types, body, cuda(90), **c)[0] for c in some]
    for chosen, binary in zip(some, try_kernels(kernels, cuda(90), store), strict=True):
        assert resources(binary).spills == 0, chosen
        b = chosen["blocks"]
        if (b.m, b.n, b.warps) == (128, 128, 8):  # two at a time, so that one computes
            assert resources(binary).registers <= 128, chosen
    ptx = assembly(kernels[0], cuda(90), store)
    assert "st.global.v4" in ptx
    assert "ld.global.v4" in ptx


def test_small_tiles_are_better_where_much_is_computed():
    target = cuda(90)
    sizes = Sizes(1, 8192, 3072, 768)
    ways = [Way(b) for b in fitting(sizes, bf16, target)]
    first, other = (
        ranked(ways, s, bf16, "", target)[0].blocks
        for s in (sizes, replace(sizes, moved=6, work=40))
    )
    assert (first.m, first.n) == (128, 256)
    assert (other.m, other.n) == (128, 128)
