"""Packages for GPUs, made where there is none."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import vtc
import vtc.nn as nn
from vtc.build import stage_program
from vtc.codegen.decisions import Decision, to_fields
from vtc.codegen.triton import resources
from vtc.codegen.tune import _subjects, label
from vtc.config import override
from vtc.packing import goals
from vtc.passes.pipeline import Context, Options
from vtc.runtime.archive import Archive

ROOT = Path(__file__).parents[2]
TARGETS = ["cpu-x86-64-v3", "cuda:80", "cuda:90", "cuda:100"]
EXPORT = """
import sys, vtc, vtc.nn as nn
vtc.manual_seed(0)
net = nn.Sequential(nn.Linear(16, 16), nn.GELU())
vtc.export(net, (vtc.ones(4, 16),), sys.argv[1], targets=["cuda:90"], example=False)
"""


PARAMETER = 0x17
"""The attribute of a kernel that says where a parameter lies, and how many bytes it has."""


def parameters(cubin, symbol):
    """Place and bytes of each parameter of a kernel."""
    info, at, found = resources._section(cubin, f".nv.info.{symbol}".encode()), 0, []
    while at < len(info):
        form, code, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == resources._SIZED:
            if code == PARAMETER:
                _, number, place, size_and_flags = struct.unpack_from("<IHHI", info, at)
                found.append((number, place, size_and_flags >> 18))
            at += size
    return [(place, size) for _, place, size in sorted(found)]


def test_three_architectures_and_a_cpu_in_one_file(tmp_path):
    net = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32))
    batch = {0: {0: vtc.Dim("batch", 1, 64)}}
    path = vtc.export(net, (vtc.ones(4, 16),), tmp_path / "m.vtc", dynamic=batch, targets=TARGETS)
    with Archive(path, "full") as archive:
        (variant,) = archive.manifest.entries["forward"].variants
        assert list(archive.manifest.targets) == ["cpu-x86-64-v3", "sm_80", "sm_90", "sm_100"]
        assert set(variant.plans) == set(archive.manifest.targets)
        for target in archive.manifest.targets[1:]:
            plan = json.loads(archive.read(variant.plans[target].plan))
            assert plan["target"] == target
            assert all(source == "" for _, _, source, *_ in plan["kernels"])
            for symbol, kernel in variant.plans[target].kernels.items():
                cubin = archive.read(kernel.file)
                assert cubin.startswith(b"\x7fELF")
                assert symbol.encode() in cubin
                arch = int(target.removeprefix("sm_"))
                assert arch in (cubin[0x30], cubin[0x31])  # flags of the ELF header
                (signature,) = (k[4][0] for k in plan["kernels"] if k[1] == symbol)
                # The kernel's own, then Triton's two addresses of scratch memory: all are words.
                words = [(8 * k, 8) for k in range(len(signature) + 2)]
                assert parameters(cubin, symbol) == words
        assert archive.read("lib/host-x86-64/patch.so").startswith(b"\x7fELF")


def test_two_processes_write_the_same_cubins_and_no_path(tmp_path):
    files = []
    for seed in ("1", "2"):
        file, folder = tmp_path / f"{seed}.vtc", tmp_path / f"folder-{seed}"
        folder.mkdir()
        changed = {"PYTHONHASHSEED": seed, "VTC_CACHE_DIR": str(folder), "TMPDIR": str(folder)}
        command = [sys.executable, "-c", EXPORT, str(file)]
        subprocess.run(command, cwd=ROOT, env=os.environ | changed, check=True)
        files.append(file.read_bytes())
    assert files[0] == files[1]
    with zipfile.ZipFile(file) as package:
        everything = b"".join(map(package.read, package.namelist()))
    for secret in (ROOT, tmp_path, Path.home(), "worker.py"):
        assert str(secret).encode() not in everything


def test_a_table_measured_elsewhere_decides(tmp_path):
    net, x = nn.Linear(512, 512, bias=False), vtc.ones(256, 512)
    (goal,) = goals(["cuda:90"])
    with vtc.no_grad():
        program = vtc.compile(net).lower(x).program()
    planned = stage_program(program, "planned", Context(goal.target, Options()))
    (subject,) = (s for s in _subjects(planned, goal.target) if len(s.choices) > 1)
    other = label(subject.choices[2])
    found = {subject.key: to_fields(Decision(subject.about, "full", other))}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"format": 1, "gpu": "NVIDIA Test", "decisions": found}))
    options = {"targets": ["cuda:90"], "example": False}
    plain = vtc.export(net, (x,), tmp_path / "plain.vtc", **options)
    with override(cache_dir=tmp_path / "cache"):
        tuned = vtc.export(net, (x,), tmp_path / "tuned.vtc", tuning=table, **options)
    with Archive(plain) as a, Archive(tuned) as b:
        assert "tuning.json" not in a
        assert json.loads(b.read("tuning.json"))["decisions"] == found
        kernels = [{m for m in p.manifest.members if m.endswith(".cubin")} for p in (a, b)]
        assert kernels[0] != kernels[1]
        assert other in b.read("provenance.json").decode()
