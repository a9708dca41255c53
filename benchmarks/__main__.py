"""``python -m benchmarks``.

Every benchmark that runs on this machine, results as JSON in ``results/``.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("compile_time", "cpu")


def main() -> None:
    """Run them one after another: they share the cores."""
    day = datetime.now(UTC).date().isoformat()
    for name in BENCHMARKS:
        out = HERE / "results" / f"{name}-{day}.json"
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--json", str(out)], check=True)


if __name__ == "__main__":
    main()
