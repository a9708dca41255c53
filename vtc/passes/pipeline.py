"""Running passes. A pass is ``(Program, Context) -> Program``; stages are named points between
passes.

Programs are verified before the first pass and after each one (``VTC_CHECK=0`` turns that off);
with ``VTC_CHECK=2`` small programs are also evaluated on random inputs before and after. Dumps,
timings and diffs are observers::

    stages: dict[str, Program] = {}
    keep = lambda step: stages.update({step.stage: step.after})
    run(program, PIPELINE, Context(cpu()), observe=keep)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from vtc.config import config
from vtc.errors import GradientError, PassError, VerifyError
from vtc.ir.graph import Node, Program
from vtc.ir.target import Target, cpu
from vtc.ir.verify import verify
from vtc.passes.check import Check


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller of the compiler may choose. ``nominal`` stands for a symbolic size in cost
    estimates; ``recompute`` is the least number of bytes worth computing cheap values again for,
    None for never."""

    nominal: int = 64
    recompute: int | None = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Context:
    """What passes may look at besides the program."""

    target: Target = field(default_factory=cpu)
    options: Options = field(default_factory=Options)


Pass = Callable[[Program, Context], Program]
StageSpec = Callable[[Node, Context], str | None]


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """A named point of the pipeline, reached by running ``passes`` on the stage before.

    ``spec`` says why a node may not be in a program of this stage.
    """

    name: str
    passes: tuple[Pass, ...] = ()
    spec: StageSpec | None = None


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: a pass ran. A stage without passes is one step with an empty
    ``name``."""

    stage: str
    name: str
    before: Program
    after: Program
    seconds: float


Observer = Callable[[Step], None]


def run(
    program: Program,
    stages: Iterable[Stage],
    context: Context,
    *,
    observe: Observer = lambda step: None,
) -> Program:
    """``program`` after ``stages``.

    PassError names the pass that raised or broke the program and carries what it was given;
    GradientError is the user's and passes through.
    """
    level = config().check
    if level:
        verify(program)
    same_value = Check(program) if level == 2 else None
    for stage in stages:
        if not stage.passes:
            observe(Step(stage.name, "", program, program, 0.0))
        for run_pass in stage.passes:
            step = _step(stage.name, run_pass, program, context)
            if level:
                _verify(step, stage.spec if run_pass is stage.passes[-1] else None, context)
            if same_value is not None:
                same_value(step.name, program, step.after)
            observe(step)
            program = step.after
    return program


@final
class Stages(Mapping[str, Program]):
    """A program at each of ``stages``, by name. The passes run when the first one is asked for."""

    def __init__(
        self,
        program: Program,
        stages: Sequence[Stage],
        context: Context,
        observe: Observer = lambda step: None,
    ) -> None:
        self._program, self._stages, self._context = program, tuple(stages), context
        self._observe = observe
        self._known: dict[str, Program] = {}

    def __getitem__(self, name: str) -> Program:
        if not self._known:
            known: dict[str, Program] = {}

            def note(step: Step) -> None:
                known[step.stage] = step.after
                self._observe(step)

            run(self._program, self._stages, self._context, observe=note)
            self._known = known
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(s.name for s in self._stages)

    def __len__(self) -> int:
        return len(self._stages)


def pass_name(run_pass: Pass) -> str:
    """The name of a pass: its function's."""
    return getattr(run_pass, "__name__", type(run_pass).__name__)


def _step(stage: str, run_pass: Pass, program: Program, context: Context) -> Step:
    name = pass_name(run_pass)
    start = time.perf_counter()
    try:
        after = run_pass(program, context)
    except GradientError as error:
        error.add_note(f"in pass {name!r} of stage {stage!r}")
        raise
    except Exception as error:
        raise _failure(name, stage, "to finish", error, program) from error
    return Step(stage, name, program, after, time.perf_counter() - start)


def _verify(step: Step, spec: StageSpec | None, context: Context) -> None:
    """The program a pass made is sound and, if ``spec`` is given, what the stage promises."""
    if step.after is step.before and spec is None:
        return
    try:
        verify(step.after, None if spec is None else lambda node: spec(node, context))
    except VerifyError as error:
        want = "to make a sound program"
        raise _failure(step.name, step.stage, want, error, step.before) from error


def _failure(name: str, stage: str, want: str, error: Exception, program: Program) -> PassError:
    got = f"got {type(error).__name__}: {error}"
    return PassError(f"{name}: expected pass {name!r} of stage {stage!r} {want}, {got}", program)
