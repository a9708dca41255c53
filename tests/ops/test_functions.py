"""User functions: every row of ``functions_table`` against NumPy, torch, and compiled."""

import ml_dtypes
import numpy as np
import pytest
from functions_table import ROWS, operands
from scipy import special

import vtc
import vtc.nn.functional as F
from vtc.errors import CaptureError, TypeCheckError

CASES = [pytest.param(call, numpy, id=call) for rows in ROWS.values() for call, numpy in rows]
FLOATING = ("f", "V")
RTOL, ATOL = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-10}, 2e-5


# what rows may say in NumPy


def normed(x, axes, eps=1e-5):
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def chan(x):
    return x[:, None, None]


def smooth(x, beta):
    return np.where(np.abs(x) < beta, x * x / (2 * beta), np.abs(x) - beta / 2)


def logp(x):
    return special.log_softmax(x, 1)


def weighted(logp, target, weight):
    share = weight[target]
    return -(logp[np.arange(len(target)), target] * share).sum() / share.sum()


def attend(q, k, v, mask=True, scale=None):
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return special.softmax(np.where(mask, scores, -np.inf), -1) @ v


def conv(x, w, groups=1):
    parts = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    pairs = zip(np.split(parts, groups, 1), np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in pairs], 1)


def around(x, n):
    return np.pad(x, ((0, 0), (0, 0), (n, n), (n, n)))


def pooled(x):
    return x[:, :, :4, :4].reshape(*x.shape[:2], 2, 2, 2, 2)


def put(x, axis, index, value):
    out = x.copy()
    np.put_along_axis(out, index, value, axis)
    return out


def added(x, index, value):
    out = x.copy()
    np.add.at(out, index, value)
    return out


WORDS = {
    "np": np, "special": special, "normed": normed, "chan": chan, "smooth": smooth, "put": put,
    "weighted": weighted, "logp": logp,
    "attend": attend, "conv": conv, "around": around, "pooled": pooled,
    "added": added,
    "bfloat16": ml_dtypes.bfloat16,
}  # fmt: skip


class Vtc:
    """``T`` in a row: vtc, and the constants torch has."""

    inf = float("inf")

    def __getattr__(self, name):
        return getattr(vtc, name)


def run(call, T, F, make):
    """The results of a row, and the operands it was run on."""
    names = {name: make(array) for name, array in operands().items()}
    out = eval(call, {"T": T, "F": F, "np": np}, names)
    return (tuple(out) if isinstance(out, (tuple, list)) else (out,)), names


def in_vtc(call, *, grad=False):
    return run(call, Vtc(), F, lambda a: leaf(vtc.tensor(a), grad))


def leaf(x, grad):
    return x.requires_grad_() if grad and is_floating(x) else x


def is_floating(x):
    return x.dtype.is_floating_point


def close(got, want, what):
    assert got.shape == want.shape, what
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, what)
        return
    np.testing.assert_allclose(got, want, RTOL[want.dtype.name], ATOL, err_msg=what)


@pytest.mark.parametrize(("call", "numpy"), CASES)
def test_against_numpy(call, numpy):
    with np.errstate(all="ignore"):
        want = eval(numpy, WORDS, operands())
    got, _ = in_vtc(call)
    wants = want if isinstance(want, (tuple, list)) else (want,)
    assert len(got) == len(wants)
    for g, w in zip(got, wants, strict=True):
        w = np.asarray(w)
        g = g.numpy()
        assert (g.dtype.kind == w.dtype.kind) or w.dtype.kind == "f", (g.dtype, w.dtype)
        close(g, w.astype(g.dtype), call)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("call", "numpy"), CASES)
def test_against_torch(call, numpy):
    torch = pytest.importorskip("torch")
    del numpy
    got, mine = in_vtc(call, grad=True)
    want, theirs = run(call, torch, torch.nn.functional, lambda a: leaf(torch.tensor(a), grad=True))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert repr(g.dtype).split(".")[1] == str(w.dtype).split(".")[1]
        assert g.requires_grad <= w.requires_grad  # torch tracks gradients that are 0
        close(g.detach().numpy(), w.detach().numpy(), call)
    compare_gradients(torch, got, want, mine, theirs)


UNKNOWN = (  # their sizes, or a number taken from them, depend on data
    "x[b]", "x[b[:, 0]]", "x[:, b[0]]", "z[:, b]", "x[b[:, 0], 1]", "T.masked_select(x, b)",
    "T.nonzero(b)", "T.where(b)", "F.one_hot(r)",
    "F.cross_entropy(x, t, ignore_index=int(t[0]), reduction='sum')",
)  # fmt: skip


