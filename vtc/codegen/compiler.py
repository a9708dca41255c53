"""The C compiler: finding one, and what it accepts; compiling and linking.

NaN and infinity mean what they mean in NumPy, so never ``-ffast-math``. Loops vectorise by ``omp
simd`` pragmas, which need no OpenMP runtime. Compilers run at once in a :class:`Crew`, which leaves
none of them behind::

    with Crew() as crew:
        crew.map(lambda job: compiler.compile(*job, crew=crew), jobs)
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, final

from vtc import lazy
from vtc.config import config, cores
from vtc.errors import CompilerError, ConfigError

REQUIRED = ("-std=gnu11", "-O3", "-fPIC", "-fno-math-errno")
OPTIONAL = (
    "-fno-trapping-math",
    "-fno-thread-jumps",  # else GCC 12 counts wrongly over nested selects: test_compiler.py
    "-fopenmp-simd",
    "-march=native",
    "-mprefer-vector-width=512",
)
ARM = "aarch64"
ZIG = (sys.executable, "-m", "ziglang", "cc")
PLAIN = ("-s", "-Wl,--build-id=none", "-Wl,--as-needed")
"""Links without symbols, names of files, and libraries that nothing is used of."""
_EMPTY = "int vtc_empty(void) { return 0; }\n"
_SHOWN = 12
"""Lines of a compiler's complaint that an error quotes."""
_WAIT = 0.1
"""Seconds between looks at what came in."""
_STOPPED = "compile: expected to go on, got an interrupt"
_GRACE = 2.0
"""Seconds in which a compiler that is told to end may remove its temporary files."""

T = TypeVar("T")
R = TypeVar("R")


