"""Control flow: what the ops mean, what a trace makes of functions, eager results and refusals."""

import numpy as np
import pytest

import vtc
from vtc.errors import (
    ArgumentError,
    CaptureError,
    GradientError,
    IndexRangeError,
    TypeCheckError,
    VerifyError,
)
from vtc.ir.evaluate import evaluate
from vtc.ir.text import parse, show
from vtc.ir.verify import verify

SCAN = """
def step(c: f32[4], x: f32[4], w: f32[4]) -> (f32[4], f32[4]):
    a: f32[4] = mul(c, w)
    b: f32[4] = add(a, x)
    y: f32[4] = sin(b)
    return b, y

def f(h: f32[4], xs: f32[8, 4], w: f32[4]) -> (f32[4], f32[8, 4], f32[4], f32[8, 4], f32[4]):
    t: (f32[4], f32[8, 4]) = {loop}
    c: f32[4] = item(t, index=0)
    y: f32[8, 4] = item(t, index=1)
    s: f32[()] = sum(c, axes=(0,))
    s_1: f32[()] = sum(y, axes=(0, 1))
    loss: f32[()] = add(s, s_1)
    g: (f32[4], f32[8, 4], f32[4]) = gradient(loss, h, xs, w)
    d_h: f32[4] = item(g, index=0)
    d_xs: f32[8, 4] = item(g, index=1)
    d_w: f32[4] = item(g, index=2)
    return c, y, d_h, d_xs, d_w
"""


LOOP = 'for_loop(h, xs, w, body="step", length=8, carried=1, sliced=1, stacked=(f32[4],)'


def scan_text(more=""):
    return SCAN.lstrip().format(loop=f"{LOOP}{more})")


def arrays():
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in ((4,), (8, 4), (4,))]


def test_text_of_a_loop_is_parsed_and_verified():
    program = parse(scan_text())
    assert show(program) == scan_text()
    verify(program)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradient_of_a_loop_is_that_of_finite_differences(reverse):
    program = parse(scan_text(more=", reverse=True" if reverse else ""))
    given = [a.astype(np.float64) for a in arrays()]
    found = evaluate(program, *given, precision="f64")[2:]

    def loss(*arrays):
        c, y, *_ = evaluate(program, *arrays, precision="f64")
        return c.sum() + y.sum()

    for k, gradient in enumerate(found):
        step = 1e-5 * np.random.default_rng(k).normal(size=gradient.shape)
        ends = [[a + s * step if i == k else a for i, a in enumerate(given)] for s in (1, -1)]
        difference = (loss(*ends[0]) - loss(*ends[1])) / 2
        np.testing.assert_allclose(difference, (gradient * step).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("length=8", "length=7"), "expected 7 slices along the first axis, got f32"),
        (("carried=1", "carried=3"), "expected 4 operands or more, got 3"),
        (('body="step"', 'body="stop"'), "expected a graph defined above, got 'stop'"),
        (("h, xs, w, body", "h, xs, body"), "expected step to take"),
        (("stacked=(f32[4],)", "stacked=(f32[2],)"), "expected step to return"),
    ],
)
def test_a_loop_that_does_not_fit_is_refused(change, message):
    text = scan_text().replace(*change).replace("t: (f32[4], f32[8, 4]) =", "t =")
    text = text[: text.index("    y: f32[8, 4] = item")] + "    return c\n"
    text = text.replace("-> (f32[4], f32[8, 4], f32[4], f32[8, 4], f32[4]):", "-> f32[4]:")
    with pytest.raises((VerifyError, vtc.VtcError), match=message):
        verify(parse(text))


def branch(x):
    return vtc.cond(x.sum() > 0, lambda: x * 2, lambda: x - 1)


def test_a_branch_and_what_it_reads():
    x = vtc.tensor([1.0, 2.0])
    assert branch(x).tolist() == [2.0, 4.0]
    assert branch(-x).tolist() == [-2.0, -3.0]
    assert vtc.cond(True, lambda a: a, lambda a: -a, (x,)).tolist() == [1.0, 2.0]
    fast = vtc.compile(branch)
    text = fast.lower(x).ir()
    assert "cond(gt_1, x, then=" in text
    assert text.count("def ") == 3


