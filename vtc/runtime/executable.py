"""A plan that can be called: immutable, and callable from many threads at once.

A call leases an instance (argument arrays and an arena) from a bounded pool. Outputs are fresh
arrays; an output that overwrites an input is that input's own array, written in place. Calls that
overwrite the same memory wait for each other, whichever executables they are of::

    y, w = executable.run([x, w])

A call that is made again and again is bound once: sizes, and inputs that stay, are looked at then::

    bound = executable.bind([x, w], varying={0: 0})
    y, = bound.run([address(x)])
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from vtc.ir.plan import Plan
from vtc.ir.types import Array
from vtc.runtime.buffer import Spare, address, empty, lease, spares
from vtc.runtime.cpu import Arguments, Entry, integers, pointer, pointers, reference
from vtc.runtime.fit import Fit, dense, shape_at, size_at
from vtc.runtime.lease import CLAIMS, Claim, Pool

INSTANCES = 8
"""Calls of one executable that run at once; further ones wait."""

SIZES = 256
"""Bindings of the dims whose shapes are remembered."""

_BYTES = np.dtype(np.uint8)
_What = tuple[tuple[int, ...], np.dtype[Any], int]
_NUMBERS = {4: ctypes.c_float, 8: ctypes.c_double}


@final
class Executable:
    """See the module."""

    def __init__(self, plan: Plan, entry: Entry, threads: ctypes.c_void_p) -> None:
        self.plan = plan
        self._entry = entry
        self._threads = threads
        self._fit = Fit(plan)
        self._over, self._written, self._sites = self._fit.over, self._fit.written, self._fit.sites
        self._sizes: dict[tuple[int, ...], _Sizes] = {}
        self._pool = Pool(self._instance, INSTANCES)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs. ``inputs`` fit the plan: the caller knows, or has called ``check``."""
        if not self._written:
            return self._call(inputs)
        claim = Claim(frozenset([address(inputs[p]) for p in self._written]))
        try:
            CLAIMS.take(claim)
            return self._call(inputs)
        finally:
            CLAIMS.give_back(claim)

    def check(self, inputs: Sequence[Array]) -> None:
        """ArgumentError unless ``run`` can take ``inputs``."""
        self._fit.check(inputs)

    def bind(
        self, inputs: Sequence[Array], varying: Mapping[int, int], numbers: Sequence[int] = ()
    ) -> Bound | None:
        """A call like that of ``inputs``, where others take the place of some of them.

        ``varying``: inputs that lie at the address in that position of those given; ``numbers``:
        0-d floats that are given as numbers. None where an input would have to be copied.
        """
        for p, a in enumerate(inputs):
            if not (a.flags.carray or (p not in self._written and dense(a))):
                return None
        return Bound(self, self._sizes_of(inputs), inputs, varying, numbers)

    def _sizes_of(self, inputs: Sequence[Array]) -> _Sizes:
        sites = self._sites
        key = tuple([inputs[p].shape[axis] for p, axis in sites]) if sites else ()
        return self._sizes.get(key) or self._bind(key)

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        sizes = self._sizes_of(inputs)
        instance = self._pool.take()  # interrupted here it dies, and the pool knows
        try:
            instance.filled = None
            arrays = self._place(instance, inputs)
            outputs = self._allocate(instance, arrays, sizes)
            code = self._entry(*instance.arguments(sizes))
        finally:
            self._pool.give_back(instance)
        if code:
            raise self._fit.out_of_range(code - 1)
        return outputs if arrays is inputs else self._restore(inputs, arrays, outputs)

    def _instance(self) -> _Instance:
        return _Instance(len(self.plan.inputs), len(self.plan.outputs), self._threads)

    def _bind(self, key: tuple[int, ...]) -> _Sizes:
        values = self._fit.values(key)
        outputs = tuple(
            (over, shape_at(b.shape, values), b.dtype.numpy, size_at(b.nbytes, values))
            for over, b in zip(self._over, self.plan.outputs, strict=True)
        )
        made = _Sizes(outputs, size_at(self.plan.arena, values), integers(key))
        if len(self._sizes) >= SIZES:
            self._sizes.clear()
        self._sizes[key] = made
        return made

    def _place(self, instance: _Instance, inputs: Sequence[Array]) -> Sequence[Array]:
        """Fill in the inputs; the arrays that are read, ``inputs`` itself unless one was copied."""
        arrays: Sequence[Array] = inputs
        slots = instance.table
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
            raise self._fit.read_only(p)
        if dense(a):
            return a
        copied = empty(a.shape, a.dtype)
        np.copyto(copied, a)
        return copied

    def _allocate(self, instance: _Instance, arrays: Sequence[Array], sizes: _Sizes) -> list[Array]:
        slots, first = instance.table, len(self.plan.inputs)
        outputs = [
            lease(shape, dtype, nbytes) if over is None else arrays[over]
            for over, shape, dtype, nbytes in sizes.outputs
        ]
        for i, out in enumerate(outputs, first):
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


