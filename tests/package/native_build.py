"""The C runtime built for tests: as a library, as the program of ``main.c``, with sanitizers; and
cases that run in a process of their own, where the address sanitizer is loaded first.

    library = build(folder / "libvtc.so", ["vtc_runtime.c"], shared=True)
    results = run_cases("native_cpu_cases", library, package)     # {"case_name": "" or a traceback}
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import vtc.runtime

NATIVE = Path(vtc.runtime.__file__).parent / "native"
HERE = Path(__file__).parent
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZED = (
    "-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)  # fmt: skip


def compiler():
    """The C compiler of tests; None if there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(target, sources, flags=SANITIZED, *, shared=False):
    """Compile sources, of the runtime or of the folder ``native`` here."""
    paths = [NATIVE / s if (NATIVE / s).exists() else HERE / "native" / s for s in sources]
    kind = ("-shared", "-fPIC") if shared else ()
    command = [
        compiler(), *WARNINGS, *flags, *kind, "-pthread", f"-I{NATIVE}", "-o", str(target),
        *map(str, paths), "-ldl", "-lm",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def sanitizer():
    """The environment of a process whose libraries are sanitized."""
    found = subprocess.run(
        [compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    preload = found.stdout.strip()
    # Python itself keeps memory until its end. With memory of its own a leak in C shows elsewhere.
    return {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}


def run_cases(module, *arguments):
    """What each case of a module says: nothing, or what is wrong."""
    command = [sys.executable, str(HERE / "native_build.py"), module, *map(str, arguments)]
    environment = {**os.environ, **sanitizer()}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=HERE
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def cases(module):
    """The names of the cases of a module."""
    return [name for name in vars(module) if name.startswith("case_")]


def _main(name, *arguments):
    import importlib  # noqa: PLC0415 - this is the other process
    import traceback  # noqa: PLC0415

    module = importlib.import_module(name)
    given = module.given(*arguments)
    results = {}
    for case in cases(module):
        try:
            getattr(module, case)(given)
            results[case] = ""
        except Exception:
            results[case] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    _main(*sys.argv[1:])
