"""The example in a package: the arguments it was exported with, and what they give.

    tensors = run_example(subject, found, entry, arrays)
    tensors["in0"], tensors["out0"]

The program runs as a compiled function runs, on this machine's CPU, on copies: what the function
holds stays as it is. ``in0`` is leaf 0 of the arguments, ``out0`` leaf 0 of the results; leaves
that are no tensors or numbers are left out. A tensor that is an argument, or held, is there as it
is after the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vtc.build import compile_program, context_for
from vtc.frontend.tensor import CPU, Tensor
from vtc.frontend.variants import Found, Subject
from vtc.ir.types import Array
from vtc.runtime.signature import Entry, FromInput, FromOutput, FromSize, FromWeight, Value


def run_example(
    subject: Subject, found: Sequence[Found], entry: Entry, held: Mapping[str, Array]
) -> dict[str, Array]:
    """The inputs and outputs by name."""
    given = {
        i: _array(leaf)
        for i, leaf in enumerate(subject.leaves)
        if isinstance(leaf, (Tensor, float))
    }
    k, variant = next((k, v) for k, v in enumerate(found) if _serves(v, subject.sizes))
    params = entry.variants[k].params
    weights = {p.name: held[p.name].copy() for p in params if isinstance(p, FromWeight)}
    inputs = {i: a.copy() for i, a in given.items()}
    arrays = [inputs[p.index] if isinstance(p, FromInput) else weights[p.name] for p in params]
    made = compile_program(variant.traced.program, context_for(CPU)).run(arrays)
    tensors = {f"in{i}": a for i, a in given.items()}
    for i, result in enumerate(entry.results):
        match result:
            case FromOutput(index):
                tensors[f"out{i}"] = made[index]
            case FromInput(index) if index in inputs:
                tensors[f"out{i}"] = inputs[index]
            case FromWeight(name):
                tensors[f"out{i}"] = weights[name]
            case FromInput() | FromSize() | Value():
                pass
    return tensors


def _serves(found: Found, sizes: Mapping[str, int]) -> bool:
    return all(
        d.min <= sizes[d.name] and (d.max is None or sizes[d.name] <= d.max) for d in found.dims
    )


def _array(leaf: Tensor | float) -> Array:
    if isinstance(leaf, float):
        return np.asarray(leaf, np.float64)
    array = leaf.detach().cpu()._array
    assert array is not None
    return np.ascontiguousarray(array).reshape(array.shape)
