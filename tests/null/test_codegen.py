"""Code generation without a compiler: index expressions, what kernels look like, the plan."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtc.ir.ops  # noqa: F401  (fills the registry)
from vtc.codegen.c import generate
from vtc.codegen.families import FAMILIES
from vtc.codegen.scalar import literal
from vtc.codegen.sizes import Facts, c_text, linear
from vtc.ir.dims import Dim, Sym, floordiv, maximum, minimum, mod, substitute, symbols
from vtc.ir.graph import GraphBuilder, Loc, Program
from vtc.ir.op import REGISTRY, Pointwise
from vtc.ir.ops.composite import Composite
from vtc.ir.ops.control import Control, Custom, Item, StopGradient
from vtc.ir.ops.expr import Expr
from vtc.ir.ops.vendor import Vendor
from vtc.ir.saved import from_json, to_json
from vtc.ir.target import cpu
from vtc.ir.text import parse
from vtc.ir.types import TensorType, bf16, bool_, f16, f32, f64, i32, i64, u8
from vtc.passes.fuse import fuse
from vtc.passes.memory import memory
from vtc.passes.pipeline import Context

# index expressions

EXTENTS = {"i": 12, "j": 5, "k": 7}


def facts():
    found = Facts({"B": (1, 64), "x": (-20, 20)})
    for name, extent in EXTENTS.items():
        found.loop(name, extent)
    found.loop("b", Sym.var("B"))
    return found


def sizes():
    names = st.sampled_from([*EXTENTS, "b", "B", "x"]).map(Sym.var)
    leaves = names | st.integers(-3, 13)
    positive = st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 24])

    def grown(inner):
        return st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: a * b, inner, st.integers(-4, 12)),
            st.builds(floordiv, inner, positive),
            st.builds(mod, inner, positive),
            st.builds(minimum, inner, inner),
            st.builds(maximum, inner, inner),
            st.builds(lambda a, b: floordiv(a, b) * b + mod(a, b), inner, positive),
        )

    return st.recursive(leaves, grown, max_leaves=8)


def points(size, seed):
    """Values of the symbols of ``size`` within their ranges."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        b = int(rng.integers(1, 65))
        yield {
            "B": b,
            "b": int(rng.integers(0, b)),
            "x": int(rng.integers(-20, 21)),
            **{n: int(rng.integers(0, e)) for n, e in EXTENTS.items()},
        }


@given(sizes(), st.integers(0, 99))
def test_simplifying_keeps_the_value(size, seed):
    simple = facts().simplify(size)
    for values in points(size, seed):
        assert substitute(simple, values) == substitute(size, values)


FUNCTIONS = {
    "vtc_minimum": min,
    "vtc_maximum": max,
    "vtc_floordiv": lambda a, b: a // b,
    "vtc_mod": lambda a, b: a % b,
}


@given(sizes(), st.integers(0, 99))
def test_c_text_means_the_size(size, seed):
    """Where C's division is spelled, both operands are such that it is Python's."""
    text = c_text(size, facts()).replace("/", "//")
    for values in points(size, seed):
        assert eval(text, dict(FUNCTIONS), values) == substitute(size, values)


@given(sizes(), sizes(), st.integers(0, 99))
def test_what_is_certain_is_true(a, b, seed):
    known = facts()
    for values in points(a, seed):
        x, y = substitute(a, values), substitute(b, values)
        assert not known.less(a, b) or x < y
        assert not known.at_least(a, 2) or x >= 2


def test_reading_through_reshapes_is_reading_in_order():
    known = facts()
    f = known.loop("f", 1200)
    offset = floordiv(f, 12) * 12 + mod(floordiv(f, 4), 3) * 4 + mod(f, 4)
    assert known.simplify(offset) == f
    rows, t = Sym.var("T"), known.loop("t", Sym.var("T"))
    known.ranges["T"] = (1, None)
    assert known.simplify(floordiv(Sym.var("b") * rows + t, rows)) == Sym.var("b")
    assert known.simplify(mod(Sym.var("b") * rows + t, rows)) == t


