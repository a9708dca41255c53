"""Tensors print as PyTorch's do."""

import numpy as np
import pytest

import vtc

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
rng = np.random.default_rng(0)
ARRAYS = {
    "fractions": np.array([1.0, 2.5], "f"),
    "whole": np.array([1.0, 2.0], "f"),
    "scientific": np.array([1e-5, 1.0], "f"),
    "not finite": np.array([[1.0, np.inf], [-3, np.nan]], "f"),
    "large": rng.normal(size=(40, 40)).astype("f"),
    "integers": np.arange(5),
    "scalar": np.array(3.0, "f"),
    "bool": np.array([True, False]),
    "long lines": rng.normal(size=(3, 20)),
    "wide": np.array([1.0, 5000.0], "f"),
    "empty": np.zeros((0, 3), "f"),
    "i32": np.array([[-1, 100]], "i4"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_repr(name):
    array = ARRAYS[name]
    want = repr(torch.from_numpy(array)).replace("torch.", "vtc.")
    assert repr(vtc.from_numpy(array)) == want
