"""Compiled functions whose arguments are also met by closure: quick, and never mistaken."""

import vtc
from vtc.frontend.entry import Entry

LOOKS = 4


def slow_calls(monkeypatch):
    """Counts what is left to ``Entry.run``."""
    calls, run = [], Entry.run
    monkeypatch.setattr(Entry, "run", lambda self, leaves: calls.append(1) or run(self, leaves))
    return calls


def test_an_argument_that_the_function_holds_is_quick(monkeypatch):
    x = vtc.tensor([1.0, 2.0])
    f = vtc.compile(lambda a: a * 2 + x)
    for _ in range(LOOKS):
        assert f(x).tolist() == [3.0, 6.0]
    calls = slow_calls(monkeypatch)
    for _ in range(LOOKS):
        assert f(x).tolist() == [3.0, 6.0]
    assert not calls
    assert f._replay is not None


def test_another_argument_is_told_apart():
    x, y = vtc.tensor([1.0, 2.0]), vtc.tensor([10.0, 20.0])
    f = vtc.compile(lambda a: a * 2 + x)
    for _ in range(LOOKS):
        for _ in range(LOOKS):
            assert f(x).tolist() == [3.0, 6.0]
        for _ in range(LOOKS):
            assert f(y).tolist() == [21.0, 42.0]


def test_another_part_of_the_same_memory_is_told_apart():
    x = vtc.tensor([1.0, 2.0, 3.0, 4.0])
    head, tail = x[:2], x[2:]
    f = vtc.compile(lambda a: a * 2 + head)
    for _ in range(LOOKS):
        for _ in range(LOOKS):
            assert f(head).tolist() == [3.0, 6.0]
        for _ in range(LOOKS):
            assert f(tail).tolist() == [7.0, 10.0]


def test_a_write_to_the_argument_is_seen_through_the_closure():
    x = vtc.tensor([1.0, 2.0])

    @vtc.compile
    def f(a):
        a.add_(1)
        return a + x

    for n in range(1, 2 * LOOKS):
        before = x._version
        assert f(x).tolist() == [2.0 * (1 + n), 2.0 * (2 + n)]
        assert x._version > before
    y = vtc.tensor([0.0, 0.0])
    for n in range(1, LOOKS):
        assert f(y).tolist() == [2 * LOOKS + n, 2 * LOOKS + 1 + n]


def test_new_memory_of_the_held_tensor_is_noticed():
    x = vtc.tensor([1.0, 2.0])
    f = vtc.compile(lambda a: a * 2 + x)
    for _ in range(LOOKS):
        f(x)
    other = x.clone()
    x.data = vtc.tensor([5.0, 6.0])
    assert f(x).tolist() == [15.0, 18.0]
    assert f(other).tolist() == [7.0, 10.0]


def test_two_arguments_of_which_one_is_held():
    x, y = vtc.tensor([1.0]), vtc.tensor([10.0])
    f = vtc.compile(lambda a, b: a - b + 2 * x)
    for _ in range(LOOKS):
        for _ in range(LOOKS):
            assert f(x, y).tolist() == [-7.0]
        for _ in range(LOOKS):
            assert f(y, x).tolist() == [11.0]
        for _ in range(LOOKS):
            assert f(x, x).tolist() == [2.0]
