"""State dicts in safetensors files, under the names of ``safetensors.torch``.

    vtc.save_file(model.state_dict(), "model.safetensors", max_shard_size="5GB")
    model.load_state_dict(vtc.load_file("model.safetensors"))

Files are those of every other library. A loaded tensor of the CPU is a mapping of the file that is
read when its elements are: writing it does not change the file. Over ``max_shard_size`` the
tensors go to several files with an index, ``model.safetensors.index.json``, as Hugging Face writes
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vtc.errors import ArgumentError, VtcError
from vtc.frontend import devices, dispatch
from vtc.frontend.source import located
from vtc.frontend.tensor import Tensor, array_of
from vtc.ir.types import Array
from vtc.runtime.device import Device
from vtc.runtime.weights import open_all, save, save_sharded

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20,
          "GIB": 1 << 30}  # fmt: skip
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([KMG]i?B)?", re.IGNORECASE)


def save_file(
    tensors: Mapping[str, Tensor],
    filename: Path | str,
    metadata: Mapping[str, str] | None = None,
    *,
    max_shard_size: int | str | None = None,
) -> Path:
    """Write ``tensors`` to a safetensors file, or several; the path of the file or of their index.

    ``max_shard_size`` is a number of bytes, or a text such as ``"5GB"`` or ``"500MiB"``.
    """
    arrays = {name: _host(name, tensor) for name, tensor in tensors.items()}
    try:
        if max_shard_size is None:
            return save(filename, arrays, metadata)
        return save_sharded(filename, arrays, _bytes(max_shard_size), metadata)
    except VtcError as error:
        raise located(type(error), str(error)) from None


def load_file(filename: Path | str, device: Device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file, of the files of an index, or of a folder with either.

    PackageError where a file is damaged or none.
    """
    place = devices.resolve(device)
    try:
        arrays = open_all(filename)
        return {name: dispatch.from_array(arrays[name], device=place) for name in arrays}
    except VtcError as error:
        raise located(type(error), str(error)) from None


def _host(name: str, tensor: Tensor) -> Array:
    if not isinstance(tensor, Tensor):
        got = type(tensor).__name__
        raise located(ArgumentError, f"save_file: {name}: expected a tensor, got {got}")
    return devices.host(array_of(tensor))


def _bytes(size: int | str) -> int:
    match = _SIZE.fullmatch(str(size))
    if match is None or isinstance(size, bool) or float(match[1]) <= 0:
        raise located(ArgumentError, f"max_shard_size: expected bytes or '5GB', got {size!r}")
    return max(1, int(float(match[1]) * _UNITS[(match[2] or "").upper()]))
