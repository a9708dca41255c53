"""The ``vtc`` command: look at programs, run passes on them, see what this machine has.

vtc info
vtc show FILE.vtc --stage lowered
vtc pass cse FILE.vtc
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import vtc.ir.ops  # fills the registry that the parser reads
from vtc.codegen.c import find_compiler
from vtc.config import config
from vtc.errors import ArgumentError, VtcError
from vtc.ir.graph import Program
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, Step, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="vtc", description="Look at tensor programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, compiler and cache")
    shown = commands.add_parser("show", help="a program at a stage of the pipeline")
    shown.add_argument("file", type=Path)
    shown.add_argument("--stage", default="captured", choices=[s.name for s in PIPELINE])
    passed = commands.add_parser("pass", help="a program after one pass")
    passed.add_argument("name")
    passed.add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    try:
        print(_answer(given), end="")
    except (VtcError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(given: argparse.Namespace) -> str:
    if given.command == "info":
        return _info()
    program = parse(given.file.read_text())
    verify(program)
    if given.command == "show":
        return show(_at_stage(program, given.stage), loc=True)
    return show(_after(program, given.name))


def _at_stage(program: Program, stage: str) -> Program:
    found = {"captured": program}

    def observe(step: Step) -> None:
        found[step.stage] = step.after

    names = [s.name for s in PIPELINE]
    run(program, PIPELINE[: names.index(stage) + 1], Context(), observe=observe)
    return found[stage]


def _after(program: Program, name: str) -> Program:
    known = {p.__name__: p for s in PIPELINE for p in s.passes if hasattr(p, "__name__")}
    if name not in known:
        raise ArgumentError(f"pass: expected one of {', '.join(sorted(known))}, got {name!r}")
    return known[name](program, Context())


def _info() -> str:
    compiler = find_compiler()
    lines = {
        "vtc": version("vtc"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "ops": str(len(vtc.ir.op.REGISTRY)),
        "C compiler": "none: programs run in NumPy" if compiler is None else str(compiler),
        "cache": str(config().cache_dir),
    }
    return "".join(f"{k:12}{v}\n" for k, v in lines.items())


if __name__ == "__main__":
    sys.exit(main())
