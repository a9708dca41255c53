"""The benchmarks run, with vtc alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vtc
from benchmarks import gpt_step
from vtc.codegen.c import find_compiler

ROOT = Path(__file__).parents[2]


def test_cpu_runs_with_vtc_alone(tmp_path):
    out = tmp_path / "cpu.json"
    command = [sys.executable, "-m", "benchmarks.cpu", "--quick", "--peers", "vtc,nosuchpackage"]
    done = subprocess.run(
        [*command, "--threads", "1", "--json", str(out), "overhead", "mlp_step"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nosuchpackage: skipped, nosuchpackage is not installed" in done.stdout
    found = json.loads(out.read_text())
    for row in found["results"].values():
        assert row["vtc"]["error"] < 1e-5
        assert 0 < row["vtc"]["least"] <= row["vtc"]["ms"]
    assert {kind: r["s"] > 0 for kind, r in found["first_calls"]["mlp_step"]["vtc"].items()} == {
        "cold": True,
        "warm": True,
    }


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_the_step_report_adds_up():
    model = vtc.nn.Sequential(vtc.nn.Linear(8, 4), vtc.nn.ReLU(), vtc.nn.Linear(4, 2))
    optimizer = vtc.optim.SGD(model.parameters(), lr=0.1)

    @vtc.compile
    def step(x, y):
        loss = vtc.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    built = step.lower(vtc.randn(16, 8), vtc.randint(0, 2, (16,))).entry.forward
    found = gpt_step.report(built, saved=16 * 4 * 4)
    assert found["launches"] == sum(f["launches"] for f in found["families"].values())
    assert found["kernels"] == built.kernels
    weights = 4 * (8 * 4 + 4 + 4 * 2 + 2 + 1)  # and the counter of steps
    assert found["floor_bytes"]["state_read_and_written"] == 2 * weights
    assert found["moved_bytes"] >= found["floor_bytes"]["total"] - 2 * 16 * 4 * 4
    # Forward and weight gradients of both layers, and the gradient of what is between them.
    assert found["families"]["matmul"]["flops"] >= 2 * 16 * (2 * 8 * 4 + 3 * 4 * 2)
    assert found["arena_bytes"] <= found["arena_values_bytes"] + 64 * found["launches"]


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_packages_run_with_vtc_alone(tmp_path):
    out = tmp_path / "packages.json"
    words = ["--peers", "vtc,vtc-c", "--rounds", "1", "--json", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.packages", *words], cwd=ROOT, check=True)
    found = json.loads(out.read_text())["results"]
    for row in (found[peer][model] for peer in ("vtc", "vtc-c") for model in ("gpt", "tiny")):
        assert 0 < row["call"] <= row["total"]
        assert 0 < row["load"] < row["total"]
    assert found["vtc"]["gpt"]["file"] > 4 * 3e6  # the weights
    assert found["vtc-c"]["gpt"]["needs"] < 1e6