@final
class Crew:
    """Threads that compile: ``most`` of them, or one per core. Whoever leaves it by an exception
    (^C, a kernel that does not compile) ends the compilers that still run.
    """

    def __init__(self, most: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(most or cores(), "vtc-compile")
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._end()
        self._threads.shutdown(cancel_futures=kind is not None)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work`` on each of ``items``, begun in order; the error of one that fails."""
        futures = [self._threads.submit(work, item) for item in items]
        waiting = set(futures)
        while waiting:
            # Not for ever: Python does not notice a signal that comes just before a wait begins.
            done, waiting = wait(waiting, _WAIT, FIRST_EXCEPTION)
            for future in done:
                future.result()
        return [future.result() for future in futures]

    def run(self, command: Sequence[str], source: str) -> subprocess.CompletedProcess[str]:
        """What ``command`` makes of ``source``; TimeoutExpired if it takes longer than it may."""
        process = self._start(command)
        try:
            out, complaint = process.communicate(source, config().compile_timeout)
        except BaseException:
            end_all([process])
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, out, complaint)

    @contextmanager
    def holding(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Within it ``process``, the first of its group, ends if the crew is left by an exception.
        CompilerError if that was so already.
        """
        with self._lock:
            if self._stopped:
                raise CompilerError(_STOPPED)
            self._running.add(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """A process in a group of its own: a driver's children end with it."""
        with self._lock:
            if self._stopped:
                raise CompilerError(_STOPPED)
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                process_group=0,
            )
            self._running.add(process)
        return process

    def _end(self) -> None:
        """End what runs, also if that is interrupted: nobody else would."""
        try:
            self._stop()
        except KeyboardInterrupt:
            self._end()
            raise

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            running = list(self._running)
        end_all(running)


@final
@dataclass(frozen=True, slots=True)
class Compiler:
    """A command with flags; ``identity`` digests its version and the CPU it compiles for.
    ``linking`` are flags besides, for libraries.
    """

    command: tuple[str, ...]
    flags: tuple[str, ...]
    identity: str
    linking: tuple[str, ...] = ()

    def compile(self, source: str, target: Path, crew: Crew, about: str = "") -> None:
        """Compile C to an object file. CompilerError with its words and ``about`` if it fails."""
        self._run([*self.flags, "-x", "c", "-c", "-", "-o", str(target)], crew, source, about)
        _check_made(target, self.command[0])

    def link(self, objects: Iterable[Path], target: Path, crew: Crew) -> None:
        """Link objects into a shared library."""
        shared = ["-shared", "-pthread", *self.linking]
        self._run([*shared, "-o", str(target), *map(str, objects), "-lm"], crew)
        _check_made(target, self.command[0])

    def macros(self, crew: Crew) -> str:
        """The predefined macros: they name the version and, after -march=native, the CPU."""
        return self._run([*self.flags, "-dM", "-E", "-x", "c", "-"], crew)

    def key(self, *parts: str) -> str:
        """The cache key of what this makes of ``parts``."""
        state = hashlib.sha256()
        for part in (self.identity, *self.command, *self.flags, *self.linking, "", *parts):
            data = part.encode()
            state.update(b"%d:" % len(data))
            state.update(data)
        return state.hexdigest()

    def _run(self, arguments: Sequence[str], crew: Crew, source: str = "", about: str = "") -> str:
        command = [*self.command, *arguments]
        try:
            done = crew.run(command, source)
        except OSError as error:
            raise CompilerError(f"compile: expected to run {command[0]}, got {error}") from error
        except subprocess.TimeoutExpired as error:
            want = f"expected {command[0]} to end within {error.timeout:g} s"
            got = "got no end (VTC_COMPILE_TIMEOUT=seconds gives it longer)"
            raise CompilerError(_lines(f"compile: {want}, {got}", about, command)) from None
        if done.returncode:
            first = f"compile: expected {command[0]} to succeed, got {ending(done.returncode)}"
            raise CompilerError(_lines(first, about, command, done.stderr))
        return done.stdout


def find_compiler() -> Compiler | None:
    """The C compiler of this machine; None if there is none.

    It is ``CC``, or the first that works of cc, gcc, clang and the ``ziglang`` package.
    CompilerError if ``CC`` is set and does not work.
    """
    return _find(config().cc)


@cache
def find_compiler_for(machine: str) -> Compiler:
    """A C compiler for every CPU of a kind: ``x86-64-v3``, ``x86-64-v4``, ``aarch64``; what it
    makes is the same bytes each time. It is that of this machine, or the ``ziglang`` package.
    CompilerError if neither compiles for these.
    """
    here = find_compiler()
    tried = [] if here is None else [here]
    tried += [_probe(ZIG)] if lazy.available("ziglang") else []
    for compiler in tried:
        found = _aimed(compiler, machine)
        if found is not None:
            return found
    got = shlex.join(here.command) if here is not None else "none"
    hint = "pip install 'vtc[cc]' brings one for every CPU"
    raise CompilerError(f"compile: expected a compiler for {machine}, got {got}; {hint}")


def _aimed(compiler: Compiler, machine: str) -> Compiler | None:
    """``compiler`` with flags for ``machine``; None if it does not know them."""
    zig = compiler.command == ZIG
    if machine == ARM:
        choice = ("-target", "aarch64-linux-gnu.2.28") if zig else ("-march=armv8-a",)
    else:
        choice = ("-march=" + (machine.replace("-", "_") if zig else machine),)
    x86 = ("-march", "-mprefer") if machine == ARM else ("-march",)
    kept = [f for f in compiler.flags if not f.startswith(x86)]
    aimed = replace(compiler, flags=(*choice, *kept), linking=(*choice, *PLAIN), identity="")
    with Crew(1) as crew:
        (macros,) = crew.map(_ask, [(aimed, crew, None)])
    if macros is None or ("__aarch64__" in macros) is not (machine == ARM):
        return None
    return replace(aimed, identity=hashlib.sha256(macros.encode()).hexdigest())


@cache
def _find(cc: str | None) -> Compiler | None:
    if cc is not None:
        return _probe(_words(cc))
    commands = [(found,) for name in ("cc", "gcc", "clang") if (found := shutil.which(name))]
    for command in (*commands, *([ZIG] if lazy.available("ziglang") else [])):
        try:
            return _probe(command)
        except CompilerError:
            continue
    return None


def _words(cc: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(cc))
    except ValueError as error:
        raise ConfigError(f"CC: expected a command, got {cc!r} ({error})") from None
    if not words:
        raise ConfigError(f"CC: expected a command, got {cc!r}")
    return words


def _probe(command: tuple[str, ...]) -> Compiler:
    """``command`` with the flags it accepts."""
    compiler = Compiler(command, (*REQUIRED, *OPTIONAL), "")
    with tempfile.TemporaryDirectory(prefix="vtc-") as folder, Crew() as crew:
        target = Path(folder) / "empty.o"
        accepted, macros = crew.map(_ask, [(compiler, crew, target), (compiler, crew, None)])
        if accepted is None or macros is None:
            compiler = replace(compiler, flags=REQUIRED)
            compiler.compile(_EMPTY, target, crew)
            for flag in OPTIONAL:
                more = replace(compiler, flags=(*compiler.flags, flag))
                compiler = compiler if _ask((more, crew, target)) is None else more
            macros = compiler.macros(crew)
    return replace(compiler, identity=hashlib.sha256(macros.encode()).hexdigest())


def _ask(question: tuple[Compiler, Crew, Path | None]) -> str | None:
    """The macros, or whether ``target`` can be compiled; None if the flags are not accepted."""
    compiler, crew, target = question
    try:
        if target is None:
            return compiler.macros(crew)
        compiler.compile(_EMPTY, target, crew)
    except CompilerError:
        return None
    return ""


def _check_made(target: Path, command: str) -> None:
    if not target.is_file():
        raise CompilerError(f"compile: expected {command} to write {target.name}, got no file")


def ending(status: int) -> str:
    """How a process with exit status ``status`` came to its end."""
    if status > 0:
        return f"exit status {status}"
    return f"it killed by {signal.Signals(-status).name}"


def _lines(first: str, about: str, command: Sequence[str], complaint: str = "") -> str:
    """An error: what happened, where, and the compiler's first words."""
    said = complaint.strip().splitlines()
    shown = said[:_SHOWN]
    if len(said) > _SHOWN:
        shown.append(f"... and {len(said) - _SHOWN} more lines")
    where = [f"  {line}" for line in about.splitlines()]
    return "\n".join([first, *where, f"  {shlex.join(command)}", *(f"  {s}" for s in shown)])


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End ``processes`` and their children: kindly, then not."""
    try:
        for process in processes:
            _signal(process, signal.SIGTERM)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
    finally:  # also where a second interrupt comes
        for process in processes:
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
