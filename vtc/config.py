"""What the environment says: the only reader of ``os.environ`` in vtc.

* ``VTC_CACHE_DIR``: where compiled kernels and tuning results are kept; default ``~/.cache/vtc``.
* ``CC``: the C compiler; by default found by itself.
* ``VTC_CHECK``: 0 checks nothing, 1 (default) verifies the program after each pass, 2 also
  evaluates it before and after.
* ``VTC_DUMP``: a folder to write every stage, kernel and plan into; by default nothing is written.
* ``VTC_NUM_THREADS``: threads that a kernel may run on; default one per core this process may use.
* ``VTC_CACHE_SIZE``: compiled entries kept per function; default 64.
* ``VTC_COMPILE_TIMEOUT``: seconds that the C compiler may take for one kernel; default 600.
* ``VTC_CUDA_GRAPHS``: 1 (default) launches a program on a GPU as one CUDA graph, 0 kernel by
  kernel; with CUDA_LAUNCH_BLOCKING=1 besides, an error names its kernel.
* ``VTC_CUDA_GUARD``: 1 takes each tensor's memory from the GPU by itself and gives it back at once,
  so that compute-sanitizer sees accesses outside of it; slow. Default 0.
* ``VTC_TUNE``: which candidates of kernels for a GPU are measured where there is no decision yet:
  ``off`` none, ``fast`` (default) a few of matrix products and attention, ``full`` all.

The environment is read once, at the first :func:`config`; an empty variable counts as unset::

    with config.override(check=0):
        ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict, Unpack, cast, final

from vtc.errors import ConfigError

Check = Literal[0, 1, 2]
Tune = Literal["off", "fast", "full"]
MOST_THREADS = 1024
LONGEST = 1e6
"""Seconds beyond which a timeout is a mistake."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of this process; the module docstring says what each one means."""

    cache_dir: Path
    cc: str | None
    check: Check
    dump: Path | None
    cache_size: int
    num_threads: int
    compile_timeout: float
    cuda_graphs: bool
    cuda_guard: bool
    tune: Tune

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Config:
        """The settings ``environment`` asks for; ConfigError where a value makes no sense."""
        return cls(
            cache_dir=_path(environment, "VTC_CACHE_DIR") or _cache_home(environment) / "vtc",
            cc=environment.get("CC") or None,
            check=_check(environment, "VTC_CHECK"),
            dump=_path(environment, "VTC_DUMP"),
            cache_size=_positive(environment, "VTC_CACHE_SIZE") or 64,
            num_threads=_threads(environment, "VTC_NUM_THREADS"),
            compile_timeout=_seconds(environment, "VTC_COMPILE_TIMEOUT") or 600.0,
            cuda_graphs=_switch(environment, "VTC_CUDA_GRAPHS", "1"),
            cuda_guard=_switch(environment, "VTC_CUDA_GUARD", "0"),
            tune=_tune(environment, "VTC_TUNE"),
        )


class Fields(TypedDict, total=False):
    """The settings :func:`override` can replace: the fields of :class:`Config`."""

    cache_dir: Path
    cc: str | None
    check: Check
    dump: Path | None
    cache_size: int
    num_threads: int
    compile_timeout: float
    cuda_graphs: bool
    cuda_guard: bool
    tune: Tune


_current: Config | None = None


def config() -> Config:
    """The settings in force."""
    global _current
    if _current is None:
        _current = Config.read(os.environ)
    return _current


def cores() -> int:
    """The cores this process may run on, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(*, without: tuple[str, ...]) -> dict[str, str]:
    """What a child process gets: the variables that do not begin with any of ``without``."""
    return {name: text for name, text in os.environ.items() if not name.startswith(without)}


@contextmanager
def override(**fields: Unpack[Fields]) -> Iterator[Config]:
    """Other settings for the length of a ``with`` block, in every thread; for tests."""
    global _current
    before = config()
    _current = replace(before, **fields)
    try:
        yield _current
    finally:
        _current = before


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name)
    if not text:
        return None
    path = Path(text).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{name}: expected a directory, got the file {text!r}")
    return path


def _cache_home(environment: Mapping[str, str]) -> Path:
    """XDG base directories: a relative path is invalid and ignored."""
    home = Path(environment.get("XDG_CACHE_HOME", ""))
    return home if home.is_absolute() else Path.home() / ".cache"


def _check(environment: Mapping[str, str], name: str) -> Check:
    text = environment.get(name) or "1"
    if text not in ("0", "1", "2"):
        raise ConfigError(f"{name}: expected 0, 1 or 2, got {text!r}")
    return cast(Check, int(text))


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    text = environment.get(name) or default
    if text not in ("0", "1"):
        raise ConfigError(f"{name}: expected 0 or 1, got {text!r}")
    return text == "1"


def _tune(environment: Mapping[str, str], name: str) -> Tune:
    text = environment.get(name) or "fast"
    if text not in ("off", "fast", "full"):
        raise ConfigError(f"{name}: expected off, fast or full, got {text!r}")
    return cast(Tune, text)


def _positive(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name}: expected a positive integer, got {text!r}")
    return int(text)


def _threads(environment: Mapping[str, str], name: str) -> int:
    asked = _positive(environment, name)
    if asked is not None and asked > MOST_THREADS:
        raise ConfigError(f"{name}: expected at most {MOST_THREADS}, got {asked}")
    return asked or min(cores(), MOST_THREADS)


def _seconds(environment: Mapping[str, str], name: str) -> float | None:
    text = environment.get(name)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < LONGEST:
        raise ConfigError(f"{name}: expected a positive number of seconds, got {text!r}")
    return seconds
