"""The CTC loss beside PyTorch's: lengths of any kind, targets that nothing fits, bad input."""

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc.errors import ArgumentError, TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

X = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
Y = np.array([[1, 1, 2], [3, 4, 0], [2, 0, 0]])


def run(T, y, times, counts, x=X, **options):
    """The losses, and the gradient of the scores."""
    scores = T.tensor(x).requires_grad_()
    lengths = [T.tensor(n) if isinstance(n, np.ndarray) else n for n in (times, counts)]
    loss = T.nn.functional.ctc_loss(scores.log_softmax(-1), T.tensor(y), *lengths, **options)
    (loss * loss).sum().backward()
    return loss.detach().numpy(), scores.grad.numpy()


@pytest.mark.parametrize(
    ("y", "times", "counts", "options"),
    [
        (Y, (7, 5, 1), (3, 2, 1), {}),
        (Y, np.array([7, 5, 4]), np.array([2, 2, 0]), {"reduction": "none"}),
        (
            Y.astype(np.int32),
            np.array([4, 5, 6], np.int32),
            np.array([3, 2, 1]),
            {"reduction": "sum"},
        ),
        (np.array([0, 1, 3, 0, 0]), np.array([7, 7, 7]), np.array([2, 1, 2]), {"blank": 4}),
        (Y, (3, 7, 7), (3, 2, 1), {"zero_infinity": True, "reduction": "none"}),
        (Y[:, :0], (7, 6, 1), (0, 0, 0), {"reduction": "none"}),
        (Y, (7, 5, 1), (3, 2, 1), {"x": X.astype(np.float64)}),
    ],
)
def test_ctc_loss(y, times, counts, options):
    got, want = (run(T, y, times, counts, **options) for T in (vtc, torch))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, 2e-4, 2e-5)


def test_what_nothing_fits():
    short, whole = (run(vtc, Y, (n, 7, 7), (3, 2, 1), reduction="none") for n in (3, 7))
    want, _ = run(torch, Y, (3, 7, 7), (3, 2, 1), reduction="none")
    np.testing.assert_allclose(short[0], want, 2e-4)
    assert np.isinf(short[0][0])
    np.testing.assert_allclose(short[1][:, 1:], whole[1][:, 1:], 1e-6)
    one = X[:1, :, :]
    a, b = (run(T, Y, (1, 1, 0), (1, 0, 0), x=one, reduction="none")[0] for T in (vtc, torch))
    np.testing.assert_allclose(a, b, 2e-4)


def test_lengths_that_a_trace_does_not_know():
    def loss(x, y, times, counts):
        return vtc.grad(lambda v: F.ctc_loss(v.log_softmax(-1), y, times, counts, reduction="sum"))(
            x
        )

    compiled = vtc.compile(loss)
    for times, counts in (((7, 5, 1), (3, 2, 1)), ((6, 7, 4), (1, 0, 1))):
        given = [vtc.tensor(a) for a in (X, Y, np.array(times), np.array(counts))]
        np.testing.assert_allclose(compiled(*given).numpy(), loss(*given).numpy(), 1e-4, 1e-5)
    assert len(compiled.entries) == 1


def test_what_ctc_loss_refuses():
    x, y = vtc.tensor(X), vtc.tensor(Y)
    wrong = [
        ((x[0, 0], y, (7,), (3,)), TypeCheckError, r"expected \[T, N, C\] or \[T, C\]"),
        ((x, y, (7, 7), (3, 2, 1)), TypeCheckError, "expected 3 input_lengths"),
        ((x, y, (8, 7, 7), (3, 2, 1)), ArgumentError, r"expected input_lengths in \[0, 7\]"),
        ((x, y, (7, 7, 7), (4, 2, 1)), ArgumentError, "expected targets for 3 lengths of"),
        ((x, y, (7, 7, 7), (3, -1, 1)), ArgumentError, "expected target_lengths at least 0"),
        ((x, x, (7, 7, 7), (3, 2, 1)), TypeCheckError, "expected integer targets"),
        ((x, y, (7, 7, 7), (3, 2, 1), 5), TypeCheckError, "with blank=5 below C"),
    ]
    for args, kind, message in wrong:
        with pytest.raises(kind, match=f"ctc_loss: .*{message}"):
            F.ctc_loss(*args)
