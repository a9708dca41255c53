"""The ``vtc`` command."""

import pytest

from vtc.__main__ import main
from vtc.ir.text import parse

PROGRAM = """\
def f(x: f32[8192, 768]) -> f32[768]:
    y: f32[768] = sum(x, axes=(0,))
    return y
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.vtc"
    path.write_text(PROGRAM)
    return str(path)


def test_info_says_what_is_here(capsys):
    assert main(["info"]) == 0
    found = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"vtc", "python", "numpy", "ops", "cache", "GPUs"} <= found.keys()


def test_a_stage_is_a_program(file, capsys):
    assert main(["show", file, "--stage", "fused"]) == 0
    assert parse(capsys.readouterr().out).entry.name == "f"


def test_a_target_decides_how_a_sum_is_cut(file, capsys):
    for target, shape in (("cpu", "8192, 768"), ("sm_90", "32, 256, 768")):
        assert main(["show", file, "--stage", "fused", "--target", target]) == 0
        assert f"f32[{shape}]" in capsys.readouterr().out


def test_one_pass(file, capsys):
    assert main(["pass", "split", file, "--target", "sm_90"]) == 0
    assert "f32[32, 768]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pass", "nothing"], "ArgumentError: pass: expected one of"),
        (["show"], "ParseError"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, tmp_path, capsys):
    path = tmp_path / "g.vtc"
    path.write_text(PROGRAM if arguments[0] == "pass" else "def f(")
    assert main([*arguments, str(path)]) == 1
    assert said in capsys.readouterr().err
