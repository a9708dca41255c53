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
ELEMENTWISE = {
    "add": lambda T, x, y, c: T.add(c, x, alpha=0.375),
    "sub": lambda T, x, y, c: T.sub(c, x, alpha=1.375),
    "rsub": lambda T, x, y, c: T.rsub(c, x, alpha=0.375),
    "add of a number": lambda T, x, y, c: T.add(c, 3, alpha=0.375),
    "lerp": lambda T, x, y, c: T.lerp(c, x, 0.3),
    "lerp by a tensor": lambda T, x, y, c: T.lerp(c, x, y[0]),
    "times a number": lambda T, x, y, c: 0.3 * c,
    "by a number": lambda T, x, y, c: c / 0.3,
    "log2": lambda T, x, y, c: T.log2(c.detach().abs()),
    "log10": lambda T, x, y, c: T.log10(c.detach().abs()),
    "logaddexp2": lambda T, x, y, c: T.logaddexp2(c, x),
    "round": lambda T, x, y, c: T.round(c.detach(), decimals=2),
    "deg2rad": lambda T, x, y, c: T.deg2rad(c),
    "sinc": lambda T, x, y, c: T.sinc(c.detach()),
    "elu": lambda T, x, y, c: T.nn.functional.elu(c, 0.3),
    "celu": lambda T, x, y, c: T.nn.functional.celu(c, 0.3),
    "selu": lambda T, x, y, c: T.nn.functional.selu(c),
    "leaky_relu": lambda T, x, y, c: T.nn.functional.leaky_relu(c, 0.3),
    "softplus": lambda T, x, y, c: T.nn.functional.softplus(c, 1.7),
    "logsigmoid": lambda T, x, y, c: T.nn.functional.logsigmoid(c),
    "mish": lambda T, x, y, c: T.nn.functional.mish(c),
    "hardsigmoid": lambda T, x, y, c: T.nn.functional.hardsigmoid(c),
    "hardswish": lambda T, x, y, c: T.nn.functional.hardswish(c),
}
CALLS |= ELEMENTWISE


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
    if not want.requires_grad:
        return
    got.sum().backward()
    want.sum().backward()
    eps = torch.finfo(getattr(torch, dtype)).eps
    for a, b in zip(mine, theirs, strict=True):
        if b.grad is not None:
            wanted = numbers(b.grad)
            tolerance = 2 * eps * max(1, np.abs(wanted).max())
            np.testing.assert_allclose(numbers(a.grad), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_kernels_round_as_eager_code_does(dtype):
    given = [t.detach() for t in operands(vtc, dtype)]
    calls = list(ELEMENTWISE.values())
    found = vtc.compile(lambda *given: [call(vtc, *given) for call in calls])(*given)
    for name, call, got in zip(ELEMENTWISE, calls, found, strict=True):
        other = numbers(got) != numbers(call(vtc, *given))
        assert other.mean() < 0.02, name  # a kernel does not round a product that it adds to


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_factors_and_partial_sums_are_not_rounded(dtype):
    """As on CUDA; on the CPU PyTorch rounds ``alpha``, ``1 / c``, and sums batch by batch."""
    given = [t.detach() for t in operands(vtc, dtype)]
    (x, y, c), (a, b, z) = given, [t.float() for t in given]
    pairs = [
        (vtc.add(c, x, alpha=0.3), z + 0.3 * a),
        (c.clone().sub_(x, alpha=0.3), z - 0.3 * a),
        (0.3 / c, 0.3 / z),
        (vtc.addr(c[:8], x[0], x[1], beta=0.3), 0.3 * z[:8] + vtc.outer(a[0], a[1])),
        (
            vtc.addbmm(c[:6], x.reshape(4, 6, 8), y.expand(4, 8, 8), beta=0.3, alpha=0.7),
            0.3 * z[:6] + 0.7 * (a.reshape(4, 6, 8) @ b).sum(0),
        ),
    ]
    for got, want in pairs:
        other = numbers(got) != numbers(want.to(got.dtype))
        assert other.mean() < 0.02  # sums in another order


def test_autocast_rounds_once():
    x, y, c = (t.detach() for t in operands(vtc, "float32"))
    with vtc.autocast("cpu", dtype=vtc.bfloat16):
        got = vtc.nn.functional.linear(x, y, c[0])
    low = [t.to(vtc.bfloat16) for t in (x, y, c)]
    want = vtc.nn.functional.linear(low[0], low[1], low[2][0])
    assert got.dtype is vtc.bfloat16
    assert (got == want).all().item()
