"""The examples on a real GPU: it is taken by default, and learns what the CPU learns."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import vtc

pytestmark = pytest.mark.gpu
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example as a script: what it prints, and the device it chose."""

    def run(name, *arguments):
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        try:
            runpy.run_path(str(path), run_name="__main__")
            return capsys.readouterr().out, vtc.get_default_device().type
        finally:
            vtc.set_default_device("cpu")

    return run


def test_train_gpt(run):
    """Losses are printed to three places, and drift apart by rounding: 0.01 after 20 steps."""
    sizes = ("--layers", "2", "--d-model", "64", "--heads", "4", "--batch", "4", "--context", "64")
    found = []
    for more, wanted in ((("--device", "cpu"), "cpu"), ((), "cuda")):
        out, device = run("train_gpt", "--steps", "20", *sizes, *more)
        assert device == wanted
        found.append([float(n) for n in re.findall(r"held-out loss \w+: ([\d.]+)", out)])
        assert "\nThe " in out
    (before, after), there = found
    assert there == [pytest.approx(before, abs=1e-3), pytest.approx(after, abs=0.01)]
    assert after < before - 1


def test_train_digits(run):
    """1.5 points are five of the 360 digits held out."""
    pytest.importorskip("sklearn")
    found = []
    for more, wanted in ((("--device", "cpu"), "cpu"), ((), "cuda")):
        out, device = run("train_digits", "--epochs", "4", *more)
        assert device == wanted
        found.append({n: float(p) for n, p in re.findall(r"(\w+): ([\d.]+)% of held-out", out)})
    here, there = found
    assert set(here) == {"Mlp", "ConvNet"}
    assert there == {name: pytest.approx(percent, abs=1.5) for name, percent in here.items()}
    assert min(there.values()) > 85
