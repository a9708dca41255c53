"""User functions that draw random numbers: generators, distributions, compiled programs."""

import numpy as np
import pytest
from scipy import stats

import vtc
import vtc.nn.functional as F
from vtc.errors import ArgumentError, TypeCheckError

DRAWS = {
    "rand": lambda g: vtc.rand(3, 5, generator=g),
    "randn": lambda g: vtc.randn(3, 5, generator=g),
    "randn f64": lambda g: vtc.randn((2, 3), dtype=vtc.float64, generator=g),
    "rand_like": lambda g: vtc.rand_like(vtc.zeros(7), generator=g),
    "normal": lambda g: vtc.normal(2.0, 3.0, (4,), generator=g),
    "normal of tensors": lambda g: vtc.normal(vtc.zeros(3), vtc.ones(2, 1), generator=g),
    "randint": lambda g: vtc.randint(-3, 9, (11,), generator=g),
    "wide randint": lambda g: vtc.randint(0, 2**60, (3,), generator=g),
    "bernoulli": lambda g: vtc.bernoulli(vtc.full((9,), 0.3), generator=g),
    "multinomial": lambda g: vtc.multinomial(vtc.tensor([0.1, 0.0, 2.0]), 2, generator=g),
    "uniform_": lambda g: vtc.zeros(5).uniform_(-1, 3, generator=g),
    "normal_": lambda g: vtc.zeros(5).normal_(1, 2, generator=g),
    "bernoulli_": lambda g: vtc.zeros(5, dtype=vtc.int64).bernoulli_(0.5, generator=g),
    "dropout": lambda g: F.dropout(vtc.ones(9), 0.4, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_decides_and_a_draw_moves_on(name):
    draw, g = DRAWS[name], vtc.Generator().manual_seed(7)
    first, second = draw(g).numpy().copy(), draw(g).numpy().copy()
    g.manual_seed(7)
    np.testing.assert_array_equal(draw(g).numpy(), first)
    if name not in ("bernoulli_", "multinomial"):
        assert not np.array_equal(first, second)
    assert g.initial_seed() == 7


@pytest.mark.parametrize("name", [n for n in DRAWS if n != "multinomial"])
def test_a_compiled_program_draws_what_eager_code_draws(name):
    draw, g = DRAWS[name], vtc.Generator().manual_seed(7)
    want = [draw(g).numpy().copy() for _ in range(3)]
    g.manual_seed(7)
    compiled = vtc.compile(lambda: draw(g))
    for w in want:
        np.testing.assert_allclose(compiled().numpy(), w, rtol=1e-6)


def test_the_default_generator():
    vtc.manual_seed(3)
    a = vtc.rand(4)
    state = vtc.get_rng_state()
    b = vtc.rand(4)
    vtc.set_rng_state(state)
    np.testing.assert_array_equal(vtc.rand(4).numpy(), b.numpy())
    assert vtc.initial_seed() == 3
    assert vtc.manual_seed(3) is vtc.default_generator()
    np.testing.assert_array_equal(vtc.rand(4).numpy(), a.numpy())
    assert vtc.seed() == vtc.initial_seed()


def test_a_generator_goes_into_a_checkpoint():
    g, other = vtc.Generator().manual_seed(5), vtc.Generator()
    vtc.rand(3, generator=g)
    other.load_state_dict(g.state_dict())
    np.testing.assert_array_equal(
        vtc.rand(9, generator=g).numpy(), vtc.rand(9, generator=other).numpy()
    )
    with pytest.raises(TypeCheckError, match=r"set_state: expected i64\[2\], got f32\[2\]"):
        g.set_state(vtc.zeros(2))
    with pytest.raises(ArgumentError, match="64-bit"):
        g.manual_seed(2**64)


@pytest.mark.parametrize(
    ("sample", "law"),
    [
        (lambda g: vtc.rand(20000, generator=g), "uniform"),
        (lambda g: (vtc.empty(20000).uniform_(2, 6, generator=g) - 2) / 4, "uniform"),
        (lambda g: vtc.randn(20000, generator=g), "norm"),
        (lambda g: (vtc.normal(3.0, 2.0, (20000,), generator=g) - 3) / 2, "norm"),
    ],
)
def test_distributions(sample, law):
    x = sample(vtc.Generator().manual_seed(1)).numpy().astype(np.float64)
    assert stats.kstest(x, law).pvalue > 1e-3


def test_counts():
    g = vtc.Generator().manual_seed(2)
    dice = vtc.randint(1, 7, (30000,), generator=g).numpy()
    assert stats.chisquare(np.bincount(dice, minlength=7)[1:]).pvalue > 1e-3
    weights = np.array([1.0, 0.0, 2.0, 5.0], np.float32)
    rows = vtc.tensor(weights).expand(10000, 4)
    drawn = vtc.multinomial(rows, 3, replacement=True, generator=g).numpy()
    counts = np.bincount(drawn.ravel(), minlength=4)
    assert counts[1] == 0
    kept = weights > 0
    want = weights[kept] / weights.sum() * drawn.size
    assert stats.chisquare(counts[kept], want).pvalue > 1e-3


def test_without_replacement_nothing_comes_twice():
    g = vtc.Generator().manual_seed(4)
    weights = vtc.tensor([3.0, 0.0, 1.0, 1.0])
    drawn = vtc.multinomial(weights.expand(500, 4), 3, generator=g).numpy()
    assert all(sorted(row) == [0, 2, 3] for row in drawn.tolist())
    first = np.bincount(drawn[:, 0], minlength=4)
    assert stats.chisquare(first[[0, 2, 3]], [300, 100, 100]).pvalue > 1e-3


def test_randperm():
    g = vtc.Generator().manual_seed(4)
    assert sorted(vtc.randperm(50, generator=g).tolist()) == list(range(50))
    assert vtc.randperm(0).tolist() == []
    drawn = vtc.compile(lambda: vtc.randperm(50, generator=g))
    for _ in range(2):
        state = g.get_state()
        got = drawn()
        g.set_state(state)
        assert got.tolist() == vtc.randperm(50, generator=g).tolist()


def test_dropout_drops_the_same_backward():
    x = vtc.ones(1000).requires_grad_()
    y = F.dropout(x, 0.25, generator=vtc.Generator().manual_seed(0))
    vtc.rand(3)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    kept = float((y != 0).float().mean().item())
    assert 0.7 < kept < 0.8
    assert set(y.detach().numpy().tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert F.dropout(x, 0.5, training=False) is x


def test_attention_with_dropout_keeps_the_mean():
    q = vtc.randn(2, 6, 4, generator=vtc.Generator().manual_seed(1))
    vtc.manual_seed(0)
    plain = F.scaled_dot_product_attention(q, q, q, is_causal=True).numpy()
    noisy = [
        F.scaled_dot_product_attention(q, q, q, is_causal=True, dropout_p=0.3).numpy()
        for _ in range(400)
    ]
    np.testing.assert_allclose(np.mean(noisy, 0), plain, atol=0.25)
    masked = F.scaled_dot_product_attention(q, q, q, vtc.zeros(6, 6, dtype=vtc.bool), dropout_p=0.3)
    assert not masked.numpy().any()


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: vtc.rand(2, dtype=vtc.int64), TypeCheckError, "rand: expected a floating-point"),
        (lambda: vtc.randint(5, 5, (2,)), ArgumentError, "randint: expected low < high, got 5"),
        (lambda: vtc.randint(5), ArgumentError, "randint: expected a size"),
        (lambda: vtc.normal(0.0, 1.0), ArgumentError, "normal: expected a tensor mean or std"),
        (lambda: vtc.zeros(2).normal_(0, -1), ArgumentError, "normal_: expected std >= 0, got -1"),
        (lambda: vtc.zeros(2).uniform_(1, 0), ArgumentError, "uniform_: expected start <= to"),
        (lambda: vtc.zeros(2).bernoulli_(2), ArgumentError, "bernoulli_: expected 0 <= p <= 1"),
        (lambda: F.dropout(vtc.zeros(2), 1.5), ArgumentError, "dropout: expected 0 <= p <= 1"),
        (lambda: vtc.multinomial(vtc.zeros(3), 1), ArgumentError, "expected 1 weights > 0"),
        (lambda: vtc.multinomial(-vtc.ones(3), 1), ArgumentError, "expected finite weights >= 0"),
        (lambda: vtc.multinomial(vtc.ones(2), 3), ArgumentError, "expected 3 weights in each row"),
        (lambda: vtc.bernoulli(vtc.full((2,), 1.5)), ArgumentError, r"probabilities in \[0, 1\]"),
        (lambda: vtc.rand(2, generator=3), ArgumentError, "expected a Generator, got int"),
        (lambda: vtc.manual_seed("a"), ArgumentError, "expected a 64-bit integer, got 'a'"),
        (lambda: vtc.multinomial(vtc.ones(1, 1, 1), 1), TypeCheckError, r"got f32\[1, 1, 1\]"),
    ],
)
def test_errors(draw, error, message):
    with pytest.raises(error, match=message):
        draw()
