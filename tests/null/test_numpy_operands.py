"""NumPy's arrays beside tensors, and tensors that others keep longer than vtc lives."""

import operator
import subprocess
import sys

import numpy as np
import pytest

import vtc

A = np.array([1.0, 2.0, 3.0], np.float32)
OPERATORS = [
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "eq", "ne", "lt", "le",
    "gt", "ge",
]  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_an_array_is_an_operand_on_either_side(name):
    fn, b = getattr(operator, name), np.array([3.0, 2.0, 1.0], np.float32)
    x = vtc.from_numpy(b)
    for found, want in ((fn(A, x), fn(A, b)), (fn(x, A), fn(b, A))):
        assert isinstance(found, vtc.Tensor)
        np.testing.assert_array_equal(found.numpy(), want)


def test_gradients_flow_beside_arrays():
    x = vtc.ones(3, requires_grad=True)
    (A * x + x * A).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0, 6.0]


def test_an_array_that_a_function_holds_is_read_at_each_call():
    a = A.copy()
    f = vtc.compile(lambda x: a * x)
    assert f(vtc.ones(3)).tolist() == [1.0, 2.0, 3.0]
    a[0] = 9.0
    assert f(vtc.ones(3)).tolist() == [9.0, 2.0, 3.0]


def test_what_is_no_number_is_not_equal():
    assert (vtc.ones(2) == "x") is False
    assert (vtc.ones(2) != None) is True  # noqa: E711


def test_memory_given_by_dlpack_outlives_vtc():
    """At exit Python takes vtc apart while NumPy still has an array, whose end would call it."""
    script = (
        "import numpy as np, vtc\n"
        "np.kept = np.from_dlpack(vtc.arange(6.0)), vtc.ones(3).__dlpack__()\n"
        "np.taken = vtc.from_dlpack(np.ones(3))\n"
        "np.loop = [np.kept]; np.loop.append(np.loop)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_as_tensor_shares_memory_through_dlpack():
    class Other:
        def __init__(self, array):
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    array = np.ones(3, np.float32)
    x, y = vtc.as_tensor(Other(array)), vtc.as_tensor(Other(array), dtype=vtc.float64)
    array += 1
    assert x.tolist() == [2.0] * 3
    assert y.tolist() == [1.0] * 3
    assert y.dtype is vtc.float64
