"""Compiled programs on a simulated GPU whose kernels are interpreted.

gpu = simulated.Simulated()
with interpreted(gpu, monkeypatch, folder): ...
"""

import gc
import sys
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from interpret import launch

from vtc import build, config
from vtc.frontend.functions import random
from vtc.ir.plan import Binary
from vtc.runtime.cuda import copies
from vtc.runtime.cuda.driver import installed

sys.path.append(str(Path(__file__).parents[1] / "cuda"))
simulated, entries = import_module("simulated"), import_module("entries")


@contextmanager
def interpreted(gpu, monkeypatch, folder):
    """``gpu`` is the one there is, and what is built for it is kept in ``folder``."""

    def compile_kernels(kernels, target, store):
        for k in kernels:
            call = partial(run, k)
            gpu.kernels[k.symbol] = simulated.Kernel(k.build.signature, call)
        return {k.symbol: Binary(k.symbol, b"", k.build.warps) for k in kernels}

    def run(kernel, grid, *values):
        launch(kernel.source, kernel.symbol, kernel.build.signature, values, grid)

    monkeypatch.setattr(build, "compile_kernels", compile_kernels)
    monkeypatch.setattr(copies, "strided", None)
    with config.override(cache_dir=folder), installed(gpu):
        yield gpu
        random._defaults.clear()
        gc.collect()
