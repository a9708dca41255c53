"""Sizes that vary: marks, guards, and what Python does with a symbolic size."""

import math

import numpy as np
import pytest

import vtc
import vtc.nn as nn
import vtc.nn.functional as F
from vtc.errors import GuardError, IndexRangeError, TypeCheckError


def test_a_mark_makes_one_program_for_its_range():
    x = vtc.ones(4)
    vtc.mark_dynamic(x, 0, min=2, max=8, name="B")
    f = vtc.compile(lambda x: x * 2)
    f(x)
    assert "B: Dim(2, 8)" in f.ir()
    f(vtc.ones(5))
    assert len(f.entries) == 1
    assert f(vtc.ones(9)).tolist() == [2.0] * 9
    assert len(f.entries) == 2


def test_a_marked_size_out_of_range_is_refused():
    x = vtc.ones(9)
    vtc.mark_dynamic(x, 0, min=2, max=8, name="B")
    with pytest.raises(GuardError, match=r"x: size 9 of dim 0 is outside .*2, 8.*(\n.*)*test_dyn"):
        vtc.compile(lambda x: x * 2)(x)


def test_two_arguments_share_a_name():
    x, y = vtc.ones(4, 3), vtc.ones(4)
    for t in (x, y):
        vtc.mark_dynamic(t, 0, name="N")
    f = vtc.compile(lambda x, y: x.sum(1) + y)
    f(x, y)
    assert f(vtc.ones(6, 3), vtc.ones(6)).tolist() == [4.0] * 6
    assert len(f.entries) == 1


def test_a_comparison_is_a_guard():
    f = vtc.compile(lambda x: x * 2 if x.shape[0] > 4 else x * 3)
    for n in (2, 3, 4, 5, 6, 7, 3):
        assert f(vtc.ones(n)).tolist() == [2.0 if n > 4 else 3.0] * n
    assert len(f.entries) == 3
    assert "size guard x_0 - 4 <= 0 is True does not hold" in f.explain()


def test_attention_and_loss_over_two_symbols():
    def g(x, t):
        b, s, d = x.shape
        h = x.reshape(b, s, 2, d // 2).transpose(1, 2)
        a = vtc.softmax(h @ h.transpose(-1, -2), -1) @ h
        y = a.transpose(1, 2).reshape(b, s, d)
        padded = vtc.cat([x, vtc.zeros(b, 1, d)], 1)[:, :s]
        return F.cross_entropy(y.view(b * s, -1), t.reshape(-1)), y[:, -1], padded + y

    f = vtc.compile(g)
    for b, s in ((2, 3), (3, 5), (4, 7), (5, 9)):
        x, t = vtc.randn(b, s, 4), vtc.randint(0, 4, (b, s))
        for got, want in zip(f(x, t), g(x, t), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
    assert len(f.entries) == 2


@pytest.mark.parametrize(
    ("of", "want"),
    [
        (lambda n: f"{n:3d}", "  5"),
        (lambda n: "%d" % n, "5"),  # noqa: UP031
        (lambda n: n == 5.0, True),
        (lambda n: n < 5.5, True),
        (lambda n: n != None, True),  # noqa: E711
        (lambda n: {5: "a"}.get(n), "a"),
        (lambda n: {n: 1}[5], 1),
        (lambda n: abs(n - 7), 2),
        (lambda n: divmod(n, 2), (2, 1)),
        (lambda n: 2**n, 32),
        (lambda n: (n << 1, n >> 1, n & 1, n | 2), (10, 2, 1, 7)),
        (lambda n: (1 << n, 99 >> n, 4 & n, 8 | n, n ^ 1, 2 ^ n), (32, 3, 4, 13, 4, 7)),
        (lambda n: (divmod(17, n), ~n, pow(n, 2, 7)), ((3, 2), -6, 4)),
        (lambda n: (round(n, -1), math.trunc(n), math.ceil(n)), (0, 5, 5)),
        (lambda n: (n * 1j, n.bit_length(), n.real), (5j, 3, 5)),
        (lambda n: (f"w{n}", str(n), {"w5": 1}[f"w{n}"]), ("w5", "5", 1)),
        (lambda n: (round(n), +n, -(-n // 2)), (5, 5, 3)),
        (lambda n: n * 1.5, 7.5),
        (lambda n: [1] * n, [1] * 5),
        (lambda n: (max(n, 3), min(n, 3)), (5, 3)),
        (lambda n: list(range(n)), [0, 1, 2, 3, 4]),
        (float, 5.0),
    ],
)
def test_python_with_a_symbolic_size(of, want):
    got = vtc.compile(lambda x: of(x.shape[0]), dynamic=True)(vtc.ones(5))
    assert got == want


def test_a_size_that_becomes_0_divides_as_in_python():
    f = vtc.compile(lambda x: vtc.zeros(10 // (x.shape[0] - 3)), dynamic=True)
    assert [len(f(vtc.ones(n))) for n in (4, 5, 8)] == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        f(vtc.ones(3))


def test_a_size_does_not_compare_with_a_string():
    with pytest.raises(TypeError):
        vtc.compile(lambda x: x.shape[0] < "a", dynamic=True)(vtc.ones(5))


def test_a_shared_argument_is_compiled_for_fixed_sizes():
    w = vtc.ones(4)

    @vtc.compile
    def f(x):
        w.add_(1.0)
        return x * 1.0

    for part in (w[:2], w[:3], w):
        f(part)
    assert w.tolist() == [4.0] * 4
    assert "x shares memory with another tensor" in f.explain()


class Language(nn.Module):
    def __init__(self):
        self.tokens = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, ids):
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.block(self.tokens(ids), src_mask=mask, is_causal=True))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


def images(*shapes):
    return [vtc.randn(*s) for s in shapes]


VARYING = {
    "conv net": (conv_net, images((4, 3, 8, 10), (5, 3, 12, 14), (7, 3, 9, 8)), "x_0 x_2 x_3"),
    "conv net of one size": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 5)),
        images((4, 1, 8, 8), (9, 1, 8, 8)),
        "x_0",
    ),
    "lstm": (lambda: nn.LSTM(6, 5, batch_first=True), images((3, 4, 6), (9, 4, 6)), "x_0 x_1"),
    "language model": (
        Language,
        [vtc.randint(0, 11, s) for s in ((3, 4), (5, 7), (2, 9))],
        "ids_0 ids_1",
    ),
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), images((5, 3), (7, 3)), "x_0"),
}


