"""``use_deterministic_algorithms``: a state of the process that compiled code depends on."""

import pytest

import vtc
from vtc.errors import ArgumentError


@pytest.fixture(autouse=True)
def _as_before():
    yield
    vtc.use_deterministic_algorithms(False)


def test_it_is_off_until_asked_for():
    assert vtc.are_deterministic_algorithms_enabled() is False
    vtc.use_deterministic_algorithms(True)
    assert vtc.are_deterministic_algorithms_enabled() is True


@pytest.mark.parametrize("mode", [1, None, "error"])
def test_other_modes_are_refused(mode):
    with pytest.raises(ArgumentError, match="expected True or False, got"):
        vtc.use_deterministic_algorithms(mode)
    assert not vtc.are_deterministic_algorithms_enabled()


def test_switching_compiles_again_once():
    f, x, made = vtc.compile(lambda x: x + 1), vtc.zeros(3), {}
    for mode in (False, True, False, True):
        vtc.use_deterministic_algorithms(mode)
        for _ in range(3):  # the third is a replay
            assert f(x).tolist() == [1, 1, 1]
        assert f.lower(x).entry is made.setdefault(mode, f.entries[-1])
    assert made[True] is not made[False]
    assert [e.calls for e in f.entries] == [6, 6]
    assert f.misses == ["deterministic algorithms: was False, is True"]
