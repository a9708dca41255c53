"""``vtc info``: versions, compiler, cache and GPUs."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

import vtc.ir.ops  # fills the registry
from vtc.codegen.c import find_compiler
from vtc.config import config
from vtc.runtime.cuda.driver import driver


def arguments(parser: argparse.ArgumentParser) -> None:
    """None."""
    del parser


def run(given: argparse.Namespace) -> int:
    """Print what is here."""
    del given
    compiler, gpus = find_compiler(), driver()
    names = ", ".join(gpus.facts(k).name for k in range(gpus.count()))
    lines = {
        "vtc": vtc.__version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "ops": str(len(vtc.ir.op.REGISTRY)),
        "C compiler": "none: programs run in NumPy" if compiler is None else str(compiler),
        "cache": str(config().cache_dir),
        "GPUs": names or f"none: {gpus.why()}",
    }
    print("".join(f"{k:12}{v}\n" for k, v in lines.items()), end="")
    return 0
