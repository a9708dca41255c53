"""Shared libraries from memory: a package's are loaded without being written to a disk.

    path = library(archive.read(name), sha256)
    ctypes.CDLL(str(path))

Equal libraries are loaded once per process, and stay: their code may run on other threads. Where
the system has no files in memory, or refuses to run them, a temporary folder takes their place.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from pathlib import Path

from vtc.errors import PackageError

_lock = threading.Lock()
_loaded: dict[str, Path] = {}
_folders: list[tempfile.TemporaryDirectory[str]] = []


def library(data: bytes, sha256: str) -> Path:
    """A path that loads ``data``, whose hash tells it from others. PackageError if none does."""
    with _lock:
        found = _loaded.get(sha256)
        if found is None:
            found = _loaded[sha256] = _in_memory(data) or _in_folder(data, sha256)
        return found


def _in_memory(data: bytes) -> Path | None:
    """The file stays open: were its number used again, the linker would take one for another."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("vtc")
    except OSError:
        return None
    path = f"/proc/self/fd/{file}"
    try:
        with os.fdopen(os.dup(file), "wb") as out:
            out.write(data)
        ctypes.CDLL(path)
    except OSError:
        os.close(file)
        return None
    return Path(path)


def _in_folder(data: bytes, sha256: str) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="vtc-")
    path = Path(folder.name) / f"{sha256}.so"
    path.write_bytes(data)
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        folder.cleanup()
        raise PackageError(f"package: expected a library, got {error}") from None
    _folders.append(folder)
    return path
