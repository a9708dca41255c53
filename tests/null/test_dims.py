"""The algebra of sizes against Python's integers."""

import copy
import operator
import pickle

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vtc.errors import ArgumentError, ParseError
from vtc.ir.dims import (
    Dim,
    Sym,
    bounds,
    floordiv,
    is_size,
    maximum,
    minimum,
    mod,
    parse_size,
    product,
    replace_in,
    substitute,
    symbols,
)

B, T = Sym.var("B"), Sym.var("T")
NAMES = ("B", "T", "N")

# A tree is an int, a name, or (operator, tree, tree).
SYMBOLIC = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": floordiv,
    "%": mod,
    "min": minimum,
    "max": maximum,
}
PYTHON = SYMBOLIC | {"//": operator.floordiv, "%": operator.mod, "min": min, "max": max}
trees = st.recursive(
    st.integers(-6, 6) | st.sampled_from(NAMES),
    lambda inner: st.tuples(st.sampled_from(sorted(SYMBOLIC)), inner, inner),
    max_leaves=8,
)
values = st.fixed_dictionaries({name: st.integers(-3, 9) for name in NAMES})
ranges = st.fixed_dictionaries(
    {name: st.tuples(st.integers(-3, 5), st.none() | st.integers(5, 9)) for name in NAMES}
)


def build(tree, leaf, functions):
    """What ``tree`` is; assumes nothing is divided by zero, whatever the symbols are."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return leaf(tree)
    fn, a, b = tree
    x, y = build(a, leaf, functions), build(b, leaf, functions)
    assume(fn not in ("//", "%") or not (isinstance(y, int) and y == 0))
    return functions[fn](x, y)


def symbolic(tree):
    return build(tree, Sym.var, SYMBOLIC)


def python(tree, at):
    return build(tree, at.__getitem__, PYTHON)


@given(trees, values)
@example(("//", ("*", "B", 0), "T"), {"B": 1, "T": 2, "N": 0})
def test_arithmetic_is_pythons(tree, at):
    want = python(tree, at)
    assert substitute(symbolic(tree), at) == want


@given(trees, values, st.sampled_from(NAMES))
def test_substitution_commutes_with_evaluation(tree, at, name):
    """One name at a time, or one by a size of the others."""
    want = python(tree, at)
    size = symbolic(tree)
    assert substitute(substitute(size, {name: at[name]}), at) == want
    shifted = substitute(size, {name: Sym.var("M") + 1})
    assert substitute(shifted, at | {"M": at[name] - 1}) == want


@given(trees, values, ranges)
def test_bounds_hold_the_value(tree, at, within):
    inside = {n: max(lo, at[n] if hi is None else min(at[n], hi)) for n, (lo, hi) in within.items()}
    want = python(tree, inside)
    low, high = bounds(symbolic(tree), within)
    assert low is None or low <= want
    assert high is None or want <= high


@given(trees, values)
def test_text_is_python_and_parses(tree, at):
    want = python(tree, at)
    size = symbolic(tree)
    assert eval(str(size), {"min": min, "max": max, **at}) == want
    assert parse_size(str(size)) == size


@given(trees, trees)
def test_equal_sizes_hash_alike(a, b):
    x, y = symbolic(a), symbolic(b)
    for one, other in ((x + y, y + x), (x * y, y * x), (x - y, -(y - x)), (x + y - y, x)):
        assert one == other
        assert hash(one) == hash(other)
    assert minimum(x, y) == minimum(y, x)
    assert maximum(x, y) == maximum(y, x)


@given(trees)
def test_symbols_are_those_that_matter(tree):
    size = symbolic(tree)
    assert symbols(size) <= set(NAMES)
    assert isinstance(size, int) == (not symbols(size))


@given(trees)
def test_copies_are_equal(tree):
    size = symbolic(tree)
    assert copy.deepcopy(size) == size
    assert pickle.loads(pickle.dumps(size)) == size


def test_a_hash_is_not_pickled():
    """Strings hash differently in each process."""
    size = B + 1
    want = hash(size)
    object.__setattr__(size, "_hash", want + 1)
    assert hash(pickle.loads(pickle.dumps(size))) == want


SIMPLIFIED = (
    (B * 4 // 4, B),
    (B * 4 // B, 4),
    ((B * 4 + 6) // 4, B + 1),
    ((B * 4 + 6) % 4, 2),
    ((B * T + 2) % B, mod(2, B)),
    (B // B, 1),
    (B % B, 0),
    (0 // B, 0),
    (0 % B, 0),
    (B % 1, 0),
    (B - B, 0),
    ((B + T) * (B - T), B * B - T * T),
    (minimum(B, B), B),
    (product((B, 4, T)), 4 * B * T),
    (product(()), 1),
)


@pytest.mark.parametrize(("got", "want"), SIMPLIFIED)
def test_simplifies(got, want):
    assert got == want
    assert type(got) is type(want)


SHOWN = (
    (2 * B * T + 4, "2*B*T + 4"),
    (B - T - 1, "B - T - 1"),
    (-B, "-B"),
    ((B - 1) // 2 + 1, "((B - 1)//2) + 1"),
    (minimum(B, 4) * 2, "2*min(B, 4)"),
    ((2 * B + 1) % T, "((2*B + 1)%T)"),
)


@pytest.mark.parametrize(("size", "text"), SHOWN)
def test_shows(size, text):
    assert str(size) == text


def test_bounds_of_the_usual_sizes():
    within = {"B": (1, 64), "T": (1, None)}
    assert bounds(B + 1, within) == (2, 65)
    assert bounds(B * T, within) == (1, None)
    assert bounds((B + 3) // 4, within) == (1, 16)
    assert bounds(B % 8, within) == (0, 7)
    assert bounds(B % 65, within) == (1, 64)
    assert bounds(minimum(B, T), within) == (1, 64)
    assert bounds(maximum(B, 8), within) == (8, 64)
    assert bounds(Sym.var("unknown"), within) == (None, None)


def test_replaces_inside_attributes():
    assert replace_in((B, (1, T * B), "B"), {"B": 3}) == (3, (1, 3 * T), "B")


def test_what_is_a_size():
    assert is_size(3)
    assert is_size(B)
    assert not is_size(True)
    assert not is_size(3.0)


def test_a_float_is_no_size():
    for op in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod):
        with pytest.raises(TypeError):
            op(B, 1.5)
        with pytest.raises(TypeError):
            op(1.5, B)


def test_dims_check_themselves():
    assert str(Dim("B", 1, 64)) == "B: Dim(1, 64)"
    assert str(Dim("T", multiple=8)) == "T: Dim(1, None, 8)"
    assert Dim("B").sym == B
    with pytest.raises(ArgumentError, match="must be an identifier, got '2B'"):
        Dim("2B")
    with pytest.raises(ArgumentError, match=r"expected 0 <= min <= max and multiple >= 1"):
        Dim("B", 5, 4)


def test_what_is_no_size_does_not_parse():
    for text in ("1.5", "B ** 2", "f(B)", "B +", "B // 0", "True"):
        with pytest.raises(ParseError, match="expected a size"):
            parse_size(text)
