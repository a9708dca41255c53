"""Every op in the registry x every check. A new op is covered the moment it is defined."""

import numpy as np
import pytest
from backends import BACKENDS
from cases import CASES, each, results_of, samples_of
from sweep import dot, sweep
from tolerance import FINITE_DIFFERENCES, tolerance

from vtc.errors import TypeCheckError
from vtc.ir.dims import Sym, substitute
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.op import REGISTRY
from vtc.ir.ops.control import Gradient, entry_of
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import reverse
from vtc.ir.text import parse, show
from vtc.ir.types import TensorType, dtype_of

# Control ops mean nothing without a program around them; item takes results of other ops.
WITHOUT_SAMPLES = {"call", "cond", "for_loop", "gradient", "item", "while_loop"}
# Sizes of the inputs are fixed by attributes, or there is nothing to vary.
WITHOUT_SYMBOLS = {"advance", "bits", "full", "iota", "normal", "uniform", "unwindow"}


def test_every_op_has_samples():
    assert {name for name in REGISTRY if not samples_of(name)} == WITHOUT_SAMPLES


@pytest.mark.parametrize("case", each(CASES))
def test_infer_agrees_with_reference(case):
    program = case.program()
    for node, array in zip(program.entry.outputs, evaluate(program, *case.arrays()), strict=True):
        assert TensorType.of(array) == node.type


@pytest.mark.parametrize("case", each(CASES))
def test_text_round_trips(case):
    program = case.program()
    text = show(program)
    assert parse(text) == program
    assert show(parse(text)) == text


@pytest.mark.parametrize(
    ("backend", "dtype", "case"),
    [
        pytest.param(backend, dtype, case, id=f"{backend.name}-{dtype}-{case.id}")
        for backend in BACKENDS
        for dtype in backend.dtypes
        for case in CASES
        if backend.takes(case.op)
    ],
)
def test_backend_agrees_with_float64(backend, dtype, case):
    program, arrays = case.program(dtype), case.arrays(dtype)
    want = evaluate(program, *arrays, precision="f64")
    got = backend.run(program, *arrays)
    for node, w, g in zip(program.entry.outputs, want, got, strict=True):
        assert TensorType.of(g) == node.type
        assert_close(case.op, g, w)


def assert_close(op, got, want):
    """Equal where exact; else as near as the dtype of ``got`` allows."""
    dtype = dtype_of(got.dtype)
    if dtype.kind != "float":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(over="ignore"):
        want = want.astype(dtype.numpy).astype(np.float64)
    t = tolerance(op, dtype)
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=t.rtol, atol=t.atol)


def differentiable(case):
    floats = any(a.dtype.kind == "f" for a in case.arrays())
    return floats and case.program().entry.outputs[0].tensor.dtype.kind == "float"


@pytest.mark.parametrize("case", each(c for c in CASES if differentiable(c) and c.sample.smooth))
def test_gradients_agree_with_finite_differences(case):
    """First and second ones, along random directions."""
    made = sweep(case.op, case.arrays())
    rng, step = np.random.default_rng(5), 1e-5
    x = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in case.arrays()]

    def at(t, direction):
        moved = [a if d is None else a + t * d for a, d in zip(x, direction, strict=True)]
        return evaluate(made.program, *moved, *made.c, *made.d, precision="f64")

    count = len(made.varying)
    here = at(0, [None] * len(x))[2 + len(made.c) :]
    for _ in range(2):
        direction = [
            rng.normal(size=a.shape) if i in made.varying else None for i, a in enumerate(x)
        ]
        up, down = at(step, direction), at(-step, direction)
        for order, gradient in enumerate((here[:count], here[count:])):
            moves = [d for d in direction if d is not None]
            got = sum((g * d).sum() for g, d in zip(gradient, moves, strict=True))
            want = (up[order] - down[order]) / (2 * step)
            t = FINITE_DIFFERENCES
            np.testing.assert_allclose(got, want, t.rtol, t.atol, err_msg=f"order {order + 1}")


@pytest.mark.parametrize("case", each(c for c in CASES if differentiable(c)))
def test_gradient_marker_agrees_with_recorded_gradients(case):
    """The same rules compute arrays and record nodes."""
    made, b = sweep(case.op, case.arrays()), GraphBuilder()
    inputs = [Expr(b, b.param("x", TensorType.of(a))) for a in case.arrays()]
    y = inputs[0].apply(case.op, *inputs[1:])
    outputs = [Expr(b, n) for n in results_of(b, y.value) if n.tensor.dtype.kind == "float"]
    weights = [Expr(b, b.param("c", o.type)) for o in outputs]
    marker = dot(outputs, weights).apply(Gradient(), *(inputs[i] for i in made.varying))
    found = results_of(b, marker.value)
    graph = b.graph("main", [e.value for e in (*inputs, *weights)], found)
    got = evaluate(Program((graph,)), *case.arrays(), *made.c, precision="f64")
    want = evaluate(made.program, *case.arrays(), *made.c, *made.d, precision="f64")
    for g, w in zip(got, want[2 + len(made.c) :], strict=False):
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - WITHOUT_SAMPLES))
def test_sizes_may_be_symbols(name):
    """Any one size of the inputs: types, gradients and values stay what they are without."""
    taken = 0
    for sample in samples_of(name):
        sizes = {n for a in sample.inputs for n in a.shape if n > 1}
        taken += sum(with_symbol(sample.op, sample.inputs, n) for n in sorted(sizes))
    assert bool(taken) != (name in WITHOUT_SYMBOLS)


def with_symbol(op, arrays, n):
    """Check ``op`` with all sizes ``n`` of its inputs as a symbol; False if it takes no such."""
    types = [TensorType.of(a) for a in arrays]
    symbol = [t.with_shape(Sym.var("N") if s == n else s for s in t.shape) for t in types]
    try:
        op.infer(*symbol)
    except TypeCheckError:
        return False
    concrete, general = gradient_program(op, types), gradient_program(op, symbol)
    for a, b in zip(concrete.entry.outputs, general.entry.outputs, strict=True):
        assert b.tensor.with_shape(substitute(s, {"N": n}) for s in b.tensor.shape) == a.type
    extra = concrete.entry.params[len(arrays) :]
    seeds = [np.ones(p.tensor.shape, p.tensor.dtype.numpy) for p in extra]
    for a, b in zip(
        evaluate(concrete, *arrays, *seeds), evaluate(general, *arrays, *seeds), strict=True
    ):
        assert_close(op, b, a)
    return True


def gradient_program(op, types):
    """``op`` and the cotangents of its float inputs, whose types are checked."""
    b = GraphBuilder()
    inputs = [b.param(f"x{i}", t) for i, t in enumerate(types)]
    outputs = results_of(b, b.apply(op, *inputs))
    wrt = [p for p in inputs if p.tensor.dtype.kind == "float"]
    seeds = {o: Expr(b, b.param("g", o.type)) for o in outputs if o.tensor.dtype.kind == "float"}
    found = reverse([entry_of(n) for n in b.nodes], seeds, wrt, lambda n: Expr(b, n))
    assert all(g.type == p.type for p, g in found.items())
    params = [*inputs, *(g.value for g in seeds.values())]
    return Program((b.graph("main", params, [*outputs, *(g.value for g in found.values())]),))
