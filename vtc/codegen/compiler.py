"""The C compiler: finding one, and what it accepts; compiling and linking.

NaN and infinity mean what they mean in NumPy, so never ``-ffast-math``. Loops vectorise by ``omp
simd`` pragmas, which need no OpenMP runtime.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import final

from vtc import lazy
from vtc.config import config
from vtc.errors import CompilerError

REQUIRED = ("-std=gnu11", "-O3", "-fPIC", "-fno-math-errno")
OPTIONAL = (
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-march=native",
    "-mprefer-vector-width=512",
)
_EMPTY = "int vtc_empty(void) { return 0; }\n"


@final
@dataclass(frozen=True, slots=True)
class Compiler:
    """A command with flags; ``identity`` digests its version and the CPU it compiles for."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    identity: str

    def compile(self, source: str, target: Path) -> None:
        """Compile C to an object file."""
        self._run([*self.flags, "-x", "c", "-c", "-", "-o", str(target)], source)

    def link(self, objects: Iterable[Path], target: Path) -> None:
        """Link objects into a shared library."""
        self._run(["-shared", "-pthread", "-o", str(target), *map(str, objects), "-lm"])

    def key(self, *parts: str) -> str:
        """The cache key of what this makes of ``parts``."""
        state = hashlib.sha256()
        for part in (self.identity, *self.command, *self.flags, "", *parts):
            data = part.encode()
            state.update(b"%d:" % len(data))
            state.update(data)
        return state.hexdigest()

    def _run(self, arguments: Sequence[str], source: str = "") -> str:
        command = [*self.command, *arguments]
        try:
            done = subprocess.run(
                command, input=source, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise CompilerError(f"compile: expected to run {command[0]}, got {error}") from error
        if done.returncode:
            raise CompilerError(
                f"compile: expected {command[0]} to succeed, got exit status {done.returncode}\n"
                f"  {shlex.join(command)}\n{done.stderr.strip()}"
            )
        return done.stdout


def find_compiler() -> Compiler | None:
    """The C compiler of this machine; None if there is none.

    It is ``CC``, or the first that works of cc, gcc, clang and the ``ziglang`` package.
    CompilerError if ``CC`` is set and does not work.
    """
    return _find(config().cc)


@cache
def _find(cc: str | None) -> Compiler | None:
    if cc is not None:
        return _probe(tuple(shlex.split(cc)))
    commands = [(found,) for name in ("cc", "gcc", "clang") if (found := shutil.which(name))]
    zig = [(sys.executable, "-m", "ziglang", "cc")] if lazy.available("ziglang") else []
    for command in (*commands, *zig):
        try:
            return _probe(command)
        except CompilerError:
            continue
    return None


def _probe(command: tuple[str, ...]) -> Compiler:
    """``command`` with the flags it accepts."""
    compiler = Compiler(command, (*REQUIRED, *OPTIONAL), "")
    with tempfile.TemporaryDirectory(prefix="vtc-") as folder:
        target = Path(folder) / "empty.o"
        if not _accepts(compiler, target):
            compiler = replace(compiler, flags=REQUIRED)
            compiler.compile(_EMPTY, target)
            for flag in OPTIONAL:
                more = replace(compiler, flags=(*compiler.flags, flag))
                compiler = more if _accepts(more, target) else compiler
    # The predefined macros name the version and, after -march=native, the features of this CPU.
    macros = compiler._run([*compiler.flags, "-dM", "-E", "-x", "c", "-"])
    return replace(compiler, identity=hashlib.sha256(macros.encode()).hexdigest())


def _accepts(compiler: Compiler, target: Path) -> bool:
    try:
        compiler.compile(_EMPTY, target)
    except CompilerError:
        return False
    return True
