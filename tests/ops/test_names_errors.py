"""What functions under PyTorch's rarer names refuse, and the few that random numbers are in."""

import numpy as np
import pytest

import vtc
from vtc.errors import (
    ArgumentError,
    CaptureError,
    IndexRangeError,
    RunError,
    TypeCheckError,
)

X, K, C = vtc.tensor([[1.0, 2.0], [3.0, 4.0]]), vtc.tensor([3, 1]), vtc.tensor([1j])
REFUSED = [
    ("frexp(K)", TypeCheckError, r"frexp: expected a floating-point input, got i64\[2\]"),
    ("real(C)", TypeCheckError, "real: vtc computes with real numbers only"),
    ("fill(X, X)", TypeCheckError, "fill: expected a 0-d value"),
    ("nanmean(K)", TypeCheckError, "nanmean: expected a floating-point input"),
    ("renorm(X, 0, 0, 1.0)", ArgumentError, "renorm: expected p > 0"),
    ("renorm(X[0], 2, 0, 1.0)", TypeCheckError, "renorm: expected 2 dims or more"),
    ("histogram(K, 2)", TypeCheckError, "histogram: expected floating-point points"),
    ("histogram(X, 0)", ArgumentError, "histogram: expected bins >= 1, got 0"),
    ("histogram(X, 2, weight=X[0])", TypeCheckError, "expected a weight for each of 4"),
    ("gradient(X[:, :1], dim=1)", ArgumentError, "gradient: expected 2 elements or more"),
    ("gradient(X, spacing=(1.0,))", ArgumentError, "gradient: expected spacing for 2 dims, got 1"),
    ("cdist(X, X[:, :1])", TypeCheckError, "cdist: expected rows of one length"),
    ("cdist(X, X, -1.0)", ArgumentError, r"cdist: expected p >= 0, got -1\.0"),
    ("pdist(X[0])", TypeCheckError, r"pdist: expected floating-point rows \[N, M\]"),
    ("unravel_index(K, (2,))", IndexRangeError, "expected indices into 2 elements, got 1 to 3"),
    ("nonzero_static(X, size=-1)", ArgumentError, "nonzero_static: expected size >= 0"),
    ("is_nonzero(X)", ArgumentError, "is_nonzero: expected one element"),
    ("hann_window(-1)", ArgumentError, "hann_window: expected window_length >= 0"),
    ("kaiser_window(3, dtype=vtc.int64)", TypeCheckError, "expected a floating-point dtype"),
    ("asarray([1], copy=False)", ArgumentError, "asarray: expected memory to share, got list"),
    ("asarray(X, dtype=vtc.float64, copy=False)", ArgumentError, "needs a copy"),
    ("range(2, 1)", ArgumentError, "range: expected end to lie beyond start"),
    ("Tensor.sum_to_size(X, 3, 2)", TypeCheckError, "expected a size that broadcasts"),
    ("Tensor.__int__(X)", ArgumentError, r"int\(\): expected one element, got f32"),
    ("Tensor.__float__(X)", ArgumentError, r"float\(\): expected one element, got f32"),
    ("empty_permuted((2, 3), (0, 0))", ArgumentError, "expected each of 2 dims once"),
    ("Tensor.float_power_(X, 2)", TypeCheckError, "expected a tensor of float64"),
    ("mvlgamma(X, 0)", ArgumentError, "mvlgamma: expected p >= 1, got 0"),
    ("special.hermite_polynomial_h(X, 1.5)", ArgumentError, "expected n to be an int, got 1.5"),
    ("special.i0(C)", TypeCheckError, "i0: expected real numbers"),
    ("linalg.lu(X, pivot=False)", ArgumentError, "lu: expected pivot=True"),
    ("linalg.lu_factor(X * 0)", RunError, r"lu_factor: a matrix of f32\[2, 2\] is singular"),
    ("linalg.solve_ex(X * 0, X, check_errors=True)", RunError, "is singular"),
    ("linalg.matrix_exp(X[:1])", TypeCheckError, "matrix_exp: expected square matrices"),
    ("linalg.tensorinv(X, 2)", TypeCheckError, "tensorinv: expected the first 2 sizes"),
    ("linalg.tensorsolve(X, X)", TypeCheckError, "tensorsolve: expected A"),
    ("linalg.householder_product(X, X)", TypeCheckError, "expected m >= n >= k"),
    ("linalg.lstsq(X, X, driver='qr')", ArgumentError, "lstsq: expected driver gels"),
    ("linalg.vander(X, N=1)", ArgumentError, "vander: expected N > 1, got 1"),
    ("svd_lowrank(X, 3)", ArgumentError, "svd_lowrank: expected q from 0 to 2, got 3"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refused(call, error, message):
    with pytest.raises(error, match=message) as found:
        eval(f"vtc.{call}", {"vtc": vtc, "X": X, "K": K, "C": C})
    assert "<string>:1" in str(found.value)


def test_addresses_are_not_known_while_tracing():
    with pytest.raises(CaptureError, match=r"data_ptr\(\) of a traced tensor"):
        vtc.compile(lambda x: x * x.data_ptr())(X)
    assert X[1].data_ptr() - X.data_ptr() == 8
    assert X[1].storage_offset() == 2


@pytest.mark.parametrize("name", ["svd_lowrank", "pca_lowrank"])
def test_a_matrix_of_low_rank_is_rebuilt(name):
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(6, 2)) @ rng.normal(size=(2, 9))).astype(np.float32)
    vtc.manual_seed(0)
    u, s, v = getattr(vtc, name)(vtc.tensor(a), 3)
    want = a - a.mean(0) * (name == "pca_lowrank")
    np.testing.assert_allclose(((u * s) @ v.mT).numpy(), want, atol=1e-4)
    np.testing.assert_allclose(s.numpy(), np.linalg.svd(want)[1][:3], atol=1e-4)


def test_as_array_shares_where_it_can():
    array = np.zeros(2, np.float32)
    x = vtc.asarray(array)
    array[0] = 1
    assert x.tolist() == [1, 0]
    assert vtc.asarray(x) is not x
    assert vtc.asarray(x).data_ptr() == x.data_ptr()
    assert vtc.asarray(x, copy=True).data_ptr() != x.data_ptr()
    assert vtc.frombuffer(bytearray(b"\1\0\2\0"), dtype=vtc.int16, offset=2).tolist() == [2]


def test_names_take_out_as_what_they_name():
    out = vtc.zeros(2, 2)
    assert vtc.multiply(X, X, out=out) is out
    assert out.tolist() == (X * X).tolist()


@pytest.mark.parametrize("dtype", [vtc.float32, vtc.float64])
def test_quantiles_are_inverse_far_out(dtype):
    p = vtc.tensor([1e-30, 1e-9, 0.02, 0.4, 0.5, 0.7, 0.999], dtype=dtype)
    got = vtc.special.log_ndtr(vtc.special.ndtri(p))
    rtol = 1e-5 if dtype is vtc.float32 else 1e-12
    np.testing.assert_allclose(got.numpy(), np.log(p.numpy()), rtol)
