"""A plan that runs on a GPU: immutable, and callable from many threads and on any stream.

The twin of :mod:`vtc.runtime.executable`. A call leases an instance (an arena, addresses, CUDA
graphs) of the current stream, changes the addresses in the graph and launches it; it does not wait.
Outputs are fresh arrays of the current stream; an output that overwrites an input is that input's
own array. An input is copied only if it is not row-major or not 16-byte aligned. A 0-d input may be
an array on the cpu: a number, which goes along with the call::

    executable = CudaExecutable(plan, binaries, device=0, patcher=compile_patch(compiler, store))
    y, w = executable.run([x, w])
    bound = executable.bind([x, w], varying={0: 0})
    y, = bound.run([address(x)])

An index out of its range shows at a later call, or when the host waits for the device.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from vtc.errors import DeviceError
from vtc.ir.plan import Binary, Launch, Plan, flat
from vtc.ir.types import Array
from vtc.runtime.allocator import NOTES
from vtc.runtime.buffer import address
from vtc.runtime.cuda import control
from vtc.runtime.cuda.array import DeviceArray, Lease, allocate, empty, index_of, lease
from vtc.runtime.cuda.copies import clone, write
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.graph import blaming, quick
from vtc.runtime.cuda.instance import Instance, Instances, Program
from vtc.runtime.cuda.nodes import lay_out, loops_or_branches
from vtc.runtime.cuda.single import Single, fitting
from vtc.runtime.cuda.steps import ALIGNMENT, Layout, number_cells
from vtc.runtime.cuda.way import way_of
from vtc.runtime.fit import Fit
from vtc.runtime.lease import CLAIMS, Claim

INSTANCES: Final = 8
"""Streams that calls of one executable run on without waiting for each other."""
LAYOUTS: Final = 256
"""Bindings of the dims whose steps are remembered."""
_MISALIGNED: Final = ALIGNMENT - 1
_array: Any = np.ndarray.__new__
_NUMBERS = {4: ctypes.c_float, 8: ctypes.c_double}


@final
class CudaExecutable:
    """See the module. ``binaries`` are by symbol; ``patcher`` is the library of
    :func:`vtc.codegen.c.compile_patch`, or None where there is no C compiler. Without ``graphs``
    kernels are launched one by one: that suits few kernels at many sizes.
    """

    def __init__(
        self,
        plan: Plan,
        binaries: Mapping[str, Binary],
        device: int,
        patcher: Path | None = None,
        *,
        graphs: bool = True,
    ) -> None:
        self.plan = plan
        self._graphs = graphs
        self._where = plan.name if graphs else None  # a program of one op: the user's line
        self.device = device
        self._binaries = binaries
        self._patcher = patcher
        self._fit = Fit(plan)
        self._flows = loops_or_branches(plan)
        self._numbers = number_cells(self._fit)
        self._gpu = gpu(device)
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._program: Program | None = None
        self._loading = threading.RLock()
        self._instances = Instances(self._instance, INSTANCES)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs. ``inputs`` fit the plan: the caller knows, or has called ``check``."""
        written = self._fit.written
        if not written:
            return self._call(inputs)
        claim = Claim(frozenset([address(inputs[p]) for p in written]))
        try:
            CLAIMS.take(claim)
            return self._call(inputs)
        finally:
            CLAIMS.give_back(claim)

    def check(self, inputs: Sequence[Array]) -> None:
        """ArgumentError or DeviceError unless ``run`` can take ``inputs``."""
        self._fit.check(inputs)
        for p, a in enumerate(inputs):
            if not isinstance(a, DeviceArray):
                self._number(p, a)
            elif index_of(a) != self.device:
                raise self._elsewhere(p, f"cuda:{index_of(a)}")

    def bind(
        self, inputs: Sequence[Array], varying: Mapping[int, int], numbers: Sequence[int] = ()
    ) -> Bound | None:
        """A call like that of ``inputs``, where others take the place of some of them.

        ``varying``: inputs that lie at the address in that position of those given; ``numbers``:
        0-d floats that are given as numbers. None where an input would have to be copied.
        """
        if any(self.plan.inputs[p].dtype.itemsize not in _NUMBERS for p in numbers):
            return None
        for p, a in enumerate(inputs):
            if p in numbers:
                continue
            fits = (
                isinstance(a, DeviceArray) and a.flags.c_contiguous and not address(a) & _MISALIGNED
            )
            if not fits or (p in self._fit.written and not a.flags.writeable):
                return None
        return Bound(self, self._layout(inputs), inputs, varying, numbers)

    def single(self, inputs: Sequence[Array], shape: tuple[int, ...]) -> Single | None:
        """A call on inputs of these shapes whose one output is shown in ``shape``; None where it
        takes more than one launch.
        """
        layout = self._layout(inputs)
        node = None if self._fit.written else fitting(layout, len(inputs))
        if node is None:
            return None
        made = shape, self.plan.outputs[0].dtype.numpy
        function = self._loaded().functions[node.kernel.symbol]
        return Single(
            self._gpu, node, function, len(inputs), made,
            name=self.plan.name, where=self._where, patcher=self._patcher,
        )  # fmt: skip

    def _call(self, inputs: Sequence[Array]) -> list[Array]:
        layout = self._layout(inputs)
        instance = self._instances.take(self._gpu.stream)  # lost if interrupted: the pool knows
        try:
            instance.filled = None
            arrays = self._place(instance, inputs, instance.room(layout) + layout.numbers)
            outputs = self._allocate(instance, arrays, layout)
            instance.replay(layout).launch()
        finally:
            self._instances.give_back(instance)
        return outputs if arrays is inputs else self._restore(inputs, arrays, outputs)

    def _layout(self, inputs: Sequence[Array]) -> Layout:
        key = self._fit.key(inputs)
        found = self._layouts.get(key)
        if found is None:
            way = self._loaded().way if self._flows else "spelled"
            found = lay_out(self._fit, key, self._binaries, way)
            if len(self._layouts) >= LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = found
        return found

    def _instance(self, stream: int) -> Instance:
        return Instance(self._loaded(), stream)

    def _loaded(self) -> Program:
        with self._loading:
            if self._program is None:
                self._program = self._load()
            return self._program

    def _load(self) -> Program:
        """The kernels on the device. RunError naming the kernel that cannot be there."""
        here, used = self._gpu, {s.kernel for s in flat(self.plan.steps) if isinstance(s, Launch)}
        functions: dict[str, int] = {}
        for kernel in self.plan.kernels:
            if kernel.name not in used or kernel.symbol in functions:
                continue
            with blaming(kernel):
                binary = self._binaries[kernel.symbol]
                functions[kernel.symbol] = here.driver.module(here.index, binary)
        way = way_of(self.plan, here, graphs=self._graphs)
        if way == "graph":
            functions |= control.functions(here)
        fast = quick(self._patcher, here.driver)
        return Program(here, self._fit, self._binaries, functions, fast, self._graphs, way)

    def _place(self, instance: Instance, inputs: Sequence[Array], numbers: int) -> Sequence[Array]:
        """Fill in the inputs; the arrays that are read, ``inputs`` itself unless one was copied.

        ``numbers`` is where numbers lie on the device.
        """
        arrays: Sequence[Array] = inputs
        end = 0
        for p, a in enumerate(inputs):
            if not isinstance(a, DeviceArray):
                instance.table[p] = numbers + self._put(instance, p, a)
                end = max(end, self._numbers[p] + a.itemsize)
                continue
            if not a.flags.writeable and p in self._fit.written:
                raise self._fit.read_only(p)
            if not a.flags.c_contiguous or address(a) & _MISALIGNED:
                a = clone(a, self.plan.name)
                arrays = [*arrays[:p], a, *arrays[p + 1 :]]
            instance.table[p] = address(a)
        instance.number_bytes.value = end
        return arrays

    def _put(self, instance: Instance, p: int, a: Array) -> int:
        """Fill in a number; where it lies among the numbers."""
        self._number(p, a)
        start = self._numbers[p]
        ctypes.memmove(ctypes.addressof(instance.numbers) + start, address(a), a.itemsize)
        return start

    def _number(self, p: int, a: Array) -> None:
        """DeviceError unless ``a``, an array on the cpu, can be input ``p``."""
        if p not in self._numbers or p in self._fit.written:
            raise self._elsewhere(p, "cpu")

    def _elsewhere(self, p: int, device: str) -> DeviceError:
        name = self.plan.inputs[p].path or f"input {p}"
        return DeviceError(f"{name}: expected an array on cuda:{self.device}, got one on {device}")

    def _allocate(self, instance: Instance, arrays: Sequence[Array], layout: Layout) -> list[Array]:
        table, first = instance.table, len(self.plan.inputs)
        outputs: list[Array] = []
        for i, (over, b) in enumerate(zip(self._fit.over, self.plan.outputs, strict=True)):
            if over is not None:
                outputs.append(arrays[over])
                continue
            made = empty(layout.outputs[i], b.dtype.numpy, self.device, self._where)
            table[first + i] = address(made)
            outputs.append(made)
        return outputs

    def _restore(
        self, inputs: Sequence[Array], arrays: Sequence[Array], outputs: list[Array]
    ) -> list[Array]:
        """Write what was overwritten in a copy back to the caller's array."""
        for i, over in enumerate(self._fit.over):
            if over is not None and arrays[over] is not inputs[over]:
                target = inputs[over]
                assert isinstance(target, DeviceArray)
                write(target, arrays[over])
                outputs[i] = target
        return outputs


