"""User functions: every row of ``functions_table`` against NumPy, against torch, and their gradients."""

import ml_dtypes
import numpy as np
import pytest
from functions_table import ROWS, operands
from scipy import special

import vtc
import vtc.nn.functional as F

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
    "weighted": weighted, "attend": attend, "conv": conv, "around": around, "pooled": pooled,
    "added": added, "bfloat16": ml_dtypes.bfloat16,
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
