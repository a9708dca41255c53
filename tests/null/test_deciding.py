"""Floats among the arguments: inputs, unless the code decides by them."""

import math

import pytest

import vtc
from vtc.errors import CaptureError


def sample(x, temperature, p=1.0):
    if temperature == 0:
        return x.argmax(-1)
    y = (x / temperature).softmax(-1)
    return vtc.where(y < p * y.amax(), 0.0, y) if p < 1 else y


def test_a_float_that_decides_is_guarded_by_value():
    f, x = vtc.compile(sample), vtc.tensor([1.0, 2.0, 3.0])
    calls = [(0.0,), (1.5,), (1.5,), (1.5,), (2.0, 0.5), (2.0, 0.5), (2.0, 0.5), (0.0,), (-0.0,)]
    for given in calls:
        y, want = f(x, *given), sample(x, *given)
        assert (y.dtype, y.shape) == (want.dtype, want.shape)
        assert vtc.allclose(y.float(), want.float())
    assert len(f.entries) == 4
    assert "argument 1 was float 0.0, is float 1.5" in f.explain()


def test_nan_is_the_value_of_one_program():
    f = vtc.compile(lambda x, s: x * 2 if math.isnan(s) else x)
    for s in (float("nan"), float("nan"), float("nan"), 1.0):
        assert f(vtc.ones(1), s).item() == (2 if math.isnan(s) else 1)
    assert len(f.entries) == 2


def test_a_float_that_does_not_decide_has_one_program():
    f = vtc.compile(lambda x, s: (x * s, s + 1))
    for s in (1.0, 2.0, 3.0):
        assert f(vtc.ones(1), s)[1] == s + 1
    assert len(f.entries) == 1


@pytest.mark.parametrize(
    ("fn", "large", "small"),
    [
        (lambda x, s: vtc.vmap(lambda v: v * 2 if s > 1 else v)(x), 6, 3),
        (lambda x, s: vtc.scan(lambda c, v: (c + (v if s > 1 else -v), None), 0.0, x)[0], 3, -3),
    ],
    ids=["vmap", "scan"],
)
def test_a_float_decides_inside_other_traces(fn, large, small):
    f, x = vtc.compile(fn), vtc.ones(3)
    assert (f(x, 2.0).sum().item(), f(x, 0.5).sum().item()) == (large, small)


def test_what_a_tensor_has_a_part_in_cannot_decide():
    f = vtc.compile(lambda x, s: x if (x.sum() * s) > 0 else -x)
    with pytest.raises(CaptureError, match="a branch on data"):
        f(vtc.ones(2), 1.5)