@final
class Bound:
    """A call of fixed sizes, and of inputs that stay but for some; see :meth:`CudaExecutable.bind`.

    ``fresh``: number, shape and dtype of the outputs that overwrite no input. It runs on the stream
    that is current at each call.
    """

    __slots__ = (
        "_aligned", "_claimed", "_claiming", "_device", "_executable", "_fixed", "_fresh", "_gpu",
        "_here", "_instances", "_kept", "_layout", "_mark", "_notes", "_numbers", "_varying",
        "_where", "fresh", "writes",
    )  # fmt: skip

    def __init__(
        self,
        executable: CudaExecutable,
        layout: Layout,
        inputs: Sequence[Array],
        varying: Mapping[int, int],
        numbers: Sequence[int],
    ) -> None:
        plan, over = executable.plan, executable._fit.over
        self._executable, self._instances = executable, executable._instances
        self._gpu, self._device, self._layout = executable._gpu, executable.device, layout
        self._here, self._notes = self._gpu.here, self._gpu.allocator.notes
        self._where = executable._where
        self._kept = {
            p: a for p, a in enumerate(inputs) if p not in varying and p not in set(numbers)
        }
        self._fixed = {p: address(a) for p, a in self._kept.items()}
        cells = executable._numbers
        self._numbers = tuple(
            [(p, cells[p], _NUMBERS[plan.inputs[p].dtype.itemsize]) for p in numbers]
        )
        self._varying = tuple(varying.items())
        self._aligned = tuple(varying.values())
        fresh = [
            (i, layout.outputs[i], b.dtype.numpy)
            for i, b in enumerate(plan.outputs)
            if over[i] is None
        ]
        self.fresh = tuple(fresh)
        first = len(plan.inputs)
        self._fresh = tuple(
            [(first + i, shape, dtype, prod(shape) * dtype.itemsize or 1)
             for i, shape, dtype in fresh]
        )  # fmt: skip
        written = executable._fit.written
        self.writes = bool(written)
        self._claimed = frozenset([self._fixed[p] for p in written if p in self._fixed])
        self._claiming = tuple([varying[p] for p in written if p in varying])
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
        for k in self._aligned:
            if places[k] & _MISALIGNED:
                return self._copied(places, numbers)
        stream, instances = self._here.current, self._instances
        instance = instances.take(stream)
        try:  # methods are written out where they are short: a step is a tenth of a small call
            if instance.filled is not self._mark:
                self._fill(instance)
            table = instance.table
            for p, k in self._varying:
                table[p] = places[k]
            made = self._outputs(instance, stream)
            for k, cell in enumerate(instance.values):
                cell.value = numbers[k]
            ready = instance.ready
            if ready is None:
                ready = instance.ready = instance.replay(self._layout)
            if ready.quick is None or ready.quick():
                ready.launch_slowly()
        finally:
            instances.idle[stream].append(instance)
            if instances.waiting:
                instances.wake()
        return made

    def _outputs(self, instance: Instance, stream: int) -> list[tuple[Array, int]]:
        """Memory for the outputs, which the instance gets to know."""
        made: list[tuple[Array, int]] = []
        table, notes, where = instance.table, self._notes, self._where
        if where is None:
            where = self._gpu.where()
        if len(notes) > NOTES:
            self._gpu.allocator.settle()
        for slot, shelf, shape, dtype, nbytes in instance.fresh:
            try:
                loan: Any = shelf.pop()
                block = loan.base.block
                notes.append((block, nbytes, where))
            except IndexError:
                loan = lease(nbytes, self._gpu, stream, where)
                block = loan.block
            table[slot] = place = block.address
            made.append((_array(DeviceArray, shape, dtype, loan), place))
        return made

    def _fill(self, instance: Instance) -> None:
        """Write what stays; until another call uses the instance it need not be written again."""
        instance.filled = None
        numbers, end = instance.room(self._layout) + self._layout.numbers, 0
        for p, place in self._fixed.items():
            instance.table[p] = place
        for p, start, kind in self._numbers:
            instance.table[p] = numbers + start
            end = max(end, start + ctypes.sizeof(kind))
        instance.number_bytes.value = end
        instance.values = [kind.from_buffer(instance.numbers, at) for _, at, kind in self._numbers]
        shelf, stream = self._gpu.allocator.shelf, instance.stream
        instance.fresh = tuple(
            [(slot, shelf(nbytes, stream), shape, dtype, nbytes)
             for slot, shape, dtype, nbytes in self._fresh]
        )  # fmt: skip
        instance.ready = None
        instance.filled = self._mark

    def _copied(self, places: Sequence[int], numbers: Sequence[float]) -> list[tuple[Array, int]]:
        """:meth:`call` with copies of what is not aligned; those overwritten are copied back."""
        here, moved, kept = self._gpu, list(places), list[tuple[Lease, int, int, int]]()
        for p, k in self._varying:
            if moved[k] & _MISALIGNED:
                nbytes = self._layout.inputs[p]
                copied = allocate(nbytes, self._device, self._executable.plan.name)
                moved[k] = address(copied)
                kept.append((copied, p, places[k], nbytes))
                if nbytes:
                    here.driver.copy(here.index, moved[k], places[k], nbytes, here.stream)
        made = self.call(moved, numbers)
        for copied, p, place, nbytes in kept:
            if nbytes and p in self._executable._fit.written:
                here.driver.copy(here.index, place, address(copied), nbytes, here.stream)
        return made
