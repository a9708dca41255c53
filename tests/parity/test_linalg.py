"""``vtc.linalg`` beside torch: values and gradients, eager and compiled; what has no answer."""

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, PackageError, RunError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

# a: two matrices 3x3; d: two definite ones; b: right-hand sides; t: tall, w: wide; v: a vector.
ROWS = [
    "L.cholesky(d)",
    "L.cholesky(d, upper=True)",
    "L.inv(a)",
    "L.det(a)",
    "L.slogdet(d)",
    "L.slogdet(a)[0]",
    "T.logdet(d)",
    "L.solve(a, b)",
    "L.solve(a[0], b)",
    "L.solve(a, b.mT, left=False)",
    "L.solve(a[0], v)",
    "L.solve(a, b[:, :, 0])",
    "L.solve_triangular(a, b, upper=True)",
    "L.solve_triangular(a, b, upper=False, unitriangular=True)",
    "L.solve_triangular(a, b.mT, upper=True, left=False)",
    "T.triangular_solve(b, a, True, True)[0]",
    "T.cholesky_solve(b, L.cholesky(d))",
    "T.cholesky_solve(b, L.cholesky(d, upper=True), True)",
    "T.cholesky_inverse(L.cholesky(d))",
    "L.qr(a)",
    "L.qr(t)",
    "L.qr(t.detach(), 'complete')[1]",
    "L.eigh(d).eigenvalues",
    "L.eigh(d).eigenvectors.abs()",
    "L.eigvalsh(d, 'U')",
    "L.svd(t, full_matrices=False).S",
    "L.svd(w, full_matrices=False).U.abs()",
    "L.svd(t, full_matrices=False).Vh.abs()",
    "(lambda u, s, v: (u * s.exp()) @ v)(*L.svd(t, full_matrices=False))",
    "L.svdvals(w)",
    "L.pinv(t)",
    "L.pinv(w)",
    "L.matrix_rank(t.detach())",
    "L.cond(a)",
    "L.cond(a.detach(), 1)",
    "L.matrix_power(a, -2)",
    "L.norm(a, 'nuc', (1, 2))",
    "L.matrix_norm(t, 2)",
    "L.matrix_norm(w, -2, keepdim=True)",
    "L.cross(a, d)",
    "L.diagonal(a, offset=1)",
    "a.inverse() + d.det()[:, None, None]",
    "L.inv(a.double())",
]


def operands():
    rng = np.random.default_rng(3)
    a, t, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 3), (4, 3), (2, 4)))
    d = a @ a.swapaxes(1, 2) + np.eye(3, dtype=np.float32)
    b = rng.normal(size=(2, 3, 2)).astype(np.float32)
    return {"a": a, "d": d, "t": t, "w": w, "b": b, "v": b[0, :, 0].copy()}


def results(row, T, names):
    out = eval(row, {"T": T, "L": T.linalg}, dict(names))
    return list(out) if isinstance(out, tuple) else [out]


def run(row, T, arrays):
    """The results, and the gradients of their sum weighted by 1, 2, 3, ..."""
    names = {k: T.tensor(x).requires_grad_() for k, x in arrays.items()}
    outs = results(row, T, names)
    for out in outs:
        if out.requires_grad:
            weights = T.arange(1, out.numel() + 1).to(out.dtype).reshape(tuple(out.shape))
            out.backward(weights, retain_graph=True)
    grads = {k: x.grad for k, x in names.items() if x.grad is not None}
    return [o.detach().numpy() for o in outs], {k: g.numpy() for k, g in grads.items()}


