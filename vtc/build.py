"""From a program to something that runs: pipeline, plan, kernels, executable.

    built = compile_program(program, Context())
    y, = built.run([x])
    there = compile_program(program, context_for(gpu), gpu)      # runs on arrays of that device
    print(built.describe())              # 13 kernels in 13 steps, 41 ms: fused 2, compile 36, ...
    built.stages["fused"]                # the program at each stage

Where kernels cannot be made (no C compiler, a dtype C does not have) NumPy evaluates the program
instead, and a warning says so once; a program of a GPU then runs on the CPU, between copies there
and back. Equal programs are built once per process; plans and libraries
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
from textwrap import indent
from typing import Protocol, TypeVar, cast, final

import numpy as np

from vtc.codegen import c, cuda, strided
from vtc.codegen.c import Compiler, compile_patch, compile_plan, compile_pool, find_compiler
from vtc.codegen.decisions import Decision
from vtc.codegen.triton.compile import compile_kernels, prepare
from vtc.config import Tune, config
from vtc.errors import (
    ArgumentError,
    CodegenError,
    ConfigError,
    OutOfMemoryError,
    ParseError,
    RunError,
    VtcWarning,
)
from vtc.ir import target
from vtc.ir.evaluate import bind, evaluate
from vtc.ir.graph import Loc, Program
from vtc.ir.plan import Binary, Plan
from vtc.ir.saved import from_json, to_json
from vtc.ir.text import show
from vtc.ir.types import Array
from vtc.passes import PIPELINE
from vtc.passes.cost import value
from vtc.passes.cut_at_calls import Stretches, calls_of
from vtc.passes.explain import explain
from vtc.passes.memory import largest
from vtc.passes.pipeline import Context, Options, Stages, run
from vtc.runtime.cache import Store, digest
from vtc.runtime.cpu import Entry, load
from vtc.runtime.cuda import copies
from vtc.runtime.cuda.array import DeviceArray
from vtc.runtime.cuda.device import Gpu, gpu
from vtc.runtime.cuda.executable import CudaExecutable
from vtc.runtime.cuda.strided import Strided
from vtc.runtime.device import Device
from vtc.runtime.executable import Executable
from vtc.runtime.threads import pool
from vtc.tuning import Tuning

T = TypeVar("T")
Places = tuple[Loc | None, ...]
CPU = Device("cpu")
KEPT = 256
"""Programs that are kept built."""
JOINT = 1 + [stage.name for stage in PIPELINE].index("joint")
"""Stages that a program passes which is then cut at the calls of libraries."""
NODES = 16
"""Values of a program for which one more process that compiles kernels is begun at once."""


class Runnable(Protocol):
    """Something that computes the outputs of a program, and overwrites what the program does."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs."""


@final
@dataclass(frozen=True, slots=True)
class Built:
    """A program that runs on ``device``. Where it has no kernels there is no plan, and ``fallback``
    says why.
    """

    program: Program
    stages: Mapping[str, Program]
    context: Context
    seconds: Mapping[str, float]
    executable: Runnable
    plan: Plan | None
    fallback: str = ""
    device: Device = CPU
    decisions: tuple[Decision, ...] = ()

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
        kind = RunError
        if isinstance(error, OutOfMemoryError):  # it has the device's numbers
            first, kind = f"{self.program.entry.name}: {error}", OutOfMemoryError
        if self.plan is None:
            return kind(first)
        arena = value(self.plan.arena, sizes)
        held = [f"    {v}" for v in largest(self.stages["planned"], sizes)]
        what = f"  its arena takes {arena:,} bytes" + (", most of them for" if held else "")
        return kind("\n".join([first, what, *held]))

    @property
    def kernels(self) -> int:
        """Distinct kernels."""
        return len(self.plan.kernels) if self.plan else 0

    def explain(self) -> str:
        """What moves through memory, kernel by kernel, why things did or did not fuse, and which
        candidates compute it.
        """
        if "planned" not in self.stages:
            return f"{self.program.entry.name}: {self.fallback}; no kernels of its own"
        lines = [explain(self.stages, PIPELINE, self.context)]
        if self.decisions:
            lines.append("kernels chosen among candidates")
            lines += [indent(str(d), "  ") for d in self.decisions]
        return "\n".join(lines)

    def describe(self) -> str:
        """What it became and where the time to build it went, on one line."""
        host = "NumPy" if self.device is CPU else f"the cpu, copying to {self.device} and back"
        what = f"{host} ({self.fallback})"
        if self.plan:
            where = "" if self.device is CPU else f" on {self.device}"
            what = f"{self.kernels} kernels in {len(self.plan.steps)} steps{where}"
        parts = ", ".join(f"{name} {1e3 * s:.0f}" for name, s in self.seconds.items())
        return f"{what}, {1e3 * sum(self.seconds.values()):.0f} ms: {parts}"