@pytest.mark.parametrize("family", ROWS)
def test_compiled_as_eager(family):
    calls = [call for call, _ in ROWS[family] if call not in UNKNOWN]
    words = {"T": Vtc(), "F": F, "np": np}

    def every(names):
        return [eval(call, words, dict(names)) for call in calls]

    names = {name: vtc.tensor(array) for name, array in operands().items()}
    for call, got, want in zip(calls, vtc.compile(every)(names), every(names), strict=True):
        pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, want)), strict=True)
        for g, w in pairs:
            assert g.type == w.type
            close(g.numpy(), w.numpy(), call)


@pytest.mark.parametrize("call", UNKNOWN)
def test_what_depends_on_data_is_not_compiled(call):
    with pytest.raises(CaptureError):
        vtc.compile(lambda names: eval(call, {"T": Vtc(), "F": F}, dict(names)))(
            {name: vtc.tensor(array) for name, array in operands().items()}
        )


def compare_gradients(torch, got, want, mine, theirs):
    """A weighted sum of the results, backward."""
    rng = np.random.default_rng(1)
    for g, w in zip(got, want, strict=True):
        if not g.requires_grad or w.numel() == 0:
            continue
        weight = rng.uniform(0.5, 1.5, w.shape).astype(w.detach().numpy().dtype)
        g.backward(vtc.tensor(weight), retain_graph=True)
        w.backward(torch.tensor(weight), retain_graph=True)
    for name, x in theirs.items():
        got, want = (
            np.zeros(x.shape, np.float32) if t.grad is None else t.grad.numpy()
            for t in (mine[name], x)
        )
        close(got.astype(want.dtype), want, f"gradient of {name}")


def test_batch_norm_moves_its_figures():
    x = vtc.tensor(operands()["o"])
    step = vtc.compile(lambda x, m, v: F.batch_norm(x, m, v, training=True, momentum=0.25))
    for run_it in (lambda *a: F.batch_norm(*a, training=True, momentum=0.25), step):
        mean, var = vtc.zeros(4), vtc.ones(4)
        run_it(x, mean, var)
        found = x.numpy().mean((0, 2, 3)), x.numpy().var((0, 2, 3), ddof=1)
        np.testing.assert_allclose(mean.numpy(), 0.25 * found[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * found[1], rtol=1e-5)


def test_rotary_embedding_turns_pairs():
    x, angle = operands()["a"], np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)
    got = F.rotary_embedding(*map(vtc.tensor, (x, np.cos(angle), np.sin(angle)))).numpy()
    turned = (x[..., :2] + 1j * x[..., 2:]) * np.exp(1j * angle)
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], -1), rtol=1e-5)


def test_products_under_autocast():
    x, w, b = (vtc.tensor(operands()[n]) for n in "xwy")
    with vtc.autocast("cpu", vtc.bfloat16):
        assert F.linear(x, w[:4], b).dtype is vtc.bfloat16
        assert F.linear(x.bfloat16(), w[:4], b).dtype is vtc.bfloat16
        assert F.layer_norm(x.bfloat16(), (4,), b, b).dtype is vtc.float32
        assert F.cross_entropy(x.bfloat16(), vtc.tensor([0, 1, 2])).dtype is vtc.float32


def test_low_precision_accumulates_in_f32():
    x = vtc.full((4096,), 0.1, dtype=vtc.float16)
    assert abs(float(x.mean().item()) - 0.1) < 1e-4
    assert abs(float((x * 300).mean().item()) - 30) < 0.05
    assert float(x.norm().item()) == pytest.approx(6.4, rel=1e-3)


def test_in_place_keeps_what_backward_needs():
    x = vtc.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    y.mul_(x).exp_().add_(1)
    y.sum().backward()
    np.testing.assert_allclose(
        x.grad.numpy(), 2 * x.detach().numpy() * np.exp([1.0, 4.0]), rtol=1e-5
    )
    with vtc.no_grad():
        assert x.sub_(1) is x
    assert x.tolist() == [0, 1]


def test_views_share_and_copies_do_not():
    x = vtc.zeros(2, 3)
    for view in (x.view(6), x.t(), x.reshape(3, 2), x.unsqueeze(0), x.expand(2, 3), x.contiguous()):
        view.add_(1)
    assert x.tolist() == [[6.0] * 3] * 2
    for copy in (
        x.t().contiguous(),
        x.t().reshape(6),
        x.repeat(1, 1),
        x.flip(0),
        x.roll(0, 0),
        x.clone(),
    ):
        copy.zero_()
    assert x.tolist() == [[6.0] * 3] * 2
    with pytest.raises(TypeCheckError, match=r"shares a memory location|its own memory"):
        x[:1].expand(4, 3).add_(1)
