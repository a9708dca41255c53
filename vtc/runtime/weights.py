"""Tensors in safetensors files and members: mapped when read, so that nothing is read in vain.

    tensors = Mapped.file("model.safetensors")         # a mapping: name -> array
    tensors["up.weight"][0]                            # touches one page; private: writes stay here
    save("copy.safetensors", tensors)
    open_all("model.safetensors.index.json")           # several files with an index, as one mapping

A header is a length, 8 bytes, and JSON of so many bytes; the data that follows holds the tensors
without gaps. What does not fit is refused with a PackageError before any data is read. The writer
orders tensors by the size of their elements, then by name, and pads the header to 64 bytes: so all
of them are aligned. (The ``safetensors`` package reads no fp8 into NumPy arrays, maps no member of
a zip, and would be one more need of the runtime.)
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np

from vtc.errors import ArgumentError, PackageError
from vtc.ir import types
from vtc.ir.types import Array, DType, dtype_of
from vtc.runtime.archive import appearing
from vtc.runtime.manifest import MOST, load_json

LARGEST_HEADER: Final = 1 << 26
ALIGNMENT: Final = 64
INDEX: Final = ".index.json"
DTYPES: Final[Mapping[str, DType]] = {
    "BOOL": types.bool_,
    "U8": types.u8,
    "I8": types.i8,
    "I16": types.i16,
    "I32": types.i32,
    "I64": types.i64,
    "F8_E4M3": types.f8e4m3,
    "F8_E5M2": types.f8e5m2,
    "F16": types.f16,
    "BF16": types.bf16,
    "F32": types.f32,
    "F64": types.f64,
    "C64": types.c64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor in the file, ``start`` bytes after the beginning of the header."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    nbytes: int


@final
class Mapped(Mapping[str, Array]):
    """The tensors in ``nbytes`` bytes at ``offset`` of an open file; see the module.

    The arrays are writable memory of this process: what is written does not reach the file. The
    file must not be cut short while they are in use.
    """

    def __init__(self, file: int, offset: int, nbytes: int, where: str) -> None:
        end = os.fstat(file).st_size
        if nbytes < _LENGTH.size or offset + nbytes > end:
            raise PackageError(f"{where}: expected a safetensors file, got {end - offset} bytes")
        first = offset - offset % mmap.ALLOCATIONGRANULARITY
        self._start = offset - first
        self._map = mmap.mmap(
            file, self._start + nbytes, access=mmap.ACCESS_COPY, offset=first
        )  # its copy of the file stays open
        self.slots = _read_header(memoryview(self._map)[self._start :], where)

    @classmethod
    def file(cls, path: Path | str) -> Self:
        """The tensors of a file."""
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return cls(file.fileno(), 0, size, str(path))
        except OSError as error:
            raise PackageError(
                f"{path}: expected a safetensors file, got {error.strerror}"
            ) from None

    def __getitem__(self, name: str) -> Array:
        slot = self.slots[name]
        start = self._start + slot.start
        found: Array = np.ndarray(slot.shape, slot.dtype.numpy, self._map, start)
        return found if found.flags.aligned else found.copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)


@final
class Safetensors:
    """A safetensors file of ``tensors``, to be written: see :class:`vtc.runtime.archive.Stream`."""

    def __init__(
        self, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
    ) -> None:
        ordered = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
        self._tensors = [tensors[name] for name in ordered]
        fields: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
        at = 0
        for name, array in zip(ordered, self._tensors, strict=True):
            if name == _METADATA:
                raise ArgumentError(f"save: expected the name of a tensor, got {name!r}")
            place = [at, at + array.nbytes]
            shape = list(array.shape)
            fields[name] = {"dtype": _name_of(name, array), "shape": shape, "data_offsets": place}
            at += array.nbytes
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-(_LENGTH.size + len(text)) % ALIGNMENT)
        self._header = _LENGTH.pack(len(text)) + text
        self.nbytes = len(self._header) + at
        """How many bytes the file has."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file in pieces: the header, then tensor by tensor."""
        yield self._header
        for array in self._tensors:
            if array.size:
                dense: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                yield memoryview(dense)


