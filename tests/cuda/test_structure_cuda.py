"""Strided views and calls of libraries on a simulated GPU."""

import gc
import warnings

import numpy as np
import pytest
from simulated import Simulated

import vtc
from vtc.errors import VtcWarning
from vtc.runtime.cuda.driver import installed

pytestmark = pytest.mark.filterwarnings("ignore::vtc.errors.VtcWarning")
A = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
D = A @ A.T + np.eye(4, dtype=np.float32)


@pytest.fixture(autouse=True, scope="module")
def gpus():
    with installed(Simulated(1)) as gpus:
        yield gpus
        gc.collect()


VIEWS = [
    lambda x: x.diagonal(),
    lambda x: x.diagonal(1, 1, 0),
    lambda x: x.diagonal(-2),
    lambda x: x.unfold(1, 2, 2),
    lambda x: x.as_strided((2, 3), (5, 1), 2),
    lambda x: x[:, 1:].diagonal(5),
]


@pytest.mark.parametrize("view", VIEWS)
def test_strided_views_share_memory(view):
    here, there = vtc.tensor(A), vtc.tensor(A, device="cuda")
    np.testing.assert_array_equal(view(there).cpu().numpy(), view(here).numpy())
    for x in (here, there):
        view(x).mul_(2)
    assert there.is_cuda
    np.testing.assert_array_equal(there.cpu().numpy(), here.numpy())


CALLS = [
    lambda x: vtc.linalg.cholesky(x),
    lambda x: vtc.linalg.inv(x) * 2,
    lambda x: vtc.linalg.eigh(x).eigenvalues,
    lambda x: vtc.linalg.solve(x, x[0]),
    lambda x: vtc.linalg.svd(x, full_matrices=False).S,
    lambda x: vtc.linalg.slogdet(x).logabsdet,
]


@pytest.mark.parametrize("call", CALLS)
def test_libraries_on_the_host(call):
    x = vtc.tensor(D, device="cuda")
    want = call(vtc.tensor(D)).numpy()
    assert vtc.compile(call)(vtc.tensor(D)).shape == want.shape
    for found in (call(x), vtc.compile(call)(x)):
        assert (found.is_cuda, found.shape) == (True, want.shape)
        np.testing.assert_allclose(found.cpu().numpy(), want, 1e-5, 1e-5)


def test_it_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", VtcWarning)
        for n in (2, 3):
            vtc.compile(lambda x: vtc.linalg.det(x))(vtc.eye(n, device="cuda"))
    assert len([w for w in said if "a library computes part of it" in str(w.message)]) <= 1
