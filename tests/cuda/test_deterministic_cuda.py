"""What ``use_deterministic_algorithms`` asks of kernels for a GPU."""

import pytest

import vtc
from vtc.build import context_for
from vtc.runtime.device import Device

pytestmark = pytest.mark.filterwarnings("ignore::vtc.errors.VtcWarning")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    vtc.use_deterministic_algorithms(False)


def test_the_target_is_asked_for(sim):
    there = Device("cuda", 0)
    assert not context_for(there).target.deterministic
    assert context_for(there, deterministic=True).target.deterministic
    assert context_for(Device("cpu"), deterministic=True) == context_for(Device("cpu"))


def test_compiled_programs_ask_for_it(sim):
    f, x = vtc.compile(lambda x: x + 1), vtc.zeros(3, device="cuda")
    for mode in (False, True):
        vtc.use_deterministic_algorithms(mode)
        assert f.lower(x).entry.forward.context.target.deterministic is mode
    assert len(f.entries) == 2


def test_so_do_eager_ones(sim):
    x = vtc.zeros(3, 5, device="cuda")
    for mode, more in ((False, 1), (True, 1), (False, 0), (True, 0)):
        vtc.use_deterministic_algorithms(mode)
        before = vtc.stats().eager_compiles
        (x * 3.25).sum(0)
        assert vtc.stats().eager_compiles - before == 2 * more
