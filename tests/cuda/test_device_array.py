"""Arrays on a device: NumPy's views over memory that the host cannot touch."""

import copy
import gc
import pickle
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from vtc.errors import DeviceError, OutOfMemoryError
from vtc.runtime.buffer import address
from vtc.runtime.cuda.array import (
    DeviceArray,
    device_of,
    empty,
    is_device,
    reshaped,
    root,
    strided,
)
from vtc.runtime.cuda.copies import to_device, to_host
from vtc.runtime.cuda.device import allocator, gpu
from vtc.runtime.device import Device

F4 = np.dtype("f4")
MIB = 1 << 20

VIEWS = {
    "slice": lambda x: x[1:3, ::2],
    "backwards": lambda x: x[::-1, ::-2],
    "transpose": lambda x: x.transpose(1, 0, 2),
    "T": lambda x: x.T,
    "new axis": lambda x: x[:, None, ..., None],
    "row": lambda x: x[2],
    "element": lambda x: x[2, 3, 1],
    "numpy integer": lambda x: x[np.int64(1)],
    "dots": lambda x: x[..., 1],
    "nothing": lambda x: x[2:2],
    "reshape": lambda x: x.reshape(20, 2),
    "reshape with -1": lambda x: x.reshape(-1, 10),
    "split axis of a slice": lambda x: x[:, :, 0].reshape(2, 2, 5),
    "broadcast": lambda x: np.broadcast_to(np.expand_dims(x, (0,)), (3, 4, 5, 2)),
    "broadcast one": lambda x: np.broadcast_to(x[:, :1], (4, 7, 2)),
    "flip": lambda x: np.flip(x, (0, 2)),
    "flip of a broadcast": lambda x: np.flip(np.broadcast_to(x[:1], (4, 5, 2)), 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "ravel": lambda x: x.ravel(),
    "as bytes": lambda x: x.view(np.uint8),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_what_it_is_on_the_host(sim, name):
    host = np.arange(40, dtype=F4).reshape(4, 5, 2)
    x = to_device(host, 0)
    asked = sim.calls.copy()
    want, got = VIEWS[name](host), VIEWS[name](x)
    assert sim.calls == asked, "a view asked the driver for something"
    assert type(got) is DeviceArray
    assert (got.shape, got.strides, got.dtype) == (want.shape, want.strides, want.dtype)
    assert root(got) is root(x)
    np.testing.assert_array_equal(to_host(got), want)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, bool, "c8", "i8"])
def test_all_dtypes_make_the_journey(sim, kind):
    host = np.arange(12).reshape(3, 4).astype(np.dtype(kind))
    got = to_host(to_device(host, 0).T)
    assert got.dtype == host.dtype
    assert got.tobytes() == host.T.tobytes()


def test_memory_comes_back_with_the_last_view(sim):
    x = empty((4, 6), F4, 0)
    y = x[1:].T[:2]
    stats = allocator(0).stats
    del x
    assert stats()["active.all.current"] == 1
    del y
    assert stats()["active.all.current"] == 0


def test_arrays_are_aligned_and_apart(sim):
    arrays = [empty((n,), F4, 0) for n in (0, 1, 0, 300)]
    places = [address(a) for a in arrays]
    assert len(set(places)) == 4
    assert all(p % 512 == 0 for p in places)
    assert not np.may_share_memory(arrays[1], arrays[3])
    assert np.may_share_memory(arrays[3], arrays[3][2:])


def test_arrays_know_their_device(two):
    x, y, z = empty((2,), F4, 0), empty((2,), F4, 1), empty((0,), F4, 1)
    found = [device_of(a) for a in (x[1:], y.reshape(1, 2), z, np.zeros(2))]
    assert list(map(str, found)) == ["cuda:0", "cuda:1", "cuda:1", "cpu"]
    assert x[1:].device == Device("cuda:0")
    assert [is_device(a) for a in (x, np.zeros(2), 1.0)] == [True, False, False]
    with pytest.raises(DeviceError, match="expected an array on a device"):
        root(np.zeros(2))


def test_a_reshape_that_moves_elements_is_no_view(sim):
    x = empty((4, 6), F4, 0)
    assert reshaped(x.T, (24,)) is None
    assert reshaped(x.T, (3, 2, 4)).shape == (3, 2, 4)
    assert reshaped(x[:, :3], (-1,)) is None
    with pytest.raises(DeviceError, match="reshape that moves elements: expected an array on the"):
        x.T.reshape(24)
    for wrong in ((25,), (5, -1)):
        with pytest.raises(ValueError, match="cannot reshape"):
            reshaped(x, wrong)
        with pytest.raises(ValueError, match="cannot reshape"):
            reshaped(x.T, wrong)


def test_strided_stays_in_its_memory(sim):
    x = to_device(np.arange(12, dtype=F4), 0)
    windows = strided(x, (10, 3), (4, 4))
    np.testing.assert_array_equal(to_host(windows)[3], [3, 4, 5])
    with pytest.raises((ValueError, TypeError)):
        strided(x, (13,), (512,))


