"""What the C runtime calls of the driver, beside the driver's own header, which Triton brings.

A wrong struct or argument would show on a GPU only. So the compiler compares them: sizes, places of
fields, numbers, and the arguments of every function (all pointers are alike).
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import triton

import vtc.runtime
from vtc.codegen.render import render

NATIVE = Path(vtc.runtime.__file__).parent / "native"
HEADER = Path(triton.__file__).parent / "backends/nvidia/include/cuda.h"
CC = shutil.which("cc")
KERNEL = {
    "function": "func", "grid[0]": "gridDimX", "grid[2]": "gridDimZ", "block[0]": "blockDimX",
    "block[2]": "blockDimZ", "shared": "sharedMemBytes", "params": "kernelParams",
    "extra": "extra", "kernel": "kern", "context": "ctx",
}  # fmt: skip
END = {
    "x": "XInBytes", "y": "Y", "z": "Z", "lod": "LOD", "type": "MemoryType", "host": "Host",
    "device": "Device", "array": "Array", "pitch": "Pitch", "height": "Height",
}  # fmt: skip
COPY = {
    **{f"source.{mine}": f"src{theirs}" for mine, theirs in END.items()},
    **{f"target.{mine}": f"dst{theirs}" for mine, theirs in END.items()},
    "width": "WidthInBytes", "height": "Height", "depth": "Depth",
}  # fmt: skip
FORK = {
    "type": "type", "reserved": "reserved0", "handle": "conditional.handle",
    "kind": "conditional.type", "size": "conditional.size", "graphs": "conditional.phGraph_out",
    "context": "conditional.ctx",
}  # fmt: skip
pytestmark = pytest.mark.skipif(CC is None, reason="there is no C compiler")


def alike(mine, theirs, fields):
    """Assertions that two structs have the same size and fields in the same places."""
    yield f'_Static_assert(sizeof({mine}) == sizeof({theirs}), "{theirs}");'
    for a, b in fields.items():
        places = f"offsetof({mine}, {a}) == offsetof({theirs}, {b})"
        sizes = f"sizeof((({mine} *)0)->{a}) == sizeof((({theirs} *)0)->{b})"
        yield f'_Static_assert({places} && {sizes}, "{theirs}.{b}");'


def compiled(lines, folder):
    """What the compiler says of these lines."""
    source = folder / "check.c"
    source.write_text("\n".join([*lines, ""]))
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wcast-function-type", "-Werror", "-fsyntax-only"]
    command = [CC, *flags, f"-I{NATIVE}", f"-I{HEADER.parent}", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def runtime():
    """The C runtime beside the header."""
    text = (NATIVE / "vtc_driver.h").read_text()
    calls = re.findall(r'X\((\w+), "(\w+)", (\(.*?\))\)\s', text)
    numbers = re.findall(r"\bVTC_(CU_\w+|CUDA_ERROR_\w+) = \d+", text)
    assert len(calls) == text.count("    X(") >= 40
    assert len(numbers) == len(re.findall(r"VTC_CU\w+ = ", text)) > 10
    yield '#include "vtc_runtime.c"'
    yield "#include <cuda.h>"
    for field, symbol, arguments in calls:
        yield f"int (*check_{field}){arguments} = (int (*){arguments}){symbol};"
    for number in numbers:
        yield f'_Static_assert(VTC_{number} == (int){number}, "{number}");'
    yield from alike("vtc_kernel_params", "CUDA_KERNEL_NODE_PARAMS_v2", KERNEL)
    yield from alike("vtc_copy_params", "CUDA_MEMCPY3D_v2", COPY)
    yield from alike("vtc_fork_params", "CUgraphNodeParams", FORK)


def test_the_c_runtime_calls_the_driver_as_its_header_says(tmp_path):
    assert compiled(runtime(), tmp_path) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("vtc_kernel_params, kernel", "vtc_kernel_params, context"),
        ("(VTC_CU_EVENT_DISABLE_TIMING", "(1 + VTC_CU_EVENT_DISABLE_TIMING"),
        ("(uint64_t *, size_t))cuMemAlloc_v2", "(uint64_t *, int))cuMemAlloc_v2"),
        ("vtc_fork_params, size)", "vtc_fork_params, kind)"),
        ("vtc_fork_params *))cuGraphAddNode", "vtc_fork_params))cuGraphAddNode"),
    ],
)
def test_what_is_wrong_is_seen(tmp_path, right, wrong):
    lines = "\n".join(runtime())
    assert right in lines
    assert compiled([lines.replace(right, wrong)], tmp_path)


def test_the_function_that_patches_graphs_has_the_same_structs(tmp_path):
    lines = [render("patch"), "#include <stddef.h>", "#include <cuda.h>"]
    lines += alike("kernel_params", "CUDA_KERNEL_NODE_PARAMS_v2", KERNEL)
    lines += alike("copy_params", "CUDA_MEMCPY3D_v2", COPY)
    lines += ['_Static_assert(UNIFIED == (int)CU_MEMORYTYPE_UNIFIED, "UNIFIED");']
    assert compiled(lines, tmp_path) == ""
