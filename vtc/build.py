"""From a program to something that runs: pipeline, plan, kernels, executable.

    built = compile_program(program, Context())
    y, = built.run([x])
    print(built.describe())              # 13 kernels in 13 steps, 41 ms: fused 2, compile 36, ...
    built.stages["fused"]                # the program at each stage

Where kernels cannot be made (no C compiler, a dtype C does not have) NumPy evaluates the program
instead, and a warning says so once. Equal programs are built once per process; plans and libraries
are kept on disk for the next one.
"""

from __future__ import annotations

import ctypes
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar, final

import numpy as np

from vtc.codegen.c import Compiler, compile_plan, compile_pool, find_compiler, generate
from vtc.config import config
from vtc.errors import ArgumentError, CodegenError, ParseError, RunError, VtcWarning
from vtc.ir.evaluate import bind, evaluate
from vtc.ir.graph import Loc, Program
from vtc.ir.plan import Plan
from vtc.ir.saved import from_json, to_json
from vtc.ir.text import show
from vtc.ir.types import Array
from vtc.passes import PIPELINE
from vtc.passes.cost import value
from vtc.passes.explain import explain
from vtc.passes.memory import largest
from vtc.passes.pipeline import Context, Stages, run
from vtc.runtime.cache import Store, digest
from vtc.runtime.cpu import Entry, load
from vtc.runtime.executable import Executable
from vtc.runtime.threads import pool

T = TypeVar("T")
Places = tuple[Loc | None, ...]
KEPT = 256
"""Programs that are kept built."""


class Runnable(Protocol):
    """Something that computes the outputs of a program, and overwrites what the program does."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs."""


