"""The C host program of a plan: one function that runs the steps in order.

    int64_t vtc_run(void *const *inputs, void *const *outputs, void *arena, const int64_t *dims);

Every kernel is ``int kernel(void *const *pointers, const int64_t *sizes)``: 0, or 1 if an index is
out of its range. There is no static state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from vtc.codegen.render import render
from vtc.codegen.sizes import Facts, c_text, rename
from vtc.ir.dims import Size
from vtc.ir.plan import Arena, Copy, Input, Launch, Output, Plan, Ref


@final
@dataclass(frozen=True, slots=True)
class HostStep:
    """A launch of ``symbol``; without one, a copy of ``sizes[0]`` bytes from ``args[0]`` to
    ``args[1]``.
    """

    symbol: str
    args: tuple[str, ...]
    sizes: tuple[str, ...]
    failure: int


@final
@dataclass(frozen=True, slots=True)
class HostSpec:
    """What ``host.c.jinja`` may mention."""

    symbols: tuple[str, ...]
    dims: tuple[str, ...]
    steps: tuple[HostStep, ...]


def host(plan: Plan) -> str:
    """The source of the host program of ``plan``."""
    names = {d.name: f"d{k}" for k, d in enumerate(plan.dims)}
    facts = Facts({names[d.name]: (d.min, d.max) for d in plan.dims})
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
    for k, step in enumerate(plan.steps):
        match step:
            case Launch(kernel=kernel, args=args, sizes=sizes):
                symbol, refs = symbols[kernel], args
            case Copy(source, target, nbytes):
                symbol, refs, sizes = "", (source, target), (nbytes,)
        steps.append(HostStep(symbol, tuple(map(place, refs)), tuple(map(text, sizes)), k + 1))
    spec = HostSpec(tuple(dict.fromkeys(symbols.values())), tuple(names.values()), tuple(steps))
    return render("host", spec=spec)
