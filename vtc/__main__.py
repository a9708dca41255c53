"""The ``vtc`` command: look at programs, run passes on them, see what this machine has.

vtc info
vtc show FILE.vtc --stage lowered --target sm_90
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
from vtc.ir.target import Target, cpu, cuda
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, Step, run
from vtc.runtime.cuda.driver import driver

TARGETS = {t.name: t for t in (cpu(), cuda(80), cuda(90))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(prog="vtc", description="Look at tensor programs.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, compiler, cache and GPUs")
    shown = commands.add_parser("show", help="a program at a stage of the pipeline")
    shown.add_argument("file", type=Path)
    shown.add_argument("--stage", default="captured", choices=[s.name for s in PIPELINE])
    passed = commands.add_parser("pass", help="a program after one pass")
    passed.add_argument("name")
    passed.add_argument("file", type=Path)
    for command in (shown, passed):
        command.add_argument("--target", default="cpu", choices=TARGETS, help="cpu if not given")
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
        return show(_at_stage(program, given.stage, TARGETS[given.target]), loc=True)
    return show(_after(program, given.name, TARGETS[given.target]))


def _at_stage(program: Program, stage: str, target: Target) -> Program:
    found = {"captured": program}

    def observe(step: Step) -> None:
        found[step.stage] = step.after

    names = [s.name for s in PIPELINE]
    run(program, PIPELINE[: names.index(stage) + 1], Context(target=target), observe=observe)
    return found[stage]


def _after(program: Program, name: str, target: Target) -> Program:
    known = {p.__name__: p for s in PIPELINE for p in s.passes if hasattr(p, "__name__")}
    if name not in known:
        raise ArgumentError(f"pass: expected one of {', '.join(sorted(known))}, got {name!r}")
    return known[name](program, Context(target=target))


def _info() -> str:
    compiler, gpus = find_compiler(), driver()
    names = ", ".join(gpus.facts(k).name for k in range(gpus.count()))
    lines = {
        "vtc": version("vtc"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "ops": str(len(vtc.ir.op.REGISTRY)),
        "C compiler": "none: programs run in NumPy" if compiler is None else str(compiler),
        "cache": str(config().cache_dir),
        "GPUs": names or f"none: {gpus.why()}",
    }
    return "".join(f"{k:12}{v}\n" for k, v in lines.items())


if __name__ == "__main__":
    sys.exit(main())
