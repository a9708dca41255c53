"""A CUDA driver that runs on the host: device memory, streams, events, kernels and graphs.

What a test would not notice on a quick GPU, it shows at once:

* Device memory cannot be read or written outside of the device's own work: the process crashes.
* Work runs as late as it may: at a synchronisation, or when an event is asked for. Whoever reads
  a result without waiting reads nonsense. New memory is full of 0xCD.
* Nodes of a graph run in any order that their dependencies allow.
* Misuse (freed memory, misaligned pointers, memory freed under queued work) fails.

Kernels are Python functions, found by the name of the binary::

    gpu = Simulated()
    gpu.kernels["double"] = Kernel(("*fp32", "i64"), lambda grid, x, n: ...)
    with installed(gpu): ...

A function gets the grid and then the values, pointers as addresses; ``gpu.array(address, shape,
dtype)`` is the memory there, inside of a kernel; ``launch`` of tests/triton/interpret.py runs a
kernel's Triton text on such values. A binary of PTX is run as it is (``ptx_machine.py``).
``gpu.calls`` counts what the driver was asked.

Conditional nodes are as CUDA has them: a handle that no kernel of the launch has set decides
nothing, one that no node uses is an error, and a graph with such nodes is instantiated once.
``Simulated(conditional="...")`` is a driver without them, which says why.
"""

import ctypes
import itertools
import mmap
import random
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ptx_machine import Code
from simulated_graphs import Conditional, Graph, Node, Running, instantiated

from vtc.errors import DeviceError, RunError
from vtc.runtime.cuda.driver import Facts
from vtc.runtime.cuda.launches import blame

