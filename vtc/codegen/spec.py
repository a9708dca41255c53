"""What every kernel template may mention, beside the fields of its own family's spec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from vtc.codegen.region import Elements
from vtc.codegen.scalar import STORAGE
from vtc.codegen.sizes import c_text
from vtc.codegen.trace import Statement
from vtc.ir.dims import Size, product
from vtc.ir.graph import Node


@final
@dataclass(frozen=True, slots=True)
class Argument:
    """A pointer the kernel takes."""

    ctype: str
    name: str


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """``count`` iterations are shared, ``unit`` at a time; ``work`` is what they cost in loads."""

    count: str
    unit: int
    work: Size


@final
@dataclass(frozen=True, slots=True)
class Head:
    """The signature of a kernel and what its body relies on.

    ``needs`` are the parts of the prelude; ``guards`` are conditions under which an index must be
    wrong; ``checks`` says that indices are checked into ``err``; without ``parts`` it runs as one.
    """

    args: tuple[Argument, ...]
    sizes: tuple[str, ...]
    needs: tuple[str, ...]
    guards: tuple[str, ...]
    checks: bool
    parts: Parts | None


@final
@dataclass(frozen=True, slots=True)
class Level:
    """A loop from ``start`` to ``extent``, the scalars computed first thing in its body, and the
    pragma before it (or "").
    """

    var: str
    extent: str
    lets: tuple[Statement, ...]
    pragma: str = ""
    start: str = "0"
    step: str = "1"


@final
@dataclass(frozen=True, slots=True)
class Several:
    """Kernels of a region that run one after the other, with pointers to ``scratch`` memory of so
    many bytes each after all others.
    """

    specs: tuple[Any, ...]
    scratch: tuple[Size, ...]


def head(
    elements: Elements,
    shape: Sequence[Size],
    *statements: Iterable[Statement],
    parts: Parts | None = None,
) -> Head:
    """The head of the kernel of a region that visits ``shape`` and runs ``statements``."""
    region, trace = elements.region, elements.trace
    params, outputs = region.graph.params, region.graph.outputs
    inputs = [Argument(f"const {_storage(p)}", f"x{k}") for k, p in enumerate(params)]
    results = [Argument(_storage(o), f"y{k}") for k, o in enumerate(outputs)]
    some = c_text(product(shape), trace.facts)
    guards = (f"{c_text(g, trace.facts)} < 1 && {some} > 0" for g in trace.guards)
    checks = any(s.raises for part in statements for s in part)
    return Head(
        args=(*inputs, *results),
        sizes=tuple(f"n{k}" for k in range(len(region.symbols))),
        needs=tuple(sorted(trace.needs)),
        guards=tuple(dict.fromkeys(guards)) if checks else (),
        checks=checks,
        parts=parts,
    )


def _storage(node: Node) -> str:
    return STORAGE[node.tensor.dtype.name]
