"""Formulas of several steps in low precision: rounded once, as in PyTorch."""

import numpy as np
import pytest

import vtc

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

CALLS = {
    "linear": lambda T, x, y, c: T.nn.functional.linear(x, y, c[0]),
    "linear of batches": lambda T, x, y, c: T.nn.functional.linear(x.reshape(2, 3, 4, 8), y, c[0]),
    "linear of a row": lambda T, x, y, c: T.nn.functional.linear(x[0], y, c[0]),
    "addmm": lambda T, x, y, c: T.addmm(c, x, y.T),
    "addmm of a row": lambda T, x, y, c: T.addmm(c[0], x, y.T, beta=0.5, alpha=2.5),
    "addmv": lambda T, x, y, c: T.addmv(c[:, 0], x, y[0]),
    "baddbmm": lambda T, x, y, c: T.baddbmm(
        c.reshape(4, 6, 8), x.reshape(4, 6, 8), y.T.expand(4, 8, 8), beta=0.3
    ),
    "addcmul": lambda T, x, y, c: T.addcmul(c, x, y[0], value=0.3),
    "addcdiv": lambda T, x, y, c: T.addcdiv(c, x, y[0].abs() + 1, value=0.3),
}


def operands(T, dtype):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype("f4") for shape in ((24, 8), (8, 8), (24, 8))]
    made = [T.from_numpy(a).to(getattr(T, dtype)) for a in arrays]
    for t in made:
        t.requires_grad_()
    return made


def numbers(t):
    return t.detach().to(vtc.float64 if isinstance(t, vtc.Tensor) else torch.float64).numpy()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CALLS)
def test_one_rounding(name, dtype):
    mine, theirs = operands(vtc, dtype), operands(torch, dtype)
    got, want = CALLS[name](vtc, *mine), CALLS[name](torch, *theirs)
    assert got.dtype is getattr(vtc, dtype)
    assert want.dtype is getattr(torch, dtype)
    other = numbers(got) != numbers(want)
    assert other.mean() < 0.02  # sums in another order; two roundings differ in a fourth
    got.sum().backward()
    want.sum().backward()
    eps = torch.finfo(getattr(torch, dtype)).eps
    for a, b in zip(mine, theirs, strict=True):
        if b.grad is not None:
            wanted = numbers(b.grad)
            tolerance = 2 * eps * max(1, np.abs(wanted).max())
            np.testing.assert_allclose(numbers(a.grad), wanted, rtol=0, atol=tolerance)


def test_autocast_rounds_once():
    x, y, c = (t.detach() for t in operands(vtc, "float32"))
    with vtc.autocast("cpu", dtype=vtc.bfloat16):
        got = vtc.nn.functional.linear(x, y, c[0])
    low = [t.to(vtc.bfloat16) for t in (x, y, c)]
    want = vtc.nn.functional.linear(low[0], low[1], low[2][0])
    assert got.dtype is vtc.bfloat16
    assert (got == want).all().item()