def compile_program(
    program: Program, context: Context, device: Device = CPU, *, graphs: bool = True
) -> Built:
    """``program``, built for ``context`` and ``device``, which it fits (:func:`context_for`).

    An equal one that was built before is taken again. On a GPU it is launched as one CUDA graph, or
    kernel by kernel: without ``graphs`` new sizes cost nothing, nor is it worth much tuning.
    """
    there = None if device.type == "cpu" else gpu(device.index or 0)
    places, compiler, cache = _places(program), find_compiler(), config().cache_dir
    mode = config().tune if there is not None else "off"
    if mode == "fast" and not graphs:
        mode = "off"
    built = _built(program, places, context, there, compiler, cache, graphs, mode)
    if (folder := config().dump) is not None:
        dump(built, folder)
    return built


def context_for(
    device: Device, options: Options | None = None, *, deterministic: bool = False
) -> Context:
    """What programs of ``device`` are compiled for. DeviceError if it is not there.

    A CPU computes the same each time it runs, whether it must be ``deterministic`` or not.
    """
    chosen = Options() if options is None else options
    if device.type == "cpu":
        return Context(options=chosen)
    facts = gpu(device.index or 0).facts
    major, minor = facts.capability
    found = target.cuda(
        10 * major + minor,
        processors=facts.multiprocessors,
        shared=facts.shared,
        l2=facts.l2,
        deterministic=deterministic,
    )
    return Context(found, chosen)


def strided_copy(device: int) -> Strided:
    """What copies between arrays of ``device`` with any strides; CodegenError where no kernel can
    be made, when it is called.
    """
    return _strided(gpu(device), config().cache_dir)


@lru_cache(KEPT)
def _strided(there: Gpu, cache: Path) -> Strided:
    goal = context_for(Device("cuda", there.index)).target

    def kernel(axes: int, width: int) -> Binary:
        made = strided.strided(axes, width)
        return compile_kernels([made], goal, _store(cache))[made.symbol]

    return Strided(there, kernel, strided.BLOCK)


def dump(built: Built, folder: Path) -> Path:
    """Write every stage, every kernel, the host unit and the plan; the new directory below
    ``folder``.

    ``VTC_DUMP=folder`` does this for all that is built.
    """
    name = built.program.entry.name
    here = next(p for k in count() if not (p := folder / f"{name}-{k}").exists())
    try:
        here.mkdir(parents=True)
    except OSError as error:
        message = f"dump: expected a folder to write to (VTC_DUMP), got {error}"
        raise ConfigError(message) from error
    for k, (stage, program) in enumerate(built.stages.items()):
        (here / f"{k}-{stage}.vtc").write_text(show(program, loc=True))
    if built.plan is not None:
        (here / "plan.txt").write_text(f"{built.plan}\n")
        if built.plan.host:
            (here / "host.c").write_text(built.plan.host)
        for kernel in built.plan.kernels:
            suffix = "c" if kernel.build is None else "py"
            (here / f"{kernel.name}.{suffix}").write_text(kernel.source)
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
    program: Program,
    places: Places,
    context: Context,
    there: Gpu | None,
    compiler: Compiler | None,
    cache: Path,
    graphs: bool,
    mode: Tune,
) -> Built:
    # Part of the key: errors of a build name the lines of its own program.
    del places
    clock = _Clock()
    calls = bool(calls_of(program))
    line = PIPELINE[:JOINT] if calls else PIPELINE
    stages = Stages(program, line, context, lambda step: clock.add(step.stage, step.seconds))
    device = CPU if there is None else Device("cuda", there.index)
    decisions: tuple[Decision, ...] = ()

    def built(executable: Runnable, plan: Plan | None = None, fallback: str = "") -> Built:
        seconds = clock.seconds
        return Built(
            program, stages, context, seconds, executable, plan, fallback, device, decisions
        )

    if calls:
        why = "a library computes part of it"
        if there is not None:
            say_once(why, "the cpu", f"part of {program.entry.name}")
        return built(_stretches(stages["joint"], context, device, graphs=graphs), None, why)
    try:
        if there is None and compiler is None:
            raise CodegenError("expected a C compiler, found none: set CC or install vtc[cc]")
        store = _store(cache)
        tuning = None if there is None else Tuning(there, mode, context.target, store)
        plan, decisions = _plan(program, stages, context, store, clock, tuning)
        if there is not None:
            binaries = clock(
                "compile", lambda: compile_kernels(plan.kernels, context.target, store)
            )
            patcher = _patcher(compiler, store, clock)
            return built(CudaExecutable(plan, binaries, there.index, patcher, graphs=graphs), plan)
    except CodegenError as error:
        say_once(str(error), "NumPy" if there is None else "the cpu")
        if there is None:
            return built(_Evaluated(stages["joint"]), None, str(error))
        return built(_Hosted(program, Context(options=context.options), there), None, str(error))
    assert compiler is not None
    entry = _entry(plan, compiler, store, clock)
    threads = clock("load", lambda: _threads(compiler, store))
    return built(Executable(plan, entry, threads), plan)