def test_a_factor_is_only_of_what_is_linear():
    i, j = Sym.var("i"), Sym.var("j")
    assert linear(i * 12 + j, "i") == 12
    assert linear(i * j * 2, "i") == j * 2
    assert linear(floordiv(i, 2) + i, "i") is None
    assert linear(j, "i") == 0


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, f32, "0.1f"),
        (0.1, f64, "0.1"),
        (0.1, bf16, "0.100097656f"),
        (1, f16, "1.0f"),
        (-2.5, f32, "(-2.5f)"),
        (-0.0, f32, "(-0.0f)"),
        (1e20, f32, "1e+20f"),
        (float("inf"), f32, "__builtin_inff()"),
        (float("-inf"), f64, "(-__builtin_inf())"),
        (float("nan"), f32, '__builtin_nanf("")'),
        (1e6, f16, "__builtin_inff()"),
        (True, bool_, "1"),
        (-3, i32, "(-3)"),
        (300, u8, "44"),
        (2**40, i64, "INT64_C(1099511627776)"),
        (-(2**63), i64, "INT64_MIN"),
    ],
)
def test_literals_are_exact(value, dtype, text):
    assert literal(value, dtype) == text


# kernels


def plan_of(text, at=None):
    """The plan of a program; all of it lies on line ``at`` of model.py."""
    program = parse(text)
    if at is not None:
        b = GraphBuilder(loc=Loc("/home/me/model.py", at, "up"))
        env = {p: b.param(p.name, p.type) for p in program.entry.params}
        for n in program.entry.nodes:
            env[n] = b.apply(n.op, *(env[i] for i in n.inputs), hint=n.name)
        outputs = [env[o] for o in program.entry.outputs]
        params = [env[p] for p in program.entry.params]
        program = replace(program, graphs=(b.graph(program.entry.name, params, outputs),))
    for one_pass in (fuse, memory):
        program = one_pass(program, Context())
    return generate(program, cpu())


def body_of(text):
    """The body of the only kernel."""
    (kernel,) = plan_of(text).kernels
    return kernel.source[kernel.source.index(f"int {kernel.symbol}(") :]


def loops(body):
    found = re.findall(r"for \(int64_t (\w+) = \w+; \w+ < ([^;]*);", body)
    shared = re.search(r"count = (.*), blocks", body)
    return [(v, shared[1] if extent == "end" else extent) for v, extent in found]


def test_operands_read_at_one_index_make_one_loop():
    body = body_of(
        "B: Dim(1, 64)\n"
        "def f(x: f32[B, 12, 64], y: f32[B, 12, 64]) -> f32[B, 12, 64]:\n"
        "    z: f32[B, 12, 64] = add(x, y)\n"
        "    return z\n"
    )
    assert loops(body) == [("i0i1i2", "n0*768")]
    assert "const float t2 = t0 + t1;" in body
    assert "#pragma omp simd\n" in body


def test_a_broadcast_operand_keeps_its_loop():
    body = body_of(
        "def f(x: f32[8, 12, 64], b: f32[64]) -> f32[8, 12, 64]:\n"
        "    c: f32[8, 12, 64] = expand(b, axes=(0, 1), sizes=(8, 12))\n"
        "    z: f32[8, 12, 64] = add(x, c)\n"
        "    return z\n"
    )
    assert loops(body) == [("i0i1", "96"), ("i2", "64")]
    assert re.search(r"x\d\[i2\]", body)


def test_a_loop_is_split_where_a_read_divides():
    body = body_of(
        "def f(x: f32[8, 12, 16, 64]) -> f32[8, 16, 768]:\n"
        "    t: f32[8, 16, 12, 64] = permute(x, axes=(0, 2, 1, 3))\n"
        "    y: f32[8, 16, 768] = reshape(t, shape=(8, 16, 768))\n"
        "    z: f32[8, 16, 768] = exp(y)\n"
        "    return z\n"
    )
    assert loops(body) == [("item", "1536"), ("i2b", "64")]
    assert "i1 = item/(12)%(16);" in body
    (read,) = re.findall(r"x0\[(.*?)\]", body)
    assert not set(read) & {"/", "%"}


def test_a_transpose_goes_tile_by_tile():
    body = body_of(
        "def f(x: f32[100, 200]) -> f32[200, 100]:\n"
        "    y: f32[200, 100] = permute(x, axes=(1, 0))\n"
        "    return y\n"
    )
    assert [name for name, _ in loops(body)] == ["item", "i0", "i1"]
    assert "i1t = (item%(2))*64;" in body


