"""``vtc export``, ``inspect``, ``run``, ``verify`` and ``bench``."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import vtc
from vtc.__main__ import main
from vtc.codegen.c import find_compiler
from vtc.commands.arrays import load_npy, save_npy
from vtc.commands.export import parse_arguments
from vtc.runtime.machine import best_cpu

TARGET = best_cpu(("cpu-x86-64-v3", "cpu-x86-64-v4")) or ""
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(find_compiler() is None, reason="no C compiler"),
    pytest.mark.skipif(not TARGET, reason="no x86-64 with AVX2"),
]

MODEL = """
import vtc
import vtc.nn as nn

def make():
    vtc.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))

def scaled(x, scale, mask):
    return x.to(vtc.bfloat16) * scale, mask

def cut(x):
    return x.reshape(2)
"""
WITHOUT = """
import sys
BLOCKED = "jinja2 networkx scipy triton torch vtc.passes vtc.codegen vtc.frontend vtc.build".split()
class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BLOCKED):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
from vtc.__main__ import main
sys.exit(main())
"""


def vtc_runtime(*words, fails=False):
    """The output of ``vtc`` where only its runtime can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert bool(done.returncode) is fails, done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "model.py").write_text(MODEL)
    file, unpacked = folder / "net.vtc", folder / "unpacked"
    words = ["export", f"{folder}/model.py:make", "--args", "f32[batch=4:1..8, 6]"]
    assert main([*words, "-o", str(file), "--target", TARGET, "--emit-c", str(unpacked)]) == 0
    np.save(folder / "x.npy", np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6))
    return file


