"""Random fills: moments, supports, bounds, and the same bits compiled."""

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, TypeCheckError
from vtc.nn.functional import gumbel_softmax

COUNT = 40000
# call, quantiles 0.25, 0.5, 0.75
FILLS = (
    ("exponential_(2.0)", -np.log([0.75, 0.5, 0.25]) / 2),
    ("log_normal_(0.5, 0.25)", np.exp(0.5 + 0.25 * np.array([-0.67449, 0, 0.67449]))),
    ("cauchy_(1.0, 2.0)", 1 + 2 * np.array([-1.0, 0, 1])),
    ("geometric_(0.1)", [3, 7, 14]),
    ("random_(0, 101)", [25, 50, 75]),
)


def filled(call, dtype=vtc.float32, count=COUNT):
    words = {"x": vtc.zeros(count, dtype=dtype), "g": vtc.Generator().manual_seed(7)}
    return eval(f"x.{call[:-1]}, generator=g)", {}, words)


@pytest.mark.parametrize(("call", "quantiles"), FILLS)
@pytest.mark.parametrize("dtype", [vtc.float32, vtc.float64, vtc.bfloat16], ids=str)
def test_quantiles(call, quantiles, dtype):
    x = filled(call, dtype).double().numpy()
    assert np.isfinite(x).all()
    np.testing.assert_allclose(np.quantile(x, [0.25, 0.5, 0.75]), quantiles, rtol=0.06, atol=0.04)


def test_gumbel_softmax_draws_classes():
    logits = vtc.tensor([1.0, 0.0, -1.0]).expand(COUNT, 3)
    g = vtc.Generator().manual_seed(5)
    hard = gumbel_softmax(logits, hard=True, generator=g)
    np.testing.assert_allclose(hard.mean(0).numpy(), logits[0].softmax(0).numpy(), atol=0.01)
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    soft = gumbel_softmax(logits[:9], 0.5, generator=g)
    np.testing.assert_allclose(soft.sum(1).numpy(), 1, rtol=1e-6)


def test_supports():
    assert (filled("exponential_(1.0)").numpy() >= 0).all()
    assert filled("geometric_(0.9)").numpy().min() == 1
    assert set(filled("random_(-1, 2)", vtc.int8).tolist()) == {-1, 0, 1}
    assert set(filled("random_(3)", vtc.int64).tolist()) == {0, 1, 2}
    assert set(vtc.zeros(99, dtype=vtc.bool).random_().tolist()) == {False, True}
    u = vtc.zeros(COUNT, dtype=vtc.uint8).random_().numpy()
    assert (u.min(), u.max()) == (0, 255)


@pytest.mark.parametrize(
    "call", [*(c for c, _ in FILLS), "uniform_(0.1, 0.8)", "normal_(0.2, 1.7)", "multinomial(5)"]
)
def test_compiled_as_eager_to_the_bit(call):
    def fill(x, g):
        return eval(f"x.{call[:-1]}, generator=g)", {}, {"x": x, "g": g})

    g = vtc.Generator().manual_seed(3)
    want = fill(vtc.ones(4096), vtc.Generator().manual_seed(3)).numpy()
    got = vtc.compile(lambda x: fill(x, g))(vtc.ones(4096)).numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("exponential_(0)", ArgumentError, "expected lambd > 0, got 0"),
        ("geometric_(1.5)", ArgumentError, "expected 0 < p < 1, got 1.5"),
        ("log_normal_(0, -1)", ArgumentError, "expected std > 0, got -1"),
        ("cauchy_(0, 0)", ArgumentError, "expected sigma > 0, got 0"),
        ("random_(4, 4)", ArgumentError, "expected low < high, got 4 and 4"),
        ("long().cauchy_()", TypeCheckError, "expected a floating-point tensor"),
        ("bool().exponential_()", TypeCheckError, "expected real numbers"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        eval(f"x.{call}", {"x": vtc.zeros(3)})
