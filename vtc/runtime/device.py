"""Devices by name, as in PyTorch: ``cpu``, ``cuda``, ``cuda:1``.

>>> str(Device.parse("cuda:1"))
'cuda:1'
>>> Device.parse("cuda") == Device("cuda", 0)
False
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import final

from vtc.errors import DeviceError

_NAME = re.compile(r"(cpu|cuda)(?::(0|[1-9][0-9]*))?")


@final
@dataclass(frozen=True, slots=True)
class Device:
    """A place for tensors: ``Device("cuda:1")`` or ``Device("cuda", 1)``; DeviceError if none is
    so called.

    ``index`` None is the current one of its type; there is one cpu, which has no index. In a
    ``with`` statement it is where this thread makes new tensors::

        with vtc.device("cuda"):
            net = nn.Linear(8, 8)
    """

    type: str
    index: int | None = None

    def __post_init__(self) -> None:
        name = str(self)
        match = _NAME.fullmatch(name)
        if match is None:
            raise _unknown(name)
        type, index = match.groups()
        if type == "cpu" and index not in (None, "0"):
            raise DeviceError(f"device: expected cpu, the only one there is, got {name!r}")
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "index", None if index is None or type == "cpu" else int(index))

    @classmethod
    def parse(cls, name: str | Device) -> Device:
        """The device called ``name``; DeviceError if that names none."""
        if isinstance(name, Device):
            return name
        if not isinstance(name, str):
            raise _unknown(name)
        return cls(name)

    def __enter__(self) -> Device:
        _scopes.devices = (*scopes(), self)
        return self

    def __exit__(self, *_: object) -> None:
        _scopes.devices = scopes()[:-1]

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"


def scopes() -> tuple[Device, ...]:
    """The devices of the ``with`` statements that this thread is in, the innermost last."""
    found: tuple[Device, ...] = getattr(_scopes, "devices", ())
    return found


_scopes = threading.local()


def _unknown(name: object) -> DeviceError:
    return DeviceError(f"device: expected cpu, cuda or cuda:<index>, got {name!r}")
