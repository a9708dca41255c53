"""Registers, shared memory and spills of kernels, in a table whose growth fails.

The table is ``resources.json``; ``pytest tests/triton/test_resources.py --update-golden`` writes it
anew: review the diff. A family adds its kernels by a file ``tests/triton/corpus_<family>.py`` with
a function ``kernels()`` that yields kernels whose names are distinct.
"""

import json
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import triton
from kernels import CASES, HEAD

from vtc.codegen.triton.compile import compile_kernels
from vtc.codegen.triton.resources import Resources, resources
from vtc.errors import CompilerError
from vtc.ir.plan import Binary, Build, Kernel
from vtc.ir.target import cuda

FOLDER = Path(__file__).parent
TABLE = FOLDER / "resources.json"
TARGET = cuda(90)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def corpus():
    """The kernels of the table by name."""
    found = [c.kernel for c in CASES]
    for path in sorted(FOLDER.glob("corpus_*.py")):
        found += import_module(path.stem).kernels()
    named = {k.name: k for k in found}
    assert len(named) == len(found), "expected distinct names"
    return named


def grown(old, new):
    """What of ``new`` is more than ``old`` has; names that only one of them has."""
    lines = [f"{name}: not in the table" for name in new if name not in old]
    lines += [f"{name}: no kernel any more" for name in old if name not in new]
    for name, now in new.items():
        for what, value in now.items():
            before = old.get(name, now)[what]
            if value > before:
                lines.append(f"{name}: {what} was {before}, is {value}")
    return lines


def test_nothing_takes_more_than_the_table_says(store, update_golden):
    new = {}
    for name, kernel in corpus().items():
        (binary,) = compile_kernels([kernel], TARGET, store).values()
        r = resources(binary)
        new[name] = {"registers": r.registers, "shared": r.shared, "spills": r.spills}
    if update_golden:
        rows = (f" {json.dumps(name)}: {json.dumps(new[name])}" for name in sorted(new))
        TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    worse = grown(json.loads(TABLE.read_text()), new)
    assert not worse, "\n".join([*worse, f"to accept: pytest {__file__} --update-golden"])


def test_growth_is_seen():
    row = {"registers": 32, "shared": 0, "spills": 0}
    assert grown({"k": row}, {"k": row}) == []
    assert grown({"k": row}, {"k": row | {"registers": 24}}) == []
    assert grown({"k": row}, {"k": row | {"spills": 8}}) == ["k: spills was 0, is 8"]
    assert grown({}, {"k": row}) == ["k: not in the table"]
    assert grown({"k": row}, {}) == ["k: no kernel any more"]


SPILLING = Kernel(
    "spilling",
    "spilling",
    f"""{HEAD}@triton.jit
def spilling(x0, x1, y0):
    i = tl.arange(0, 128)
    at = i[:, None] * 128 + i[None, :]
    tl.store(y0 + at, tl.dot(tl.load(x0 + at), tl.load(x1 + at)))
""",
    build=Build(("*fp16", "*fp16", "*fp32"), warps=1),
)


CHECKED = [SPILLING, *(c.kernel for c in CASES[:2])]


@pytest.mark.parametrize("kernel", CHECKED, ids=lambda k: k.name)
def test_they_are_what_cuobjdump_says(kernel, store, tmp_path):
    (binary,) = compile_kernels([kernel], TARGET, store).values()
    file = tmp_path / "kernel.cubin"
    file.write_bytes(binary.cubin)
    said = subprocess.run(
        [CUOBJDUMP, "--dump-resource-usage", file], capture_output=True, text=True, check=True
    ).stdout
    numbers = dict(word.split(":") for word in said.split() if word[:4] in ("REG:", "STAC"))
    found = resources(binary)
    assert found == Resources(int(numbers["REG"]), binary.shared, int(numbers["STACK"]))
    assert bool(found.spills) is (kernel is SPILLING)


def test_what_is_no_cubin():
    for content in (b"", b"\x7fELF" + bytes(100)):
        with pytest.raises(CompilerError, match="expected a cubin of k, got"):
            resources(Binary("k", content, 4))
