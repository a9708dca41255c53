"""The ``vtc`` command: look at programs, export them, run and check packages.

vtc info
vtc show FILE.vtc --stage lowered --target sm_90
vtc pass cse FILE.vtc
vtc export model.py:net --args "f32[batch=8:1..64, 784]" -o net.vtc --target cpu --target cuda:90
vtc inspect net.vtc
vtc run net.vtc --input x.npy --output y.npy
vtc unpack net.vtc out
vtc verify net.vtc
vtc bench net.vtc
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vtc import lazy
from vtc.errors import VtcError
from vtc.version import __version__

VERBS = {
    "info": (lazy.module("vtc.commands.info"), "versions, compiler, cache and GPUs"),
    "show": (lazy.module("vtc.commands.show"), "a program at a stage of the pipeline"),
    "pass": (lazy.module("vtc.commands.one_pass"), "a program after one pass"),
    "export": (lazy.module("vtc.commands.export"), "write a package"),
    "inspect": (lazy.module("vtc.commands.inspect"), "what is in a package"),
    "run": (lazy.module("vtc.commands.run"), "run a package on arrays in files"),
    "unpack": (lazy.module("vtc.commands.unpack"), "make a folder for a C program of a package"),
    "verify": (
        lazy.module("vtc.commands.verify"),
        "check a package, and that it computes what it did when it was made",
    ),
    "bench": (lazy.module("vtc.commands.bench"), "how long a package takes to load and to run"),
}
"""The module of each verb, and what it does."""
BESIDE = ("jinja2", "networkx", "rich", "scipy", "triton")
"""What of vtc's needs its runtime does without."""
INTERRUPTED = 130
"""The exit status after Ctrl-C, as of a shell."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        given = _parsed(words)
        status = int(given.run(given))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        print("vtc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in BESIDE:  # what the user's code imports
            raise
        how = f"pip install {name}, or vtc with all it needs"
        print(f"{type(error).__name__}: {error}: {how}", file=sys.stderr)
        return 1
    except (VtcError, OSError) as error:
        notes = getattr(error, "__notes__", ())
        print("\n".join([f"{type(error).__name__}: {error}", *notes]), file=sys.stderr)
        return 1


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    chosen = next((w for w in words if not w.startswith("-")), "")
    parser = argparse.ArgumentParser(prog="vtc", description="A compiler for tensor programs.")
    parser.add_argument("--version", action="version", version=f"vtc {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True)
    for verb, (module, help) in VERBS.items():
        added = verbs.add_parser(verb, help=help, description=f"{help[0].upper()}{help[1:]}.")
        if verb == chosen:  # the others may need what is not installed here
            added.formatter_class = argparse.RawDescriptionHelpFormatter
            module.arguments(added)
            added.set_defaults(run=module.run)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
