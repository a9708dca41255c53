"""A package with loops and branches for the GPU of ``native/stub_cuda.c``.

Its plans are those of ``tests/cuda/flow_plans.py``, and some of its own. ``make(folder)`` writes it
as ``gpu_flow.vtc``; ``calls.npz`` has calls of the plans, what NumPy gives, and how many nodes
Python makes of them where loops of more than ``SHORT`` launches and copies are long.
"""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
from native_cuda_packages import VECTOR, B, entry, plan, run, updated

from vtc.ir import unroll
from vtc.ir.plan import Arena, Binary, Branch, Buffer, Copy, Input, Loop, Moving, Output
from vtc.ir.types import f32, i64
from vtc.runtime.archive import WEIGHTS, write
from vtc.runtime.cuda.nodes import lay_out
from vtc.runtime.cuda.steps import Fork, Move, Run
from vtc.runtime.fit import Fit
from vtc.runtime.signature import FromInput, FromOutput, Manifest, TensorInput, Weight
from vtc.runtime.weights import Safetensors

sys.path.append(str(Path(__file__).parents[1] / "cuda"))
flow_plans = import_module("flow_plans")
SEEDS, SHORT = 12, 2
ROW = B * 4
ROWS = Buffer(f32, (3, B))
LOOKED = "model.py:11 in forward"


def plans():
    """The plans that NumPy runs too, by the names of their entries."""
    found = {
        "grown": flow_plans.grown(),
        "chosen": flow_plans.chosen(),
        "half_chosen": flow_plans.chosen(both=False),
        "summed": flow_plans.summed(),
        "reversed": flow_plans.summed(reverse=True),
        "deep": flow_plans.deep(),
    }
    drawn = (flow_plans.drawn(np.random.default_rng(seed)) for seed in range(SEEDS))
    return found | {f"drawn{seed}": made for seed, made in enumerate(drawn)}


def tabled(*, turns=3, reverse=False):
    """y = x and the rows of a table, by a kernel that takes its pointers from a table."""
    row = Moving(Input(1), 7, ROW)
    loop = Loop(7, (run("add_all", row, Output(0), Output(0)),), count=turns, reverse=reverse)
    return plan([VECTOR, ROWS], [VECTOR], [Copy(Input(0), Output(0), ROW), loop])


def crowded():
    """y = x + 900: what is spelled out would have too many nodes for a graph."""
    start = Moving(Output(0), 7, 0)
    loop = Loop(7, (run("add_one", start, start),), count=900)
    return plan([VECTOR], [VECTOR], [Copy(Input(0), Output(0), ROW), loop])


def worked():
    """y = x by way of scratch memory, five times, where y is nowhere below 0; else y = x + 1."""
    through = Loop(3, (run("through", Input(0), Output(0), grid=(3, 1)),), count=5)
    branch = Branch(Arena(0), (run("add_one", Input(0), Output(0)),), (through,))
    return plan([VECTOR], [VECTOR], [run("below", Input(0), Arena(0), n=0), branch], 64)


def looked(*, ends=True):
    """y[i] = x[index[i]], by every row of index; or on and on."""
    row = Moving(Input(1), 2, B * 8)
    steps = [Loop(2, (run("gather", Input(0), row, Output(0), note=LOOKED),), count=3)]
    if not ends:
        again = run("below", Output(1), Arena(0), n=1)
        steps = [Loop(9, tuple(steps), test=(again,), condition=Arena(0))]
    steps = [Copy(Input(0), Output(0), ROW), Copy(Input(0), Output(1), ROW), *steps]
    return plan([VECTOR, Buffer(i64, (3, B))], [VECTOR] * 2, steps, 64)


def nothing():
    """y = x, with loops and branches that do nothing."""
    none = run("double", Output(0), Output(0), grid=(0,))
    never = Loop(1, (run("double", Output(0), Output(0)),), count=0)
    steps = [
        Copy(Input(0), Output(0), ROW),
        Loop(2, (none, never), count=1 << 40),
        Branch(Arena(0), (none,), ()),
    ]
    return plan([VECTOR], [VECTOR], steps, 64)


OWN = {
    "tabled": tabled(),
    "tabled_back": tabled(turns=2, reverse=True),
    "crowded": crowded(),
    "worked": worked(),
    "looked": looked(),
    "endless": looked(ends=False),
    "nothing": nothing(),
}


def entry_of(members, name, plan):
    """An entry that takes and gives all that the plan does."""
    given = [
        TensorInput(f"x{k}", b.dtype, b.shape, written=b.overwritten is not None)
        for k, b in enumerate(plan.inputs)
    ]
    over = {b.overwritten: FromInput(k) for k, b in enumerate(plan.inputs)}
    results = [over.get(k, FromOutput(k)) for k in range(len(plan.outputs))]
    return entry(members, name, replace(plan, target="sm_90"), given, results)


def calls(name, plan):
    """Inputs of a plan, of which only the first of the first may be below 0."""
    rng = np.random.default_rng(len(name))
    for n, first in ((1, 3.0), (5, -1.0), (300, 0.5), (5, 120.0)):
        shapes = [[n if s == B else s for s in b.shape] for b in plan.inputs]
        arrays = [abs(rng.normal(size=shape)).astype("f4") for shape in shapes]
        if first > 0 or "chosen" in name:
            arrays[0][0] = first
        yield arrays


def nodes(plan, inputs):
    """The kernels, copies and conditional nodes that Python makes of a plan."""
    fit, before = Fit(plan), unroll.SPELLED
    binaries = {k.symbol: Binary(k.symbol, b"", 4) for k in plan.kernels}
    unroll.SPELLED = SHORT
    try:
        made = lay_out(fit, fit.key(inputs), binaries, flow="graph").nodes
    finally:
        unroll.SPELLED = before
    return [sum(isinstance(n, kind) for n in made) for kind in (Run, Move, Fork)]


def known(found):
    """Calls of the plans, and what NumPy gives."""
    names, arrays = [], {}
    with np.errstate(over="ignore"):
        for name, made in found.items():
            for inputs in calls(name, made):
                k, outputs = len(names), flow_plans.outputs(made, inputs)
                names.append(name)
                arrays |= {f"{k}.in{j}": a for j, a in enumerate(inputs)}
                arrays |= {f"{k}.out{j}": a for j, a in enumerate(outputs)}
                arrays[f"{k}.nodes"] = np.array(nodes(made, inputs))
    return {"names": np.array(names), **arrays}


def make(folder):
    """Write the package and the calls."""
    found, members = plans(), {WEIGHTS: Safetensors({"w": np.arange(4, dtype="f4")})}
    entries = {name: entry_of(members, name, made) for name, made in (found | OWN).items()}
    entries["updated"] = updated(members)
    weights = {"w": Weight(f32, (4,), state=True)}
    manifest = Manifest("0", "flow", weights, entries, ("sm_90",), {})
    write(folder / "gpu_flow.vtc", members, manifest)
    np.savez(folder / "calls.npz", **known(found))
