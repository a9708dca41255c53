"""The cache on disk: files found by what they were made from, and checked by what they hold.

An entry is a line that names an object; an object is a file named by the SHA-256 of its bytes. Both
appear whole, by a rename, so a reader sees all or nothing and a writer may be killed at any time::

    <root>/entries/3f/3fa9...       "9c41....so\\n"
    <root>/objects/9c/9c41....so
    <root>/partial/                 files being written

A damaged file (bad disk, cut short, edited) does not match its name: it is removed and made again.
Any number of processes and threads may share a root. Where it cannot be written, a temporary folder
takes its place for this process, and a warning says so once.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import final

from vtc.errors import CacheError, VtcWarning

ABANDONED = 24 * 3600.0
"""Seconds after which a partial file has no living writer."""

_NAME = re.compile(r"[0-9a-f]{64}(\.\w+)?")
_MOVED: dict[Path, Path] = {}
_MOVING = threading.Lock()


@final
class Store:
    """Files under ``root`` by key: the :func:`digest` of all that the content depends on."""

    def __init__(self, root: Path) -> None:
        self._root = _MOVED.get(root, root)
        self._checked: set[Path] = set()

    @property
    def root(self) -> Path:
        """Where files are kept: another folder once the first could not be written."""
        return self._root

    def find(self, key: str) -> Path | None:
        """The file stored under ``key``; None if there is none, or none that is undamaged."""
        entry = self._entry(key)
        try:
            name = entry.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        if not _NAME.fullmatch(name):
            _remove(entry)
            return None
        path = self._object(name)
        if path in self._checked and path.exists():
            return path
        if _digest_of(path) == name[:64]:
            self._checked.add(path)
            return path
        _remove(entry)
        _remove(path)
        return None

    def make(self, key: str, write: Callable[[Path], None], suffix: str = "") -> Path:
        """The file stored under ``key``; where there is none, ``write(path)`` makes it first.

        Several callers may make the same file at once: each result is whole, and one of them stays.
        """
        found = self.find(key)
        if found is not None:
            return found
        # Made elsewhere, so that a cache without space left is not the compiler's concern.
        with tempfile.TemporaryDirectory(prefix="vtc-") as folder:
            path = Path(folder) / f"object{suffix}"
            write(path)
            content = path.read_bytes()
        return self.put(key, content, suffix)

    def put(self, key: str, content: bytes, suffix: str = "") -> Path:
        """Store ``content`` under ``key``, in place of what was there; the file."""
        try:
            return self._publish(key, content, suffix)
        except OSError as error:
            self._move(error)
        try:
            return self._publish(key, content, suffix)
        except OSError as error:
            raise CacheError(f"cache: expected to write to {self._root}, got {error}") from error

    def _publish(self, key: str, content: bytes, suffix: str) -> Path:
        path = self._object(hashlib.sha256(content).hexdigest() + suffix)
        self._write(path, content)
        self._write(self._entry(key), f"{path.name}\n".encode("ascii"))
        self._checked.add(path)
        return path

    def _write(self, path: Path, content: bytes) -> None:
        folder = self._root / "partial"
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder)
        handle, name = tempfile.mkstemp(dir=folder)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.replace(name, path)
        except BaseException:
            _remove(Path(name))
            raise

    def _move(self, error: OSError) -> None:
        with _MOVING:
            before, known = self._root, self._root in _MOVED
            if not known:
                _MOVED[before] = Path(tempfile.mkdtemp(prefix="vtc-cache-"))
                atexit.register(shutil.rmtree, _MOVED[before], ignore_errors=True)
            self._root = _MOVED[before]
        if not known:
            warnings.warn(
                f"cache: expected to write to {before}, got {error}; this process keeps kernels in "
                f"{self._root}, the next one compiles again (VTC_CACHE_DIR names another folder)",
                VtcWarning,
                stacklevel=4,
            )

    def _entry(self, key: str) -> Path:
        return self._root / "entries" / key[:2] / key

    def _object(self, name: str) -> Path:
        return self._root / "objects" / name[:2] / name


def digest(*parts: str) -> str:
    """A key: the SHA-256 of ``parts``, each one's length included."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode()
        state.update(b"%d:" % len(data))
        state.update(data)
    return state.hexdigest()


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _sweep(folder: Path) -> None:
    """Remove what killed writers left."""
    now = time.time()
    for path in folder.iterdir():
        try:
            if now - path.stat().st_mtime > ABANDONED:
                path.unlink()
        except OSError:
            continue


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
