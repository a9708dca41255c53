"""``vtc inspect FILE``: signatures, targets, kernels, sizes and hashes; nothing is run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vtc.ir.plan import Launch, Plan, flat
from vtc.ir.saved import from_json
from vtc.runtime.archive import Archive
from vtc.runtime.held import weights_inside
from vtc.runtime.manifest import to_json
from vtc.runtime.signature import (
    CpuPlan,
    CudaPlan,
    Entry,
    FromInput,
    FromOutput,
    FromSize,
    FromWeight,
    Manifest,
    Result,
    Value,
    describe,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file, and how much of it."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a package")
    parser.add_argument("--full", action="store_true", help="also every member and weight")
    parser.add_argument("--json", action="store_true", help="the manifest as it is in the file")


def run(given: argparse.Namespace) -> int:
    """Print tables."""
    with Archive(given.file) as archive:
        manifest = archive.manifest
        if given.json:
            print(to_json(manifest), end="")
            return 0
        made = json.loads(archive.read("provenance.json")) if "provenance.json" in archive else {}
        nbytes = archive.size
        names = [name for name in manifest.members if name.startswith("plans/")]
        plans = {name: from_json(archive.read(name).decode()) for name in names}
        inside = set(weights_inside(archive))
    console = Console(markup=False, highlight=False)
    made = {k: v for k, v in made.items() if isinstance(v, str) and k not in ("sources", "options")}
    by = ", ".join(f"{k} {v}" for k, v in sorted(made.items()))
    console.print(f"{manifest.name}: {nbytes:,} bytes, made by {by or manifest.vtc}")
    sections = {
        "entries": _entries(manifest, plans),
        "targets": _targets(manifest, plans),
        _said_of_weights(manifest, inside): _weights(manifest, inside, full=given.full),
    }
    if given.full:
        sections["members"] = _members(manifest)
    for title, table in sections.items():
        console.print(title, style="bold")  # a title of the table would be folded to its width
        if table.row_count:
            console.print(table)
    return 0


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _entries(manifest: Manifest, plans: Mapping[str, Plan]) -> Table:
    table = _table("takes", "gives", "programs", right=("programs",))
    for name, entry in manifest.entries.items():
        first = next(iter(entry.variants[-1].plans.values()))
        gives = ", ".join(_result(entry, r, plans[first.plan]) for r in entry.results)
        table.add_row(describe(name, entry), gives, str(len(entry.variants)))
    return table


def _result(entry: Entry, result: Result, plan: Plan) -> str:
    match result:
        case FromOutput(index) if index < len(plan.outputs):
            return str(plan.outputs[index].type)
        case FromOutput(index):
            return f"output {index}"
        case FromInput(index):
            return entry.inputs[index].name
        case FromWeight(name):
            return f"weight {name}"
        case FromSize(size):
            return str(size)
        case Value(value):
            return repr(value)


def _targets(manifest: Manifest, plans: Mapping[str, Plan]) -> Table:
    numbers = ("plans", "kernels", "launches", "bytes of code")
    table = _table("target", *numbers, right=numbers)
    variants = [v for entry in manifest.entries.values() for v in entry.variants]
    for target in manifest.targets:
        own = [v.plans[target] for v in variants if target in v.plans]
        made = [plans[p.plan] for p in own]
        files = {f for p in own for f in _files(p)}
        kernels = {k.symbol for plan in made for k in plan.kernels}
        launches = sum(isinstance(s, Launch) for plan in made for s in flat(plan.steps))
        nbytes = sum(manifest.members[f].bytes for f in files)
        counts = (len(own), len(kernels), launches, nbytes)
        table.add_row(target, *(f"{n:,}" for n in counts))
    return table


def _files(plan: CpuPlan | CudaPlan) -> list[str]:
    """The members with its code."""
    return [plan.library] if isinstance(plan, CpuPlan) else [k.file for k in plan.kernels.values()]


def _said_of_weights(manifest: Manifest, inside: set[str]) -> str:
    found = manifest.weights
    if not found:
        return "weights: none"
    total = sum(int(w.type.nbytes) for w in found.values() if isinstance(w.type.nbytes, int))
    state = sum(w.state for w in found.values())
    apart = len(found) - len(inside)
    where = f"{apart} given at load" if apart else "in the file"
    return f"weights: {len(found)}, {total:,} bytes, {where}; {state} are state"


def _weights(manifest: Manifest, inside: set[str], *, full: bool) -> Table:
    table = _table("name", "type", "kept")
    some = list(manifest.weights.items())
    for name, weight in some if full else some[:8]:
        words = ("state" if weight.state else "", "" if name in inside else "given at load")
        table.add_row(name, str(weight.type), ", ".join(filter(None, words)))
    if not full and len(some) > 8:
        table.add_row(f"... and {len(some) - 8} more (--full)", "", "")
    return table


def _members(manifest: Manifest) -> Table:
    table = _table("path", "bytes", "sha256", right=("bytes",))
    for path, member in sorted(manifest.members.items()):
        table.add_row(path, f"{member.bytes:,}", member.sha256[:16])
    return table
