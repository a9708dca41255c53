"""Arrays on the command line: ``.npy`` files for the inputs of an entry, and its example.

    leaves = given_leaves(entry, ["x.npy", "scale=2.0"])
    results = call(package, "forward", leaves)         # the leaves of what it returns

Files of bfloat16 and fp8 hold bytes: NumPy's format has no name for these types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from vtc.errors import ArgumentError
from vtc.ir.types import Array
from vtc.runtime.archive import Archive
from vtc.runtime.package import Package
from vtc.runtime.signature import ConstantInput, Entry, Input, NumberInput, TensorInput, describe
from vtc.runtime.trees import flatten, unflatten
from vtc.runtime.weights import Mapped

NAMED: Final = 256
"""From this number on a dtype is not NumPy's own."""


def example(archive: Archive, entry: str) -> Mapping[str, Array]:
    """The example of an entry: ``in0``, ``out0``; empty if the package has none."""
    name = f"example/{entry.lower()}.safetensors"
    return Mapped(archive.file, *archive.place(name), name) if name in archive else {}


def example_leaves(entry: Entry, tensors: Mapping[str, Array]) -> list[Any]:
    """The arguments of an example; copies, since the entry may write them."""
    leaves: list[Any] = []
    for k, wanted in enumerate(entry.inputs):
        match wanted:
            case ConstantInput(value=value):
                leaves.append(value)
            case NumberInput():
                leaves.append(float(tensors[f"in{k}"]))
            case TensorInput():
                leaves.append(tensors[f"in{k}"].copy())
    return leaves


def made_leaves(entry: Entry) -> list[Any]:
    """Arguments of the smallest sizes there may be, for a package without an example."""
    sizes = {d.name: max(d.min, 1) for d in entry.dims}
    leaves: list[Any] = []
    for wanted in entry.inputs:
        match wanted:
            case ConstantInput(value=value):
                leaves.append(value)
            case NumberInput():
                leaves.append(1.0)
            case TensorInput(dtype=dtype, shape=shape):
                known = [n if isinstance(n, int) else sizes[str(n)] for n in shape]
                leaves.append(np.zeros(known, dtype.numpy))
    return leaves


def given_leaves(entry: Entry, words: Sequence[str], name: str) -> list[Any]:
    """The arguments in ``words``: files and numbers in order, or ``name=`` either."""
    known = [i.name for i in entry.inputs if not isinstance(i, ConstantInput)]
    named = {w for w in words if "=" in w and not _is_file(w, known)}
    by_name = dict(w.split("=", 1) for w in words if w in named)
    in_order = iter([w for w in words if w not in named])
    if unknown := sorted(set(by_name) - set(known)):
        raise ArgumentError(f"{name}: expected inputs {', '.join(known)}, got {unknown[0]}")
    leaves = [
        i.value if isinstance(i, ConstantInput) else by_name.get(i.name) or next(in_order, None)
        for i in entry.inputs
    ]
    missing = [i.name for i, leaf in zip(entry.inputs, leaves, strict=True) if _open(i, leaf)]
    more = list(in_order)
    if missing or more:
        got = f"{len(words)}: {describe(name, entry)}"
        raise ArgumentError(f"{name}: expected {len(known)} inputs, got {got}")
    return [
        leaf if isinstance(i, ConstantInput) else _read(i, str(leaf))
        for i, leaf in zip(entry.inputs, leaves, strict=True)
    ]


def call(package: Package, name: str, leaves: Sequence[Any]) -> list[Any]:
    """The leaves of what an entry gives; arrays are on the host."""
    entry = package.signature(name)
    args, kwargs = unflatten(entry.tree, leaves)
    results = flatten(entry.result_tree, package[name](*args, **kwargs), name)
    return [np.asarray(r) if hasattr(r, "__array__") else r for r in results]


def chosen(package: Package, name: str | None) -> str:
    """The entry called ``name``; the one that needs no name."""
    if name is None:
        if len(package.entries) > 1 and "forward" not in package.entries:
            known = ", ".join(package.entries)
            raise ArgumentError(f"{package.name}: expected --entry, one of {known}, got none")
        return "forward" if "forward" in package.entries else package.entries[0]
    return package[name].name


def _is_file(word: str, known: Sequence[str]) -> bool:
    """Whether a word with ``=`` is the path of a file, not the name of an input and its value."""
    return word.split("=", 1)[0] not in known and Path(word).exists()


def _open(wanted: Input, leaf: Any) -> bool:
    return leaf is None and not isinstance(wanted, ConstantInput)


def _read(wanted: Input, word: str) -> Any:
    if isinstance(wanted, NumberInput):
        try:
            return float(word)
        except ValueError:
            raise ArgumentError(f"{wanted.name}: expected a number, got {word!r}") from None
    assert isinstance(wanted, TensorInput)
    array = load_npy(Path(word))
    dtype = wanted.dtype.numpy
    nameless = array.dtype.kind == "V" and array.dtype.names is None
    if nameless and dtype.num >= NAMED and array.dtype.itemsize == dtype.itemsize:
        return array.view(dtype)
    return array


def save_npy(path: Path, array: Array) -> None:
    """Write an array to a file; of a dtype that is not NumPy's own, the bytes."""
    if array.dtype.num >= NAMED:
        array = array.view(f"V{array.dtype.itemsize}")
    with path.open("wb") as file:  # np.save would add a suffix
        np.save(file, array, allow_pickle=False)


def load_npy(path: Path) -> Array:
    """The array in a file; ArgumentError if it is none."""
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ArgumentError(f"{path}: expected an .npy file, got another kind")
        found: Array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ArgumentError(f"{path}: expected an .npy file, got {error.strerror}") from None
    except (ValueError, EOFError, MemoryError, OverflowError) as error:
        raise ArgumentError(f"{path}: expected an .npy file, got {error}") from None
    return found
