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
        self._first = root
        self._root = _MOVED.get(root, root)
        self._checked: set[Path] = set()
        self._dropped: set[Path] = set()

    @property
    def root(self) -> Path:
        """Where files are kept: another folder once the first could not be written."""
        return self._root

    def find(self, key: str) -> Path | None:
        """The file stored under ``key``; None if there is none, or none that is undamaged.

        What was kept in a folder that cannot be written any more still serves.
        """
        for root in dict.fromkeys((self._root, self._first)):
            found = self._find(root, key)
            if found is not None:
                return found
        return None

    def make(self, key: str, write: Callable[[Path], None], suffix: str = "") -> Path:
        """The file stored under ``key``; where there is none, ``write(path)`` makes it first.

        Several callers may make the same file at once: each result is whole, and one of them stays.
        """
        found = self.find(key)
        if found is not None:
            return found
        # Made elsewhere, so that a cache without space left is not the compiler's concern.
        with _workplace() as folder:
            path = Path(folder) / f"object{suffix}"
            write(path)
            content = path.read_bytes()
        return self.put(key, content, suffix)

    def put(self, key: str, content: bytes, suffix: str = "") -> Path:
        """Store ``content`` under ``key``, in place of what was there; the file."""
        root = self._root
        try:
            return self._publish(root, key, content, suffix)
        except OSError as error:
            self._move(root, error)
        try:
            return self._publish(self._root, key, content, suffix)
        except OSError as error:
            raise CacheError(f"cache: expected to write to {self._root}, got {error}") from error

    def drop(self, path: Path) -> None:
        """Forget the file at ``path``, which is of no use: it will be made again."""
        self._checked.discard(path)
        self._dropped.add(path)
        _remove(path)

    def _find(self, root: Path, key: str) -> Path | None:
        entry = _entry(root, key)
        try:
            name = entry.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            name = ""
        if not _NAME.fullmatch(name):
            _remove(entry)
            return None
        path = _object(root, name)
        if path in self._checked and path.exists():
            return path
        if path not in self._dropped and _digest_of(path) == name[:64]:
            self._checked.add(path)
            return path
        _remove(entry)
        _remove(path)
        return None

    def _publish(self, root: Path, key: str, content: bytes, suffix: str) -> Path:
        path = _object(root, hashlib.sha256(content).hexdigest() + suffix)
        _write(root, path, content)
        _write(root, _entry(root, key), f"{path.name}\n".encode("ascii"))
        self._dropped.discard(path)
        self._checked.add(path)
        return path

    def _move(self, root: Path, error: OSError) -> None:
        """Go on in a temporary folder, if nobody has moved there since ``root`` was tried."""
        with _MOVING:
            if self._root != root or root != self._first:
                return
            known = root in _MOVED
            if not known:
                _MOVED[root] = _temporary(root, error)
            self._root = _MOVED[root]
        if not known:
            warnings.warn(
                f"cache: expected to write to {root}, got {error}; this process keeps kernels in "
                f"{self._root}, the next one compiles again (VTC_CACHE_DIR names another folder)",
                VtcWarning,
                stacklevel=4,
            )


def _workplace() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="vtc-")
    except OSError as error:
        raise CacheError(f"cache: expected a temporary folder to work in, got {error}") from error


def _temporary(root: Path, error: OSError) -> Path:
    """A folder in place of ``root``, which goes when this process does."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="vtc-cache-"))
    except OSError as also:
        want = f"cache: expected to write to {root} or to a temporary folder"
        raise CacheError(f"{want}, got {error} and {also}") from error
    atexit.register(_leave, folder, os.getpid())
    return folder


def _leave(folder: Path, owner: int) -> None:
    """At exit; a forked child leaves its parent's folder alone."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _write(root: Path, path: Path, content: bytes) -> None:
    folder = root / "partial"
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


def _entry(root: Path, key: str) -> Path:
    return root / "entries" / key[:2] / key


def _object(root: Path, name: str) -> Path:
    return root / "objects" / name[:2] / name


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
