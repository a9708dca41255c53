"""Which candidate computes each region fastest: compiled side by side, measured on the device.

    tools = Tools("fast", compile, Bench(gpu(0)), Table(folder, name))
    chosen = tune(planned, target, tools)
    plan = generate(planned, target, chosen.kernels)

First every candidate of every open region is compiled. Then each runs on buffers of the region's
sizes (typical ones for symbols), with the L2 cache flushed before; it is refused if its results
are not those of the first. One that is much slower than the best is given up after one run. What
was decided is in the table at once, so another process, or the next try, goes on from there.
Without a device, and with ``off``, the first candidate that compiles is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as fields_of
from functools import cache
from pathlib import Path
from typing import Any, final

from vtc.codegen.alone import kernels_in, plan_alone, typical_sizes
from vtc.codegen.c import Store
from vtc.codegen.cuda import kernels_of
from vtc.codegen.decisions import Decision, Table
from vtc.codegen.region import Region
from vtc.codegen.steps import Made
from vtc.codegen.trials import SLOW, Bench, Room, Trial, difference, fastest, time_of
from vtc.codegen.triton.compile import TRITON, try_kernels
from vtc.codegen.triton.families import Choice, candidates_of, is_heavy
from vtc.config import Tune
from vtc.errors import CodegenError, CompilerError, OutOfMemoryError, VtcError
from vtc.ir.graph import Program
from vtc.ir.op import Op, Pointwise
from vtc.ir.ops.control import Call, Item, StopGradient
from vtc.ir.plan import Binary, Kernel, Plan
from vtc.ir.target import Target
from vtc.ir.types import Array

MOST = 3
"""Candidates of one region that ``fast`` measures: each takes its time to compile."""
BUDGET: Mapping[Tune, float] = {"off": 0.0, "fast": 3.0, "full": 60.0}
"""Seconds on the device after which no more regions of a program are measured."""


@final
@dataclass(frozen=True, slots=True)
class Tools:
    """``compile`` gives the machine code of each kernel, or the error."""

    mode: Tune
    compile: Callable[[Sequence[Kernel]], Sequence[Binary | CompilerError]]
    bench: Bench | None = None
    table: Table | None = None


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """``kernels`` by name of region; ``decisions`` by key of the table. ``settled``: another try
    would change nothing. ``said``: what a user should know.
    """

    kernels: Mapping[str, Sequence[Made]]
    decisions: Mapping[str, Decision]
    settled: bool
    said: tuple[str, ...]


def tune(program: Program, target: Target, tools: Tools) -> Chosen:
    """The candidates for the regions of a ``planned`` program. A deterministic target measures
    nothing, for results of candidates are rounded differently.
    """
    if target.deterministic:
        tools = replace(tools, mode="off")
    subjects = _subjects(program, target)
    tuner = _Tuner(program, target, tools)
    for subject in subjects:
        tuner.open(subject)
    tuner.compile([s for s in subjects if s.decision is None])
    tuner.measure([s for s in subjects if s.decision is None])
    kernels = {name: s.made(target) for s in subjects for name in s.names}
    decisions = {s.key: s.decision for s in subjects if s.decision is not None}
    said = tuple(s.said for s in subjects if s.said)
    return Chosen(kernels, decisions, all(s.settled for s in subjects), said)


def attempts(
    kernels: Sequence[Kernel], target: Target, store: Store
) -> Sequence[Binary | CompilerError]:
    """The machine code of each kernel, or why there is none: ``Tools.compile``."""
    try:
        return try_kernels(kernels, target, store)
    except CompilerError:
        return [_attempt(kernel, target, store) for kernel in kernels]


def _attempt(kernel: Kernel, target: Target, store: Store) -> Binary | CompilerError:
    try:
        return try_kernels([kernel], target, store)[0]
    except CompilerError as error:
        return error


def label(choice: Choice) -> str:
    """A candidate in words: what the table calls it."""
    return ", ".join(f"{name}={_words(value)}" for name, value in choice.items()) or "default"


def _words(value: Any) -> str:
    if is_dataclass(value):
        return f"({' '.join(f'{f.name}={getattr(value, f.name)}' for f in fields_of(value))})"
    if isinstance(value, tuple):
        return "+".join(map(_words, value))
    return str(value)


@final
@dataclass(frozen=True, slots=True)
class _Candidate:
    """One way to compute a region."""

    label: str
    choice: Choice
    made: tuple[Made, ...]


@final
@dataclass(slots=True)
class _Subject:
    """Regions of one form. ``good`` are the candidates that compiled."""

    region: Region
    key: str
    choices: tuple[Choice, ...]
    names: list[str]
    good: list[_Candidate] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    tried: int = 0
    decision: Decision | None = None
    settled: bool = True
    said: str = ""

    @property
    def about(self) -> str:
        """The region in words."""
        graph = self.region.graph
        names = dict.fromkeys(n.op.name for n in graph.nodes if n.op and not _plain(n.op))
        what = ", ".join(names) or "pointwise"
        takes, gives = (", ".join(str(n.type) for n in ns) for ns in (graph.params, graph.outputs))
        return f"{what}({takes}) -> {gives}"

    def made(self, target: Target) -> Sequence[Made]:
        """The kernels of the chosen candidate; of the first, if there was nothing to decide."""
        chosen = "" if self.decision is None else self.decision.chosen
        for candidate in self.good:
            if candidate.label == chosen or not chosen:
                return candidate.made
        found = [c for c in self.choices if label(c) == chosen] or self.choices
        return kernels_of(self.region, target, found[0])


def _plain(op: Op) -> bool:
    return isinstance(op, Pointwise | StopGradient | Item)


def _subjects(program: Program, target: Target) -> list[_Subject]:
    found: dict[str, _Subject] = {}
    nodes = (n for g in program.graphs for n in g.nodes)
    called = dict.fromkeys(n.op.graph for n in nodes if isinstance(n.op, Call))
    for name in called:
        region = Region.of(program.by_name[name], program.ranges)
        key = _key(region, program, target)
        if key in found:
            found[key].names.append(name)
        else:
            found[key] = _Subject(region, key, candidates_of(region, target), [name])
    return list(found.values())


@final
@dataclass(frozen=True, slots=True)
class _Tuner:
    """Takes subjects from open to decided."""

    program: Program
    target: Target
    tools: Tools
    binaries: dict[str, Binary] = field(default_factory=dict)

    def open(self, subject: _Subject) -> None:
        """Take what the table knows; else the candidates to try."""
        table, mode = self.tools.table, self.tools.mode
        known = table.find(subject.key) if table is not None and mode != "off" else None
        if known is not None:
            enough = mode == "fast" or known.mode == "full"
            if enough and known.chosen in map(label, subject.choices):
                subject.decision = known
                return
            subject.refused = dict(known.refused)
        self._generate(subject, self._worthwhile(subject))

    def compile(self, subjects: Sequence[_Subject]) -> None:
        """Sort out what does not compile; where that is everything, try all others."""
        self._compile(subjects)
        lost = [s for s in subjects if not s.good]
        for subject in lost:
            self._generate(subject, subject.choices[1:])
        self._compile(lost)
        for subject in lost:
            subject.good = subject.good[:1]
            if subject.good:
                why = next(iter(subject.refused.values()))
                subject.said = f"{subject.about}: {why}; {subject.good[0].label} is taken"

    def measure(self, subjects: Sequence[_Subject]) -> None:
        """Decide: by measuring where there are several, and there is time."""
        for s in subjects:
            if s.tried == 1 and not s.refused:
                continue
            if len(s.good) < 2:
                chosen = s.good[0].label if s.good else label(s.choices[0])
                self._decide(s, self._decision(s, chosen))
        several = [s for s in subjects if len(s.good) > 1]
        if self.tools.bench is None or not several:
            return
        with self.tools.bench as bench:
            begin, budget = bench.seconds(), BUDGET[self.tools.mode]
            for s in several:
                if bench.seconds() - begin < budget:
                    self._measure(bench, s)
                    continue
                note = f"not measured: {budget:g} seconds were spent on others"
                s.decision = self._decision(s, s.good[0].label, note=note)
                s.settled = False

    def _worthwhile(self, subject: _Subject) -> Sequence[Choice]:
        mode, choices = self.tools.mode, subject.choices
        if self.tools.bench is None or mode == "off":
            return choices[:1]
        if mode == "fast":
            return choices[: MOST if is_heavy(subject.region) else 1]
        return choices

    def _generate(self, subject: _Subject, choices: Sequence[Choice]) -> None:
        """Candidates of ``choices`` that are not the same kernels as others."""
        known = {_same(c.made) for c in subject.good}
        for k, choice in enumerate(choices):
            name = label(choice)
            if name in subject.refused:
                continue
            try:
                made = kernels_of(subject.region, self.target, choice)
            except CodegenError as error:
                if k == 0 and not subject.refused:
                    raise
                subject.refused[name] = _brief(error)
                continue
            if _same(made) not in known:
                known.add(_same(made))
                subject.good.append(_Candidate(name, choice, made))
        subject.tried = len(subject.good)

    def _compile(self, subjects: Sequence[_Subject]) -> None:
        kernels = {
            kernel.symbol: kernel
            for s in subjects
            for c in s.good
            for kernel in kernels_in(s.region, c.made)
        }
        outcomes = self.tools.compile(list(kernels.values())) if kernels else ()
        failed: dict[str, CompilerError] = {}
        for symbol, outcome in zip(kernels, outcomes, strict=True):
            if isinstance(outcome, Binary):
                self.binaries[symbol] = outcome
            else:
                failed[symbol] = outcome
        for s in subjects:
            for c in s.good:
                errors = [failed[m.symbol] for m in c.made if m.symbol in failed]
                if errors:
                    s.refused[c.label] = _brief(errors[0])
            s.good = [c for c in s.good if c.label not in s.refused]

    def _measure(self, bench: Bench, subject: _Subject) -> None:
        values = typical_sizes(subject.region, self.program.dims)
        plans = [plan_alone(subject.region, c.made, values, self.target) for c in subject.good]
        try:
            with bench.room(plans[0]) as room:
                times = self._times(bench, room, subject, plans)
        except OutOfMemoryError as error:
            note = f"not measured: {_brief(error)}"
            subject.decision = self._decision(subject, subject.good[0].label, note=note)
            return
        chosen = fastest(times) or subject.good[0].label
        self._decide(subject, self._decision(subject, chosen, times))

    def _times(
        self, bench: Bench, room: Room, subject: _Subject, plans: Sequence[Plan]
    ) -> dict[str, float]:
        """Milliseconds of the candidates whose results are those of the first."""
        times: dict[str, float] = {}
        want: Sequence[Array] | None = None
        first: tuple[str, Trial] | None = None
        for candidate, plan in zip(subject.good, plans, strict=True):
            try:
                trial = room.trial(plan, self.binaries)
                got = trial.results()
                want = got if want is None else want
                if why := difference(got, want, plan.outputs):
                    subject.refused[candidate.label] = why
                    continue
                times[candidate.label] = time_of(trial, min(times.values(), default=None))
                first = first or (candidate.label, trial)
            except OutOfMemoryError:
                raise
            except VtcError as error:
                subject.refused[candidate.label] = _brief(error)
                self._check(bench, subject)
        if first is not None and times[first[0]] > SLOW * min(times.values()):
            # The device, or the host, may not have been awake yet.
            times[first[0]] = min(times[first[0]], time_of(first[1], None))
        return times

    def _check(self, bench: Bench, subject: _Subject) -> None:
        """After a failure: where the device is lost, the next process at least knows by whom."""
        try:
            bench.check()
        except VtcError:
            self._decide(subject, self._decision(subject, ""))
            raise

    def _decide(self, subject: _Subject, decision: Decision) -> None:
        subject.decision = decision
        measures = self.tools.bench is not None and self.tools.mode != "off"
        if measures and self.tools.table is not None:
            self.tools.table.put(subject.key, decision)

    def _decision(
        self,
        subject: _Subject,
        chosen: str,
        times: Mapping[str, float] | None = None,
        note: str = "",
    ) -> Decision:
        micros = {name: round(float(1e3 * ms), 2) for name, ms in (times or {}).items()}
        mode = self.tools.mode
        return Decision(subject.about, mode, chosen, micros, dict(subject.refused), note)


def _same(made: Sequence[Made]) -> tuple[object, ...]:
    return tuple((m.symbol, m.args, m.grid) for m in made)


def _brief(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _key(region: Region, program: Program, target: Target) -> str:
    """What a decision depends on."""
    sizes = typical_sizes(region, program.dims)
    facts = (
        target.name, target.processors, target.shared, target.l2, target.vector,
        target.deterministic,
    )  # fmt: skip
    parts = (region.graph.form, dict(region.ranges), sizes, facts, TRITON, _sources())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def _sources() -> str:
    """The code that makes candidates."""
    here = Path(__file__).parent
    files = [*(here / "triton").glob("*.py"), *(here / "templates").glob("*.py.jinja")]
    state = hashlib.sha256()
    for path in sorted(files):
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()
