"""Pruned modules beside PyTorch's: masks, values, gradients, one after the other."""

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
pytest.importorskip("torch.nn.utils.prune")

STEPS = {
    "elements": lambda P, m, T: P.l1_unstructured(m, "weight", 0.3),
    "a number": lambda P, m, T: P.l1_unstructured(m, "weight", 5),
    "scores": lambda P, m, T: P.l1_unstructured(
        m, "weight", 0.5, importance_scores=T.arange(24.0).reshape(4, 6) - 11.3
    ),
    "rows": lambda P, m, T: P.ln_structured(m, "weight", 1, 2, 0),
    "columns": lambda P, m, T: P.ln_structured(m, "weight", 0.34, 1, -1),
    "mask": lambda P, m, T: P.custom_from_mask(m, "weight", T.eye(4, 6)),
    "all": lambda P, m, T: P.identity(m, "bias"),
}
CASES = [*((name,) for name in STEPS), ("elements", "a number"), ("rows", "elements", "columns"),
         ("elements", "rows"), ("mask", "elements")]  # fmt: skip


def pruned(T, names):
    layer = T.nn.Linear(6, 4)
    rng = np.random.default_rng(0)
    with T.no_grad():
        for p in layer.parameters():
            p.copy_(T.tensor(rng.normal(size=tuple(p.shape)).astype(np.float32)))
    for name in names:
        assert STEPS[name](T.nn.utils.prune, layer, T) is layer
    return layer


@pytest.mark.parametrize("names", CASES, ids=", then ".join)
def test_pruned(names):
    ours, theirs = pruned(vtc, names), pruned(torch, names)
    assert repr(ours) == repr(theirs)
    assert nn.utils.prune.is_pruned(nn.Sequential(ours))
    got, want = ours.state_dict(), theirs.state_dict()
    assert sorted(got) == sorted(want)
    for k, v in want.items():
        np.testing.assert_array_equal(got[k].numpy(), v.numpy(), err_msg=k)
    for T, layer in ((vtc, ours), (torch, theirs)):
        (layer(T.ones(2, 6)) ** 2).sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-5)


def test_pruned_together():
    seen = []
    for T in (vtc, torch):
        P, layers = T.nn.utils.prune, [pruned(T, ["rows"]), pruned(T, [])]
        pairs = [(layers[0], "weight"), (layers[1], "weight"), (layers[1], "bias")]
        P.global_unstructured(pairs, P.L1Unstructured, amount=0.4)
        seen.append([getattr(*pair).detach().numpy() for pair in pairs])
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["random_unstructured", "random_structured"])
def test_pruned_by_chance(name):
    vtc.manual_seed(0)
    layer = nn.Linear(60, 40)
    dims = (0,) if name == "random_structured" else ()
    getattr(nn.utils.prune, name)(layer, "weight", 0.25, *dims)
    mask = layer.weight_mask.numpy()
    assert (mask == 0).sum() == 600
    if dims:
        assert set(mask.sum(1)) == {0, 60}


def test_removed_and_compiled():
    layer = pruned(vtc, ["elements"])
    run, x = vtc.compile(layer), vtc.ones(2, 6)
    np.testing.assert_allclose(run(x).detach(), layer(x).detach(), 1e-5)
    value, orig = layer.weight.detach().clone(), layer.weight_orig
    assert nn.utils.prune.remove(layer, "weight").weight is orig
    assert type(layer) is nn.Linear
    assert not nn.utils.prune.is_pruned(layer)
    np.testing.assert_array_equal(layer.weight.detach(), value)
    np.testing.assert_allclose(run(x).detach(), layer(x).detach(), 1e-5)


def test_what_pruning_refuses():
    P = nn.utils.prune
    wrong = [
        (lambda: P.remove(nn.Linear(2, 2), "weight"), r"prune\.remove: expected Linear\.weight"),
        (lambda: P.l1_unstructured(nn.Linear(2, 2), "weight", 1.5), r"expected amount in \[0, 1\]"),
        (lambda: P.l1_unstructured(nn.Linear(2, 2), "weight", 7), "expected amount of at most 4"),
        (lambda: P.l1_unstructured(nn.Linear(2, 2), "x", 0.5), "to have a parameter 'x'"),
        (lambda: P.random_structured(nn.Linear(2, 2), "bias", 1, 0), "expected two dims or more"),
        (lambda: P.custom_from_mask(nn.Linear(2, 2), "bias", vtc.ones(3)), "expected a mask like"),
        (lambda: P.global_unstructured([], P.LnStructured, amount=1, n=2), "unstructured method"),
    ]
    for call, message in wrong:
        with pytest.raises(ArgumentError, match=message):
            call()