REDUCE = """
B: Dim(1, 64)
def f(x: f32[B, {shape}]) -> f32[{kept}]:
    e: f32[B, {shape}] = exp(x)
    s: f32[{kept}] = sum(e, axes={axes})
    return s
"""


def test_a_reduced_axis_in_memory_order_is_innermost():
    body = body_of(REDUCE.format(shape="784", kept="B", axes="(1,)"))
    assert loops(body) == [("i0", "n0"), ("r0", "784")]
    assert "#pragma omp simd reduction(+:s0)" in body


def test_a_kept_axis_in_memory_order_is_a_row_of_lanes():
    body = body_of(REDUCE.format(shape="784", kept="784", axes="(0,)"))
    assert loops(body)[0] == ("item", "2")
    assert "first = (item)*448;" in body
    assert "double d0[448];" in body  # of unknown length, so in blocks
    assert "reduction(+" not in body


def test_reduced_axes_merge():
    body = body_of(REDUCE.format(shape="7, 9, 5", kept="B, 5", axes="(1, 2)"))
    assert ("r0r1", "63") in loops(body)


def test_a_vector_has_no_panels():
    text = (
        "def f(x: f32[1, 64], w: f32[32, 64]) -> f32[1, 32]:\n"
        "    y: f32[1, 32] = matmul(x, w, transpose_y=True)\n"
        "    return y\n"
    )
    assert plan_of(text).kernels[0].symbol.startswith("vtc_dot_")
    text = text.replace("[1, 64]", "[80, 64]").replace("[1, 32]", "[80, 32]")
    assert plan_of(text).kernels[0].symbol.startswith("vtc_matmul_")


def test_narrow_floats_that_only_move_are_not_converted():
    body = body_of(
        "def f(x: bf16[4, 5]) -> bf16[5, 4]:\n"
        "    y: bf16[5, 4] = permute(x, axes=(1, 0))\n"
        "    return y\n"
    )
    assert "vtc_to_bf16" not in body
    assert "vtc_from_bf16" not in body


def test_a_mask_that_is_always_true_is_not_tested():
    body = body_of(
        "def f(x: f32[4, 5]) -> f32[4, 5]:\n"
        "    y: f32[4, 5] = pad(x, pads=((0, 0, 0), (0, 0, 0)), value=0.0)\n"
        "    return y\n"
    )
    assert "?" not in body


GATHER = """
def f(x: f32[100, 8], i: i64[{n}]) -> f32[{n}, 8]:
    y: f32[{n}, 8] = index(x, i, axes=(0,))
    return y
"""


def test_an_index_is_checked_once_outside_the_loop_it_does_not_depend_on():
    body = body_of(GATHER.format(n=5))
    assert body.index("err |= ") < body.index("#pragma omp simd")
    assert "return err;" in body


def test_an_index_into_something_empty_is_always_wrong():
    body = body_of("B: Dim(0, 4)\n" + GATHER.replace("100", "B").format(n=5))
    assert "if (n0 < 1 && 40 > 0) return 1;" in body


def test_an_index_that_cannot_be_wrong_is_not_checked():
    body = body_of(
        "def f(x: f32[100, 8]) -> f32[50, 8]:\n"
        "    i: i64[50] = iota(shape=(50,), axis=0, dtype=i64)\n"
        "    y: f32[50, 8] = index(x, i, axes=(0,))\n"
        "    return y\n"
    )
    assert "err" not in body
    assert loops(body) == [("i0i1", "400")]


@pytest.mark.parametrize("op", ["matmul", "sum", "exp"])
def test_no_elements_no_loops(op):
    text = {
        "matmul": "x: f32[0, 4], y: f32[4, 3]) -> f32[0, 3]:\n    z: f32[0, 3] = matmul(x, y)\n",
        "sum": "x: f32[0, 4]) -> f32[0]:\n    z: f32[0] = sum(x, axes=(1,))\n",
        "exp": "x: f32[0, 4]) -> f32[0, 4]:\n    z: f32[0, 4] = exp(x)\n",
    }[op]
    assert loops(body_of(f"def f({text}    return z\n")) == []


# the plan

TWICE = """
{dims}
def {f}({x}: f32[{B}, 8], {y}: f32[{B}, 8]) -> (f32[{B}, 8], f32[{B}, 8]):
    a: f32[{B}, 8] = tanh({x})
    b: f32[{B}, 8] = tanh({y})
    return a, b
"""
NAMES = {"dims": "B: Dim(1, 64)", "f": "f", "x": "x", "y": "y", "B": "B"}


