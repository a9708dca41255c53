"""Every file in examples/ runs as a user runs it, at a small size."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vtc
from vtc.codegen.c import find_compiler

ROOT = Path(__file__).parents[2]
TESTED = {"train_gpt", "train_digits", "export_digits"}


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == TESTED


def test_train_gpt():
    sizes = ("--layers", "1", "--d-model", "32", "--heads", "2", "--batch", "4", "--context", "32")
    out = run("train_gpt", "--steps", "30", *sizes)
    before, after = map(float, re.findall(r"held-out loss \w+: ([\d.]+)", out))
    assert before == pytest.approx(5.5, abs=0.3)  # ln 256 is what a guess costs
    assert after < before - 1.0
    sample = out.partition("held-out loss after")[2].partition("\n")[2]
    assert sample.startswith("The ")
    assert len(sample.encode()) >= 32


def test_decoding_with_the_cache_is_the_whole_pass():
    vtc.manual_seed(0)
    model = runpy.run_path(str(ROOT / "examples" / "train_gpt.py"))["Gpt"](2, 32, 2, 8)
    ids = np.random.default_rng(0).integers(0, 256, (1, 8))
    with vtc.no_grad():
        whole = model(vtc.tensor(ids)).numpy()
        decode = vtc.compile(model)
        steps = [decode(vtc.tensor(ids[:, i : i + 1]), vtc.tensor([i])).numpy() for i in range(8)]
    np.testing.assert_allclose(np.concatenate(steps, 1), whole, rtol=1e-4, atol=1e-5)
    assert len(decode.entries) == 1, decode.explain()


def test_train_digits():
    pytest.importorskip("sklearn")
    out = run("train_digits", "--epochs", "8")
    reached = re.findall(r"(\w+): ([\d.]+)% of held-out digits", out)
    assert [name for name, _ in reached] == ["Mlp", "ConvNet"]
    assert all(float(percent) >= 95.0 for _, percent in reached)


def test_export_digits(tmp_path):
    pytest.importorskip("sklearn")
    if find_compiler() is None:
        pytest.skip("no C compiler")
    out = run("export_digits", "--epochs", "4", "--output", str(tmp_path / "digits.vtc"))
    right, off = re.findall(r"([\d.]+)% of held-out digits, scores within (\S+) of", out)[0]
    assert float(right) >= 85
    assert float(off) < 1e-3
    assert (tmp_path / "digits.vtc").stat().st_size < 1_000_000
