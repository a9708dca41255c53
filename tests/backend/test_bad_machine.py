"""Building on a machine that misbehaves: compilers that fail, hang or die, caches that cannot be
written or are damaged, processes that are killed or interrupted. Every build is a real process.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cache import mounted, needs_mount

from vtc.codegen.c import find_compiler

COMPILER = find_compiler()
SLOW = pytest.mark.slow
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")

BUILD = """
import numpy as np
import vtc

def model(x):
    h = (x @ x).relu()
    return (h @ x).sum(1)

x = vtc.tensor([[1.0, -2.0], [3.0, 4.0]])
print(vtc.compile(model)(x).numpy().tolist())
"""
ANSWER = "[0.0, 55.0]"


class Machine:
    """A machine whose processes are started with ``build``."""

    def __init__(self, folder):
        self.cache, self.temporary, self.log = folder / "cache", folder / "tmp", folder / "log"
        self.wrapper, self.folder = folder / "cc", folder
        self.temporary.mkdir()
        self.log.touch()

    def compiler(self, *lines):
        """Let ``lines`` of shell stand before the real compiler where it makes an object (``make``
        is "object"), a library ("library") or answers questions ("probe").
        """
        quoted = shlex.join(COMPILER.command)
        kind = (
            'case "$*" in *-shared*) make=library;; *object.o*) make=object;; *) make=probe; esac'
        )
        text = "\n".join(["#!/bin/sh", kind, *lines, f'exec {quoted} "$@"', ""])
        new = self.folder / "new"  # in its place at once: the old one may still run
        new.write_text(text.replace("$LOG", str(self.log)))
        new.chmod(0o755)
        new.replace(self.wrapper)

    def start(self, code=BUILD, before=(), **environment):
        """A process that builds."""
        cc = {"CC": str(self.wrapper)} if self.wrapper.exists() else {}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("VTC_") and k != "CC"}
        own = {"VTC_CACHE_DIR": str(self.cache), "TMPDIR": str(self.temporary), "VTC_CHECK": "0"}
        return subprocess.Popen(
            [*before, sys.executable, "-c", code],
            env={**kept, **own, **cc, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def build(self, code=BUILD, before=(), **environment):
        """The end of a process that builds: status, output, errors."""
        process = self.start(code, before, **environment)
        out, errors = process.communicate(timeout=600)
        return process.returncode, out.strip(), errors

    def objects(self):
        """What is kept, by content."""
        return {p: p.stat().st_mtime_ns for p in files(self.cache / "objects")}

    def made(self):
        """How many objects and libraries compilers were asked for so far."""
        return len(self.log.read_text().splitlines())

    def check_cache(self):
        """Whole files under their own names, and entries that name them."""
        kept = files(self.cache / "objects")
        for path in kept:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name[:64]
        names = {p.name for p in kept}
        for entry in files(self.cache / "entries"):
            assert entry.read_text().strip() in names


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


COUNT = '[ $make = probe ] || echo $make >> "$LOG"'


def test_a_second_process_compiles_nothing(machine):
    machine.compiler(COUNT)
    assert machine.build() == (0, ANSWER, "")
    made = machine.made()
    assert made > 4
    assert machine.build() == (0, ANSWER, "")
    assert machine.made() == made
    assert files(machine.cache / "partial") == files(machine.temporary) == []
    machine.check_cache()


def test_only_what_changed_is_compiled(machine):
    machine.compiler(COUNT)
    machine.build()
    machine.log.write_text("")
    status, out, _ = machine.build(BUILD.replace(".sum(1)", ".sum(1) * 2"))
    assert (status, out) == (0, "[0.0, 110.0]")
    assert sorted(machine.log.read_text().split()) == ["library", "object", "object"]


# Compilers


def test_without_a_compiler_numpy_runs_it_and_says_so_once(machine):
    code = "import sys\nsys.modules['ziglang'] = None\n" + BUILD + BUILD.replace("relu", "exp")
    status, out, errors = machine.build(code, PATH=str(machine.folder))
    assert (status, out.split("\n")[0]) == (0, ANSWER)
    assert errors.count("NumPy runs this program: expected a C compiler, found none") == 1


@pytest.mark.parametrize(
    ("cc", "want"),
    [
        (" ", "ConfigError: CC: expected a command, got ' '"),
        ("'gcc", 'ConfigError: CC: expected a command, got "\'gcc" (No closing quotation)'),
        ("/no/such/cc", "CompilerError: compile: expected to run /no/such/cc, got [Errno 2]"),
        ("/bin/false", "compile: expected /bin/false to succeed, got exit status 1"),
        ("/bin/true", "compile: expected /bin/true to write empty.o, got no file"),
        ("/etc/passwd", "compile: expected to run /etc/passwd, got [Errno 13] Permission denied"),
    ],
)
def test_a_compiler_that_is_none_is_refused(machine, cc, want):
    status, _, errors = machine.build(CC=cc)
    assert status == 1
    assert want in errors


def complaint(errors):
    """The last exception of a traceback, by line."""
    return errors[errors.rindex("CompilerError: ") :].splitlines()


def test_a_compiler_that_fails_is_quoted_in_short(machine):
    machine.compiler(
        "if [ $make = object ]; then cat > /dev/null",
        "for i in 1 2 3 4 5 6 7 8 9; do echo 'error: no' >&2; echo '  ^' >&2; done; exit 3; fi",
    )
    status, _, errors = machine.build()
    assert status == 1
    first, kernel, line, command, *said = complaint(errors)
    assert (
        first == f"CompilerError: compile: expected {machine.wrapper} to succeed, got exit status 3"
    )
    assert kernel.startswith("  in kernel k")
    assert line.startswith("  at <string>:")
    assert command.startswith(f"  {machine.wrapper} -std=gnu11 -O3")
    assert said == ["  error: no", "    ^"] * 6 + ["  ... and 6 more lines"]
    assert {p.suffix for p in machine.objects()} == {".json"}  # the plan, and no object
    assert files(machine.temporary) == []


def test_a_compiler_that_is_killed_is_named(machine):
    machine.compiler("[ $make = object ] && kill -9 $$")
    status, _, errors = machine.build()
    assert status == 1
    first, kernel, *_ = complaint(errors)
    assert first.endswith("to succeed, got it killed by SIGKILL")
    assert kernel.startswith("  in kernel k")


HANG = (
    'if [ $make = object ]; then echo $$ >> "$LOG"; tail -f /dev/null & echo $! >> "$LOG"; wait; fi'
)


def test_a_compiler_that_hangs_is_ended(machine):
    machine.compiler(HANG)
    status, _, errors = machine.build(VTC_COMPILE_TIMEOUT="0.3")
    assert status == 1
    first, kernel, *_ = complaint(errors)
    assert f"expected {machine.wrapper} to end within 0.3 s, got no end (VTC_COMPILE" in first
    assert kernel.startswith("  in kernel k")
    pids = machine.log.read_text().split()
    assert len(pids) >= 2
    assert not any(map(alive, pids))
    assert files(machine.temporary) == []


# Caches


READ_ONLY = "-t tmpfs -o ro none"
FULL = "-t tmpfs -o size=8k none"


@needs_mount
@pytest.mark.parametrize("options", [READ_ONLY, FULL])
def test_a_cache_that_takes_nothing_costs_a_warning(machine, options):
    machine.cache.mkdir()
    code = BUILD + BUILD.replace("relu", "exp")
    status, out, errors = machine.build(code, before=mounted(machine.cache, options))
    assert (status, out.split("\n")[0]) == (0, ANSWER)
    assert errors.count("VtcWarning: cache: expected to write to") == 1
    assert list(machine.temporary.iterdir()) == []


@needs_mount
def test_a_filled_cache_may_be_read_only(machine):
    machine.compiler(COUNT)
    machine.build()
    made = machine.made()
    again = 'mount -o remount,bind,ro "$0"'
    before = mounted(machine.cache, f"--bind {machine.cache}", then=again)
    assert machine.build(before=before) == (0, ANSWER, "")
    assert machine.made() == made
    status, out, errors = machine.build(BUILD.replace(".sum(1)", ".sum(1) * 2"), before=before)
    assert (status, out) == (0, "[0.0, 110.0]")
    assert errors.count("VtcWarning") == 1
    assert machine.made() == made + 3  # what was there still serves


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], pytest.param(lambda b: b[::-1], marks=SLOW)]
)
def test_damaged_files_are_made_again(machine, damage):
    machine.build()
    before = machine.objects()
    for path in before:
        path.write_bytes(damage(path.read_bytes()))
    assert machine.build() == (0, ANSWER, "")
    assert machine.objects().keys() == before.keys()
    machine.check_cache()


@pytest.mark.parametrize("content", [b"not a library", pytest.param(None, marks=SLOW)])
def test_a_whole_file_that_does_not_load_is_made_again(machine, content):
    """Say, from a machine with another C library; it loads, but it is another one's code."""
    machine.compiler(COUNT)
    machine.build()
    made, kept = machine.made(), machine.objects().keys()
    unit = next(p for p in kept if p.suffix == ".o")
    junk = content or empty_library(machine, unit)
    name = hashlib.sha256(junk).hexdigest() + ".so"
    path = machine.cache / "objects" / name[:2] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(junk)
    for entry in files(machine.cache / "entries"):
        if ".so" in entry.read_text():
            entry.write_text(name + "\n")
    assert machine.build() == (0, ANSWER, "")
    assert machine.made() == made + 2  # the plan's and the pool's
    assert kept <= machine.objects().keys()
    machine.check_cache()


