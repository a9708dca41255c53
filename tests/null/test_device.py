"""Device names, as PyTorch has them."""

import pytest

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
