"""The kernel that copies between arrays with any strides, in the interpreter."""

import numpy as np
import pytest
from interpret import run

from vtc.codegen.strided import BLOCK, strided
from vtc.codegen.triton.compile import compile_kernels
from vtc.errors import CodegenError
from vtc.ir.target import cuda
from vtc.runtime.cuda.strided import axes_of

CASES = [
    ("transposed", lambda a: a.T, lambda a: a),
    ("repeated", lambda a: a, lambda a: np.broadcast_to(a[:1], a.shape)),
    ("every second", lambda a: a[:, ::2], lambda a: a[:, 1::2]),
    ("one", lambda a: a[1:2, 2:3], lambda a: a[:1, :1]),
    ("dense", lambda a: a, lambda a: a),
]


def copied(target, source):
    """Run the kernel as the runtime would."""
    width = min(target.itemsize, 8)
    axes = axes_of(target, source, width)
    kernel, total = strided(len(axes), width), target.size * (target.itemsize // width)
    bases = [b if b.base is None else b.base for b in (target, source)]
    pairs = zip((target, source), bases, strict=True)
    starts = [(a.ctypes.data - b.ctypes.data) // width for a, b in pairs]
    sizes = [*starts, total, *(axis[k] for k in range(3) for axis in axes)]
    flat = [b.reshape(-1).view(f"i{width}") for b in bases]
    run(kernel.source, kernel.symbol, flat, sizes, (-(-total // BLOCK),))


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "i8", "c16"])
@pytest.mark.parametrize(("name", "to", "of"), CASES, ids=[c[0] for c in CASES])
def test_every_element_arrives(name, to, of, dtype):
    rng = np.random.default_rng(0)
    shape = (6, 8) if name != "dense" else (60, 40)
    a, b = rng.integers(0, 99, shape).astype(dtype), np.zeros(shape, dtype)
    source = of(a)
    target = to(b if name != "transposed" else np.zeros(shape[::-1], dtype))
    copied(target, source)
    np.testing.assert_array_equal(target, source)


def test_eight_axes():
    a, b = np.arange(256).reshape((2,) * 8), np.zeros((2,) * 8, int)
    copied(b, a.T)
    np.testing.assert_array_equal(b, a.T)


def test_it_compiles(store):
    kernels = [strided(axes, width) for axes in (1, 4, 8) for width in (1, 8)]
    binaries = compile_kernels(kernels, cuda(90), store)
    assert all(b.cubin[:4] == b"\x7fELF" and not b.shared for b in binaries.values())


def test_no_kernel_for_more():
    with pytest.raises(CodegenError, match=r"1 to 8 axes .*, got 9 axes of 4"):
        strided(9, 4)
