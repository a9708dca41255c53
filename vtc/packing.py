"""Programs as the members of a package: plans, libraries and cubins for machines that need not be
here.

    pack = Packing(goals(["cpu", "cuda:90"]))
    plans = pack.plans(program)                     # CodegenError where there are no kernels
    code = pack.add("decode", "0", plans)           # what a manifest says of them
    pack.add_shared()
    pack.members["cubin/sm_90/matmul_3f2a.cubin"]

Equal programs give equal bytes: nothing of this process, of its folders or of the time goes in.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, final

from vtc.build import context_for, stage_program
from vtc.codegen import c, cuda
from vtc.codegen.c import compile_patch, compile_plan, compile_pool, find_compiler_for
from vtc.codegen.compiler import Crew
from vtc.codegen.decisions import FORMAT, Decision, Table, to_fields
from vtc.codegen.triton.compile import TRITON, compile_kernels
from vtc.codegen.tune import Tools, attempts, tune
from vtc.config import config
from vtc.errors import ArgumentError, CompilerError, PackageError, at_line
from vtc.ir import target
from vtc.ir.graph import Node, Program
from vtc.ir.plan import NESTED, Binary, Kernel, Plan, nesting
from vtc.ir.saved import to_json
from vtc.passes.cut_at_calls import calls_of
from vtc.passes.pipeline import Context, Options
from vtc.runtime.cache import Store, digest
from vtc.runtime.cuda.device import gpu
from vtc.runtime.device import Device
from vtc.runtime.manifest import canonical
from vtc.runtime.signature import CpuPlan, Cubin, CudaPlan
from vtc.tuning import Tuning, tuning_table
from vtc.version import __version__

LEVELS = ("x86-64-v3", "x86-64-v4", "aarch64")
"""The CPUs there is code for; ``cpu`` stands for the first two."""
HOST = "x86-64"
"""Where the function that patches graphs runs."""
GPUS = {80: (108, 166_912), 90: (132, 232_448), 100: (148, 232_448)}
"""Of GPUs that need not be here: A100, H100, B200; multiprocessors and shared memory of a block."""


@final
@dataclass(frozen=True, slots=True)
class Goal:
    """What a package has code for: ``machine`` is a CPU's level; ``gpu`` the number of a GPU here,
    which kernels are tuned on.
    """

    name: str
    target: target.Target
    machine: str = ""
    gpu: int | None = None


def goals(names: str | Sequence[str], *, deterministic: bool = False) -> tuple[Goal, ...]:
    """The targets called ``cpu``, ``cpu-x86-64-v3``, ``cuda``, ``cuda:90`` and the like, each once.

    ArgumentError if there is none of that name.
    """
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f'export: expected targets=["cpu", "cuda:90"], got {names!r}')
    found = {goal.name: goal for name in names for goal in _goals(name, deterministic)}
    if not found:
        raise ArgumentError("export: expected a target, got none")
    return tuple(found.values())


def _goals(name: str, deterministic: bool) -> list[Goal]:
    if name == "cpu":
        return [_cpu(level) for level in LEVELS if level != "aarch64"]
    if name.removeprefix("cpu-") in LEVELS and name.startswith("cpu-"):
        return [_cpu(name.removeprefix("cpu-"))]
    if name == "cuda":
        here = context_for(Device("cuda"), deterministic=deterministic).target
        return [Goal(here.name, here, gpu=0)]
    arch = re.fullmatch(r"(?:cuda:|sm_)(\d+)", name)
    if arch is not None and int(arch[1]) in GPUS:
        processors, shared = GPUS[int(arch[1])]
        sizes = {"processors": processors, "shared": shared}
        there = target.cuda(int(arch[1]), **sizes, deterministic=deterministic)
        return [Goal(there.name, there)]
    known = ["cpu", *(f"cpu-{v}" for v in LEVELS), "cuda", *(f"cuda:{v}" for v in GPUS)]
    raise ArgumentError(f"export: expected a target of {', '.join(known)}, got {name!r}")


def _cpu(level: str) -> Goal:
    # One plan for every level: what differs between them, the C compiler decides.
    return Goal(f"cpu-{level}", target.cpu(), machine=level)


@final
@dataclass
class Packing:
    """See the module. ``tuned`` is the file of a tuning table, for GPUs that are not here;
    ``options`` are the compiler's, ``members`` the files so far.
    """

    goals: Sequence[Goal]
    tuned: Path | None = None
    options: Options = field(default_factory=Options)
    members: dict[str, bytes] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._store = Store(config().cache_dir)
        self._table = None if self.tuned is None else _table(self.tuned, self._store)

    def plans(self, program: Program) -> dict[str, Plan]:
        """A plan for every goal.

        CodegenError where one has no kernels for ``program``, PackageError where libraries compute
        part of it, or loops and branches are too many in each other.
        """
        if calls := calls_of(program):
            raise _without_kernels(program, calls)
        made: dict[target.Target, Plan] = {}
        for goal in self.goals:
            if goal.target in made:
                continue
            plan = made[goal.target] = self._plan(program, goal)
            if (deep := nesting(plan.steps)) > NESTED:
                want = f"expected at most {NESTED} loops and branches in each other"
                raise PackageError(f"{program.entry.name}: {want}, got {deep}")
        return {goal.name: made[goal.target] for goal in self.goals}

    def add(
        self, entry: str, variant: str, plans: Mapping[str, Plan]
    ) -> dict[str, CpuPlan | CudaPlan]:
        """Compile ``plans`` and add them to the members; what the manifest says of each."""
        return {g.name: self._add(f"{entry}.{variant}", g, plans[g.name]) for g in self.goals}

    def add_shared(self) -> None:
        """Add what all plans need: the pool of threads, and what patches graphs."""
        for goal in self.goals:
            if goal.machine:
                compiler = find_compiler_for(goal.machine)
                pool = compile_pool(compiler, self._store)
                self.members[f"lib/{goal.name}/pool.so"] = pool.read_bytes()
        if any(not goal.machine for goal in self.goals):
            patch = _patch(self._store)
            self.members |= {} if patch is None else {f"lib/host-{HOST}/patch.so": patch}

    def provenance(self) -> dict[str, Any]:
        """What made the members, without anything that differs between two runs on one machine."""
        made: dict[str, Any] = {
            "vtc": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "options": repr(self.options),
            "sources": _sources(),
            "tuning": {key: d.chosen for key, d in sorted(self.decisions.items())},
        }
        machines = [goal.machine for goal in self.goals if goal.machine]
        made["compilers"] = {m: _version(m) for m in machines}
        if len(machines) < len(self.goals):
            made["triton"] = TRITON
        return made

    def tuning(self) -> str | None:
        """The part of the tuning table that was used; None if there was none."""
        if self._table is None:
            return None
        found = {key: to_fields(d) for key, d in self.decisions.items()}
        return canonical({"format": FORMAT, "gpu": self._table.gpu, "decisions": found})

    def _plan(self, program: Program, goal: Goal) -> Plan:
        planned = stage_program(program, "planned", Context(goal.target, self.options))
        if goal.machine:
            return c.generate(planned, goal.target)
        if goal.gpu is not None:
            there = Tuning(gpu(goal.gpu), config().tune, goal.target, self._store)
            chosen = there.tune(planned)
        else:
            chosen = tune(planned, goal.target, self._tools(goal))
        self.decisions |= chosen.decisions
        return cuda.generate(planned, goal.target, chosen.kernels)

    def _tools(self, goal: Goal) -> Tools:
        """Nothing is measured; what the table knows is taken."""

        def compiled(kernels: Sequence[Kernel]) -> Sequence[Binary | CompilerError]:
            return attempts(kernels, goal.target, self._store)

        return Tools("off" if self._table is None else "fast", compiled, None, self._table)

    def _add(self, stem: str, goal: Goal, plan: Plan) -> CpuPlan | CudaPlan:
        path = f"plans/{stem}.{goal.name}.json"
        if goal.machine:
            library = f"lib/{goal.name}/{stem}.so"
            made = compile_plan(plan, find_compiler_for(goal.machine), self._store)
            self.members[library] = made.read_bytes()
            self.members[path] = _without_sources(plan)
            return CpuPlan(path, library)
        kernels: dict[str, Cubin] = {}
        binaries = compile_kernels(plan.kernels, goal.target, self._store)
        for symbol, b in sorted(binaries.items()):
            file = f"cubin/{goal.name}/{symbol}.cubin"
            self.members[file] = b.cubin
            kernels[symbol] = Cubin(file, b.warps, b.shared, b.scratch, b.alignment)
        self.members[path] = _without_sources(plan)
        return CudaPlan(path, kernels)


def _without_kernels(program: Program, calls: Sequence[Node]) -> PackageError:
    """An error with the line of the first of ``calls``."""
    names = ", ".join(sorted({n.op.name for n in calls if n.op is not None}))
    want = f"expected ops with kernels, got {names}, which a library computes"
    message, at = f"{program.entry.name}: {want}; a package holds none", calls[0].loc
    if at is None or not at.line:
        return PackageError(message)
    return PackageError(at_line(message, at.file, at.line, at.module))


def _without_sources(plan: Plan) -> bytes:
    kernels = tuple(replace(k, source="") for k in plan.kernels)
    return to_json(replace(plan, host="", kernels=kernels)).encode()


def _patch(store: Store) -> bytes | None:
    """What patches graphs in one call; without a compiler Python does, more slowly."""
    try:
        return compile_patch(find_compiler_for(HOST), store).read_bytes()
    except CompilerError:
        return None


def _table(file: Path, store: Store) -> Table:
    """The tuning table in ``file``, with what is known here of GPUs of that name."""
    try:
        text = file.read_text("utf-8")
        name = json.loads(text)["gpu"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ArgumentError(f"export: {file}: expected a tuning table, got {error}") from None
    table = tuning_table(store, str(name))
    table.merge(text)
    return table


@cache
def _version(machine: str) -> str:
    """The compiler for ``machine``, as it calls itself."""
    with Crew(1) as crew:
        macros = find_compiler_for(machine).macros(crew)
    return next((m[1] for m in re.finditer(r'__VERSION__ "(.*)"', macros)), "unknown")


@cache
def _sources() -> str:
    """A digest of the code that makes plans."""
    root = Path(__file__).parent
    files = sorted(p for part in ("ir", "passes", "codegen") for p in (root / part).rglob("*.*"))
    return digest(*(p.read_text("utf-8") for p in files if p.suffix in (".py", ".jinja")))
