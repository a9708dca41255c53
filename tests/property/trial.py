"""One program, compiled and judged; and a failing one made small.

    failure = try_program(program, Inputs(seed=7), optimize="-O1")
    if failure:
        program = shrink(program, lambda p: bool(try_program(p, inputs)))

A program with its inputs is a ``.vtc`` file whose first lines are comments::

    # inputs: seed=7, special=0.0, B=3
    # why: out0: 3 of 12 elements, ...
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from graphs import NOMINAL, arrays_for
from guarded import Compiled, Overrun
from yardstick import yardsticks

from vtc.errors import IndexRangeError, TypeCheckError, VtcError
from vtc.ir.graph import Fact, Graph, GraphBuilder, Node, Program
from vtc.ir.target import Target
from vtc.ir.text import parse, show
from vtc.ir.types import TensorType, TupleType
from vtc.ir.verify import verify
from vtc.passes.dce import dce
from vtc.passes.decompose import decompose
from vtc.passes.pipeline import Context

KEEPS_NONE = Context(Target(name="none", kind="cpu"))
HEADER = re.compile(r"# inputs: (.*)\n")


@dataclass(frozen=True)
class Inputs:
    """What the arrays of a program are made from."""

    seed: int
    special: float = 0.0
    sizes: dict[str, int] = field(default_factory=lambda: dict(NOMINAL))

    def arrays(self, program: Program) -> list[np.ndarray]:
        return arrays_for(program, self.sizes, self.seed, self.special)

    def __str__(self) -> str:
        sizes = "".join(f", {k}={v}" for k, v in self.sizes.items())
        return f"seed={self.seed}, special={self.special}{sizes}"


def try_program(program: Program, inputs: Inputs, optimize: str = "-O1") -> str:
    """Why ``program`` does not compute what it means; empty if it does."""
    arrays = inputs.arrays(program)
    try:
        compiled = Compiled.of(program, optimize)
    except Exception as error:  # whatever the compiler raises is a failure
        return f"{type(error).__name__}: {first_line(error)}"
    lowered = decompose(compiled.stages["joint"], KEEPS_NONE)
    try:
        wanted = yardsticks(program, lowered, arrays)
    except IndexRangeError:
        return ""
    try:
        alone = compiled.call(arrays, threads=0)
        together = compiled.call(arrays, threads=3)
    except (Overrun, IndexError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    for i, (a, b) in enumerate(zip(alone, together, strict=True)):
        if a.tobytes() != b.tobytes():
            return f"out{i}: differs between one thread and three"
    if not any(w.wrong(a) for w, a in zip(wanted, alone, strict=True)):
        return ""
    wanted = yardsticks(program, lowered, arrays, runs=60)  # perhaps a rare rounding
    whys = [w.wrong(a) for w, a in zip(wanted, alone, strict=True)]
    return next((f"out{i}: {why}" for i, why in enumerate(whys) if why), "")


def first_line(error: BaseException) -> str:
    """The line that says it: of a compiler's output the first with an error."""
    lines = str(error).splitlines() or [""]
    return next((s for s in lines if " error: " in s), lines[0])


# files


