"""The C runtime from Python, by ctypes: for tests that ask it questions.

    native = Native(library)
    with native.open(path) as package:
        (y,) = package.run("forward", x)

A status that is not OK is an exception with the words for it.
"""

import ctypes
import json
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p

import ml_dtypes
import numpy as np

STATUS = (
    "OK", "BAD_PACKAGE", "BAD_ARGUMENT", "NO_TARGET", "OUT_OF_MEMORY", "OUT_OF_RANGE",
    "DEVICE_ERROR",
)  # fmt: skip
DTYPES = [
    None, "bool", "u1", "i1", "i2", "i4", "i8", ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    "f2", ml_dtypes.bfloat16, "f4", "f8", "c8", "c16",
]  # fmt: skip
CPU, GPU = 0, 1


class Tensor(ctypes.Structure):
    """``vtc_tensor``."""

    _fields_ = (
        ("data", c_void_p), ("bytes", c_int64), ("shape", c_int64 * 8), ("rank", c_int32),
        ("dtype", c_int32), ("device", c_int32), ("read_only", c_int32), ("owned", c_int32),
    )  # fmt: skip


ALLOCATE = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t, c_void_p)
RELEASE = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_size_t, c_void_p)
RUN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int64)


class Allocator(ctypes.Structure):
    """``vtc_allocator``."""

    _fields_ = (("context", c_void_p), ("allocate", ALLOCATE), ("release", RELEASE))


class Pool(ctypes.Structure):
    """``vtc_pool``."""

    _fields_ = (("run", RUN), ("threads", c_int64))


class Options(ctypes.Structure):
    """``vtc_options``."""

    _fields_ = (
        ("target", c_char_p), ("device", c_int32), ("full_check", c_int32), ("threads", c_int64),
        ("pool", POINTER(Pool)), ("allocator", POINTER(Allocator)), ("weights", c_char_p),
    )  # fmt: skip


class Failed(Exception):
    """A status that is not OK, and the words for it."""

    def __init__(self, status, words):
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


def dtype_number(dtype):
    """The ``vtc_dtype`` of a NumPy dtype."""
    return next(k for k, d in enumerate(DTYPES) if d is not None and np.dtype(d) == dtype)


def described(a, device=CPU):
    """The tensor that an array is."""
    a = np.asarray(a)
    t = Tensor(a.ctypes.data, a.nbytes, rank=a.ndim, dtype=dtype_number(a.dtype), device=device)
    t.shape[: a.ndim] = a.shape
    t.read_only = not a.flags.writeable
    return t


def array(t):
    """A copy of a tensor on the CPU."""
    if not t.dtype:
        return None
    shape, dtype = tuple(t.shape[: t.rank]), np.dtype(DTYPES[t.dtype])
    n = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(ctypes.string_at(t.data, n), dtype).reshape(shape)


class Native:
    """A library with the runtime."""

    def __init__(self, library):
        self.lib = lib = ctypes.CDLL(str(library))
        lib.vtc_describe.restype = lib.vtc_error.restype = c_char_p
        lib.vtc_release.restype = lib.vtc_close.restype = None
        lib.vtc_open_memory.argtypes = (c_void_p, c_size_t, c_void_p, c_void_p)

    def open(self, path, **options):
        """A package from a file, a folder or bytes."""
        package, made = c_void_p(), Options(**options)
        if isinstance(path, bytes):
            buffer = ctypes.create_string_buffer(path, len(path))
            status = self.lib.vtc_open_memory(buffer, len(path), byref(made), byref(package))
        else:
            buffer = None
            status = self.lib.vtc_open(str(path).encode(), byref(made), byref(package))
        opened = Package(self.lib, package, (made, buffer, options))
        if status:
            words = opened.error()
            opened.close()
            raise Failed(STATUS[status], words)
        return opened


class Package:
    """A package that is open."""

    def __init__(self, lib, handle, kept):
        self._lib, self._handle, self._kept = lib, handle, kept

    def __enter__(self):
        return self

    def __exit__(self, *about):
        self.close()

    def close(self):
        self._lib.vtc_close(self._handle)
        self._handle = None

    def error(self):
        return self._lib.vtc_error(self._handle).decode()

    def _check(self, status):
        if status:
            raise Failed(STATUS[status], self.error())

    def describe(self):
        return json.loads(self._lib.vtc_describe(self._handle))

    def count(self, entry):
        ins, outs = c_int32(), c_int32()
        self._check(self._lib.vtc_count(self._handle, entry.encode(), byref(ins), byref(outs)))
        return ins.value, outs.value

    def call(self, entry, inputs, outputs, stream=None):
        """``vtc_run`` with tensors."""
        ins, outs = (
            (Tensor * max(len(inputs), 1))(*inputs),
            (Tensor * max(len(outputs), 1))(*outputs),
        )
        status = self._lib.vtc_run(
            self._handle, entry.encode(), ins, len(inputs), outs, len(outputs), c_void_p(stream)
        )
        self._check(status)
        return list(outs[: len(outputs)])

    def null_call(self, entry):
        """``vtc_run`` with null pointers for one input and one output."""
        self._check(self._lib.vtc_run(self._handle, entry.encode(), None, 1, None, 1, None))

    def run(self, entry, *inputs, stream=None):
        """The results of a call as arrays, in new memory."""
        given = [np.asarray(a) for a in inputs]
        outs = [Tensor() for _ in range(self.count(entry)[1])]
        found = self.call(entry, [described(a) for a in given], outs, stream)
        results = [array(t) for t in found]
        for t in found:
            self.release(t)
        return results

    def release(self, t):
        self._lib.vtc_release(self._handle, byref(t))

    def state(self, name):
        t = Tensor()
        self._check(self._lib.vtc_state(self._handle, name.encode(), byref(t)))
        return t

    def reset(self):
        self._check(self._lib.vtc_reset(self._handle))

    def synchronize(self, stream=None):
        self._check(self._lib.vtc_synchronize(self._handle, c_void_p(stream)))
