"""The file of a package: a zip that stores its members, so that weights can be mapped.

    write(path, {"plans/mlp.0.sm_90.json": b"...", WEIGHTS: stream}, manifest)
    archive = Archive(path)               # checks all but the data of the weights
    archive.read("plans/mlp.0.sm_90.json")
    archive.place(WEIGHTS)                # (offset, bytes) in the file

Any zip tool reads it. It is canonical: the manifest comes first, then the members by name, the
weights last. From names, sizes and CRCs alone follows every byte that is not data of a member:

* Nothing is compressed, encrypted, dated (1980-01-01) or said about a member; all versions are 45.
* The local header of each member ends in an extra field ``0x7476`` of zeros, which makes its data
  begin at a multiple of 64. A member of 4 GiB - 1 or more has a zip64 field before that.
* The archive comment is the SHA-256 of ``manifest.json`` in hexadecimal.

The reader makes these bytes again and compares, so a change outside the data of the members is
found without reading the data. Sizes, CRCs and hashes of the data are in the manifest. Hashes tell
damage; they say nothing about who made a file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Literal, Protocol, Self, final

from vtc.errors import ArgumentError, PackageError
from vtc.runtime.manifest import check, from_json, to_json
from vtc.runtime.signature import Manifest, Member

Check = Literal["fast", "full"]
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "weights.safetensors"
ALIGNMENT: Final = 64
MEMBERS: Final = 10_000
"""The most members of a package."""
NAME: Final = 255
"""The longest name of a member."""
LARGEST_MANIFEST: Final = 1 << 26
PADDING: Final = 0x7476
CHUNK: Final = 1 << 20
SHOWN: Final = 40
"""Characters of a file's name in that of its part: a long name may not grow."""

_PATH = re.compile(r"[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*")
_VERSION = 45
_DATE = 0x21
_FULL = 0xFFFF_FFFF
_LOCAL = struct.Struct("<4s5HIIIHH")
_CENTRAL = struct.Struct("<4s6HIII5HII")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")


class Stream(Protocol):
    """Data of a member that need not be in memory at once."""

    def chunks(self) -> Iterable[bytes | memoryview]:
        """The bytes in order; each call begins anew."""


Source = bytes | Path | Stream


