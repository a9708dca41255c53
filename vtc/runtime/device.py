"""Devices by name, as in PyTorch: ``cpu``, ``cuda``, ``cuda:1``.

>>> str(Device.parse("cuda:1"))
'cuda:1'
>>> Device.parse("cuda") == Device("cuda", 0)
False
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, final

from vtc.errors import DeviceError

Type = Literal["cpu", "cuda"]
_NAME = re.compile(r"(cpu|cuda)(?::(0|[1-9][0-9]*))?")


@final
@dataclass(frozen=True, slots=True)
class Device:
    """A place for tensors; ``index`` None is the current one of its type."""

    type: Type
    index: int | None = None

    def __post_init__(self) -> None:
        if self.type not in ("cpu", "cuda") or (self.index is not None and self.index < 0):
            raise _unknown(str(self))
        if self.type == "cpu" and self.index not in (None, 0):
            raise DeviceError(f"device: expected cpu, the only one there is, got {str(self)!r}")

    @classmethod
    def parse(cls, name: str | Device) -> Device:
        """The device called ``name``; DeviceError if that names none."""
        if isinstance(name, Device):
            return name
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise _unknown(name)
        type, index = match.groups()
        return cls(cast("Type", type), None if index is None else int(index))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"


def _unknown(name: object) -> DeviceError:
    return DeviceError(f"device: expected cpu, cuda or cuda:<index>, got {name!r}")
