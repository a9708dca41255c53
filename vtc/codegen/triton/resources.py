"""What a compiled kernel takes of a multiprocessor, read from its cubin: no GPU, no tool.

    resources(binary)        # Resources(registers=168, shared=49152, spills=0)

A cubin is an ELF file. Its section ``.nv.info`` holds attributes of functions as entries of a form,
a code, a size and, for those of interest, the index of a function and a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from vtc.errors import CompilerError
from vtc.ir.plan import Binary

_SECTIONS = 0x28
"""Where an ELF header has the offset of the section headers; their size and number follow later."""
_COUNTS = 0x3A
_HEADER = struct.Struct("<IIQQQQIIQQ")
_SIZED = 4
"""The form of an entry with a size of its own; all others take four bytes in all."""
_REGISTERS, _FRAME = 0x2F, 0x11


@final
@dataclass(frozen=True, slots=True)
class Resources:
    """``registers`` of a thread, bytes of ``shared`` memory of a block, and bytes of local memory
    that a thread ``spills`` to."""

    registers: int
    shared: int
    spills: int


def resources(binary: Binary) -> Resources:
    """What ``binary`` takes; CompilerError if its cubin is none."""
    try:
        found: dict[int, int] = {}
        for code, value in _attributes(binary.cubin):
            found[code] = max(value, found.get(code, 0))
        return Resources(found[_REGISTERS], binary.shared, found[_FRAME])
    except (LookupError, ValueError, struct.error) as error:
        want = f"resources: expected a cubin of {binary.name}"
        raise CompilerError(f"{want}, got {len(binary.cubin)} bytes ({error})") from None


def _attributes(cubin: bytes) -> Iterator[tuple[int, int]]:
    """The attributes of the kernel in ``cubin``, and of functions that it calls."""
    info = _section(cubin, b".nv.info")
    at = 0
    while at < len(info):
        form, code, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != _SIZED:
            continue
        if code in (_REGISTERS, _FRAME):
            _, value = struct.unpack_from("<II", info, at)
            yield code, value
        at += size


def _section(cubin: bytes, name: bytes) -> bytes:
    (start,) = struct.unpack_from("<Q", cubin, _SECTIONS)
    size, count, names = struct.unpack_from("<HHH", cubin, _COUNTS)
    headers = [_HEADER.unpack_from(cubin, start + size * i) for i in range(count)]
    texts = headers[names][4]
    for header in headers:
        begin = texts + header[0]
        if cubin[begin : cubin.index(b"\0", begin)] == name:
            return cubin[header[4] : header[4] + header[5]]
    raise KeyError(name.decode())
