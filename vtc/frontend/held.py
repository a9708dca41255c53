"""The tensors that exported programs hold: one weight for each storage, whoever reaches it.

held = Held()
params = held.params(traced)         # FromInput(0), FromWeight("up.weight"), ...
held.weights["up.weight"]            # f32[512, 256], and whether an entry writes it
held.arrays()                        # their elements now, by name
held.stored()                        # the names of those that a state_dict has
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any, final

import numpy as np

from vtc.errors import CaptureError
from vtc.frontend.functions.random import _defaults
from vtc.frontend.inputs import Source, layout
from vtc.frontend.tensor import Tensor, concrete_type
from vtc.frontend.trace import Traced
from vtc.ir.types import Array, TensorType, f32
from vtc.runtime.cuda.array import DeviceArray
from vtc.runtime.signature import FromInput, FromWeight, Param, Weight


@final
class Held:
    """See the module."""

    def __init__(self) -> None:
        self.weights: dict[str, Weight] = {}
        self._names: dict[Hashable, str] = {}
        self._sources: dict[str, Source] = {}
        self._places: dict[int, Hashable] = {}
        self._groups: dict[int, int] = {}

    def params(self, traced: Traced) -> tuple[Param, ...]:
        """Where each input of the program comes from; new tensors become weights."""
        entry, facts = traced.program.entry, traced.program.facts
        return tuple(
            [
                self.param(source, fact.path or node.name, node.tensor, fact.overwritten)
                for source, fact, node in zip(traced.sources, facts, entry.params, strict=True)
            ]
        )

    def param(self, source: Source, name: str, type: TensorType, written: int | None) -> Param:
        """Where one input comes from; ``name`` is what a new weight is called."""
        if source.index >= 0 and source.kind in ("argument", "number"):
            return FromInput(source.index)
        name = self._name(source, name)
        state = written is not None or source.kind == "hyper"
        before = self.weights.get(name)
        shape = tuple([int(n) for n in type.shape if isinstance(n, int)])
        state = state or (before is not None and before.state)
        self.weights[name] = Weight(type.dtype, shape, state)
        return FromWeight(name)

    def weight(self, source: Source) -> str:
        """The name of a weight that is an input of some program."""
        return self._names[self._key(source)]

    def arrays(self) -> dict[str, Array]:
        """The elements of every weight, dense, on the host."""
        return {name: self._array(self._sources[name]) for name in sorted(self.weights)}

    def stored(self) -> set[str]:
        """The weights that are Parameters or persistent Buffers: what files of weights have."""
        return {
            name
            for name, source in self._sources.items()
            if source.kind == "tensor" and _tensor(source)._kind in ("parameter", "buffer")
        }

    def _name(self, source: Source, wanted: str) -> str:
        key = self._key(source)
        if key not in self._names:
            if source.kind == "hyper":
                wanted = self._option(source)
            elif source.made_here:
                wanted = "constant"
            elif any(source.tensor is g._state for g in _defaults.values()):
                wanted = "generator"
            name, k = wanted, 1
            while name in self._sources:
                name, k = f"{wanted}_{k}", k + 1
            self._names[key] = name
            self._sources[name] = source
        return self._names[key]

    def _option(self, source: Source) -> str:
        """``param_groups.0.lr``; groups are counted as they are met."""
        assert source.option is not None
        group, key, index = source.option
        number = self._groups.setdefault(group, len(self._groups))
        return f"param_groups.{number}.{key}" + (f".{index}" if index >= 0 else "")

    def _key(self, source: Source) -> Hashable:
        if source.kind == "hyper":
            return source.option
        x = _tensor(source)
        if source.made_here:
            array = self._array(source)
            return str(concrete_type(x)), hashlib.sha256(array.tobytes()).hexdigest()
        key = layout(x), concrete_type(x)
        known = self._places.setdefault(id(x._storage), key)
        if known != key:
            name = self._names[id(x._storage), known]
            raise CaptureError(
                f"export: expected tensors that share no memory, or are the same, got {name} and "
                f"another view of it, {concrete_type(x)}; hold one of them, and cut the views from "
                "it in the function"
            )
        return id(x._storage), key

    def _array(self, source: Source) -> Array:
        if source.kind == "hyper":
            return np.asarray(source.read() if source.read else 0.0, f32.numpy)
        array: Any = _tensor(source)._array
        if isinstance(array, DeviceArray):
            array = _tensor(source).detach().cpu()._array
        return np.ascontiguousarray(array).reshape(array.shape)


def _tensor(source: Source) -> Tensor:
    """The tensor behind a ``tensor`` or ``grad`` source."""
    x = source.tensor
    if x is not None and source.kind == "grad":
        x = x._grad
    if x is None:
        raise CaptureError("export: expected a tensor the function holds, got one of its arguments")
    return x