def compare(got, want):
    for g, w in zip(got[0], want[0], strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        np.testing.assert_allclose(g, w, 2e-4, 2e-4)
    assert got[1].keys() >= want[1].keys()
    for k, g in got[1].items():  # of a sign: zeros here, none there
        w = want[1].get(k, np.zeros_like(g))
        np.testing.assert_allclose(g, w, 2e-3, 2e-3 * np.abs(w).max(), err_msg=k)


@pytest.mark.filterwarnings("ignore:.*triangular_solve is deprecated")
@pytest.mark.parametrize("row", ROWS)
def test_as_torch(row):
    compare(run(row, vtc, operands()), run(row, torch, operands()))


def test_compiled_as_eager():
    arrays = operands()
    names = {k: vtc.tensor(x) for k, x in arrays.items()}

    def every(names):
        return [results(row, vtc, names) for row in ROWS]

    for row, got, want in zip(ROWS, vtc.compile(every)(names), every(names), strict=True):
        for g, w in zip(got, want, strict=True):
            assert g.type == w.type
            np.testing.assert_allclose(g.numpy(), w.numpy(), 1e-4, 1e-4, err_msg=row)


def test_a_step_with_calls_of_libraries_trains():
    """Pieces of a program around the calls, with gradients and a write in place."""
    x = vtc.tensor(operands()["a"])

    def step(w):
        k = w @ w.mT + vtc.linalg.diagonal(x).sum() ** 2 * vtc.eye(3)
        low = vtc.linalg.cholesky(k)
        loss = vtc.linalg.solve_triangular(low, x[0], upper=False).square().sum() + w.sum()
        loss.backward()
        with vtc.no_grad():
            w -= 0.01 * w.grad
        w.grad = None
        return loss

    fast = vtc.compile(step)
    one, two = (vtc.tensor(operands()["t"][:3]).requires_grad_() for _ in "ab")
    for _ in range(3):
        assert float(step(one)) == pytest.approx(float(fast(two)), rel=1e-5)
    np.testing.assert_allclose(one.detach().numpy(), two.detach().numpy(), 1e-5)
    assert "a library computes part of it" in fast.explain(two)


def test_dynamic_sizes():
    fast = vtc.compile(lambda x: vtc.linalg.inv(x.mT @ x + 1) * x.shape[0], dynamic=True)
    for n in (5, 7):
        x = np.random.default_rng(n).normal(size=(n, 2)).astype(np.float32)
        want = np.linalg.inv(x.T @ x + 1) * n
        np.testing.assert_allclose(fast(vtc.tensor(x)).numpy(), want, 1e-4)


def test_no_answer():
    singular = vtc.zeros(2, 2)
    with pytest.raises(RunError, match=r"inv: a matrix of f32\[2, 2\] is singular"):
        vtc.linalg.inv(singular)
    with pytest.raises(RunError, match=r"cholesky: a matrix of .* is not positive definite"):
        vtc.linalg.cholesky(-vtc.eye(2))
    with pytest.raises(RunError, match=r"solve: .* is singular"):
        vtc.linalg.solve(singular, singular)
    assert vtc.linalg.inv_ex(singular).info.item() == 1
    assert vtc.linalg.cholesky_ex(vtc.eye(2)).info.item() == 0
    assert vtc.compile(vtc.linalg.inv)(singular).isnan().all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vtc.linalg.inv(vtc.ones(2, 3)), TypeCheckError, "expected square matrices"),
        (lambda: vtc.linalg.det(vtc.ones(2)), TypeCheckError, "expected floating-point matrices"),
        (lambda: vtc.linalg.qr(vtc.ones(2, 2), "q"), ArgumentError, "qr: expected mode"),
        (lambda: vtc.linalg.eigh(vtc.eye(2), "X"), ArgumentError, "expected UPLO"),
        (lambda: vtc.linalg.matrix_norm(vtc.eye(2), 3), ArgumentError, "expected ord to be fro"),
        (lambda: vtc.linalg.multi_dot([vtc.eye(2)]), ArgumentError, "expected 2 tensors or more"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_package_holds_no_library(tmp_path):
    with pytest.raises(PackageError, match=r"got cholesky, which a library computes"):
        vtc.export(vtc.linalg.cholesky, (vtc.eye(3),), tmp_path / "f.vtc")
