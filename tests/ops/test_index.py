"""Indexing against NumPy's advanced indexing and against torch.gather and scatter."""

from itertools import product

import numpy as np
import pytest
from scalars_in_python import by_targets

from vtc.errors import IndexRangeError, TypeCheckError
from vtc.ir.dims import Sym
from vtc.ir.evaluate import ArrayBuilder
from vtc.ir.ops.block import DynamicSlice, DynamicUpdate, SliceUpdate
from vtc.ir.ops.index import Gather, Index, IndexPut, Scatter, ScatterAdd, Scattering
from vtc.ir.types import DTYPES, TensorType, f32, i64

WRITERS = (IndexPut, Scatter, ScatterAdd)


def run(op, *arrays):
    return ArrayBuilder().apply(op, *map(np.asarray, arrays))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def samples(*classes):
    found = [s for c in classes for s in c.samples(np.random.default_rng(0))]
    return [pytest.param(s, id=f"{i}-{s.op}") for i, s in enumerate(found)]


@pytest.mark.parametrize("sample", samples(*WRITERS))
def test_target_agrees_with_reference(sample):
    want = run(sample.op, *sample.inputs)
    np.testing.assert_allclose(by_targets(sample.op, *sample.inputs), want, rtol=1e-6)


def test_index_is_numpys_where_indexed_axes_are_neighbours():
    x, rng = numbers(4, 3, 5), np.random.default_rng(1)
    for shape in ((), (2,), (2, 3), (0,)):
        i, j, k = (rng.integers(0, n, shape) for n in x.shape)
        np.testing.assert_array_equal(run(Index(axes=(0,)), x, i), x[i])
        np.testing.assert_array_equal(run(Index(axes=(1,)), x, j), x[:, j])
        np.testing.assert_array_equal(run(Index(axes=(2,)), x, k), x[:, :, k])
        np.testing.assert_array_equal(run(Index(axes=(0, 1)), x, i, j), x[i, j])
        np.testing.assert_array_equal(run(Index(axes=(1, 2)), x, j, k), x[:, j, k])
        np.testing.assert_array_equal(run(Index(axes=(0, 1, 2)), x, i, j, k), x[i, j, k])
        # NumPy moves the result of separated indices to the front, where axis 0 is anyway.
        np.testing.assert_array_equal(run(Index(axes=(0, 2)), x, i, k), x[i, :, k])


def test_index_takes_its_place_where_the_first_axis_was():
    x = numbers(2, 3, 4, 5)
    j, m = np.array([0, 2, 1]), np.array([4, 4, 0])
    found = run(Index(axes=(1, 3)), x, j, m)
    assert found.shape == (2, 3, 4)
    for a, s, c in np.ndindex(*found.shape):
        assert found[a, s, c] == x[a, j[s], c, m[s]]


def test_index_put_is_numpys():
    x, i, k = numbers(4, 3, 5), np.array([1, 3]), np.array([4, 0])
    want, values = x.copy(), numbers(2, 3, seed=1)
    want[i, :, k] = values
    found = run(IndexPut(axes=(0, 2), accumulate=False), x, values, i, k)
    np.testing.assert_array_equal(found, want)
    want = x.copy()
    np.add.at(want, (i, slice(None), k), values)
    found = run(IndexPut(axes=(0, 2), accumulate=True), x, values, i, k)
    np.testing.assert_array_equal(found, want)


def test_the_last_write_wins_whatever_the_strides():
    i = np.array([[0, 1, 0], [1, 0, 1]])
    values = np.arange(6.0).reshape(2, 3)
    for index, value in ((i, values), (np.asfortranarray(i), np.asfortranarray(values))):
        found = run(IndexPut(axes=(0,), accumulate=False), np.zeros(2), value, index)
        np.testing.assert_array_equal(found, [4, 5])
    found = run(Scatter(axis=1), np.zeros((1, 2)), np.array([[0, 1, 0]]), np.array([[1.0, 2, 3]]))
    np.testing.assert_array_equal(found, [[3, 2]])


def test_adding_in_low_precision_rounds_once():
    one = np.ones(1000).astype(DTYPES["bf16"].numpy)
    index = np.zeros(1000, np.int64)
    assert run(ScatterAdd(axis=0), one[:1] * 0, index, one)[0] == 1000
    assert run(IndexPut(axes=(0,), accumulate=True), one[:1] * 0, one, index)[0] == 1000


def test_integers_wrap():
    x, ones = np.zeros(1, np.uint8), np.full(300, 1, np.uint8)
    assert run(ScatterAdd(axis=0), x, np.zeros(300, np.int64), ones)[0] == 300 % 256


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_and_scatter_are_torchs(axis):
    torch = pytest.importorskip("torch")
    rng, x = np.random.default_rng(axis), numbers(3, 4, 5)
    for sizes in product((1, 3), repeat=3):
        index = np.stack([rng.permutation(x.shape[axis])[:3] for _ in range(9)], axis=-1)
        index = np.moveaxis(index.reshape(3, 3, 3), 0, axis)[tuple(map(slice, sizes))].copy()
        src = numbers(*index.shape, seed=2)
        t, i, s = map(torch.from_numpy, (x, index, src))
        np.testing.assert_array_equal(run(Gather(axis=axis), x, index), t.gather(axis, i))
        np.testing.assert_array_equal(run(Scatter(axis=axis), x, index, src), t.scatter(axis, i, s))
        twice = rng.integers(0, 2, index.shape)
        want = t.scatter_add(axis, torch.from_numpy(twice), s)
        np.testing.assert_allclose(run(ScatterAdd(axis=axis), x, twice, src), want, rtol=1e-6)


