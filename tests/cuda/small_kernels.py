"""The kernels of ``small_plans.py`` as Python functions, for the simulated GPU."""

import numpy as np
from simulated import Kernel

from vtc.runtime.cuda.copies import to_host

F4 = np.dtype("f4")

X, Y, I64 = "*fp32", "*fp32", "i64"


def install(gpu):
    """Let ``gpu`` know the kernels."""

    def f(at, n):
        return gpu.array(at, (n,), np.float32)

    def add_one(grid, x, y, n):
        f(y, n)[:] = f(x, n) + 1

    def double(grid, x, y, n):
        f(y, n)[:] = f(x, n) * 2

    def add(grid, x, y, z, n):
        f(z, n)[:] = f(x, n) + f(y, n)

    def step(grid, w, g, rate, out, n):
        f(out, n)[:] = f(w, n) - f(rate, 1)[0] * f(g, n)

    def gather(grid, x, index, y, n, error):
        found = gpu.array(index, (n,), np.int64)
        inside = (found >= 0) & (found < n)
        f(y, n)[:] = np.where(inside, f(x, n)[np.where(inside, found, 0)], 0)
        if not inside.all():
            gpu.array(error, (1,), np.int32)[0] = 1

    def below(grid, x, cell, limit):
        gpu.array(cell, (1,), np.uint8)[0] = f(x, 1)[0] < limit

    def add_all(grid, table, n):
        x, y, z = gpu.array(table, (3,), np.uint64)
        f(int(z), n)[:] = f(int(x), n) + f(int(y), n)

    gpu.kernels.update(
        add_one=Kernel((X, Y, I64), add_one),
        double=Kernel((X, Y, I64), double),
        add=Kernel((X, X, Y, I64), add),
        step=Kernel((X, X, X, Y, I64), step),
        gather=Kernel((X, "*i64", Y, I64, "*i32"), gather),
        add_all=Kernel(("*i64", I64), add_all),
        below=Kernel((X, "*i8", I64), below),
    )


def vector(n=5, seed=0):
    return np.random.default_rng(seed).normal(size=n).astype(F4)


def equal(got, want):
    np.testing.assert_array_equal(to_host(got), want)
