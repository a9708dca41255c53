"""Every row of ``calls_table``, eager and compiled, gives what PyTorch gives: values and gradients.

A group of rows is one compiled function, so few libraries are built.
"""

import warnings
from functools import cache

import numpy as np
import pytest
from calls_table import GROUPS, KNOWN, KNOWN_COMPILED, edge_operands, operands

import vtc
import vtc.nn.functional as F

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")


def cases(known):
    """Every row, those in ``known`` expected to fail."""
    return [
        pytest.param(group, row, marks=[pytest.mark.xfail(strict=True, reason=why)] if why else [])
        for group, rows in GROUPS.items()
        for row in rows
        for why in [known.get(row)]
    ]


FAILING = {**KNOWN, **KNOWN_COMPILED}
STATEMENTS = {*GROUPS["assign"], *GROUPS["in place"]}
HALVES = {"bfloat16": 2e-2, "float16": 4e-3}
RTOL = {**HALVES, "float32": 3e-5, "float64": 1e-9}


class Vtc:
    """``T`` in a row: vtc, and the constants torch has."""

    inf = float("inf")

    def __getattr__(self, name):
        return getattr(vtc, name)


def run(row, tensors, T, F, weights=None):
    """The results of a row, and the gradients of their sum weighted by ``weights``."""
    leaves = {
        k: x.detach().requires_grad_() if x.dtype.is_floating_point else x
        for k, x in tensors.items()
    }
    outs = results(row, leaves, T, F)
    for out, weight in zip(outs, weights or [], strict=False):
        if weight is not None and out.requires_grad:
            out.backward(weight, retain_graph=True)
    grads = {k: x.grad for k, x in leaves.items() if is_floating(x) and x.grad is not None}
    for k in grads:
        leaves[k].grad = None
    return [out.detach() for out in outs], grads


def results(row, leaves, T, F):
    words, names = {"T": T, "F": F, "np": np}, dict(leaves)
    if row not in STATEMENTS:
        out = eval(row, words, names)
    else:
        names["x"] = names["x"] * 1
        exec(row, words, names)
        out = names.get("out", names["x"])
    return list(out) if isinstance(out, (tuple, list)) else [out]


def is_floating(x):
    return x.dtype.is_floating_point


def name_of(dtype):
    return repr(dtype).split(".")[-1]


@cache
def arrays_of(group):
    return edge_operands() if group == "edges" else operands()


@cache
def wanted(group, row):
    """What torch gives for a row, and the weights its gradients were made with."""
    tensors = {k: torch.tensor(a) for k, a in arrays_of(group).items()}
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outs, _ = run(row, tensors, torch, torch.nn.functional)
        weights = [
            torch.tensor(rng.uniform(0.5, 1.5, tuple(o.shape))).to(o.dtype)
            if is_floating(o)
            else None
            for o in outs
        ]
        tensors = {k: torch.tensor(a) for k, a in arrays_of(group).items()}
        return (*run(row, tensors, torch, torch.nn.functional, weights), weights)


def inputs(group):
    return {k: vtc.tensor(a) for k, a in arrays_of(group).items()}


def ours(weights):
    """torch's weights as vtc tensors."""
    return [
        None if w is None else vtc.tensor(w.double().numpy()).to(getattr(vtc, name_of(w.dtype)))
        for w in weights
    ]


@cache
def compiled(group):
    """The results of a group of rows, computed by one compiled function, or why it failed."""
    rows = [row for row in GROUPS[group] if row not in FAILING]

    @vtc.compile
    def calls(tensors, weights):
        pairs = zip(rows, weights, strict=True)
        return [run(row, tensors, Vtc(), F, w) for row, w in pairs]

    try:
        got = calls(inputs(group), [ours(wanted(group, row)[2]) for row in rows])
    except Exception as error:
        return error
    return dict(zip(rows, got, strict=True))


@pytest.mark.parametrize(("group", "row"), cases(KNOWN))
def test_eager(group, row):
    compare(
        group, run(row, inputs(group), Vtc(), F, ours(wanted(group, row)[2])), wanted(group, row)
    )


@pytest.mark.parametrize(("group", "row"), cases(FAILING))
def test_compiled(group, row):
    if row in FAILING:
        alone = vtc.compile(lambda tensors, weights: run(row, tensors, Vtc(), F, weights))
        compare(group, alone(inputs(group), ours(wanted(group, row)[2])), wanted(group, row))
    else:
        found = compiled(group)
        if isinstance(found, Exception):
            raise found
        compare(group, found[row], wanted(group, row))


def compare(group, got, want):
    outs, grads = got
    want_outs, want_grads, _ = want
    assert [(name_of(o.dtype), tuple(o.shape)) for o in outs] == [
        (name_of(o.dtype), tuple(o.shape)) for o in want_outs
    ]
    for out, w in zip(outs, want_outs, strict=True):
        close(out, w, RTOL.get(name_of(w.dtype)))
    # A half on the way rounds what comes back through it, and eager and fused code round unalike.
    rounded = [name_of(t.dtype) for t in (*want_outs, *want_grads.values())]
    rtol = max([5e-5, *(HALVES[name] for name in rounded if name in HALVES)])
    for k, a in arrays_of(group).items():
        if a.dtype.kind == "f":
            zero = torch.zeros(a.shape)
            close(grads.get(k, zero), want_grads.get(k, zero), rtol, f"gradient of {k}")


def close(got, want, rtol, what=""):
    got, want = (t.double().numpy() if is_floating(t) else t.numpy() for t in (got, want))
    if rtol is None:
        np.testing.assert_array_equal(got, want, what)
    else:
        np.testing.assert_allclose(got, want, rtol, max(3e-5, rtol / 4), err_msg=what)
