"""``x[key]`` and ``x[key] = value``, eager and compiled, against NumPy and torch."""

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, CaptureError, IndexRangeError, TypeCheckError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4)).astype(np.float32)
NAMES = {
    "M": RNG.random((3, 4)) < 0.5,
    "R": np.array([True, False, True]),
    "C": np.array([True, False, True, True]),
    "I": np.array([0, 2]),
    "J": np.array([[0, 1], [3, -1]]),
    "Z": np.array(1),
}
ALL = slice(None)
PLAIN = [
    "1", "-1", "(1, 2)", "slice(1, None)", "(ALL, slice(0, 3, 2))", "(..., 0)", "None", "(0, None)",
    "...", "[0, 2]", "(ALL, [1, 1])", "([0, 2], [1, 3])", "([2, 0], slice(1, 3))", "True", "False",
    "(slice(1, 3), None, [0, 3])", "([0, 2], None, [1, 3])", "I", "(I, slice(None, 2))", "Z",
    "(ALL, J, None)", "(Z, ALL)", "(slice(0, 2), Z)", "[True, False, True]",
]  # fmt: skip
TURNED = [  # which PyTorch does not have
    "slice(None, None, -1)", "(1, slice(3, 0, -2))", "(slice(None, 0, -1), None, [0, 3])",
    "(slice(0, 2, -1), 1)",
]  # fmt: skip
MASKED = ["M", "R", "(ALL, C)", "(R, 1)", "(R, slice(1, 3))"]


def key(text, make):
    return eval(text, {"ALL": ALL}, {name: make(a) for name, a in NAMES.items()})


def assign(text, value):
    def fn(x, value, names):
        y = x.clone()
        y[eval(text, {"ALL": ALL}, dict(names))] = value
        return y

    return fn, {name: vtc.tensor(a) for name, a in NAMES.items()}, value


def values(text):
    """A number, the shape of the place, one of lower rank, and one with a size of 1 in front."""
    shape = X[key(text, lambda a: a)].shape
    yield 2.5
    for s in (shape, shape[1:], (1, *shape), ()):
        yield RNG.normal(size=s).astype(np.float32)


def without_front(value, place):
    extra = np.ndim(value) - place.ndim
    return value.reshape(value.shape[extra:]) if extra > 0 else value


@pytest.mark.parametrize("text", PLAIN + MASKED + TURNED)
def test_set_eagerly(text):
    for value in values(text):
        place = key(text, lambda a: a)
        want = X.copy()
        want[place] = without_front(value, X[place])
        fn, names, _ = assign(text, value)
        mine = value if isinstance(value, float) else vtc.tensor(value)
        np.testing.assert_array_equal(fn(vtc.tensor(X), mine, names).numpy(), want)


@pytest.mark.parametrize("text", TURNED)
def test_get_turned(text):
    x = vtc.tensor(X).requires_grad_()
    want = X[key(text, lambda a: a)]
    for get in (lambda x: x[eval(text, {"ALL": ALL})], vtc.compile(lambda x: x[eval(text)])):
        got = get(x)
        np.testing.assert_array_equal(got.detach().numpy(), want)
        x.grad = None
        (got * vtc.tensor(want)).sum().backward()
        seen = np.zeros_like(X)
        seen[key(text, lambda a: a)] = want
        np.testing.assert_array_equal(x.grad.numpy(), seen)


@pytest.mark.parametrize("text", PLAIN + TURNED)
def test_set_compiled(text):
    for value in values(text):
        fn, names, _ = assign(text, value)
        mine = value if isinstance(value, float) else vtc.tensor(value)
        want = fn(vtc.tensor(X), mine, names)
        got = vtc.compile(fn)(vtc.tensor(X), mine, names)
        np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("text", MASKED)
def test_set_where_a_mask_is_true_compiled(text):
    fn, names, _ = assign(text, 2.5)
    want = fn(vtc.tensor(X), 2.5, names)
    got = vtc.compile(fn)(vtc.tensor(X), 2.5, names)
    np.testing.assert_array_equal(got.numpy(), want.numpy())
    with pytest.raises(CaptureError, match=r"use vtc.where\(mask, value, x\)"):
        vtc.compile(fn)(vtc.tensor(X), vtc.tensor(X[key(text, lambda a: a)]), names)


