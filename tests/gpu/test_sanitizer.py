"""``sanitized.py`` under compute-sanitizer: no access outside of memory, no race in shared memory.

Each tensor is memory of its own meanwhile (``VTC_CUDA_GUARD=1``), else the tool would see nothing
but the allocator's segments. An arena is one piece all the same: what a program keeps between its
kernels is not told apart.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sanitized.py")
TOOL = shutil.which("compute-sanitizer")
LONGEST = 100
"""Seconds, with kernels that are compiled already."""
WITH_SHARED_MEMORY = ("softmax", "norms", "sums")

needs_tool = pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not on PATH")
needs_gpu = pytest.mark.gpu


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Compiled kernels: the tool makes compiling slow."""
    folder = tmp_path_factory.mktemp("sanitized")
    done = run([], folder, "cuda", timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def run(before, folder, *arguments, timeout=LONGEST, **more):
    """The program, in a process of its own."""
    chosen = {"VTC_CACHE_DIR": str(folder), "VTC_TUNE": "off", "VTC_CHECK": "0"}
    command = [*before, sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=os.environ | chosen | more
    )


def sanitized(tool, folder, *arguments):
    before = [TOOL, "--tool", tool, "--error-exitcode", "1"]
    done = run(before, folder, "cuda", *arguments, VTC_CUDA_GUARD="1")
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "0 hazards" in done.stdout
    return done.stdout


@needs_gpu
@needs_tool
def test_no_access_is_outside_of_memory(cache):
    assert "done: training" in sanitized("memcheck", cache)


@needs_gpu
@needs_tool
def test_no_race_in_shared_memory(cache):
    assert "done: sums" in sanitized("racecheck", cache, *WITH_SHARED_MEMORY)


BEYOND = """
import sys
sys.path[:0] = {folders}
import numpy as np, ptx, small_plans as plans
from vtc.ir.plan import Input, Output
from vtc.runtime.cuda.array import empty
from vtc.runtime.cuda.copies import to_device
from vtc.runtime.cuda.device import gpu
from vtc.runtime.cuda.executable import CudaExecutable

steps = [plans.run("add_one", Input(0), Output(0), n=1001)]
plan = plans.plan([plans.VECTOR], [plans.VECTOR], steps)
executable = CudaExecutable(plan, ptx.binaries(plans.BINARIES), 0)
kept = executable.run([to_device(np.ones(1000, "f4"), 0)])
gpu(0).synchronize()
"""


@needs_gpu
@needs_tool
def test_the_tool_sees_what_is_one_element_too_long(tmp_path):
    tests = PROGRAM.parents[1]
    script = tmp_path / "beyond.py"
    script.write_text(BEYOND.format(folders=[str(tests / "gpu"), str(tests / "cuda")]))
    before = [TOOL, "--tool", "memcheck", "--error-exitcode", "1", sys.executable, str(script)]
    for guard, fails in (("1", True), ("0", False)):
        done = subprocess.run(
            before, capture_output=True, text=True, env=os.environ | {"VTC_CUDA_GUARD": guard}
        )
        assert (done.returncode != 0) is fails, done.stdout[-4000:]
        assert ("Invalid __global__" in done.stdout) is fails


def test_the_program_is_right_on_the_cpu(tmp_path):
    done = run([], tmp_path, "cpu", timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 9
