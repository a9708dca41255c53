"""The processes that compile Triton kernels, kept from one build to the next.

A process needs a third of a second before its first kernel (more where Triton was not read from
disk yet), and a kernel a tenth or more. They are begun as they are needed, or ahead of that
(``begin``). Each answers one order at a time, and they end when nothing was asked of them for
``IDLE`` seconds, when Python ends, or with the crew that waits for them::

    with Crew(most(len(orders))) as crew:
        answers = crew.map(lambda order: WORKERS.ask(order, crew), orders)

What a worker makes depends on its order alone: variables that steer Triton do not reach it, and it
compiles for one architecture. (Triton 3.6.0 keeps the conversions to fp8 that its first target has,
and uses them for the others.)
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from vtc.codegen.compiler import Crew, end_all, ending
from vtc.config import config, cores, environment
from vtc.errors import CompilerError

IDLE = 60.0
"""Seconds that a worker waits for an order."""
MOST = 32
"""Workers at once: each takes 150 MB."""
SOURCE = Path(__file__).with_name("worker.py")

# The child sees the packages that this process sees, not what lies beside the script. It ends when
# this process does, however that comes, and leaves no file then.
_BEGIN = """
import runpy, shutil, sys
script, folder, *sys.path = sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""
_STEERING = ("TRITON_", "MLIR_", "LLVM_", "NVPTX_", "DISABLE_", "ENABLE_", "USE_IR_LOC")
_SAID = 4000
"""Bytes of what a worker printed that are kept."""


def most(orders: int) -> int:
    """The workers that ``orders`` keep busy here."""
    return max(1, min(orders, cores(), MOST))


@final
class Workers:
    """The idle workers of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._used = 0.0
        self._sweeper: threading.Timer | None = None

    def ask(self, order: Mapping[str, object], crew: Crew) -> dict[str, Any]:
        """The answer to ``order``; see :mod:`vtc.codegen.triton.worker`. ``printed`` is what was
        printed meanwhile. A worker that dies or takes too long has ``failed`` as well.
        """
        worker = self._take(order["arch"])
        try:
            answer = worker.ask(order, crew)
        except BaseException:
            _end([worker])
            raise
        if worker.alive:
            self._give(worker)
        else:
            _end([worker])
        return answer

    def begin(self, count: int, arch: int) -> None:
        """Let ``count`` workers be ready soon; nobody waits for them."""
        for _ in range(count - sum(w.arch == arch for w in list(self._idle))):
            self._give(_Worker(arch))

    def close(self) -> None:
        """End the idle workers."""
        with self._lock:
            idle, self._idle = self._idle, []
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None
        _end(idle)

    def forget(self) -> None:
        """In a forked child: the workers are its parent's, and so is who holds the lock."""
        for worker in self._idle:
            worker.disown()
        self._lock = threading.Lock()
        self._idle = []
        self._sweeper = None

    def _take(self, arch: object) -> _Worker:
        while True:
            with self._lock:
                worker = next((w for w in self._idle if w.arch == arch), None)
                if worker is None:
                    break
                self._idle.remove(worker)
            if worker.alive:
                return worker
            _end([worker])
        return _Worker(arch)

    def _give(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)
            self._used = time.monotonic()
            if self._sweeper is None:
                self._watch(IDLE)

    def _watch(self, seconds: float) -> None:
        self._sweeper = threading.Timer(seconds, self._sweep)
        self._sweeper.daemon = True
        self._sweeper.start()

    def _sweep(self) -> None:
        with self._lock:
            left = self._used + IDLE - time.monotonic()
            if left > 0:
                self._watch(left)
                return
        self.close()


@final
class _Worker:
    """One process, for one architecture, and the folder that it writes to."""

    def __init__(self, arch: object) -> None:
        self.arch = arch
        try:
            # A killed compiler leaves its files where they are removed.
            self.folder = tempfile.mkdtemp(prefix="vtc-")
        except OSError as error:
            raise CompilerError(f"compile: expected a temporary folder, got {error}") from error
        printed = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._printed = os.open(os.path.join(self.folder, "printed"), printed, 0o600)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, str(SOURCE), self.folder, *map(str, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                encoding="utf-8",
                env=environment(without=_STEERING) | {"TMPDIR": self.folder},
                process_group=0,
            )
        except OSError as error:
            os.close(self._printed)
            shutil.rmtree(self.folder, ignore_errors=True)
            want = f"compile: expected to run {sys.executable}"
            raise CompilerError(f"{want}, got {error}") from error

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, order: Mapping[str, object], crew: Crew) -> dict[str, Any]:
        before = os.fstat(self._printed).st_size
        with crew.holding(self.process):
            answer = self._answer(json.dumps(order) + "\n")
        answer["printed"] = os.pread(self._printed, _SAID, before).decode(errors="replace")
        return answer

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        os.close(self._printed)

    def disown(self) -> None:
        self.process.returncode = 0  # it is not ours to wait for
        self.close()

    def _answer(self, order: str) -> dict[str, Any]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):
            stdin.write(order)
            stdin.flush()
        ready = select.poll()
        ready.register(stdout, select.POLLIN)
        if not ready.poll(config().compile_timeout * 1000):
            end_all([self.process])
            return {"failed": "no end (VTC_COMPILE_TIMEOUT=seconds gives it longer)"}
        line = stdout.readline()
        if not line.endswith("\n"):
            self.process.wait()
            return {"failed": ending(self.process.returncode)}
        answer: dict[str, Any] = json.loads(line)
        return answer


def _end(workers: Sequence[_Worker]) -> None:
    end_all([w.process for w in workers])
    for worker in workers:
        worker.process.wait()
        worker.close()
        shutil.rmtree(worker.folder, ignore_errors=True)


WORKERS = Workers()
atexit.register(WORKERS.close)
os.register_at_fork(after_in_child=WORKERS.forget)
