"""Forward derivatives of every op are the transpose of its backward ones."""

from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, each
from test_ops import differentiable

from vtc.ir.evaluate import evaluate
from vtc.ir.graph import GraphBuilder, Program
from vtc.ir.ops.control import entry_of
from vtc.ir.ops.expr import Expr
from vtc.ir.reverse import reverse
from vtc.ir.types import TensorType
from vtc.passes.forward import push_forward


@pytest.mark.parametrize("case", each(c for c in CASES if differentiable(c) and c.sample.smooth))
def test_forward_is_the_transpose_of_backward(case):
    """``sum(c * (J @ t)) == sum((c @ J) * t)``, and the op still gives what it gave."""
    graph, arrays, moving = floats_first(case)
    rng = np.random.default_rng(3)
    t = [rng.normal(size=p.tensor.shape) for p in graph.params[:moving]]
    pushed = push_forward(graph, moving)
    given = [*arrays[:moving], *t, *arrays[moving:]]
    count = len(graph.outputs)
    out = evaluate(Program((pushed.graph,)), *given, precision="f64")
    c = [rng.normal(size=y.shape) for y in out[:count]]
    tangents = iter(out[count:])
    forward = sum(
        (next(tangents) * ci).sum()
        for o, ci in zip(graph.outputs, c, strict=True)
        if pushed.tangents.get(o) is not None
    )
    back = evaluate(pulled(graph, moving), *arrays, *c, precision="f64")
    backward = sum((g * ti).sum() for g, ti in zip(back, t, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-9, atol=1e-9)
    want = evaluate(Program((graph,)), *arrays, precision="f64")
    for a, b in zip(out[:count], want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_forward_reads_of_the_sweep_back_is_not_its_cotangents():
    """No zeros are left that stand for them."""
    case = next(c for c in CASES if c.op.name == "layer_norm")
    graph, _, moving = floats_first(case)
    pushed = push_forward(graph, moving)
    made = [n for n in pushed.graph.nodes if n.op.name == "full" and n.op.value == 0]
    assert not [n for n in made if n.type == graph.outputs[0].type]


def floats_first(case):
    """The graph of a case, its floating-point params first; and how many they are."""
    graph, arrays = case.program().entry, case.arrays()
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].dtype.kind != "f")
    moving = sum(a.dtype.kind == "f" for a in arrays)
    params = tuple(graph.params[i] for i in order)
    return replace(graph, params=params), [arrays[i] for i in order], moving


def pulled(graph, moving):
    """The cotangents of the first params, given those of the outputs."""
    b = GraphBuilder()
    env = {p: b.param(p.name, p.type) for p in graph.params}
    for n in graph.nodes:
        env[n] = b.copy(n, [env[i] for i in n.inputs])
    outputs = [env[o] for o in graph.outputs]
    seeds = [b.param("c", TensorType(o.tensor.dtype, o.tensor.shape)) for o in outputs]
    starts = {o: Expr(b, s) for o, s in zip(outputs, seeds, strict=True)
              if o.tensor.dtype.kind == "float"}  # fmt: skip
    wrt = [env[p] for p in graph.params[:moving]]
    found = reverse([entry_of(n) for n in tuple(b.nodes)], starts, wrt, lambda n: Expr(b, n))
    results = [found[w].value if w in found else Expr(b, w).zeros().value for w in wrt]
    return Program((b.graph("pulled", [*(env[p] for p in graph.params), *seeds], results),))
