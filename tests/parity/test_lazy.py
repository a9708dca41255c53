"""Lazy layers beside PyTorch's: before and after the first call, loaded, copied, compiled."""

import copy
import warnings

import numpy as np
import pytest

import vtc
import vtc.nn as nn
from vtc.errors import ArgumentError, CaptureError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

SHAPES = {1: (2, 4, 6), 2: (2, 4, 5, 6), 3: (2, 4, 3, 4, 5)}
CASES = [
    ("LazyLinear(3)", 1),
    ("LazyLinear(3, bias=False, dtype=T.float64)", 1),
    *((f"LazyConv{d}d(6, 2, groups=2)", d) for d in SHAPES),
    *((f"LazyConvTranspose{d}d(3, 2)", d) for d in SHAPES),
    *((f"LazyBatchNorm{d}d()", d) for d in SHAPES),
    *((f"LazyInstanceNorm{d}d()", d) for d in SHAPES),
    ("LazyBatchNorm1d(affine=False)", 1),
]


def shapes(layer):
    return {k: tuple(v.shape) for k, v in layer.state_dict().items()}


@pytest.mark.parametrize(("text", "dims"), CASES, ids=[c[0] for c in CASES])
def test_lazy(text, dims):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that they may change
        theirs, ours = (eval(f"T.nn.{text}", {"T": T}) for T in (torch, vtc))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    kinds = [isinstance(p, nn.UninitializedParameter) for p in ours.parameters()]
    want = [isinstance(p, torch.nn.UninitializedParameter) for p in theirs.parameters()]
    assert kinds == want
    before = [id(p) for p in ours.parameters()]
    dtype = "float64" if "float64" in text else "float32"
    x = np.random.default_rng(0).normal(size=SHAPES[dims]).astype(dtype)
    theirs(torch.tensor(x))
    ours(vtc.tensor(x))
    assert [id(p) for p in ours.parameters()] == before
    assert type(ours).__name__ == type(theirs).__name__
    assert repr(ours) == repr(theirs)
    assert shapes(ours) == shapes(theirs)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    got, expected = ours(vtc.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), 2e-4, 2e-5)


def test_a_model_of_lazy_layers():
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2)).double()
    x = vtc.ones(2, 5, dtype=vtc.float64)
    with pytest.raises(CaptureError, match="LazyLinear: a first call makes parameters"):
        vtc.compile(model)(x)
    with pytest.raises(ArgumentError, match="SGD: expected parameters that have shapes"):
        vtc.optim.SGD(model.parameters(), lr=0.1)
    other = copy.deepcopy(model)
    want = model(x)
    other.load_state_dict(model.state_dict())
    assert type(other[0]) is nn.LazyLinear
    np.testing.assert_array_equal(other(x).detach().numpy(), want.detach().numpy())
    assert repr(other) == repr(model)
    np.testing.assert_allclose(vtc.compile(other)(x).detach().numpy(), want.detach().numpy())
    vtc.manual_seed(0)
    weight = nn.LazyLinear(50)
    weight(vtc.ones(1, 100))
    assert 0.08 < abs(weight.weight.detach().numpy()).max() <= 0.1


def test_what_lazy_layers_refuse():
    with pytest.raises(TypeCheckError, match="LazyConv2d: expected more than 2 dims"):
        nn.LazyConv2d(3, 1)(vtc.ones(4, 4))
    with pytest.raises(TypeCheckError, match="LazyBatchNorm1d: expected two dims or more"):
        nn.LazyBatchNorm1d()(vtc.ones(4))
    with pytest.raises(ArgumentError, match="materialize: expected an uninitialized parameter"):
        nn.parameter.materialize(nn.Parameter(vtc.ones(2)), (3,))


def test_a_lazy_module_of_ones_own():
    class Scale(nn.lazy.LazyModuleMixin, nn.Module):
        def __init__(self):
            self.scale = nn.UninitializedParameter()

        def initialize_parameters(self, x):
            nn.parameter.materialize(self.scale, (x.shape[-1],))
            nn.init.ones_(self.scale)

        def forward(self, x):
            return x * self.scale

    layer = Scale()
    assert layer.has_uninitialized_params()
    assert layer(vtc.ones(2, 3)).tolist() == [[1.0] * 3] * 2
    assert layer(vtc.ones(3)).tolist() == [1.0] * 3
    assert layer.scale.shape == (3,)
