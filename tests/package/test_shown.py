"""A GPT and a conv net as packages: where only the runtime is installed, and as programs in C.

What they compute is what the compiled models compute, token for token; C and Python agree in every
bit. ``make`` builds the programs, valgrind and the sanitizers watch them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shown_models
from native_build import SANITIZED, build, compiler
from shown_outside import package_tokens

import vtc
from vtc.commands.unpack import unpack
from vtc.runtime import machine
from vtc.runtime.package import load

STEPS = 20
LOW, HIGH = "cpu-x86-64-v3", "cpu-x86-64-v4"
GENERATE = ["generate.c", "npy.c", "vtc_runtime.c"]
OUTSIDE = Path(__file__).with_name("shown_outside.py")
pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="there is no C compiler"),
    pytest.mark.skipif(LOW not in machine.cpu_targets(), reason="no x86-64 with AVX2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both packages with both levels, and what they take."""
    folder = tmp_path_factory.mktemp("shown")
    shown_models.write(folder, ["cpu"])
    return folder


@pytest.fixture(scope="module")
def fresh(folder):
    """A Python with NumPy and ml_dtypes alone, and vtc."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for module in (np, sys.modules["ml_dtypes"], vtc):
        home = Path(module.__file__).parent
        (site / home.name).symlink_to(home)
        if (libraries := home.with_name(f"{home.name}.libs")).exists():
            (site / libraries.name).symlink_to(libraries)
    return folder / "venv" / "bin" / "python"


def test_where_only_the_runtime_is_installed(folder, fresh):
    command = [fresh, OUTSIDE, folder, "cpu", "numpy", str(STEPS)]
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"]})
    net, images = shown_models.digits()
    with vtc.no_grad():
        wanted = vtc.compile(net)(vtc.tensor(images[:13])).numpy()
    (tokens, first, last), _ = shown_models.compiled_tokens(STEPS)
    assert len(set(tokens)) > 3
    with np.load(folder / "outside-cpu-numpy.npz") as found:
        assert found["tokens"].tolist() == tokens
        for name, values in {"first": first, "last": last, "digits": wanted}.items():
            np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=2e-5)


def ran(command, folder):
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def check_programs(folder, level, flags, watch=()):
    """Programs in C give every bit of what Python gives with the code of a level."""
    here = folder / level
    here.mkdir()
    gpt, digits = (load(folder / f"{name}.vtc") for name in ("gpt", "digits"))
    assert (gpt.target, digits.target) == (level, level)
    program = build(here / "generate", GENERATE, flags)
    said = ran([*watch, program, folder / "gpt.vtc", folder / "ids.npy", STEPS], here)
    tokens, _, scores = package_tokens(gpt, np.load(folder / "ids.npy"), STEPS)
    assert list(map(int, said.split())) == tokens
    np.testing.assert_array_equal(np.load(here / "scores.npy"), scores)

    out = unpack(folder / "digits.vtc", here / "digits")
    ran(["make", "-s", f"CC={compiler()}", f"CFLAGS={' '.join(flags)}"], out)
    ran([*watch, "./main", ".", "forward", folder / "images.npy"], out)
    wanted = digits(np.load(folder / "images.npy"))
    np.testing.assert_array_equal(np.load(out / "forward.0.npy"), wanted)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_low_level_under_valgrind(folder, monkeypatch):
    """Valgrind's CPU has no AVX-512, so the program takes the code that Python takes here."""
    monkeypatch.setattr(machine, "cpu_targets", lambda: (LOW,))
    leaks = ("--leak-check=full", "--errors-for-leak-kinds=all")
    check_programs(folder, LOW, ("-g", "-O1"), ("valgrind", "-q", "--error-exitcode=9", *leaks))


@pytest.mark.skipif(HIGH not in machine.cpu_targets(), reason="no x86-64 with AVX-512")
def test_high_level_under_the_sanitizers(folder):
    check_programs(folder, HIGH, SANITIZED)
