"""One-op programs for all sizes: every op's samples, laid out in several ways, against the op."""

import numpy as np
import pytest

import vtc  # noqa: F401  # fills the registry
from vtc.errors import TypeCheckError
from vtc.frontend.single import Layout, order_of, program, static, steps, symbolic
from vtc.ir.evaluate import compute, evaluate
from vtc.ir.op import REGISTRY
from vtc.ir.ops.contract import Matmul
from vtc.ir.ops.elementwise import Add
from vtc.ir.ops.random import Uniform
from vtc.ir.types import TensorType, dtype_of, f32

LAYOUTS = ("dense", "transposed", "repeated")


def laid_out(array, how):
    """Equal elements elsewhere (``repeated``: those of the first row, in every row)."""
    if how == "transposed" and array.ndim:
        return np.ascontiguousarray(array.T).T
    if how == "repeated" and array.ndim and array.shape[0] > 1:
        return np.broadcast_to(array[:1], array.shape)
    return array


def layout(array):
    order = order_of(array.shape, array.strides, array.itemsize)
    return Layout(dtype_of(array.dtype), array.shape, order)


def in_memory_order(array, shape):
    order = order_of(array.shape, array.strides, array.itemsize)
    core = array[tuple(slice(None) if a in order else 0 for a in range(array.ndim))]
    kept = sorted(order)
    return core.transpose([kept.index(a) for a in order]).reshape(shape)


def outputs(fit, arrays):
    given = [in_memory_order(a, s) for a, s in zip(arrays, fit.shapes, strict=True)]
    return evaluate(program(fit.form), *given, *(np.empty((0, n), np.uint8) for n in fit.hidden))


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_form_means_what_the_op_means(name, how):
    for sample in REGISTRY[name].samples(np.random.default_rng(0)):
        arrays = [laid_out(a, how) for a in sample.inputs]
        type = sample.op.infer(*map(TensorType.of, arrays))
        want = compute(sample.op, arrays, type)
        want = want if isinstance(want, tuple) else (want,)
        layouts = [layout(a) for a in arrays]
        try:
            found = outputs(symbolic(sample.op, layouts), arrays)
        except TypeCheckError:
            found = outputs(static(sample.op, layouts), arrays)
        for w, f in zip(want, found, strict=True):
            np.testing.assert_array_equal(w, np.reshape(f, w.shape))


def forms(op, *arrays):
    return symbolic(op, [layout(a) for a in arrays]).form


def test_neighbouring_axes_that_step_alike_are_one():
    x, y = np.zeros((4, 5, 6)), np.zeros((2, 3))
    assert forms(Add(), x, x) == forms(Add(), y, y)
    assert forms(Add(), x, x) != forms(Add(), x, np.broadcast_to(np.zeros(6), x.shape))
    assert forms(Add(), x.T, x.T) != forms(Add(), x.T, np.zeros((6, 5, 4)))


def test_rows_of_equal_length_repeated_or_not():
    a, b = np.zeros((4, 5)), np.broadcast_to(np.zeros(5), (4, 5))
    fit = symbolic(Add(), [layout(a), layout(b)])
    assert fit.shapes == ((4, 5), (5,))
    assert fit.form == forms(Add(), np.zeros((9, 7)), np.broadcast_to(np.zeros(7), (9, 7)))


def test_a_product_whose_sizes_agree_by_chance_is_the_same_program():
    square = np.zeros((8, 8))
    assert forms(Matmul(), square, square) == forms(Matmul(), np.zeros((3, 4)), np.zeros((4, 5)))


def test_what_is_drawn_has_a_hidden_size():
    state = np.zeros(2, np.int64)
    fit = symbolic(Uniform(shape=(4, 5), dtype=f32, offset=0), [layout(state)])
    assert fit.hidden == (20,)
    assert fit.shapes == ((2,),)


def test_what_is_not_dense_has_no_order():
    x = np.zeros((6, 8))
    assert order_of((6, 4), x[:, ::2].strides, 8) is None
    assert order_of((8, 6), x.T.strides, 8) == (1, 0)
    assert steps((3, 6, 1), (0, 8, 8)) == (1,)