def test_operands_are_what_functions_read_once():
    w, unused = vtc.ones(3), vtc.ones(5)

    @vtc.compile
    def f(h, xs):
        k = h * 3

        def step(c, x):
            unused * 2
            return c + x * w + k + w, x

        return vtc.scan(step, h, xs)

    text = f.lower(vtc.zeros(3), vtc.ones(4, 3)).ir()
    assert "for_loop(h, xs, captured_1, k, body=" in text
    assert "length=4, carried=1, sliced=1, stacked=(f32[3],))" in text


def test_what_a_gradient_needs_is_saved_only_for_it():
    w = vtc.ones(3).requires_grad_()

    @vtc.compile
    def f(xs):
        return vtc.scan(lambda c, x: (c * w + x, None), vtc.zeros(3), xs)[0].sum()

    lowered = f.lower(vtc.ones(4, 3))
    assert "saves=True" in lowered.ir()
    assert "saves" not in f.lower(vtc.ones(4, 3).detach()).ir("lowered").split("def f")[0]
    with vtc.no_grad():
        assert "saves" not in f.lower(vtc.ones(4, 3)).ir()


def test_eager_scan_while_and_map():
    xs = vtc.arange(5.0)
    last, seen = vtc.scan(lambda c, x: (c + x, c), 0.0, xs)
    assert (last.item(), seen.tolist()) == (10.0, [0.0, 0.0, 1.0, 3.0, 6.0])
    last, seen = vtc.scan(lambda c, x: (c + x, c), 0.0, xs, reverse=True)
    assert (last.item(), seen.tolist()) == (10.0, [10.0, 9.0, 7.0, 4.0, 0.0])
    last, nothing = vtc.scan(lambda c, x: (c * 2, None), 1, length=10)
    assert (last.item(), nothing) == (1024, None)
    n, total = vtc.while_loop(lambda n, t: n < 4, lambda n, t: (n + 1, t + n), (0, 0))
    assert (n.item(), total.item()) == (4, 6)
    assert vtc.map(lambda row: row.sum(), vtc.ones(3, 2)).tolist() == [2.0, 2.0, 2.0]
    tree = vtc.map(lambda p: {"sum": p["a"] + p["b"]}, {"a": xs, "b": xs})
    assert tree["sum"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_eager_loops_of_no_steps_know_their_types():
    last, rows = vtc.scan(lambda c, x: (c, (x.sum(), x)), vtc.ones(2), vtc.zeros(0, 3))
    assert last.tolist() == [1.0, 1.0]
    assert [tuple(r.shape) for r in rows] == [(0,), (0, 3)]


X = vtc.ones(4, 3)

REFUSED = [
    (lambda x: vtc.scan(lambda c, v: (c.double(), v), x[0], x), TypeCheckError,
     r"scan: expected what is carried to stay f32\[3\], got f64\[3\] after a step"),
    (lambda x: vtc.scan(lambda c, v: ((c, c), v), x[0], x), TypeCheckError,
     r"keep its structure \*, got tuple\(\*, \*\)"),
    (lambda x: vtc.scan(lambda c, v: c, x[0], x), TypeCheckError,
     r"expected f to return \(carry, y\), got f32\[3\]"),
    (lambda x: vtc.scan(lambda c, v: (c, "y"), x[0], x), TypeCheckError,
     "expected tensors and numbers, got str 'y'"),
    (lambda x: vtc.scan(lambda c, v: (c, v), x), ArgumentError,
     "expected xs with tensors, or a length, got none"),
    (lambda x: vtc.scan(lambda c, v: (c, c), x, (x, x[1:])), ArgumentError,
     "first dims equal to the first dim 4, got 3"),
    (lambda x: vtc.scan(lambda c, v: (c, c), x, x, length=3), ArgumentError,
     "first dims equal to the length 3, got 4"),
    (lambda x: vtc.scan(lambda c, v: (c, c), x, x.sum()), TypeCheckError,
     r"expected tensors of one dim or more in xs, got f32\[\(\)\]"),
    (lambda x: vtc.scan(3, x, x), ArgumentError, "expected a function, got int"),
    (lambda x: vtc.scan(lambda c, v: (c, x.add_(1)), x[0], x), CaptureError,
     r"scan: a function writes a tensor in place that it did not make, f32\[4, 3\]; carry it"),
    (lambda x: vtc.scan(lambda c, v: (c.add_(1), v), x[0], x), CaptureError, "did not make"),
    (lambda x: vtc.scan(lambda c, v: (c, v.mul_(2)), x[0], x), CaptureError, "did not make"),
    (lambda x: vtc.cond(x.sum() > 0, lambda: x.add_(1), lambda: x), CaptureError,
     "cond: a function writes .* return its new value, or write to a clone"),
    (lambda x: vtc.cond(x.sum(), lambda: x, lambda: x), TypeCheckError,
     r"expected a predicate of one element and dtype bool, got f32\[\(\)\]"),
    (lambda x: vtc.cond(x > 0, lambda: x, lambda: x), TypeCheckError, r"got bool\[4, 3\]"),
    (lambda x: vtc.while_loop(lambda: True, lambda: (), ()), ArgumentError, "got nothing"),
    (lambda x: vtc.while_loop(lambda x: vtc.rand(()) < 0.5, lambda x: x, (x,)), CaptureError,
     "a condition that draws no random numbers"),
    (lambda x: vtc.while_loop(lambda x: x.sum() < 99, lambda x: x.sum(), (x,)), TypeCheckError,
     r"while_loop: expected what is carried to stay f32\[4, 3\], got f32\[\(\)\]"),
]  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("fn", "error", "message"), REFUSED)
def test_refused(fn, error, message, compiled):
    with pytest.raises(error, match=message) as found:
        (vtc.compile(fn) if compiled else fn)(X.clone())
    assert "test_flow.py" in str(found.value)