def save(
    path: Path | str, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a safetensors file, which appears whole; its path."""
    stream = Safetensors(tensors, metadata)
    with appearing(Path(path)) as file:
        for chunk in stream.chunks():
            file.write(chunk)
    return Path(path)


def save_sharded(
    path: Path | str,
    tensors: Mapping[str, Array],
    most: int,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write files of at most ``most`` bytes of tensors each (a tensor is never cut) and an index.

    Where one file is enough it is just that. Gives the path to load: of the file, or of the index.
    """
    path = Path(path)
    shards = _shards(tensors, most)
    index = path.with_name(path.name + INDEX)
    if len(shards) == 1:
        save(path, tensors, metadata)
        index.unlink(missing_ok=True)
        return path
    places: dict[str, str] = {}
    for k, names in enumerate(shards, 1):
        file = path.with_name(f"{path.stem}-{k:05}-of-{len(shards):05}{path.suffix}")
        save(file, {name: tensors[name] for name in names}, metadata)
        places |= dict.fromkeys(names, file.name)
    total = sum(a.nbytes for a in tensors.values())
    fields = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    with appearing(index) as out:
        out.write(json.dumps(fields, indent=2).encode() + b"\n")
    path.unlink(missing_ok=True)
    return index


def open_all(path: Path | str) -> Mapping[str, Array]:
    """The tensors of a file, of all files of an index, or of a folder with one or the other."""
    path = Path(path)
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if p.name.endswith(INDEX)]
        found += sorted(path.glob("*.safetensors")) if not found else []
        if len(found) != 1:
            raise PackageError(f"{path}: expected one safetensors file or index, got {len(found)}")
        path = found[0]
    index = path.with_name(path.name + INDEX)
    if not path.exists() and index.exists():
        path = index
    return _Sharded(path) if path.suffix == ".json" else Mapped.file(path)


@final
class _Sharded(Mapping[str, Array]):
    """The tensors of several files, each opened when one of its tensors is read."""

    def __init__(self, index: Path) -> None:
        self._folder = index.parent
        self._index = index
        self._places = _read_index(index)
        self._open: dict[str, Mapped] = {}

    def __getitem__(self, name: str) -> Array:
        file = self._places[name]
        found = self._open.get(file)
        if found is None:
            found = self._open[file] = Mapped.file(self._folder / file)
        if name not in found:
            raise PackageError(f"{self._index}: expected {name} in {file}, got {len(found)} others")
        return found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _read_index(path: Path) -> dict[str, str]:
    try:
        size = path.stat().st_size
        text = path.read_text("utf-8") if size <= LARGEST_HEADER else ""
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"{path}: expected an index, got {error}") from None
    fields = load_json(text, str(path))
    places = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise PackageError(f"{path}: expected a weight_map of file names, got none")
    for file in set(places.values()):
        if not file or file in (".", "..") or {"/", "\\", "\0"} & set(file):
            raise PackageError(f"{path}: expected names of files beside it, got {file!r}")
    return places


def _shards(tensors: Mapping[str, Array], most: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = most
    for name, array in tensors.items():
        if shards[-1] and array.nbytes > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= array.nbytes
    return shards


def _name_of(name: str, array: Array) -> str:
    try:
        return _NAMES[dtype_of(array.dtype)]
    except KeyError:
        some = ", ".join(str(d) for d in _NAMES)
        raise ArgumentError(f"save: {name}: expected one of {some}, got {array.dtype}") from None


# the header


def _read_header(data: memoryview, where: str) -> dict[str, Slot]:
    """The tensors in ``data``, a whole file."""
    (length,) = _LENGTH.unpack(data[: _LENGTH.size])
    if length > min(LARGEST_HEADER, len(data) - _LENGTH.size):
        raise PackageError(f"{where}: expected a safetensors header, got a length of {length}")
    start = _LENGTH.size + length
    try:
        text = bytes(data[_LENGTH.size : start]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackageError(f"{where}: expected a safetensors header, got {error}") from None
    fields = load_json(text, where)
    if not (text.startswith("{") and text.rstrip(" ").endswith("}")) or not isinstance(
        fields, dict
    ):
        raise PackageError(f"{where}: expected a safetensors header, got {text[:20]!r}")
    _check_metadata(fields.pop(_METADATA, {}), where)
    slots = {name: _slot(f"{where}: {name}", about, start) for name, about in fields.items()}
    at = start
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if slot.start != at:
            raise PackageError(
                f"{where}: {name}: expected a tensor at {at - start}, got it at "
                f"{slot.start - start}"
            )
        at += slot.nbytes
    if at != len(data):
        raise PackageError(f"{where}: expected {at} bytes, got {len(data)}")
    return slots


def _check_metadata(fields: Any, where: str) -> None:
    good = isinstance(fields, dict) and all(isinstance(v, str) for v in fields.values())
    if not good:
        raise PackageError(f"{where}: expected metadata of texts, got others")


def _slot(where: str, about: Any, start: int) -> Slot:
    match about:
        case {"dtype": str() as name, "shape": list() as shape, "data_offsets": [first, last]}:
            pass
        case _:
            raise PackageError(f"{where}: expected dtype, shape and data_offsets, got others")
    if len(about) != 3 or name not in DTYPES:
        raise PackageError(f"{where}: expected one of {', '.join(DTYPES)}, got {name[:80]!r}")
    if len(shape) > 64 or not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
        raise PackageError(f"{where}: expected sizes and offsets of at least 0, got others")
    nbytes = prod(shape) * DTYPES[name].itemsize
    if last - first != nbytes:
        raise PackageError(f"{where}: expected {nbytes} bytes, got {last - first}")
    if prod(n for n in shape if n) * DTYPES[name].itemsize > MOST:
        raise PackageError(f"{where}: expected a shape that can be, got {shape}")
    return Slot(DTYPES[name], tuple(shape), start + first, nbytes)
