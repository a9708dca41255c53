"""In-place writes where memory is seen twice, and tensors that must not share memory."""

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, TypeCheckError


def windows(flat):
    return np.lib.stride_tricks.sliding_window_view(flat, 4, writeable=True)[::2]


def strides(flat):
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat[1:], (5, 4), (4 * step, 2 * step))


def write_windows(v):
    v[0] = 1.0
    v[3, 1] = 9.0
    v[2:4, :2] *= 3.0


def write_strides(v):
    v[1] += 100.0
    v[:, 3] *= -1.0


def write_repeated(v):
    v[1] += 1.0
    v[0, 2, 3] = 50.0


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("view", "write", "shown"),
    [
        (lambda x: x.view(-1).unfold(0, 4, 2), write_windows, lambda a: windows(a.ravel())),
        (lambda x: vtc.as_strided(x, (5, 4), (4, 2), 1), write_strides, lambda a: strides(a[0])),
        (
            lambda x: x.expand(2, 4, 6),
            write_repeated,
            lambda a: np.lib.stride_tricks.as_strided(a, (2, 4, 6), (0, *a.strides)),
        ),
    ],
    ids=["unfold", "as_strided", "expand"],
)
def test_a_write_to_a_part_of_an_overlapping_view_changes_that_part_alone(view, write, shown, wrap):
    def fn(x):
        v = view(x)
        write(v)
        return v

    x, a = vtc.arange(24.0).reshape(4, 6).clone(), np.arange(24, dtype=np.float32).reshape(4, 6)
    v, want = wrap(fn)(x), shown(a)
    write(want)
    np.testing.assert_array_equal(x.numpy(), a)
    np.testing.assert_array_equal(v.numpy(), want)


def test_gradients_of_such_writes_agree():
    def step(a):
        y = a * 2
        v = y.view(-1).unfold(0, 4, 2)
        v[1] = y[0, :4].clone() ** 2
        v[3].mul_(3.0)
        return (y**2).sum()

    found = []
    for fn in (vtc.grad(step), vtc.compile(vtc.grad(step))):
        found.append(fn(vtc.arange(24.0).reshape(4, 6)).numpy())
    np.testing.assert_array_equal(*found)
    assert found[0][3, 5] == 8 * 23  # what no write touches: (2 a)^2
    assert found[0][1, 1] == 72 * 7  # (3 * 2 a)^2


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_a_write_to_one_place_several_times_is_refused(wrap):
    with pytest.raises(TypeCheckError, match="more than one element of the tensor shares"):
        wrap(lambda x: x[:1].expand(4, 6)[1:3].add_(1.0))(vtc.ones(4, 6))


def test_a_write_to_a_read_only_array_says_so():
    a = np.ones(3)
    a.setflags(write=False)
    with pytest.raises(TypeCheckError, match="may be written, got a read-only array"):
        vtc.from_numpy(a).add_(1)


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_to_makes_a_copy_where_it_is_asked_to(wrap):
    x = vtc.ones(3)
    for copied in (lambda x: x.to(vtc.float32, copy=True), lambda x: x.to("cpu", False, True)):
        wrap(lambda x, copied=copied: copied(x).zero_())(x)
    assert x.tolist() == [1.0] * 3
    wrap(lambda x: x.to(vtc.float32).zero_())(x)
    assert x.tolist() == [0.0] * 3
    with pytest.raises(ArgumentError, match=r"to\(\): unknown argument 'dytpe'"):
        x.to(dytpe=vtc.float64)


@pytest.mark.parametrize("wrap", [lambda f: f, vtc.compile], ids=["eager", "compiled"])
def test_a_view_never_copies(wrap):
    with pytest.raises(TypeCheckError, match=r"view: f32\[3, 2\] is not laid out as f32\[6\]"):
        wrap(lambda x: x.t().view(-1))(vtc.ones(2, 3))
