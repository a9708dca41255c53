"""``vtc show FILE.vtc --stage lowered --target sm_90``: a program at a stage of the pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

import vtc.ir.ops  # noqa: F401  # fills the registry that the parser reads
from vtc.build import stage_program
from vtc.errors import ParseError
from vtc.ir.graph import Program
from vtc.ir.target import cpu, cuda
from vtc.ir.text import parse, show
from vtc.ir.verify import verify
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context

TARGETS = {t.name: t for t in (cpu(), cuda(80), cuda(90), cuda(100))}


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file, a stage, a target."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a program as text")
    parser.add_argument("--stage", default="captured", choices=[s.name for s in PIPELINE])
    parser.add_argument("--target", default="cpu", choices=TARGETS, help="cpu if not given")


def run(given: argparse.Namespace) -> int:
    """Print the program."""
    program = stage_program(read(given.file), given.stage, Context(target=TARGETS[given.target]))
    print(show(program, loc=True), end="")
    return 0


def read(file: Path) -> Program:
    """The program in a file of text; ParseError if it holds something else, such as a package."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        want = "expected a program as text"
        got = "got a file of another kind (vtc inspect shows packages)"
        raise ParseError(f"{file}: {want}, {got}") from None
    program = parse(text)
    verify(program)
    return program