def test_errors_of_the_command_itself_name_no_line(package):
    """Whoever runs it is no user: ``runpy`` or the script that pip installs."""
    model = f"{package.parent}/model.py"
    words = [sys.executable, "-m", "vtc", "export", f"{model}:make()", "-o", "none.vtc"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == (
        "ArgumentError: export: expected arguments for forward(x), got none that fit: missing a "
        "required argument: 'x'\n"
    )
    words[4:5] = [f"{model}:cut", "--args", "f32[3]"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"\n  at {model}:13 in cut\n" in done.stderr


def test_run_computes_what_the_module_computes(package):
    x, y = package.with_name("x.npy"), package.with_name("y.npy")
    vtc_runtime("run", package, "--input", f"x={x}", "-o", y)
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    want = scope["make"]().eval()(vtc.tensor(np.load(x))).detach().numpy()
    np.testing.assert_allclose(np.load(y), want, rtol=1e-5, atol=1e-5)
    assert "forward.0: float32[3, 3]" in vtc_runtime("run", package, "-i", x)
    said = vtc_runtime("run", package, fails=True)
    assert "ArgumentError: forward: expected 1 inputs, got 0: forward(x: f32[batch, 6])" in said
    assert "expected inputs x, got z" in vtc_runtime("run", package, "-i", f"z={x}", fails=True)


def test_inputs_in_files(package, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(package.with_name("x.npy"), "size=3.npy")  # a path, no input called size
    assert main(["run", str(package), "-i", "size=3.npy"]) == 0
    np.save("fields.npy", np.zeros((3, 6), [("a", "<f4")]))
    np.save("fortran.npy", np.asfortranarray(np.load("size=3.npy")))
    header = Path("size=3.npy").read_bytes().replace(b"(3, 6), }      ", b"(9999999999999,6), }")
    Path("huge.npy").write_bytes(header)
    for file, said in (
        ("fields.npy", "ArgumentError: x: expected f32[batch, 6], got [('a', '<f4')][3, 6]"),
        ("huge.npy", "ArgumentError: huge.npy: expected an .npy file, got "),
        ("none.npy", "ArgumentError: none.npy: expected an .npy file, got No such file"),
    ):
        assert main(["run", str(package), "-i", file]) == 1
        assert said in capsys.readouterr().err
    assert main(["run", str(package), "-i", "fortran.npy", "-o", "y.npy"]) == 0
    for dtype in (ml_dtypes.float8_e5m2, ml_dtypes.bfloat16, np.float32):
        save_npy(Path("some.npy"), np.ones(3, dtype))
        assert load_npy(Path("some.npy")).view(dtype).tolist() == [1, 1, 1]


def test_what_is_in_it(package):
    text = vtc_runtime("inspect", package, "--full")
    assert "forward(x: f32[batch, 6])" in text
    assert "batch: Dim(1, 8)" in text
    assert "f32[batch, 3]" in text
    assert re.search(rf"{TARGET}\W+1\W+\d\W+\d", text)
    assert re.search(r"lib/\S+/pool.so\W+[\d,]+\W+[0-9a-f]{16}", text)
    assert re.search(r"(?m)^weights: 4, \d+ bytes, in the file; 0 are state$", text)
    assert vtc_runtime("inspect", package, "--json").startswith('{\n "entries"')


def test_what_is_said_in_one_line(package, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"vtc {vtc.__version__}\n"
    assert main(["show", str(package)]) == 1
    assert "expected a program as text, got a file of another kind" in capsys.readouterr().err
    model, file = f"{package.parent}/model.py:cut", tmp_path / "f.vtc"
    words = ["export", model, "--args", "f32[2]", "-o", str(file), "--emit-c", str(package)]
    assert main(words) == 1
    assert "ArgumentError: unpack: expected a folder, got the file" in capsys.readouterr().err
    assert not file.exists()  # said before the work
    for name in ("rich", "rich.console", "vtc.commands.inspect"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "vtc.commands.inspect")
    assert main(["inspect", str(package)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ModuleNotFoundError: ")
    assert said.endswith("pip install rich, or vtc with all it needs\n")


def test_it_can_be_interrupted(package):
    words = [sys.executable, "-u", "-m", "vtc", "bench", str(package), "--seconds", "60"]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs may ignore it
    ) as running:  # fmt: skip
        assert running.stdout.readline().startswith("load: ")
        running.send_signal(signal.SIGINT)
        assert running.stderr.read() == "vtc: interrupted\n"
    assert running.returncode == 130


def test_verify_and_bench(package):
    assert f"forward: 1 results on {TARGET} are those of the export" in vtc_runtime(
        "verify", package
    )
    assert "calls on its example" in vtc_runtime("bench", package, "--seconds", "0.05")
    damaged = package.with_name("damaged.vtc")
    data = bytearray(package.read_bytes())
    data[data.rindex(b"0.weight") + 800] ^= 1  # in the weights
    damaged.write_bytes(data)
    assert "expected weights.safetensors as it was written" in vtc_runtime(
        "verify", damaged, fails=True
    )


def test_a_reader_may_stop_early(package):
    command = [sys.executable, "-m", "vtc", "inspect", "--json", str(package)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 1


def test_who_has_only_the_package_unpacks_it(package, capsys):
    folder = package.with_name("unpacked_later")
    assert (
        vtc_runtime("unpack", package, folder)
        == f"{folder}: make, then ./main . ENTRY INPUT.npy ...\n"
    )
    early = {p.name for p in package.with_name("unpacked").iterdir()}
    assert {"main.c", "Makefile", "manifest.json"} <= {p.name for p in folder.iterdir()} <= early
    assert main(["export", str(package), "--emit-c", str(folder)]) == 1
    assert "got '" in (said := capsys.readouterr().err)
    assert said.endswith("net.vtc'; vtc unpack makes a folder of a package\n")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_unpacked_folder_makes_a_program(package):
    folder, x, y = package.with_name("unpacked"), package.with_name("x.npy"), "y.npy"
    subprocess.run(["make", "-s"], cwd=folder, check=True)
    subprocess.run(["./main", ".", "forward", str(x)], cwd=folder, check=True)
    vtc_runtime("run", package, "-i", x, "-o", folder / y)
    np.testing.assert_array_equal(np.load(folder / "forward.0.npy"), np.load(folder / y))


def test_sizes_on_the_command_line():
    words = ["f32[n=3:1..9, 2]", "i64[n]", "m=f32[2*n + 1]", "f32[ 4 ]"]
    args, kwargs, dynamic = parse_arguments(words)
    assert [x.shape for x in (*args, kwargs["m"])] == [(3, 2), (3,), (4,), (7,)]
    n = vtc.Dim("n", 1, 9)
    assert dynamic == {0: {0: n}, 1: {0: n}, "m": {0: 2 * n + 1}}


def test_arguments_of_every_kind(tmp_path, capsys):
    (tmp_path / "functions.py").write_text(MODEL)
    np.save(tmp_path / "m.npy", np.arange(3))
    file = tmp_path / "f.vtc"
    words = [f"{tmp_path}/functions.py:scaled", "--args", "f32[3]", "2.0 + 1", "mask=vtc.ones(3)"]
    words += ["--no-example", "--target", TARGET, "-o", str(file)]
    assert main(["export", *words]) == 0
    given = np.ones(3, np.float32)
    np.save(tmp_path / "x.npy", given)
    x, y = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    assert main(["run", str(file), "-i", x, "-i", "0.5", "-i", f"mask={x}", "-o", y, "-o", x]) == 0
    assert np.load(y).view(ml_dtypes.bfloat16).astype(float).tolist() == [0.5] * 3
    assert main(["verify", str(file)]) == 0
    assert "no example" in capsys.readouterr().out
    assert main(["inspect", str(file)]) == 0
    assert "\nweights: none\n" in capsys.readouterr().out
    (tmp_path / "text.npy").write_text("text")
    for wrong, said in (
        (["f32[n]"], "expected a size"),
        (["f32[2*n]"], "or 2*batch of a batch named before, got '2*n'"),
        (["nonsense("], "expected an .npy file, a type"),
        ([str(tmp_path / "f.npy")], "f.npy: expected an .npy file, got No such file"),
        ([str(tmp_path / "text.npy")], "text.npy: expected an .npy file, got another kind"),
        (["f32[3]"], "expected arguments for scaled(x, scale, mask), got none that fit: missing"),
    ):
        assert main(["export", words[0], "--args", *wrong, "-o", str(file)]) == 1
        assert said in capsys.readouterr().err
    wide = ["export", f"{tmp_path}/functions.py:make", "--args", "f32[3, 7]", "-o", str(file)]
    assert main(wide) == 1
    said = capsys.readouterr().err
    assert said.startswith("TypeCheckError: linear: expected"), said
    assert "\n" not in said.strip(), "no user wrote a line of that"
    assert main(["export", f"{tmp_path}/functions.py:scaled()", "-o", str(file)]) == 1
    assert "expected scaled to be made without arguments, got missing" in capsys.readouterr().err
    for wrong in ("functions", "nosuchmodule:f", f"{tmp_path}/functions.py:none"):
        assert main(["export", wrong, "-o", str(file)]) == 1
        assert "ArgumentError: export: expected" in capsys.readouterr().err
