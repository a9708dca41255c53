"""Generators: states that are kept and put back, eager and in traced code."""

import copy

import pytest

import vtc
from vtc.errors import TypeCheckError


def forked():
    with vtc.random.fork_rng():
        vtc.manual_seed(5)
        inside = vtc.rand(2)
    return inside, vtc.rand(2)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_drawn_in_a_fork_leaves_the_rest_as_it_is(compiled):
    vtc.manual_seed(5)
    inside = vtc.rand(2)
    vtc.manual_seed(3)
    after = vtc.rand(2)
    vtc.manual_seed(3)
    found = (vtc.compile(forked) if compiled else forked)()
    assert [x.tolist() for x in found] == [inside.tolist(), after.tolist()]
    assert vtc.initial_seed() == 3


def test_a_fork_that_raises_or_is_off():
    vtc.manual_seed(3)
    want = vtc.rand(2).tolist()
    vtc.manual_seed(3)
    with pytest.raises(ZeroDivisionError), vtc.random.fork_rng(devices=[]):
        vtc.rand(vtc.rand(3).numel() // 0)
    assert vtc.rand(2).tolist() == want
    with vtc.random.fork_rng(enabled=False):
        vtc.manual_seed(3)
    assert vtc.rand(2).tolist() == want


def test_states_are_taken_and_put_back():
    g = vtc.Generator().manual_seed(-4)
    twin = g.clone_state()
    state = g.get_state()
    first = vtc.rand(3, generator=g).tolist()
    assert vtc.rand(3, generator=twin).tolist() == first
    other = vtc.Generator()
    assert other.set_state(state) is other
    assert other.initial_seed() == g.initial_seed() == twin.initial_seed() == 2**64 - 4
    assert vtc.rand(3, generator=other).tolist() == first
    assert vtc.rand(3, generator=copy.deepcopy(g)).tolist() == vtc.rand(3, generator=g).tolist()
    with pytest.raises(TypeCheckError, match=r"set_state: expected i64\[2\], got f32\[2\]"):
        g.set_state(vtc.zeros(2))
