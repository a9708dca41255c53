"""Triton kernels on the host, on NumPy arrays: the oracle of what a GPU would compute.

    raised = run(kernel.source, kernel.symbol, [x, y], sizes=[n], grid=(4,), checks=True)

The text of the module is what a GPU would get: it runs in Triton's interpreter, with the
corrections of :mod:`corrections`. A program of the grid takes about a millisecond, whatever its
block: few programs with big blocks are quick. Arrays are those of NumPy and ml_dtypes; bools are
bytes.

What a test should know of Triton 3.6.0:

* It needs NumPy below 2.4, and ``TRITON_INTERPRET=1`` before it is imported (``conftest.py``).
* ``tl.dot`` multiplies in the type of its result: tf32 is as exact as f32 here.
* ``x / y`` and ``tl.exp`` are exact here and approximate on a GPU.
* ``tl.dot_scaled`` and Gluon do not run here, nor inline assembler but for single instructions.
* The variable of ``range`` is a number of Python here: it has no type, and does not wrap.
* Blocks smaller than a GPU's tensor core takes (16 in each direction), and more than 2**20
  elements, are accepted here; compiling refuses them.
* An address out of range that no mask excludes ends the process.
"""

import hashlib
import linecache
import threading
import warnings
from types import ModuleType

import numpy as np
import triton
import triton.language as tl
from corrections import corrected
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

NAMES = {
    "bool": "u8",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
    "float8_e4m3fn": "fp8e4nv",
    "float8_e5m2": "fp8e5",
} | {f"{kind}int{bits}": f"{kind or 'i'}{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)}
"""Triton's name of the elements of an array."""

_MODULES = {}
_ALONE = threading.Lock()


def run(source, symbol, arrays, sizes=(), grid=(1,), *, checks=False):
    """Run the kernel on ``arrays``, which it reads and writes in place, and ``sizes``, which are
    i64; whether it met an index out of its range, if it ``checks``.
    """
    cell = np.zeros(4, np.int32)
    signature = [*map(pointer, arrays), *("i64" for _ in sizes)]
    values = [*(a.ctypes.data for a in arrays), *sizes]
    if checks:
        signature.append("*i32")
        values.append(cell.ctypes.data)
    launch(source, symbol, signature, values, grid)
    assert cell[0] in (0, 1), f"the error cell holds {cell[0]}"
    assert not cell[1:].any(), "the kernel wrote behind the error cell"
    return bool(cell[0])


def launch(source, symbol, signature, values, grid):
    """Run the kernel on ``values``: addresses and numbers of the types in ``signature``."""
    kernel = getattr(module(source), symbol)
    assert isinstance(kernel, InterpretedFunction), "TRITON_INTERPRET=1 came too late"
    args = [_value(kind, value) for kind, value in zip(signature, values, strict=True)]
    grid = tuple(int(n) for n in grid)
    with (
        _ALONE,
        corrected(),
        np.errstate(all="ignore"),
        warnings.catch_warnings(),
        np.printoptions(threshold=64),
    ):
        warnings.simplefilter("ignore")  # of numbers in arrays of one element
        if np.prod(grid):
            kernel[grid](*args)


def module(source):
    """The module with text ``source``."""
    if source not in _MODULES:
        name = f"<triton {hashlib.sha256(source.encode()).hexdigest()[:16]}>"
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = (len(source), None, lines, name)  # where Triton reads it
        made = ModuleType("vtc_kernel")
        made.__file__ = name
        exec(compile(source, name, "exec"), made.__dict__)
        _MODULES[source] = made
    return _MODULES[source]


def pointer(array):
    """How a signature calls a pointer to the elements of ``array``."""
    assert array.ctypes.data % 16 == 0, "expected an array that begins at a multiple of 16"
    return f"*{NAMES[array.dtype.name]}"


def _value(kind, value):
    """``value`` as the interpreter has it."""
    type_ = tl.str_to_ty(kind, None)
    if type_.is_ptr():
        return tl.tensor(TensorHandle(np.array([value], np.uint64), type_), type_)
    dtype = triton.runtime.interpreter._get_np_dtype(type_)
    return tl.tensor(TensorHandle(np.array([value], dtype), type_), type_)
