"""Compile the corpus at two commits and show how every kernel and every stage differs.

python benchmarks/replay.py BASE [HEAD]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(commit: str, out: Path, folder: Path) -> None:
    """The corpus as ``commit`` compiles it."""
    subprocess.run(
        ["git", "worktree", "add", "--detach", str(folder), commit],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    try:
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run(
            [sys.executable, "-m", "benchmarks.corpus", str(out)],
            cwd=folder,
            check=True,
            env=environment,
        )
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=True)


def main() -> int:
    """0 if nothing differs."""
    commits = (sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "HEAD")
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        for name, commit in zip(("base", "head"), commits, strict=True):
            build(commit, where / name, where / f"tree-{name}")
        done = subprocess.run(
            ["git", "diff", "--no-index", "--stat", "--patch", "base", "head"], cwd=where
        )
    print("no difference" if done.returncode == 0 else "")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
