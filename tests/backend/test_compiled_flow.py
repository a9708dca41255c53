"""Compiled control flow gives what eager code gives: values, gradients of any order, writes,
random numbers, sizes that vary, packages.
"""

import contextlib

import numpy as np
import pytest

import vtc
from vtc.build import compile_program
from vtc.errors import IndexRangeError
from vtc.frontend.tree import flatten
from vtc.ir.plan import Branch, Loop
from vtc.ir.saved import from_json, to_json
from vtc.ir.text import parse
from vtc.passes.pipeline import Context

RNG = np.random.default_rng(0)
X = vtc.from_numpy(RNG.normal(size=(5, 3)).astype(np.float32))
W = vtc.from_numpy(RNG.normal(size=(3, 3)).astype(np.float32) * 0.5)
H = vtc.from_numpy(RNG.normal(size=3).astype(np.float32))
UP, DOWN = vtc.tensor(1.0), vtc.tensor(-1.0)


def numbers(tree):
    return [x.detach().numpy() for x in flatten(tree)[0] if x is not None]


def rnn(w, h, xs, reverse=False):
    def step(h, x):
        h = vtc.tanh(h @ w + x)
        return h, h * h

    h, ys = vtc.scan(step, h, xs, reverse=reverse)
    return h.sum() + ys.sum()


def gradients(fn):
    return vtc.grad(fn, (0, 1, 2))


def penalty(w, h, xs):
    return sum((g * g).sum() for g in gradients(rnn)(w, h, xs))


def outer(xs):
    def row(c, x):
        d, ys = vtc.scan(lambda d, e: (d + e * c, d), 0.0, x)
        return c + d, ys

    return vtc.scan(row, 1.0, xs)


def third(w):
    def curve(w):
        return vtc.scan(lambda c, x: (vtc.sin(c * w) + x, None), 0.3, vtc.arange(4.0))[0]

    return vtc.grad(vtc.grad(vtc.grad(curve)))(w)


def own(xs):
    def step(c, x):
        b = x.clone()
        b[0] += 5
        t = vtc.zeros(3)
        t += b.mul_(2)
        return c + t, b

    return vtc.scan(step, vtc.zeros(3), xs)


def descent(xs):
    def step(c, x):
        return c - 0.1 * vtc.grad(lambda z: ((z - x) ** 2).sum())(c), c

    return vtc.scan(step, vtc.zeros(3), xs)


def draws(xs):
    def step(c, x):
        inner, _ = vtc.scan(lambda d, _: (d + vtc.rand(3), None), x, length=2)
        return c + inner, vtc.randn(3)

    found = vtc.scan(step, vtc.zeros(3), xs)
    either = vtc.cond(found[0].sum() > 0, lambda: vtc.rand(3), lambda: xs[0])
    looped = vtc.while_loop(lambda i, x: i < 4, lambda i, x: (i + 1, x + vtc.rand(3)), (0, either))
    return found, either, looped, vtc.rand(2)


def views(x, w):
    y = x * 2
    tail = y[1:]
    total = vtc.scan(lambda c, v: (c + tail.sum() + w.T[0], v), vtc.zeros(3), x)
    return total, tail.sum(), w.T[0] * 2


def checkpointed(x):
    def step(c, v):
        return vtc.checkpoint(lambda a, b: vtc.tanh(a @ W + b), c, v), None

    inner = vtc.scan(step, x[0], x)[0].sum()
    return inner + vtc.checkpoint(lambda x: vtc.scan(step, x[0], x)[0].sum(), x * 1.0)


def chosen(p, x):
    def cube():
        return (x * x * x).sum()

    return vtc.cond(p > 0, cube, lambda: vtc.sin(x).sum())