def write(path: Path, program: Program, inputs: Inputs, why: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# inputs: {inputs}\n# why: {why}\n{show(program)}", "utf-8")


def read(path: Path) -> tuple[Program, Inputs]:
    text = path.read_text("utf-8")
    found = HEADER.match(text)
    assert found is not None, f"{path.name} begins with '# inputs: seed=...'"
    numbers = dict(part.split("=") for part in found[1].split(", "))
    seed, special = int(numbers.pop("seed")), float(numbers.pop("special", 0))
    program = parse(text)
    verify(program)
    return program, Inputs(seed, special, {k: int(v) for k, v in numbers.items()})


# shrinking

Fails = Callable[[Program], bool]


def shrink(program: Program, fails: Fails, tries: int = 400) -> Program:
    """A smaller program that ``fails`` too, by greedy steps."""
    left = tries
    again = True
    while again and left > 0:
        again = False
        for smaller in candidates(program):
            left -= 1
            if left <= 0:
                break
            if size(smaller) < size(program) and fails(smaller):
                program, again = smaller, True
                break
    return program


def size(program: Program) -> tuple[int, int, int]:
    entry = program.entry
    facts = sum(f.overwritten is not None for f in program.facts)
    return len(entry.nodes), len(entry.outputs) + facts, len(entry.params)


def candidates(program: Program) -> Iterator[Program]:
    """Programs without facts, with fewer outputs, with an early output, with a node cut out."""
    if any(f.overwritten is not None for f in program.facts):
        for k in range(-1, len(program.facts)):
            yield from cleaned(without_fact(program, None if k < 0 else k))
    yield from fewer_outputs(program)
    for n in program.entry.nodes[::-1]:
        if isinstance(n.type, TupleType):
            continue
        for by in (None, *(i for i in n.inputs if i.type == n.type)):
            if (smaller := cut(program, n, by)) is not None:
                yield from cleaned(smaller)


def fewer_outputs(program: Program) -> Iterator[Program]:
    """One output, all but one, an earlier value in place of the only one."""
    entry, every = program.entry, range(len(program.entry.outputs))
    for k in every:
        yield from with_outputs(program, [k])
    for k in every if len(every) > 2 else ():
        yield from with_outputs(program, [i for i in every if i != k])
    for n in entry.nodes if len(every) == 1 else ():
        if isinstance(n.type, TensorType):
            yield from cleaned(replaced(program, entry.nodes, (n,), ()))


def without_fact(program: Program, k: int | None) -> Program:
    facts = [
        replace(f, overwritten=None) if k is None or i == k else f
        for i, f in enumerate(program.facts)
    ]
    return replace(program, facts=tuple(facts))


def with_outputs(program: Program, kept: list[int]) -> Iterator[Program]:
    """``program`` with only these outputs; facts name the others no more."""
    number = {old: new for new, old in enumerate(kept)}
    facts = [
        replace(f, overwritten=None if f.overwritten is None else number.get(f.overwritten))
        for f in program.facts
    ]
    entry = program.entry
    if len(kept) < len(entry.outputs):
        outputs = tuple(entry.outputs[k] for k in kept)
        yield from cleaned(replaced(program, entry.nodes, outputs, tuple(facts)))


def replaced(program: Program, nodes, outputs, facts) -> Program:
    entry = Graph(program.entry.name, program.entry.params, tuple(nodes), tuple(outputs))
    facts = facts or tuple(replace(f, overwritten=None) for f in program.facts)
    return Program((*program.graphs[:-1], entry), program.dims, facts)


def cut(program: Program, node: Node, by: Node | None = None) -> Program | None:
    """``program`` with ``by``, or a new param, in place of ``node``; None if types do not allow."""
    entry, b = program.entry, GraphBuilder()
    env = {p: b.param(p.name, p.type) for p in entry.params}
    params = list(env.values())
    facts = list(program.facts)
    try:
        for n in entry.nodes:
            if n is not node:
                env[n] = b.copy(n, [env[i] for i in n.inputs])
            elif by is not None:
                env[n] = env[by]
            else:
                env[n] = b.param(n.name, n.type)
                params.append(env[n])
                facts.append(Fact())
    except TypeCheckError:
        return None
    graph = b.graph(entry.name, params, [env[o] for o in entry.outputs])
    return Program((graph,), program.dims, tuple(facts))


def cleaned(program: Program) -> Iterator[Program]:
    """Without what no output needs, and params that nothing reads or binds a symbol to."""
    program = dce(program, Context())
    entry = program.entry
    read = {i for n in entry.nodes for i in n.inputs} | set(entry.outputs)
    rows = [p for p in entry.params if p.tensor.rank == 1]
    bind = [p for p in rows if not isinstance(p.tensor.shape[0], int)]
    pairs = zip(entry.params, program.facts, strict=True)
    kept = [(p, f) for p, f in pairs if p in read or p in bind or f.overwritten is not None]
    graph = Graph(entry.name, tuple(p for p, _ in kept), entry.nodes, entry.outputs)
    found = replace(program, graphs=(graph,), facts=tuple(f for _, f in kept))
    with contextlib.suppress(VtcError):
        verify(found)
        yield found