def test_equal_computations_are_equal_bytes_whatever_their_names():
    plan = plan_of(TWICE.format(**NAMES), at=14)
    renamed = {"dims": "n1: Dim(1, 64)", "f": "g", "x": "image", "y": "t0", "B": "n1"}
    other = plan_of(TWICE.format(**renamed), at=15)
    assert len(plan.kernels) == 1
    assert len(plan.steps) == 2
    assert [k.source for k in other.kernels] == [k.source for k in plan.kernels]
    assert [k.symbol for k in other.kernels] == [k.symbol for k in plan.kernels]


def test_user_lines_are_in_the_notes_and_not_in_the_source():
    plan = plan_of(TWICE.format(**NAMES), at=14)
    assert plan.kernels[0].note == "model.py:14 up"
    assert all(step.note == "model.py:14 up" for step in plan.steps)
    assert "model" not in plan.kernels[0].source + plan.host


def test_a_plan_is_deterministic_and_serialises():
    plan = plan_of(TWICE.format(**NAMES))
    assert plan == plan_of(TWICE.format(**NAMES))
    assert from_json(to_json(plan)) == plan


def test_the_host_runs_the_steps_in_order():
    plan = plan_of(
        "B: Dim(1, 64)\n"
        "def f(x: f32[B, 8], w: f32[8, 8], y: f32[8] = param(overwritten=1))"
        " -> (f32[B, 8], f32[8]):\n"
        "    a: f32[B, 8] = tanh(x)\n"
        "    h: f32[B, 8] = matmul(a, w)\n"
        "    s: f32[8] = sum(h, axes=(0,))\n"
        "    c: f32[8] = cos(s)\n"
        "    z: f32[8] = add(c, y)\n"
        "    return a, z\n"
    )
    assert [len(s.args) for s in plan.steps] == [2, 3, 3]
    assert plan.arena == 64 * 8 * 4
    calls = re.findall(r"if \((\w+)\(p, n, 0, 1\)\) return (\d+);", plan.host)
    symbols_of = {k.name: k.symbol for k in plan.kernels}
    want = [(symbols_of[s.kernel], str(i + 1)) for i, s in enumerate(plan.steps)]
    assert calls == want
    assert "(char *)arena + 0" in plan.host
    assert "const int64_t d0 = dims[0];" in plan.host


def test_an_output_that_is_a_param_is_copied():
    plan = plan_of(
        "B: Dim(1, 64)\n"
        "def f(x: f32[B], y: f32[2] = param(overwritten=1)) -> (f32[B], f32[2], f32[2, 1]):\n"
        "    z: f32[2, 1] = reshape(y, shape=(2, 1))\n"
        "    return x, y, z\n"
    )
    shown = [str(s) for s in plan.steps]
    assert "copy in0 -> out0, 4*B bytes" in shown
    assert "__builtin_memcpy(outputs[0], inputs[0], d0*4);" in plan.host
    assert not any("-> out1" in s for s in shown)


def test_every_op_has_a_family():
    """Composites are spelled out unless the target keeps them: those it keeps have a family. A
    program is cut at what vendors compute.
    """
    free = (Pointwise, Composite, Control, Custom, Item, StopGradient, Vendor)
    for op in REGISTRY.values():
        assert issubclass(op, (*free, *FAMILIES)), op.name
    for name in cpu().keeps:
        assert issubclass(REGISTRY[name], tuple(FAMILIES)), name


def test_symbols_of_a_kernel_are_its_own():
    b = GraphBuilder()
    x = b.param("x", TensorType(f32, (Sym.var("i0"), Sym.var("t0"))))
    out = Expr(b, x).exp().value
    dims = (Dim("i0"), Dim("t0"))
    program = Program((b.graph("main", [x], [out]),), dims)
    for one_pass in (fuse, memory):
        program = one_pass(program, Context())
    plan = generate(program, cpu())
    (step,) = plan.steps
    assert [str(s) for s in step.sizes] == ["i0", "t0"]
    assert symbols(plan.outputs[0].shape[0]) == {"i0"}
    assert "count = n0*n1, " in plan.kernels[0].source
