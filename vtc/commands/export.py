"""``vtc export MODULE:OBJ --args ... -o FILE``: write a package, or unpack one for a C program.

OBJ is a Module or a function; ``make()`` calls what makes one, and a class or a function without
parameters is called by itself where it must be. It may also be a dict of entries. Arguments are::

    x.npy                       an array in a file
    f32[8, 784]                 random numbers of this type (zeros if they are integers)
    f32[batch=8:1..64, 784]     the same, where the first size may be from 1 to 64
    i64[batch]  f32[2*batch]    a size that was named before, or follows from one
    2.0    vtc.randn(3)         a Python expression; vtc and np are there
    mask=f32[8, 8]              any of these by keyword
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtc import lazy
from vtc.commands.arrays import load_npy
from vtc.commands.unpack import check_folder, next_steps, unpack
from vtc.errors import ArgumentError, ParseError
from vtc.frontend.export import export
from vtc.ir.dims import Dim, Sym, parse_size, substitute
from vtc.ir.types import DTYPES
from vtc.nn.module import Module

_TYPE = re.compile(r"(?P<dtype>\w+)\[(?P<sizes>[^\]]*)\]")
_SIZE = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<size>\d+)(?::(?P<low>\d+)\.\.(?P<high>\d+)?)?)?")
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=(?!=)(.*)", re.DOTALL)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, with which arguments, where to."""
    parser.description = (__doc__ or "").replace("``", "").replace("::", ":")
    parser.add_argument("object", metavar="MODULE:OBJ", help="model.py:net, package.module:make()")
    parser.add_argument("--args", nargs="*", default=[], metavar="ARG", help="see above")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    parser.add_argument(
        "--target", action="append", metavar="NAME",
        help="cpu (default), cpu-x86-64-v3, cuda:90 ...; once for each",
    )  # fmt: skip
    parser.add_argument("--emit-c", type=Path, metavar="DIR", help="unpack for a C program")
    parser.add_argument("--name", default="", help="what the package is called")
    parser.add_argument("--train", action="store_true", help="Modules as they are, not eval()")
    parser.add_argument(
        "--no-weights", action="store_true", help="what state_dict has is given at load"
    )
    parser.add_argument("--no-example", action="store_true", help="arguments and results stay out")
    parser.add_argument("--license", type=Path, metavar="FILE", help="a text to put in")
    parser.add_argument("--tuning", type=Path, metavar="FILE", help="a table of measured kernels")


def run(given: argparse.Namespace) -> int:
    """Write it."""
    if given.output is None and given.emit_c is None:
        raise ArgumentError("export: expected -o FILE or --emit-c DIR, got neither")
    if given.emit_c is not None:
        check_folder(given.emit_c)
    text = None if given.license is None else _text(given.license)
    args, kwargs, dynamic = parse_arguments(given.args)
    fn = found_object(given.object, called=bool(args or kwargs))
    if isinstance(fn, Module) and not given.train:
        fn.eval()
    path = given.output or given.emit_c / "model.vtc"
    path = export(
        fn, args, path, kwargs=kwargs, dynamic=dynamic, name=given.name,
        targets=given.target or ["cpu"], weights=not given.no_weights,
        example=not given.no_example, tuning=given.tuning,
        license=text,
    )  # fmt: skip
    if given.output is not None:
        print(f"{path}: {path.stat().st_size:,} bytes")
    if given.emit_c is not None:
        unpack(path, given.emit_c)
        if given.output is None:
            path.unlink()
        print(next_steps(given.emit_c))
    return 0


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ArgumentError(f"export: {file}: expected a text, got {why}") from None


