"""The C host program of a plan: one function that runs the steps in order.

    int64_t vtc_run(void *const *inputs, void *const *outputs, void *arena, const int64_t *dims,
                    vtc_pool *pool);

Every kernel is ``int kernel(void *const *pointers, const int64_t *sizes, int64_t part, int64_t
parts)``: 0, or 1 if an index is out of its range. One with enough work runs in parts on the threads
of ``pool``; without a pool everything runs in the thread of the caller. There is no static state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.render import render
from vtc.codegen.sizes import Facts, c_text, rename
from vtc.ir.dims import Size, bounds
from vtc.ir.plan import Arena, Copy, Input, Launch, Output, Plan, Ref

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


@final
@dataclass(frozen=True, slots=True)
class HostSpec:
    """What ``host.c.jinja`` may mention."""

    symbols: tuple[str, ...]
    dims: tuple[str, ...]
    steps: tuple[HostStep, ...]
    grain: int


def host(plan: Plan) -> str:
    """The source of the host program of ``plan``."""
    names = {d.name: f"d{k}" for k, d in enumerate(plan.dims)}
    ranges = {d.name: (d.min, d.max) for d in plan.dims}
    facts = Facts({names[d]: ends for d, ends in ranges.items()})
    symbols = {k.name: k.symbol for k in plan.kernels}

    def text(size: Size) -> str:
        return c_text(rename(size, names), facts)

    def place(ref: Ref) -> str:
        match ref:
            case Input(i):
                return f"inputs[{i}]"
            case Output(i):
                return f"outputs[{i}]"
            case Arena(offset):
                return f"(char *)arena + {text(offset)}"

    steps = []
    work: Size
    for k, step in enumerate(plan.steps):
        match step:
            case Launch(kernel=kernel, args=args, sizes=sizes, work=work):
                symbol, refs = symbols[kernel], args
            case Copy(source, target, nbytes):
                symbol, refs, sizes, work = "", (source, target), (nbytes,), 0
        most = bounds(work, ranges)[1]
        small = most is not None and most < 2 * GRAIN
        texts = tuple(map(place, refs)), tuple(map(text, sizes))
        steps.append(HostStep(symbol, *texts, k + 1, "" if small else text(work)))
    distinct = tuple(dict.fromkeys(symbols.values()))
    return render("host", spec=HostSpec(distinct, tuple(names.values()), tuple(steps), GRAIN))
