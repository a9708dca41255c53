"""C functions of libcuda over a simulated driver, for compiled code that calls them::

gpu.symbol = Entries(gpu).address
"""

import ctypes
import threading

from vtc.errors import VtcError

U64, VOID = ctypes.c_uint64, ctypes.c_void_p
FAILED = 700
UNIFIED = 4
WARP = 32
CONTEXT = 0xC0


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = (
        ("func", U64), ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint), ("params", U64), ("extra", U64), ("kern", U64), ("ctx", U64),
    )  # fmt: skip


class End(ctypes.Structure):
    _fields_ = (
        ("x", U64), ("y", U64), ("z", U64), ("lod", U64), ("type", ctypes.c_uint), ("host", U64),
        ("device", U64), ("array", U64), ("reserved", U64), ("pitch", U64), ("height", U64),
    )  # fmt: skip


class CopyParams(ctypes.Structure):
    """CUDA_MEMCPY3D_v2."""

    _fields_ = (("source", End), ("target", End), ("width", U64), ("height", U64), ("depth", U64))


class Entries:
    """Contexts are simulated too: each thread has ``current``, and no work may be done in another
    context than ``CONTEXT``.
    """

    def __init__(self, gpu):
        self.gpu = gpu
        self.here = threading.local()
        self.functions = {
            "cuGraphExecKernelNodeSetParams_v2": self.function(
                self.set_kernel, U64, U64, ctypes.POINTER(KernelParams)
            ),
            "cuGraphExecMemcpyNodeSetParams": self.function(
                self.set_copy, U64, U64, ctypes.POINTER(CopyParams), U64
            ),
            "cuMemcpyHtoDAsync_v2": self.function(self.write, U64, U64, ctypes.c_size_t, U64),
            "cuGraphLaunch": self.function(self.launch, U64, U64),
            "cuLaunchKernel": self.function(self.kernel, U64, *[ctypes.c_uint] * 7, *[U64] * 3),
            "cuCtxSetCurrent": self.function(self.use, U64),
            "cuCtxGetCurrent": self.function(self.used, ctypes.POINTER(U64)),
        }

    def address(self, name):
        return ctypes.cast(self.functions[name], VOID).value

    @property
    def current(self):
        return getattr(self.here, "context", CONTEXT)

    def function(self, call, *kinds):
        def safely(*args):
            try:
                if call not in (self.use, self.used):
                    assert self.current == CONTEXT
                call(*args)
            except (VtcError, AssertionError):
                return FAILED
            return 0

        return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(safely)

    def set_kernel(self, executable, node, params):
        p = params[0]
        assert tuple(p.block)[1:] == (1, 1)
        assert (p.extra, p.kern, p.ctx) == (0, 0, 0)
        warps = p.block[0] // WARP
        self.gpu.set_kernel_params(
            0, executable, node, p.func, tuple(p.grid), warps, p.shared, p.params
        )

    def set_copy(self, executable, node, params, context):
        p = params[0]
        assert context == CONTEXT
        assert p.source.type == p.target.type == UNIFIED
        assert (p.height, p.depth) == (1, 1)
        self.gpu.set_copy_params(0, executable, node, p.target.device, p.source.device, p.width)

    def write(self, target, source, nbytes, stream):
        self.gpu.copy(0, target, source, nbytes, stream)

    def launch(self, executable, stream):
        self.gpu.graph_launch(0, executable, stream)

    def kernel(
        self, function, x, y, z, threads, threads_y, threads_z, shared, stream, params, extra
    ):
        assert (threads_y, threads_z, extra) == (1, 1, 0)
        self.gpu.launch(0, function, (x, y, z), threads // WARP, shared, params, stream)

    def use(self, context):
        self.here.context = context

    def used(self, context):
        context[0] = self.current
