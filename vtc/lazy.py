"""Heavy third-party packages, imported on first use.

``import vtc`` must stay quick, and must work where an optional package is missing. A file that
needs one names it at the top and uses it as ever; the first attribute read imports it::

    from vtc import lazy

    special = lazy.module("scipy.special")
    bindings = lazy.module("cuda.bindings.driver", extra="cuda13")

Where the package has type stubs, let mypy see them::

    if TYPE_CHECKING:
        import networkx as nx
    else:
        nx = lazy.module("networkx")

Nowhere else does vtc import a package inside a function.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, final


def module(name: str, *, extra: str | None = None) -> ModuleType:
    """A stand-in for the module ``name`` that imports it when an attribute is first read.

    ``extra`` is the extra of vtc that installs it: an ImportError then says how to get it.
    """
    return _LazyModule(name, extra)


def available(name: str) -> bool:
    """Whether the module ``name`` is installed; imports nothing but its parent packages."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@final
class _LazyModule(ModuleType):
    """A module's name; everything else is the module's own."""

    def __init__(self, name: str, extra: str | None) -> None:
        super().__init__(name)
        self._extra = extra

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._load(), attribute)

    def __dir__(self) -> list[str]:
        return dir(self._load())

    def __repr__(self) -> str:
        return f"<lazy module {self.__name__!r}>"

    def _load(self) -> ModuleType:
        try:
            return import_module(self.__name__)
        except ModuleNotFoundError as error:
            if self._extra is None or not _is_missing(self.__name__, error):
                raise
            raise ModuleNotFoundError(
                f"{self.__name__} is not installed: pip install 'vtc[{self._extra}]'",
                name=error.name,
            ) from None


def _is_missing(name: str, error: ModuleNotFoundError) -> bool:
    """Whether ``error`` is about ``name`` or a parent of it, not about what it imports in turn."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")
