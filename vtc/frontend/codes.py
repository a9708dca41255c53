"""What a function's bytecode names: globals, attributes, and which of them it sets.

Names are all that a trace knows of what code may read or change without running it::

    global_names(f.__code__)   # ("model", "F")
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

LOOKS = frozenset({
    "getattr", "hasattr", "setattr", "vars", "dir", "eval", "exec", "locals", "__dict__",
    "__getattribute__", "__getstate__", "__slots__", "attrgetter", "asdict", "astuple", "replace",
    "fields", "copy", "deepcopy", "dumps", "dump", "format", "format_map", "getmembers",
    "getattr_static", "pformat", "pprint", "globals",
})  # fmt: skip
"""By which code reads attributes that it does not mention."""


@lru_cache(maxsize=1024)
def is_user_module(name: str) -> bool:
    """Whether a Python module is neither vtc's nor Python's own; those of namedtuples are not."""
    top = name.partition(".")[0]
    own = top in ("vtc", "numpy") or top.startswith("namedtuple_")
    return not own and top not in sys.stdlib_module_names


@lru_cache(maxsize=4096)
def global_names(code: CodeType) -> tuple[str, ...]:
    """The globals that ``code`` and the functions inside it read."""
    found = _named(code, "LOAD_GLOBAL", "LOAD_NAME")
    for inner in inner_codes(code):
        found += global_names(inner)
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=4096)
def set_names(code: CodeType) -> tuple[str, ...]:
    """The attributes that ``code`` sets or deletes."""
    return _named(code, "STORE_ATTR", "DELETE_ATTR")


@lru_cache(maxsize=4096)
def set_globals(code: CodeType) -> tuple[str, ...]:
    """The globals that ``code`` sets or deletes."""
    return _named(code, "STORE_GLOBAL", "DELETE_GLOBAL")


@lru_cache(maxsize=4096)
def set_cells(code: CodeType) -> frozenset[str]:
    """The variables of functions around it that ``code`` sets or deletes."""
    return frozenset(_named(code, "STORE_DEREF", "DELETE_DEREF")) & frozenset(code.co_freevars)


def mentioned(code: CodeType) -> Iterator[str]:
    """Every name, attributes included, in ``code`` and the functions inside it."""
    yield from code.co_names
    for names in code.co_consts:  # keywords, and attributes in patterns of match
        if isinstance(names, tuple):
            yield from (n for n in names if isinstance(n, str))
    for inner in inner_codes(code):
        yield from mentioned(inner)


def inner_codes(code: CodeType) -> list[CodeType]:
    """The functions inside ``code``."""
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _named(code: CodeType, *ops: str) -> tuple[str, ...]:
    found = [str(i.argval) for i in dis.get_instructions(code) if i.opname in ops]
    return tuple(dict.fromkeys(found))
