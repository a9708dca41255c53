"""Arguments that are not what a function takes, and what comes back beside a gradient."""

import numpy as np
import pytest

import vtc
from vtc import func
from vtc.errors import ArgumentError


class Tensor:
    """A tensor of another library."""

    __module__ = "other.tensors"
    __array__ = None


def product(p, x):
    return (p * x).sum()


@pytest.mark.parametrize("argnums", [2, -3, "p", (0, 2)])
@pytest.mark.parametrize("transform", [func.grad, func.value_and_grad, func.jacrev, func.jacfwd])
def test_arguments_that_are_not_there(transform, argnums):
    x = vtc.ones(2)
    with pytest.raises(ArgumentError, match="argnums: expected numbers of 2 positional arguments"):
        transform(product, argnums)(x, x)


def test_arguments_counted_from_the_end():
    p, x = vtc.tensor([1.0, 2.0]), vtc.tensor([3.0, 4.0])
    assert func.grad(product, -1)(p, x).tolist() == [1.0, 2.0]
    assert func.jacrev(product, -2)(p, x).tolist() == [3.0, 4.0]


def test_what_comes_beside_a_gradient_has_no_history():
    found, kept = func.grad(lambda p: (p.sum(), {"twice": p * 2, "n": 3}), has_aux=True)(
        vtc.ones(2)
    )
    assert found.tolist() == [1.0, 1.0]
    assert kept["twice"].tolist() == [2.0, 2.0]
    assert not kept["twice"].requires_grad
    assert kept["n"] == 3


def test_what_comes_beside_a_gradient_of_a_leaf_keeps_its_history():
    w = vtc.ones(2, requires_grad=True)
    _, kept = func.grad(lambda p: ((p * w).sum(), p * w), has_aux=True)(vtc.ones(2))
    kept.sum().backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_a_tensor_of_another_library_is_named():
    with pytest.raises(ArgumentError, match=r"got other\.Tensor; use vtc\.as_tensor"):
        vtc.relu(Tensor())
    with pytest.raises(ArgumentError, match=r"got \[other\.Tensor, ndarray\]"):
        vtc.cat([Tensor(), np.ones(2)])


def test_a_tensor_of_another_library_is_no_argument_of_a_compiled_function():
    """As an object it would be a constant, and what is written into it later would not be seen."""

    class Other:
        __dlpack__ = None

    f = vtc.compile(lambda x: x)
    with pytest.raises(ArgumentError, match=r"Other: expected vtc's tensors; vtc\.as_tensor\(x\)"):
        f({"x": [Other()]})


@pytest.mark.parametrize(
    ("option", "hint"),
    [("fullgraph", "always one graph"), ("mode", "VTC_TUNE"), ("speed", "dynamic, name and")],
)
def test_options_of_others(option, hint):
    with pytest.raises(ArgumentError, match=f"compile: no option '{option}'; .*{hint}"):
        vtc.compile(**{option: True})