@pytest.mark.parametrize("starts", [(-5, 1), (0, 0), (2, 9), (3, 2)])
def test_dynamic_slices_are_clamped(starts):
    x, value = numbers(4, 5), numbers(2, 3, seed=1)
    a, b = min(max(starts[0], 0), 2), min(max(starts[1], 0), 2)
    np.testing.assert_array_equal(
        run(DynamicSlice(sizes=(2, 3)), x, *starts), x[a : a + 2, b : b + 3]
    )
    want = x.copy()
    want[a : a + 2, b : b + 3] = value
    np.testing.assert_array_equal(run(DynamicUpdate(), x, value, *starts), want)


def test_slice_update_is_numpys():
    x, value = numbers(7, 6), numbers(3, 2, seed=1)
    want = x.copy()
    want[1::3, 0:4:2][:2] = value[:2]
    found = run(SliceUpdate(starts=(1, 0), steps=(3, 2)), x, value[:2])
    np.testing.assert_array_equal(found, want)


OUTSIDE = (
    (
        Index(axes=(1,)),
        (numbers(2, 3), [0, 3]),
        "index: expected 0 <= index < 3 along axis 1, got 3",
    ),
    (
        Index(axes=(0,)),
        (numbers(2, 3), [-1]),
        "index: expected 0 <= index < 2 along axis 0, got -1",
    ),
    (Gather(axis=0), (numbers(2), [2]), "gather: expected 0 <= index < 2 along axis 0, got 2"),
    (Scatter(axis=0), (numbers(2), [5], numbers(1)), "scatter: expected 0 <= index < 2"),
    (ScatterAdd(axis=0), (numbers(2), [-2], numbers(1)), "scatter_add: expected 0 <= index < 2"),
    (
        IndexPut(axes=(0,), accumulate=True),
        (numbers(2), numbers(1), [2]),
        "index_put: expected 0 <= index < 2 along axis 0, got 2",
    ),
)


@pytest.mark.parametrize(("op", "arrays", "message"), OUTSIDE)
def test_outside_is_an_error(op, arrays, message):
    with pytest.raises(IndexRangeError, match=message):
        run(op, *arrays)


X, I2, ZERO = TensorType(f32, (4, 3)), TensorType(i64, (2,)), TensorType(i64, ())
ILL_TYPED = (
    (Index(axes=(2,)), (X, I2), r"index: expected sorted axes of f32\[4, 3\], got \(2,\)"),
    (Index(axes=(1, 0)), (X, I2, I2), "index: expected sorted axes"),
    (Index(axes=()), (X,), "index: expected sorted axes"),
    (Index(axes=(0,)), (X, I2, I2), "index: expected 1 indices, got 2"),
    (Index(axes=(0,)), (X, X), r"index: expected indices of i64 or i32, got f32\[4, 3\]"),
    (Index(axes=(0, 1)), (X, I2, ZERO), r"index: expected indices of one shape, got i64\[2\]"),
    (IndexPut((0,), False), (X, X, I2), r"index_put: expected values of type f32\[2, 3\]"),
    (Gather(axis=0), (X, I2), "gather: expected an index no larger than"),
    (Gather(axis=1), (X, TensorType(i64, (5, 3))), "gather: expected an index no larger than"),
    (Scatter(axis=2), (X, X.with_dtype(i64), X), "scatter: expected an axis of"),
    (ScatterAdd(axis=0), (X, X.with_dtype(i64), I2), "scatter_add: expected a source of type"),
    (DynamicSlice(sizes=(5, 1)), (X, ZERO, ZERO), "dynamic_slice: expected a block inside"),
    (DynamicSlice(sizes=(1, 1)), (X, ZERO), "dynamic_slice: expected 2 starts for"),
    (DynamicSlice(sizes=(1, 1)), (X, ZERO, I2), "dynamic_slice: expected 0-d starts"),
    (
        DynamicUpdate(),
        (X, X.with_dtype(i64), ZERO, ZERO),
        "dynamic_update: expected a value of f32",
    ),
    (
        SliceUpdate((1, 0), (1, 1)),
        (X, X),
        r"expected a slice inside f32\[4, 3\], got \[1:5\] along",
    ),
    (SliceUpdate((0, 0), (0, 1)), (X, X), "slice_update: expected steps >= 1"),
)


@pytest.mark.parametrize(("op", "types", "message"), ILL_TYPED)
def test_ill_typed(op, types, message):
    with pytest.raises(TypeCheckError, match=message):
        op.infer(*types)


def test_adding_booleans_is_refused():
    flag = TensorType(DTYPES["bool"], (2,))
    with pytest.raises(TypeCheckError, match="scatter_add: expected numbers to accumulate"):
        ScatterAdd(axis=0).infer(flag, I2, flag)


def test_symbolic_sizes():
    n = Sym.var("N")
    x, index = TensorType(f32, (n, 3)), TensorType(i64, (n + 1,))
    assert Index(axes=(0,)).infer(x, index) == TensorType(f32, (n + 1, 3))
    assert SliceUpdate((0, 0), (2, 1)).infer(x, TensorType(f32, (n // 2, 3))) == x
    assert DynamicSlice(sizes=(n, 1)).infer(x, ZERO, ZERO) == TensorType(f32, (n, 1))
    assert all(issubclass(c, Scattering) for c in WRITERS)