ON_THE_HOST = {
    "+": lambda x: x + 1,
    "+=": lambda x: np.add(x, 1, out=x),
    "exp": lambda x: np.exp(x),
    "out=": lambda x: np.exp(np.zeros(3, F4), out=x),
    "==": lambda x: x == x,
    "@": lambda x: x @ x,
    "bool": lambda x: bool(x[0]),
    "int": lambda x: int(x[0]),
    "float": lambda x: float(x[0]),
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "copy": lambda x: x.copy(),
    "copy.copy": lambda x: copy.copy(x),
    "deepcopy": lambda x: copy.deepcopy(x),
    "astype": lambda x: x.astype("f8"),
    "sum": lambda x: x.sum(),
    "np.sum": lambda x: np.sum(x),
    "concatenate": lambda x: np.concatenate([x, x]),
    "copyto": lambda x: np.copyto(x, x),
    "array": lambda x: np.array_equal(x, x),
    "list index": lambda x: x[[0, 1]],
    "mask": lambda x: x[True],
    "write": lambda x: x.__setitem__(0, 1.0),
    "in": lambda x: 1.0 in x,
    "pickle": lambda x: pickle.dumps(x),
    "tobytes": lambda x: x.tobytes(),
    "sort": lambda x: x.sort(),
    "dlpack": lambda x: x.__dlpack__(),
}


@pytest.mark.parametrize("name", ON_THE_HOST)
def test_nothing_reads_or_writes_elements_on_the_host(sim, name):
    with pytest.raises(DeviceError, match=r"expected an array on the cpu, got DeviceArray\(float"):
        ON_THE_HOST[name](empty((3,), F4, 0))


def test_an_array_can_be_shown(sim):
    x = empty((3, 2), F4, 0)
    assert repr(x) == str(x) == f"{x}" == "DeviceArray(float32[3, 2], cuda:0)"
    assert [repr(row) for row in x] == ["DeviceArray(float32[2], cuda:0)"] * 3


def test_out_of_memory_names_the_owners_and_the_process_goes_on(sim):
    kept = [empty((MIB,), F4, 0, where=f"train.py:{k}") for k in (1, 1, 2)]
    with pytest.raises(OutOfMemoryError) as error:
        empty((16 * MIB,), F4, 0)
    assert "cuda:0 (Simulated GPU): expected 64.00 MiB of memory, got none" in str(error.value)
    assert "8.00 MiB at train.py:1" in str(error.value)
    del error
    assert to_host(to_device(np.ones(3, F4), 0)).tolist() == [1, 1, 1]
    del kept
    assert empty((14 * MIB,), F4, 0).nbytes == 56 * MIB


def test_garbage_is_collected_before_memory_is_out(sim):
    gc.disable()
    try:
        loop = [empty((10 * MIB,), F4, 0)]
        loop.append(loop)
        del loop
        assert empty((10 * MIB,), F4, 0).size
    finally:
        gc.enable()


def test_the_line_comes_from_the_hook(sim, monkeypatch):
    monkeypatch.setattr("vtc.runtime.cuda.device.where", lambda: "model.py:7")
    kept = empty((MIB,), F4, 0)
    assert allocator(0).owners() == [("model.py:7", kept.nbytes)]


def test_no_such_device(sim):
    with pytest.raises(DeviceError, match="device: expected cuda:0, got 'cuda:3'"):
        empty((1,), F4, 3)


def test_an_old_gpu_is_refused():
    from_old = "from simulated import Simulated; from vtc.runtime.cuda import driver, device"
    code = f"{from_old}; driver.install(Simulated(capability=(7, 0))); device.gpu(0)"
    text = _python(code).stderr
    assert "cuda:0: expected compute capability 8.0 or newer, got 7.0 (Simulated GPU)" in text


def test_elements_crash_the_process_where_numpy_cannot_be_stopped():
    """The simulated device is as deaf to the host as a real one, so that tests notice."""
    code = (
        "import numpy as np; from simulated import Simulated\n"
        "from vtc.runtime.cuda import driver; from vtc.runtime.cuda.array import empty\n"
        "driver.install(Simulated()); np.asarray(empty((3,), np.dtype('f4'), 0)).sum()"
    )
    assert _python(code).returncode == -11


def test_arrays_that_live_until_the_interpreter_ends():
    code = (
        "import numpy as np; from simulated import Simulated\n"
        "from vtc.runtime.cuda import driver, array, pinned, stream\n"
        "driver.install(Simulated())\n"
        "a = array.empty((3,), np.dtype('f4'), 0); b = pinned.pinned_empty((3,), a.dtype)\n"
        "loop = [a, b]; loop.append(loop); e = stream.Event(); e.record()"
    )
    done = _python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_devices_compare_by_name(sim):
    assert device_of(empty((1,), F4, 0)) == Device("cuda:0")
    assert gpu(0) is gpu(0)


def _python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
