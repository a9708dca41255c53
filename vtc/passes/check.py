"""``VTC_CHECK=2``: a pass must not change what a program computes.

The program is evaluated once on random inputs, and again after each pass that changed it. Programs
too large for that, and inputs the program itself refuses (an index out of range, an image that is
too small), are let through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from vtc.errors import PassError, VtcError
from vtc.ir.evaluate import bound_type, evaluate
from vtc.ir.graph import Graph, Program
from vtc.ir.op import infer
from vtc.ir.types import Array, TensorType, tensors
from vtc.passes.cost import elements, nominal, value

LARGEST = 1 << 20
"""Elements of all values together above which a program is not evaluated."""

TOLERANCE = {1: 0.25, 2: 0.05, 4: 1e-3, 8: 1e-8}
"""By bytes of the dtype: relative to the largest magnitude of the output. Where a program computes
in half types, its other floats are as exact as those.
"""


@final
@dataclass
class Check:
    """Compares programs with the first one."""

    program: Program
    _inputs: list[Array] | None = field(init=False, default=None)
    _expected: tuple[Array, ...] = field(init=False, default=())
    _narrow: int = field(init=False, default=8)

    def __post_init__(self) -> None:
        sizes = nominal(self.program, 3)
        entry = self.program.entry
        if sum(elements(n.type, sizes) for n in (*entry.params, *entry.nodes)) > LARGEST:
            return
        shapes = [t.shape for n in entry.nodes for t in tensors(n.type)]
        if any(value(n, sizes) < 0 for shape in shapes for n in shape):
            return  # what the program is not for: a guard says so
        if sizes and not _takes(entry, sizes):
            return
        inputs = random_inputs(self.program, sizes, np.random.default_rng(0))
        try:
            self._expected = evaluate(self.program, *inputs)
        except VtcError:
            return
        self._inputs = inputs
        dtypes = (t.dtype for g in self.program.graphs for n in g.nodes for t in tensors(n.type))
        self._narrow = min((d.itemsize for d in dtypes if d.accumulate is not d), default=8)

    def __call__(self, name: str, before: Program, after: Program) -> None:
        """PassError if ``after`` computes something else than the first program."""
        if self._inputs is None or after is before:
            return
        found = evaluate(after, *self._inputs)
        for o, want, have in zip(before.entry.outputs, self._expected, found, strict=True):
            whole = want.dtype.kind in "iub"
            width = want.dtype.itemsize if whole else min(want.dtype.itemsize, self._narrow)
            if (error := difference(want, have)) > TOLERANCE[width]:
                got = f"got a relative error of {error:.2g}"
                raise PassError(f"{name}: expected {o.name} to keep its value, {got}", before)


def _takes(entry: Graph, sizes: dict[str, int]) -> bool:
    """Whether these sizes fit all ops: others are guarded against, as ``x[2:5]`` of 4."""
    try:
        for n in entry.nodes:
            if n.op is not None:
                infer(n.op.substitute({**sizes}), [bound_type(i.type, sizes) for i in n.inputs])
    except VtcError:
        return False
    return True


def random_inputs(program: Program, sizes: dict[str, int], rng: np.random.Generator) -> list[Array]:
    """Arrays for the params of the entry: normal floats, integers that are 0 or 1."""
    return [_random(p.tensor, sizes, rng) for p in program.entry.params]


def difference(want: Array, have: Array) -> float:
    """The largest error relative to the largest finite magnitude; infinite where NaNs or infinities
    differ."""
    if want.shape != have.shape or want.dtype != have.dtype:
        return np.inf
    if want.size == 0:
        return 0.0
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), have.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    a, b = a[finite], b[finite]
    scale = max(1.0, float(np.abs(a).max(initial=0.0)))
    with np.errstate(invalid="ignore"):
        error = float(np.abs(a - b).max(initial=0.0)) / scale
    return np.inf if np.isnan(error) else error


def _random(type: TensorType, sizes: dict[str, int], rng: np.random.Generator) -> Array:
    shape = tuple(value(s, sizes) for s in type.shape)
    if type.dtype.kind in ("int", "bool"):
        return rng.integers(0, 2, shape).astype(type.dtype.numpy)
    return rng.normal(size=shape).astype(type.dtype.numpy)
