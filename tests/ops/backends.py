"""What runs programs, as data: each entry is tested against float64 on every sample it takes.

To add a backend, add an entry whose ``run`` maps a program and its arrays to the list of outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scalars_in_python import PythonScalars, by_elements

from vtc.ir.evaluate import evaluate
from vtc.ir.op import Pointwise
from vtc.ir.ops.reduce import ArgReduction, Reduction
from vtc.ir.types import DType, bf16, f16, f32, i64


@dataclass(frozen=True)
class Backend:
    """``dtypes`` are those float inputs are given in; ``takes`` says which ops it can run."""

    name: str
    run: Callable
    dtypes: tuple[DType, ...] = (f32, f16, bf16)
    takes: Callable = lambda op: True


def of(*families):
    """Takes ops of these families."""
    return lambda op: isinstance(op, families)


def run_elements(program, *arrays):
    """``element`` of the one op of a program, index by index."""
    with np.errstate(all="ignore"):
        return [by_elements(program.entry.nodes[0].op, *arrays)]


def run_combine(program, *arrays):
    """``identity`` and ``combine`` of the one reduction of a program, in halves as a tree would."""
    (node, *_), (x,) = program.entry.nodes, arrays
    axes = node.op.axes if isinstance(node.op, Reduction) else (node.op.axis,)
    found = np.empty(node.tensor.shape, node.tensor.dtype.numpy)
    rows = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    rows = rows.reshape(*found.shape, math.prod(x.shape[a] for a in axes))
    for index in np.ndindex(*found.shape):
        found[index] = combined(node.op, rows[index], node.inputs[0].tensor.dtype.accumulate)
    return [found]


def combined(op, row, dtype):
    """``row`` reduced in ``dtype``."""
    s = PythonScalars()
    if isinstance(op, Reduction):
        nothing, parts = s.const(op.identity(dtype), dtype), [s.const(e, dtype) for e in row]
        return halves(lambda a, b: op.combine(s, a, b), nothing, parts).value
    value, last = op.identity(dtype)
    nothing = s.const(value, dtype), s.const(last, i64)
    pairs = [(s.const(e, dtype), s.const(i, i64)) for i, e in enumerate(row)]
    return halves(lambda a, b: op.combine(s, b, a), nothing, pairs)[1].value


def halves(combine, nothing, parts):
    """The combination of ``parts``, of which there may be none."""
    if len(parts) < 2:
        return combine(nothing, *parts) if parts else nothing
    half = len(parts) // 2
    return combine(halves(combine, nothing, parts[:half]), halves(combine, nothing, parts[half:]))


BACKENDS = (
    Backend("reference", evaluate),
    Backend("elements", run_elements, (f32, bf16), of(Pointwise)),
    Backend("combine", run_combine, (f32, bf16), of(Reduction, ArgReduction)),
)
