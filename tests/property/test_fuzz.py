"""Random graphs through the whole compiler (see ``fuzz.py``): a few, and all that ever failed."""

from pathlib import Path

import numpy as np
import pytest
from fuzz import FAILURES, inputs_of
from graphs import random_program
from trial import Inputs, read, shrink, try_program, write
from yardstick import yardsticks

from vtc.codegen.c import find_compiler
from vtc.ir.text import parse, show
from vtc.ir.verify import verify

compiles = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@compiles
@pytest.mark.parametrize("path", sorted(FAILURES.glob("*.vtc")), ids=lambda p: p.stem)
def test_what_failed_once_does_not_fail_again(path: Path):
    program, inputs = read(path)
    assert try_program(program, inputs, "-O3") == ""


@compiles
@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_compute_what_they_mean(seed):
    program = random_program(seed)
    assert try_program(program, inputs_of(seed, program)) == ""


def test_random_graphs_are_sound_and_the_same_each_time():
    for seed in range(100):
        program = random_program(seed)
        verify(program)
        assert parse(show(program)) == program == random_program(seed)


def test_random_graphs_are_varied():
    ops, dtypes, overwritten, symbolic = set(), set(), 0, 0
    for seed in range(300):
        program = random_program(seed)
        ops |= {n.op.name for n in program.entry.nodes}
        dtypes |= {p.tensor.dtype.name for p in program.entry.params}
        overwritten += any(f.overwritten is not None for f in program.facts)
        symbolic += bool(program.dims)
    wanted = {"matmul", "scaled_dot_product_attention", "softmax", "sum", "argmax", "index"}
    assert wanted | {"scatter_add", "gradient", "conv2d", "pad", "cast", "dropout"} <= ops
    assert dtypes >= {"f32", "f16", "bf16", "f64", "i64", "i32", "bool"}
    assert overwritten > 20
    assert symbolic > 20


SUM = """
def main(x: f32[4, 8], y: f32[8]) -> (f32[4], f32[8]):
    s: f32[4] = sum(x, axes=(1,))
    e: f32[8] = exp(y)
    return s, e
"""


def test_the_yardstick_tells_rounding_from_errors():
    program = parse(SUM)
    x, y = Inputs(0).arrays(program)
    first, second = yardsticks(program, program, [x, y])
    s = x.astype(np.float64).sum(1)
    assert first.wrong(s.astype(np.float32)) == ""
    assert first.wrong((s + 1e-3).astype(np.float32)).startswith("4 of 4 elements, first at [0]")
    e = np.exp(y)
    assert second.wrong(e) == second.wrong(np.nextafter(e, np.float32(9))) == ""
    assert second.wrong(e.astype(np.float64)) == "type float64[8]"
    e[3] = np.nan
    assert second.wrong(e).startswith("1 of 8 elements, first at [3]: np.float64(nan), expected")


def test_the_yardstick_expects_nan_where_every_run_has_it():
    program = parse(SUM)
    x, y = Inputs(0).arrays(program)
    y[:2] = np.nan, np.inf
    second = yardsticks(program, program, [x, y])[1]
    assert second.wrong(np.exp(y)) == ""
    assert second.wrong(np.exp(np.nan_to_num(y, posinf=1.0))).startswith("2 of 8 elements")


def test_a_failure_is_shrunk_and_read_back(tmp_path):
    program = parse("""
def main(x: f32[4, 8], y: f32[4, 8] = param(overwritten=1)) -> (f32[4], f32[4, 8], f32[4, 8]):
    a: f32[4, 8] = add(x, y)
    t: f32[4, 8] = tanh(a)
    e: f32[4, 8] = exp(t)
    m: f32[4, 8] = mul(e, y)
    s: f32[4] = sum(m, axes=(1,))
    return s, t, m
""")

    def fails(p):
        return any(n.op.name == "exp" for n in p.entry.nodes)

    small = shrink(program, fails)
    assert [n.op.name for n in small.entry.nodes] == ["exp"]
    assert len(small.entry.params) == len(small.entry.outputs) == 1
    path = tmp_path / "failure.vtc"
    write(path, small, Inputs(7, 0.5, {"B": 3}), "out0: wrong")
    assert read(path) == (small, Inputs(7, 0.5, {"B": 3}))
    assert "# why: out0: wrong\n" in path.read_text()