def test_refused_in_a_trace_only():
    def types(x):
        return vtc.cond(x.sum() > 0, lambda: x, lambda: x.double())

    def structure(x):
        return vtc.cond(x.sum() > 0, lambda: x, lambda: (x, x))

    def left(x):
        kept = []
        vtc.scan(lambda c, v: (c, kept.append(v * 2)), x[0], x)
        return kept[0] + 1

    w = vtc.ones(3).requires_grad_()

    def backward(x):
        return vtc.scan(lambda c, v: (c, (v * w).sum().backward()), x[0], x)

    for fn, message in (
        (types, r"one type, got f32\[4, 3\] and f64\[4, 3\]; cast one of them"),
        (structure, r"the same structure, got \* and tuple\(\*, \*\)"),
        (left, r"scan: a value that a function made inside, f32\[3\], is used outside"),
        (backward, r"backward\(\) inside a function writes .grad"),
    ):
        with pytest.raises(vtc.VtcError, match=message):
            vtc.compile(fn)(X)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_while_loop_has_no_gradient(compiled):
    def loss(x):
        return vtc.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, x))[1].sum()

    def closed(w):
        return vtc.while_loop(lambda x: x.sum() < 99, lambda x: x * w, (X,))[0].sum()

    for fn in (loss, closed):
        found = vtc.grad(fn)
        with pytest.raises(GradientError, match="while_loop: no gradient flows back") as error:
            (vtc.compile(found) if compiled else found)(vtc.full((4, 3), 2.0))
        assert "use vtc.scan" in str(error.value)


def test_a_branch_on_data_names_the_ways_out():
    with pytest.raises(CaptureError, match=r"vtc\.cond, vtc\.while_loop or vtc\.scan"):
        vtc.compile(lambda x: x if x.sum() > 0 else -x)(X)


def test_eager_index_errors_are_raised_inside_too():
    with pytest.raises(IndexRangeError):
        vtc.scan(lambda c, i: (c + X[i.reshape(1)][0], None), X[0], vtc.tensor([0, 9]))