def _stretches(program: Program, context: Context, device: Device, *, graphs: bool) -> Stretches:
    """What runs ``program`` between the calls of libraries, which take arrays of the host."""

    def compiled(part: Program) -> Callable[[Sequence[Array]], list[Array]]:
        return compile_program(part, context, device, graphs=graphs).run

    if device is CPU:
        return Stretches(program, compiled, np.asarray, _dense, np.copyto)
    index = device.index or 0
    return Stretches(
        program,
        compiled,
        lambda a: copies.to_host(a) if isinstance(a, DeviceArray) else a,
        lambda a: copies.to_device(np.asarray(a), index),
        lambda target, source: copies.write(cast("DeviceArray", target), source),
    )


def _dense(array: Array) -> Array:
    """``array`` in C's order; of no axes too, which NumPy's own function gives one."""
    return np.asarray(array, order="C")


def _patcher(compiler: Compiler | None, store: Store, clock: _Clock) -> Path | None:
    """What patches graphs; without a C compiler the driver does it, more slowly."""
    return None if compiler is None else clock("load", lambda: compile_patch(compiler, store))


def _plan(
    program: Program,
    stages: Stages,
    context: Context,
    store: Store,
    clock: _Clock,
    tuning: Tuning | None,
) -> tuple[Plan, tuple[Decision, ...]]:
    """The plan of ``program``: that of an earlier process, unless the compiler has changed; and
    what was decided for it.

    Under ``VTC_CHECK=2`` the passes run all the same, since that is what is to be checked.
    """
    key = clock("find", lambda: digest("plan", *_facts(context), show(program, loc=True)))
    if tuning is not None:
        key = tuning.key(key)
    if config().check == 2:
        stages["planned"]
    found = store.find(key)
    if found is not None:
        try:
            plan = clock("find", lambda: from_json(found.read_text("utf-8")))
            known = () if tuning is None else tuning.known(key)
            if known is not None:
                return plan, known
        except (OSError, ParseError):
            store.drop(found)
    if tuning is not None:
        prepare(1 + len(program.entry.nodes) // NODES, context.target)
    planned = stages["planned"]
    if tuning is None:
        plan = clock("generate", lambda: c.generate(planned, context.target))
        store.put(key, to_json(plan).encode(), ".json")
        return plan, ()
    chosen = clock("tune", lambda: tuning.tune(planned))
    for what in chosen.said:
        _warn_once(f"build: {what}")
    plan = clock("generate", lambda: cuda.generate(planned, context.target, chosen.kernels))
    if chosen.settled:
        tuning.remember(key, chosen)
        store.put(key, to_json(plan).encode(), ".json")
    return plan, tuple(chosen.decisions.values())


def _facts(context: Context) -> tuple[str, ...]:
    """What a plan depends on besides the program."""
    target = context.target
    keeps = " ".join(sorted(target.keeps))
    numbers = (
        target.vector, target.arch, target.processors, target.shared, target.l2,
        target.deterministic,
    )  # fmt: skip
    return _sources(), target.name, target.kind, keeps, str(numbers), str(context.options)


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


@final
class _Hosted:
    """A program of a GPU that the CPU runs, copying there and back."""

    def __init__(self, program: Program, context: Context, there: Gpu) -> None:
        self._program, self._context, self._device = program, context, there.index

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """The outputs, on the device."""
        built = compile_program(self._program, self._context)
        given = [copies.to_host(a) if isinstance(a, DeviceArray) else a for a in inputs]
        outputs: list[Array] = []
        over = {f.overwritten: p for p, f in enumerate(self._program.facts)}
        for k, out in enumerate(built.run(given)):
            if k in over:
                target = inputs[over[k]]
                assert isinstance(target, DeviceArray)
                copies.write(target, out)
                outputs.append(target)
            else:
                outputs.append(copies.to_device(out, self._device))
        return outputs


@lru_cache(8)
def _store(root: Path) -> Store:
    return Store(root)


_said: set[str] = set()


def say_once(why: str, who: str, what: str = "this program") -> None:
    """Warn that ``who`` runs ``what``, once for each reason."""
    _warn_once(f"build: {who} runs {what}: {why}", why)


def _warn_once(text: str, about: str = "") -> None:
    """Warn, once for each ``about``, or each text."""
    if (about or text) not in _said:
        _said.add(about or text)
        warnings.warn(text, VtcWarning, stacklevel=5)
