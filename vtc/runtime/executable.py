"""A plan that can be called: immutable, and callable from many threads at once.

A call leases an instance (argument arrays and an arena) from a bounded pool. Outputs are fresh
arrays; an output that overwrites an input is that input's own array, written in place. Calls that
overwrite the same memory wait for each other, whichever executables they are of::

    y, w = executable.run([x, w])
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np

from vtc.errors import ArgumentError, IndexRangeError
from vtc.ir.dims import Size, Sym, substitute
from vtc.ir.plan import Copy, Plan
from vtc.ir.types import Array
from vtc.runtime.buffer import address, empty, lease
from vtc.runtime.cpu import Entry, integers, pointer, pointers
from vtc.runtime.lease import Claims, Pool

INSTANCES = 8
"""Calls of one executable that run at once; further ones wait."""

SIZES = 256
"""Bindings of the dims whose shapes are remembered."""

_BYTES = np.dtype(np.uint8)
_CLAIMS = Claims()


@final
class Executable:
    """See the module."""

    def __init__(self, plan: Plan, entry: Entry, threads: ctypes.c_void_p) -> None:
        self.plan = plan
        self._entry = entry
        self._threads = threads
        self._over = _overwriting(plan)
        self._written = tuple(p for p, b in enumerate(plan.inputs) if b.overwritten is not None)
        self._sites = _sites(plan)
        self._sizes: dict[tuple[int, ...], _Sizes] = {}
        self._pool = Pool(self._instance, INSTANCES)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs. ``inputs`` fit the plan: the caller knows, or has called ``check``."""
        if not self._written:
            return self._call(inputs)
        mine = frozenset([address(inputs[p]) for p in self._written])
        _CLAIMS.take(mine)
        try:
            return self._call(inputs)
        finally:
            _CLAIMS.give_back(mine)

    def check(self, inputs: Sequence[Array]) -> None:
        """ArgumentError unless ``run`` can take ``inputs``."""
        plan = self.plan
        if len(inputs) != len(plan.inputs):
            raise ArgumentError(
                f"{plan.name}: expected {len(plan.inputs)} arrays, got {len(inputs)}"
            )
        for b, a in zip(plan.inputs, inputs, strict=True):
            if a.dtype != b.dtype.numpy or a.ndim != len(b.shape):
                raise _mismatch(b.path or plan.name, str(b.type), a)
        values = {
            d.name: inputs[p].shape[axis]
            for d, (p, axis) in zip(plan.dims, self._sites, strict=True)
        }
        for d in plan.dims:
            n = values[d.name]
            if n < d.min or (d.max is not None and n > d.max) or n % d.multiple:
                raise ArgumentError(f"{plan.name}: expected {d}, got {n}")
        for b, a in zip(plan.inputs, inputs, strict=True):
            if a.shape != _shape(b.shape, values):
                raise _mismatch(b.path or plan.name, str(b.type), a)

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        sites = self._sites
        key = tuple([inputs[p].shape[axis] for p, axis in sites]) if sites else ()
        sizes = self._sizes.get(key) or self._bind(key)
        instance = self._pool.take()
        try:
            arrays = self._place(instance, inputs)
            outputs = self._allocate(instance, arrays, sizes)
            code = self._entry(*instance.arguments(sizes))
        finally:
            self._pool.give_back(instance)
        if code:
            raise self._failure(code - 1)
        return outputs if arrays is inputs else self._restore(inputs, arrays, outputs)

    def _instance(self) -> _Instance:
        return _Instance(len(self.plan.inputs), len(self.plan.outputs), self._threads)

    def _bind(self, key: tuple[int, ...]) -> _Sizes:
        values: dict[str, Size] = {d.name: n for d, n in zip(self.plan.dims, key, strict=True)}
        outputs = tuple(
            (
                over,
                _shape(b.shape, values),
                b.dtype.numpy,
                cast("int", substitute(b.nbytes, values)),
            )
            for over, b in zip(self._over, self.plan.outputs, strict=True)
        )
        made = _Sizes(outputs, cast("int", substitute(self.plan.arena, values)), integers(key))
        if len(self._sizes) >= SIZES:
            self._sizes.clear()
        self._sizes[key] = made
        return made

    def _place(self, instance: _Instance, inputs: Sequence[Array]) -> Sequence[Array]:
        """Fill in the inputs; the arrays that are read, ``inputs`` itself unless one was copied."""
        arrays: Sequence[Array] = inputs
        slots = instance.inputs
        for p, a in enumerate(inputs):
            if not a.flags.carray:
                a = self._dense(p, a)
                if a is not inputs[p]:
                    arrays = list(arrays)
                    arrays[p] = a
            slots[p] = address(a)
        return arrays

    def _dense(self, p: int, a: Array) -> Array:
        """``a`` as kernels read it: aligned, row-major, and writable where it is overwritten."""
        if not a.flags.writeable and p in self._written:
            name = self.plan.inputs[p].path or f"input {p}"
            raise ArgumentError(f"{name}: expected an array to overwrite, got a read-only one")
        if a.flags.c_contiguous and a.flags.aligned:
            return a
        dense = empty(a.shape, a.dtype)
        np.copyto(dense, a)
        return dense

    def _allocate(self, instance: _Instance, arrays: Sequence[Array], sizes: _Sizes) -> list[Array]:
        slots = instance.outputs
        outputs = [
            lease(shape, dtype, nbytes) if over is None else arrays[over]
            for over, shape, dtype, nbytes in sizes.outputs
        ]
        for i, out in enumerate(outputs):
            slots[i] = address(out)
        return outputs

    def _restore(
        self, inputs: Sequence[Array], arrays: Sequence[Array], outputs: list[Array]
    ) -> list[Array]:
        """Write what was overwritten in a copy back to the caller's array."""
        for i, over in enumerate(self._over):
            if over is not None and arrays[over] is not inputs[over]:
                np.copyto(inputs[over], arrays[over])
                outputs[i] = inputs[over]
        return outputs

    def _failure(self, index: int) -> IndexRangeError:
        step = self.plan.steps[index]
        note = "" if isinstance(step, Copy) else step.note
        message = "index: expected an index inside its axis, got one outside it"
        return IndexRangeError(f"{message}\n  at {note}" if note else message)


