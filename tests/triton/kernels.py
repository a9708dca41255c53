"""Kernels written by hand, one of each kind: what Triton 3.6.0 can do, and what the templates may
rely on. A case is a kernel, its arrays, and what they hold after it in NumPy's words.

What compiling them showed:

* On sm_90 ``tl.dot`` of f16, bf16, tf32 and three tf32 (``tf32x3``) is wgmma; ``ieee`` is on CUDA
  cores. On sm_80 all but ``ieee`` is mma.
* A size is taken to be odd: rows of unknown length are read element by element, and 2-byte elements
  then not even in the background. ``n = n // 8 * 8`` tells Triton; ``tl.multiple_of(n, 8)`` does
  not. For a pointer read from memory it is the other way round: ``tl.multiple_of`` after the cast.
* Device-made descriptors are TMA on sm_90 (128 bytes of scratch each), and plain loads on sm_80.
* sm_80 has no ``fp8e4nv``. Atomic additions compile for f16, bf16, f32, f64, i32 and i64 on both.
"""

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from interpret import pointer
from scipy import special

from vtc.ir.plan import Build, Kernel

HEAD = """import triton
import triton.language as tl
from triton.language.extra import libdevice

"""


@dataclass(frozen=True)
class Case:
    """``want`` holds, for some of the arrays, what they hold afterwards."""

    name: str
    body: str
    arrays: tuple
    want: dict
    sizes: tuple = ()
    grid: tuple = (1,)
    checks: bool = False
    warps: int = 4
    stages: int = 3
    tolerance: float = 1e-6
    raises: bool = False
    ptx: dict[int, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return HEAD + self.body

    @property
    def kernel(self) -> Kernel:
        types = [*map(pointer, self.arrays), *("i64" for _ in self.sizes)]
        build = Build(
            (*types, *(["*i32"] if self.checks else [])), self.warps, self.stages, self.checks
        )
        return Kernel(self.name, self.name, self.source, f"model.py:1 {self.name}", build)

    def __str__(self):
        return self.name


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def pointwise():
    body = """@triton.jit
def gelu(x):
    return 0.5 * x * (1 + libdevice.erf(x * 0.7071067811865476))

@triton.jit
def pointwise(x0, x1, y0, n0):
    i = tl.program_id(0).to(tl.int64) * 4096 + tl.arange(0, 4096)
    inside = i < n0
    a = tl.load(x0 + i, inside)
    b = tl.load(x1 + i, inside).to(tl.float32)
    tl.store(y0 + i, gelu(a + b).to(tl.bfloat16), inside)
"""
    x, b = normal(10_000), normal(10_000, seed=1, dtype=ml_dtypes.bfloat16)
    y = np.zeros(10_000, ml_dtypes.bfloat16)
    s = x + b.astype(np.float32)
    want = (0.5 * s * (1 + special.erf(s * 0.7071067811865476))).astype(ml_dtypes.bfloat16)
    return Case("pointwise", body, (x, b, y), {2: want}, (10_000,), (3,), tolerance=1e-2)


def reduce():
    body = """@triton.jit
def welford(m1, s1, n1, m2, s2, n2):
    n = n1 + n2
    d = m2 - m1
    w = tl.where(n == 0.0, 0.0, n2 / n)
    return m1 + d * w, s1 + s2 + d * d * n1 * w, n

@triton.jit
def reduce(x0, y0, y1, y2, n0):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, 1024)
    v = tl.load(x0 + row * n0 + i, i < n0, other=-float("inf"))
    m = tl.max(v, 0)
    e = tl.exp(v - m)
    tl.store(y0 + row * n0 + i, e / tl.sum(e, 0), i < n0)
    x = tl.where(i < n0, v, 0.0)
    mean, square, count = tl.reduce((x, x * 0, tl.where(i < n0, 1.0, 0.0)), 0, welford)
    tl.store(y1 + row, square / count)
    tl.store(y2 + row, tl.argmax(v, 0))
"""
    x = normal(5, 1000)
    e = np.exp(x - x.max(1, keepdims=True))
    want = {1: e / e.sum(1, keepdims=True), 2: x.var(1), 3: x.argmax(1)}
    out = (np.zeros_like(x), np.zeros(5, np.float32), np.zeros(5, np.int32))
    return Case("reduce", body, (x, *out), want, (1000,), (5,), tolerance=1e-5)


def matmul(name, dtype, precision, product, tolerance, ptx):
    options = f', input_precision="{precision}"' if precision else ""
    body = f"""@triton.jit
def {name}(x0, x1, y0, n0, n1, n2):
    m = tl.program_id(0).to(tl.int64) * 64 + tl.arange(0, 64)
    n = tl.program_id(1).to(tl.int64) * 64 + tl.arange(0, 64)
    k = tl.arange(0, 32)
    acc = tl.zeros((64, 64), tl.float32)
    for k0 in range(0, n2, 32):
        a = tl.load(x0 + m[:, None] * n2 + (k0 + k)[None, :],
                    (m[:, None] < n0) & ((k0 + k)[None, :] < n2), other=0.0)
        b = tl.load(x1 + (k0 + k)[:, None] * n1 + n[None, :],
                    ((k0 + k)[:, None] < n2) & (n[None, :] < n1), other=0.0)
        acc = tl.dot(a, b, acc{options})
    at = y0 + m[:, None] * n1 + n[None, :]
    tl.store(at, acc.to({product}), (m[:, None] < n0) & (n[None, :] < n1))
"""
    a, b = normal(100, 70, dtype=dtype), normal(70, 90, seed=1, dtype=dtype)
    want = a.astype(np.float64) @ b.astype(np.float64)
    y = np.zeros((100, 90), dtype)
    return Case(
        name, body, (a, b, y), {2: want}, (100, 90, 70), (2, 2), tolerance=tolerance, ptx=ptx
    )


def matmuls():
    wgmma, mma = "wgmma.mma_async", "mma.sync"
    bf16 = ml_dtypes.bfloat16
    fma = {80: "fma.rn", 90: "fma.rn"}
    yield matmul("matmul_ieee", np.float32, "ieee", "tl.float32", 1e-5, fma)
    yield matmul("matmul_tf32", np.float32, "tf32", "tl.float32", 1e-5, {80: mma, 90: wgmma})
    yield matmul("matmul_tf32x3", np.float32, "tf32x3", "tl.float32", 1e-5, {80: mma, 90: wgmma})
    yield matmul("matmul_f16", np.float16, "", "tl.float16", 2e-3, {80: mma, 90: wgmma})
    yield matmul("matmul_bf16", bf16, "", "tl.bfloat16", 1e-2, {80: mma, 90: wgmma})


def descriptor():
    body = """@triton.jit
def descriptor(x0, x1, y0, n0):
    a = tl.make_tensor_descriptor(x0, [n0, 128], [128, 1], [64, 64])
    b = tl.make_tensor_descriptor(x1, [128, 64], [64, 1], [64, 64])
    m = (tl.program_id(0) * 64).to(tl.int32)
    acc = tl.zeros((64, 64), tl.float32)
    for k in range(0, 128, 64):
        acc = tl.dot(a.load([m, k]), b.load([k, 0]), acc)
    c = tl.make_tensor_descriptor(y0, [n0, 64], [64, 1], [64, 64])
    c.store([m, 0], acc.to(tl.bfloat16))
"""
    bf16 = ml_dtypes.bfloat16
    a, b = normal(100, 128, dtype=bf16), normal(128, 64, seed=1, dtype=bf16)
    want = a.astype(np.float64) @ b.astype(np.float64)
    y = np.zeros((100, 64), bf16)
    return Case(
        "descriptor", body, (a, b, y), {2: want}, (100,), (2,), tolerance=1e-2,
        ptx={90: "cp.async.bulk.tensor"},
    )  # fmt: skip


def atomics(dtype, name):
    kind = {"float32": "tl.float32", "int32": "tl.int32", "int64": "tl.int64"}.get(name)
    kind = kind or {"float16": "tl.float16", "bfloat16": "tl.bfloat16"}.get(name, "tl.float64")
    body = f"""@triton.jit
def atomic_{name}(x0, x1, y0, n0):
    i = tl.program_id(0).to(tl.int64) * 64 + tl.arange(0, 64)
    at = tl.load(x0 + i, i < n0, other=0)
    tl.atomic_add(y0 + at, tl.load(x1 + i, i < n0, other=0).to({kind}), i < n0, sem="relaxed")
"""
    at = np.random.default_rng(0).integers(0, 7, 100)
    x = np.random.default_rng(1).integers(-8, 8, 100).astype(dtype)
    want = np.zeros(7)
    np.add.at(want, at, x.astype(np.float64))
    arrays = (at, x, np.zeros(7, dtype))
    return Case(f"atomic_{name}", body, arrays, {2: want}, (100,), (2,))


def loop():
    body = """@triton.jit
def loop(x0, y0, n0):
    i = tl.arange(0, 16)
    a = tl.load(x0 + i, i < n0, other=1)
    steps = tl.zeros((16,), tl.int32)
    while tl.max((a != 1).to(tl.int32), 0) == 1:
        half = a >> 1
        a = tl.where(a == 1, 1, tl.where(a & 1 == 0, half, 3 * a + 1))
        steps += (a != 1).to(tl.int32)
    tl.store(y0 + i, steps, i < n0)
"""
    x = np.arange(1, 13, dtype=np.int64)

    def collatz(n):
        count = 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            count += n != 1
        return count

    want = np.array([collatz(n) for n in x], np.int32)
    return Case("loop", body, (x, np.zeros(12, np.int32)), {1: want}, (12,))


def gather(name, index, raises):
    body = f"""@triton.jit
def {name}(x0, x1, y0, n0, n1, err):
    i = tl.program_id(0).to(tl.int64) * 128 + tl.arange(0, 128)
    at = tl.load(x1 + i, i < n1, other=0)
    bad = (i < n1) & ((at < 0) | (at >= n0))
    tl.store(err + i * 0, 1, bad)
    at = tl.where(bad, 0, at)
    tl.store(y0 + i, tl.load(x0 + at, i < n1), i < n1)
"""
    x, at = normal(10), np.array(index, np.int64)
    want = x[np.where((at < 0) | (at >= 10), 0, at)]
    arrays = (x, at, np.zeros(len(at), np.float32))
    return Case(name, body, arrays, {2: want}, (10, len(at)), checks=True, raises=raises)


def scan():
    body = """@triton.jit
def segment(a, p, b, q):
    return tl.where(q != 0, b, a + b), p | q

@triton.jit
def scan(x0, x1, y0, y1, n0):
    i = tl.arange(0, 64)
    v = tl.load(x0 + i, i < n0, other=0.0)
    f = tl.load(x1 + i, i < n0, other=1).to(tl.int32)
    s, _ = tl.associative_scan((v, f), 0, segment)
    tl.store(y0 + i, s, i < n0)
    tl.store(y1 + i, tl.cumsum(v, 0), i < n0)
"""
    x = normal(50)
    starts = np.zeros(50, bool)
    starts[[0, 9, 10, 33]] = True
    pieces = np.split(x, [9, 10, 33])
    want = {2: np.concatenate([p.cumsum() for p in pieces]), 3: x.cumsum()}
    arrays = (x, starts, np.zeros(50, np.float32), np.zeros(50, np.float32))
    return Case("scan", body, arrays, want, (50,), tolerance=1e-5)


def casts(dtype, kind):
    """f32 to a narrow float and back, as ml_dtypes has it; beyond its range fp8 saturates."""
    name = np.dtype(dtype).name
    body = f"""@triton.jit
def cast_{name}(x0, y0, y1):
    i = tl.arange(0, 1024)
    v = tl.load(x0 + i).to({kind})
    tl.store(y0 + i, v)
    tl.store(y1 + i, v.to(tl.float32))
"""
    x = np.concatenate([normal(512) * 100, np.ldexp(normal(506, seed=1), -9)]).astype(np.float32)
    ends = [0.0, -0.0, float("inf"), float("nan"), 1e6, -1e6]
    x = np.concatenate([x, np.array(ends, np.float32)])
    most = float(ml_dtypes.finfo(dtype).max) if name != "bfloat16" else np.inf
    narrow = np.clip(x, -most, most).astype(dtype)
    arrays = (x, np.zeros(1024, dtype), np.zeros(1024, np.float32))
    return Case(f"cast_{name}", body, arrays, {1: narrow, 2: narrow.astype(np.float32)})


def to_integers():
    body = """@triton.jit
def to_integers(x0, y0, y1, y2):
    i = tl.arange(0, 16)
    v = tl.load(x0 + i)
    tl.store(y0 + i, v.to(tl.int32))
    tl.store(y1 + i, v.to(tl.int64))
    tl.store(y2 + i, v.to(tl.uint8))
"""
    some = [0.0, 1.7, -1.7, 2.5e9, -2.5e9, 1e19, -1e19, float("nan"), float("inf"), 255.0, 300.0]
    x = np.array([*some, *([3.0] * 5)], np.float32)
    big = np.iinfo(np.int32)
    with np.errstate(invalid="ignore"):
        whole = np.nan_to_num(np.trunc(x.astype(np.float64)), posinf=1e30)
    i32 = np.clip(whole, big.min, big.max).astype(np.int32)
    i64 = [int(np.clip(int(w), -(2**63), 2**63 - 1)) for w in whole]
    arrays = (x, np.zeros(16, np.int32), np.zeros(16, np.int64), np.zeros(16, np.uint8))
    u8 = np.clip(whole, -(2**15), 2**15 - 1).astype(np.int16).astype(np.uint8)
    return Case("to_integers", body, arrays, {1: i32, 2: np.array(i64, np.int64), 3: u8})


def exact():
    """Nothing is fused: ``x * y - max(x * y)`` is 0 where the maximum is."""
    body = """@triton.jit
def exact(x0, x1, y0):
    i = tl.arange(0, 256)
    a = tl.load(x0 + i)
    b = tl.load(x1 + i)
    tl.store(y0 + i, a * b - tl.max(a * b, 0))
    tl.store(y0 + 256 + i, tl.fma(a, b, -(a * b)))
"""
    x, b = normal(256), normal(256, seed=1)
    p = x * b
    rest = (x.astype(np.float64) * b - p.astype(np.float64)).astype(np.float32)
    want = np.concatenate([p - p.max(), rest])
    return Case("exact", body, (x, b, np.zeros(512, np.float32)), {2: want}, tolerance=0.0)


def table():
    """Pointers in memory, as many as a group of kernels has."""
    body = """@triton.jit
def table(x0, n0):
    x = tl.load(x0 + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    x = tl.multiple_of(x, 16)
    i = tl.arange(0, 64)
    tl.store(x + i, tl.load(x + i, i < n0) * 2.0, i < n0)
"""
    held = [normal(50, seed=s) for s in range(2)]
    addresses = np.array([h.ctypes.data for h in held], np.int64)
    case = Case("table", body, (addresses,), {}, (50,), (2,))
    return case, held


CASES = [
    pointwise(), reduce(), *matmuls(), descriptor(), loop(), scan(), to_integers(), exact(),
    *(atomics(np.dtype(d), np.dtype(d).name)
      for d in (np.int32, np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16)),
    gather("gather", [3, 0, 9, 9], raises=False),
    gather("gather_outside", [3, 10, -1, 9], raises=True),
    casts(ml_dtypes.bfloat16, "tl.bfloat16"),
    casts(ml_dtypes.float8_e4m3fn, "tl.float8e4nv"),
    casts(ml_dtypes.float8_e5m2, "tl.float8e5"),
]  # fmt: skip
