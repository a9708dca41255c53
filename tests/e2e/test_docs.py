"""Every Python block in README and docs runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{k}")
    for path in FILES
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path):
    file = tmp_path / "block.py"
    file.write_text(block)
    names = {"__name__": "block"}
    exec(compile(block, str(file), "exec"), names)
    assert len(names) > 1