def write(path: Path | str, members: Mapping[str, Source], manifest: Manifest) -> Path:
    """Write a package; its path. ``manifest.members`` is filled in here.

    The file appears whole, by a rename. ArgumentError if a name cannot be one of a member.
    """
    path = Path(path)
    for name in members:
        if reason := _unfit(name):
            raise ArgumentError(f"package: expected {reason}, got the member {name!r}")
    found = {name: _measured(source) for name, source in members.items()}
    ordered = [name for name in _ordered(found) if name != MANIFEST]
    text = to_json(check(replace(manifest, members=found))).encode()
    data: dict[str, Source] = {MANIFEST: text, **{name: members[name] for name in ordered}}
    layout = _lay_out(text, found)
    with appearing(path) as file:
        for part in layout.parts:
            file.write(part.header)
            for chunk in _chunks(data[part.name]):
                file.write(chunk)
        file.write(layout.end)
    return path


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at ``path`` whole, or not at all; OSError names ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:SHOWN]}.{os.urandom(8).hex()}")
    try:
        opened = partial.open("xb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with opened as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@final
class Archive:
    """A package that is open. PackageError where the file is not what :func:`write` writes.

    Opening it checks every byte but the data of the weights, and with ``check="full"`` those too.
    """

    def __init__(self, path: Path | str, check: Check = "fast") -> None:
        if check not in ("fast", "full"):
            raise ArgumentError(f"load: expected check='fast' or check='full', got {check!r}")
        self.path = Path(path)
        self.file = _open(self.path)
        try:
            self.size = os.fstat(self.file).st_size
            text = self._manifest()
            self.manifest = from_json(_ascii(text))
            members = _members(self.manifest)
            if (claimed := sum(m.bytes for m in members.values())) > self.size:
                raise self._cut(claimed)
            self._places = self._compare(_lay_out(text, members))
            for name in self.manifest.members:
                if name != WEIGHTS or check == "full":
                    self._hash(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is mapped stays."""
        file, self.file = getattr(self, "file", -1), -1
        if file >= 0:
            os.close(file)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.members

    def place(self, name: str) -> tuple[int, int]:
        """Where the data of a member begins in the file, and how many bytes it has."""
        if name not in self._places:
            raise PackageError(f"{self.path}: expected a member {name}, got none")
        return self._places[name]

    def read(self, name: str) -> bytes:
        """The data of a member, checked again: somebody may have written to the file."""
        offset, size = self.place(name)
        data = self.part(offset, size)
        if name in self.manifest.members:
            self._same(name, hashlib.sha256(data).hexdigest())
        return data

    def part(self, offset: int, size: int) -> bytes:
        """``size`` bytes of the file from ``offset`` on; PackageError if it ends before."""
        data = b"".join(self._chunks(offset, size))
        if len(data) != size:
            raise PackageError(f"{self.path}: expected {size} bytes at {offset}, got {len(data)}")
        return data

    def _chunks(self, offset: int, size: int) -> Iterator[bytes]:
        end = offset + size
        while offset < end and (data := os.pread(self.file, min(CHUNK, end - offset), offset)):
            yield data
            offset += len(data)

    def _manifest(self) -> bytes:
        """The text of the manifest, compared with the comment at the end of the file."""
        least = _LOCAL.size + len(MANIFEST)
        head = self.part(0, least) if self.size >= least else b""
        if not head.startswith(b"PK\3\4") or head[_LOCAL.size :] != MANIFEST.encode():
            raise PackageError(f"{self.path}: expected a package, got a file of another kind")
        *_, size, names, extra = _LOCAL.unpack_from(head)
        start = _LOCAL.size + names + extra
        if size > LARGEST_MANIFEST or start + size + 64 > self.size:
            raise PackageError(f"{self.path}: expected a manifest, got a file that is cut short")
        text = self.part(start, size)
        if self.part(self.size - 64, 64) != hashlib.sha256(text).hexdigest().encode():
            raise PackageError(
                f"{self.path}: expected the hash of {MANIFEST} at its end, got a file that is cut "
                "short, damaged or packed anew"
            )
        return text

    def _compare(self, layout: _Layout) -> dict[str, tuple[int, int]]:
        """The places of the members; PackageError unless the file is ``layout`` around them."""
        if self.size != layout.size:
            raise self._cut(layout.size)
        for part in layout.parts:
            if self.part(part.offset - len(part.header), len(part.header)) != part.header:
                raise self._damaged(f"the header of {part.name}")
        if self.part(layout.size - len(layout.end), len(layout.end)) != layout.end:
            raise self._damaged("its directory")
        return {part.name: (part.offset, part.nbytes) for part in layout.parts}

    def _hash(self, name: str) -> None:
        state = hashlib.sha256()
        for chunk in self._chunks(*self._places[name]):
            state.update(chunk)
        self._same(name, state.hexdigest())

    def _same(self, name: str, digest: str) -> None:
        if digest != self.manifest.members[name].sha256:
            raise self._damaged(name)

    def _cut(self, expected: int) -> PackageError:
        return PackageError(f"{self.path}: expected {expected} bytes, got {self.size}")

    def _damaged(self, what: str) -> PackageError:
        return PackageError(f"{self.path}: expected {what} as it was written, got other bytes")


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """A member in the file; its header ends where its data, at ``offset``, begins."""

    name: str
    header: bytes
    offset: int
    nbytes: int


@final
@dataclass(frozen=True, slots=True)
class _Layout:
    """The whole file but for the data: what is before each member and after the last."""

    parts: Sequence[_Part]
    end: bytes
    size: int


def _lay_out(text: bytes, members: Mapping[str, Member]) -> _Layout:
    """The file of a manifest with ``text`` and of ``members``."""
    parts, entries, at = [], [], 0
    sized = [(MANIFEST, len(text), zlib.crc32(text))]
    sized += [(n, members[n].bytes, int(members[n].crc32, 16)) for n in _ordered(members)]
    for name, size, crc in sized:
        header = _header(name, size, crc, at)
        entries.append(_entry(name, size, crc, at))
        parts.append(_Part(name, header, at + len(header), size))
        at += len(header) + size
    directory = b"".join(entries)
    end = directory + _ending(len(parts), len(directory), at, hashlib.sha256(text).hexdigest())
    return _Layout(parts, end, at + len(end))


def _header(name: str, size: int, crc: int, at: int) -> bytes:
    """The local header of a member that begins ``at`` this offset."""
    large = struct.pack("<HHQQ", 1, 16, size, size) if size >= _FULL else b""
    pad = -(at + _LOCAL.size + len(name) + len(large) + 4) % ALIGNMENT
    extra = large + struct.pack("<HH", PADDING, pad) + bytes(pad)
    small = min(size, _FULL)
    fields = (_VERSION, 0, 0, 0, _DATE, crc, small, small, len(name), len(extra))
    return _LOCAL.pack(b"PK\3\4", *fields) + name.encode() + extra


def _entry(name: str, size: int, crc: int, at: int) -> bytes:
    """The entry of a member in the directory."""
    numbers = struct.pack("<QQ", size, size) if size >= _FULL else b""
    numbers += struct.pack("<Q", at) if at >= _FULL else b""
    extra = struct.pack("<HH", 1, len(numbers)) + numbers if numbers else b""
    small = min(size, _FULL)
    fields = (_VERSION, _VERSION, 0, 0, 0, _DATE, crc, small, small, len(name), len(extra))
    return _CENTRAL.pack(b"PK\1\2", *fields, 0, 0, 0, 0, min(at, _FULL)) + name.encode() + extra


def _ending(count: int, nbytes: int, at: int, comment: str) -> bytes:
    """What follows the directory of ``count`` members, which begins ``at`` this offset."""
    large = b""
    if at >= _FULL:
        record = (44, _VERSION, _VERSION, 0, 0, count, count, nbytes, at)
        large = _END64.pack(b"PK\6\6", *record)
        large += _LOCATOR.pack(b"PK\6\7", 0, at + nbytes, 1)
    fields = (0, 0, count, count, nbytes, min(at, _FULL), len(comment))
    return large + _END.pack(b"PK\5\6", *fields) + comment.encode()


def _ordered(members: Iterable[str]) -> list[str]:
    return sorted(members, key=lambda name: (name == WEIGHTS, name))


def _members(manifest: Manifest) -> Mapping[str, Member]:
    """The members of a manifest that was read; PackageError if there cannot be such."""
    members = manifest.members
    if len(members) > MEMBERS:
        raise PackageError(f"manifest: expected at most {MEMBERS} members, got {len(members)}")
    for name in members:
        if reason := _unfit(name):
            raise PackageError(f"manifest: expected {reason}, got the member {name!r}")
    return members


def _unfit(name: str) -> str:
    """Why ``name`` is not that of a member; empty if it is."""
    if name == MANIFEST:
        return f"one {MANIFEST}"
    if len(name) > NAME:
        return f"a name of at most {NAME} characters"
    steps = name.split("/")
    if not _PATH.fullmatch(name) and name != "LICENSE":
        return "a relative path of a-z, 0-9, '_', '.' and '-'"
    return "a path without '.' and '..'" if {".", ".."} & set(steps) else ""


def _measured(source: Source) -> Member:
    crc, digest, size = 0, hashlib.sha256(), 0
    for chunk in _chunks(source):
        crc = zlib.crc32(chunk, crc)
        digest.update(chunk)
        size += len(chunk)
    return Member(size, f"{crc:08x}", digest.hexdigest())


def _chunks(source: Source) -> Iterator[bytes | memoryview]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        with source.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    else:
        for part in source.chunks():
            whole = memoryview(part).cast("B")
            yield from (whole[k : k + CHUNK] for k in range(0, len(whole), CHUNK))


def _open(path: Path) -> int:
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.open(path, flags)
    except OSError as error:
        raise PackageError(f"{path}: expected a package, got {error.strerror}") from None
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        got = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise PackageError(f"{path}: expected a package, got {got}")
    return file


def _ascii(text: bytes) -> str:
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as error:
        raise PackageError(f"manifest: expected ASCII, got {error}") from None
