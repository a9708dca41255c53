"""From a program to something that runs: pipeline, plan, kernels, executable.

    built = compile_program(program, Context())
    y, = built.run([x])
    print(built.describe())              # 13 kernels in 13 steps, 41 ms: fused 2, compile 36, ...
    built.stages["fused"]                # the program at each stage

Where kernels cannot be made (no C compiler, a dtype C does not have) NumPy evaluates the program
instead, and a warning says so once. Equal programs are built once per process.
"""

from __future__ import annotations

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
from vtc.errors import ArgumentError, CodegenError, VtcWarning
from vtc.ir.evaluate import evaluate
from vtc.ir.graph import Loc, Program
from vtc.ir.plan import Plan
from vtc.ir.text import show
from vtc.ir.types import Array
from vtc.passes import PIPELINE
from vtc.passes.pipeline import Context, Step, run
from vtc.runtime.cache import Store
from vtc.runtime.cpu import load
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
    seconds: Mapping[str, float]
    executable: Runnable
    plan: Plan | None
    fallback: str = ""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs; inputs that the program overwrites change in place."""
        return self.executable.run(inputs)

    @property
    def kernels(self) -> int:
        """Distinct kernels."""
        return len(self.plan.kernels) if self.plan else 0

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
    stages: dict[str, Program] = {}
    clock = _Clock()

    def observe(step: Step) -> None:
        stages[step.stage] = step.after
        clock.add(step.stage, step.seconds)

    planned = run(program, PIPELINE, context, observe=observe)
    try:
        if compiler is None:
            raise CodegenError("expected a C compiler, found none: set CC or install vtc[cc]")
        plan = clock("generate", lambda: generate(planned, context.target))
    except CodegenError as error:
        _say_once(str(error))
        evaluated = _Evaluated(stages["joint"])
        return Built(program, stages, clock.seconds, evaluated, None, str(error))
    library = clock("compile", lambda: compile_plan(plan, compiler, _store(cache)))
    entry = clock("load", lambda: load(library))
    threads = clock("load", lambda: pool(lambda: compile_pool(compiler, _store(cache))))
    return Built(program, stages, clock.seconds, Executable(plan, entry, threads), plan)


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
