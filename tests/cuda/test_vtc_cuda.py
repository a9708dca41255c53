"""``vtc.cuda`` under PyTorch's names."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vtc
from vtc.errors import ArgumentError, DeviceError, OutOfMemoryError
from vtc.runtime.cuda.array import empty
from vtc.runtime.cuda.driver import installed

F4 = np.dtype("f4")
MIB = 1 << 20


class Nothing:
    """A driver of a machine without GPUs."""

    def count(self):
        return 0

    def why(self):
        return "expected an NVIDIA GPU, found none"


def test_what_is_there(two):
    assert vtc.cuda.is_available()
    assert vtc.cuda.device_count() == 2
    assert vtc.cuda.current_device() == 0
    assert vtc.cuda.get_device_name() == "Simulated GPU"
    assert vtc.cuda.get_device_capability("cuda:1") == (9, 0)
    assert vtc.cuda.get_device_properties(1).memory == 64 * MIB
    vtc.cuda.set_device(1)
    assert vtc.cuda.current_device() == 1
    with vtc.cuda.device("cuda:0"):
        assert vtc.cuda.current_device() == 0
    vtc.cuda.set_device("cuda:0")
    with pytest.raises(DeviceError, match="expected cuda:0 to cuda:1, got 'cuda:2'"):
        vtc.cuda.set_device(2)
    with pytest.raises(DeviceError, match="expected cuda or cuda:<index>, got 'cpu'"):
        vtc.cuda.synchronize("cpu")


def test_without_a_gpu():
    with installed(Nothing()):
        assert not vtc.cuda.is_available()
        assert vtc.cuda.device_count() == 0
        assert vtc.cuda.why_unavailable() == "expected an NVIDIA GPU, found none"
        assert vtc.cuda.memory_allocated() == vtc.cuda.max_memory_reserved() == 0
        assert vtc.cuda.memory_stats() == {}
        assert vtc.cuda.memory_snapshot() == []
        assert "no memory" in vtc.cuda.memory_summary()
        vtc.cuda.empty_cache()
        vtc.cuda.reset_peak_memory_stats()
        for use in (vtc.cuda.synchronize, vtc.cuda.mem_get_info, vtc.cuda.Stream):
            with pytest.raises(DeviceError, match="cuda: expected an NVIDIA GPU, found none"):
                use()


def test_memory(sim):
    assert vtc.cuda.memory_stats() == {}
    x = empty((MIB,), F4, 0, where="train.py:3")
    assert vtc.cuda.memory_allocated() == 4 * MIB
    assert vtc.cuda.memory_reserved() == 20 * MIB
    free, total = vtc.cuda.mem_get_info()
    assert (free, total) == (44 * MIB, 64 * MIB)
    del x
    assert vtc.cuda.memory_allocated() == 0
    assert vtc.cuda.max_memory_allocated() == 4 * MIB
    assert vtc.cuda.memory_reserved() == 20 * MIB
    vtc.cuda.reset_peak_memory_stats()
    assert vtc.cuda.max_memory_allocated() == 0
    vtc.cuda.empty_cache()
    assert vtc.cuda.memory_reserved() == 0
    assert vtc.cuda.max_memory_reserved() == 20 * MIB
    assert vtc.cuda.mem_get_info()[0] == 64 * MIB


def test_the_summary_names_owners(sim):
    x = empty((MIB,), F4, 0, where="train.py:3")
    text = vtc.cuda.memory_summary()
    assert "4.00 MiB at train.py:3" in text
    assert "allocated_bytes" in text
    assert "train.py" not in vtc.cuda.memory_summary(abbreviated=True)
    (segment,) = vtc.cuda.memory_snapshot()
    assert [b["where"] for b in segment["blocks"] if b["requested_size"]] == ["train.py:3"]
    del x


def test_a_fraction_is_a_cap(sim):
    vtc.cuda.set_per_process_memory_fraction(0.25)
    with pytest.raises(OutOfMemoryError):
        empty((5 * MIB,), F4, 0)
    vtc.cuda.set_per_process_memory_fraction(1.0)
    assert empty((5 * MIB,), F4, 0).size
    with pytest.raises(ArgumentError, match="expected 0 to 1, got 2"):
        vtc.cuda.set_per_process_memory_fraction(2)


def test_without_the_package_or_a_driver():
    """What the driver of this machine says, whatever is missing here."""
    if vtc.cuda.is_available():
        pytest.skip("there is a GPU")
    why = vtc.cuda.why_unavailable()
    assert "expected an NVIDIA" in why or "pip install 'vtc[cuda13]'" in why
    with pytest.raises(DeviceError) as error:
        vtc.cuda.synchronize()
    assert str(error.value) == f"cuda: {why}"


def test_nothing_is_loaded_before_it_is_needed():
    loaded = "[m for m in sys.modules if m.startswith('cuda.')]"
    code = f"import sys, vtc.cuda; vtc.cuda.Stream; assert not {loaded}"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == 0
