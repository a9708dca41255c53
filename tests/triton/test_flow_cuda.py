"""Loops and branches on a simulated GPU whose kernels are interpreted: as conditional nodes, walked
through by the host, and with a driver that has no such nodes. The same as on the CPU.
"""

import contextlib
import warnings

import numpy as np
import pytest
from on_simulated import entries, interpreted, simulated
from plans import normal

import vtc
from vtc import config
from vtc.errors import IndexRangeError, VtcWarning
from vtc.frontend.tree import flatten
from vtc.ir import unroll
from vtc.runtime.cuda import way
from vtc.runtime.cuda.steps import Fork

SLOW = pytest.mark.slow
WAYS = ["compiled", "python", "one by one", "old driver"]
TWO = ["compiled", "one by one", *(pytest.param(w, marks=SLOW) for w in ("python", "old driver"))]
OLD = "expected an NVIDIA driver for CUDA 12.4 or newer, got one for CUDA 12.2"
X = normal(5, 3)
W, H = normal(3, 3, seed=1) * np.float32(0.5), normal(3, seed=2)
UP, DOWN = np.float32(1), np.float32(-1)


@pytest.fixture(params=TWO)
def mode(request, monkeypatch, tmp_path):
    """How loops and branches run; all loops are long ones."""
    gpu = simulated.Simulated(conditional=OLD if request.param == "old driver" else "")
    if request.param == "compiled":
        gpu.symbol = entries.Entries(gpu).address
    monkeypatch.setattr(unroll, "SPELLED", 2)
    monkeypatch.setattr(way, "_said", set())
    graphs = request.param != "one by one"
    with config.override(cuda_graphs=graphs), interpreted(gpu, monkeypatch, tmp_path):
        gpu.mode = request.param
        yield gpu


def numbers(tree):
    return [x.detach().cpu().numpy() for x in flatten(tree)[0] if x is not None]


def layouts(compiled):
    """Of what was built last."""
    return compiled.entries[-1].forward.executable._layouts.values()


def said(gpu, *, waits):
    """A warning where the driver has no conditional nodes, and they are wanted."""
    if waits and gpu.mode == "old driver":
        return pytest.warns(VtcWarning, match=r"test_flow_cuda.* launched kernel by kernel")
    return contextlib.nullcontext()


def same(gpu, fn, *arrays, waits=True, calls=2):
    """``fn``, compiled there, gives what it gives here; what was compiled."""
    here, there = [vtc.tensor(a) for a in arrays], [vtc.tensor(a).cuda() for a in arrays]
    compiled = vtc.compile(fn)
    with said(gpu, waits=waits):
        results = [numbers(compiled(*there)) for _ in range(calls)]
    want = numbers(fn(*here))
    for got in results:
        for a, b in zip(got, want, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert compiled.entries[-1].forward.fallback == ""
    (layout,) = layouts(compiled)
    forks = any(isinstance(n, Fork) for n in layout.nodes)
    assert forks == (gpu.mode in ("compiled", "python"))
    walks = gpu.mode == "one by one" or (waits and gpu.mode == "old driver")
    assert (layout.items is not None) == walks
    return compiled


def rnn(w, h, xs, reverse=False):
    def step(h, x):
        h = vtc.tanh(h @ w + x)
        return h, h * h

    h, ys = vtc.scan(step, h, xs, reverse=reverse)
    return h.sum() + ys.sum()


def outer(xs):
    def row(c, x):
        d, ys = vtc.scan(lambda d, e: (d + e * c, d), 0.0, x)
        return c + d, ys

    return vtc.scan(row, 1.0, xs)


def deep(xs):
    """Four loops inside each other: one more than copies move with."""

    def nest(c, x):
        return vtc.scan(nest, c, x) if x.ndim else (c + x, c)

    return vtc.scan(nest, 0.0, xs)


def chosen(p, x):
    return vtc.cond(p > 0, lambda: (x * x * x).sum(), lambda: vtc.sin(x).sum())


def mixed(x):
    """A branch in a loop in a loop."""

    def step(c, v):
        def grow(c):
            return vtc.while_loop(lambda a: a.sum() < 9, lambda a: a + a.abs() + 1, (c,))[0]

        return vtc.cond(v.sum() > 0, lambda: grow(c) + v, lambda: (c * v).softmax(0)), c

    return vtc.scan(step, vtc.zeros(3, device=x.device), x)


SCANS = {
    "scan": (lambda w, h, xs: vtc.grad(rnn, (0, 1, 2))(w, h, xs), W, H, X),
    "reversed": (
        lambda w, h, xs: vtc.grad(lambda *a: rnn(*a, reverse=True), (0, 1, 2))(w, h, xs),
        W,
        H,
        X,
    ),
    "nested": (outer, X),
    "deep": (deep, normal(2, 2, 2, 2)),
    "length": (lambda x: vtc.scan(lambda c, _: (c * 2, c.sum()), x, length=4), X),
}
WAITS = {
    "while": (
        lambda x: vtc.while_loop(lambda x: (x * x).sum() < 99, lambda x: x * 1.5, (x,)), X
    ),
    "no turn": (lambda x: vtc.while_loop(lambda x: x.sum() > 1e9, lambda x: -x, (x,)), X),
    "swap": (
        lambda x, y: vtc.while_loop(
            lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a), (0, x, y)
        ), X, X * 2,
    ),
    "taken": (lambda p, x: vtc.grad(chosen, 1)(p, x) + chosen(p, x), UP, X),
    "not taken": (lambda p, x: chosen(p, x), DOWN, X),
    "mixed": (mixed, X),
}  # fmt: skip