@pytest.mark.parametrize("name", VARYING)
def test_what_meets_a_parameter_is_fixed(name):
    """One program for all sizes that can vary, as in PyTorch; gradients too."""
    vtc.manual_seed(0)
    make, inputs, varying = VARYING[name]
    model = make()
    f = vtc.compile(model, dynamic=True)
    for x in inputs:
        found = []
        for run in (f, model):
            y = run(x)
            y = y[0] if isinstance(y, tuple) else y
            y.sin().sum().backward()
            found.append((y.detach(), [p.grad for p in model.parameters()]))
            model.zero_grad()
        (y, grads), (wanted, want) = found
        np.testing.assert_allclose(y.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)
        for a, b in zip(grads, want, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-4)
    assert len(f.entries) == 1, f.misses
    assert {d.name for d in f.program().dims} == set(varying.split())


def test_a_size_that_does_not_fit_a_parameter_is_an_error():
    f = vtc.compile(conv_net(), dynamic=True)
    f(vtc.randn(4, 3, 8, 8))
    with pytest.raises(TypeCheckError, match=r"conv2d: expected 3 channels, got f32\[4, 5, 8, 8\]"):
        f(vtc.randn(4, 5, 8, 8))


@pytest.mark.parametrize(
    ("fn", "needs"),
    [
        (lambda x: x.narrow(0, 2, 3) * 1, 5),
        (lambda x: x.topk(4, 0).values, 4),
        (lambda x: x.gather(1, vtc.zeros(5, 4, dtype=vtc.int64)), 5),
        (lambda x: vtc.as_strided(x, (3, 3), (4, 1), 2) * 1, 4),
    ],
    ids=["narrow", "topk", "gather", "as_strided"],
)
def test_what_a_size_must_hold_is_guarded(fn, needs):
    """A part that was inside when the function was traced is refused where it no longer is."""
    f = vtc.compile(fn, dynamic=True)
    for n in (7, needs + 1, 6):
        f(vtc.ones(n, 4))
    assert len(f.entries) == 1, f.misses
    with pytest.raises((TypeCheckError, IndexRangeError)):
        f(vtc.ones(needs - 1, 4))


def test_a_size_that_is_taken_as_a_number_is_fixed():
    """The rest of the program knows it, so it may meet numbers."""
    f = vtc.compile(lambda x: x.reshape(-1, int(x.shape[0])) + vtc.ones(int(x.shape[0])))
    for n in (2, 3, 4, 3):
        assert f(vtc.ones(n, 5)).tolist() == [[2.0] * n] * 5
    assert "compiled again: a symbolic size did not work (int() of x_0)" in f.explain()
    assert len(f.entries) == 3


@pytest.mark.parametrize(
    "bounds",
    [
        lambda n: (n - 1, -1, -1), lambda n: (n, 0, -3), lambda n: (-1, -n, -2),
        lambda n: (n, -n, -n), lambda n: (2, n, 3), lambda n: (-n, n), lambda n: (0, 3 * n, n),
        lambda n: (n, 3 * n - 1, 2),
    ],
)  # fmt: skip
def test_arange_of_a_symbolic_size(bounds):
    f = vtc.compile(lambda x: vtc.arange(*bounds(x.shape[0])), dynamic=True)
    for n in (5, 6, 9):
        assert f(vtc.ones(n)).tolist() == list(range(*bounds(n)))