@pytest.mark.parametrize("text", PLAIN + MASKED)
def test_gradients_of_setting_as_torch(text):
    torch = pytest.importorskip("torch")
    weight = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    for value in values(text):
        pair = []
        for lib in (torch, vtc):
            x, w = lib.tensor(X, requires_grad=True), lib.tensor(weight)
            v = lib.tensor(value, requires_grad=True)
            y = x.clone()
            y[key(text, lib.tensor)] = v
            (y * w + x.sum() + v.sum()).sum().backward()
            pair.append((y.detach().numpy(), x.grad.numpy(), v.grad.numpy()))
        for want, got in zip(*pair, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_setting_writes_through_views():
    x = vtc.zeros(3, 4)
    x.t()[1, 1:] = 7
    x[2][0] = 5
    want = np.zeros((3, 4), np.float32)
    want[1:, 1], want[2, 0] = 7, 5
    np.testing.assert_array_equal(x.numpy(), want)


def test_basic_keys_show_the_same_memory():
    x = vtc.zeros(3, 4)
    for view in (x[1], x[1:, ::2], x[None, :, 2]):
        view.fill_(1)
    assert x.tolist() == [[0, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0]]
    x[...].fill_(2)
    assert x.tolist() == [[2] * 4] * 3


def test_a_nested_list_is_one_index():
    """As in NumPy, and as PyTorch announces; 2.13 still reads it as a tuple, and warns."""
    rows = [[0, 1], [1, 2]]
    for fn in (lambda x: x[rows], vtc.compile(lambda x: x[rows])):
        np.testing.assert_array_equal(fn(vtc.tensor(X)).numpy(), X[np.array(rows)])


def test_numbers_too_large_are_infinite_without_a_warning():
    x = vtc.zeros(2)
    x[:] = [1e39, -1e39]
    assert x.tolist() == vtc.tensor([1e39, -1e39]).tolist() == [float("inf"), float("-inf")]


def test_a_0d_tensor_selects_in_a_compiled_function():
    cache, new = vtc.zeros(2, 5, 3), vtc.randn(2, 3)

    @vtc.compile
    def step(cache, pos, new):
        cache[:, pos] = new
        return cache[:, pos], cache[1, pos, 1:]

    for at in (0, 3, 4):
        row, part = step(cache, vtc.tensor(at), new)
        np.testing.assert_array_equal(row.numpy(), new.numpy())
        np.testing.assert_array_equal(part.numpy(), new.numpy()[1, 1:])
        np.testing.assert_array_equal(cache.numpy()[:, at], new.numpy())


def test_a_cache_by_index_copy():
    cache, k = vtc.zeros(1, 2, 6, 3), vtc.randn(1, 2, 2, 3)
    vtc.compile(lambda c, at, k: c.index_copy_(2, at, k))(cache, vtc.tensor([4, 1]), k)
    np.testing.assert_array_equal(cache.numpy()[:, :, [4, 1]], k.numpy())


def test_blocks_move_to_fit():
    x = vtc.arange(10)
    assert vtc.dynamic_slice(x, [8], [4]).tolist() == [6, 7, 8, 9]
    assert vtc.dynamic_update(x, vtc.zeros(2), [vtc.tensor(9)]).tolist() == [*range(8), 0, 0]
    assert x.narrow(0, vtc.tensor(3), 2).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        (lambda x: x[3], IndexRangeError, r"index 3 is out of range for dim 0 of size 3"),
        (lambda x: x[0, -5], IndexRangeError, r"index -5 is out of range for dim 1 of size 4"),
        (lambda x: x[[0, 3]], IndexRangeError, r"index: expected 0 <= index < 3 along axis 0"),
        (lambda x: x[0, 0, 0], IndexRangeError, r"too many indices for f32\[3, 4\]: .* got 3"),
        (lambda x: x[..., ...], IndexRangeError, r"expected one Ellipsis"),
        (lambda x: x[::0], ArgumentError, r"slice: expected a step other than 0, got 0"),
        (lambda x: x[1.5], ArgumentError, r"an index may hold ints, slices.*, got float 1.5"),
        (lambda x: x["a"], ArgumentError, r"an index may hold ints, slices.*, got str 'a'"),
        (lambda x: x[[0.5]], TypeCheckError, r"must be of ints or bools, got float64"),
        (lambda x: x[vtc.tensor([0.5])], TypeCheckError, r"integers or bool, got f32\[1\]"),
        (lambda x: x[[True]], IndexRangeError, r"a mask of shape \[1\] does not match dims \[3\]"),
        (lambda x: x[0:1.5], ArgumentError, r"slice: expected ints or None, got 1.5"),
        (lambda x: x[[0, 1], [0, 1, 2]], TypeCheckError, r"index: sizes 2 and 3 do not match"),
    ],
)
def test_errors(read, error, message):
    with pytest.raises(error, match=message) as caught:
        read(vtc.zeros(3, 4))
    assert "test_subscript.py" in str(caught.value)
    if error is IndexRangeError:
        assert isinstance(caught.value, IndexError)


def test_a_value_that_does_not_fit():
    with pytest.raises(TypeCheckError, match=r"setitem: f32\[3\] cannot be expanded to f32\[4\]"):
        vtc.zeros(3, 4)[0] = vtc.zeros(3)


def test_what_has_no_fixed_size_in_a_compiled_function():
    x, mask, pos = vtc.zeros(3, 4), vtc.tensor([True, False, True]), vtc.tensor(1)
    for fn in (lambda x, m, p: x[m], lambda x, m, p: x.masked_select(m[:, None])):
        with pytest.raises(CaptureError, match=r"use vtc.where\(mask, x, other\)"):
            vtc.compile(fn)(x, mask, pos)
    with pytest.raises(CaptureError, match=r"use vtc.dynamic_slice\(x, starts, sizes\)"):
        vtc.compile(lambda x, m, p: x[p : p + 1])(x, mask, pos)
    assert x[pos : pos + 1].shape == (1, 4)
