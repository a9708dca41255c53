"""Where the user is.

The line that called vtc, and the path of modules being run (``blocks.3.attn``).
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from vtc.errors import VtcError, at_line
from vtc.ir.graph import Loc

ROOT = str(Path(__file__).resolve().parents[1]) + "/"
COMMAND = f"{ROOT}__main__.py"
"""What is outside of this runs vtc, and is nothing that a user wrote."""
_NOT_USERS = (ROOT, "<frozen ", copy.__file__)
E = TypeVar("E", bound=VtcError)


class _Modules(threading.local):
    def __init__(self) -> None:
        self.path: list[str] = []
        self.excerpts: list[Callable[[], str]] = []


_modules = _Modules()


@contextmanager
def tracing(excerpt: Callable[[], str]) -> Iterator[None]:
    """Errors raised inside also show ``excerpt()``: what was recorded so far."""
    _modules.excerpts.append(excerpt)
    try:
        yield
    finally:
        _modules.excerpts.pop()


@contextmanager
def module_scope(name: str) -> Iterator[None]:
    """Values made inside come from the module called ``name`` (empty: the root)."""
    _modules.path.append(name)
    try:
        yield
    finally:
        _modules.path.pop()


def module_path() -> str:
    """The path of the module being run, without the root."""
    return ".".join(n for n in _modules.path if n)


def is_user_file(file: str) -> bool:
    """Whether ``file`` is outside vtc, and not a part of Python that runs other files."""
    return not file.startswith(_NOT_USERS)


def user_frame() -> FrameType | None:
    """The innermost frame of a user's file; none where the ``vtc`` command runs but vtc itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (file := frame.f_code.co_filename).startswith(_NOT_USERS):
        frame = None if file == COMMAND else frame.f_back
    return frame


def user_level() -> int:
    """The ``stacklevel``, seen from the caller, of the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and not is_user_file(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level


def user_loc() -> Loc | None:
    """The user's line, with the module path; line 0 of the command where it has a path alone."""
    frame, path = user_frame(), module_path()
    if frame is None:
        return Loc("vtc", 0, path) if path else None
    return Loc(frame.f_code.co_filename, frame.f_lineno, path)


def located(kind: type[E], message: str) -> E:
    """An error of ``kind`` that says where the user is.

    ``raise located(TypeCheckError, "...")``.
    """
    frame, text = user_frame(), message
    if frame is not None:
        where = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
        text = at_line(message, frame.f_code.co_filename, frame.f_lineno, where)
    return kind("\n".join([text, *(show() for show in _modules.excerpts[-1:])]))
