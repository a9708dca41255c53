"""User functions where sizes are symbols: one entry serves every size, as eager code does."""

import numpy as np
import pytest

import vtc
import vtc.nn.functional as F
from vtc.errors import ArgumentError


def randn(*shape):
    return vtc.randn(*shape, generator=vtc.Generator().manual_seed(sum(shape)))


def set_column(x):
    y = x.clone()
    y[:, 0] = 1.0
    return y


CALLS = {
    "mean": lambda x: x.mean(0),
    "var": lambda x: x.var(),
    "size in arithmetic": lambda x: x.sum(0) / x.shape[0] + x.shape[1],
    "full of a size": lambda x: vtc.full((2,), x.shape[0]) + x.sum(),
    "arange": lambda x: x + vtc.arange(x.shape[1]),
    "slices": lambda x: x[1:, :-1],
    "slice by a size": lambda x: vtc.arange(9)[: x.shape[0]],
    "last": lambda x: x[-1],
    "negative indices": lambda x: x[vtc.tensor([0, -1])],
    "view": lambda x: x.view(x.shape[0], 2, -1).flatten() if x.shape[1] == 8 else x,
    "softmax": lambda x: F.softmax(x @ x.t(), -1),
    "triangle": lambda x: vtc.ones(x.shape[0], x.shape[0]).tril() @ x,
    "cat": lambda x: vtc.cat([x, x], 0).sum(0),
    "repeat": lambda x: x.repeat(2, 1),
    "pad": lambda x: F.pad(x, (1, 2)),
    "roll": lambda x: x.roll(1, 0),
    "expand": lambda x: x[None].expand(x.shape[0], -1, -1).sum(0),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.5),
    "loss": lambda x: F.mse_loss(x, x * 2),
    "set": set_column,
    "norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "random": lambda x: vtc.rand_like(x) < 2,
    "mask with an offset": lambda x: x.tril(x.shape[1] - x.shape[0]),
    "roll by a size": lambda x: x.roll(x.shape[0] // 2, 0),
    "negative size": lambda x: x * -x.shape[0] + (x.shape[0] - 9),
    "more correction than elements": lambda x: x.var(0, correction=4),
    "correction of no whole number": lambda x: x.var(0, correction=1.5),
    "correction of a size": lambda x: x.var(1, correction=x.shape[1] - 1),
    "weight of a size": lambda x: vtc.lerp(x, x * 2, x.shape[0]),
    "linspace": lambda x: vtc.linspace(0, 1, x.shape[0]),
    "one size": lambda x: vtc.full(x.shape[0], 2.0),
    "bool of a size": lambda x: vtc.full((2,), x.shape[0] - 3, dtype=vtc.bool),
    "places": lambda x: vtc.nonzero_static(x > 0, size=x.shape[0]),
    "randperm": lambda x: vtc.randperm(x.shape[0]).sort().values,
    "size from around": lambda x: vtc.vmap(lambda r: r[: x.shape[1] // 2].sum())(x) * x.shape[1],
}


@pytest.mark.parametrize("name", CALLS)
def test_one_entry_for_all_sizes(name):
    call = CALLS[name]
    compiled = vtc.compile(lambda x: call(x), dynamic=True)
    for shape in ((3, 4), (5, 6)):
        x = randn(*shape)
        np.testing.assert_allclose(compiled(x).numpy(), call(x).numpy(), rtol=1e-5, atol=1e-6)
    assert len(compiled.entries) == 1


def test_a_block_at_a_traced_place():
    compiled = vtc.compile(
        lambda x, at: vtc.dynamic_slice(x, [at, 0], [1, x.shape[1]]), dynamic=True
    )
    for shape, at in (((3, 4), 1), ((5, 6), 4)):
        x = randn(*shape)
        np.testing.assert_array_equal(compiled(x, vtc.tensor(at)).numpy(), x.numpy()[at : at + 1])
    assert len(compiled.entries) == 1


def test_a_float_argument_does_not_promote():
    compiled = vtc.compile(lambda x, lr: x.half() * lr)
    for lr in (0.5, 0.25):
        got = compiled(randn(3), lr)
        assert got.dtype is vtc.float16
        np.testing.assert_array_equal(got.numpy(), (randn(3).half() * lr).numpy())
    assert len(compiled.entries) == 1


def test_numbers_of_an_op_fix_the_size():
    compiled = vtc.compile(lambda x: F.pad(x, (1, 0), value=x.shape[0]), dynamic=True)
    for n in (3, 5):
        assert compiled(vtc.ones(n)).tolist() == [n, *[1.0] * n]


@pytest.mark.parametrize("step", [0.5, 2.0])
def test_arange_to_a_size_by_a_float(step):
    compiled = vtc.compile(lambda x: vtc.arange(0, x.shape[0], step), dynamic=True)
    for n in (3, 5):
        assert compiled(vtc.ones(n)).tolist() == vtc.arange(0, n, step).tolist()


def test_arange_by_a_size():
    compiled = vtc.compile(lambda x: vtc.arange(6, 0, 3 - x.shape[0]), dynamic=True)
    for n in (5, 4, 9):
        assert compiled(vtc.ones(n)).tolist() == vtc.arange(6, 0, 3 - n).tolist()
    with pytest.raises(ArgumentError, match="arange: expected a step other than 0"):
        compiled(vtc.ones(3))


def test_a_size_may_be_0_in_a_package(tmp_path):
    n = vtc.Dim("n", 0, 4)

    def f(x):
        return x.roll(1), x.roll(x.shape[0] // 2), x.var(0)

    package = vtc.load(vtc.export(f, (vtc.ones(3),), tmp_path / "f.vtc", dynamic={"x": {0: n}}))
    for k in (0, 1, 4):
        for got, want in zip(package(randn(k)), f(randn(k)), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