def test_a_plan_that_cannot_be_read_is_made_again(machine):
    machine.build()
    kept = machine.objects()
    (plan,) = (p for p in kept if p.suffix == ".json")
    text = plan.read_bytes().replace(b'"format"', b'"matter"')
    name = hashlib.sha256(text).hexdigest() + ".json"
    path = machine.cache / "objects" / name[:2] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    (entry,) = (e for e in files(machine.cache / "entries") if ".json" in e.read_text())
    entry.write_text(name + "\n")
    assert machine.build() == (0, ANSWER, "")
    assert entry.read_text().strip() == plan.name
    machine.check_cache()


def empty_library(machine, unit):
    path = machine.folder / "empty.so"
    command = [*COMPILER.command, "-shared", "-x", "c", "/dev/null", "-o", str(path)]
    subprocess.run(command, check=True)
    return path.read_bytes()


# Processes


def test_two_processes_build_the_same_at_once(machine):
    # Both begin to compile before either ends.
    machine.compiler(
        COUNT,
        'if [ $make = object ]; then : > "$LOG.$PPID"',
        'while [ $(ls "$LOG".* | wc -l) -lt 2 ]; do :; done; fi',
    )
    processes = [machine.start() for _ in range(2)]
    for p in processes:
        out, errors = p.communicate(timeout=600)
        assert (p.returncode, out.strip(), errors) == (0, ANSWER, "")
    assert files(machine.cache / "partial") == files(machine.temporary) == []
    machine.check_cache()
    made = machine.made()
    assert machine.build() == (0, ANSWER, "")
    assert machine.made() == made


