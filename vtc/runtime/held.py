"""The tensors that the entries of a package hold: where they come from, and what they are now.

held = Held(archive, Device("cpu"), given=None)
held.get("up.weight")                 # mapped, read-only
held.put("param_groups.0.lr", 1e-4)   # only of the state
held.reset()
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from vtc.errors import ArgumentError, PackageError
from vtc.ir.types import Array
from vtc.runtime.anywhere import copies, is_device
from vtc.runtime.archive import WEIGHTS, Archive
from vtc.runtime.buffer import address
from vtc.runtime.device import Device
from vtc.runtime.lease import CLAIMS, Claim
from vtc.runtime.outside import GpuArray, incoming, outgoing, shown
from vtc.runtime.weights import Mapped, open_all, save

Given = Mapping[str, Any] | Path | str


@final
class State(Mapping[str, Any]):
    """Arrays by name; ``state[name] = values`` copies into one."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def __getitem__(self, name: str) -> Any:
        self._known(name)
        return outgoing(self._held.get(name))

    def __setitem__(self, name: str, values: Any) -> None:
        self._known(name)
        self._held.put(name, values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held.state)

    def __len__(self) -> int:
        return len(self._held.state)

    def __repr__(self) -> str:
        return f"State({', '.join(self)})"

    def save(self, path: Path | str) -> Path:
        """Write all of it to a safetensors file, for ``load(..., weights=path)``; its path."""
        return save(path, self._held.copies())

    def _known(self, name: str) -> None:
        if name not in self._held.state:
            known = ", ".join(self._held.state)
            want = f"one of {known}" if known else "no name, as entries keep nothing"
            raise KeyError(f"state: expected {want}, got {name!r}")


@final
class Held:
    """The tensors that entries hold, on ``device``.

    Memory that is written is a private mapping, or a copy; ``reset`` copies from a second one.
    """

    def __init__(self, archive: Archive, device: Device, given: Given | None) -> None:
        self._device = device
        self._wanted = archive.manifest.weights
        self.state = tuple([name for name, w in self._wanted.items() if w.state])
        self._working = _Sources(archive, given)
        self._pristine = _Sources(archive, given)
        for name, wanted in self._wanted.items():
            self._working.check(name, wanted.dtype.numpy, wanted.shape, str(wanted.type))
        self._arrays: dict[str, Array] = {}
        self._lock = threading.Lock()
        if device.type == "cuda":
            for name in self._wanted:
                self.get(name)

    def get(self, name: str) -> Array:
        """The tensor; the same one every time."""
        found = self._arrays.get(name)
        if found is None:
            with self._lock:
                found = self._arrays.get(name)
                if found is None:
                    found = self._arrays[name] = self._made(name)
        return found

    def put(self, name: str, values: Any) -> None:
        """Copy ``values`` into the tensor."""
        target = self.get(name)
        source = _source(values, name)
        if source.dtype.kind in "SUOMm":  # texts, objects, times
            raise ArgumentError(f"{name}: expected numbers, got {source.dtype}")
        if source.shape != target.shape:
            raise ArgumentError(f"{name}: expected {shown(target)}, got {shown(source)}")
        self._write(target, source)

    def reset(self) -> None:
        """Copy what the state was at first into it."""
        for name in self.state:
            if name in self._arrays:
                self._write(self._arrays[name], self._pristine.get(name))

    def copies(self) -> dict[str, Array]:
        """The state by name, on the host, as it is between two calls."""
        arrays = {name: self.get(name) for name in self.state}
        claim = Claim(frozenset([address(a) for a in arrays.values()]))
        try:
            CLAIMS.take(claim)
            return {k: GpuArray(a).numpy() if is_device(a) else a.copy() for k, a in arrays.items()}
        finally:
            CLAIMS.give_back(claim)

    def _write(self, target: Array, source: Array) -> None:
        claim = Claim(frozenset([address(target)]))
        try:
            CLAIMS.take(claim)
            if is_device(target):
                fitting = source if is_device(source) else source.astype(target.dtype, copy=False)
                copies.write(target, fitting)
            else:
                host = GpuArray(source).numpy() if is_device(source) else source
                np.copyto(target, host.astype(target.dtype, copy=False))
        finally:
            CLAIMS.give_back(claim)

    def _made(self, name: str) -> Array:
        array = self._working.get(name)
        if self._device.type == "cuda":
            return copies.to_device(array, self._device.index or 0)
        if self._wanted[name].state:
            return array if self._working.mapped(name) and array.flags.writeable else array.copy()
        view = array.view()
        view.flags.writeable = False
        return view


def _source(values: Any, name: str) -> Array:
    """The array of what is to be copied: an array of any library, a number, a list of numbers."""
    if not np.isscalar(values) and not isinstance(values, (list, tuple)):
        return incoming(values, name)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ArgumentError(f"{name}: expected an array, got {error}") from None


def weights_inside(archive: Archive) -> Mapping[str, Array]:
    """The weights in a package, mapped; others are given at load."""
    if WEIGHTS not in archive:
        return {}
    where = f"{archive.path}: {WEIGHTS}"
    found = Mapped(archive.file, *archive.place(WEIGHTS), where)
    if unknown := sorted(set(found) - set(archive.manifest.weights)):
        raise PackageError(f"{where}: expected weights of the manifest, got {unknown[0]!r}")
    return found


@final
class _Sources:
    """Where tensors are read: those given at load, then those in the package."""

    def __init__(self, archive: Archive, given: Given | None) -> None:
        self._where = str(archive.path)
        wanted = archive.manifest.weights
        self._given = _opened(given, wanted)
        if given and wanted and not set(self._given) & set(wanted):
            raise PackageError(f"{archive.path}: expected weights like {min(wanted)}, got no such")
        self._inside = weights_inside(archive)
        self._files = not isinstance(given, Mapping)

    def get(self, name: str) -> Array:
        return self._given[name] if name in self._given else self._inside[name]

    def mapped(self, name: str) -> bool:
        """Whether the array is a mapping of this process alone."""
        return self._files or name not in self._given

    def check(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], want: str) -> None:
        if name not in self._given and name not in self._inside:
            how = "weights=... has none either" if self._given else "give weights=... at load"
            raise PackageError(
                f"{self._where}: expected the weight {name}: {want}, got none ({how})"
            )
        found = self.get(name)
        if found.dtype != dtype or found.shape != shape:
            raise PackageError(f"{self._where}: {name}: expected {want}, got {shown(found)}")


def _opened(given: Given | None, wanted: Mapping[str, Any]) -> Mapping[str, Array]:
    if given is None:
        return {}
    if isinstance(given, (str, Path)):
        return open_all(given)
    if not isinstance(given, Mapping):
        want = "weights=... to be a path or arrays by name"
        raise ArgumentError(f"load: expected {want}, got {type(given).__name__}")
    arrays = {k: incoming(v, k) for k, v in given.items() if k in wanted}
    host = {k: GpuArray(a).numpy() if is_device(a) else a for k, a in arrays.items()}
    return {k: a.copy() if wanted[k].state else a for k, a in host.items()}
