"""The options of ``vtc.compile``, and what becomes of PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable

from vtc.errors import ArgumentError
from vtc.frontend.source import located

_OWN = "it has dynamic, name and recompute"
_ELSEWHERE = {
    "fullgraph": "a function is always one graph",
    "mode": "CUDA graphs are always on, and VTC_TUNE=full measures more kernels",
    "backend": "the device of the tensors decides",
    "disable": "call the function itself",
}


def check_options(dynamic: object, name: object, recompute: object, others: Iterable[str]) -> None:
    """ArgumentError for values that do not fit, and for ``others``: options that are not there."""
    for want, got, fits in (
        ("dynamic to be None, True or False", dynamic, isinstance(dynamic, bool | None)),
        ("name to be an identifier", name, isinstance(name, str) and f"{name}_".isidentifier()),
        ("recompute to be True or False", recompute, isinstance(recompute, bool)),
    ):
        if not fits:
            raise located(ArgumentError, f"compile: expected {want}, got {got!r}")
    for other in others:
        raise located(ArgumentError, f"compile: no option {other!r}; {_ELSEWHERE.get(other, _OWN)}")