KILLED_WHILE_WRITING = """
import os, signal, sys
left = {left}
def count(event, arguments):
    global left
    mine = event in ("tempfile.mkstemp", "os.rename") or (
        event == "open" and isinstance(arguments[0], int) and arguments[1] == "wb")
    left -= mine
    if mine and not left:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""


@pytest.mark.parametrize("left", [2, *(pytest.param(k, marks=SLOW) for k in (1, 3, 4, 6, 20))])
def test_a_process_killed_while_it_writes_leaves_no_damage(machine, left):
    status, out, errors = machine.build(KILLED_WHILE_WRITING.format(left=left) + BUILD)
    assert (status, out, errors) == (-9, "", "")
    machine.check_cache()
    assert machine.build() == (0, ANSWER, "")
    machine.check_cache()


@pytest.mark.parametrize("at", [1, *(pytest.param(k, marks=SLOW) for k in (2, 4)), "library"])
def test_a_process_killed_while_it_compiles_leaves_no_damage(machine, at):
    reached = "[ $make = library ]" if at == "library" else f'[ $(wc -l < "$LOG") -ge {at} ]'
    machine.compiler(COUNT, f"if {reached}; then kill -9 $PPID; fi")
    status, out, errors = machine.build()
    assert (status, out, errors) == (-9, "", "")
    machine.check_cache()
    machine.compiler()
    assert machine.build() == (0, ANSWER, "")
    machine.check_cache()


@pytest.mark.parametrize(("kind", "deaf"), [("object", ""), ("library", "trap '' TERM; ")])
def test_an_interrupt_ends_the_compilers(machine, kind, deaf):
    machine.compiler(
        f'if [ $make = {kind} ]; then {deaf}echo $$ >> "$LOG"; tail -f /dev/null & '
        'echo $! >> "$LOG"; kill -INT $PPID; wait; tail -f /dev/null; fi'
    )
    status, out, errors = machine.build()
    assert status != 0
    assert out == ""
    assert "KeyboardInterrupt" in errors
    pids = machine.log.read_text().split()
    assert len(pids) >= 2
    assert not any(map(alive, pids))
    assert files(machine.cache / "partial") == files(machine.temporary) == []
    machine.check_cache()
    machine.compiler()
    assert machine.build() == (0, ANSWER, "")


# What is asked for


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("VTC_NUM_THREADS", "0"),
        ("VTC_NUM_THREADS", "two"),
        ("VTC_COMPILE_TIMEOUT", "0"),
        ("VTC_COMPILE_TIMEOUT", "soon"),
        ("VTC_COMPILE_TIMEOUT", "nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(machine, variable, text):
    status, _, errors = machine.build(**{variable: text})
    assert status == 1
    assert f"ConfigError: {variable}: expected a positive" in errors
    assert f"got {text!r}" in errors


def test_no_threads_are_refused(machine):
    status, _, errors = machine.build("import vtc\nvtc.set_num_threads(0)\n")
    assert status == 1
    assert "ArgumentError: set_num_threads: expected an int from 1 to 1024, got 0" in errors


MUCH = """
import resource
import vtc

