"""Every layer of ``modules_table`` beside PyTorch's, eager and compiled.

Compared are the repr, the names of what is saved, results, gradients of operands and parameters,
and buffers afterwards. A group of layers is one compiled function, so few libraries are built.
"""

import warnings
from functools import cache, wraps

import numpy as np
import pytest
from modules_table import DRAWN, DRAWN3, GROUPS, LINE, TARGETS, operands

import vtc
import vtc.nn
import vtc.nn.functional

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

CASES = [(group, i) for group, rows in GROUPS.items() for i in range(len(rows))]
IDS = [f"{group}-{GROUPS[group][i][0]}-{GROUPS[group][i][1]}" for group, i in CASES]
SHOWN_OTHERWISE = ("PixelShuffle", "Transformer", "MultiheadAttention")
"""Whose repr PyTorch makes of classes vtc has not, or in other ways."""


def warnings_ignored(fn):
    """torch warns of fast paths it does not take."""

    @wraps(fn)
    def quiet(*args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fn(*args)

    return quiet


def build(T, text):
    return eval(text, names(T))


def names(T):
    drawn = {"DRAWN": DRAWN, "DRAWN3": DRAWN3, "LINE": LINE}
    return {"nn": T.nn, "T": T, "F": T.nn.functional, **drawn}


@cache
@warnings_ignored
def theirs(group, index):
    """torch's layer with weights that do not cancel, its state before, and what it gives."""
    text, call = GROUPS[group][index]
    torch.manual_seed(0)
    layer = build(torch, text)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.add_(0.1 * torch.randn(p.shape) if "norm" in name or p.ndim < 2 else 0)
    state = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    return layer, state, run(torch, layer, call, torch_tensors())


def torch_tensors():
    return {k: torch.tensor(a) for k, a in operands().items()}


def ours(group, index):
    """vtc's layer with the same weights."""
    text, _ = GROUPS[group][index]
    layer = build(vtc, text)
    _, state, _ = theirs(group, index)
    assert list(layer.state_dict()) == list(state)
    layer.load_state_dict(state)
    return layer


def run(T, layer, call, tensors):
    """Results, gradients of operands and of parameters, and the state afterwards."""
    leaves = {
        k: x.detach().requires_grad_() if x.dtype.is_floating_point and k not in TARGETS else x
        for k, x in tensors.items()
    }
    outs = list(flat(layer(*eval(f"({call},)", names(T), leaves))))
    weighed = [o * weight(T, o, i) for i, o in enumerate(outs) if o.requires_grad]
    if weighed:
        sum(w.sum() for w in weighed).backward()
    grads = {f"operand {k}": x.grad for k, x in leaves.items() if x.grad is not None}
    params = dict(layer.named_parameters())
    grads |= {k: p.grad * 1 for k, p in params.items() if p.grad is not None}
    for p in params.values():
        p.grad = None
    buffers = {k: b * 1 for k, b in layer.named_buffers()}
    return [o.detach() for o in outs], grads, buffers


def flat(out):
    if isinstance(out, (tuple, list)):
        return [x for part in out for x in flat(part)]
    return [] if out is None else [out]


def weight(T, out, i):
    """Something that tells elements apart."""
    size = int(np.prod(tuple(out.shape), dtype=int))
    return T.tensor((np.cos(np.arange(size) + i) + 1.5).astype(np.float32)).reshape(
        tuple(out.shape)
    )


def compare(got, want):
    for a, b in zip(got[0], want[0], strict=True):
        close(a, b, "result")
    for part in (1, 2):
        assert sorted(got[part]) == sorted(want[part])
        for k, b in want[part].items():
            close(got[part][k], b, k)


def close(got, want, what):
    a, b = got.detach().numpy(), want.detach().numpy()
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, 2e-4, 2e-5, err_msg=what)


@pytest.mark.parametrize(("group", "index"), CASES, ids=IDS)
def test_eager(group, index):
    layer, _, want = theirs(group, index)
    mine = ours(group, index)
    if not any(name in GROUPS[group][index][0] for name in SHOWN_OTHERWISE):
        assert repr(mine) == repr(layer)
    tensors = {k: vtc.tensor(a) for k, a in operands().items()}
    compare(run(vtc, mine, GROUPS[group][index][1], tensors), want)


@pytest.mark.parametrize("group", GROUPS)
def test_compiled(group):
    rows = GROUPS[group]
    layers = [ours(group, i) for i in range(len(rows))]

    @vtc.compile
    def calls(tensors):
        return [run(vtc, m, call, tensors) for m, (_, call) in zip(layers, rows, strict=True)]

    found = calls({k: vtc.tensor(a) for k, a in operands().items()})
    for i, got in enumerate(found):
        compare(got, theirs(group, i)[2])