def ways(cases, always):
    """Each of ``cases`` as conditional nodes, and ``always`` in all ways."""
    return [
        pytest.param(way, case, marks=() if way == "compiled" or case == always else SLOW)
        for way in WAYS
        for case in cases
    ]


@pytest.mark.parametrize(("mode", "name"), ways(SCANS, "nested"), indirect=["mode"])
def test_scans(mode, name):
    fn, *arrays = SCANS[name]
    same(mode, fn, *arrays, waits=False)


@pytest.mark.parametrize(("mode", "name"), ways(WAITS, "mixed"), indirect=["mode"])
def test_what_waits_for_a_value(mode, name):
    fn, *arrays = WAITS[name]
    same(mode, fn, *arrays)


def test_one_graph_takes_both_ways(mode):
    """What decides is data: another value goes another way, and so do other addresses."""
    fast = same(mode, chosen, UP, X)
    for sign in (-1, 1, -1):
        for k in range(3):
            p, x = vtc.tensor(np.float32(sign)), vtc.tensor(X + k)
            want = chosen(p, x).item()
            assert fast(p.cuda(), x.cuda()).item() == pytest.approx(want, rel=1e-5)
    assert len(fast.entries) == 1


def test_lengths_may_vary(mode):
    fast = vtc.compile(lambda xs: vtc.scan(lambda c, x: (c + x, c), xs[0] * 0, xs))
    for n in (5, 7, 2):
        xs = vtc.ones(n, 3).cuda()
        vtc.mark_dynamic(xs, 0)
        for a, b in zip(numbers(fast(xs)), numbers(fast.fn(xs.cpu())), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(fast.entries) == 1


def test_what_a_program_writes_is_written_in_place(mode):
    counts = vtc.zeros(3).cuda()

    @vtc.compile
    def count(x):
        counts.copy_(vtc.while_loop(lambda c: c.sum() < 20, lambda c: c + x, (counts,))[0])
        return counts.sum()

    with said(mode, waits=True):
        assert count(vtc.ones(3).cuda()).item() == 21
    assert counts.tolist() == [7, 7, 7]


def test_an_index_out_of_range_inside_a_loop(mode):
    @vtc.compile
    def f(x, i):
        return vtc.scan(lambda c, k: (c + x[k.reshape(1)][0], None), x[0] * 0, i)[0]

    x = vtc.tensor(X).cuda()
    f(x, vtc.tensor([0, 1, 4, 4]).cuda()).tolist()
    with pytest.raises(IndexRangeError, match=r"test_flow_cuda\.py"):
        f(x, vtc.tensor([0, 9, 1, 1]).cuda()).tolist()
    want = X[[0, 1, 1, 2]].sum(0)
    got = f(x, vtc.tensor([0, 1, 1, 2]).cuda()).cpu().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("mode", ["old driver"], indirect=True)
def test_the_user_is_told_once(mode):
    x = vtc.tensor(X).cuda()
    fns = [vtc.compile(lambda x, s=s: vtc.while_loop(
        lambda a: a.sum() < s, lambda a: a.abs() + 1, (x,))) for s in (9, 19)]  # fmt: skip
    with pytest.warns(VtcWarning, match=f"CUDA graphs cannot: {OLD}"):
        fns[0](x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fns[1](x)


@pytest.mark.parametrize("mode", ["compiled"], indirect=True)
def test_random_numbers_are_those_of_the_cpu(mode):
    def f(x):
        def step(c, v):
            return vtc.cond(
                v.sum() > 0, lambda: c + vtc.rand(3, device=x.device).sum(), lambda: c
            ), c

        return vtc.scan(step, x[0] * 0, x)

    results = []
    for device in ("cpu", "cuda"):
        vtc.manual_seed(3)
        results.append(numbers(vtc.compile(f)(vtc.tensor(X, device=device))))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