def much(x):
    big = x @ x.T
    return big.tanh() @ x

f = vtc.compile(much)
x = vtc.ones(4, 2)
f(x)
x = vtc.ones(40_000, 2)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
print(f(x).shape)
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="limits of another system")
def test_an_arena_that_is_too_large_names_the_program_and_its_largest_values(machine):
    status, _, errors = machine.build(MUCH)
    assert status == 1
    first, arena, value, *_ = errors[errors.rindex("RunError: ") :].splitlines()
    assert first.startswith("RunError: much: expected enough memory, got MemoryError: Unable to")
    assert arena == "  its arena takes 6,400,000,000 bytes, most of them for"
    assert ": f32[" in value
    assert "], 6,400,000,000 bytes at <string>:" in value


MANY = """
import resource
import vtc

def many(x):
    return x @ x.T

f = vtc.compile(many)
x = vtc.ones(8_000, 2)
kept = [f(x), f(x), f(x)]
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
while True:
    kept.append(f(x))
"""


@pytest.mark.skipif(not shutil.which("unshare"), reason="limits of another system")
def test_outputs_that_do_not_fit_are_reported_by_a_replayed_call_too(machine):
    status, _, errors = machine.build(MANY)
    assert status == 1
    last = errors[errors.rindex("RunError: ") :].splitlines()
    assert last[0].startswith("RunError: many: expected enough memory, got MemoryError: Unable to")
