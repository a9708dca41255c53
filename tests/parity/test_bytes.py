"""``view(dtype)``, and casts to fp8 that overflow: what PyTorch gives, eager and compiled."""

import numpy as np
import pytest

import vtc
from vtc.errors import TypeCheckError

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")

NAMES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "float8_e4m3fn", "float8_e5m2"),
)
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]
SOME = [p for k, p in enumerate(PAIRS) if k % 7 == 3]


def made(T, name):
    """Bytes of any value, NaN of all kinds among them."""
    data = np.random.default_rng(0).integers(0, 2 if name == "bool" else 256, (4, 3, 16), np.uint8)
    return T.from_numpy(data).view(getattr(T, name))


def bits(T, x):
    found = x.view(T.uint8).numpy()
    return found != 0 if x.dtype is T.bool else found


def agree(pairs, got, want):
    for pair, g, w in zip(pairs, got, want, strict=True):
        assert tuple(g.shape) == tuple(w.shape), pair
        np.testing.assert_array_equal(bits(vtc, g), bits(torch, w), err_msg=str(pair))


def test_bits_stay_in_views():
    want = [made(torch, a).view(getattr(torch, b)) for a, b in PAIRS]
    agree(PAIRS, [made(vtc, a).view(getattr(vtc, b)) for a, b in PAIRS], want)


@pytest.mark.parametrize(
    "pairs", [SOME, pytest.param(PAIRS, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_bits_stay_in_kernels(pairs):
    def calls(T, given):
        return [given[a].flip(0).view(getattr(T, b)).flip(1) for a, b in pairs]

    names = sorted({a for a, _ in pairs})
    given, theirs = ({a: made(T, a) for a in names} for T in (vtc, torch))
    agree(pairs, vtc.compile(lambda given: calls(vtc, given))(given), calls(torch, theirs))


@pytest.mark.parametrize(
    "call",
    [
        lambda T, x: x.t().view(T.int16),
        lambda T, x: x[:, ::2].view(T.int64),
        lambda T, x: x[:, :5].view(T.int64),
        lambda T, x: x[:, 1:5].view(T.int64),
        lambda T, x: x.reshape(8, 3)[:, :2].view(T.int64),
        lambda T, x: x[:, :1].expand(4, 6).view(T.float64),
        lambda T, x: x[0, 0].view(T.uint8),
    ],
)
def test_what_bytes_in_memory_cannot_show(call):
    with pytest.raises(RuntimeError):
        call(torch, torch.ones(4, 6))
    with pytest.raises(TypeCheckError, match=r"^view: expected .* to view f32\[.*another size"):
        call(vtc, vtc.ones(4, 6))


def test_sizes_may_vary_as_far_as_whole_elements_go():
    def call(x):
        pairs = x.view(vtc.int64)
        return pairs + 1, pairs.view(vtc.float32) * 2

    run = vtc.compile(call, dynamic=True)
    for n in (4, 6, 10):
        x = vtc.randn(3, n)
        pairs, twice = run(x)
        np.testing.assert_array_equal(pairs.numpy(), x.numpy().view(np.int64) + 1)
        np.testing.assert_array_equal(twice.numpy(), x.numpy() * 2)
    with pytest.raises(TypeCheckError, match="a last dim whose size is divisible by 2"):
        run(vtc.randn(3, 5))
    assert vtc.func.vmap(lambda x: x.view(vtc.int16))(vtc.ones(3, 4)).shape == (3, 8)


def test_no_gradient_goes_through():
    for T in (torch, vtc):
        x = T.ones(3, requires_grad=True)
        y = x * 2
        same = y.view(T.float32)
        assert not same.requires_grad
        assert same is not y
        y.view(T.int32).add_(1 << 23)  # twice as much, which nothing records
        (y * y).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), [16.0] * 3)


def test_arguments_may_be_one_memory_in_two_dtypes():
    run = vtc.compile(lambda x, n: (n.add_(1 << 23), x * 1))
    x = vtc.ones(3)
    _, y = run(x, x.view(vtc.int32))
    assert x.tolist() == y.tolist() == [2.0] * 3


LARGE = [448, 464, 464.1, 465, 500, 57344, 61439, 61440, 1e9, np.inf, np.nan, 2**-10, 2**-17, 0.0]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_what_is_too_large_for_fp8(name):
    """The largest number where there is no infinity."""
    wide = ("float16", "bfloat16", "float32", "float64", "int64")

    def calls(T):
        dtype, x = getattr(T, name), T.tensor([*LARGE, *(-v for v in LARGE)], dtype=T.float64)
        given = [T.nan_to_num(x, 0, 1e9, -1e9).long() if w == "int64" else x for w in wide]
        return [y.to(getattr(T, w)) for y, w in zip(given, wide, strict=True)], dtype

    want = [x.to(calls(torch)[1]).float().numpy() for x in calls(torch)[0]]
    given, dtype = calls(vtc)
    run = vtc.compile(lambda given: [x.to(dtype) for x in given])
    both = zip(want, [x.to(dtype) for x in given], run(given), wide, strict=True)
    for w, eager, kernel, source in both:
        np.testing.assert_array_equal(eager.float().numpy(), w, err_msg=source)
        np.testing.assert_array_equal(kernel.float().numpy(), w, err_msg=source)
    for value in (1e9, -1e9):
        want = torch.tensor(value, dtype=getattr(torch, name)).float().item()
        assert vtc.tensor(value, dtype=dtype).float().item() == want
        made = [vtc.full((2,), value, dtype=dtype), vtc.zeros(2, dtype=dtype).fill_(value)]
        run = vtc.compile(lambda v=value: vtc.full((2,), v, dtype=dtype).float())
        assert [x.float().tolist() for x in [*made, run()]] == [[want] * 2] * 3
