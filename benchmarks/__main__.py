"""``python -m benchmarks [--readme]``.

Every benchmark that runs on this machine, results as JSON in ``results/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("compile_time", "gpt_step", "memory", "cpu", "packages")


def main() -> None:
    """Run them one after another: they share the cores."""
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    more = ["--readme"] if parser.parse_args().readme else []
    day = datetime.now(UTC).date().isoformat()
    for name in BENCHMARKS:
        out = HERE / "results" / f"{name}-{day}.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(out)]
        command += more if name == "cpu" else []
        subprocess.run(command, cwd=HERE.parent, check=True)


if __name__ == "__main__":
    main()
