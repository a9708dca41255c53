"""``vtc unpack FILE DIR``: a package as a folder for a C program.

It gets the members of the package, the runtime in C, a Makefile and a main.c::

    unpack("model.vtc", "out")          # cd out && make && ./main . forward x.npy

The folder needs a C compiler and libc, nothing of vtc or Python.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vtc.errors import ArgumentError
from vtc.runtime.archive import MANIFEST, Archive

NATIVE = Path(__file__).parents[1] / "runtime" / "native"
SUFFIXES = (".c", ".h")


def arguments(parser: argparse.ArgumentParser) -> None:
    """A file, a folder."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a package")
    parser.add_argument("folder", type=Path, metavar="DIR", help="made if it is not there")


def run(given: argparse.Namespace) -> int:
    """Write the folder; say how to go on."""
    print(next_steps(unpack(given.file, given.folder)))
    return 0


def next_steps(folder: Path) -> str:
    """What to do with a folder that was unpacked."""
    return f"{folder}: make, then ./main . ENTRY INPUT.npy ..."


def unpack(package: Path, folder: Path) -> Path:
    """Write the folder; ArgumentError if a file stands where it should be."""
    check_folder(folder)
    with Archive(package, "full") as archive:
        for name in (MANIFEST, *archive.manifest.members):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                offset, size = archive.place(name)
                while size:
                    some = archive.part(offset, min(size, 1 << 20))
                    file.write(some)
                    offset, size = offset + len(some), size - len(some)
    for path in sorted(NATIVE.iterdir()):
        if path.suffix in SUFFIXES or path.name == "Makefile":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def check_folder(folder: Path) -> None:
    """ArgumentError if a file stands where ``folder`` should be."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"unpack: expected a folder, got the file {folder}")