MIB = 1 << 20
FRESH = 0xCD
LATEST = 512
"""Work that a stream holds back at most."""
ILLEGAL = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
MOST = (1 << 31) - 1, 65_535, 65_535
"""Blocks along each axis of a grid."""
WARPS = 32
STATIC = 48 << 10
"""Bytes of shared memory of a block whose kernel was not allowed more when it was loaded."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_NONE, _BOTH = 0, 3
_TYPES = {
    "i1": ctypes.c_bool, "i8": ctypes.c_int8, "i32": ctypes.c_int32, "i64": ctypes.c_int64,
    "fp32": ctypes.c_float, "fp64": ctypes.c_double,
}  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """``signature`` as Triton has it: ``*fp32`` is a pointer, ``i64`` a number."""

    signature: tuple
    call: Any
    threads: Any = None


@dataclass
class Work:
    """Something a stream does; ``touched`` are the (address, bytes) it works with."""

    run: Any
    touched: tuple = ()
    until: Any = None


@dataclass
class Event:
    timing: bool
    stream: Any = None
    position: int = 0
    time: float = 0.0


@dataclass
class Region:
    """The memory of one device."""

    memory: mmap.mmap
    address: int
    size: int
    held: dict = field(default_factory=dict)


class Simulated:
    """See the module."""

    def __init__(
        self, devices=1, memory=64 * MIB, *, guarded=True, capability=(9, 0), shared=None,
        conditional="",
    ):  # fmt: skip
        self.kernels = {}
        self.calls = Counter()
        self.failing = {}
        """By method: an exception that its next call raises."""
        self.broken = ""
        self.guarded = guarded
        self.capability = capability
        self.shared = 232448 if shared is None else shared
        self._without = conditional
        self._running = None
        self.size = memory
        self.clock = time.perf_counter
        """What events take the time from: seconds."""
        self._lock = threading.RLock()
        self._depth = 0
        self._handles = itertools.count(0x1000, 0x10)
        self._things = {}
        self._pinned = {}
        self._asked_for = {}
        self._queues = defaultdict(deque)
        self._ran = Counter()
        self._given = Counter()
        self._random = random.Random(0)
        self._regions = [self._region(memory) for _ in range(devices)]

    # what it is

    def count(self):
        return len(self._regions)

    def why(self):
        return "" if self._regions else "expected an NVIDIA GPU, found none"

    def facts(self, device):
        self._region_of(device)
        return Facts(
            name="Simulated GPU",
            capability=self.capability,
            memory=self.size,
            shared=self.shared,
            multiprocessors=4,
            l2=MIB,
        )

    def mem_info(self, device):
        with self._asked("mem_info"):
            region = self._region_of(device)
            return region.size - sum(region.held.values()), region.size

    # memory

    def reserve(self, device, nbytes):
        with self._asked("reserve"):
            region = self._region_of(device)
            start = region.address
            for address, size in sorted(region.held.items()):
                if address - start >= nbytes:
                    break
                start = address + -(-size // 512) * 512
            if start + nbytes > region.address + region.size:
                return None
            region.held[start] = nbytes
            with self._open():
                ctypes.memset(start, FRESH, nbytes)
            return start

    def release(self, device, address):
        with self._asked("release"):
            self._drain(device)
            del self._region_of(device).held[address]

    def pinned(self, nbytes):
        with self._asked("pinned"):
            memory = mmap.mmap(-1, max(nbytes, 1))
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            ctypes.memset(address, FRESH, nbytes)
            self._pinned[address] = memory, nbytes
            return address

    def free_pinned(self, address):
        with self._asked("free_pinned"):
            _, nbytes = self._pinned[address]
            assert not self._touched(address, nbytes), "pinned memory freed under queued work"
            del self._pinned[address]

    def copy(self, device, target, source, nbytes, stream):
        with self._asked("copy"):
            self._region_of(device)
            run, touched = self._copying(target, source, nbytes)
            if not self._is_async(source):
                data = ctypes.string_at(source, nbytes)
                self._give(device, stream, lambda: ctypes.memmove(target, data, nbytes), touched)
            else:
                self._give(device, stream, run, touched)
            if not self._is_async(target):
                self._run_until(device, stream, self._given[device, stream])

    def fill(self, device, target, value, nbytes, stream):
        with self._asked("fill"):
            self._give(device, stream, *self._filling(target, value, nbytes))

    # streams and events

    def priorities(self, device):
        return 0, -5

    def stream(self, device, priority):
        with self._asked("stream"):
            self._region_of(device)
            assert -5 <= priority <= 0
            return self._new((device, "stream"))

    def destroy_stream(self, device, stream):
        with self._asked("destroy_stream"):
            self._run_until(device, stream, self._given[device, stream])
            del self._things[stream]

    def synchronize_stream(self, device, stream):
        with self._asked("synchronize_stream"):
            self._known(device, stream)
            self._run_until(device, stream, self._given[device, stream])

    def stream_done(self, device, stream):
        with self._asked("stream_done"):
            self._known(device, stream)
            done = not self._queues[device, stream]
            if not done:
                self._run_until(device, stream, self._ran[device, stream] + 1)
            return done

    def wait_event(self, device, stream, event):
        with self._asked("wait_event"):
            e = self._things[event]
            if e.stream is not None:
                self._give(device, stream, lambda: None, until=(e.stream, e.position))

    def event(self, device, *, timing):
        with self._asked("event"):
            return self._new(Event(timing))

    def destroy_event(self, device, event):
        with self._asked("destroy_event"):
            del self._things[event]

    def record(self, device, event, stream):
        with self._asked("record"):
            e = self._things[event]
            self._give(device, stream, lambda: setattr(e, "time", self.clock()))
            e.stream, e.position = (device, stream), self._given[device, stream]

    def event_done(self, device, event):
        with self._asked("event_done"):
            e = self._things[event]
            if e.stream is None or self._ran[e.stream] >= e.position:
                return True
            self._run_until(*e.stream, self._ran[e.stream] + 1)
            return False

    def synchronize_event(self, device, event):
        with self._asked("synchronize_event"):
            e = self._things[event]
            if e.stream is not None:
                self._run_until(*e.stream, e.position)

    def elapsed(self, device, start, end):
        with self._asked("elapsed"):
            a, b = self._things[start], self._things[end]
            ready = all(e.timing and e.stream and self._ran[e.stream] >= e.position for e in (a, b))
            if not ready:
                raise RunError("cuEventElapsedTime: CUDA_ERROR_INVALID_HANDLE")
            return (b.time - a.time) * 1e3

    def synchronize(self, device):
        with self._asked("synchronize"):
            self._region_of(device)
            self._drain(device)

    # kernels

    def module(self, device, binary):
        with self._asked("module"):
            if binary.shared > self.shared:
                raise RunError(
                    f"{binary.name}: expected at most {self.shared} bytes of shared memory, "
                    f"got {binary.shared}"
                )
            if binary.cubin.startswith(b".version"):
                assert binary.cubin.endswith(b"\0"), "PTX that does not end"
                kernel = self._ptx(binary)
            elif binary.name in self.kernels:
                kernel = self.kernels[binary.name]
            else:
                raise RunError(f"loading {binary.name}: CUDA_ERROR_NOT_FOUND")
            function = self._new(kernel)
            self._asked_for[function] = max(STATIC, binary.shared)
            return function

    def launch(self, device, function, grid, warps, shared, params, stream):
        with self._asked("launch"):
            self._give(device, stream, self._launching(function, grid, warps, shared, params))

    # graphs

    def create_graph(self, device):
        with self._asked("create_graph"):
            return self._new(Graph())

    def conditional(self, device):
        self._region_of(device)
        return self._without

    def create_handle(self, device, graph):
        with self._asked("create_handle"):
            handle = next(self._handles)
            self._things[graph].handles.append(handle)
            return handle

    def add_conditional(self, device, graph, after, handle, *, loop):
        inner = Graph(outer=self._things[graph])
        assert handle in inner.known(), "CUDA_ERROR_INVALID_VALUE: a handle of another graph"
        node = self._add("add_conditional", graph, after, Conditional(handle, loop, inner.nodes))
        return node, self._new(inner)

    def add_kernel(self, device, graph, after, function, grid, warps, shared, params):
        run = self._launching(function, grid, warps, shared, params)
        return self._add("add_kernel", graph, after, run)

    def add_copy(self, device, graph, after, target, source, nbytes):
        return self._add("add_copy", graph, after, self._copying(target, source, nbytes)[0])

    def add_fill(self, device, graph, after, target, value, nbytes):
        return self._add("add_fill", graph, after, self._filling(target, value, nbytes)[0])

    def instantiate(self, device, graph):
        with self._asked("instantiate"):
            graphs = [t for t in self._things.values() if isinstance(t, Graph)]
            return self._new(instantiated(self._things[graph], graphs))

    def set_kernel_params(self, device, executable, node, function, grid, warps, shared, params):
        run = self._launching(function, grid, warps, shared, params)
        self._change("set_kernel_params", executable, node, run)

    def set_copy_params(self, device, executable, node, target, source, nbytes):
        run, _ = self._copying(target, source, nbytes)
        self._change("set_copy_params", executable, node, run)

    def set_fill_params(self, device, executable, node, target, value, nbytes):
        run, _ = self._filling(target, value, nbytes)
        self._change("set_fill_params", executable, node, run)

    def upload(self, device, executable, stream):
        with self._asked("upload"):
            assert executable in self._things

    def graph_launch(self, device, executable, stream):
        with self._asked("graph_launch"):
            found = self._things[executable]
            running = Running(found, self._random)
            self._give(device, stream, lambda: self._run_graph(running), until=found.last)
            found.last = (device, stream), self._given[device, stream]

    def destroy_executable(self, device, executable):
        with self._asked("destroy_executable"):
            del self._things[executable]

    def destroy_graph(self, device, graph):
        with self._asked("destroy_graph"):
            del self._things[graph]

    def symbol(self, name):
        return 0  # see entries.py

    # for tests and kernels

    def array(self, address, shape, dtype):
        """Memory as an array, inside of a kernel or of ``reading``."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._held(address, nbytes)
        return np.ndarray(shape, dtype, (ctypes.c_uint8 * max(nbytes, 1)).from_address(address))

    @contextmanager
    def reading(self):
        """Let the test look at device memory, as it is now."""
        with self._lock, self._open():
            yield

    def queued(self, device=0, stream=0):
        """Work that a stream still has."""
        return len(self._queues[device, stream])

    # how

    def _region(self, size):
        memory = mmap.mmap(-1, size)
        region = Region(memory, ctypes.addressof(ctypes.c_char.from_buffer(memory)), size)
        self._protect(region, _NONE)
        return region

    def _region_of(self, device):
        if not 0 <= device < len(self._regions):
            raise DeviceError("cuDeviceGet: CUDA_ERROR_INVALID_DEVICE: invalid device ordinal")
        return self._regions[device]

    def _protect(self, region, how):
        if self.guarded:
            assert not _LIBC.mprotect(
                ctypes.c_void_p(region.address), ctypes.c_size_t(region.size), how
            )

    @contextmanager
    def _open(self):
        self._depth += 1
        if self._depth == 1:
            for region in self._regions:
                self._protect(region, _BOTH)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                for region in self._regions:
                    self._protect(region, _NONE)

    @contextmanager
    def _asked(self, name):
        with self._lock:
            self.calls[name] += 1
            if self.broken:
                raise RunError(f"{name}: {self.broken}{blame(0)}")
            if name in self.failing:
                raise self.failing.pop(name)
            yield

    def _new(self, thing):
        handle = next(self._handles)
        self._things[handle] = thing
        return handle

    def _known(self, device, stream):
        assert stream == 0 or self._things[stream] == (device, "stream"), "no stream of this device"

    def _give(self, device, stream, run, touched=(), until=None):
        self._known(device, stream)
        queue = self._queues[device, stream]
        queue.append(Work(run, touched, until))
        self._given[device, stream] += 1
        if len(queue) > LATEST:
            self._run_until(device, stream, self._ran[device, stream] + 1)

    def _run_until(self, device, stream, position):
        key = device, stream
        while self._ran[key] < position:
            work = self._queues[key][0]
            if work.until is not None:
                self._run_until(*work.until[0], work.until[1])
            self._queues[key].popleft()
            self._ran[key] += 1
            try:
                with self._open():
                    work.run()
            except Exception as error:
                self.broken = f"{ILLEGAL} ({error!r})"
                raise RunError(f"{self.broken}{blame(device)}") from error

    def _drain(self, device):
        for key in list(self._queues):
            if key[0] == device:
                self._run_until(*key, self._given[key])

    def _touched(self, address, nbytes):
        return [
            w
            for queue in self._queues.values()
            for w in queue
            for a, n in w.touched
            if a < address + nbytes and address < a + n
        ]

    def _on_device(self, address):
        return any(r.address <= address < r.address + r.size for r in self._regions)

    def _is_async(self, address):
        pinned = any(a <= address < a + n for a, (_, n) in self._pinned.items())
        return pinned or self._on_device(address)

    def _held(self, address, nbytes):
        for r in self._regions:
            if r.address <= address < r.address + r.size:
                inside = any(a <= address and address + nbytes <= a + n for a, n in r.held.items())
                if not inside:
                    raise RunError(f"{ILLEGAL}: {nbytes} bytes at {address:#x}")

    def _copying(self, target, source, nbytes):
        assert nbytes > 0, "an empty copy"
        self._held(target, nbytes)
        self._held(source, nbytes)

        def run():
            self._held(target, nbytes)
            self._held(source, nbytes)
            ctypes.memmove(target, source, nbytes)

        return run, ((target, nbytes), (source, nbytes))

    def _filling(self, target, value, nbytes):
        assert self._on_device(target)
        assert nbytes > 0, "an empty fill"
        self._held(target, nbytes)
        return lambda: ctypes.memset(target, value, nbytes), ((target, nbytes),)

    def _launching(self, function, grid, warps, shared, params):
        kernel = self._things[function]
        assert isinstance(kernel, Kernel), "no function"
        assert len(grid) == 3, "no grid"
        assert min(grid) > 0, "CUDA_ERROR_INVALID_VALUE: an empty grid"
        assert all(map(int.__le__, grid, MOST)), f"CUDA_ERROR_INVALID_VALUE: a grid of {grid}"
        assert 0 < warps <= WARPS, f"CUDA_ERROR_INVALID_VALUE: {warps} warps"
        assert shared <= self._asked_for.get(function, STATIC), "CUDA_ERROR_INVALID_VALUE: shared"
        slots = (ctypes.c_void_p * len(kernel.signature)).from_address(params)
        values = [_value(kind, at) for kind, at in zip(kernel.signature, slots, strict=True)]
        if kernel.threads is not None:
            assert kernel.threads == 32 * warps, "other threads than the kernel is for"
        return lambda: kernel.call(tuple(grid), *values)

    def _ptx(self, binary):
        """A kernel in PTX."""
        code = Code(binary.cubin[:-1].decode())
        assert code.name == binary.name
        threads = 32 * binary.warps

        def memory(address, nbytes):
            assert self._on_device(address), f"{ILLEGAL}: {address:#x}"
            self._held(address, nbytes)

        def call(grid, *values):
            calls = {"cudaGraphSetConditional": self._set_conditional}
            code.run(grid, threads, values, memory, calls)

        return Kernel(("i64",) * code.words, call, threads)

    def _set_conditional(self, handle, value):
        assert self._running, "cudaGraphSetConditional: no graph runs"
        self._running.set(handle, value)

    def _add(self, name, graph, after, run):
        with self._asked(name):
            nodes = self._things[graph].nodes
            assert not self._things[graph].instantiated
            assert all(n in nodes for n in after), "no nodes of this graph"
            node = next(self._handles)
            nodes[node] = Node(tuple(after), run)
            return node

    def _change(self, name, executable, node, run):
        with self._asked(name):
            self._things[executable].change(node, run)

    def _run_graph(self, running):
        self._running = running
        try:
            running.run()
        finally:
            self._running = None


def _value(kind, at):
    if kind.startswith("*"):
        address = ctypes.c_uint64.from_address(at).value
        assert address % 16 == 0, f"a pointer that is not 16-byte aligned: {address:#x}"
        return address
    return _TYPES[kind].from_address(at).value
