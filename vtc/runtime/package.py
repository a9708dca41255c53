"""Packages: programs that run without the compiler, without the code that made them.

    model = load("mlp.vtc")                      # or vtc.load
    y = model(x)                                 # x: anything with DLPack or __array__
    model.entries                                # ("decode", "prefill")
    model.decode(token, position)                # or model["decode"](...)
    model.state["cache.k"]                       # what entries keep from call to call
    model.state.save("state.safetensors")        # load(..., weights="state.safetensors") goes on
    model.reset()

On the CPU results are NumPy arrays; on a GPU they are GpuArrays, which PyTorch, CuPy and vtc take
without a copy; arguments on the host are copied there unless they are overwritten. Loading needs
NumPy and ml_dtypes (and cuda-bindings for a GPU), no compiler. All but the data of the weights is
checked against its hash then; weights are mapped, and read as they are used. **A package holds
native code**: a hash tells that a file is undamaged, not that it is harmless. Load only what you
trust.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final, NoReturn, final

from vtc.errors import ArgumentError, PackageError
from vtc.ir.plan import Plan
from vtc.runtime.anywhere import devices, drivers
from vtc.runtime.archive import Archive, Check
from vtc.runtime.call import Call, Runner
from vtc.runtime.device import Device
from vtc.runtime.held import Given, Held, State
from vtc.runtime.loading import executable, plans, read_plan
from vtc.runtime.machine import best_cpu, best_cuda, cpu_targets
from vtc.runtime.signature import Entry, Manifest, Variant

OWN: Final = frozenset(
    ["name", "device", "target", "state", "entries", "manifest", "signature", "reset"]
)
"""What a Package has itself: an entry of such a name is reached as ``package["reset"]``."""


def load(
    path: Path | str,
    *,
    device: Device | str | None = None,
    check: Check = "fast",
    entry: str | None = None,
    weights: Given | None = None,
) -> Package:
    """The package at ``path``, ready to be called.

    ``device`` None is the CPU if the package has code for it, else the current GPU.
    ``check="full"`` hashes the weights too, and reads the plans of all targets. ``entry`` is what
    calling the package runs. ``weights`` (a safetensors file, an index of several, or arrays by
    name) are for a package without, or take the place of those inside. PackageError says what is
    wrong with a file, or which targets it has where none is for this machine.
    """
    return Package(Archive(path, check), device, check, entry, weights)


@final
class Package:
    """See the module; :func:`load` makes it. Many threads may call it at once."""

    def __init__(
        self,
        archive: Archive,
        device: Device | str | None,
        check: Check,
        entry: str | None,
        weights: Given | None,
    ) -> None:
        manifest = archive.manifest
        self._archive = archive
        self.name = manifest.name
        self.device, self.target = _choose(archive, device)
        """Where it runs, and which of its targets that is."""
        self._held = Held(archive, self.device, weights)
        self.state = State(self._held)
        """Tensors that entries keep from call to call, by name; writing them is seen by the next
        call.
        """
        self._plans: dict[int, Plan] = {}
        targets = manifest.targets if check == "full" else (self.target,)
        for target in targets:
            for owner, variant in plans(manifest.entries.values(), target):
                plan = read_plan(archive, owner, variant, target)
                if target == self.target:
                    self._plans[id(variant)] = plan
        self._runners: dict[int, Runner] = {}
        self._lock = threading.Lock()
        self._calls = {
            name: Call(name, e, self.target, self.device, self._held.get, self._runner)
            for name, e in manifest.entries.items()
        }
        self._main = _main(manifest, entry)

    @property
    def entries(self) -> tuple[str, ...]:
        """The names of what can be called."""
        return tuple(self._calls)

    @property
    def manifest(self) -> Manifest:
        """All that the file says of itself."""
        return self._archive.manifest

    def signature(self, entry: str | None = None) -> Entry:
        """What a call of ``entry`` takes and gives."""
        return self[entry or self._named()].entry

    def reset(self) -> None:
        """Put the state back to what it is in the file."""
        self._held.reset()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the only entry, the one called ``forward``, or the one named at load."""
        return self._calls[self._named()](*args, **kwargs)

    def __getitem__(self, entry: str) -> Call:
        if entry not in self._calls:
            known = ", ".join(self._calls)
            raise ArgumentError(f"{self.name}: expected an entry ({known}), got {entry!r}")
        return self._calls[entry]

    def __getattr__(self, entry: str) -> Call:
        calls = self.__dict__.get("_calls", {})
        if entry in calls:
            found: Call = calls[entry]
            return found
        raise AttributeError(f"package: expected an entry ({', '.join(calls)}), got {entry!r}")

    def __reduce__(self) -> NoReturn:
        where = f"load {str(self._archive.path)!r} where it is needed"
        raise TypeError(f"a Package cannot be pickled or copied: {where}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._calls})

    def __repr__(self) -> str:
        what = ", ".join(self._calls)
        return f"Package({self.name}: {what}; {self.target} on {self.device})"

    def _named(self) -> str:
        if self._main is None:
            known = ", ".join(self._calls)
            how = f"package.{next(iter(self._calls))}(...)"
            raise ArgumentError(f"{self.name}: expected one of its entries ({known}), as in {how}")
        return self._main

    def _runner(self, variant: Variant) -> Runner:
        with self._lock:
            found = self._runners.get(id(variant))
            if found is None:
                plan, there = self._plans[id(variant)], variant.plans[self.target]
                found = executable(self._archive, plan, there, self.target, self.device)
                self._runners[id(variant)] = found
            return found


def _main(manifest: Manifest, entry: str | None) -> str | None:
    """The entry that calling the package runs; None if it must be named."""
    if entry is not None:
        if entry not in manifest.entries:
            known = ", ".join(manifest.entries)
            raise ArgumentError(f"{manifest.name}: expected an entry ({known}), got {entry!r}")
        return entry
    if len(manifest.entries) == 1:
        return next(iter(manifest.entries))
    return "forward" if "forward" in manifest.entries else None


def _choose(archive: Archive, device: Device | str | None) -> tuple[Device, str]:
    """Where to run, and which target; PackageError if the package has none for this machine."""
    targets = archive.manifest.targets
    asked = None if device is None else Device.parse(device)
    if asked is None:
        found = best_cpu(targets)
        if found is not None:
            return Device("cpu"), found
        if not any(t.startswith("sm_") for t in targets):
            raise _no_target(archive, _cpus(), "cpu")
        if not devices.count():
            why = f"no GPU is found: {drivers.driver().why()}"
            raise _no_target(archive, f"{_cpus()} ({why})", "cpu")
        asked = Device("cuda", devices.resolve("cuda"))
    if asked.type == "cpu":
        found = best_cpu(targets)
        if found is None:
            raise _no_target(archive, _cpus(), "cpu")
        return Device("cpu"), found
    index = devices.resolve(asked)
    major, minor = devices.gpu(index).facts.capability
    found = best_cuda((major, minor), targets)
    if found is None:
        raise _no_target(archive, f"sm_{major}{minor}", f"cuda:{major}{minor}")
    return Device("cuda", index), found


def _cpus() -> str:
    """What the CPU here runs, in words."""
    return " or ".join(cpu_targets()) or "this kind of CPU (which packages do not serve)"


def _no_target(archive: Archive, here: str, add: str) -> PackageError:
    there = ", ".join(archive.manifest.targets) or "nothing"
    return PackageError(
        f"{archive.path}: expected code for {here}, got code for {there}; "
        f'export it again with targets=["{add}", ...]'
    )
