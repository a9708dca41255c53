"""What ``cpu.py`` measured, as text: lines for the terminal, a table for the README.

python -m benchmarks.table benchmarks/results/cpu-2026-11-22.json     # prints the table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN = "<!-- written by: python -m benchmarks.cpu --readme -->"
END = "<!-- end of what benchmarks.cpu wrote -->"


def lines(name: str, row: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per peer: median, quartiles, error."""
    found = []
    for peer, r in row.items():
        if "failed" in r:
            found.append(f"{name:18} {peer:14} {r['failed']}")
            continue
        spread = f"({r['low']:.4f} .. {r['high']:.4f})"
        found.append(f"{name:18} {peer:14} {r['ms']:10.4f} ms {spread:24} {r['error']:.1e}")
    return "\n".join(found)


def first_lines(name: str, row: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per peer: seconds of the first call."""
    return "\n".join(
        f"{name:18} {peer:14} first call {r['cold']['s']:.2f} s cold, {r['warm']['s']:.2f} s warm"
        for peer, r in row.items()
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The table. Bold is the fastest; errors are vtc's and the largest of its peers'."""
    rows, firsts = result["results"], result["first_calls"]
    peers = list(dict.fromkeys(p for row in rows.values() for p in row))
    versions = result["versions"]
    heads = [f"{p} {versions[p]}" if p != "vtc" and p in versions else p for p in peers]
    found = [
        f"Milliseconds per call on {result['device']}, {result['threads']} threads, "
        f"{result['date']}; median of medians.",
        "",
        f"| workload | {' | '.join(heads)} | error: vtc, peers |",
        f"|---{'|---' * len(peers)}|---|",
    ]
    for name, row in rows.items():
        cells = [_cell(row, p, "ms", _milliseconds) for p in peers]
        found.append(f"| {result['workloads'][name]} | {' | '.join(cells)} | {_errors(row)} |")
    for name, row in firsts.items():
        for kind in ("cold", "warm"):
            times = {p: {"s": r[kind]["s"]} for p, r in row.items()}
            cells = [_cell(times, p, "s", lambda s: f"{s:.2f} s") for p in peers]
            what = f"first call of {name}, {kind}"
            found.append(f"| {what} | {' | '.join(cells)} | |")
    skipped = [f"{p} is missing: {why}." for p, why in result["skipped"].items()]
    return "\n".join([*found, *(["", *skipped] if skipped else [])])


def write(readme: Path, result: Mapping[str, Any]) -> None:
    """Put the table between the marks in ``readme``; ValueError if it has none."""
    text = readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: expected {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{markdown(result)}\n{END}{after}", "utf-8")


def _cell(row: Mapping[str, Any], peer: str, key: str, text: Any) -> str:
    times = {p: r[key] for p, r in row.items() if key in r}
    if peer not in times:
        return ""
    shown = text(times[peer])
    return f"**{shown}**" if times[peer] == min(times.values()) else shown


def _milliseconds(ms: float) -> str:
    return f"{ms:.3g}" if ms >= 0.1 else f"{ms:.4f}"


def _errors(row: Mapping[str, Any]) -> str:
    errors = {p: r["error"] for p, r in row.items() if "error" in r}
    own = [errors[p] for p in ("vtc",) if p in errors]
    others = [max(e for p, e in errors.items() if p != "vtc")] if errors.keys() - {"vtc"} else []
    return ", ".join(f"{e:.0e}" for e in (*own, *others))


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
