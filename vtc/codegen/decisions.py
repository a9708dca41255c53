"""Which candidate each region is computed by, and the table on disk that remembers it.

A table is a file of JSON for each kind of GPU. It is written whole after each decision, so what is
interrupted loses one, and any number of processes may share it::

    table = Table(folder, "NVIDIA H100 80GB HBM3")
    table.put(key, Decision("matmul: f32[64, 512]", "fast", "blocks=(m=64 ...)", {...: 12.5}))
    table.find(key).chosen
    other.merge(table.export())             # what is known of a GPU goes where there is none
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from vtc.errors import CacheError, VtcWarning

FORMAT = 1


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """What was found out ``about`` a region: the candidate that was ``chosen``, "" if none was yet,
    how many microseconds candidates take, and why others were ``refused``.
    """

    about: str
    mode: str
    chosen: str
    times: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        """Several lines: the one taken first, then the others from fast to slow."""
        order = sorted(self.times, key=lambda label: (label != self.chosen, self.times[label]))
        lines = [f"{self.about}: {self.chosen}{f' ({self.note})' if self.note else ''}"]
        lines += [f"  {self.times[label]:10.1f} us  {label}" for label in order]
        lines += [f"  {'refused':>13}  {label}: {why}" for label, why in self.refused.items()]
        return "\n".join(lines)


def to_fields(decision: Decision) -> dict[str, Any]:
    """``decision`` as JSON has it."""
    return asdict(decision)


def from_fields(fields: Any) -> Decision | None:
    """The decision that ``fields`` are; None if they are none."""
    if not isinstance(fields, dict) or fields.keys() != Decision.__dataclass_fields__.keys():
        return None
    texts = [fields[name] for name in ("about", "mode", "chosen", "note")]
    times, refused = fields["times"], fields["refused"]
    if not all(isinstance(t, str) for t in texts) or not isinstance(times, dict):
        return None
    if not all(isinstance(t, (int, float)) for t in times.values()):
        return None
    if not isinstance(refused, dict) or not all(isinstance(w, str) for w in refused.values()):
        return None
    return Decision(**fields)


@final
class Table:
    """See the module. ``gpu`` is the name of the GPU; the file lies in ``folder``."""

    def __init__(self, folder: Path, gpu: str) -> None:
        self.gpu = gpu
        self.path = folder / f"{re.sub('[^A-Za-z0-9]+', '-', gpu).strip('-') or 'gpu'}.json"
        self._lock = threading.RLock()
        self._said = False
        self._known = self._read()

    def find(self, key: str) -> Decision | None:
        """What is known of ``key``."""
        return self._known.get(key)

    def put(self, key: str, decision: Decision) -> None:
        """Remember ``decision``, at once on disk. Where nothing can be written, this process does,
        and a warning says so.
        """
        with self._lock:
            self._known[key] = decision
            self._write()

    def export(self) -> str:
        """All of it, as text."""
        with self._lock:
            return _text(self.gpu, self._known)

    def merge(self, text: str) -> int:
        """Take what :meth:`export` gave elsewhere, where nothing is known; how many decisions.

        CacheError if ``text`` is no table, or one of another GPU.
        """
        found = _parsed(text, self.gpu)
        with self._lock:
            new = {k: d for k, d in found.items() if k not in self._known}
            if new:
                self._known |= new
                self._write()
            return len(new)

    def _read(self) -> dict[str, Decision]:
        try:
            return _parsed(self.path.read_text("utf-8"), self.gpu)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError, CacheError) as error:
            self._say(f"expected a table in {self.path}, got {error}: candidates are measured anew")
            return {}

    def _write(self) -> None:
        """Write what is known here and what others have written meanwhile."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(self.path):
                self._known = self._read() | self._known
                _replace(self.path, _text(self.gpu, self._known))
        except OSError as error:
            self._say(
                f"expected to write to {self.path}, got {error}: the next process measures again"
            )

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            warnings.warn(f"tuning: {what}", VtcWarning, stacklevel=5)


def _text(gpu: str, known: Mapping[str, Decision]) -> str:
    decisions = {key: to_fields(d) for key, d in sorted(known.items())}
    return json.dumps({"format": FORMAT, "gpu": gpu, "decisions": decisions}, indent=1) + "\n"


def _parsed(text: str, gpu: str) -> dict[str, Decision]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"tuning: expected JSON, got {error}") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CacheError(f"tuning: expected a table of format {FORMAT}, got another")
    if fields.get("gpu") != gpu:
        raise CacheError(f"tuning: expected a table of {gpu}, got one of {fields.get('gpu')}")
    decisions = fields.get("decisions")
    if not isinstance(decisions, dict):
        raise CacheError("tuning: expected decisions, got none")
    read: Callable[[Any], Decision | None] = from_fields
    found = {key: read(value) for key, value in decisions.items()}
    return {key: d for key, d in found.items() if d is not None}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process writes meanwhile, where the file system can see to that."""
    with open(path.with_suffix(".lock"), "w", encoding="ascii") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".partial")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