@final
@dataclass(frozen=True, slots=True)
class _Sizes:
    """What follows from one binding of the dims."""

    outputs: tuple[tuple[int | None, tuple[int, ...], np.dtype[Any], int], ...]
    """Of each output: the input it overwrites (or None), shape, dtype, bytes."""
    arena: int
    dims: Any


@final
class _Instance:
    """The arguments of one call; the arena stays for the next one, until the executable dies."""

    __slots__ = ("_arena", "_arguments", "_sizes", "_threads", "inputs", "outputs")

    def __init__(self, inputs: int, outputs: int, threads: ctypes.c_void_p) -> None:
        self._threads = threads
        self.inputs = pointers(inputs)
        self.outputs = pointers(outputs)
        self._arena = empty((0,), _BYTES)
        self._sizes: _Sizes | None = None
        self._arguments: tuple[Any, Any, Any, Any, Any] | None = None

    def arguments(self, sizes: _Sizes) -> tuple[Any, Any, Any, Any, Any]:
        """What the entry takes."""
        if self._sizes is sizes and self._arguments is not None:
            return self._arguments
        if self._arena.size < sizes.arena:
            self._arena = empty((sizes.arena,), _BYTES)
        arena = pointer(address(self._arena))
        self._sizes = sizes
        self._arguments = made = (self.inputs, self.outputs, arena, sizes.dims, self._threads)
        return made


def _overwriting(plan: Plan) -> tuple[int | None, ...]:
    """For each output the input it overwrites, or None."""
    over = {b.overwritten: p for p, b in enumerate(plan.inputs) if b.overwritten is not None}
    return tuple(over.get(i) for i in range(len(plan.outputs)))


def _sites(plan: Plan) -> tuple[tuple[int, int], ...]:
    """For each dim an input and an axis that have its size."""
    found: dict[Size, tuple[int, int]] = {}
    for p, b in enumerate(plan.inputs):
        for axis, size in enumerate(b.shape):
            if isinstance(size, Sym):
                found.setdefault(size, (p, axis))
    return tuple(found[d.sym] for d in plan.dims)


def _shape(shape: Sequence[Size], values: dict[str, Any]) -> tuple[int, ...]:
    return tuple(cast("int", substitute(s, values)) for s in shape)


def _mismatch(name: str, expected: str, got: Array) -> ArgumentError:
    return ArgumentError(f"{name}: expected {expected}, got an array {got.dtype}{list(got.shape)}")
