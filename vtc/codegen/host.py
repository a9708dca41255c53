"""The C host program of a plan: one function that runs the steps in order.

    int64_t vtc_run(void *const *inputs, void *const *outputs, void *arena, const int64_t *dims,
                    vtc_pool *pool);

Every kernel is ``int kernel(void *const *pointers, const int64_t *sizes, int64_t part, int64_t
parts)``: 0, or 1 if an index is out of its range. One with enough work runs in parts on the threads
of ``pool``; without a pool everything runs in the thread of the caller. There is no static state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from vtc.codegen.render import render
from vtc.codegen.sizes import Facts, c_text, rename
from vtc.ir.dims import Size, bounds
from vtc.ir.plan import (
    Arena,
    Branch,
    Copy,
    Input,
    Launch,
    Loop,
    Moving,
    Output,
    Plan,
    Ref,
    Step,
)

GRAIN = 1 << 14
"""Work of a part, in loads, below which threads do not help."""


@final
@dataclass(frozen=True, slots=True)
class HostStep:
    """A launch of ``symbol``; without one, a copy of ``sizes[0]`` bytes from ``args[0]`` to
    ``args[1]``. With ``work`` it runs in parts where that is enough.
    """

    symbol: str
    args: tuple[str, ...]
    sizes: tuple[str, ...]
    failure: int
    work: str = ""
    kind: str = "step"


@final
@dataclass(frozen=True, slots=True)
class HostFlow:
    """A loop of ``count`` turns, or, with a ``condition``, while its byte is not 0 after ``first``
    (``kind`` says which); or a branch: ``first`` where the byte is not 0, else ``second``.
    """

    kind: str
    first: tuple[HostStep | HostFlow, ...]
    second: tuple[HostStep | HostFlow, ...]
    index: str = ""
    count: str = ""
    condition: str = ""


@final
@dataclass(frozen=True, slots=True)
class HostSpec:
    """What ``host.c.jinja`` may mention."""

    symbols: tuple[str, ...]
    dims: tuple[str, ...]
    steps: tuple[HostStep | HostFlow, ...]
    grain: int


def host(plan: Plan) -> str:
    """The source of the host program of ``plan``."""
    writer = _Writer(plan)
    steps = tuple(writer.step(step, k + 1) for k, step in enumerate(plan.steps))
    distinct = tuple(dict.fromkeys(writer.symbols.values()))
    return render("host", spec=HostSpec(distinct, tuple(writer.names.values()), steps, GRAIN))


@final
class _Writer:
    """Spells steps in C."""

    def __init__(self, plan: Plan) -> None:
        self.names = {d.name: f"d{k}" for k, d in enumerate(plan.dims)}
        self.ranges = {d.name: (d.min, d.max) for d in plan.dims}
        self.facts = Facts({self.names[d]: ends for d, ends in self.ranges.items()})
        self.symbols = {k.name: k.symbol for k in plan.kernels}

    def text(self, size: Size) -> str:
        """A size."""
        return c_text(rename(size, self.names), self.facts)

    def place(self, ref: Ref) -> str:
        """An address."""
        match ref:
            case Input(i):
                return f"inputs[{i}]"
            case Output(i):
                return f"outputs[{i}]"
            case Arena(offset):
                return f"(char *)arena + {self.text(offset)}"
            case Moving(base, loop, step):
                return f"(char *)({self.place(base)}) + i{loop} * ({self.text(step)})"

    def step(self, step: Step, failure: int) -> HostStep | HostFlow:
        """A step, and those in it, which fail as it does."""

        def inner(steps: Iterable[Step]) -> tuple[HostStep | HostFlow, ...]:
            return tuple(self.step(s, failure) for s in steps)

        match step:
            case Launch(kernel=kernel, args=args, sizes=sizes, work=work):
                most = bounds(work, self.ranges)[1]
                small = most is not None and most < 2 * GRAIN
                texts = tuple(map(self.place, args)), tuple(map(self.text, sizes))
                parts = "" if small else self.text(work)
                return HostStep(self.symbols[kernel], *texts, failure, parts)
            case Copy(source, target, nbytes):
                places = self.place(source), self.place(target)
                return HostStep("", places, (self.text(nbytes),), failure)
            case Branch(condition, then, otherwise):
                cell = self.place(condition)
                return HostFlow("branch", inner(then), inner(otherwise), condition=cell)
            case Loop(number, steps, count, reverse, test, condition):
                if condition is not None:
                    cell = self.place(condition)
                    return HostFlow("while", inner(test), inner(steps), condition=cell)
                kind = "down" if reverse else "up"
                return HostFlow(kind, inner(steps), (), f"i{number}", self.text(count))
