"""``VTC_DUMP`` writes what was built, and what it writes parses."""

import pytest

import vtc
from vtc.config import override
from vtc.errors import ConfigError


def test_a_dump_holds_every_stage_every_kernel_and_the_plan(tmp_path):
    @vtc.compile
    def dumped(x):
        return vtc.exp(x).sum()

    with override(dump=tmp_path):
        dumped(vtc.ones(3))
    (folder,) = tmp_path.iterdir()
    names = {p.name for p in folder.iterdir()}
    assert {"0-captured.vtc", "4-planned.vtc", "plan.txt", "host.c"} <= names
    for path in folder.glob("*.vtc"):
        assert vtc.parse(path.read_text()).entry.name == "dumped"
    assert "int" in (folder / "host.c").read_text()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with override(dump=file / "below"), pytest.raises(ConfigError, match=r"VTC_DUMP.*below"):
        vtc.compile(lambda x: x * 2)(vtc.ones(3))