@final
class Bound:
    """A call of fixed sizes, and of inputs that stay but for some; see :meth:`Executable.bind`.

    ``fresh``: number, shape and dtype of the outputs that overwrite no input.
    """

    __slots__ = (
        "_claimed", "_claiming", "_entry", "_executable", "_fixed", "_fresh", "_kept", "_mark",
        "_numbers", "_over", "_pool", "_sizes", "_varying", "fresh", "writes",
    )  # fmt: skip

    def __init__(
        self,
        executable: Executable,
        sizes: _Sizes,
        inputs: Sequence[Array],
        varying: Mapping[int, int],
        numbers: Sequence[int],
    ) -> None:
        plan = executable.plan
        self._executable, self._pool = executable, executable._pool
        self._entry, self._sizes = executable._entry, sizes
        self._kept = {
            p: a for p, a in enumerate(inputs) if p not in varying and p not in set(numbers)
        }
        self._fixed = {p: address(a) for p, a in self._kept.items()}
        self._numbers = [(p, _NUMBERS[plan.inputs[p].dtype.numpy.itemsize]) for p in numbers]
        first = len(plan.inputs)
        over = [(first + i, p) for i, p in enumerate(executable._over) if p is not None]
        moving = [(i, varying[p]) for i, p in over if p in varying]
        self._varying = (*varying.items(), *moving)
        self._over = [(i, self._fixed[p]) for i, p in over if p in self._fixed]
        fresh = [(i, what[1:]) for i, what in enumerate(sizes.outputs) if what[0] is None]
        self.fresh = tuple([(i, shape, dtype) for i, (shape, dtype, _) in fresh])
        self._fresh = tuple([(first + i, what) for i, what in fresh])
        self.writes = bool(over)
        self._claimed = frozenset([place for _, place in self._over])
        self._claiming = tuple([k for _, k in moving])
        self._mark = object()  # instances outlive this: they must not keep its arrays

    def run(self, places: Sequence[int], numbers: Sequence[float] = ()) -> list[tuple[Array, int]]:
        """The outputs that overwrite no input, each with its address."""
        return self._exclusively(places, numbers) if self.writes else self.call(places, numbers)

    def _exclusively(
        self, places: Sequence[int], numbers: Sequence[float]
    ) -> list[tuple[Array, int]]:
        mine = self._claimed
        if self._claiming:
            mine = mine.union([places[k] for k in self._claiming])
        claim = Claim(mine)
        try:
            CLAIMS.take(claim)
            return self.call(places, numbers)
        finally:
            CLAIMS.give_back(claim)

    def call(self, places: Sequence[int], numbers: Sequence[float]) -> list[tuple[Array, int]]:
        """:meth:`run` where nothing is overwritten (not ``writes``)."""
        pool, made = self._pool, []
        try:  # ``take`` and ``give_back``, written out: each step here is a tenth of a small call
            instance = pool.idle.pop()
        except IndexError:
            instance = pool.take()
        try:
            if instance.filled is not self._mark:
                self._fill(instance)
            table = instance.table
            for slot, k in self._varying:
                table[slot] = places[k]
            for slot, spare, what in instance.fresh:
                new = spare.pop() if spare else spares(spare, *what)
                table[slot] = new[1]
                made.append(new)
            if numbers:
                for k, cell in enumerate(instance.cells):
                    cell.value = numbers[k]
            code = self._entry(*instance.call)
        finally:
            pool.idle.append(instance)
            if pool.waiting:
                pool.wake()
        if code:
            raise self._executable._fit.out_of_range(code - 1)
        return made

    def _fill(self, instance: _Instance) -> None:
        """Write what stays; until another call uses the instance it need not be written again."""
        instance.filled = None
        for p, place in self._fixed.items():
            instance.table[p] = place
        for i, place in self._over:
            instance.table[i] = place
        instance.fresh = [(slot, [], what) for slot, what in self._fresh]
        instance.cells = [kind() for _, kind in self._numbers]
        for (p, _), cell in zip(self._numbers, instance.cells, strict=True):
            instance.table[p] = ctypes.addressof(cell)
        instance.arguments(self._sizes)
        instance.filled = self._mark


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

    __slots__ = (
        "__weakref__", "_arena", "_first", "_sizes", "_threads", "call", "cells", "filled", "fresh",
        "table",
    )  # fmt: skip

    def __init__(self, inputs: int, outputs: int, threads: ctypes.c_void_p) -> None:
        self._threads = threads
        self._first = inputs
        self.table = pointers(inputs + outputs)
        """Addresses of the inputs, then of the outputs."""
        self.fresh: list[tuple[int, list[Spare], _What]] = []
        self.cells: list[Any] = []
        self.filled: object = None
        """Whose call it was filled for; with what, are ``fresh`` and ``cells``."""
        self._arena = empty((0,), _BYTES)
        self._sizes: _Sizes | None = None
        self.call: Arguments = (None, None, None, None, None)

    def arguments(self, sizes: _Sizes) -> Arguments:
        """What the entry takes."""
        if self._sizes is not sizes:
            if self._arena.size < sizes.arena:
                self._arena = empty((sizes.arena,), _BYTES)
            arena = pointer(address(self._arena))
            dims = reference(sizes.dims)
            outputs = reference(self.table, self._first)
            self.call = reference(self.table), outputs, arena, dims, self._threads
            self._sizes = sizes
        return self.call