def found_object(text: str, *, called: bool) -> Any:
    """What ``MODULE:OBJ`` names; made, if it is a class or (``called``) takes nothing itself."""
    module, _, expression = text.partition(":")
    if not module or not expression:
        hint = "; vtc unpack makes a folder of a package" if text.endswith(".vtc") else ""
        raise ArgumentError(f"export: expected MODULE:OBJ, got {text!r}{hint}")
    path = expression.removesuffix("()")
    sys.path.insert(0, str(Path.cwd()))
    found: Any = _file(Path(module)) if module.endswith(".py") else lazy.module(module)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except (AttributeError, ModuleNotFoundError) as error:
            want = f"export: expected {path} in {module}"
            raise ArgumentError(f"{want}, got {type(error).__name__}: {error}") from None
    if path != expression or isinstance(found, type):
        return _made(path, found)
    if called and inspect.isfunction(found) and not inspect.signature(found).parameters:
        return found()
    return found


def _made(name: str, found: Any) -> Any:
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        want = f"export: expected {name} to be made without arguments"
        raise ArgumentError(f"{want}, got {error}") from None
    except ValueError:  # of a class in C
        pass
    return found()


def _file(file: Path) -> Any:
    """The module in a file; what lies beside it can be imported."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ArgumentError(f"export: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    return module


SCOPE = {"vtc": sys.modules["vtc"], "np": np}
Dims = dict[str, tuple[Dim, int]]


def parse_arguments(
    words: Sequence[str],
) -> tuple[list[Any], dict[str, Any], dict[str | int, Mapping[int, Dim | Sym]]]:
    """Positional arguments, keywords, and which axes vary."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    dynamic: dict[str | int, Mapping[int, Dim | Sym]] = {}
    known: Dims = {}
    rng = np.random.default_rng(0)
    for word in words:
        keyword = _KEYWORD.fullmatch(word)
        name, text = keyword.groups() if keyword else ("", word)
        value, axes = _argument(text, known, rng)
        if axes:
            dynamic[name or len(args)] = axes
        if name:
            kwargs[name] = value
        else:
            args.append(value)
    return args, kwargs, dynamic


def _argument(text: str, known: Dims, rng: np.random.Generator) -> tuple[Any, dict[int, Dim | Sym]]:
    if text.endswith(".npy"):
        return load_npy(Path(text)), {}
    match = _TYPE.fullmatch(text.strip())
    if match is not None and match["dtype"] in DTYPES:
        sizes = [s.strip() for s in match["sizes"].split(",") if s.strip()]
        read = [_size(s, known) for s in sizes]
        dtype, shape = DTYPES[match["dtype"]], tuple(n for _, n in read)
        axes = {axis: dim for axis, (dim, _) in enumerate(read) if dim is not None}
        if dtype.is_floating_point:
            return rng.standard_normal(shape).astype(dtype.numpy), axes
        return np.zeros(shape, dtype.numpy), axes
    try:
        return eval(compile(ast.parse(text, mode="eval"), text, "eval"), SCOPE), {}
    except Exception as error:
        got = f"{text!r} ({type(error).__name__}: {error})"
        raise ArgumentError(
            f"export: expected an .npy file, a type like f32[8, 784] or Python, got {got}"
        ) from None


def _size(text: str, known: Dims) -> tuple[Dim | Sym | None, int]:
    if text.isdecimal():
        return None, int(text)
    match = _SIZE.fullmatch(text)
    if match is not None and match["size"] is not None:
        low, high = int(match["low"] or 1), match["high"]
        dim = Dim(match["name"], low, None if high is None else int(high))
        known[dim.name] = dim, int(match["size"])
        return known[dim.name]
    return known.get(text) or _derived(text, known)


def _derived(text: str, known: Dims) -> tuple[Sym, int]:
    """A size that follows from those that were named before."""
    want = "a size, 8, batch=8:1..64 or 2*batch of a batch named before"
    wrong = ArgumentError(f"export: expected {want}, got {text!r}")
    try:
        size = parse_size(text)
    except ParseError:
        raise wrong from None
    n = substitute(size, {name: n for name, (_, n) in known.items()})
    if not isinstance(size, Sym) or not isinstance(n, int):
        raise wrong
    return size, n
