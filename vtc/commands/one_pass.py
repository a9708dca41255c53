"""``vtc pass cse FILE.vtc``: a program after one pass."""

from __future__ import annotations

import argparse
from pathlib import Path

from vtc.commands.show import TARGETS, read
from vtc.errors import ArgumentError
from vtc.ir.text import show
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context


def arguments(parser: argparse.ArgumentParser) -> None:
    """A pass, a file, a target."""
    parser.add_argument("name")
    parser.add_argument("file", type=Path, metavar="FILE", help="a program as text")
    parser.add_argument("--target", default="cpu", choices=TARGETS, help="cpu if not given")


def run(given: argparse.Namespace) -> int:
    """Print the program."""
    program = read(given.file)
    known = {p.__name__: p for s in PIPELINE for p in s.passes if hasattr(p, "__name__")}
    if given.name not in known:
        names = ", ".join(sorted(known))
        raise ArgumentError(f"pass: expected one of {names}, got {given.name!r}")
    print(show(known[given.name](program, Context(target=TARGETS[given.target]))), end="")
    return 0
