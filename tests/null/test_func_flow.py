"""``vtc.func`` of functions with loops and branches: as of the same functions spelled out."""

import numpy as np
import pytest

import vtc
from vtc.errors import TypeCheckError
from vtc.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

rng = np.random.default_rng(0)
W, XS, HS = (vtc.from_numpy(rng.normal(size=s)) for s in ((4, 4), (5, 3, 4), (5, 4)))
ONE = vtc.ones((), dtype=vtc.float64)


def rnn(h, x):
    return vtc.scan(lambda h, x: (vtc.tanh(h @ W + x), h * 2), h, x)


def rnn_spelled_out(h, x):
    ys = []
    for i in range(3):
        ys.append(h * 2)
        h = vtc.tanh(h @ W + x[i])
    return h, vtc.stack(ys)


def total(rnn):
    return lambda h, x: sum(y.sin().sum() for y in rnn(h, x))


def branch(a):
    return vtc.cond(a.sum() > 0, lambda: a * 2, lambda: a.exp())


def branch_spelled_out(a):
    return vtc.where(a.sum() > 0, a * 2, a.exp())


def doubled(a):
    """Doubled until it is large, and how often."""
    return vtc.while_loop(
        lambda a, n: a.abs().sum() < 50, lambda a, n: (a * 2, n + 1), (a, vtc.zeros(()))
    )


LOOPS = {
    "both mapped": lambda f: vmap(f)(HS, XS),
    "start mapped": lambda f: vmap(f, in_dims=(0, None))(HS, XS[0]),
    "slices mapped": lambda f: vmap(f, in_dims=(None, 0))(HS[0], XS),
    "inner dim": lambda f: vmap(f, in_dims=(0, 1), out_dims=1)(HS[:3, :], XS[:3].permute(1, 0, 2)),
    "vjp": lambda f: vjp(total(f), HS[0], XS[0])[1](ONE),
    "jvp": lambda f: jvp(total(f), (HS[0], XS[0]), (HS[1], XS[1])),
    "linearize": lambda f: linearize(total(f), HS[0], XS[0])[1](HS[1], XS[1]),
    "jacrev": lambda f: jacrev(f)(HS[0], XS[0]),
    "jacfwd": lambda f: jacfwd(f, argnums=1)(HS[0], XS[0]),
    "vmap of grad": lambda f: vmap(grad(total(f)))(HS, XS),
    "hessian": lambda f: hessian(total(f))(HS[0], XS[0]),
}
BRANCHES = {
    "mapped": lambda f: vmap(f)(HS),
    "jacrev": lambda f: jacrev(f)(HS[0]),
    "jacfwd": lambda f: jacfwd(f)(HS[0]),
    "vmap of grad": lambda f: vmap(grad(lambda a: f(a).sum()))(HS),
}
CALLS = [
    *((f"loop, {k}", c, rnn, rnn_spelled_out) for k, c in LOOPS.items()),
    *((f"branch, {k}", c, branch, branch_spelled_out) for k, c in BRANCHES.items()),
]
COMPILED = ("loop, both mapped", "loop, hessian", "loop, jvp", "branch, mapped", "branch, jacfwd")


@pytest.mark.parametrize(
    ("call", "fn", "want"), [pytest.param(c, f, w, id=k) for k, c, f, w in CALLS]
)
def test_transforms_of_loops_and_branches(call, fn, want):
    assert_same(call(fn), call(want))


@pytest.mark.parametrize(
    ("call", "fn", "want"), [pytest.param(c, f, w, id=k) for k, c, f, w in CALLS if k in COMPILED]
)
def test_transforms_of_loops_and_branches_in_compiled_functions(call, fn, want):
    assert_same(vtc.compile(lambda: call(fn))(), call(want))


def test_examples_leave_a_loop_at_different_times():
    want = [doubled(row) for row in HS.unbind(0)]
    assert len({n.item() for _, n in want}) > 1
    for mapped in (vmap(doubled), vtc.compile(vmap(doubled))):
        got = mapped(HS)
        assert_same(got, [vtc.stack(column) for column in zip(*want, strict=True)])


def test_a_branch_that_all_examples_take_is_one():
    for pred in (vtc.tensor(True), vtc.tensor(False)):

        def fn(a, pred=pred):
            return vtc.cond(pred, lambda: a * 2, lambda: a.exp())

        assert_same(vmap(fn)(HS), HS * 2 if pred else HS.exp())
        assert_same(vtc.compile(vmap(fn))(HS), HS * 2 if pred else HS.exp())


def test_draws_in_a_loop_differ_among_steps_and_examples():
    def noise(a):
        return vtc.scan(lambda h, x: (h, vtc.rand(2)), a, a)[1]

    x = vtc.zeros(3, 4)
    shared = lambda a: noise(x[0])  # noqa: E731
    for fn in (noise, shared):
        drawn = vmap(fn, randomness="different")(x).reshape(-1).tolist()
        assert len(set(drawn)) == len(drawn) == 24
        with pytest.raises(TypeCheckError, match="randomness"):
            vmap(fn)(x)


def assert_same(got, want):
    if isinstance(want, (tuple, list)):
        for a, b in zip(got, want, strict=True):
            assert_same(a, b)
        return
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-12)
