"""From the members of a package to executables, with every check that needs no call.

    plan = read_plan(archive, manifest.entries["forward"], variant, "cpu-x86-64-v3")
    run = executable(archive, plan, variant.plans["cpu-x86-64-v3"], device)

A plan must fit its entry (number, dtypes and sizes of inputs, what may be written), and at the ends
of its dims' ranges no step may reach outside the arena.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final

from vtc.errors import PackageError, ParseError, RunError
from vtc.ir.dims import Dim, Size, Sym, substitute
from vtc.ir.plan import (
    NESTED,
    Arena,
    Binary,
    Branch,
    Buffer,
    Copy,
    Launch,
    Loop,
    Moving,
    Plan,
    Ref,
    Step,
    nesting,
    parts,
)
from vtc.ir.saved import from_json
from vtc.ir.types import f64
from vtc.runtime.anywhere import executables
from vtc.runtime.archive import Archive
from vtc.runtime.cpu import load
from vtc.runtime.device import Device
from vtc.runtime.executable import Executable
from vtc.runtime.library import library
from vtc.runtime.machine import host
from vtc.runtime.signature import (
    CpuPlan,
    CudaPlan,
    Entry,
    FromInput,
    FromOutput,
    FromWeight,
    Manifest,
    NumberInput,
    Param,
    TensorInput,
    Variant,
)
from vtc.runtime.threads import pool

Values = dict[str, Any]
LARGEST: Final = 1 << 47
"""Bytes: more than a process can address."""
FAR: Final = 1 << 16
"""Where a range without an end is looked at."""
CORNERS: Final = 6
"""Dims up to which every combination of ends is looked at."""


def read_plan(archive: Archive, entry: Entry, variant: Variant, target: str) -> Plan:
    """The plan of a variant on a target; PackageError if it cannot be that."""
    found = variant.plans[target]
    where = f"{archive.path}: {found.plan}"
    try:
        plan = from_json(archive.read(found.plan).decode("utf-8"))
    except (ParseError, UnicodeDecodeError, RecursionError) as error:
        by = f"(the package was written by vtc {archive.manifest.vtc})"
        raise PackageError(f"{where}: expected a plan, got an error: {error} {by}") from None
    except (TypeError, ArithmeticError, MemoryError) as error:
        raise PackageError(f"{where}: expected a plan, got {error}") from None
    try:
        _check_inputs(archive.manifest, entry, variant, plan)
        _check_kernels(found, plan)
        if (deep := nesting(plan.steps)) > NESTED:
            most = f"at most {NESTED} loops and branches in each other"
            raise PackageError(f"expected {most}, got {deep}")
        for values in corners(plan.dims):
            check_places(plan, values)
    except PackageError as error:
        raise PackageError(f"{where}: {error}") from None
    return plan


def executable(
    archive: Archive, plan: Plan, found: CpuPlan | CudaPlan, target: str, device: Device
) -> Executable | executables.CudaExecutable:
    """What runs a plan on ``device``. PackageError if its library cannot be loaded."""
    if isinstance(found, CudaPlan):
        binaries, patcher = _binaries(archive, found), _patcher(archive)
        return executables.CudaExecutable(plan, binaries, device.index or 0, patcher)
    try:
        entry = load(_library(archive, found.library))
        threads = pool(lambda: _library(archive, f"lib/{target}/pool.so"))
    except RunError as error:
        raise PackageError(f"{archive.path}: {error}") from None
    return Executable(plan, entry, threads)


def corners(dims: tuple[Dim, ...]) -> Iterator[Values]:
    """The ends of the ranges, each with each."""
    ends = [_ends(d) for d in dims]
    names = [d.name for d in dims]
    if len(dims) > CORNERS:
        ends = [(low, low) for low, _ in ends] + [(high, high) for _, high in ends]
        half = len(dims)
        for part in (ends[:half], ends[half:]):
            yield {name: end[0] for name, end in zip(names, part, strict=True)}
        return
    for point in product(*ends):
        yield dict(zip(names, point, strict=True))


def check_places(plan: Plan, values: Values) -> None:
    """PackageError if with these dims a step reaches outside the arena, or a size is none."""
    try:
        sizes = {b: _at(b.nbytes, values) for b in {*plan.inputs, *plan.outputs}}
        arena = _at(plan.arena, values)
        for b, size in sizes.items():
            _check_axes(b, values)
            if size > LARGEST:
                raise PackageError(f"expected at most {LARGEST} bytes, got {b.type}")
        if not 0 <= arena <= LARGEST:
            raise PackageError(f"expected an arena of at most {LARGEST} bytes, got {arena}")
        for start, size in _reached(plan, values):
            if not 0 <= start <= arena - size or size < 0:
                raise PackageError(
                    f"expected steps inside the arena of {arena} bytes, got {size} bytes at {start}"
                )
    except (ArithmeticError, RecursionError, MemoryError) as error:
        raise PackageError(f"expected sizes, got {error} at {values}") from None


def _reached(plan: Plan, values: Values) -> Iterator[tuple[int, int]]:
    """Where steps are in the arena, with the bytes that are known of each."""
    places: dict[tuple[Ref, Size, Turns], None] = {}
    for step in plan.steps:
        for one, turns in _inside(step, values, ()):
            match one:
                case Launch(args=args, grid=grid):
                    places |= dict.fromkeys((a, 0, turns) for a in args)
                    if any(_at(n, values) < 0 for n in grid):
                        raise PackageError(f"expected blocks, got a grid of {grid}")
                case Copy(source, target, nbytes):
                    places |= dict.fromkeys((r, nbytes, turns) for r in (source, target))
                case Loop(condition=cell) | Branch(condition=cell) if cell is not None:
                    places[cell, 1, turns] = None
    for ref, size, turns in places:
        for start in _ends_of(ref, dict(turns), values):
            yield start, _at(size, values)


Turns = tuple[tuple[int, int], ...]
"""The number of each loop that a step is in, and how many turns it has."""


def _inside(step: Step, values: Values, turns: Turns) -> Iterator[tuple[Step, Turns]]:
    """``step`` and the steps in it that may run."""
    yield step, turns
    match step:
        case Loop(number=number, count=count, condition=None):
            if (times := _at(count, values)) < 0:
                raise PackageError(f"expected turns of a loop, got {times}")
            if not times:
                return
            turns = (*turns, (number, times))
    for steps in parts(step):
        for inner in steps:
            yield from _inside(inner, values, turns)


def _ends_of(ref: Ref, turns: Mapping[int, int], values: Values) -> Iterator[int]:
    """The least and the greatest place in the arena that ``ref`` means; none outside it."""
    low = high = 0
    while isinstance(ref, Moving):
        moved = (turns[ref.loop] - 1) * _at(ref.step, values)
        low, high, ref = low + min(moved, 0), high + max(moved, 0), ref.base
    if isinstance(ref, Arena):
        start = _at(ref.offset, values)
        yield from {start + low, start + high}


def _check_axes(b: Buffer, values: Values) -> None:
    if any(_at(n, values) < 0 for n in b.shape):
        raise PackageError(f"expected axes of at least 0, got {b.type} at {values}")


def _at(size: Size, values: Mapping[str, Any]) -> int:
    found = substitute(size, values)
    if isinstance(found, Sym):
        raise PackageError(f"expected known dims, got {found}")
    return found


def _ends(dim: Dim) -> tuple[int, int]:
    step = dim.multiple
    low = -(-dim.min // step) * step
    high = (max(FAR, low) if dim.max is None else dim.max) // step * step
    return low, max(low, high)


# what a plan must be for its entry


def _check_inputs(manifest: Manifest, entry: Entry, variant: Variant, plan: Plan) -> None:
    if len(plan.inputs) != len(variant.params):
        raise PackageError(f"expected {len(variant.params)} inputs, got {len(plan.inputs)}")
    fixed = {d.name: d.min for d in variant.dims if d.min == d.max}
    for p, (param, b) in enumerate(zip(variant.params, plan.inputs, strict=True)):
        wanted, may_write = _wanted(manifest, entry, param, b)
        if b.dtype is not wanted.dtype or not _alike(wanted.shape, b.shape, fixed):
            raise PackageError(f"in{p}: expected {wanted.type}, got {b.type}")
        if b.overwritten is not None and not may_write:
            raise PackageError(f"in{p}: expected an input that is only read, got one to overwrite")
    for result in entry.results:
        if isinstance(result, FromOutput) and result.index >= len(plan.outputs):
            raise PackageError(f"expected output {result.index}, got {len(plan.outputs)} outputs")


def _wanted(manifest: Manifest, entry: Entry, param: Param, b: Buffer) -> tuple[Buffer, bool]:
    """What an input of the plan must be, and whether it may be overwritten."""
    match param:
        case FromWeight(name):
            weight = manifest.weights[name]
            return Buffer(weight.dtype, weight.shape), weight.state
        case FromInput(index):
            given = entry.inputs[index]
            if isinstance(given, TensorInput):
                return Buffer(given.dtype, given.shape), given.written
            assert isinstance(given, NumberInput)
            dtype = b.dtype if b.dtype.kind == "float" else f64
            return Buffer(dtype, ()), False


def _alike(wanted: tuple[Size, ...], got: tuple[Size, ...], fixed: Mapping[str, int]) -> bool:
    """Whether two shapes can be equal: names of dims may differ."""
    if len(wanted) != len(got):
        return False
    known = [substitute(n, fixed) for n in wanted]
    pairs = zip(known, got, strict=True)
    return all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _check_kernels(found: CpuPlan | CudaPlan, plan: Plan) -> None:
    if isinstance(found, CudaPlan):
        missing = {k.symbol for k in plan.kernels} - set(found.kernels)
        if missing:
            raise PackageError(f"expected a cubin of each kernel, got none of {min(missing)}")
        if any(k.build is None for k in plan.kernels):
            raise PackageError("expected kernels of a GPU, got those of a CPU")
    elif any(k.build is not None for k in plan.kernels):
        raise PackageError("expected kernels of a CPU, got those of a GPU")


# what runs it


def _library(archive: Archive, name: str) -> Path:
    data = archive.read(name)
    return library(data, archive.manifest.members[name].sha256)


def _patcher(archive: Archive) -> Path | None:
    """What patches graphs quickly; the driver does it without."""
    name = f"lib/{host()}/patch.so"
    return _library(archive, name) if name in archive else None


def _binaries(archive: Archive, found: CudaPlan) -> dict[str, Binary]:
    return {
        symbol: Binary(symbol, archive.read(k.file), k.warps, k.shared, k.scratch, k.alignment)
        for symbol, k in found.kernels.items()
    }


def plans(entries: Iterable[Entry], target: str) -> Iterator[tuple[Entry, Variant]]:
    """The variants that have a plan for ``target``."""
    for entry in entries:
        yield from ((entry, v) for v in entry.variants if target in v.plans)