CASES = {
    "cond": (lambda p, x: vtc.cond(p > 0, lambda: x * 2, lambda: x - 1), UP, X),
    "cond, the other": (lambda p, x: vtc.cond(p > 0, lambda: x * 2, lambda: x - 1), DOWN, X),
    "cond of trees": (
        lambda p, x: vtc.cond(
            p > 0, lambda a, b: {"a": a * 2, "b": (b, 3.0)}, lambda a, b: {"a": a, "b": (b, 4.0)},
            (x, x[0]),
        ), UP, X,
    ),
    "gradient of cond": (lambda p, x: vtc.grad(chosen, 1)(p, x), UP, X),
    "gradient of cond, the other": (lambda p, x: vtc.grad(chosen, 1)(p, x), DOWN, X),
    "second gradient of cond": (
        lambda p, x: vtc.grad(lambda p, x: vtc.grad(chosen, 1)(p, x).sum(), 1)(p, x), DOWN, X
    ),
    "while": (lambda x: vtc.while_loop(lambda x: (x * x).sum() < 99, lambda x: x * 1.5, (x,)), X),
    "while, no step": (lambda x: vtc.while_loop(lambda x: x.sum() > 1e9, lambda x: -x, (x,)), X),
    "while, a swap": (
        lambda x, y: vtc.while_loop(
            lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a), (0, x, y)
        ), X, X * 2,
    ),
    "map": (lambda x: vtc.map(lambda r: vtc.softmax(r, 0) @ W, x), X),
    "gradient of map": (vtc.grad(lambda x: vtc.map(lambda r: (r @ W) ** 2, x).sum()), X),
    "gradients of scan": (gradients(rnn), W, H, X),
    "gradients of scan, reversed": (gradients(lambda *a: rnn(*a, reverse=True)), W, H, X),
    "second gradients of scan": (gradients(penalty), W, H, X),
    "third gradient of scan": (third, UP),
    "length": (lambda x: vtc.scan(lambda c, _: (c * 2, c.sum()), x, length=4), X),
    "no step": (lambda x: vtc.scan(lambda c, y: (c + y, {"a": c}), H, x), vtc.zeros(0, 3)),
    "nested": (outer, X),
    "gradient of nested": (vtc.grad(lambda x: outer(x)[1].pow(2).sum() + outer(x)[0]), X),
    "cond in scan": (
        vtc.grad(lambda x: vtc.scan(
            lambda c, v: (vtc.cond(v > 0, lambda: c + v, lambda: c * v), None), 1.0, x)[0]), H,
    ),
    "gradient inside": (descent, X),
    "gradient of a gradient inside": (vtc.grad(lambda x: descent(x)[0].sum()), X),
    "own writes": (own, X),
    "random numbers": (draws, X),
    "views": (views, X, W),
    "checkpoint": (vtc.grad(checkpointed), X),
    "values that pass through": (
        lambda x: vtc.scan(lambda c, v: ((v, c[0]), (v, v, c[1])), (x[0], x[0]), x), X
    ),
    "constants": (lambda x: vtc.scan(lambda c, v: (c, vtc.ones(2)), x[0], x), X),
    "integers and bools": (
        lambda x: vtc.scan(lambda c, v: ((c[0] + 1, c[1] | (v.sum() > 0)), c[0]), (0, False), x), X
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_is_eager(name):
    fn, *given = CASES[name]
    compiled = vtc.compile(fn)
    results = []
    for run in (fn, compiled):
        vtc.manual_seed(3)
        results.append(numbers(run(*given)))
    for want, got in zip(*results, strict=True):
        assert (want.dtype, want.shape) == (got.dtype, got.shape)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert compiled.entries[0].forward.fallback == ""


def test_parameters_get_gradients_whole_and_from_outside():
    w = W.detach().clone().requires_grad_()

    def loss(xs):
        return rnn(w, vtc.zeros(3), xs)

    def whole(xs):
        loss(xs).backward()

    found = []
    for run in (lambda: loss(X).backward(), lambda: vtc.compile(loss)(X).backward(),
                lambda: vtc.compile(whole)(X)):  # fmt: skip
        w.grad = None
        run()
        found.append(w.grad.numpy().copy())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-6)


