"""Parametrized modules beside PyTorch's: values, gradients, buffers, names of what is saved."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

OPERANDS = {
    "l": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32),
    "g": np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(np.float32),
}
CASES = [
    ("P.weight_norm(nn.Linear(6, 4))", "l"),
    ("P.weight_norm(nn.Linear(6, 4), dim=None)", "l"),
    ("P.weight_norm(nn.Conv2d(4, 3, 2), dim=1)", "g"),
    ("P.spectral_norm(nn.Linear(6, 4))", "l"),
    ("P.spectral_norm(nn.ConvTranspose2d(4, 3, 2))", "g"),
    ("P.spectral_norm(nn.Linear(6, 4), 'bias')", "l"),
    ("P.orthogonal(nn.Linear(6, 6))", "l"),
    ("P.orthogonal(nn.Linear(6, 4))", "l"),
    ("P.orthogonal(nn.Linear(6, 8), orthogonal_map='cayley')", "l"),
    ("P.orthogonal(nn.Linear(6, 8), use_trivialization=False)", "l"),
    ("U.weight_norm(nn.Linear(6, 4))", "l"),
    ("U.weight_norm(nn.LSTM(6, 4), 'weight_hh_l0')", "l"),
    ("U.spectral_norm(nn.Linear(6, 4), n_power_iterations=2)", "l"),
    ("U.spectral_norm(nn.ConvTranspose2d(4, 3, 2))", "g"),
]
IDS = [text for text, _ in CASES]
COMPILED = (2, 3, 13)


def build(T, text):
    utils = T.nn.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has newer names for some
        return eval(text, {"nn": T.nn, "P": utils.parametrizations, "U": utils})


def pair(text):
    """torch's module, and vtc's with the same state."""
    torch.manual_seed(0)
    theirs, ours = build(torch, text), build(vtc, text)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, ours


def run(layer, x):
    """Two calls: results, gradients, and buffers afterwards."""
    found = []
    for _ in range(2):
        y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        (y * y * y).sum().backward()
        found += [y.detach(), *(p.grad * 1 for p in layer.parameters())]
        for p in layer.parameters():
            p.grad = None
    return [*found, *(b * 1 for b in layer.buffers())]


def close(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-3, 2e-4)


@pytest.mark.parametrize(("text", "operand"), CASES, ids=IDS)
def test_eager(text, operand):
    theirs, ours = pair(text)
    twin = copy.deepcopy(ours)
    want = run(theirs, torch.tensor(OPERANDS[operand]))
    close(run(ours, vtc.tensor(OPERANDS[operand])), want)
    close(run(twin, vtc.tensor(OPERANDS[operand])), want)
    with pytest.raises(ArgumentError, match="save its state_dict"):
        pickle.dumps(ours)


def check_compiled(cases):
    both = [pair(text) for text, _ in cases]
    operands = [x for _, x in cases]

    @vtc.compile
    def calls(given):
        return [run(m, given[x]) for (_, m), x in zip(both, operands, strict=True)]

    found = calls({k: vtc.tensor(a) for k, a in OPERANDS.items()})
    for (theirs, _), operand, got in zip(both, operands, found, strict=True):
        close(got, run(theirs, torch.tensor(OPERANDS[operand])))


def test_compiled():
    check_compiled([CASES[i] for i in COMPILED])


@pytest.mark.slow
def test_all_compiled():
    check_compiled(CASES)


# of one's own


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T

    def right_inverse(self, x):
        return x.triu()


class Double(nn.Module):
    calls = 0

    def forward(self, x):
        Double.calls += 1
        return x * 2.0

    def right_inverse(self, x):
        return x / 2.0


def test_several_parametrizations():
    P = nn.utils.parametrize
    layer = nn.Linear(3, 3)
    weight, before = layer.weight, layer.weight.detach().clone()
    assert P.register_parametrization(layer, "weight", Symmetric()) is layer
    assert P.is_parametrized(layer)
    assert P.is_parametrized(layer, "weight")
    assert not P.is_parametrized(layer, "bias")
    assert layer.parametrizations.weight.original is weight  # an optimizer goes on with it
    np.testing.assert_array_equal(layer.weight.tril().T.detach(), layer.weight.triu().detach())
    P.register_parametrization(layer, "weight", Double())
    assert P.type_before_parametrizations(layer) is nn.Linear
    assert type(layer).__name__ == "ParametrizedLinear"
    layer.weight = before + before.T
    np.testing.assert_allclose(layer.weight.detach(), (before + before.T).numpy(), 1e-6)
    layer.eval()
    assert not layer.parametrizations.weight[1].training
    value = layer.weight.detach().clone()
    P.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert layer.weight is weight
    np.testing.assert_array_equal(layer.weight.detach(), value)
    assert list(layer.state_dict()) == ["bias", "weight"]


def test_cached():
    P = nn.utils.parametrize
    layer = P.register_parametrization(nn.Linear(3, 3), "weight", Double())
    Double.calls = 0
    with P.cached():
        assert layer.weight is layer.weight
        with P.cached():
            assert layer.weight is layer.weight
        run = vtc.compile(layer)
        run(vtc.ones(2, 3))  # computes its own
        assert Double.calls == 2
    assert layer.weight is not layer.weight
    assert Double.calls == 4

    @vtc.compile
    def twice(x):
        with P.cached():
            return layer(layer(x))

    Double.calls = 0
    x = vtc.ones(2, 3)
    np.testing.assert_allclose(twice(x).detach(), layer(layer(x)).detach(), 1e-5)
    assert Double.calls == 3


def test_a_parametrization_compiles_again():
    P = nn.utils.parametrize
    layer = nn.Linear(3, 3, bias=False)
    run, x = vtc.compile(layer), vtc.ones(2, 3)
    plain = run(x).detach()
    P.register_parametrization(layer, "weight", nn.Sequential(Double(), Double()), unsafe=True)
    np.testing.assert_allclose(run(x).detach(), 4 * plain.numpy(), 1e-6)
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_allclose(run(x).detach(), plain.numpy(), 1e-6)


def test_transferred():
    P = nn.utils.parametrize
    one = P.register_parametrization(nn.Linear(3, 3), "weight", Symmetric())
    other = P.transfer_parametrizations_and_params(one, nn.Linear(3, 3))
    np.testing.assert_array_equal(one.weight.detach(), other.weight.detach())
    assert one.parametrizations.weight[0] is not other.parametrizations.weight[0]


def test_older_names_go_again():
    for text, gone in (
        ("U.weight_norm(nn.Linear(6, 4))", "remove_weight_norm"),
        ("U.spectral_norm(nn.Linear(6, 4))", "remove_spectral_norm"),
    ):
        layer = build(vtc, text)
        value = layer.weight.detach().clone()
        getattr(nn.utils, gone)(layer)
        assert type(layer) is nn.Linear
        assert sorted(layer.state_dict()) == ["bias", "weight"]
        np.testing.assert_array_equal(layer.weight.detach(), value)
        layer(vtc.ones(2, 6))
        with pytest.raises(ArgumentError, match=f"{gone}: expected Linear.weight to be normalized"):
            getattr(nn.utils, gone)(layer)


def test_what_parametrizations_refuse():
    P, U = nn.utils.parametrize, nn.utils
    symmetric = P.register_parametrization(nn.Linear(3, 3), "weight", nn.Identity())
    wrong = [
        (lambda: P.register_parametrization(nn.Linear(3, 4), "weight", nn.Flatten(0)),
         TypeCheckError, r"expected f32\[4, 3\] as before, got f32\[12\]; unsafe=True"),
        (lambda: P.register_parametrization(nn.Linear(3, 4), "x", Double()),
         ArgumentError, "Linear: expected a parameter or buffer 'x'"),
        (lambda: P.remove_parametrizations(nn.Linear(3, 4), "weight"),
         ArgumentError, "expected 'weight' to be parametrized"),
        (lambda: setattr(symmetric, "weight", vtc.ones(3, 3)),
         ArgumentError, "Identity: expected a method right_inverse to assign"),
        (lambda: U.parametrizations.orthogonal(nn.Linear(3, 4), "bias"),
         ArgumentError, "orthogonal: expected a matrix or several"),
        (lambda: U.parametrizations.orthogonal(nn.Linear(3, 4), orthogonal_map="x"),
         ArgumentError, "expected orthogonal_map one of matrix_exp, cayley, householder"),
        (lambda: U.parametrizations.spectral_norm(nn.Linear(3, 4), n_power_iterations=0),
         ArgumentError, "and n_power_iterations >= 1, got 0 and 0"),
        (lambda: setattr(U.weight_norm(nn.Linear(3, 4)), "weight", vtc.ones(4, 3)),
         ArgumentError, "Linear.weight is computed"),
    ]  # fmt: skip
    for call, kind, message in wrong:
        with pytest.raises(kind, match=message):
            call()
