"""The CUDA driver of this machine, through ``cuda.bindings`` (12.6 to 13): the only user of it.

>>> CudaDriver().why()                       # on a machine without a GPU
"expected an NVIDIA driver, found none ..."

Nothing is loaded before the first question. Every call makes the primary context of its device
current on its thread, once: that is the context PyTorch and CuPy use too.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from vtc import lazy
from vtc.errors import DeviceError, OutOfMemoryError, RunError
from vtc.runtime.cuda.failures import (
    NO_DEVICE,
    NOT_READY,
    OUT_OF_MEMORY,
    failure,
    no_context,
    no_module,
)
from vtc.runtime.cuda.interface import Facts, Grid
from vtc.runtime.cuda.launches import blame

if TYPE_CHECKING:
    from vtc.ir.plan import Binary

MODULE = "cuda.bindings.driver"
OLDEST = 12_000
"""The oldest driver that works: the CUDA version it was made for, as CUDA counts."""
CONDITIONAL = 12_040
"""The oldest with conditional nodes that device code decides for."""
EDGES = 13_000
"""From these bindings on, nodes are added with data about their edges."""
WARP = 32
STATIC_SHARED = 48 << 10
"""Bytes of shared memory that a kernel gets without asking."""

bindings = lazy.module(MODULE, extra="cuda13")


@final
class CudaDriver:
    """See :class:`vtc.runtime.cuda.interface.Driver`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._here = threading.local()
        self._api: Any = None
        self._count: int | None = None
        self._why = ""
        self._process = 0
        self._contexts: dict[int, Any] = {}
        self._facts: dict[int, Facts] = {}
        self._functions: dict[tuple[int, str, bytes], int] = {}

    def count(self) -> int:
        if self._count is None:
            self._start()
        return self._count or 0

    def why(self) -> str:
        self.count()
        return self._why

    def facts(self, device: int) -> Facts:
        found = self._facts.get(device)
        if found is None:
            self._use(device)
            found = self._facts[device] = self._ask(device)
        return found

    def mem_info(self, device: int) -> tuple[int, int]:
        self._use(device)
        free, total = self._get("cuMemGetInfo")
        return int(free), int(total)

    # memory

    def reserve(self, device: int, nbytes: int) -> int | None:
        self._use(device)
        code, address = self._api.cuMemAlloc(nbytes)
        if code == OUT_OF_MEMORY:
            return None
        self._check("cuMemAlloc", code)
        return int(address)

    def release(self, device: int, address: int) -> None:
        self._use(device)
        self._do("cuMemFree", address)

    def pinned(self, nbytes: int) -> int:
        self._use(self._any())
        flags = self._api.CU_MEMHOSTALLOC_PORTABLE | self._api.CU_MEMHOSTALLOC_DEVICEMAP
        code, address = self._api.cuMemHostAlloc(nbytes, flags)
        if code == OUT_OF_MEMORY:
            raise OutOfMemoryError(f"pinned memory: expected {nbytes} bytes of the host, got none")
        self._check("cuMemHostAlloc", code)
        return int(address)

    def free_pinned(self, address: int) -> None:
        self._use(self._any())
        self._do("cuMemFreeHost", address)

    def copy(self, device: int, target: int, source: int, nbytes: int, stream: int) -> None:
        self._use(device)
        self._check("cuMemcpyAsync", self._api.cuMemcpyAsync(target, source, nbytes, stream)[0])

    def fill(self, device: int, target: int, value: int, nbytes: int, stream: int) -> None:
        self._use(device)
        self._do("cuMemsetD8Async", target, value, nbytes, stream)

    # streams and events

    def priorities(self, device: int) -> tuple[int, int]:
        self._use(device)
        least, greatest = self._get("cuCtxGetStreamPriorityRange")
        return int(least), int(greatest)

    def stream(self, device: int, priority: int) -> int:
        self._use(device)
        flags = int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return int(self._get("cuStreamCreateWithPriority", flags, priority)[0])

    def destroy_stream(self, device: int, stream: int) -> None:
        self._use(device)
        self._do("cuStreamDestroy", stream)

    def synchronize_stream(self, device: int, stream: int) -> None:
        self._use(device)
        self._do("cuStreamSynchronize", stream)

    def stream_done(self, device: int, stream: int) -> bool:
        self._use(device)
        return self._ready("cuStreamQuery", stream)

    def wait_event(self, device: int, stream: int, event: int) -> None:
        self._use(device)
        self._do("cuStreamWaitEvent", stream, event, 0)

    def event(self, device: int, *, timing: bool) -> int:
        self._use(device)
        flags = 0 if timing else int(self._api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        return int(self._get("cuEventCreate", flags)[0])

    def destroy_event(self, device: int, event: int) -> None:
        self._use(device)
        self._do("cuEventDestroy", event)

    def record(self, device: int, event: int, stream: int) -> None:
        self._use(device)
        self._do("cuEventRecord", event, stream)

    def event_done(self, device: int, event: int) -> bool:
        self._use(device)
        return self._ready("cuEventQuery", event)

    def synchronize_event(self, device: int, event: int) -> None:
        self._use(device)
        self._do("cuEventSynchronize", event)

    def elapsed(self, device: int, start: int, end: int) -> float:
        self._use(device)
        return float(self._get("cuEventElapsedTime", start, end)[0])

    def synchronize(self, device: int) -> None:
        self._use(device)
        self._do("cuCtxSynchronize")

    # kernels

    def module(self, device: int, binary: Binary) -> int:
        key = (device, binary.name, binary.cubin)
        found = self._functions.get(key)
        if found is None:
            with self._lock:
                found = self._functions[key] = self._load(device, binary)
        return found

    def launch(
        self,
        device: int,
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
        stream: int,
    ) -> None:
        self._use(device)
        launch = self._api.cuLaunchKernel
        self._check(
            "cuLaunchKernel",
            launch(function, *grid, WARP * warps, 1, 1, shared, stream, params, 0)[0],
        )

    # graphs

    def create_graph(self, device: int) -> int:
        self._use(device)
        return int(self._get("cuGraphCreate", 0)[0])

    def add_kernel(
        self,
        device: int,
        graph: int,
        after: Sequence[int],
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
    ) -> int:
        self._use(device)
        what = self._kernel(function, grid, warps, shared, params)
        return self._node("cuGraphAddKernelNode", graph, after, what)

    def add_copy(
        self, device: int, graph: int, after: Sequence[int], target: int, source: int, nbytes: int
    ) -> int:
        context = self._use(device)
        what = self._copying(target, source, nbytes)
        return self._node("cuGraphAddMemcpyNode", graph, after, what, context)

    def add_fill(
        self, device: int, graph: int, after: Sequence[int], target: int, value: int, nbytes: int
    ) -> int:
        context = self._use(device)
        what = self._filling(target, value, nbytes)
        return self._node("cuGraphAddMemsetNode", graph, after, what, context)

    def conditional(self, device: int) -> str:
        self._use(device)
        version, made = int(self._get("cuDriverGetVersion")[0]), int(self._api.CUDA_VERSION)
        for what, got in (("an NVIDIA driver", version), ("cuda-bindings", made)):
            if got < CONDITIONAL:
                return f"expected {what} for CUDA 12.4 or newer, got one for CUDA {_dotted(got)}"
        return ""

    def create_handle(self, device: int, graph: int) -> int:
        context = self._use(device)
        return int(self._get("cuGraphConditionalHandleCreate", graph, context, 0, 0)[0])

    def add_conditional(
        self, device: int, graph: int, after: Sequence[int], handle: int, *, loop: bool
    ) -> tuple[int, int]:
        context, api = self._use(device), self._api
        kinds = api.CUgraphConditionalNodeType
        what = api.CUgraphNodeParams()
        what.type = api.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        inner = what.conditional
        inner.handle, inner.size, inner.ctx = handle, 1, context
        inner.type = kinds.CU_GRAPH_COND_TYPE_WHILE if loop else kinds.CU_GRAPH_COND_TYPE_IF
        nodes = [api.CUgraphNode(n) for n in after]
        edges = () if int(api.CUDA_VERSION) < EDGES else (None,)
        node = self._get("cuGraphAddNode", graph, nodes, *edges, len(nodes), what)[0]
        return int(node), int(what.conditional.phGraph_out[0])

    def instantiate(self, device: int, graph: int) -> int:
        self._use(device)
        # Without flags, nodes have the priority of the stream that the graph is launched on.
        return int(self._get("cuGraphInstantiate", graph, 0)[0])

    def set_kernel_params(
        self,
        device: int,
        executable: int,
        node: int,
        function: int,
        grid: Grid,
        warps: int,
        shared: int,
        params: int,
    ) -> None:
        self._use(device)
        what = self._kernel(function, grid, warps, shared, params)
        self._do("cuGraphExecKernelNodeSetParams", executable, node, what)

    def set_copy_params(
        self, device: int, executable: int, node: int, target: int, source: int, nbytes: int
    ) -> None:
        context = self._use(device)
        what = self._copying(target, source, nbytes)
        self._do("cuGraphExecMemcpyNodeSetParams", executable, node, what, context)

    def set_fill_params(
        self, device: int, executable: int, node: int, target: int, value: int, nbytes: int
    ) -> None:
        context = self._use(device)
        what = self._filling(target, value, nbytes)
        self._do("cuGraphExecMemsetNodeSetParams", executable, node, what, context)

    def upload(self, device: int, executable: int, stream: int) -> None:
        self._use(device)
        self._do("cuGraphUpload", executable, stream)

    def graph_launch(self, device: int, executable: int, stream: int) -> None:
        self._use(device)
        self._check("cuGraphLaunch", self._api.cuGraphLaunch(executable, stream)[0])

    def destroy_executable(self, device: int, executable: int) -> None:
        self._use(device)
        self._do("cuGraphExecDestroy", executable)

    def destroy_graph(self, device: int, graph: int) -> None:
        self._use(device)
        self._do("cuGraphDestroy", graph)

    def symbol(self, name: str) -> int:
        try:
            function = getattr(ctypes.CDLL("libcuda.so.1"), name)
        except (OSError, AttributeError):
            return 0
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    # how

    def _start(self) -> None:
        with self._lock:
            if self._count is None:
                count, self._why = self._find()
                self._process = os.getpid()
                self._count = count

    def _find(self) -> tuple[int, str]:
        """How many devices there are, and why none."""
        try:
            code = int(bindings.cuInit(0)[0])
        except ImportError as error:
            return 0, str(error)
        except (RuntimeError, OSError):
            return 0, "expected an NVIDIA driver, found none (libcuda.so.1): install one"
        api = self._api = sys.modules[MODULE]
        if code == NO_DEVICE:
            return 0, "expected an NVIDIA GPU, found none; CUDA_VISIBLE_DEVICES may hide them"
        if code:
            return 0, f"expected a working NVIDIA driver, got {self._words('cuInit', code)}"
        version = int(self._get("cuDriverGetVersion")[0])
        wanted = max(OLDEST, int(api.CUDA_VERSION) // 1000 * 1000)
        if version < wanted:
            major = version // 1000
            other = f", or pip install 'vtc[cuda{major}]'" if version >= OLDEST else ""
            return 0, (
                f"expected an NVIDIA driver for CUDA {wanted // 1000} or newer, got one for CUDA "
                f"{_dotted(version)}: update the driver{other}"
            )
        count = int(self._get("cuDeviceGetCount")[0])
        return count, "" if count else "expected an NVIDIA GPU, found none"

    def _use(self, device: int) -> Any:
        """Make ``device`` current on this thread; its context."""
        here = self._here
        if getattr(here, "device", -1) != device:
            context = self._contexts.get(device) or self._context(device)
            self._do("cuCtxSetCurrent", context)
            here.context, here.device = context, device
        return here.context

    def _context(self, device: int) -> Any:
        if not 0 <= device < self.count():
            raise DeviceError(f"cuda:{device}: {self._why or f'expected one of {self._count}'}")
        with self._lock:
            if device not in self._contexts:
                handle = self._get("cuDeviceGet", device)[0]
                what = "cuDevicePrimaryCtxRetain"
                code, context = self._api.cuDevicePrimaryCtxRetain(handle)
                if code:
                    raise no_context(device, self._words(what, code), int(code))
                self._contexts[device] = context
            return self._contexts[device]

    def _any(self) -> int:
        return int(getattr(self._here, "device", 0))

    def _ask(self, device: int) -> Facts:
        handle = self._get("cuDeviceGet", device)[0]
        kinds = self._api.CUdevice_attribute

        def attribute(name: str) -> int:
            kind = getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self._get("cuDeviceGetAttribute", kind, handle)[0])

        name = self._get("cuDeviceGetName", 256, handle)[0]
        return Facts(
            name=name.split(b"\0", 1)[0].decode(),
            capability=(
                attribute("COMPUTE_CAPABILITY_MAJOR"),
                attribute("COMPUTE_CAPABILITY_MINOR"),
            ),
            memory=int(self._get("cuDeviceTotalMem", handle)[0]),
            shared=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
            l2=attribute("L2_CACHE_SIZE"),
        )

    def _load(self, device: int, binary: Binary) -> int:
        most = self.facts(device).shared
        if binary.shared > most:
            raise RunError(
                f"{binary.name}: expected at most {most} bytes of shared memory, "
                f"got {binary.shared}"
            )
        self._use(device)
        what = f"loading {binary.name}"
        code, module = self._api.cuModuleLoadData(binary.cubin)
        if code:
            facts, version = self.facts(device), int(self._get("cuDriverGetVersion")[0])
            major, minor = facts.capability
            there = f"compute capability {major}.{minor} ({facts.name})"
            error = no_module(self._words(what, code), int(code), there, version)
            raise error or self._error(what, int(code))
        code, function = self._api.cuModuleGetFunction(module, binary.name.encode())
        self._check(what, code)
        if binary.shared > STATIC_SHARED:
            kind = self._api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._do("cuFuncSetAttribute", function, kind, binary.shared)
        return int(function)

    def _kernel(self, function: int, grid: Grid, warps: int, shared: int, params: int) -> Any:
        what = self._api.CUDA_KERNEL_NODE_PARAMS()
        what.func = function
        what.gridDimX, what.gridDimY, what.gridDimZ = grid
        what.blockDimX, what.blockDimY, what.blockDimZ = WARP * warps, 1, 1
        what.sharedMemBytes = shared
        what.kernelParams = params
        return what

    def _copying(self, target: int, source: int, nbytes: int) -> Any:
        what = self._api.CUDA_MEMCPY3D()
        unified = self._api.CUmemorytype.CU_MEMORYTYPE_UNIFIED
        what.srcMemoryType = what.dstMemoryType = unified
        what.srcDevice, what.dstDevice = source, target
        what.WidthInBytes, what.Height, what.Depth = nbytes, 1, 1
        return what

    def _filling(self, target: int, value: int, nbytes: int) -> Any:
        what = self._api.CUDA_MEMSET_NODE_PARAMS()
        what.dst, what.value, what.elementSize = target, value, 1
        what.width, what.height = nbytes, 1
        return what

    def _node(self, name: str, graph: int, after: Sequence[int], *what: Any) -> int:
        nodes = [self._api.CUgraphNode(n) for n in after]
        return int(self._get(name, graph, nodes, len(nodes), *what)[0])

    def _do(self, name: str, *args: Any) -> None:
        self._check(name, getattr(self._api, name)(*args)[0])

    def _get(self, name: str, *args: Any) -> tuple[Any, ...]:
        code, *values = getattr(self._api, name)(*args)
        self._check(name, code)
        return tuple(values)

    def _ready(self, name: str, handle: int) -> bool:
        code = getattr(self._api, name)(handle)[0]
        if code == NOT_READY:
            return False
        self._check(name, code)
        return True

    def _check(self, what: str, code: Any) -> None:
        if code:
            raise self._error(what, int(code))

    def _error(self, what: str, code: int) -> Exception:
        words = self._words(what, code)
        forked = os.getpid() != self._process
        return failure(words, code, blamed=blame(self._any()), forked=forked)

    def _words(self, what: str, code: int) -> str:
        result = self._api.CUresult
        try:
            known = result(code)
        except ValueError:
            return f"{what}: CUDA error {code}"
        text = self._api.cuGetErrorString(known)[1]
        said = f": {text.decode()}" if isinstance(text, bytes) else ""
        return f"{what}: {known.name}{said}"


def _dotted(version: int) -> str:
    """How CUDA counts, as one reads it: 12040 is 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"