def test_lengths_may_vary():
    @vtc.compile
    def f(xs):
        return vtc.scan(lambda c, x: (c + x, c), vtc.zeros(3), xs), vtc.grad(rnn, 2)(W, H, xs)

    for n in (5, 7, 2):
        xs = vtc.ones(n, 3)
        vtc.mark_dynamic(xs, 0)
        for want, got in zip(numbers(f.fn(xs)), numbers(f(xs)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert len(f.entries) == 1


def test_a_plan_holds_real_loops_and_reads_back():
    def f(p, xs):
        h, ys = vtc.scan(lambda h, x: (vtc.tanh(h @ W + x), h), vtc.zeros(3), xs)
        (h,) = vtc.while_loop(lambda h: (h * h).sum() < 10, lambda h: h * 1.5, (h,))
        return vtc.cond(p > 0, lambda: h, lambda: -h), ys

    fast = vtc.compile(f)
    fast(UP, X)
    plan = fast.entries[0].forward.plan
    kinds = [type(s) for s in plan.steps]
    assert kinds.count(Loop) == 2
    assert kinds.count(Branch) == 1
    assert from_json(to_json(plan)) == plan
    assert "for i0 < 5" in str(plan)
    assert "for (int64_t i0 = 0; i0 < 5; ++i0)" in plan.host


def test_an_index_out_of_range_inside_a_loop_names_the_line():
    @vtc.compile
    def f(x, i):
        return vtc.scan(lambda c, k: (c + x[k.reshape(1)][0], None), vtc.zeros(3), i)[0]

    assert f(X, vtc.tensor([0, 1])).shape == (3,)
    with pytest.raises(IndexRangeError, match=r"test_compiled_flow\.py"):
        f(X, vtc.tensor([0, 9]))


TEXT = """
def square(x: f32[3]) -> f32[3]:
    y = mul(x, x)
    return y

def large(x: f32[3]) -> bool[()]:
    m = sum(x, axes=(0,))
    one = full(shape=(), value=1.0, dtype=f32)
    p = gt(m, one)
    return p

def f(x: f32[3] = param(overwritten=0)) -> f32[3]:
    t = while_loop(x, condition="large", body="square", carried=1)
    y = item(t, index=0)
    return y
"""


@pytest.mark.parametrize("compiler", [True, False])
def test_a_loop_may_work_where_its_input_lies(compiler, monkeypatch):
    if not compiler:
        monkeypatch.setattr("vtc.build.find_compiler", lambda: None)
    x = np.array([0.9, 0.8, 0.7], np.float32)
    want = x
    while want.sum() > 1:
        want = want * want
    with contextlib.nullcontext() if compiler else pytest.warns(match="NumPy runs"):
        built = compile_program(parse(TEXT), Context())
    (got,) = built.run([x])
    assert got is x
    np.testing.assert_allclose(x, want, rtol=1e-6)
    assert not compiler or [type(s) for s in built.plan.steps] == [Loop]


def test_a_package_runs_loops_and_branches(tmp_path):
    class Model(vtc.nn.Module):
        def __init__(self):
            self.w = vtc.nn.Parameter(W.clone())

        def forward(self, x):
            h, ys = vtc.scan(lambda h, v: (vtc.tanh(h @ self.w + v), h), vtc.zeros(3), x)
            (h,) = vtc.while_loop(lambda h: (h * h).sum() < 10, lambda h: h * 1.5, (h,))
            return vtc.cond(h.sum() > 0, lambda: h, lambda: -h), ys

    model, path = Model(), str(tmp_path / "loops.vtc")
    vtc.export(model, (X,), path, dynamic={"x": {0: vtc.Dim("n", 1, 64)}})
    loaded = vtc.load(path)
    for n in (1, 5, 40):
        x = vtc.from_numpy(RNG.normal(size=(n, 3)).astype(np.float32))
        for want, got in zip(numbers(model(x)), loaded(x), strict=True):
            np.testing.assert_allclose(np.asarray(got), want, rtol=1e-4, atol=1e-5)
