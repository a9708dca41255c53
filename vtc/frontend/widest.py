"""As many symbolic sizes as a function can be traced with.

A size may be symbolic and still have one value only: the channels of an image that meets a weight,
the columns of what goes through a Linear, a size that the code takes ``int()`` of. Which ones these
are shows when the function is traced::

    request, traced, why = widest(request)   # x: f32[x_0, 3, x_2, x_2]: 3 channels, whatever else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vtc.errors import VtcError
from vtc.frontend.sizes import Fixed
from vtc.frontend.trace import Request, Traced, trace
from vtc.ir.dims import Dim, substitute, symbols


def widest(request: Request) -> tuple[Request, Traced, str]:
    """``request`` with those of its dims that can vary, what was traced, and why others cannot.

    A dim can vary if the function can be traced while all others are fixed. VtcError if the
    function cannot be traced with fixed sizes either.
    """
    try:
        return _traced(request)
    except VtcError as error:
        why = str(error).splitlines()[0]
    able = [d for d in request.dims if len(request.dims) > 1 and _varies(request, d)]
    while able:
        try:
            wide, traced, _ = _traced(part(request, able))
        except VtcError:  # each alone, but not together
            able.pop()
        else:
            return wide, traced, why
    fixed = part(request, ())
    return fixed, trace(fixed), why


def covers(request: Request, leaves: Sequence[Any]) -> bool:
    """Whether the symbolic types of ``request`` fit these arguments."""
    ranges = {d.name: (d.min, d.max) for d in request.dims}
    values: dict[str, int] = {}
    for i, type in request.types.items():
        for s, n in zip(type.shape, leaves[i].shape, strict=True):
            if isinstance(s, int):
                if s != n:
                    return False
                continue
            (name,) = symbols(s)
            lo, hi = ranges[name]
            if values.setdefault(name, n) != n or n < lo or (hi is not None and n > hi):
                return False
    return True


def part(request: Request, dims: Sequence[Dim]) -> Request:
    """``request`` where only ``dims`` are symbolic; all others have their values in this call."""
    kept = {d.name for d in dims}
    fixed = {name: n for name, n in request.values.items() if name not in kept}
    types = {
        i: t.with_shape([substitute(n, fixed) for n in t.shape]) for i, t in request.types.items()
    }
    values = {name: n for name, n in request.values.items() if name in kept}
    return replace(request, types=types, dims=tuple(dims), values=values)


def _varies(request: Request, dim: Dim) -> bool:
    try:
        return dim in _traced(part(request, [dim]))[0].dims
    except VtcError:
        return False


def _traced(request: Request) -> tuple[Request, Traced, str]:
    """A trace where sizes are fixed that the code asks to be, and why."""
    why = ""
    while True:
        try:
            return request, trace(request), why
        except Fixed as asked:
            why = why or f"int() of {asked.size}"
            request = part(request, [d for d in request.dims if d.name not in asked.names])
