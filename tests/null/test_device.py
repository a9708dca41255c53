"""Device names, as PyTorch has them."""

import pytest

import vtc
from vtc.errors import DeviceError
from vtc.runtime.device import Device


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_names_come_back(name):
    assert str(Device.parse(name)) == name
    assert Device.parse(Device.parse(name)) == Device.parse(name)


def test_the_current_device_is_not_device_0():
    assert Device.parse("cuda") == Device("cuda")
    assert Device.parse("cuda") != Device.parse("cuda:0")
    assert Device.parse("cuda:1") == Device("cuda", 1)
    assert len({Device.parse("cuda:1"), Device("cuda", 1), Device("cpu")}) == 2


def test_it_prints_as_in_pytorch():
    assert repr(Device("cpu")) == "device(type='cpu')"
    assert repr(Device("cuda", 1)) == "device(type='cuda', index=1)"


@pytest.mark.parametrize(
    "name", ["", "tpu", "cuda:", "cuda:-1", "cuda:01", "CPU", "cpu:x", 3, None]
)
def test_unknown_devices_are_refused(name):
    with pytest.raises(DeviceError, match="device: expected cpu, cuda or cuda:<index>, got"):
        Device.parse(name)


def test_there_is_one_cpu():
    assert Device.parse("cpu:0") == Device("cpu", 0) == Device("cpu")
    with pytest.raises(DeviceError, match="expected cpu, the only one there is, got 'cpu:1'"):
        Device.parse("cpu:1")


def test_a_with_statement_says_where_new_tensors_go():
    there = Device("cuda", 1)
    assert vtc.get_default_device() == Device("cpu")
    with there as found:
        assert found is there is vtc.get_default_device()
        with vtc.device("cpu"):
            assert vtc.ones(2).device == vtc.get_default_device() == Device("cpu")
        with there:
            pass
        assert vtc.get_default_device() == there
    assert vtc.get_default_device() == Device("cpu")


def test_a_function_is_compiled_anew_where_new_tensors_go_elsewhere():
    @vtc.compile
    def f(x):
        return x + 1, str(vtc.get_default_device())

    with vtc.device("cuda"):
        seen = [f(vtc.ones(2, device="cpu"))[1]]
    seen += [f(vtc.ones(2))[1] for _ in range(2)]
    assert seen == ["cuda", "cpu", "cpu"]
    assert len(f.entries) == 2
