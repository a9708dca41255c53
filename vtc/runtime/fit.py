"""What the arrays of a call must be for a plan, and what follows from their shapes.

Executables of every device share it::

    fit = Fit(plan)
    fit.check([x, w])                     # ArgumentError: x: expected f32[B, 4], got ...
    fit.key([x, w])                       # (64,): the dims, in the plan's order
    fit.values((64,))                     # {"B": 64}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

from vtc.errors import ArgumentError, IndexRangeError
from vtc.ir.dims import Size, Sym, substitute
from vtc.ir.plan import Copy, Plan
from vtc.ir.types import Array


@final
class Fit:
    """See the module. ``over``: for each output the input it overwrites, or None; ``written``: the
    inputs that are overwritten; ``sites``: for each dim an input and an axis that have its size.
    """

    __slots__ = ("over", "plan", "sites", "written")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        over = {b.overwritten: p for p, b in enumerate(plan.inputs) if b.overwritten is not None}
        self.over = tuple(over.get(i) for i in range(len(plan.outputs)))
        self.written = tuple(p for p, b in enumerate(plan.inputs) if b.overwritten is not None)
        self.sites = _sites(plan)

    def key(self, inputs: Sequence[Array]) -> tuple[int, ...]:
        """The values of the dims, in the order of ``Plan.dims``."""
        return tuple([inputs[p].shape[axis] for p, axis in self.sites]) if self.sites else ()

    def values(self, key: Sequence[int]) -> dict[str, Size]:
        """The values of the dims, by name."""
        return {d.name: n for d, n in zip(self.plan.dims, key, strict=True)}

    def check(self, inputs: Sequence[Array]) -> None:
        """ArgumentError unless a call can take ``inputs``."""
        plan = self.plan
        if len(inputs) != len(plan.inputs):
            raise ArgumentError(
                f"{plan.name}: expected {len(plan.inputs)} arrays, got {len(inputs)}"
            )
        for b, a in zip(plan.inputs, inputs, strict=True):
            if a.dtype != b.dtype.numpy or a.ndim != len(b.shape):
                raise _mismatch(b.path or plan.name, str(b.type), a)
        key = self.key(inputs)
        for d, n in zip(plan.dims, key, strict=True):
            if n < d.min or (d.max is not None and n > d.max) or n % d.multiple:
                raise ArgumentError(f"{plan.name}: expected {d}, got {n}")
        values = self.values(key)
        for b, a in zip(plan.inputs, inputs, strict=True):
            if a.shape != shape_at(b.shape, values):
                raise _mismatch(b.path or plan.name, str(b.type), a)

    def read_only(self, p: int) -> ArgumentError:
        """What to say when input ``p`` is to be overwritten and cannot be."""
        name = self.plan.inputs[p].path or f"input {p}"
        return ArgumentError(f"{name}: expected an array to overwrite, got a read-only one")

    def out_of_range(self, step: int) -> IndexRangeError:
        """What to say when ``step`` met an index outside its axis."""
        launch = self.plan.steps[step]
        message = "index: expected an index inside its axis, got one outside it"
        note = "" if isinstance(launch, Copy) else launch.note
        return IndexRangeError(f"{message}\n  at {note}" if note else message)


def dense(a: Array) -> bool:
    """Whether kernels can read ``a``: aligned for its dtype and row-major."""
    return a.flags.c_contiguous and a.flags.aligned


def shape_at(shape: Sequence[Size], values: dict[str, Any]) -> tuple[int, ...]:
    """A shape of numbers."""
    return tuple(cast("int", substitute(s, values)) for s in shape)


def size_at(size: Size, values: dict[str, Any]) -> int:
    """A size as a number."""
    return cast("int", substitute(size, values))


def _sites(plan: Plan) -> tuple[tuple[int, int], ...]:
    found: dict[Size, tuple[int, int]] = {}
    for p, b in enumerate(plan.inputs):
        for axis, size in enumerate(b.shape):
            if isinstance(size, Sym):
                found.setdefault(size, (p, axis))
    return tuple(found[d.sym] for d in plan.dims)


def _mismatch(name: str, expected: str, got: Array) -> ArgumentError:
    return ArgumentError(f"{name}: expected {expected}, got an array {got.dtype}{list(got.shape)}")
