"""Constants that a function makes while it is traced for a GPU: they are where the user says."""

import gc
import re

import numpy as np
import pytest
from simulated import Simulated

import vtc
from vtc.errors import DeviceError
from vtc.runtime.cuda.driver import installed

pytestmark = pytest.mark.filterwarnings("ignore::vtc.errors.VtcWarning")
TABLE = np.arange(4, dtype="f4")


@pytest.fixture(autouse=True)
def gpu():
    with installed(Simulated()) as gpu:
        yield gpu
        gc.collect()


HERE = {
    "arange": lambda x: x + vtc.arange(4),
    "tensor": lambda x: x + vtc.tensor([1.0, 2, 3, 4]),
    "zeros": lambda x: vtc.where(x > 0, vtc.zeros(4), x),
    "array": lambda x: x * vtc.from_numpy(TABLE),
    "index": lambda x: x[vtc.tensor([0, 1])],
    "write": lambda x: x.clone().add_(vtc.ones(4)),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", HERE)
def test_a_constant_on_the_cpu_is_refused_with_a_way_out(name, compiled):
    f = vtc.compile(HERE[name]) if compiled else HERE[name]
    want = r"expected one device, got cpu and cuda:0.*device=x\.device.*test_trace_constants.py"
    with pytest.raises(DeviceError, match=re.compile(want, re.DOTALL)):
        f(vtc.ones(4, device="cuda"))


MOVED = {
    "to": lambda x: x + vtc.tensor([1.0, 2, 3, 4]).to(x.device),
    "cuda": lambda x: x + vtc.from_numpy(TABLE + 1).cuda(),
    "arange": lambda x: x + (vtc.arange(4) + 1).to(x.device),
    "given": lambda x: x + vtc.arange(1.0, 5.0, device=x.device),
    "number": lambda x: x + vtc.tensor(1.0) + vtc.arange(4, device=x.device),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_constant_that_is_moved_is_a_constant_there(name):
    f, x = vtc.compile(MOVED[name]), vtc.ones(4, device="cuda")
    for _ in range(4):
        assert f(x).tolist() == [2, 3, 4, 5]
    assert len(f.entries) == 1


def test_a_constant_that_was_written_is_moved_as_it_is_then():
    def f(x):
        table = vtc.tensor([1.0, 2, 3, 4])
        table += 1
        return x + table.to(x.device)

    with pytest.raises(DeviceError, match=r"at .*test_trace_constants.py:\d+\); make them there"):
        vtc.compile(f)(vtc.ones(4, device="cuda"))


def test_a_tensor_from_outside_is_named_with_its_line():
    table = vtc.ones(4)
    f = vtc.compile(lambda x: x + table.to(x.device))
    want = r"got cuda:0 \(input x: f32\[4\]\) and cpu \(input captured: f32\[4\], at .*constants.py"
    with pytest.raises(DeviceError, match=want):
        f(vtc.ones(4, device="cuda"))