@final
@dataclass(frozen=True, slots=True)
class Built:
    """A program that runs. Where NumPy evaluates it there is no plan, and ``fallback`` says why."""

    program: Program
    stages: Mapping[str, Program]
    context: Context
    seconds: Mapping[str, float]
    executable: Runnable
    plan: Plan | None
    fallback: str = ""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs; inputs that the program overwrites change in place. RunError where there is
        not enough memory.
        """
        try:
            return self.executable.run(inputs)
        except MemoryError as error:
            raise self.out_of_memory(inputs, error) from error

    def out_of_memory(self, inputs: Sequence[Array], error: MemoryError) -> RunError:
        """What to say when a call with ``inputs`` met ``error``."""
        bound = bind(self.program.entry.params, [a.shape for a in inputs])
        sizes = {name: n for name, n in bound.items() if isinstance(n, int)}
        first = f"{self.program.entry.name}: expected enough memory, got MemoryError: {error}"
        if self.plan is None:
            return RunError(first)
        arena = value(self.plan.arena, sizes)
        held = [f"    {v}" for v in largest(self.stages["planned"], sizes)]
        what = f"  its arena takes {arena:,} bytes" + (", most of them for" if held else "")
        return RunError("\n".join([first, what, *held]))

    @property
    def kernels(self) -> int:
        """Distinct kernels."""
        return len(self.plan.kernels) if self.plan else 0

    def explain(self) -> str:
        """What moves through memory, kernel by kernel, and why things did or did not fuse."""
        return explain(self.stages, PIPELINE, self.context)

    def describe(self) -> str:
        """What it became and where the time to build it went, on one line."""
        what = f"NumPy ({self.fallback})"
        if self.plan:
            what = f"{self.kernels} kernels in {len(self.plan.steps)} steps"
        parts = ", ".join(f"{name} {1e3 * s:.0f}" for name, s in self.seconds.items())
        return f"{what}, {1e3 * sum(self.seconds.values()):.0f} ms: {parts}"


def compile_program(program: Program, context: Context) -> Built:
    """``program``, built for ``context``; an equal one that was built before is taken again."""
    built = _built(program, _places(program), context, find_compiler(), config().cache_dir)
    if (folder := config().dump) is not None:
        dump(built, folder)
    return built


def dump(built: Built, folder: Path) -> Path:
    """Write every stage, every kernel, the host unit and the plan; the new directory below
    ``folder``.

    ``VTC_DUMP=folder`` does this for all that is built.
    """
    name = built.program.entry.name
    here = next(p for k in count() if not (p := folder / f"{name}-{k}").exists())
    here.mkdir(parents=True)
    for k, (stage, program) in enumerate(built.stages.items()):
        (here / f"{k}-{stage}.vtc").write_text(show(program, loc=True))
    if built.plan is not None:
        (here / "plan.txt").write_text(f"{built.plan}\n")
        (here / "host.c").write_text(built.plan.host)
        for kernel in built.plan.kernels:
            (here / f"{kernel.name}.c").write_text(kernel.source)
    return here


def _places(program: Program) -> Places:
    return tuple(n.loc for g in program.graphs for n in (*g.params, *g.nodes))


def stage_program(program: Program, stage: str, context: Context) -> Program:
    """``program`` at a stage of the pipeline."""
    names = [s.name for s in PIPELINE]
    if stage not in names:
        raise ArgumentError(f"stage: expected one of {', '.join(names)}, got {stage!r}")
    return run(program, PIPELINE[: names.index(stage) + 1], context)


@lru_cache(KEPT)
def _built(
    program: Program, places: Places, context: Context, compiler: Compiler | None, cache: Path
) -> Built:
    del places  # part of the key: errors of a build name the lines of its own program
    clock = _Clock()
    stages = Stages(program, PIPELINE, context, lambda step: clock.add(step.stage, step.seconds))
    try:
        if compiler is None:
            raise CodegenError("expected a C compiler, found none: set CC or install vtc[cc]")
        store = _store(cache)
        plan = _plan(program, stages, context, store, clock)
    except CodegenError as error:
        _say_once(str(error))
        evaluated = _Evaluated(stages["joint"])
        return Built(program, stages, context, clock.seconds, evaluated, None, str(error))
    entry = _entry(plan, compiler, store, clock)
    threads = clock("load", lambda: _threads(compiler, store))
    return Built(program, stages, context, clock.seconds, Executable(plan, entry, threads), plan)


def _plan(program: Program, stages: Stages, context: Context, store: Store, clock: _Clock) -> Plan:
    """The plan of ``program``: that of an earlier process, unless the compiler has changed.

    Under ``VTC_CHECK=2`` the passes run all the same, since that is what is to be checked.
    """
    key = clock("find", lambda: digest("plan", *_facts(context), show(program, loc=True)))
    if config().check == 2:
        stages["planned"]
    found = store.find(key)
    if found is not None:
        try:
            return clock("find", lambda: from_json(found.read_text("utf-8")))
        except (OSError, ParseError):
            store.drop(found)
    planned = stages["planned"]
    plan = clock("generate", lambda: generate(planned, context.target))
    store.put(key, to_json(plan).encode(), ".json")
    return plan


def _facts(context: Context) -> tuple[str, ...]:
    """What a plan depends on besides the program."""
    target = context.target
    keeps = " ".join(sorted(target.keeps))
    return _sources(), target.name, target.kind, keeps, str(target.vector), str(context.options)


@lru_cache(1)
def _sources() -> str:
    """The code that makes plans."""
    root = Path(__file__).parent
    files = sorted(p for part in ("ir", "passes", "codegen") for p in (root / part).rglob("*.*"))
    kinds = (".py", ".jinja")
    return digest(*(p.read_text("utf-8") for p in files if p.suffix in kinds))


def _entry(plan: Plan, compiler: Compiler, store: Store, clock: _Clock) -> Entry:
    """The entry of the library of ``plan``; a stored one that cannot be loaded is made again."""
    library = clock("compile", lambda: compile_plan(plan, compiler, store))
    try:
        return clock("load", lambda: load(library))
    except RunError:
        store.drop(library)
    library = clock("compile", lambda: compile_plan(plan, compiler, store))
    return clock("load", lambda: load(library))


def _threads(compiler: Compiler, store: Store) -> ctypes.c_void_p:
    """The pool of this process; a stored library that cannot be loaded is made again."""

    def library() -> Path:
        return compile_pool(compiler, store)

    try:
        return pool(library)
    except RunError:
        store.drop(library())
    return pool(library)


@final
class _Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, phase: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


@final
@dataclass(frozen=True, slots=True)
class _Evaluated:
    """A program that NumPy runs, one op at a time."""

    program: Program

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        # Copied: an evaluated output may be an input, or a view of one.
        outputs = [np.array(o) for o in evaluate(self.program, *inputs)]
        for array, fact in zip(inputs, self.program.facts, strict=True):
            if fact.overwritten is not None:
                array[...] = outputs[fact.overwritten]
                outputs[fact.overwritten] = array
        return outputs


@lru_cache(8)
def _store(root: Path) -> Store:
    return Store(root)


_said: set[str] = set()


def _say_once(why: str) -> None:
    if why not in _said:
        _said.add(why)
        warnings.warn(f"build: NumPy runs this program: {why}", VtcWarning, stacklevel=4)
