"""Every Python block in README and docs runs; those that begin ```python gpu need a GPU."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{k}", marks=[pytest.mark.gpu] if needs else [])
    for path in FILES
    for k, (needs, block) in enumerate(
        re.findall(r"```python( gpu)?\n(.*?)```", path.read_text(), re.S)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, tmp_path):
    file = tmp_path / "block.py"
    file.write_text(block)
    names = {"__name__": "block"}
    exec(compile(block, str(file), "exec"), names)
    assert len(names) > 1
