"""``import vtc`` is quick and loads nothing heavy; the runtime loads no compiler code."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 0.3  # seconds over a bare interpreter, best of five
HEAVY = {"jinja2", "networkx", "torch", "scipy", "triton", "cuda", "sklearn"}
COMPILER = ("vtc.passes", "vtc.codegen", "vtc.build", "vtc.frontend", "vtc.nn", "vtc.optim")
RUNTIME_MAY_SEE = {"vtc.ir", "vtc.ir.plan", "vtc.ir.types", "vtc.ir.dims", "vtc.ir.target"}


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seconds(code):
    start = time.perf_counter()
    run(code)
    return time.perf_counter() - start


def loaded_by(name):
    return set(run(f"import sys, {name}; print(*sys.modules)").split())


@pytest.mark.parametrize("name", ["vtc", "vtc.runtime"])
def test_import_is_quick(name):
    bare, full = zip(*((seconds("pass"), seconds(f"import {name}")) for _ in range(5)), strict=True)
    cost = min(full) - min(bare)
    assert cost < LIMIT, f"import {name} takes {cost:.2f} s, at most {LIMIT} s allowed"


@pytest.mark.parametrize("name", ["vtc", "vtc.runtime", "vtc.nn, vtc.optim", "vtc.frontend.jit"])
def test_import_loads_nothing_heavy(name):
    heavy = HEAVY & loaded_by(name)
    assert not heavy, f"import {name} loads {', '.join(sorted(heavy))}: use vtc.lazy"


def test_the_runtime_loads_no_compiler():
    ours = {m for m in loaded_by("vtc.runtime") if m.startswith("vtc.")}
    wrong = {m for m in ours if m.startswith("vtc.ir") and m not in RUNTIME_MAY_SEE}
    wrong |= {m for m in ours if m.startswith(COMPILER)}
    assert not wrong, f"import vtc.runtime loads {', '.join(sorted(wrong))}"
